"""Batches whose shape depends on the length of their texts alone, so that a text's numbers do not depend on the others.

A matrix product rounds a row in the same way wherever it stands, as long as the number of rows is the same. In batches
of any shape, a text's states differed by as much as bfloat16 rounds. What is left is the last bit of fp32, where a
backbone's sizes are no multiples of the processor's vectors, or the head has few outputs.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Attention over a width that is no multiple of the processor's vectors would round its sums by what stands beside them.
_WIDTH_STEP = 16
# Below these, products of that precision are slower; above them, a single text is filled up for nothing.
_TOKENS_A_BATCH = {"fp32": 256, "bf16": 512}


def batches_of_fixed_shape(lengths: NDArray[np.intp], precision: str) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Put texts of similar length together.

    Parameters
    ----------
    lengths : ndarray of shape (n_texts,), dtype int
        Tokens of each text.
    precision : {"fp32", "bf16"}
        The arithmetic of the products.

    Yields
    ------
    texts : ndarray of shape (n_in_batch,), dtype int
        Indices of the texts of a batch; each text comes once.
    n_rows : int
        Rows that the batch is to be filled up to.
    width : int
        Tokens that each row is to be padded to.
    """
    widths = -(-lengths // _WIDTH_STEP) * _WIDTH_STEP
    for width in np.unique(widths).tolist():
        texts = np.flatnonzero(widths == width)
        n_rows = max(1, _TOKENS_A_BATCH[precision] // width)
        for start in range(0, len(texts), n_rows):
            yield texts[start : start + n_rows], n_rows, width


def fill_up(texts: NDArray[np.intp], n_rows: int) -> NDArray[np.intp]:
    """Repeat the last text until there are ``n_rows``."""
    return np.pad(texts, (0, n_rows - len(texts)), mode="edge")
