"""Strings for meta-estimators hold the same texts, whatever they come from."""

import numpy as np
import pandas as pd
import pytest

from sklearn_irt import to_string_array
from sklearn_irt.pairs import read_pairs

PAIRS = [("I seen it.", "I saw it."), ("", "Ünïcode, and \u2028 more")]


@pytest.mark.parametrize("container", [pd.DataFrame, np.array, list, lambda pairs: np.array(pairs, dtype=object)])
def test_pairs_of_any_container_become_numpy_strings_and_are_read_as_the_same(container):
    strings = to_string_array(container(PAIRS))
    assert isinstance(strings.dtype, np.dtypes.StringDType)
    assert strings.tolist() == [list(pair) for pair in PAIRS]
    assert read_pairs(strings) == read_pairs(container(PAIRS))


def test_single_texts_become_one_column():
    assert to_string_array(pd.Series(["one", "two"])).tolist() == [["one"], ["two"]]
    assert read_pairs(to_string_array(["one", "two"])) == read_pairs(["one", "two"])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_side_becomes_the_empty_text(missing):
    assert to_string_array([("a", missing)]).tolist() == [["a", ""]]


def test_what_is_no_text_is_refused_with_its_place():
    with pytest.raises(TypeError, match="Row 1, column 'after'"):
        to_string_array(pd.DataFrame({"before": ["a", "b"], "after": ["c", 1]}))
