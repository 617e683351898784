"""Sample weights find their way through pipelines and searches as those of scikit-learn's own estimators do."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_irt import IRTuningClassifier

WEIGHTS = np.linspace(0.1, 3, 60)


@pytest.fixture
def _routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def weighted(make_classifier, revisions):
    """Return the probabilities of a classifier that was fitted with the weights, by hand."""
    return make_classifier().fit(*revisions, sample_weight=WEIGHTS).predict_proba(revisions[0])


@pytest.mark.usefixtures("_routing")
def test_a_pipeline_hands_on_weights_that_were_asked_for(make_classifier, revisions, weighted):
    X, y = revisions
    classifier = make_classifier().set_fit_request(sample_weight=True)
    pipeline = make_pipeline(FunctionTransformer(), classifier).fit(X, y, sample_weight=WEIGHTS)
    assert np.array_equal(pipeline.predict_proba(X), weighted)


@pytest.mark.usefixtures("_routing")
def test_weights_may_go_by_another_name(make_classifier, revisions, weighted):
    X, y = revisions
    classifier = make_classifier().set_fit_request(sample_weight="trust")
    pipeline = make_pipeline(FunctionTransformer(), classifier).fit(X, y, trust=WEIGHTS)
    assert np.array_equal(pipeline.predict_proba(X), weighted)


@pytest.mark.usefixtures("_routing")
@pytest.mark.parametrize("make", [LogisticRegression, IRTuningClassifier])
def test_weights_that_nobody_spoke_of_are_refused_as_scikit_learn_does(make, revisions):
    search = GridSearchCV(make(), {})
    with pytest.raises(UnsetMetadataPassedError, match=rf"\[sample_weight\] are passed .* {make.__name__}.fit"):
        search.fit(*revisions, sample_weight=WEIGHTS)


@pytest.mark.usefixtures("_routing")
def test_weights_that_were_declined_do_not_arrive(make_classifier, revisions):
    X, y = revisions
    declining = make_classifier().set_fit_request(sample_weight=False).set_score_request(sample_weight=True)
    search = GridSearchCV(declining, {"learning_rate": [2e-3]}, cv=2, error_score="raise")
    search.fit(X, y, sample_weight=WEIGHTS)
    assert np.array_equal(search.predict_proba(X), make_classifier().fit(X, y).predict_proba(X))


@pytest.mark.usefixtures("_routing")
def test_a_grid_search_hands_on_weights_and_the_best_classifier_keeps_the_request(make_classifier, revisions, weighted):
    X, y = revisions
    asking = make_classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
    search = GridSearchCV(asking, {"learning_rate": [2e-3]}, cv=2, error_score="raise")
    search.fit(X, y, sample_weight=WEIGHTS)
    assert np.array_equal(search.predict_proba(X), weighted)
    for classifier in (clone(search.best_estimator_), pickle.loads(pickle.dumps(search.best_estimator_))):
        routing = classifier.get_metadata_routing()
        assert routing.fit.requests == {"sample_weight": True}
        assert routing.score.requests == {"sample_weight": False}


@pytest.mark.usefixtures("_routing")
def test_cross_validation_fits_and_scores_with_the_weights_of_each_part(make_classifier, revisions):
    X, y = revisions
    asking = make_classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    cv = KFold(2)
    found = cross_validate(asking, X, y, cv=cv, params={"sample_weight": WEIGHTS}, error_score="raise")["test_score"]
    for (train, test), score in zip(cv.split(X), found, strict=True):
        by_hand = make_classifier().fit(X.iloc[train], y.iloc[train], sample_weight=WEIGHTS[train])
        predicted = by_hand.predict(X.iloc[test])
        assert score == accuracy_score(y.iloc[test], predicted, sample_weight=WEIGHTS[test])
        assert score != accuracy_score(y.iloc[test], predicted)


def test_without_routing_a_step_gets_its_weights_by_its_name(make_classifier, revisions, weighted):
    X, y = revisions
    pipeline = make_pipeline(FunctionTransformer(), make_classifier())
    pipeline.fit(X, y, irtuningclassifier__sample_weight=WEIGHTS)
    assert np.array_equal(pipeline.predict_proba(X), weighted)
    with pytest.raises(RuntimeError, match="only available when metadata routing is enabled"):
        make_classifier().set_fit_request(sample_weight=True)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_takes_the_same_steps_whether_routing_is_enabled_or_not(make_classifier, revisions, early_stopping):
    X, y = revisions
    stopping = {"early_stopping": early_stopping, "validation_fraction": 0.2, "max_epochs": 2}
    plain = make_classifier(**stopping).fit(X, y, sample_weight=WEIGHTS)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_classifier(**stopping).fit(X, y, sample_weight=WEIGHTS)
        assert np.array_equal(routed.predict_proba(X), plain.predict_proba(X))
    assert routed.history_[:, "train_loss"] == plain.history_[:, "train_loss"]
