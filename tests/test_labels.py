import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.utils import compute_class_weight

from sklearn_irt.labels import read_labels, weigh_rows

CLASSES = np.array(["a", "b", "c"], dtype=object)
LABELS = np.array([0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    "as_container",
    [
        list,
        tuple,
        np.array,
        lambda y: np.array(y, dtype=object),
        lambda y: pd.Series(y, index=[9, 5, 7, 3]),
        lambda y: pd.Series(y, dtype="string"),
        lambda y: pd.Series(y, dtype="category"),
        lambda y: pl.Series(y),
    ],
    ids=["list", "tuple", "U array", "object array", "Series", "string Series", "category Series", "polars Series"],
)
def test_labels_become_indices_into_the_sorted_classes_from_every_container(as_container):
    classes, labels = read_labels(as_container(["style", "clarity", "style", "fluency"]), 4)
    assert list(classes) == ["clarity", "fluency", "style"]
    assert labels.tolist() == [2, 0, 2, 1]
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([3, -1, 3], [-1, 3]),
        ([1.0, 0.0, 1.0], [0.0, 1.0]),
        ([True, False, True], [False, True]),
        (pd.Series([7, 5, 7], dtype="Int64"), [5, 7]),
    ],
)
def test_labels_may_be_numbers_or_booleans(y, expected):
    classes, labels = read_labels(y, 3)
    assert classes.tolist() == expected
    assert labels.tolist() == [1, 0, 1]


def test_unused_categories_are_no_classes():
    classes, _ = read_labels(pd.Series(pd.Categorical(["a", "b"], categories=["a", "b", "unused"])), 2)
    assert list(classes) == ["a", "b"]


def test_a_column_of_labels_is_read_with_a_warning():
    with pytest.warns(DataConversionWarning):
        _, labels = read_labels(np.array([["b"], ["a"]]), 2)
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    "y",
    [
        pytest.param(["a", "b", None, None], id="list with None"),
        pytest.param(["a", "b", float("nan"), "a"], id="list with nan"),
        pytest.param(["a", "b", pd.NA, "a"], id="list with NA"),
        pytest.param(np.array(["a", "b", None, "a"], dtype=object), id="object array with None"),
        pytest.param(np.array(["a", "b", np.nan, "a"], dtype=object), id="object array with nan"),
        pytest.param(np.array(["a", "b", pd.NA, "a"], dtype=object), id="object array with NA"),
        pytest.param(pd.Series(["a", "b", None, "a"]), id="Series"),
        pytest.param(pd.Series(["a", "b", None, "a"], dtype=object), id="object Series"),
        pytest.param(pd.Series(["a", "b", None, "a"], dtype="string"), id="string Series"),
        pytest.param(pd.Series(["a", "b", None, "a"], dtype="category"), id="category Series"),
        pytest.param(pd.Series([1, 2, None, 1], dtype="Int64"), id="Int64 Series"),
        pytest.param(pd.Series([True, False, None, True], dtype="boolean"), id="boolean Series"),
        pytest.param(pl.Series(["a", "b", None, "a"]), id="polars Series"),
        pytest.param([1.0, 2.0, float("nan"), 1.0], id="list of floats"),
        pytest.param(np.array([1.0, 2.0, np.nan, 1.0]), id="float array"),
    ],
)
def test_a_missing_label_is_refused_naming_its_row(y):
    with pytest.raises(ValueError, match="row 2 has no label"):
        read_labels(y, 4)


def test_the_number_of_missing_labels_is_named():
    with pytest.raises(ValueError, match=r"row 1 has no label \(2 in all\)"):
        read_labels(["a", None, "b", None], 4)


def test_an_infinite_label_is_refused():
    with pytest.raises(ValueError, match="infinity"):
        read_labels([0.0, 1.0, np.inf], 3)


def test_no_labels_at_all_are_refused():
    with pytest.raises(ValueError, match="requires y to be passed"):
        read_labels(None, 3)


@pytest.mark.parametrize("y", [["a", "b"], ["a", "b", "a", "b"]])
def test_another_number_of_labels_than_rows_is_refused_naming_both(y):
    with pytest.raises(ValueError, match=f"X has 3 rows, but y has {len(y)} labels"):
        read_labels(y, 3)


@pytest.mark.parametrize(("y", "name"), [(["only", "only"], "'only'"), ([5, 5], "5")])
def test_a_single_class_is_refused_naming_it(y, name):
    with pytest.raises(ValueError, match=f"y has one class only, .*{name}"):
        read_labels(y, 2)


@pytest.mark.parametrize(
    "y",
    [
        pytest.param(["a", 1, "b"], id="list"),
        pytest.param(np.array(["a", 1, "b"], dtype=object), id="object array"),
        pytest.param(pd.Series(["a", 1.5, "b"]), id="Series"),
    ],
)
def test_strings_mixed_with_numbers_are_refused(y):
    with pytest.raises(TypeError, match="y mixes strings and other labels"):
        read_labels(y, 3)


