"""Which of the ranked layers are important: those above a cut of the ranking, or as many side by side."""

import math

import numpy as np
from numpy.typing import NDArray


def best_cut(ranked: NDArray[np.float64], lower_quantile: float, upper_quantile: float) -> int:
    """Return how many of the ranked scores lie below the cut that leaves the least variance within the two groups.

    Parameters
    ----------
    ranked : ndarray of shape (n_layers,), dtype float
        Scores, ascending; at least two. Infinite ones are last: then the considered cut nearest to the border between
        finite and infinite is taken, the only one of finite variance.
    lower_quantile, upper_quantile : float
        Only cuts between these quantiles of the scores are considered.

    Returns
    -------
    n_below : int
        From 1 to n_layers - 1.

    References
    ----------
    Liu and Litman, "Efficient Layer-wise LLM Fine-tuning for Revision Intention Prediction", Findings of EMNLP 2025,
    arXiv 2510.00268.
    """
    last = len(ranked) - 1
    lowest = min(int(lower_quantile * len(ranked)) + 1, last)
    highest = min(int(upper_quantile * len(ranked)) + 1, last)
    n_finite = int(np.isfinite(ranked).sum())
    if n_finite < len(ranked):
        return int(np.clip(n_finite, lowest, highest))
    variances = [np.var(ranked[:k]) + np.var(ranked[k:]) for k in range(lowest, highest + 1)]
    return lowest + int(np.argmin(variances))


def best_block(scores: NDArray[np.float64], unseen: NDArray[np.bool_], length: int) -> NDArray[np.intp]:
    """Return the positions of the adjoining layers that count most together.

    Parameters
    ----------
    scores : ndarray of shape (n_layers,), dtype float
        The score of each layer, from the lowest layer to the highest.
    unseen : ndarray of shape (n_layers,), dtype bool
        Where the score was not measured; such a layer counts more than any sum of measured ones.
    length : int
        Layers of the block.

    Returns
    -------
    positions : ndarray of shape (length,), dtype int
        Ascending. Of blocks that count the same, the highest.
    """

    def worth(start: int) -> tuple[int, float, int]:
        block = slice(start, start + length)
        # Sums that are equal on paper must be equal here, or rounding would break the tie.
        return int(unseen[block].sum()), math.fsum(scores[block][~unseen[block]]), start

    first = max(range(len(scores) - length + 1), key=worth)
    return np.arange(first, first + length)
