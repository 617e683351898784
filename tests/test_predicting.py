"""A prediction depends on its row alone, and no pair is computed twice."""

import pickle
from dataclasses import dataclass

import joblib
import numpy as np
import pytest
import torch
from peft import LoraConfig
from sklearn.base import clone

from sklearn_irt.known_answers import KnownAnswers
from sklearn_irt.pairs import Pair
from sklearn_irt.states_store import between_fits

# Logits may differ by what fp32 rounds; states that differed by what bfloat16 rounds would be seen in the third digit.
LAST_BIT = 1e-6


def anew(classifier, X):
    """Predict with nothing known from before."""
    between_fits.clear()
    return pickle.loads(pickle.dumps(classifier)).predict_proba(X)


@pytest.mark.parametrize(
    ("family", "precision", "n_classes"),
    [("llama", "fp32", 5), ("llama", "bf16", 2), ("gpt2", "fp32", 2), ("bert", "fp32", 2), ("bert", "bf16", 5)],
)
def test_a_row_has_the_same_probabilities_whatever_is_beside(
    make_classifier, revisions, backbones, family, precision, n_classes
):
    X, y = revisions
    y = y if n_classes == 5 else y == "style"
    parameters = {"backbone": backbones[family], "precision": precision, "candidate_layers": 2, "learning_rate": 0.01}
    classifier = make_classifier(**parameters).fit(X[:40], y[:40])
    together = anew(classifier, X)
    assert len(np.unique(together, axis=0)) > 50
    shuffled = np.random.RandomState(0).permutation(60)
    for rows in (shuffled, range(30, 60), [0], [1], [7], [42], [59], [3, 3, 3]):
        np.testing.assert_allclose(anew(classifier, X.iloc[rows]), together[rows], rtol=LAST_BIT)
    assert np.array_equal(anew(classifier, X), together)


def test_adapters_that_peft_computes_give_the_same_whatever_is_beside(make_classifier, revisions):
    X, y = revisions
    adapter = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear")
    for precision in ("fp32", "bf16"):
        classifier = make_classifier(adapter=adapter, precision=precision, learning_rate=0.01).fit(X, y)
        together = anew(classifier, X)
        for rows in ([7], [42], range(59, -1, -1)):
            np.testing.assert_allclose(anew(classifier, X.iloc[rows]), together[rows], rtol=LAST_BIT)


def test_what_was_answered_is_not_computed_again(make_classifier, revisions, runs):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    first = classifier.predict_proba(X)
    runs.clear()
    assert np.array_equal(classifier.predict_proba(X), first)
    assert np.array_equal(classifier.predict_proba(X.iloc[::-1]), first[::-1])
    assert np.array_equal(classifier.predict_proba(X.iloc[[5, 5]]), first[[5, 5]])
    classifier.predict(X)
    classifier.score(X, y)
    assert runs == []


def test_new_rows_alone_are_computed(make_classifier, revisions, runs):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    expected = anew(classifier, X)
    classifier.predict(X[:59])
    runs.clear()
    np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=LAST_BIT)
    assert runs.count(3) == 1  # a batch


