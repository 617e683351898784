import importlib.util

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array, csr_matrix

from sklearn_irt.pairs import Pair, column_names, read_pairs

ROWS = [("He go.", "He goes."), ("Old.", "New.")]
PAIRS = [Pair("He go.", "He goes."), Pair("Old.", "New.")]
FRAME = pd.DataFrame(ROWS, columns=["before", "after"])
TEXTS = ["one", "two words"]
SINGLES = [Pair(None, "one"), Pair(None, "two words")]

STRING_TYPES = [
    "object",
    "str",
    "string",
    "string[python]",
    "category",
    pytest.param(
        "string[pyarrow]",
        marks=pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed"),
    ),
]


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(FRAME, id="frame"),
        pytest.param(FRAME.set_axis([7, 3], axis=0), id="frame with another index"),
        pytest.param(FRAME.set_axis([0, 1], axis=1), id="frame with numbered columns"),
        pytest.param(pl.DataFrame(ROWS, schema=["before", "after"], orient="row"), id="polars frame"),
        pytest.param(np.array(ROWS, dtype=object), id="object array"),
        pytest.param(np.array(ROWS), id="U array"),
        pytest.param(np.asfortranarray(np.array(ROWS, dtype=object)), id="Fortran array"),
        pytest.param(np.array(ROWS, dtype=np.dtypes.StringDType()), id="StringDType array"),
        pytest.param(ROWS, id="list of tuples"),
        pytest.param([list(row) for row in ROWS], id="list of lists"),
        pytest.param([np.array(row) for row in ROWS], id="list of arrays"),
        pytest.param(tuple(ROWS), id="tuple of tuples"),
    ],
)
def test_two_columns_are_read_as_before_and_after_from_every_container(X):
    assert read_pairs(X) == PAIRS


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(TEXTS, id="list"),
        pytest.param(tuple(TEXTS), id="tuple"),
        pytest.param(np.array(TEXTS), id="U array"),
        pytest.param(np.array(TEXTS, dtype=object), id="object array"),
        pytest.param(np.array(TEXTS, dtype=object).reshape(-1, 1), id="column"),
        pytest.param(pd.Series(TEXTS, index=[5, 9]), id="Series"),
        pytest.param(pd.DataFrame({"text": TEXTS}), id="frame of one column"),
        pytest.param(pl.Series("text", TEXTS), id="polars Series"),
        pytest.param(pl.DataFrame({"text": TEXTS}), id="polars frame of one column"),
        pytest.param([[text] for text in TEXTS], id="list of one-cell lists"),
    ],
)
def test_one_column_is_read_as_single_texts_from_every_container(X):
    assert read_pairs(X) == SINGLES


@pytest.mark.parametrize("library", [pd, pl])
def test_the_first_column_of_a_frame_is_before_whatever_its_name(library):
    assert read_pairs(library.DataFrame({"b": ["x"], "a": ["y"]})) == [Pair("x", "y")]


@pytest.mark.parametrize("dtype", STRING_TYPES)
def test_every_pandas_string_type_is_read_with_its_missing_cells_as_empty_text(dtype):
    frame = pd.DataFrame({"before": ["x", None, "z"], "after": [None, "y", "z"]}).astype(dtype)
    assert read_pairs(frame) == [Pair("x", ""), Pair("", "y"), Pair("z", "z")]


@pytest.mark.parametrize("dtype", STRING_TYPES)
def test_a_series_of_every_pandas_string_type_is_read_as_single_texts(dtype):
    assert read_pairs(pd.Series(TEXTS, dtype=dtype)) == SINGLES


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["x", "y", "z"])])
def test_every_polars_string_type_is_read_with_its_nulls_as_empty_text(dtype):
    frame = pl.DataFrame({"before": ["x", None], "after": [None, "z"]}).cast(dtype)
    assert read_pairs(frame) == [Pair("x", ""), Pair("", "z")]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA], ids=["None", "nan", "f32", "NA"])
@pytest.mark.parametrize("as_container", [list, lambda rows: np.array(rows, dtype=object), pd.DataFrame])
def test_a_missing_side_is_the_empty_text(missing, as_container):
    assert read_pairs(as_container([("x", missing), (missing, "y")])) == [Pair("x", ""), Pair("", "y")]


@pytest.mark.parametrize("X", [[("x", "")], np.array([("x", "")])])
def test_an_empty_side_stays_empty(X):
    assert read_pairs(X) == [Pair("x", "")]


def test_white_space_in_a_text_is_kept():
    assert read_pairs([("  x\n", "\ty  ")]) == [Pair("  x\n", "\ty  ")]


def test_texts_are_plain_strings_that_hold_no_numpy_type():
    ((before, after),) = read_pairs(np.array([("x", "y")]))
    assert (type(before), type(after)) == (str, str)


def test_reading_leaves_the_users_frame_as_it_was():
    frame = pd.DataFrame({"before": ["x", None], "after": ["y", "z"]})
    kept = frame.copy()
    read_pairs(frame)
    pd.testing.assert_frame_equal(frame, kept)


