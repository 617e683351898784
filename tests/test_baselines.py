import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

from sklearn_irt import EditFeatures, fetch_iterater, load_sample_revisions, make_edit_baseline

PAIRS = [("I seen it.", "I saw it."), ("He seen me.", "He saw me."), ("We go.", "We went.")]
FRAME = pd.DataFrame(PAIRS, columns=["before", "after"])
N_STATISTICS = 12
ITERATER = Path(__file__).parents[2] / "shared" / "data" / "iterater"
needs_iterater = pytest.mark.skipif(not ITERATER.is_dir(), reason=f"the ITERATER corpus is not in {ITERATER}")


@pytest.fixture(scope="module")
def sample():
    return load_sample_revisions(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def fitted():
    return EditFeatures().fit(PAIRS)


def describe(fitted: EditFeatures, before: str, after: str) -> dict[str, float]:
    """Name the features of one pair."""
    return dict(zip(fitted.get_feature_names_out(), fitted.transform([(before, after)]).toarray()[0], strict=True))


@pytest.mark.parametrize("min_df", [1, 2, 5])
def test_there_is_a_name_for_every_feature(sample, min_df):
    X, _ = sample
    features = EditFeatures(min_df=min_df).fit(X)
    names = features.get_feature_names_out()
    assert features.transform(X[:7]).shape == (7, len(names))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("min_df", "words"),
    [
        (2, ["+saw", "-seen", "-seen +saw"]),
        (1, ["+saw", "+went", "-go", "-go +went", "-seen", "-seen +saw"]),
    ],
)
def test_words_that_enough_pairs_deleted_or_added_are_features(min_df, words):
    names = EditFeatures(min_df=min_df).fit(PAIRS).get_feature_names_out()
    assert names[:-N_STATISTICS].tolist() == words


def test_a_word_feature_says_whether_the_pair_deleted_or_added_the_word(fitted):
    features = describe(fitted, "You seen a saw.", "You noticed a saw.")
    assert features["-seen"] > 0
    assert features["+saw"] == features["-seen +saw"] == 0


def test_word_features_ignore_case(fitted):
    assert describe(fitted, "SEEN it.", "Saw it.")["-seen"] > 0


def test_words_not_seen_in_fit_are_left_out(fitted):
    features = describe(fitted, "It is ok.", "It was ok.")
    assert features["+saw"] == features["-seen"] == features["-seen +saw"] == 0
    assert features["n_edits"] > 0


def test_statistics_have_the_values_worked_out_by_hand(fitted):
    # "3" becomes "30", ", at last" is added: 1 of 5 words deleted, 4 of 8 added; 17 letters become 27.
    features = describe(fitted, "She paid 3 euros.", "She paid 30 euros, at last.")
    expected = {
        "n_edits": np.log(3),
        "n_deleted_words": np.log(2),
        "n_added_words": np.log(5),
        "length_change": 10 / 18,
        "share_edited": 5 / 13,
        "letters_kept": 2 / 13,
        "only_added": 0,
        "only_deleted": 0,
        "punctuation_edited": 1,
        "digits_edited": 1,
        "case_edited": 0,
        "n_sentences_change": 0,
    }
    assert {name: features[name] for name in expected} == pytest.approx(expected)
    assert fitted.get_feature_names_out()[-N_STATISTICS:].tolist() == list(expected)


@pytest.mark.parametrize(
    ("before", "after", "true"),
    [
        pytest.param("It rains.", "It rains hard.", {"only_added"}, id="addition"),
        pytest.param("It rains hard.", "It rains.", {"only_deleted"}, id="deletion"),
        pytest.param("It rains hard.", "It rains much.", set(), id="replacement"),
        pytest.param("it rains.", "It rains.", {"case_edited"}, id="case"),
        pytest.param("It rains", "It rains.", {"only_added", "punctuation_edited"}, id="punctuation"),
        pytest.param("In 1999 it rained.", "In 1998 it rained.", {"digits_edited"}, id="digits"),
        pytest.param("", "It rains", {"only_added"}, id="all added"),
        pytest.param("It rains", "", {"only_deleted"}, id="all deleted"),
        pytest.param("It rains.", "It rains.", set(), id="unchanged"),
        pytest.param("It rains.", "It  rains.", set(), id="white space"),
        pytest.param("It rains. ", "It rains.", set(), id="trailing white space"),
    ],
)
def test_a_kind_of_edit_is_one_where_the_pair_has_it_and_zero_elsewhere(fitted, before, after, true):
    kinds = ["only_added", "only_deleted", "punctuation_edited", "digits_edited", "case_edited"]
    features = describe(fitted, before, after)
    assert {kind for kind in kinds if features[kind] == 1} == true
    assert {kind for kind in kinds if features[kind] == 0} == set(kinds) - true


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("It rains. We go.", "It rains and we go.", -1),
        ("It rains and we go.", "It rains. We go.", 1),
        ("It rains. We go.", "It rains. You go.", 0),
    ],
)
def test_sentences_joined_or_split_are_counted(fitted, before, after, change):
    assert describe(fitted, before, after)["n_sentences_change"] == change


def test_an_unchanged_pair_has_no_edits(fitted):
    features = describe(fitted, "It rains.", "It rains.")
    zero = ["n_edits", "n_deleted_words", "n_added_words", "length_change", "share_edited", "-seen", "+saw"]
    assert {name: features[name] for name in zero} == dict.fromkeys(zero, 0)


def test_white_space_beside_an_edit_counts_as_no_edit(fitted):
    assert describe(fitted, "I seen it. ", "I saw it.")["n_edits"] == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    "X",
    [FRAME, pl.DataFrame(FRAME.to_dict("list")), np.array(PAIRS), np.array(PAIRS, dtype=object)],
    ids=["frame", "polars", "U array", "object array"],
)
def test_every_container_gives_the_same_features(X):
    expected = EditFeatures(min_df=1).fit_transform(PAIRS).toarray()
    np.testing.assert_array_equal(EditFeatures(min_df=1).fit_transform(X).toarray(), expected)


