"""Batches of prefix states: texts of similar length together, padded to the longest in the batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from .backbone import Backbone
from .fixed_shapes import batches_of_fixed_shape, fill_up
from .prefix import PrefixStates

_BATCHES_SORTED_TOGETHER = 50
# For each shape of a batch oneDNN compiles its products anew and keeps them, a dozen MB a shape.
_WIDTH_STEP = 8


class StatesDataset(Dataset):
    """Prefix states with labels and weights, as torch sees them.

    Parameters
    ----------
    states : PrefixStates
        Of each text.
    texts : ndarray of shape (n_rows,), dtype int
        The text of each row, as an index into ``windows``.
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels), dtype int64
        Index of each row's class; of many labels, 1 where a row has a label.
    weights : ndarray of the shape of ``labels``, dtype float
        Weight of each row's loss, or of that of each row's label.
    windows : sequence of sequence of int, default=None
        The windows of each text, as indices into ``states``; None says that text and window have the same index.
    """

    def __init__(
        self,
        states: PrefixStates,
        texts: NDArray[np.intp],
        labels: NDArray[np.int64],
        weights: NDArray[np.floating],
        windows: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.states = states
        self.texts = texts
        self.labels = labels
        self.weights = weights
        self.windows = [[text] for text in range(len(states))] if windows is None else windows

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Tokens of each row, in all its windows, of shape (n_rows,)."""
        lengths = self.states.lengths
        return np.array([lengths[text].sum() for text in self.windows])[self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> dict[str, Any]:
        windows = [self.states[window] for window in self.windows[self.texts[row]]]
        return {"windows": windows, "weight": self.weights[row], "label": self.labels[row]}


def _look_into(dataset: Dataset) -> tuple[PrefixStates, NDArray[np.intp]]:
    """Return the states of a dataset, or of a part of one, and the number of tokens of each of its rows."""
    if isinstance(dataset, Subset):
        states, lengths = _look_into(dataset.dataset)
        return states, lengths[np.asarray(dataset.indices)]
    assert isinstance(dataset, StatesDataset)
    return dataset.states, dataset.lengths


class LengthBuckets(Sampler):
    """Batches of rows of similar length, in a new order and composition at each pass.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,), dtype int
        Tokens of each row, in all its windows: those of several windows come together, and need no padding.
    batch_size : int
        Rows of a batch; the last one may have fewer.
    random_state : RandomState or None
        Shuffles; None yields the rows sorted by length.
    """

    def __init__(self, lengths: NDArray[np.intp], batch_size: int, random_state: np.random.RandomState | None) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.random_state = random_state

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        if self.random_state is None:
            return iter(self._split(np.argsort(self.lengths, kind="stable")))
        order = self.random_state.permutation(len(self.lengths))
        pools = np.split(order, range(self._pool_size, len(order), self._pool_size))
        sorted_pools = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        batches = [batch for pool in sorted_pools for batch in self._split(pool)]
        self.random_state.shuffle(batches)
        return iter(batches)

    @property
    def _pool_size(self) -> int:
        return self.batch_size * _BATCHES_SORTED_TOGETHER

    def _split(self, order: NDArray[np.intp]) -> list[list[int]]:
        return [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]


def iterate_batches(
    dataset: Dataset,
    batch_size: int,
    random_state: np.random.RandomState | None = None,
    pad_token_id: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """Return an iterable over the batches of a dataset, as skorch asks for one.

    Parameters
    ----------
    dataset : Dataset
        A :class:`StatesDataset` or a subset of one.
    batch_size : int
        Rows of a batch.
    random_state : RandomState, default=None
        See :class:`LengthBuckets`.
    pad_token_id : int, default=0
        Token on the right of the shorter texts.
    pin_memory : bool, default=False
        Whether a GPU may copy the batches while it computes.

    Returns
    -------
    batches : DataLoader
        Yields ``(inputs, labels)``.
    """
    states, lengths = _look_into(dataset)
    return DataLoader(
        dataset,
        batch_sampler=LengthBuckets(lengths, batch_size, random_state),
        collate_fn=lambda rows: pad_batch(rows, pad_token_id),
        pin_memory=pin_memory and states.device.type == "cpu",
        generator=torch.Generator(),  # so that the loader draws nothing from the global one
    )


def pad_batch(rows: Sequence[dict[str, Any]], pad_token_id: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Pad the windows of some rows on the right to the longest of them, and a little further.

    Parameters
    ----------
    rows : sequence of dict
        Entries of a :class:`StatesDataset`.
    pad_token_id : int
        Token on the right of the shorter texts.

    Returns
    -------
    inputs : dict of Tensor
        Those of :func:`pad_texts`, with the windows of one row after the other for its texts; ``n_windows``
        of shape (n_rows,), and ``weight``, of the shape of the labels.
    labels : Tensor of shape (n_rows,) or (n_rows, n_labels), dtype int64
        Those of the dataset.
    """
    windows = [window for row in rows for window in row["windows"]]
    longest = max(len(token_ids) for _, token_ids in windows)
    inputs = pad_texts(windows, pad_token_id, -(-longest // _WIDTH_STEP) * _WIDTH_STEP)
    inputs["n_windows"] = torch.tensor([len(row["windows"]) for row in rows])
    inputs["weight"] = torch.as_tensor(np.array([row["weight"] for row in rows]), dtype=torch.float32)
    return inputs, torch.as_tensor(np.array([row["label"] for row in rows]), dtype=torch.int64)


def batches_for(backbone: Backbone, states: PrefixStates) -> Iterator[tuple[NDArray[np.intp], dict[str, torch.Tensor]]]:
    """Make batches of fixed shape of all texts, where the backbone computes.

    Parameters
    ----------
    backbone : Backbone
        Pads, and says where it computes.
    states : PrefixStates
        Of the texts.

    Yields
    ------
    texts : ndarray of shape (n_in_batch,), dtype int
        Indices of the texts of a batch, which are its first rows; the other rows only fill it up.
    inputs : dict of Tensor
        See :func:`pad_texts`.
    """
    for texts, n_rows, width in batches_of_fixed_shape(states.lengths, backbone.precision):
        rows = [states[text] for text in fill_up(texts, n_rows)]
        inputs = pad_texts(rows, backbone.tokenizer.pad_token_id, width)
        yield texts, {name: tensor.to(backbone.device) for name, tensor in inputs.items()}


def pad_texts(
    texts: Sequence[tuple[torch.Tensor, torch.Tensor]], pad_token_id: int, width: int
) -> dict[str, torch.Tensor]:
    """Pad texts on the right.

    Parameters
    ----------
    texts : sequence of tuple of Tensor
        Prefix states of each text, of shape (n_tokens_of_text, hidden_size), and its tokens, of shape
        (n_tokens_of_text,), dtype int64.
    pad_token_id : int
        Token on the right of the shorter texts.
    width : int
        Tokens to pad to, at least those of the longest text.

    Returns
    -------
    inputs : dict of Tensor
        ``states`` of shape (n_texts, n_tokens, hidden_size), ``input_ids`` and ``attention_mask`` of shape
        (n_texts, n_tokens).
    """
    states, token_ids = [text[0] for text in texts], [text[1] for text in texts]
    missing = width - max(map(len, token_ids))
    padded_states = pad(pad_sequence(states, batch_first=True), (0, 0, 0, missing))
    padded_ids = pad_sequence(token_ids, batch_first=True, padding_value=pad_token_id)
    padded_ids = pad(padded_ids, (0, missing), value=pad_token_id)
    lengths = torch.tensor([len(ids) for ids in token_ids])
    mask = torch.arange(padded_ids.shape[1]) < lengths[:, None]
    return {"states": padded_states, "input_ids": padded_ids, "attention_mask": mask.long()}
