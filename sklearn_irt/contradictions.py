"""Finds rows of equal text whose labels contradict each other, which no method can tell apart."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .label_matrix import as_label_sets
from .pairs import Pair


def describe_contradictions(
    pairs: Sequence[Pair], classes: NDArray[Any], labels: NDArray[np.int64], weights: NDArray[np.float64]
) -> str | None:
    """Say how many rows have the text of a row with other labels, and what accuracy they leave within reach.

    Parameters
    ----------
    pairs : sequence of Pair
        Of each row.
    classes : ndarray of shape (n_classes,)
        The class labels, or what many labels are called.
    labels : ndarray of shape (n_rows,) or (n_rows, n_classes), dtype int64
        Index of each row's class; of many labels, 1 where a row has a label.
    weights : ndarray of shape (n_rows,), dtype float64
        Weight of each row; those of weight 0 do not count.

    Returns
    -------
    message : str or None
        None where no labels contradict each other.
    """
    otherwise = "of another class"
    if labels.ndim == 2:
        otherwise = "with other labels"
        classes, labels = as_label_sets(labels, classes.tolist())
    rows = np.flatnonzero(weights).tolist()
    with_text: dict[Pair, list[int]] = defaultdict(list)
    for row in rows:
        with_text[pairs[row]].append(row)
    contradictory = [same for same in with_text.values() if len(set(labels[same])) > 1]
    if not contradictory:
        return None
    n_rows = sum(map(len, contradictory))
    n_wrong = n_rows - sum(max(Counter(labels[same].tolist()).values()) for same in contradictory)
    first = contradictory[0][0]
    other = next(row for row in contradictory[0] if labels[row] != labels[first])
    names = classes.tolist()
    return (
        f"{n_rows} of {len(rows)} training rows have the same text as a row {otherwise}, for example row {first} "
        f"of X ({names[labels[first]]!r}) and row {other} ({names[labels[other]]!r}): no classifier can be right about "
        f"more than {len(rows) - n_wrong} of them ({1 - n_wrong / len(rows):.1%}). Correct their labels, or leave rows "
        "out with a sample_weight of 0."
    )