@pytest.mark.parametrize("empty", [None, float("nan"), pd.NA, "", " \n\t"], ids=["None", "nan", "NA", "empty", "white"])
def test_a_pair_without_text_on_either_side_is_refused_naming_its_row(empty):
    with pytest.raises(ValueError, match="Row 1 of X has no text on either side"):
        read_pairs([("x", "y"), (empty, empty)])


@pytest.mark.parametrize("X", [["x", None], pd.Series(["x", None]), pl.Series(["x", None]), ["x", " "]])
def test_a_single_text_that_is_missing_is_refused_naming_its_row(X):
    with pytest.raises(ValueError, match="Row 1 of X has no text: "):
        read_pairs(X)


@pytest.mark.parametrize("cell", [3, 2.5, True, b"bytes", ["x"], np.inf], ids=repr)
def test_a_cell_that_is_no_string_is_refused_naming_row_and_column(cell):
    with pytest.raises(TypeError, match=rf"Row 1, column 1 of X holds {type(cell).__name__}"):
        read_pairs([("x", "y"), ("z", cell)])


@pytest.mark.parametrize("library", [pd, pl])
def test_a_frame_cell_that_is_no_string_is_refused_naming_row_and_column_name(library):
    with pytest.raises(TypeError, match=r"Row 0, column 'after' of X holds (int|float)"):
        read_pairs(library.DataFrame({"before": ["x", "z"], "after": [3, 4]}))


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(pd.DataFrame(index=[0, 1]), id="frame"),
        pytest.param(np.empty((2, 0), dtype=object), id="array"),
        pytest.param([(), ()], id="list"),
    ],
)
def test_rows_without_columns_are_refused(X):
    with pytest.raises(ValueError, match=r"X has 0 columns.*; expected two"):
        read_pairs(X)


@pytest.mark.parametrize("X", [np.full((2, 3), "x", dtype=object), [("x", "y", "z")]])
def test_three_columns_are_refused(X):
    with pytest.raises(ValueError, match="X has 3 columns; expected two"):
        read_pairs(X)


def test_three_frame_columns_are_refused_naming_them():
    with pytest.raises(ValueError, match=r"X has 3 columns \('id', 'before', 'after'\)"):
        read_pairs(pd.DataFrame([("1", "x", "y")], columns=["id", "before", "after"]))


@pytest.mark.parametrize(
    "X",
    [
        [],
        (),
        np.empty((0, 2), dtype=object),
        FRAME[:0],
        pd.Series([], dtype=str),
        pl.DataFrame(FRAME.to_dict("list"))[:0],
    ],
)
def test_zero_rows_are_refused(X):
    with pytest.raises(ValueError, match="X has no rows"):
        read_pairs(X)


@pytest.mark.parametrize(
    ("X", "reason"),
    [
        ([("x", "y"), ("z",)], "Row 1 of X has 1 values while row 0 has 2 values"),
        ([("x", "y"), ("z", "w"), "single"], "Row 2 of X has a single value while row 0 has 2 values"),
        (["single", ("x", "y")], "Row 1 of X has 2 values while row 0 has a single value"),
    ],
)
def test_rows_of_unequal_length_are_refused_naming_the_first_that_differs(X, reason):
    with pytest.raises(ValueError, match=reason):
        read_pairs(X)


@pytest.mark.parametrize("make", [csr_matrix, csr_array])
def test_sparse_data_is_refused(make):
    with pytest.raises(TypeError, match="Sparse data was passed"):
        read_pairs(make(np.eye(2)))


@pytest.mark.parametrize(
    "X",
    [
        pytest.param("a plain text", id="str"),
        pytest.param(np.str_("a plain text"), id="numpy str"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(3, id="int"),
        pytest.param(2.5, id="float"),
        pytest.param(np.float64(2.5), id="numpy float"),
        pytest.param(None, id="None"),
        pytest.param((row for row in ROWS), id="generator"),
        pytest.param({"before": ["x"], "after": ["y"]}, id="dict"),
        pytest.param({"x", "y"}, id="set"),
        pytest.param(pl.LazyFrame({"before": ["x"], "after": ["y"]}), id="polars lazy frame"),
    ],
)
def test_what_is_no_container_of_rows_is_refused_naming_its_type(X):
    with pytest.raises(TypeError, match=rf"X must be a DataFrame.*got {type(X).__name__}"):
        read_pairs(X)


def test_three_dimensions_are_refused():
    with pytest.raises(ValueError, match="got 3"):
        read_pairs(np.full((2, 2, 2), "x", dtype=object))


@pytest.mark.parametrize(
    ("X", "names"),
    [
        (FRAME, ["before", "after"]),
        (pl.DataFrame({"b": ["x"], "a": ["y"]}), ["b", "a"]),
        (FRAME.set_axis([0, 1], axis=1), None),
        (pd.Series(TEXTS, name="text"), None),
        (ROWS, None),
        (np.array(ROWS), None),
    ],
)
def test_column_names_are_those_of_a_frame_whose_names_are_strings(X, names):
    assert column_names(X) == names
