"""Pools the hidden states of a frozen backbone into a row a text, and keeps the rows for later calls."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .backbone import Backbone
from .batching import batches_for
from .normalization import quicken_norms
from .partial_model import enter, share_weights, start_at, watch_layers
from .prefix import PrefixStates, compute_prefix_states, describe_arithmetic
from .rotary_attention import quicken_rotary_attention
from .stack import drop_upper_layers, get_layers
from .states_store import StatesInMemory, between_fits

POOLINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "last": lambda states: states[-1].clone(),  # a view would keep all the tokens of its batch in memory
    "mean": lambda states: states.mean(dim=0),
    "max": lambda states: states.amax(dim=0),
}
_TEXTS_TOGETHER = 1024
# A tenth of a million rows of one layer of SmolLM2-135M: a grid search transforms the same texts again and again.
rows_between_calls = StatesInMemory(2**28)


class RowKey(NamedTuple):
    """What the row of a text depends on."""

    name: str
    """Backbone, layers and poolings."""
    token_ids: bytes
    """The text. As Python's own integers its tokens would take more memory than the row."""


def read_poolings(pooling: str | Sequence[str]) -> list[str]:
    """Return the names of poolings as a list; refuse with a ValueError what is none."""
    names = [pooling] if isinstance(pooling, str) else list(pooling)
    unknown = [name for name in names if not isinstance(name, str) or name not in POOLINGS]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            f"pooling={pooling!r} must be one of {', '.join(map(repr, POOLINGS))}, or a list of different ones."
        )
    return names


def pool_states(
    backbone: Backbone,
    token_ids: Sequence[list[int]],
    layers: Sequence[int],
    poolings: Sequence[str],
    memory: Memory | None = None,
    *,
    show_progress: bool = False,
) -> NDArray[np.float32]:
    """Compute the pooled states of texts after several layers.

    Those after the lowest of the layers are prefix states as a classifier has them; what is above starts from these.

    Parameters
    ----------
    backbone : Backbone
        Whose layers are run.
    token_ids : sequence of list of int
        The texts, or windows of texts.
    layers : sequence of int
        After how many layers, ascending.
    poolings : sequence of str
        Names in :data:`POOLINGS`.
    memory : Memory, default=None
        See :func:`~sklearn_irt.prefix.compute_prefix_states`.
    show_progress : bool, default=False
        Whether to show a bar.

    Returns
    -------
    rows : ndarray of shape (n_texts, n_layers * n_poolings * hidden_size), dtype float32
        For each layer, each pooling. A row does not depend on what other texts there are.
    """
    name = f"{describe_arithmetic(backbone)}, {'+'.join(poolings)} after {layers}"
    keys = [RowKey(name, array("I", ids).tobytes()) for ids in token_ids]
    text_of = dict(zip(keys, token_ids, strict=True))
    known = {key: row for key in keys if (row := rows_between_calls.get(key)) is not None}
    # In their order by length, batches are as full as they can be.
    new = sorted({key for key in keys if key not in known}, key=lambda key: (len(key.token_ids), key.token_ids))
    with tqdm(total=len(new), desc="Frozen layers", unit="text", disable=not (show_progress and new)) as bar:
        # Not all at once: the states of a hundred thousand texts would fill a laptop's memory.
        for start in range(0, len(new), _TEXTS_TOGETHER):
            texts = new[start : start + _TEXTS_TOGETHER]
            rows = _pool(backbone, [text_of[key] for key in texts], layers, poolings, memory)
            known |= {key: rows_between_calls.put(key, row) for key, row in zip(texts, rows, strict=True)}
            bar.update(len(texts))
    return torch.stack([known[key] for key in keys]).numpy()


def _pool(
    backbone: Backbone,
    token_ids: Sequence[list[int]],
    layers: Sequence[int],
    poolings: Sequence[str],
    memory: Memory | None,
) -> list[torch.Tensor]:
    # What leaves the last layer enters no other: it is computed from what enters that one.
    first = min(layers[0], len(get_layers(backbone.model, backbone.stack)) - 1)
    states = compute_prefix_states(backbone, token_ids, first, between_fits, memory)
    pooled: list[list[torch.Tensor]] = [[] for _ in token_ids]
    if layers[0] == first:
        for text, row in enumerate(states.states):
            pooled[text] += _pool_text(row, poolings)
    for text, leaving in _run_upwards(backbone, states, first, [layer for layer in layers if layer > first]):
        for row in leaving:
            pooled[text] += _pool_text(row, poolings)
    return [torch.cat(rows) for rows in pooled]


def _pool_text(states: torch.Tensor, poolings: Sequence[str]) -> list[torch.Tensor]:
    states = states.float()
    return [POOLINGS[pooling](states).cpu() for pooling in poolings]


def _run_upwards(
    backbone: Backbone, states: PrefixStates, first: int, layers: Sequence[int]
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Yield the number of each text, and its states after each of the layers, which are above ``first``."""
    if not layers:
        return
    model = share_weights(backbone.model)
    stack = get_layers(model, backbone.stack)
    n_layers = len(stack)
    drop_upper_layers(stack, layers[-1])
    quicken_norms(stack)
    quicken_rotary_attention(stack)
    start_at(stack, first, backbone.stand_in)
    for texts, inputs in batches_for(backbone, states):
        entering = inputs.pop("states").to(backbone.model.dtype)
        with (
            torch.inference_mode(),
            enter(entering, inputs["attention_mask"]),
            watch_layers(stack, [layer - 1 for layer in layers]) as passed,
        ):
            last = model.base_model(**inputs)[0]
        # transformers, too, gives what leaves the last layer behind the final norm.
        leaving = [last if layer == n_layers else passed[layer - 1][1] for layer in layers]
        for row, text in enumerate(texts.tolist()):
            yield text, [of_layer[row, : len(states.token_ids[text])] for of_layer in leaving]
