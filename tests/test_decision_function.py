"""Logits, probabilities and classes are three views of one answer."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError

from sklearn_irt.trained_part import TrainedPart


@pytest.fixture(scope="module")
def of_two(make_classifier, revisions):
    """Return a classifier of two classes."""
    X, y = revisions
    return make_classifier(learning_rate=0.01).fit(X, np.where(y == "fluency", "fluency", "other"))


@pytest.fixture(scope="module")
def of_five(make_classifier, revisions):
    """Return a classifier of five classes."""
    return make_classifier(learning_rate=0.01).fit(*revisions)


def test_more_than_two_classes_have_a_column_of_logits_each(of_five, revisions):
    X, _ = revisions
    logits = of_five.decision_function(X)
    assert logits.shape == (60, 5)
    assert logits.dtype == np.float64
    assert np.array_equal(softmax(logits, axis=1), of_five.predict_proba(X))
    assert of_five.predict(X).tolist() == of_five.classes_[logits.argmax(axis=1)].tolist()


def test_of_two_classes_the_log_odds_of_the_second_decide(of_two, revisions):
    X, _ = revisions
    log_odds = of_two.decision_function(X)
    assert log_odds.shape == (60,)
    assert log_odds.dtype == np.float64
    np.testing.assert_allclose(expit(log_odds), of_two.predict_proba(X)[:, 1], rtol=1e-12)
    assert of_two.predict(X).tolist() == of_two.classes_[(log_odds > 0).astype(int)].tolist()


def test_logits_probabilities_and_classes_are_computed_once(of_five, revisions, monkeypatch):
    X, _ = revisions
    of_five.net_.module_.known_answers.__init__()
    passes = []
    classify = TrainedPart.classify

    def counted(self, batches):
        passes.append(len(batches))
        return classify(self, batches)

    monkeypatch.setattr(TrainedPart, "classify", counted)
    of_five.decision_function(X)
    n_passes = len(passes)
    of_five.predict_proba(X)
    of_five.predict(X)
    assert len(passes) == n_passes > 0


def test_logits_tell_apart_what_saturated_probabilities_do_not(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y == "style")
    with torch.no_grad():
        classifier.net_.module_.learned_parameters["model.score.weight"].mul_(1e5)
    certain = np.unique(classifier.predict_proba(X)[:, 1])
    assert {0, 1} <= set(certain)
    assert len(certain) < len(np.unique(classifier.decision_function(X))) == 60


def test_a_cut_text_is_reported_where_the_user_called(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y).set_params(max_length=40)
    with pytest.warns(UserWarning, match="max_length=40 tokens") as caught:
        classifier.decision_function(X)
    assert [warning.filename for warning in caught] == [__file__]


def test_calibration_takes_the_logits(make_classifier, revisions):
    X, y = revisions
    calibrated = CalibratedClassifierCV(make_classifier(), method="temperature", cv=2).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)


def test_an_unfitted_classifier_decides_nothing(make_classifier, revisions):
    with pytest.raises(NotFittedError):
        make_classifier().decision_function(revisions[0])
