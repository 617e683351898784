"""Runs a model layer by layer over several batches, so that the weights of a layer are fetched once for all of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import nn

from .partial_model import replaced

Item = TypeVar("Item")

# Enough that fetching the weights costs little beside the products; few enough that their states stay in the cache.
_BATCHES_TOGETHER = 16


def in_groups(batches: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the batches that are to be run together."""
    batches = iter(batches)
    while group := list(islice(batches, _BATCHES_TOGETHER)):
        yield group


def run_layer_by_layer(layers: nn.ModuleList, runs: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    """Run a model on several batches.

    Parameters
    ----------
    layers : ModuleList
        The layers that follow one another in each run; their ``forward`` is replaced for a while.
    runs : sequence of callable
        Each runs the model on one batch, and returns what leaves the last of these layers.

    Returns
    -------
    states : list of Tensor
        What the callables return. A model that does something between its layers runs batch by batch.
    """
    together = try_layer_by_layer(layers, runs) if len(runs) > 1 and len(layers) else None
    return [run() for run in runs] if together is None else together


def try_layer_by_layer(layers: nn.ModuleList, runs: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor] | None:
    """Do the same, but return None where the model does something between its layers."""
    recorded = [_Recorder(layers).record(run) for run in runs]
    if not all(recorder.passed_on for recorder in recorded):
        return None
    states = [recorder.entering for recorder in recorded]
    for index, layer in enumerate(layers):
        calls = [recorder.calls[index] for recorder in recorded]
        states = [
            layer.forward(entering, *args, **kwargs) for entering, (args, kwargs) in zip(states, calls, strict=True)
        ]
    return states


class _Recorder:
    """Notes with which arguments a model calls its layers, without running them.

    Attributes
    ----------
    entering : Tensor
        What enters the lowest layer.
    calls : list of tuple
        Further arguments of each layer, by position and by name.
    passed_on : bool
        Whether each layer gets what the one below it gave, and the run ends with what the last one gave.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self.layers = layers
        self.entering: Any = None
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.passed_on = True

    def record(self, run: Callable[[], torch.Tensor]) -> "_Recorder":
        """Record one run."""
        try:
            with replaced(self.layers, lambda index: partial(self._note, index)):
                left = run()
        except Exception:
            # A model may want more of a layer than states. If the error is another one, the run itself will raise it.
            self.passed_on = False
        else:
            self.passed_on &= left is self.entering and len(self.calls) == len(self.layers)
        return self

    def _note(self, index: int, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.entering is None:
            self.entering = hidden_states
        self.passed_on &= hidden_states is self.entering and index == len(self.calls)
        self.calls.append((args, kwargs))
        return hidden_states
