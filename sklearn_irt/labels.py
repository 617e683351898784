"""Reads class labels, weighs their rows, and refuses those that cannot be learned."""

from collections.abc import Mapping, Sequence
from math import isinf
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.utils import compute_class_weight
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d

from .label_matrix import has_many_labels, read_label_matrix

_COLLECTIONS = (list, tuple, set, frozenset, np.ndarray)
# A few rows may be of a class each, as in a first try; of more, y is no class, as scikit-learn warns from here on.
_MOST_ROWS_OF_OWN_CLASSES = 20


def read_labels(y: Any, n_rows: int, classes: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Encode class labels.

    Parameters
    ----------
    y : array-like of shape (n_rows,), or array-like or sparse matrix of shape (n_rows, n_labels)
        Labels of any sortable kind; or many labels a row, 1 where a row has a label and 0 where it has not.
    n_rows : int
        Rows of X.
    classes : ndarray of shape (n_classes,), default=None
        All labels that there may be, sorted. None takes those of y, which must be two at least; of many labels, they
        are the numbers of its columns.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        These labels.
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels), dtype int64
        Index of each row's class; of many labels, the indicator matrix.

    Raises
    ------
    TypeError
        If y mixes kinds of labels.
    ValueError
        If y is missing, of another length, no classification target, has a missing label, one that is not among
        ``classes``, fewer than two classes, or (of more than twenty rows) no class of which there are two rows.
    """
    if y is None:
        raise ValueError("IRTuningClassifier requires y to be passed, but the target y is None: pass the labels.")
    if has_many_labels(y):
        return _read_many_labels(y, n_rows, classes)
    y = _as_column(y)
    if len(y) != n_rows:
        raise ValueError(
            f"X has {n_rows} rows, but y has {len(y)} labels: "
            "found input variables with inconsistent numbers of samples. Give one label a row."
        )
    missing = [row for row, label in enumerate(y) if label is None or is_pandas_na(label) or is_scalar_nan(label)]
    if missing:
        raise ValueError(
            f"Input y contains NaN: row {missing[0]} has no label ({len(missing)} in all). Drop these rows of X and y."
        )
    infinite = [row for row, label in enumerate(y) if isinstance(label, Real) and isinf(label)]
    if infinite:
        raise ValueError(
            f"Input y contains infinity: row {infinite[0]} has {y[infinite[0]]}. Drop these rows of X and y."
        )
    _check_kind(y)
    found, labels = np.unique(y, return_inverse=True)
    known = found if classes is None else classes
    if len(known) < 2:
        raise ValueError(
            f"y has one class only, {known.tolist()[0]!r}; a classifier needs at least two classes: give rows of "
            "another."
        )
    if classes is None and len(known) == len(y) > _MOST_ROWS_OF_OWN_CLASSES:
        raise ValueError(
            f"y has a class of its own for each of the {len(y)} rows, of which nothing can be learned: give class "
            "labels that repeat, not texts, scores or row numbers."
        )
    return known, _encode(found, known, labels)[labels]


def _read_many_labels(y: Any, n_rows: int, classes: NDArray[Any] | None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    labels = read_label_matrix(y, n_rows)
    columns = np.arange(labels.shape[1])
    if classes is not None and not np.array_equal(classes, columns):
        raise ValueError(
            f"y has {len(columns)} columns, one a label, but the classes of the first call are "
            f"{', '.join(map(repr, classes.tolist()[:20]))}: of many labels a row, they are the numbers of the "
            f"columns, classes=range({len(columns)})."
        )
    return columns, labels


def _encode(found: NDArray[Any], classes: NDArray[Any], labels: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the index of each found label among all classes; ``labels`` says in which rows they are."""
    known = {label: index for index, label in enumerate(classes.tolist())}
    for position, label in enumerate(found.tolist()):
        if label not in known:
            raise ValueError(
                f"Row {np.argmax(labels == position)} of y has the label {label!r}, which is not among the classes of "
                f"the first call ({', '.join(map(repr, known))}): name all labels in classes there."
            )
    return np.array([known[label] for label in found.tolist()], dtype=np.int64)


def _as_column(y: Any) -> NDArray[Any]:
    try:
        return column_or_1d(_list_as_array(y) if isinstance(y, (list, tuple)) else y, warn=True)
    except ValueError as error:
        raise ValueError(
            f"{error}. Give y as one label a row, for example a list or one column. Of lists of labels, "
            "sklearn.preprocessing.MultiLabelBinarizer makes an indicator matrix, in which a row may have many."
        ) from error


def _list_as_array(labels: Sequence[Any]) -> NDArray[Any]:
    # numpy would read a missing label or a number among strings as one more string.
    return np.array(labels, dtype=object if any(isinstance(label, str) for label in labels) else None)


