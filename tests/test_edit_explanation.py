"""Which edits a prediction rests on: each is taken back alone, and the pair predicted again."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_irt import EditFeatures, edit_explanation, explain_edits, make_edit_baseline
from sklearn_irt.edits import find_edits, only_edits, take_back

PAIR = ("He go home yesterday , tired.", "He goes home, very tired.")
# By hand: (deleted, added) and the text after without that edit.
TAKEN_BACK = {
    ("go", "goes"): "He go home, very tired.",
    ("yesterday", ""): "He goes home yesterday , very tired.",
    ("", "very"): "He goes home, tired.",
}
COLUMNS = ["row", "edit", "before", "after", "predicted", "probability", "probability_without", "fall"]


class Noting(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose probabilities depend on the lengths of the texts; it notes what it is asked."""

    def __init__(self):
        self.classes_ = np.array(["long", "short"])
        self.asked = []

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        self.asked.append(X)
        cells = X if isinstance(X, list) else np.asarray(X)
        share = np.array([(1 + len(after)) / (2 + len(before) + len(after)) for before, after in cells])
        return np.column_stack([share, 1 - share])

    def predict(self, X):
        share = Noting().predict_proba(X)
        return self.classes_[share.argmax(axis=1)]


class Unasked(Noting):
    """A fitted classifier that must not be asked anything."""

    def predict_proba(self, X):
        pytest.fail("a probability was computed")

    predict = predict_proba


@pytest.fixture(scope="module")
def classifiers(make_classifier, revisions):
    """Return fitted classifiers of all kinds."""
    baseline = make_edit_baseline()
    kinds = {
        "llm": make_classifier(),
        "baseline": baseline,
        "pipeline": make_pipeline(FunctionTransformer(), make_classifier()),
        "calibrated": CalibratedClassifierCV(baseline, cv=2),
        "search": GridSearchCV(baseline, {"logisticregression__C": [0.1, 1]}, cv=2),
    }
    return {kind: classifier.fit(*revisions) for kind, classifier in kinds.items()}


@pytest.mark.parametrize("kind", ["llm", "baseline", "pipeline", "calibrated", "search"])
def test_falls_are_differences_of_the_probabilities_of_pairs_written_by_hand(classifiers, kind):
    clf = classifiers[kind]
    frame = pd.DataFrame([PAIR], columns=["before", "after"])
    explanation = explain_edits(clf, frame)
    variants = [PAIR, *((PAIR[0], after) for after in TAKEN_BACK.values())]
    probabilities = clf.predict_proba(pd.DataFrame(variants, columns=["before", "after"]))
    predicted = probabilities[0].argmax()
    assert list(zip(explanation["before"], explanation["after"], strict=True)) == list(TAKEN_BACK)
    assert explanation["predicted"].tolist() == [clf.classes_[predicted]] * 3
    np.testing.assert_allclose(explanation["probability"], probabilities[0, predicted], rtol=1e-5)
    np.testing.assert_allclose(explanation["probability_without"], probabilities[1:, predicted], rtol=1e-5)
    np.testing.assert_allclose(
        explanation["fall"], probabilities[0, predicted] - probabilities[1:, predicted], atol=1e-6
    )
    assert explanation["fall"].abs().max() > 1e-4


def test_there_is_a_row_for_each_edit_in_the_order_of_the_text(classifiers, revisions):
    X, _ = revisions
    explanation = explain_edits(classifiers["baseline"], X)
    edits = [(row, *numbered) for row, pair in enumerate(X.to_numpy()) for numbered in enumerate(edits_of(pair))]
    assert [(row, edit, (before, after)) for row, edit, before, after in explanation.to_numpy()[:, :4]] == edits
    predicted = classifiers["baseline"].predict(X)
    assert explanation["predicted"].tolist() == [predicted[row] for row in explanation["row"]]


def edits_of(pair):
    return [(edit.before.strip(), edit.after.strip()) for edit in only_edits(find_edits(*pair))]


