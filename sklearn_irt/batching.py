"""Batches of prefix states: texts of similar length together, padded to the longest in the batch."""

import zlib
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
    texts : ndarray of shape (n_views, n_rows), dtype int
        The text of each row in each view, as an index into ``states``. A pass shows each row in one view, the next pass
        in the next.
    labels : ndarray of shape (n_rows,), dtype int64
        Index of each row's class.
    weights : ndarray of shape (n_rows,), dtype float32
        Weight of each row's loss.

    Attributes
    ----------
    shown : ndarray of shape (n_rows,), dtype int
        The text that each row shows in this pass.
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
        # By content: the order of the rows has no part in it, and a repeated row shows what one of double weight does.
        self._first_views = np.array([_checksum(states.token_ids[text]) for text in texts[0]]) % len(texts)
        self.show(0)

    def show(self, n_passes: int) -> None:
        """Choose the views of the pass after ``n_passes`` others, about as many rows in each."""
        n_views, n_rows = self.texts.shape
        self.shown = self.texts[(self._first_views + n_passes) % n_views, np.arange(n_rows)]

    def __len__(self) -> int:
        return len(self.shown)

    def __getitem__(self, row: int) -> dict[str, Any]:
        states, token_ids = self.states[self.shown[row]]
        return {"states": states, "input_ids": token_ids, "weight": self.weights[row], "label": self.labels[row]}


def _checksum(token_ids: Sequence[int]) -> int:
    return zlib.crc32(np.asarray(token_ids, dtype=np.int64).tobytes())


def _show(dataset: Dataset, n_passes: int) -> NDArray[np.intp]:
    """Choose the views of a dataset, or of a part of one, and return the number of tokens of each row."""
    if isinstance(dataset, Subset):
        return _show(dataset.dataset, n_passes)[np.asarray(dataset.indices)]
    assert isinstance(dataset, StatesDataset)
    dataset.show(n_passes)
    return np.diff(dataset.states.offsets)[dataset.shown]


class LengthBuckets(Sampler):
    """Batches of rows of similar length, in a new order and composition, and in other views, at each pass.

    Parameters
    ----------
    dataset : Dataset
        A :class:`StatesDataset` or a subset of one.
    batch_size : int
        Rows of a batch; the last one may have fewer.
    random_state : RandomState or None
        Shuffles; None yields the rows sorted by length, in the same views at each pass.
    """

    def __init__(self, dataset: Dataset, batch_size: int, random_state: np.random.RandomState | None) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.random_state = random_state
        self.n_passes = 0

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        lengths = _show(self.dataset, self.n_passes)
        if self.random_state is None:
            return iter(self._split(np.argsort(lengths, kind="stable")))
        self.n_passes += 1
        order = self.random_state.permutation(len(lengths))
        pools = np.split(order, range(self._pool_size, len(order), self._pool_size))
        sorted_pools = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
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
        batch_sampler=LengthBuckets(dataset, batch_size, random_state),
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