def _check_kind(y: NDArray[Any]) -> None:
    several = next((row for row, label in enumerate(y.tolist()) if isinstance(label, _COLLECTIONS)), None)
    if several is not None:
        raise ValueError(
            f"Row {several} of y has {y[several]!r:.80}, not one label. Where a row may have many, make an indicator "
            "matrix of y: sklearn.preprocessing.MultiLabelBinarizer().fit_transform(y)."
        )
    kinds = {str if isinstance(label, str) else float for label in y.tolist()}
    if len(kinds) > 1:
        number = next(row for row, label in enumerate(y.tolist()) if not isinstance(label, str))
        raise TypeError(
            f"y mixes strings and other labels (row {number} has {y.tolist()[number]!r}); make them all of one kind, "
            "for example y.astype(str)."
        )
    try:
        check_classification_targets(y)
    except ValueError as error:
        raise ValueError(f"{error} Make classes of y, for example strings, or with pandas.cut.") from error


def weigh_labels(
    classes: NDArray[Any], labels: NDArray[np.int64], class_weight: Any, sample_weight: Any, at_least: int = 2
) -> NDArray[np.float64]:
    """Weigh each row, or each entry of an indicator matrix.

    Parameters
    ----------
    classes, class_weight, sample_weight, at_least
        See :func:`weigh_rows`. Of many labels each column is weighed by itself, as two classes, those that have the
        label and those that have not; a dict is refused, for it could mean the columns or these two.
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels), dtype int64
        Index of each row's class; of many labels, 1 where a row has a label.

    Returns
    -------
    weights : ndarray of the shape of ``labels``, dtype float64
        Weight of each row's loss, or of that of each row's label.

    Raises
    ------
    ValueError
        As :func:`weigh_rows`, or if no label varies and ``at_least`` is 2.
    """
    if labels.ndim == 1:
        return weigh_rows(classes, labels, class_weight, sample_weight, at_least)
    if isinstance(class_weight, Mapping):
        raise ValueError(
            f"class_weight={dict(class_weight)!r:.80} cannot be used where y has many labels a row: use 'balanced' or "
            "'sqrt-balanced', which weigh the rows with and without each label, or None."
        )
    either = np.arange(2)
    weights = np.column_stack([weigh_rows(either, label, class_weight, sample_weight, 1) for label in labels.T])
    counted = labels[weights.any(axis=1)]
    if at_least == 2 and (counted == counted[0]).all():
        raise ValueError("All rows have the same labels; a classifier needs rows that differ in one: give such rows.")
    return weights


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
    weights = _read_weights(sample_weight, labels)
    present = np.unique(labels[weights > 0])
    _check_present(present, at_least, "sample_weight", "give rows of another class weight")
    by_class = np.ones(len(classes))
    if class_weight in ("balanced", "sqrt-balanced"):
        balanced = compute_class_weight(
            "balanced", classes=present, y=labels[weights > 0], sample_weight=weights[weights > 0]
        )
        by_class[present] = np.sqrt(balanced) if class_weight == "sqrt-balanced" else balanced
    elif class_weight is not None:
        _check_class_weights(class_weight, classes.tolist())
        by_class = compute_class_weight(class_weight, classes=classes, y=classes[labels])
    weights = weights * by_class[labels]
    _check_present(np.unique(labels[weights > 0]), at_least, "class_weight", "raise those of 0")
    return weights


def _check_present(present: NDArray[np.int64], at_least: int, name: str, remedy: str) -> None:
    if len(present) < at_least:
        few, needed = ("Fewer than two classes have", "two classes") if at_least == 2 else ("No row has", "one row")
        raise ValueError(f"{few} a positive {name}; a classifier needs at least {needed}: {remedy}.")


def _read_weights(sample_weight: Any, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    try:
        with config_context(assume_finite=True):  # what is not finite is named below, with its row
            weights = _check_sample_weight(sample_weight, labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"sample_weight cannot be used: {error}. Give one number a row ({len(labels)}), not all 0, or None."
        ) from error
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        row, weight = wrong[0], weights[wrong[0]]
        kind = "NaN" if np.isnan(weight) else "infinity" if np.isinf(weight) else "negative values"
        raise ValueError(
            f"Input sample_weight contains {kind}: row {row} has {weight} ({len(wrong)} such rows in all). "
            "Give finite weights of 0 or more; 0 leaves a row out."
        )
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError(
            f"sample_weight is too large to be summed: row {weights.argmax()} has {weights.max()}. Divide it by that."
        )
    return weights


def _check_class_weights(class_weight: Mapping[Any, Any], classes: list[Any]) -> None:
    for label, weight in class_weight.items():
        if not (isinstance(weight, Real) and 0 <= float(weight) < np.inf):
            raise ValueError(
                f"class_weight={{{label!r}: {weight!r}}} must give each class a finite weight of 0 or more, a number."
            )
    unknown = [label for label in class_weight if label not in classes]
    left_out = [label for label in classes if label not in class_weight]
    # As in scikit-learn, a class that y happens to lack may be named, as a fold of a cross-validation does, unless
    # another is left without a weight: that is a misspelling.
    if unknown and left_out:
        raise ValueError(
            f"class_weight names {unknown[0]!r}, which is no class of y, and leaves out {left_out[0]!r}: the classes "
            f"are {', '.join(map(repr, classes[:20]))}."
        )
