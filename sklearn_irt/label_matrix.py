"""Reads an indicator matrix, in which a row has any number of the labels, and says what is wrong with it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import issparse


def has_many_labels(y: Any) -> bool:
    """Return whether y is a matrix; a single column of labels is none."""
    try:
        shape = getattr(y, "shape", None) or np.asarray(y).shape  # np.shape asks more of an array-like
    except ValueError:  # rows of different length
        return False
    return len(shape) == 2 and shape[1] != 1


def column_names(y: Any) -> NDArray[Any] | None:
    """Return the column names of a matrix of labels, if it is a frame and they are strings.

    Parameters
    ----------
    y : object
        What ``fit`` got.

    Returns
    -------
    names : ndarray of shape (n_labels,), dtype object, or None
        As of X, None where there are no such names.

    Raises
    ------
    ValueError
        If two columns have the same name.
    """
    names = list(getattr(y, "columns", ())) if has_many_labels(y) else []
    if not names or not all(isinstance(name, str) for name in names):
        return None
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"y has two columns that are named {twice!r}: give each label a name of its own.")
    return np.array(names, dtype=object)


def read_label_matrix(y: Any, n_rows: int) -> NDArray[np.int64]:
    """Read an indicator matrix.

    Parameters
    ----------
    y : array-like, sparse matrix or DataFrame of shape (n_rows, n_labels)
        1 where a row has a label, 0 where it has not; True and False as well.
    n_rows : int
        Rows of X.

    Returns
    -------
    labels : ndarray of shape (n_rows, n_labels), dtype int64
        The same.

    Raises
    ------
    ValueError
        If it has another number of rows, no column, or an entry that is missing or anything else.
    """
    matrix = np.asarray(y.toarray() if issparse(y) else y).astype(object)
    if len(matrix) != n_rows:
        raise ValueError(
            f"X has {n_rows} rows, but y has {len(matrix)}: found input variables with inconsistent numbers of "
            "samples. Give each row of X its labels."
        )
    if matrix.shape[1] == 0:
        raise ValueError("y has no column: an indicator matrix has one for each label.")
    names = list(getattr(y, "columns", range(matrix.shape[1])))
    _refuse_missing(matrix, names)
    _refuse_others(matrix, names)
    return matrix.astype(np.int64)


def _refuse_missing(matrix: NDArray[Any], names: Sequence[Any]) -> None:
    missing = np.argwhere(pd.isna(matrix))
    if len(missing):
        row, column = missing[0]
        raise ValueError(
            f"Input y contains NaN: row {row}, column {names[column]!r} has neither 0 nor 1 ({len(missing)} such "
            "entries in all). Fill them in, or drop these rows of X and y."
        )


def _refuse_others(matrix: NDArray[Any], names: Sequence[Any]) -> None:
    others = np.argwhere((matrix != 0) & (matrix != 1))
    if len(others):
        row, column = others[0]
        raise ValueError(
            f"y has {matrix.shape[1]} columns, and row {row}, column {names[column]!r} has "
            f"{matrix[row, column]!r:.40} ({len(others)} such entries in all). Give one label a row, as a 1d array. "
            "Where a row may have many, give an indicator matrix of 0 and 1: of lists of labels, "
            "sklearn.preprocessing.MultiLabelBinarizer makes one. Columns of classes (multiclass-multioutput) need a "
            "classifier each: see sklearn.multioutput.MultiOutputClassifier."
        )


def describe_constant_labels(labels: NDArray[np.int64], names: NDArray[Any]) -> str | None:
    """Say which labels no row has, or all rows have, of which nothing can be learned.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,) or (n_rows, n_labels), dtype int64
        Of the rows that count; where they are not many labels a row, there is nothing to say.
    names : ndarray of shape (n_labels,)
        Of the labels.

    Returns
    -------
    message : str or None
        None where there are no such labels.
    """
    if labels.ndim == 1:
        return None
    shares = labels.mean(axis=0)
    constant = np.flatnonzero((shares == 0) | (shares == 1))
    if not len(constant):
        return None
    first = constant[0]
    return (
        f"{len(constant)} of {len(names)} labels do not vary, for example {names.tolist()[first]!r}, which "
        f"{'all rows have' if shares[first] else 'no row has'}: the classifier can only learn that this is always so. "
        "Leave out their columns, or give rows that differ in them."
    )


def as_label_sets(labels: NDArray[np.int64], names: Sequence[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Take each set of labels that rows have for a class of its own.

    Parameters
    ----------
    labels : ndarray of shape (n_rows, n_labels), dtype int64
        1 where a row has a label.
    names : sequence
        Of the labels.

    Returns
    -------
    sets : ndarray of shape (n_sets,), dtype object
        What the sets are called, such as "clarity, style".
    index : ndarray of shape (n_rows,), dtype int64
        The set of each row.
    """
    sets, index = np.unique(labels, axis=0, return_inverse=True)
    called = [", ".join(str(name) for name, has in zip(names, one, strict=True) if has) or "no label" for one in sets]
    return np.array(called, dtype=object), index.reshape(-1)
