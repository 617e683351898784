"""Reads what a user calls revision pairs, or plain texts, and refuses everything else with a reason."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils._missing import is_pandas_na, is_scalar_nan
from sklearn.utils.validation import _get_feature_names


class Pair(NamedTuple):
    """A text before and after a revision; ``before`` is None where there is a single text to classify."""

    before: str | None
    after: str


def read_pairs(X: Any) -> list[Pair]:
    """Read revision pairs, or single texts, from any container that scikit-learn users hold them in.

    Parameters
    ----------
    X : DataFrame, Series, array-like or list
        Two columns are revision pairs, the first column before and the second after; one column, or
        one dimension, are single texts. A missing side (None, NaN, ``pd.NA``) is the empty text.

    Returns
    -------
    pairs : list of Pair
        One entry a row.

    Raises
    ------
    TypeError
        If X is sparse, is no container of rows, or a cell is not a string; the message names row and column.
    ValueError
        If X has no rows, more than two columns, two of one name, rows of unequal length, or a row without any text.
    """
    table = _as_table(X)
    _refuse_repeated_names(X)
    columns = column_names(X)
    if table.shape[0] == 0:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={table.shape}) while a minimum of 1 is required: X has no rows. "
            "Look at what selected them."
        )
    if table.shape[1] not in (1, 2):
        raise ValueError(
            f"X has {table.shape[1]} columns"
            + (f" ({', '.join(map(repr, columns))})" if columns else "")
            + "; expected two (the text before, the text after) or one (a text to classify). "
            "Select the columns first, for example X[['before', 'after']]."
        )
    return [_read_row(cells, row, columns) for row, cells in enumerate(table)]


def column_names(X: Any) -> list[str] | None:
    """Return the column names of a frame as scikit-learn sees them, or None."""
    names = _get_feature_names(X) if getattr(X, "ndim", 2) == 2 else None
    return None if names is None else list(names)


def _refuse_repeated_names(X: Any) -> None:
    # A slip such as X[["text", "text"]], and nothing could tell the columns apart at predict.
    names = list(getattr(X, "columns", ()))
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(
            f"X has {len(repeated)} columns named {repeated[0]!r}: select two columns, or rename them, "
            "for example X.columns = ['before', 'after']."
        )


def _as_table(X: Any) -> NDArray[np.object_]:
    if issparse(X):
        raise TypeError(
            "Sparse data was passed for X, but texts are required: pass a DataFrame, an array or a list of texts."
        )
    table = _list_as_table(X) if isinstance(X, (list, tuple)) else np.asarray(X, dtype=object)
    if table.ndim == 0:
        raise TypeError(
            "X must be a DataFrame, an array, or a list of texts or of (before, after) tuples, "
            f"got {type(X).__name__}: {X!r:.80}. Convert it to one of these."
        )
    if table.ndim == 1:
        table = table.reshape(-1, 1)
    if table.ndim != 2:
        raise ValueError(f"X must have one or two dimensions, got {table.ndim}. Reshape your data to (n_samples, 2).")
    return table


def _list_as_table(rows: Sequence[Any]) -> NDArray[np.object_]:
    # np.asarray would take a list of strings of unequal kinds apart or guess a dtype: rows are counted here.
    widths = [len(row) if isinstance(row, (list, tuple, np.ndarray)) else None for row in rows]
    for row, width in enumerate(widths):
        if width != widths[0]:
            raise ValueError(
                f"Row {row} of X has {_describe_width(width)} while row 0 has {_describe_width(widths[0])}: "
                "every row must be a (before, after) pair, or every row a single text."
            )
    n_columns = 1 if not rows or widths[0] is None else widths[0]
    table = np.empty((len(rows), n_columns), dtype=object)
    for row, cells in enumerate(rows):
        table[row] = list(cells) if widths[0] is not None else [cells]
    return table


def _describe_width(width: int | None) -> str:
    return "a single value" if width is None else f"{width} values"


def _read_row(cells: NDArray[np.object_], row: int, columns: list[str] | None) -> Pair:
    texts = [_read_cell(cell, row, column, columns) for column, cell in enumerate(cells)]
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"Row {row} of X has no text"
            + (" on either side" if len(texts) == 2 else "")
            + ": drop the row or fill it."
        )
    return Pair(texts[0], texts[1]) if len(texts) == 2 else Pair(None, texts[0])


def _read_cell(cell: Any, row: int, column: int, columns: list[str] | None) -> str:
    if cell is None or is_pandas_na(cell) or is_scalar_nan(cell):
        return ""
    name = repr(columns[column]) if columns else str(column)
    if isinstance(cell, str):
        try:
            cell.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"Row {row}, column {name} of X cannot be encoded as text ({error}): remove the character."
            ) from error
        return str(cell)
    raise TypeError(
        f"Row {row}, column {name} of X holds {type(cell).__name__} {cell!r:.80}, but must hold a string "
        f"(or None for a missing side). {_how_to_read(cell)}"
    )


def _how_to_read(cell: Any) -> str:
    if isinstance(cell, bytes):
        return "Decode it, for example with .decode('utf-8')."
    if isinstance(cell, (list, tuple, np.ndarray)):
        return "Make a column of each of its entries, for example with pd.DataFrame(column.tolist())."
    return "Convert the column with .astype(str), or select the text columns."
