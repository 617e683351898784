"""The scores are what their papers define, and rank features by how well these tell classes apart."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group
from sklearn.covariance import LedoitWolf

from sklearn_irt.transferability import SCORES, log_maximum_evidence, shrunk_h_score


@pytest.fixture(params=sorted(SCORES))
def score(request):
    return SCORES[request.param]


def draw(n_rows=60, n_features=5, distance=1.5, seed=0):
    """Draw features of three classes whose means lie ``distance`` from the mean of all, and the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_rows) % 3
    return random.normal(size=(n_rows, n_features)) + distance * np.eye(3, n_features)[labels] + 0.5, labels


@pytest.mark.parametrize(("n_rows", "n_features"), [(30, 4), (16, 24)])
def test_logme_is_the_largest_evidence_that_a_search_over_both_variances_finds(n_rows, n_features):
    features, labels = draw(n_rows, n_features)

    def negative_evidence(logarithms, column):
        noise, weights = np.exp(logarithms)
        covariance = noise * np.eye(n_rows) + weights * features @ features.T
        return -multivariate_normal(cov=covariance).logpdf(column) / n_rows

    columns = [(labels == label).astype(float) for label in range(3)]
    evidences = [-minimize(negative_evidence, (-2, -2), (column,), "Nelder-Mead", tol=1e-9).fun for column in columns]
    assert log_maximum_evidence(features, labels) == pytest.approx(np.mean(evidences), abs=1e-7)


@pytest.mark.parametrize(("n_rows", "n_features"), [(30, 4), (16, 24)])
def test_the_h_score_is_the_trace_that_defines_it(n_rows, n_features):
    features, labels = draw(n_rows, n_features)
    estimate = LedoitWolf().fit(features)
    means = np.array([features[labels == label].mean(axis=0) for label in labels])
    between = (1 - estimate.shrinkage_) * np.cov(means.T, bias=True)
    expected = np.trace(np.linalg.inv(estimate.covariance_) @ between)
    assert expected > 0.1
    assert shrunk_h_score(features, labels) == pytest.approx(expected)


@pytest.mark.parametrize("n_features", [5, 100])
def test_the_farther_classes_lie_apart_the_higher_the_score(score, n_features):
    scores = [score(*draw(n_features=n_features, distance=distance)) for distance in (0, 2, 4, 8)]
    assert np.all(np.diff(scores) > 0)


def test_logme_prefers_few_features_that_tell_classes_apart_to_much_noise():
    features, labels = draw()
    noise = np.random.default_rng(1).normal(size=(60, 2000))
    nothing = np.zeros((60, 1))
    assert log_maximum_evidence(features, labels) > log_maximum_evidence(noise, labels)
    assert log_maximum_evidence(noise, labels) == pytest.approx(log_maximum_evidence(nothing, labels), abs=0.02)


def test_neither_rotation_nor_scale_nor_the_order_of_rows_and_classes_changes_a_score(score):
    features, labels = draw()
    expected = score(features, labels)
    order = np.random.default_rng(1).permutation(60)
    rotation = ortho_group.rvs(5, random_state=0)
    for changed in (
        score(features @ rotation, labels),
        score(1e4 * features, labels),
        score(1e-4 * features, labels),
        score(features[order], labels[order]),
        score(features, np.array([2, 0, 1])[labels]),
    ):
        assert changed == pytest.approx(expected)


def test_a_shift_changes_logme_alone_and_columns_of_zeros_do_not_change_it():
    features, labels = draw()
    assert shrunk_h_score(features + 10, labels) == pytest.approx(shrunk_h_score(features, labels))
    assert abs(log_maximum_evidence(features + 10, labels) - log_maximum_evidence(features, labels)) > 0.01
    widened = np.hstack([features, np.zeros((60, 100))])
    assert log_maximum_evidence(widened, labels) == pytest.approx(log_maximum_evidence(features, labels))


def test_features_that_do_not_differ_score_as_nothing_does():
    labels = np.arange(12) % 3
    density = -(np.log(2 * np.pi / 3) + 1) / 2  # of noise alone, of zeros and ones of which a third are ones
    assert log_maximum_evidence(np.zeros((12, 4)), labels) == pytest.approx(density)
    for constant in (np.zeros((12, 4)), np.full((12, 4), 7.3)):
        assert shrunk_h_score(constant, labels) == 0


@pytest.mark.parametrize("n_features", [3, 30])
def test_features_that_name_the_class_score_highest_and_finitely(score, n_features):
    labels = np.arange(60) % 3
    perfect = np.eye(3, n_features)[labels]
    assert np.isfinite(score(perfect, labels))
    assert score(perfect, labels) > score(*draw(distance=8)) > score(*draw(distance=4))


@pytest.mark.parametrize("n_features", [1, 5, 59, 60, 61, 300])
def test_the_h_score_is_less_than_the_number_of_classes_minus_one(n_features):
    for distance in (0, 3, 1000):
        assert 0 <= shrunk_h_score(*draw(n_features=n_features, distance=distance)) < 2


def test_constant_columns_doubled_columns_and_single_rows_of_a_class_are_no_obstacle(score):
    features, labels = draw()
    features = np.hstack([features, features, np.ones((60, 2))]).astype(np.float32)
    labels = np.where(np.arange(60) == 7, 3, labels)
    assert np.isfinite(score(features, labels))
    assert score(features, labels) == pytest.approx(score(features.astype(np.float64), labels))
