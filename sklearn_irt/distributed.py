"""Lets the processes of one launch train together: each takes its share of every batch, and all step alike."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env, reduce
from torch import nn

from .fingerprint import whole_content
from .precision import choose_device
from .windows import take_texts

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from one of them. They call the same methods in the same order.

    Attributes
    ----------
    rank : int
        This process's index. The first one, 0, decides what may differ, and alone writes.
    n : int
        How many there are.
    device : str
        Where this one computes, as the parameter ``device`` has it.
    """

    rank: int = 0
    n: int = 1
    device: str = "auto"

    @property
    def is_first(self) -> bool:
        """Whether this one decides and writes."""
        return self.rank == 0

    # What they compute together

    def share_of(
        self, inputs: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the share of a batch that this process computes, which may be empty.

        Its weights are scaled so that the shares' losses, each a mean over its own texts, add up to the batch's.
        """
        if self.n == 1:
            return inputs, labels
        share, own = take_texts(inputs, self._own), labels[self._own]
        share["weight"] = share["weight"] * (len(own) / len(labels))
        return share, own

    @property
    def _own(self) -> slice:
        return slice(self.rank, None, self.n)  # every so many: in a batch, texts lie by their length

    def add_up(self, loss: torch.Tensor, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        """Add up the gradients of the shares of a batch, in place, and return the sum of their losses.

        A parameter that has no gradient in any process is left without one.
        """
        if self.n == 1:
            return loss
        trained = [p for p in parameters if p.requires_grad]
        sizes = [p.numel() for p in trained]
        known = torch.tensor([float(p.grad is not None) for p in trained], device=loss.device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        own = torch.cat([loss.reshape(1), known, *(gradient.reshape(-1) for gradient in gradients)])
        loss, known, together = reduce(own, "sum").split([1, len(trained), sum(sizes)])
        for parameter, is_known, gradient in zip(trained, known.tolist(), together.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter) if is_known else None
        return loss[0]

    def infer_together(
        self, infer: Callable[[Any], torch.Tensor], inputs: Mapping[str, torch.Tensor], like: torch.Tensor
    ) -> torch.Tensor:
        """Compute the logits of a batch, each process those of its share.

        Parameters
        ----------
        infer : callable
            Takes inputs, returns logits.
        inputs : mapping of str to Tensor
            Of the batch.
        like : Tensor of shape (n_texts, n_classes)
            Says the shape, the dtype and the device of the logits.

        Returns
        -------
        logits : Tensor of shape (n_texts, n_classes)
            The same in all processes, to the last bit.
        """
        logits = torch.zeros_like(like)
        if len(logits[self._own]):
            logits[self._own] = infer(take_texts(inputs, self._own))
        return reduce(logits, "sum")

    # What they tell each other

    def first_ones(self, answer: _Answer) -> _Answer:
        """Return the answer of the first process."""
        return answer if self.n == 1 else broadcast_object_list([answer])[0]

    def ask_first(self, answer: Callable[[], _Answer]) -> _Answer:
        """Return what a function returns, or raise what it raises, in the first process; the others do not call it."""
        if self.n == 1:
            return answer()
        result: Any = None
        error: Exception | None = None
        if self.is_first:
            try:
                result = answer()
            except Exception as raised:  # the others would wait for ever
                error = raised
        result, error = self.first_ones((result, error))
        if error is not None:
            raise error
        return result

    def each_ones(self, answer: _Answer) -> list[_Answer]:
        """Return the answers of all processes, by their index."""
        return [answer] if self.n == 1 else gather_object([answer])

    def share_generator(self, random_state: np.random.RandomState) -> np.random.RandomState:
        """Put a generator where that of the first process is, and return it."""
        random_state.set_state(self.first_ones(random_state.get_state(legacy=False)))
        return random_state

    def check_alike(self, description: Mapping[str, str]) -> None:
        """See whether all processes are about to do the same, for some would wait for ever otherwise.

        Parameters
        ----------
        description : mapping of str to str
            What they are about to do.

        Raises
        ------
        ValueError
            In all processes, if some differ; it names what.
        """
        descriptions = self.each_ones(dict(description))
        for rank, other in enumerate(descriptions):
            changed = [name for name, value in other.items() if value != descriptions[0].get(name)]
            if changed:
                raise ValueError(
                    f"distributed=True, but process {rank} differs from process 0 in {', '.join(changed)}: each must "
                    "call fit with the same X, y and parameters."
                )

    def check_same(self, learned: Mapping[str, torch.Tensor]) -> None:
        """Wait for all processes, and see whether they have learned the same.

        Parameters
        ----------
        learned : mapping of str to Tensor
            Adapters and head.

        Raises
        ------
        RuntimeError
            In all processes, if some differ.
        """
        if self.n == 1:
            return
        hashes = self.each_ones(hashlib.sha256(whole_content(learned)).hexdigest())
        others = [rank for rank in range(self.n) if hashes[rank] != hashes[0]]
        if others:
            raise RuntimeError(
                f"distributed=True, but after the fit the weights of process {', '.join(map(str, others))} are not "
                "those of process 0. They must compute on hardware of one kind, and a callable or strategy of your own "
                "must return the same in each."
            )


ALONE = Processes()


class FirstOnesAnswers:
    """An object that all processes ask the same, each its own, and of which all get the first one's answers.

    What is measured on a GPU may differ in the last bits, where layers or entries are chosen by it.

    Parameters
    ----------
    asked : object
        Its methods answer.
    processes : Processes
        Those that ask.
    """

    def __init__(self, asked: Any, processes: Processes) -> None:
        self._asked = asked
        self._processes = processes

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._asked, name)
        return lambda *args, **kwargs: self._processes.first_ones(method(*args, **kwargs))


def join_processes(distributed: bool, device: str) -> Processes:
    """Meet the processes of the launch that this one belongs to.

    Parameters
    ----------
    distributed : bool
        Whether to; otherwise, and without such a launch, this process is alone.
    device : str
        "auto" or a torch device.

    Returns
    -------
    processes : Processes
        Those that train together.

    Raises
    ------
    ValueError
        If the device is not the one that accelerate gives this process.
    RuntimeError
        If accelerate was set up before as if there were a single process.
    """
    n_launched = int(os.environ.get("WORLD_SIZE", 1))
    if not distributed or n_launched == 1:
        return Processes(device=device)
    # On a CPU accelerate takes a launched process for a single one unless it is told; gloo knows no MPS.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or choose_device(device).type in ("cpu", "mps")
    state = PartialState(cpu=on_cpu)
    if state.num_processes != n_launched:
        raise RuntimeError(
            f"distributed=True, and {n_launched} processes were launched, but accelerate was set up before in this one "
            f"for {state.num_processes}. Make no PartialState or Accelerator before fit, or one with cpu=True for CPUs."
        )
    return Processes(state.process_index, state.num_processes, _own_device(device, state.device))


def _own_device(device: str, own: torch.device) -> str:
    """Return the device without its index, which is the current one then, so that others can read its pickles."""
    named = own if device == "auto" else torch.device(device)
    if named.type != own.type or named.index not in (None, own.index):
        raise ValueError(
            f"device={device!r}, but with distributed=True accelerate gives this process {str(own)!r}: use 'auto'."
        )
    return own.type


def is_first_process() -> bool:
    """Return whether this process is the first one of its launch, or alone."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not together or torch.distributed.get_rank() == 0