def test_a_result_may_be_changed_by_the_user(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    first = classifier.predict_proba(X)
    expected = first.copy()
    first[:] = 0
    assert np.array_equal(classifier.predict_proba(X), expected)


@pytest.mark.parametrize(
    "parameters",
    [{"context": 0}, {"max_length": 16}, {"pair_format": "before-after"}],
    ids=lambda value: next(iter(value)),
)
def test_nothing_stale_is_answered_where_pairs_are_written_in_another_way(make_classifier, revisions, parameters):
    X, y = revisions
    classifier = make_classifier(learning_rate=0.01).fit(X, y)
    before = classifier.predict_proba(X)
    default = classifier.get_params()
    classifier.set_params(**parameters)
    after = classifier.predict_proba(X)
    assert np.array_equal(after, anew(classifier, X))
    assert not np.array_equal(after, before)
    classifier.set_params(**{name: default[name] for name in parameters})
    assert np.array_equal(classifier.predict_proba(X), before)


def test_nothing_stale_is_answered_after_another_fit(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(learning_rate=0.01).fit(X, y)
    before = classifier.predict_proba(X)
    fresh = make_classifier(learning_rate=0.01, random_state=1).fit(X, y).predict_proba(X)
    again = classifier.set_params(random_state=1).fit(X, y).predict_proba(X)
    assert np.array_equal(again, fresh)
    assert not np.array_equal(again, before)
    with pytest.raises(FloatingPointError):
        classifier.set_params(learning_rate=1e30, max_epochs=20).fit(X, y)
    assert np.array_equal(classifier.predict_proba(X), anew(classifier, X))


def test_a_fit_that_fails_before_training_keeps_the_answers(make_classifier, revisions, runs):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    before = classifier.predict_proba(X)
    with pytest.raises(ValueError, match="one class only"):
        classifier.fit(X, ["same"] * 60)
    runs.clear()
    assert np.array_equal(classifier.predict_proba(X), before)
    assert runs == []


def test_a_single_text_is_not_mistaken_for_a_pair(make_classifier, revisions):
    X, y = revisions
    texts = (X["before"] + X["after"]).tolist()
    classifier = make_classifier(learning_rate=0.01).fit(texts, y)
    first = classifier.predict_proba(texts)
    pairs = [("", text) for text in texts]
    classifier.fit(pairs, y)
    assert not np.array_equal(classifier.predict_proba(pairs), first)


def test_a_pickle_holds_no_answers_and_predicts_the_same(make_classifier, revisions, runs, tmp_path):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    n_bytes = len(pickle.dumps(classifier))
    expected = classifier.predict_proba(X)
    assert len(pickle.dumps(classifier)) == n_bytes
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    for again in (pickle.loads(pickle.dumps(classifier)), joblib.load(tmp_path / "classifier.joblib")):
        runs.clear()
        assert np.array_equal(again.predict_proba(X), expected)
        assert 3 in runs
        runs.clear()
        again.predict(X)
        assert runs == []


def test_a_clone_knows_nothing(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    classifier.predict(X)
    assert not [name for name in vars(clone(classifier)) if name.startswith("_")]


@dataclass
class Joined:
    """A format without a hash, which its user may change."""

    separator: str

    def __call__(self, before, after):
        return before + self.separator + after


def test_answers_follow_a_callable_format_that_changes(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(pair_format=Joined(" => ")).fit(X, y)
    before = classifier.predict_proba(X)
    classifier.pair_format.separator = " completely different "
    assert not np.allclose(before, classifier.predict_proba(X), rtol=0, atol=1e-6)


def test_answers_follow_a_loaded_state(make_classifier, revisions):
    X, y = revisions
    classifier, other = (make_classifier(random_state=seed).fit(X, y) for seed in (0, 1))
    assert not np.allclose(classifier.predict_proba(X), other.predict_proba(X))
    classifier.net_.module_.load_state_dict(other.net_.module_.state_dict())
    np.testing.assert_allclose(classifier.predict_proba(X), other.predict_proba(X), rtol=1e-5)


def test_a_classifier_unpickled_in_inference_mode_predicts(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    with torch.inference_mode():
        restored = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_allclose(restored.predict_proba(X), classifier.predict_proba(X), rtol=1e-5)


class TestKnownAnswers:
    def test_it_knows_what_was_noted_for_this_way_of_writing(self):
        known = KnownAnswers()
        pair, other = Pair("a", "b"), Pair("a", "c")
        known.note({pair: np.array([0.25, 0.75])}, written=("inline-diff", 8))
        assert known.look_up([other], ("inline-diff", 8)) == {}
        assert known.look_up([pair], ("inline-diff", 0)) == {}
        assert known.look_up([pair, other], ("inline-diff", 8))[pair].tolist() == [0.25, 0.75]

    def test_the_oldest_answers_give_way(self, monkeypatch):
        monkeypatch.setattr("sklearn_irt.known_answers._MOST_ANSWERS", 3)
        known = KnownAnswers()
        pairs = [Pair("a", str(number)) for number in range(5)]
        for pair in pairs:
            known.note({pair: np.zeros(2)}, "written")
        assert list(known.look_up(pairs, "written")) == pairs[2:]
        known.note({pair: np.zeros(2) for pair in pairs}, "written")
        assert len(known.look_up(pairs, "written")) == 3

    def test_a_prediction_of_more_rows_than_are_kept_is_whole(self, make_classifier, revisions, monkeypatch):
        X, y = revisions
        classifier = make_classifier().fit(X, y)
        expected = anew(classifier, X)
        monkeypatch.setattr("sklearn_irt.known_answers._MOST_ANSWERS", 7)
        for _ in range(2):
            np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=LAST_BIT)


def test_many_texts_are_predicted_in_parts(make_classifier, revisions, monkeypatch):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    expected = anew(classifier, X)
    monkeypatch.setattr("sklearn_irt.predicting._TEXTS_TOGETHER", 7)
    np.testing.assert_allclose(anew(classifier, X), expected, rtol=LAST_BIT)