def test_columns_have_the_documented_types_with_and_without_edits():
    for pairs in ([PAIR], [("same", "same")]):
        explanation = explain_edits(Noting(), pairs)
        assert explanation.columns.tolist() == COLUMNS
        assert explanation.dtypes[["row", "edit"]].tolist() == [np.int64] * 2
        assert explanation.dtypes[COLUMNS[5:]].tolist() == [np.float64] * 3
        assert all(pd.api.types.is_string_dtype(explanation[column]) for column in ("before", "after", "predicted"))


def test_classes_keep_their_kind(revisions):
    X, y = revisions
    clf = make_edit_baseline().fit(X, (y == "style").to_numpy())
    assert explain_edits(clf, X[:3])["predicted"].dtype == bool


def test_pairs_without_an_edit_have_no_rows_and_are_not_predicted():
    assert len(explain_edits(Unasked(), [("same", "same"), ("It rains.", "It rains.")])) == 0
    clf = Noting()
    explanation = explain_edits(clf, [("same", "same"), PAIR, ("It rains.", "It rains.")])
    assert explanation["row"].tolist() == [1, 1, 1]
    assert [len(asked) for asked in clf.asked] == [4]


def test_a_pair_without_its_only_edit_is_the_text_before_twice():
    clf = Noting()
    explain_edits(clf, [("I seen  it. ", "I saw it.")])
    assert clf.asked == [[("I seen  it. ", "I saw it."), ("I seen  it. ", "I seen  it. ")]]


@pytest.mark.parametrize("nothing", [None, np.nan, "", " \n"])
def test_where_an_edit_wrote_the_whole_text_there_is_no_probability_without_it(nothing):
    explanation = explain_edits(Noting(), [(nothing, "It rains."), PAIR])
    assert explanation.loc[0, ["before", "after", "predicted"]].tolist() == ["", "It rains.", "long"]
    assert explanation.loc[0, "probability"] > 0.5
    assert explanation.loc[0, ["probability_without", "fall"]].isna().all()
    assert explanation["fall"].notna().sum() == 3


def test_a_missing_text_after_is_one_edit_that_deleted_everything():
    explanation = explain_edits(Noting(), pd.DataFrame({"a": ["It rains."], "b": [None]}))
    assert explanation[["before", "after"]].to_numpy().tolist() == [["It rains.", ""]]
    assert explanation["probability_without"].item() == pytest.approx(0.5)


def test_white_space_is_shown_as_it_is_where_it_is_the_edit():
    assert explain_edits(Noting(), [("a b", "a  b")])[["before", "after"]].to_numpy().tolist() == [[" b", "  b"]]


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(pd.DataFrame([PAIR, PAIR], columns=["old", "new"], index=[7, 3]), id="frame"),
        pytest.param(pd.DataFrame([PAIR, PAIR], columns=["old", "new"], dtype="category"), id="categories"),
        pytest.param(pd.DataFrame([PAIR, PAIR]), id="numbered columns"),
        pytest.param(pl.DataFrame([PAIR, PAIR], schema=["old", "new"], orient="row"), id="polars"),
        pytest.param(np.array([PAIR, PAIR]), id="U array"),
        pytest.param(np.array([PAIR, PAIR], dtype=object), id="object array"),
        pytest.param([PAIR, PAIR], id="list"),
        pytest.param((PAIR, PAIR), id="tuple"),
    ],
)
def test_the_classifier_is_asked_in_the_container_that_it_is_given(X):
    clf = Noting()
    explanation = explain_edits(clf, X)
    (asked,) = clf.asked
    assert type(asked) is (list if isinstance(X, tuple) else type(X))
    assert list(getattr(asked, "columns", [])) == list(getattr(X, "columns", []))
    assert explanation["row"].tolist() == [0, 0, 0, 1, 1, 1]
    pd.testing.assert_frame_equal(explanation, explain_edits(Noting(), [PAIR, PAIR]))


def test_column_names_are_those_that_were_fitted(classifiers, revisions):
    X, _ = revisions
    for kind in ("llm", "baseline"):
        with pytest.raises(ValueError, match="feature names"):
            explain_edits(classifiers[kind], X[:2].rename(columns={"before": "old"}))


