"""Batches of prefix states: texts of similar length together, padded to the longest in the batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from .prefix import PrefixStates

_BATCHES_SORTED_TOGETHER = 50


class StatesDataset(Dataset):
    """Prefix states with labels and weights, as torch sees them.

    Parameters
    ----------
    states : PrefixStates
        Of each text.
    texts : ndarray of shape (n_rows,), dtype int
        The text of each row, as an index into ``states``.
    labels : ndarray of shape (n_rows,), dtype int64
        Index of each row's class.
    weights : ndarray of shape (n_rows,), dtype float32
        Weight of each row's loss.
    """

    def __init__(
        self,
        states: PrefixStates,
        texts: NDArray[np.intp],
        labels: NDArray[np.int64],
        weights: NDArray[np.floating],
    ) -> None:
        self.states = states
        self.texts = texts
        self.labels = labels
        self.weights = weights

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> dict[str, Any]:
        states, token_ids = self.states[self.texts[row]]
        return {"states": states, "input_ids": token_ids, "weight": self.weights[row], "label": self.labels[row]}


def _row_lengths(dataset: Dataset) -> NDArray[np.intp]:
    """Return the number of tokens of each row of a dataset, or of a part of one."""
    if isinstance(dataset, Subset):
        return _row_lengths(dataset.dataset)[np.asarray(dataset.indices)]
    assert isinstance(dataset, StatesDataset)
    return np.diff(dataset.states.offsets)[dataset.texts]


class LengthBuckets(Sampler):
    """Batches of rows of similar length, in a new order and composition at each pass.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,), dtype int
        Tokens of each row.
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
    dataset: Dataset, batch_size: int, random_state: np.random.RandomState | None = None, pad_token_id: int = 0
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

    Returns
    -------
    batches : DataLoader
        Yields ``(inputs, labels)``.
    """
    return DataLoader(
        dataset,
        batch_sampler=LengthBuckets(_row_lengths(dataset), batch_size, random_state),
        collate_fn=lambda texts: pad_batch(texts, pad_token_id),
        generator=torch.Generator(),  # so that the loader draws nothing from the global one
    )


def pad_batch(texts: Sequence[dict[str, Any]], pad_token_id: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Pad texts on the right to the longest of them.

    Parameters
    ----------
    texts : sequence of dict
        Entries of a :class:`StatesDataset`.
    pad_token_id : int
        Token on the right of the shorter texts.

    Returns
    -------
    inputs : dict of Tensor
        ``states`` of shape (n_texts, n_tokens, hidden_size), ``input_ids`` and ``attention_mask`` of shape
        (n_texts, n_tokens), ``weight`` of shape (n_texts,).
    labels : Tensor of shape (n_texts,)
        Index of each text's class.
    """
    token_ids = [text["input_ids"] for text in texts]
    inputs = {
        "states": pad_sequence([text["states"] for text in texts], batch_first=True),
        "input_ids": pad_sequence(token_ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(ids) for ids in token_ids], batch_first=True),
        "weight": torch.tensor([text["weight"] for text in texts], dtype=torch.float32),
    }
    return inputs, torch.tensor([text["label"] for text in texts], dtype=torch.int64)
