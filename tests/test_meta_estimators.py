"""Boosting, self-training, calibration, thresholds and votes, all of scikit-learn's, over the classifier."""

import pickle

import numpy as np
import pytest
from scipy.special import logit, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import f1_score, log_loss, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    TunedThresholdClassifierCV,
    learning_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import compute_sample_weight

from sklearn_irt import make_edit_baseline, to_string_array
from sklearn_irt.trained_part import TrainedPart

NAMES = ["before", "after"]
KINDS = ["clarity", "coherence", "style"]


@pytest.fixture(scope="module")
def short(revisions):
    """Return the shortest 36 pairs of three intentions, whose index is not their position."""
    X, y = revisions
    rows = X.sum(axis=1).str.len()[y.isin(KINDS)].nsmallest(36).index
    return X.iloc[rows].set_axis(rows[::-1]), y.iloc[rows].set_axis(rows[::-1])


@pytest.fixture(scope="module")
def member(make_classifier):
    """Return a classifier that learns some of these pairs, and not all."""
    return make_classifier(learning_rate=0.03, batch_size=8, class_weight=None, candidate_layers=1, max_length=256)


@pytest.fixture(scope="module")
def boosted(member, short):
    """Return three members that were boosted."""
    return AdaBoostClassifier(member, n_estimators=3, learning_rate=0.7, random_state=0).fit(*short)


@pytest.fixture(scope="module")
def fitted(member, short):
    """Return a classifier that was fitted to the first half of the pairs; no test may change it."""
    X, y = short
    return clone(member).fit(X[::2], y[::2])


def boost_by_hand(ensemble, X, y, weights):
    """Fit the members anew with the weights of SAMME (Zhu et al. 2009), and return what each predicts."""
    probabilities = []
    for made, found in zip(ensemble.estimators_, ensemble.estimator_weights_, strict=True):
        by_hand = clone(made).fit(X, y, sample_weight=weights)
        wrong = by_hand.predict(X) != np.asarray(y)
        error = weights[wrong].sum() / weights.sum()
        alpha = ensemble.learning_rate * (np.log((1 - error) / error) + np.log(len(ensemble.classes_) - 1))
        assert found == pytest.approx(alpha, rel=1e-9)
        probabilities.append(by_hand.predict_proba(X))
        weights = weights * np.exp(alpha * wrong)
    return probabilities


def test_members_of_a_boosted_ensemble_learn_with_the_weights_of_boosting(boosted, short):
    X, y = short[0].to_numpy(), short[1]
    assert len(boosted.estimators_) == 3
    by_hand = boost_by_hand(boosted, X, y, np.ones(len(y)))
    for made, probabilities in zip(boosted.estimators_, by_hand, strict=True):
        np.testing.assert_allclose(made.predict_proba(X), probabilities, atol=1e-4)
    for made, probabilities in zip(boosted.estimators_[1:], by_hand[1:], strict=True):
        assert np.abs(clone(made).fit(X, y).predict_proba(X) - probabilities).max() > 0.01


def test_boosting_starts_from_weights_that_the_user_gave(member, short):
    X, y = short
    weights = compute_sample_weight({"clarity": 1, "coherence": 3, "style": 1}, y)
    ensemble = AdaBoostClassifier(member, n_estimators=2, random_state=0).fit(X, y, sample_weight=weights)
    by_hand = boost_by_hand(ensemble, X.to_numpy(), y, weights)
    np.testing.assert_allclose(ensemble.estimators_[1].predict_proba(X.to_numpy()), by_hand[1], atol=1e-4)


def test_a_boosted_ensemble_takes_frames_and_predicts_in_stages(boosted, short):
    X, _ = short
    stages = list(boosted.staged_predict(X))
    assert len(stages) == 3
    assert len({tuple(stage) for stage in stages}) > 1
    assert np.array_equal(stages[-1], boosted.predict(X))
    np.testing.assert_allclose(boosted.predict_proba(X).sum(axis=1), 1)
    assert boosted.n_features_in_ == 2
    assert boosted.feature_names_in_.tolist() == NAMES
    with pytest.raises(ValueError, match="feature names should match"):
        boosted.predict(X[["after", "before"]])


@pytest.mark.parametrize("as_container", [lambda X: X.to_numpy(), lambda X: list(X.itertuples(index=False, name=None))])
def test_boosting_is_the_same_on_each_run_and_on_every_container(boosted, short, as_container):
    X, y = short
    again = clone(boosted).fit(as_container(X), y.to_numpy())
    assert np.array_equal(again.predict_proba(as_container(X)), boosted.predict_proba(X))