def test_texts_of_a_pair_stay_together_and_batches_are_bounded(monkeypatch):
    pairs = [(f"He go home {number}.", f"He goes home, {number}.") for number in range(6)]  # each has two edits
    expected = explain_edits(Noting(), pairs)
    monkeypatch.setattr(edit_explanation, "_TEXTS_TOGETHER", 4)
    clf = Noting()
    pd.testing.assert_frame_equal(explain_edits(clf, pairs), expected)
    assert [len(asked) for asked in clf.asked] == [6, 3, 3, 6]
    assert all(asked[0] in pairs for asked in clf.asked)


def test_a_pair_of_hundreds_of_edits_is_asked_about_once():
    before, after = (" ".join(f"w{number} {verb}{number}" for number in range(300)) for verb in ("go", "goes"))
    clf = Noting()
    assert len(explain_edits(clf, [(before, after)])) == 300
    assert [len(asked) for asked in clf.asked] == [301]


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (["one text", "another"], ValueError, "two columns"),
        (pd.DataFrame({"text": ["one text"]}), ValueError, "two columns"),
        ([PAIR, ("a", 7)], TypeError, "Row 1, column 1"),
        ([PAIR, ("", None)], ValueError, "Row 1 of X has no text"),
        ([], ValueError, "no rows"),
    ],
)
def test_what_holds_no_pairs_is_refused_before_anything_is_predicted(X, error, message):
    with pytest.raises(error, match=message):
        explain_edits(Unasked(), X)


def test_a_classifier_must_be_fitted(make_classifier):
    for clf in (make_classifier(), make_edit_baseline(), CalibratedClassifierCV(make_edit_baseline())):
        with pytest.raises(NotFittedError):
            explain_edits(clf, [PAIR])


def test_a_classifier_must_predict_probabilities(revisions):
    clf = make_pipeline(EditFeatures(), RidgeClassifier()).fit(*revisions)
    with pytest.raises(TypeError, match=r"Pipeline has no predict_proba.*CalibratedClassifierCV"):
        explain_edits(clf, [PAIR])
    with pytest.raises(TypeError, match="estimator"):
        explain_edits("minilm-l6", [PAIR])


def test_several_labels_a_row_are_refused(revisions):
    X, y = revisions
    indicators = np.column_stack([y == "style", y == "fluency"]).astype(int)
    clf = make_pipeline(EditFeatures(), OneVsRestClassifier(make_edit_baseline()[-1])).fit(X, indicators)
    with pytest.raises(ValueError, match="several labels a row"):
        explain_edits(clf, [PAIR])


def test_the_classifier_is_left_as_it_was(classifiers, revisions):
    X, _ = revisions
    before = classifiers["llm"].predict_proba(X)
    explain_edits(classifiers["llm"], X[:5])
    assert np.array_equal(classifiers["llm"].predict_proba(X), before)


@pytest.mark.parametrize(
    ("before", "after", "taken_back"),
    [
        pytest.param("Now I seen it", "I saw it", ["Now I saw it", "I seen it"], id="first word was deleted"),
        pytest.param("I seen it", "Now I saw it", ["I saw it", "Now I seen it"], id="first word was added"),
        pytest.param("I seen it now", "I saw it", ["I seen it", "I saw it now"], id="last word was deleted"),
        pytest.param("I seen it", "I saw it now.", ["I seen it now.", "I saw it"], id="last words were added"),
        pytest.param("a b", "a  b", ["a b"], id="white space"),
        pytest.param("(a, b)", "a b!", ["(a b!", "a, b!", "a b)"], id="brackets"),
    ],
)
def test_an_edit_that_is_taken_back_leaves_the_others_and_joins_no_words(before, after, taken_back):
    pieces = find_edits(before, after)
    positions = [position for position, piece in enumerate(pieces) if piece.edited]
    assert [take_back(pieces, position) for position in positions] == taken_back
