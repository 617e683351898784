"""Reads class labels and refuses those that cannot be learned."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import compute_class_weight
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, assert_all_finite, column_or_1d


def read_labels(y: Any, n_rows: int, classes: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Encode class labels.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        Labels of any sortable kind.
    n_rows : int
        Rows of X.
    classes : ndarray of shape (n_classes,), default=None
        All labels that there may be, sorted. None takes those of y, which must be two at least.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        These labels.
    labels : ndarray of shape (n_rows,), dtype int64
        Index of each row's class.

    Raises
    ------
    TypeError
        If y mixes kinds of labels.
    ValueError
        If y is missing, of another length, no classification target, has a missing label, one that is not among
        ``classes``, or fewer than two classes.
    """
    if y is None:
        raise ValueError("IRTuningClassifier requires y to be passed, but the target y is None.")
    if isinstance(y, (list, tuple)):
        y = _list_as_array(y)
    y = column_or_1d(y, warn=True)
    if len(y) != n_rows:
        raise ValueError(
            f"X has {n_rows} rows, but y has {len(y)} labels: "
            "found input variables with inconsistent numbers of samples."
        )
    missing = [row for row, label in enumerate(y) if label is None or is_pandas_na(label) or is_scalar_nan(label)]
    if missing:
        raise ValueError(
            f"Input y contains NaN: row {missing[0]} has no label ({len(missing)} in all). Drop these rows of X and y."
        )
    assert_all_finite(y, input_name="y")
    kinds = {str if isinstance(label, str) else float for label in y.tolist()}
    if len(kinds) > 1:
        raise TypeError("y mixes strings and other labels; make them all of one kind, for example y.astype(str).")
    check_classification_targets(y)
    found, labels = np.unique(y, return_inverse=True)
    if classes is None:
        classes = found
    if len(classes) < 2:
        raise ValueError(f"y has one class only, {classes.tolist()[0]!r}; a classifier needs at least two classes.")
    known = dict(zip(classes.tolist(), range(len(classes)), strict=True))
    unknown = [label for label in found.tolist() if label not in known]
    if unknown:
        row = int(np.argmax(labels == found.tolist().index(unknown[0])))
        raise ValueError(
            f"Row {row} of y has the label {unknown[0]!r}, which is not among the classes of the first call "
            f"({', '.join(map(repr, known))}): name all labels in classes there."
        )
    return classes, np.array([known[label] for label in found.tolist()], dtype=np.int64)[labels]


def _list_as_array(labels: Sequence[Any]) -> NDArray[Any]:
    # numpy would read a missing label or a number among strings as one more string.
    return np.array(labels, dtype=object if any(isinstance(label, str) for label in labels) else None)


def weigh_rows(
    classes: NDArray[Any], labels: NDArray[np.int64], class_weight: Any, sample_weight: Any, at_least: int = 2
) -> NDArray[np.float64]:
    """Multiply each row's own weight by its class's.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The distinct labels.
    labels : ndarray of shape (n_rows,), dtype int64
        Index of each row's class.
    class_weight : {"balanced", "sqrt-balanced"}, dict or None
        "balanced" is n_samples / (n_classes * count), where a row counts by its sample weight, as
        :func:`sklearn.utils.compute_class_weight` has it; "sqrt-balanced" is its square root.
    sample_weight : array-like of shape (n_rows,) or None
        None weighs each row 1.
    at_least : int, default=2
        Classes that must have weight.

    Returns
    -------
    weights : ndarray of shape (n_rows,), dtype float64
        Weight of each row's loss.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or fewer classes have weight than must.
    """
    weights = _check_sample_weight(sample_weight, labels, dtype=np.float64, ensure_non_negative=True)
    present = np.unique(labels[weights > 0])
    _check_present(present, at_least, "sample_weight")
    by_class = np.ones(len(classes))
    if class_weight in ("balanced", "sqrt-balanced"):
        balanced = compute_class_weight(
            "balanced", classes=present, y=labels[weights > 0], sample_weight=weights[weights > 0]
        )
        by_class[present] = np.sqrt(balanced) if class_weight == "sqrt-balanced" else balanced
    elif class_weight is not None:
        by_class = compute_class_weight(class_weight, classes=classes, y=classes[labels])
        if not (np.isfinite(by_class).all() and (by_class >= 0).all()):
            raise ValueError(f"class_weight={class_weight!r} must give each class a finite weight of 0 or more.")
    weights = weights * by_class[labels]
    _check_present(np.unique(labels[weights > 0]), at_least, "class_weight")
    return weights


def _check_present(present: NDArray[np.int64], at_least: int, name: str) -> None:
    if len(present) < at_least:
        few = "Fewer than two classes have" if at_least == 2 else "No row has"
        raise ValueError(
            f"{few} a positive {name}; a classifier needs at least {('one row', 'two classes')[at_least - 1]}."
        )