def test_another_random_state_boosts_other_members(boosted, short):
    X, y = short
    other = clone(boosted).set_params(random_state=1, n_estimators=1).fit(X, y)
    assert other.estimators_[0].random_state != boosted.estimators_[0].random_state
    assert not np.allclose(other.predict_proba(X), next(boosted.staged_predict_proba(X)))


def test_a_pickled_ensemble_predicts_the_same(boosted, short):
    X, _ = short
    assert np.array_equal(pickle.loads(pickle.dumps(boosted)).predict_proba(X), boosted.predict_proba(X))


def test_what_boosting_predicted_while_it_fitted_is_not_computed_again(member, short, monkeypatch):
    X, y = short
    ensemble = AdaBoostClassifier(member, n_estimators=2, random_state=0).fit(X, y)
    monkeypatch.setattr(TrainedPart, "classify", None)
    assert ensemble.score(X, y) > 1 / 3


@pytest.mark.parametrize("encode", [lambda y: y.map(KINDS.index).to_numpy(), lambda y: y.to_numpy(dtype=object)])
def test_self_training_learns_from_unlabelled_pairs_of_a_frame(member, short, encode):
    X, y = short
    labels = encode(y)
    partly = np.where(np.arange(len(y)) % 2, -1, labels)
    learner = SelfTrainingClassifier(clone(member), criterion="k_best", k_best=4, max_iter=2)
    pipeline = make_pipeline(FunctionTransformer(to_string_array), learner).fit(X, partly)
    learned = learner.transduction_ != -1
    assert learned.sum() == (partly != -1).sum() + 2 * 4
    assert np.array_equal(learner.transduction_[partly != -1], labels[partly != -1])
    by_hand = clone(member).fit(X[learned], learner.transduction_[learned])
    assert np.array_equal(pipeline.predict_proba(X), by_hand.predict_proba(X))
    assert pipeline.classes_.tolist() == np.unique(labels).tolist()
    assert pipeline.feature_names_in_.tolist() == NAMES


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("rival", [False, True])
def test_a_frozen_classifier_is_calibrated_on_held_out_rows(fitted, short, method, rival):
    X, y = short
    base = make_edit_baseline().fit(X[::2], y[::2]) if rival else fitted
    X, y = X[1::2], y[1::2].to_numpy()
    before, net = base.predict_proba(X), vars(base).get("net_")
    calibrated = CalibratedClassifierCV(FrozenEstimator(base), method=method).fit(X, y)
    assert calibrated.calibrated_classifiers_[0].estimator.estimator is base
    assert vars(base).get("net_") is net
    assert np.array_equal(base.predict_proba(X), before)
    assert log_loss(y, calibrated.predict_proba(X)) < log_loss(y, before)
    assert calibrated.feature_names_in_.tolist() == NAMES


def test_temperature_scaling_keeps_the_order_of_the_classes(fitted, short):
    X, y = short
    calibrated = CalibratedClassifierCV(FrozenEstimator(fitted), method="temperature").fit(X, y.to_numpy())
    inverse = calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    expected = softmax(inverse * fitted.decision_function(X), axis=1)
    np.testing.assert_allclose(calibrated.predict_proba(X), expected, rtol=1e-5)
    assert np.array_equal(calibrated.predict(X), fitted.predict(X))


@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration_in_folds_fits_anew_and_keeps_the_columns(member, short, ensemble):
    X, y = short
    calibrated = CalibratedClassifierCV(member, method="isotonic", cv=2, ensemble=ensemble).fit(X, y)
    members = [part.estimator for part in calibrated.calibrated_classifiers_]
    assert len({id(part.net_) for part in members}) == (2 if ensemble else 1)
    assert calibrated.feature_names_in_.tolist() == NAMES
    assert calibrated.predict(X).shape == y.shape


@pytest.fixture(scope="module")
def of_two(member, short):
    """Return a classifier that tells edits of style from others, and pairs and labels that it was not fitted to."""
    X, y = short[0], np.where(short[1] == "style", "style", "other")
    return clone(member).fit(X[::2], y[::2]), X[1::2], y[1::2]


