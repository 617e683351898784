"""Hidden states that leave the frozen prefix: computed once a text, kept in half the bytes of fp32."""

import copy
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .backbone import Backbone, get_layers

# bfloat16 has the range of fp32: hidden states of some backbones are beyond what float16 can hold.
STORED_DTYPE = torch.bfloat16
_TOKENS_A_BATCH = 2048

_injected_states: ContextVar[torch.Tensor] = ContextVar("injected_states")


@dataclass
class PrefixStates:
    """The states that enter the lowest candidate layer, for many texts.

    Attributes
    ----------
    states : Tensor of shape (n_tokens, hidden_size), dtype bfloat16
        Those of all texts, one text after the other.
    token_ids : list of list of int
        The tokens of each text.
    offsets : ndarray of shape (n_texts + 1,), dtype int
        Where each text starts in ``states``.
    """

    states: torch.Tensor
    token_ids: Sequence[list[int]]
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, text: int) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self.offsets[text], self.offsets[text + 1]
        return self.states[start:end], torch.as_tensor(self.token_ids[text])


class _PrefixEnd(Exception):  # noqa: N818 - it is a way out, not an error
    """Carries the states out of a model that need not run any further."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


def _skip(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stand in for the forward pass of a prefix layer, whose work is already in the injected states."""
    return hidden_states


def _read_out(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stand in for the forward pass of the lowest candidate layer when only the prefix is to run."""
    raise _PrefixEnd(hidden_states)


def share_weights(model: PreTrainedModel, own: Sequence[nn.Parameter] = ()) -> PreTrainedModel:
    """Copy a model's modules but not its tensors.

    Parameters
    ----------
    model : PreTrainedModel
        The model to copy.
    own : sequence of Parameter
        Parameters of which the copy gets its own.

    Returns
    -------
    copy : PreTrainedModel
        A model whose modules can be replaced without the first one noticing.
    """
    owned = {id(parameter) for parameter in own}
    shared = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in owned]
    return copy.deepcopy(model, memo={id(tensor): tensor for tensor in shared})


def skip_prefix(model: PreTrainedModel, stack: str, first_layer: int) -> None:
    """Make a model start at ``first_layer``, from states given by :func:`inject_states`.

    Everything around the layers (positions, masks, final norm, pooling) stays the model's own, for any family.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    stack : str
        Dotted name of its list of layers.
    first_layer : int
        The lowest layer that still runs.
    """
    layers = get_layers(model, stack)
    for index in range(first_layer):
        layers[index].forward = _skip
    layers[first_layer].register_forward_pre_hook(_inject, with_kwargs=True)


def _inject(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    states = _injected_states.get()
    if args:
        return (states, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": states}


class inject_states:
    """Context in which a model cut by :func:`skip_prefix` continues from these states; one per thread.

    Parameters
    ----------
    states : Tensor of shape (n_texts, n_tokens, hidden_size)
        The states, padded.
    """

    def __init__(self, states: torch.Tensor) -> None:
        self.states = states

    def __enter__(self) -> None:
        self._token = _injected_states.set(self.states)

    def __exit__(self, *error: Any) -> None:
        _injected_states.reset(self._token)


def compute_prefix_states(
    backbone: Backbone, token_ids: Sequence[list[int]], first_layer: int, *, show_progress: bool = False
) -> PrefixStates:
    """Run the frozen prefix on every text, once.

    Parameters
    ----------
    backbone : Backbone
        Whose layers below ``first_layer`` (and embedding) are run.
    token_ids : sequence of list of int
        The texts.
    first_layer : int
        The lowest candidate layer.
    show_progress : bool, default=False
        Whether to show a bar.

    Returns
    -------
    states : PrefixStates
        What enters ``first_layer``, rounded to bfloat16.
    """
    model = share_weights(backbone.model)
    get_layers(model, backbone.stack)[first_layer].forward = _read_out
    lengths = np.array([len(ids) for ids in token_ids])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    states: torch.Tensor | None = None
    with tqdm(total=len(token_ids), desc="Frozen prefix", unit="text", disable=not show_progress) as bar:
        for batch in _batches_by_length(lengths):
            padded = _run_prefix(model, backbone, [token_ids[text] for text in batch])
            if states is None:
                states = torch.empty(int(offsets[-1]), padded.shape[-1], dtype=STORED_DTYPE)
            for text, rows in zip(batch, padded, strict=True):
                states[offsets[text] : offsets[text + 1]] = rows[: lengths[text]]
            bar.update(len(batch))
    assert states is not None, "there is at least one text"
    return PrefixStates(states, token_ids, offsets)


def _batches_by_length(lengths: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(lengths, kind="stable")
    tokens = np.cumsum(lengths[order])
    return np.split(order, np.flatnonzero(np.diff(tokens // _TOKENS_A_BATCH)) + 1)


def _run_prefix(model: PreTrainedModel, backbone: Backbone, token_ids: Sequence[list[int]]) -> torch.Tensor:
    padded = backbone.tokenizer.pad({"input_ids": list(token_ids)}, return_tensors="pt").to(backbone.device)
    try:
        with torch.inference_mode(), backbone.autocast():
            model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
    except _PrefixEnd as end:
        return end.states.to("cpu", STORED_DTYPE)
    raise RuntimeError(f"{type(model).__name__} did not run its layer {backbone.stack}: it cannot serve as a backbone.")