def test_a_missing_side_is_read_as_the_empty_text(fitted):
    features = fitted.transform(pd.DataFrame({0: ["It", None], 1: [None, "It"]})).toarray()
    np.testing.assert_array_equal(features, fitted.transform([("It", ""), ("", "It")]).toarray())


def test_features_of_a_pair_do_not_depend_on_the_pairs_beside_it(sample):
    X, _ = sample
    features = EditFeatures().fit(X)
    np.testing.assert_array_equal(features.transform(X[:9]).toarray()[3:5], features.transform(X[3:5]).toarray())


@pytest.mark.parametrize("library", [pd, pl])
def test_the_names_of_a_frame_are_remembered(library):
    features = EditFeatures(min_df=1).fit(library.DataFrame({"old": ["a b"], "new": ["a c"]}))
    assert features.feature_names_in_.tolist() == ["old", "new"]
    assert features.n_features_in_ == 2


@pytest.mark.parametrize("library", [pd, pl])
def test_a_frame_with_swapped_columns_is_refused_at_transform(library):
    frame = library.DataFrame({"before": ["a b"], "after": ["a c"]})
    features = EditFeatures(min_df=1).fit(frame)
    with pytest.raises(ValueError, match="same order"):
        features.transform(frame[["after", "before"]])


def test_a_frame_with_other_names_is_refused_at_transform():
    features = EditFeatures().fit(FRAME)
    with pytest.raises(ValueError, match="unseen at fit time"):
        features.transform(FRAME.set_axis(["old", "new"], axis=1))


def test_a_list_after_a_frame_is_read_with_a_warning():
    features = EditFeatures().fit(FRAME)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        from_list = features.transform(PAIRS)
    np.testing.assert_array_equal(from_list.toarray(), features.transform(FRAME).toarray())


def test_fitting_anew_on_a_list_forgets_the_names_of_a_frame():
    features = EditFeatures().fit(FRAME).fit(PAIRS)
    assert not hasattr(features, "feature_names_in_")
    assert features.n_features_in_ == 2


@pytest.mark.parametrize("method", ["fit", "transform"])
def test_single_texts_are_refused(method):
    with pytest.raises(ValueError, match="EditFeatures needs two columns"):
        getattr(EditFeatures().fit(PAIRS), method)(["one", "two"])


def test_features_cannot_be_computed_before_fit():
    with pytest.raises(NotFittedError):
        EditFeatures().transform(PAIRS)
    with pytest.raises(NotFittedError):
        EditFeatures().get_feature_names_out()


def test_a_clone_has_the_parameters_but_is_not_fitted():
    copy = clone(EditFeatures(min_df=1).fit(PAIRS))
    assert copy.get_params() == {"min_df": 1}
    assert not hasattr(copy, "vectorizer_")


def test_a_pickled_transformer_computes_the_same_features(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.transform(PAIRS).toarray(), fitted.transform(PAIRS).toarray())


@pytest.mark.parametrize("min_df", [0, -1, 0.5, "2", None])
def test_min_df_that_is_no_positive_number_is_refused_in_the_users_words(min_df):
    with pytest.raises(ValueError, match="'min_df' parameter of EditFeatures"):
        EditFeatures(min_df=min_df).fit(PAIRS)


def test_min_df_may_be_a_numpy_integer_as_from_arange():
    assert EditFeatures(min_df=np.int64(2)).fit(PAIRS).get_feature_names_out()[0] == "+saw"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_check_estimator_passes():
    assert {result["status"] for result in estimator_checks.check_estimator(EditFeatures())} == {"passed"}


@pytest.mark.parametrize(
    "check",
    [
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_checks_of_scikit_learn_that_need_no_numbers_pass(check):
    # check_estimator leaves these out for an estimator that reads texts.
    getattr(estimator_checks, check)("EditFeatures", EditFeatures())


@pytest.mark.parametrize(
    "as_container", [lambda X: X, lambda X: X.to_numpy(), lambda X: list(X.itertuples(index=False))]
)
def test_the_baseline_beats_chance_in_cross_validation_on_every_container(sample, as_container):
    X, y = sample
    scores = cross_val_score(make_edit_baseline(random_state=0), as_container(X), y, cv=3, scoring="f1_macro")
    assert scores.shape == (3,)
    assert scores.min() > 0.4


def test_the_baseline_predicts_the_labels_that_it_was_given(sample):
    X, y = sample
    baseline = make_edit_baseline().fit(X, y)
    assert baseline.classes_.tolist() == sorted(set(y))
    assert set(baseline.predict(X)) <= set(y)
    np.testing.assert_allclose(baseline.predict_proba(X[:5]).sum(axis=1), 1)


def test_the_parameters_of_the_baseline_can_be_searched(sample):
    X, y = sample
    search = GridSearchCV(make_edit_baseline(), {"editfeatures__min_df": [1, 400]}, cv=2, error_score=0.0)
    with pytest.warns(Warning, match="fits failed"):
        search.fit(X, y)
    assert search.best_params_ == {"editfeatures__min_df": 1}


@needs_iterater
def test_the_baseline_reaches_the_published_score_on_iterater():
    X, y = fetch_iterater("train", data_home=ITERATER, return_X_y=True)
    X_dev, y_dev = fetch_iterater("dev", data_home=ITERATER, return_X_y=True)
    predicted = make_edit_baseline(random_state=0).fit(X, y).predict(X_dev)
    assert f1_score(y_dev, predicted, average="macro") >= 0.50
