"""A user hears of labels that no method could learn, once, where the fit was called."""

import warnings

import numpy as np
import pytest

from sklearn_irt.contradictions import describe_contradictions
from sklearn_irt.pairs import Pair

TEXTS = ["a", "b", "a", "c", "a", "b", "d"]
PAIRS = [Pair(None, text) for text in TEXTS]
CLASSES = np.array(["style", "clarity"])
ONES = np.ones(7)


def describe(labels, weights=ONES, pairs=PAIRS, classes=CLASSES):
    return describe_contradictions(pairs, classes, np.array(labels), np.asarray(weights, dtype=float))


def test_repeated_rows_of_one_label_do_not_contradict():
    assert describe([0, 1, 0, 1, 0, 1, 0]) is None


def test_the_rows_an_example_and_the_best_accuracy_are_named():
    message = describe([0, 1, 0, 0, 1, 0, 0])
    assert message.startswith(
        "5 of 7 training rows have the same text as a row of another class, for example row 0 of X ('style') and "
        "row 4 ('clarity'): no classifier can be right about more than 5 of them (71.4%)."
    )


def test_the_best_accuracy_is_that_of_the_majority_of_each_text():
    labels = np.array([0, 1, 0, 0, 1, 0, 0])
    best = sum(max(np.bincount(labels[np.array(TEXTS) == text])) for text in set(TEXTS))
    assert f"more than {best} of them" in describe(labels)


def test_rows_of_weight_0_do_not_contradict():
    labels = [0, 1, 0, 0, 1, 0, 0]
    assert describe(labels, weights=[1, 1, 1, 1, 0, 0, 1]) is None
    message = describe(labels, weights=[1, 1, 0, 1, 0.5, 0, 1])
    assert message.startswith("2 of 5 training rows")
    assert "row 0 of X ('style') and row 4 ('clarity')" in message
    assert "4 of them (80.0%)" in message


def test_pairs_that_differ_on_one_side_only_do_not_contradict():
    pairs = [Pair("a", "b"), Pair("a", "c"), Pair("b", "b"), Pair(None, "b")]
    assert describe([0, 1, 1, 1], weights=np.ones(4), pairs=pairs) is None


def test_labels_that_are_numbers_are_written_as_such():
    assert "row 0 of X (3) and row 1 (7)" in describe(
        [0, 1], weights=np.ones(2), pairs=[Pair("a", "b")] * 2, classes=np.array([3, 7])
    )


def test_a_fit_warns_once_where_the_user_called_it(make_classifier, revisions):
    X, y = revisions[0].to_numpy()[[*range(20), 3, 3]], revisions[1].tolist()[:20]
    other = next(label for label in y if label != y[3])
    with pytest.warns(UserWarning, match="same text as a row of another class") as caught:
        make_classifier().fit(X, [*y, other, y[3]])
    (warning,) = [warning for warning in caught if "another class" in str(warning.message)]
    assert warning.filename == __file__
    assert str(warning.message).startswith(
        f"3 of 22 training rows have the same text as a row of another class, for example row 3 of X ({y[3]!r}) "
        f"and row 20 ({other!r}): no classifier can be right about more than 21 of them (95.5%)."
    )


def test_a_fit_whose_contradicting_rows_are_left_out_does_not_warn(make_classifier, revisions):
    X, y = revisions[0].to_numpy()[[*range(20), 3]], revisions[1].tolist()[:20]
    other = next(label for label in y if label != y[3])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*another class")
        make_classifier().fit(X, [*y, other], sample_weight=[1] * 20 + [0])
        with pytest.raises(UserWarning, match="2 of 21"):
            make_classifier().fit(X, [*y, other])


def test_the_sample_corpus_has_no_contradictions(make_classifier, revisions):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*another class")
        make_classifier().fit(*revisions)