def test_a_threshold_is_tuned_for_a_frozen_classifier_on_held_out_rows(of_two):
    classifier, X, y = of_two
    probabilities = classifier.predict_proba(X)[:, 1]
    thresholds = np.quantile(probabilities, [0.2, 0.5, 0.8])
    score = make_scorer(f1_score, pos_label="style")
    tuned = TunedThresholdClassifierCV(
        FrozenEstimator(classifier), scoring=score, thresholds=thresholds, cv="prefit", refit=False
    ).fit(X, y)
    by_hand = [f1_score(y == "style", probabilities >= threshold) for threshold in thresholds]
    assert len(set(by_hand)) == 3
    assert tuned.best_threshold_ == thresholds[np.argmax(by_hand)]
    assert score(tuned, X, y) == pytest.approx(max(by_hand))
    assert np.array_equal(classifier.predict_proba(X)[:, 1], probabilities)
    assert tuned.feature_names_in_.tolist() == NAMES


def test_a_threshold_is_tuned_in_folds(member, short):
    X, y = short
    tuned = TunedThresholdClassifierCV(member, scoring="balanced_accuracy", cv=2).fit(X, y == "style")
    positive = tuned.estimator_.predict_proba(X)[:, 1] >= tuned.best_threshold_
    assert np.array_equal(tuned.predict(X), positive)
    assert tuned.feature_names_in_.tolist() == NAMES


@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
def test_a_threshold_may_be_set_on_probabilities_or_on_the_log_odds(of_two, method):
    classifier, X, y = of_two
    probabilities = classifier.predict_proba(X)[:, 1]
    middle = np.median(probabilities)
    threshold = middle if method == "predict_proba" else logit(middle)
    fixed = FixedThresholdClassifier(
        FrozenEstimator(classifier), threshold=threshold, pos_label="style", response_method=method
    )
    expected = np.where(probabilities > middle, "style", "other")
    assert np.array_equal(fixed.fit(X, y).predict(X)[probabilities != middle], expected[probabilities != middle])


def test_a_soft_vote_with_the_rival_is_the_mean_of_the_probabilities(member, short):
    X, y = short
    vote = VotingClassifier([("llm", member), ("edits", make_edit_baseline())], voting="soft").fit(X, y)
    alone = [clone(member).fit(X, y), make_edit_baseline().fit(X, y)]
    np.testing.assert_allclose(vote.predict_proba(X), np.mean([each.predict_proba(X) for each in alone], axis=0))
    assert vote.feature_names_in_.tolist() == NAMES


def test_bagged_members_differ_and_are_judged_on_the_rows_they_did_not_see(member, short):
    X, y = short
    bag = BaggingClassifier(member, n_estimators=4, max_samples=0.4, oob_score=True, random_state=0).fit(X, y)
    probabilities = np.array([each.predict_proba(X.to_numpy()) for each in bag.estimators_])
    np.testing.assert_allclose(bag.predict_proba(X), probabilities.mean(axis=0))
    assert (probabilities.std(axis=0).max(axis=1) > 0).all()
    assert bag.oob_decision_function_.shape == (len(y), 3)
    assert bag.feature_names_in_.tolist() == NAMES


@pytest.mark.parametrize("combine", [OneVsOneClassifier(None), OutputCodeClassifier(None, random_state=0)])
def test_three_classes_are_told_apart_by_classifiers_of_two(member, short, combine):
    X, y = short
    pipeline = make_pipeline(FunctionTransformer(to_string_array), clone(combine).set_params(estimator=member))
    assert (pipeline.fit(X, y).predict(X) == y).mean() > 1 / 3
    assert pipeline.feature_names_in_.tolist() == NAMES


def test_one_against_the_rest_takes_frames(member, short):
    X, y = short
    combined = OneVsRestClassifier(member).fit(X, y)
    against = clone(member).fit(X, (y == "style").astype(int)).predict_proba(X)[:, 1]
    scores = np.array([each.predict_proba(X)[:, 1] for each in combined.estimators_])
    np.testing.assert_allclose(scores[2], against, atol=1e-6)
    np.testing.assert_allclose(combined.predict_proba(X), (scores / scores.sum(axis=0)).T)
    assert combined.feature_names_in_.tolist() == NAMES


def test_a_learning_curve_takes_the_first_rows_of_each_split(member, short):
    X, y = short
    split = [(np.arange(len(y))[::-1][:30], np.arange(len(y))[:10])]
    sizes, on_train, on_test = learning_curve(member, X, y, train_sizes=[12, 30], cv=split, error_score="raise")
    assert sizes.tolist() == [12, 30]
    for column, size in enumerate(sizes):
        rows = split[0][0][:size]
        by_hand = clone(member).fit(X.iloc[rows], y.iloc[rows])
        assert on_train[column, 0] == by_hand.score(X.iloc[rows], y.iloc[rows])
        assert on_test[column, 0] == by_hand.score(X.iloc[split[0][1]], y.iloc[split[0][1]])