def test_continuous_labels_are_refused():
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        read_labels([0.5, 1.25, 2.0], 3)


def test_several_classes_a_row_are_refused():
    with pytest.raises(
        ValueError, match=r"y has 2 columns, and row 0, column 0 has 'a' .*one label a row, as a 1d array"
    ):
        read_labels([["a", "b"], ["b", "a"]], 2)


def test_without_weights_every_row_weighs_one():
    assert weigh_rows(CLASSES, LABELS, None, None).tolist() == [1.0] * 6


def test_balanced_weighs_as_scikit_learn_does():
    expected = compute_class_weight("balanced", classes=CLASSES, y=CLASSES[LABELS])[LABELS]
    weights = weigh_rows(CLASSES, LABELS, "balanced", None)
    np.testing.assert_allclose(weights, expected)
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 1, 1, 2])


def test_sqrt_balanced_is_the_square_root_of_balanced():
    weights = weigh_rows(CLASSES, LABELS, "sqrt-balanced", None)
    np.testing.assert_allclose(weights**2, [2 / 3, 2 / 3, 2 / 3, 1, 1, 2])


def test_a_dict_weighs_its_classes_and_leaves_the_others_at_one():
    assert weigh_rows(CLASSES, LABELS, {"a": 2, "c": 0.5}, None).tolist() == [2, 2, 2, 1, 1, 0.5]


def test_a_dict_of_number_classes_weighs_them():
    assert weigh_rows(np.array([3, 7]), np.array([1, 0, 1]), {7: 4}, None).tolist() == [4, 1, 4]


def test_a_dict_that_names_an_unknown_class_is_refused():
    # As in scikit-learn: only where another class is left without a weight.
    with pytest.raises(ValueError, match="names 'typo', which is no class of y"):
        weigh_rows(CLASSES, LABELS, {"typo": 2}, None)


def test_sample_weights_multiply_the_class_weights():
    weights = weigh_rows(CLASSES, LABELS, {"a": 2}, [1, 2, 3, 4, 5, 6])
    assert weights.tolist() == [2, 4, 6, 4, 5, 6]


@pytest.mark.parametrize("class_weight", [None, "balanced", "sqrt-balanced", {"a": 3}], ids=str)
@pytest.mark.parametrize("repeats", [[1, 2, 3, 1, 1, 4], [2, 0, 1, 0, 3, 1]])
def test_integer_sample_weights_weigh_as_repeated_rows_do(class_weight, repeats):
    weighted = weigh_rows(CLASSES, LABELS, class_weight, repeats)
    repeated = weigh_rows(CLASSES, np.repeat(LABELS, repeats), class_weight, None)
    rows = np.repeat(np.arange(6), repeats)
    np.testing.assert_allclose(weighted, np.bincount(rows, weights=repeated, minlength=6))


def test_balanced_leaves_out_a_class_whose_rows_have_no_weight():
    weights = weigh_rows(CLASSES, LABELS, "balanced", [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(weights, [2 / 3, 2 / 3, 2 / 3, 2, 0, 0])


@pytest.mark.parametrize(
    ("sample_weight", "reason"),
    [
        ([1, 1, 1, 1, 1, -1], "[Nn]egative"),
        ([1, 1, 1, 1, 1, np.nan], "NaN"),
        ([1, 1, 1, 1, 1, np.inf], "infinity"),
        ([1, 1], r"expected \(6,\)"),
    ],
)
def test_sample_weights_that_are_no_weights_are_refused(sample_weight, reason):
    with pytest.raises(ValueError, match=reason):
        weigh_rows(CLASSES, LABELS, None, sample_weight)


@pytest.mark.parametrize("class_weight", [{"a": -1}, {"b": np.nan}, {"c": np.inf}], ids=str)
def test_class_weights_that_are_negative_or_not_finite_are_refused(class_weight):
    with pytest.raises(ValueError, match="class_weight"):
        weigh_rows(CLASSES, LABELS, class_weight, None)


@pytest.mark.parametrize("class_weight", [None, "balanced", {"a": 2}], ids=str)
@pytest.mark.parametrize("sample_weight", [[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
def test_sample_weights_that_leave_fewer_than_two_classes_are_refused(class_weight, sample_weight):
    with pytest.raises(ValueError, match="Fewer than two classes"):
        weigh_rows(CLASSES, LABELS, class_weight, sample_weight)


def test_sample_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="at least one non-zero"):
        weigh_rows(CLASSES, LABELS, None, [0] * 6)


def test_class_weights_that_leave_fewer_than_two_classes_are_refused():
    with pytest.raises(ValueError, match="Fewer than two classes"):
        weigh_rows(CLASSES, LABELS, {"a": 1, "b": 0, "c": 0}, None)
