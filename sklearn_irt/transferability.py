"""Scores how well features suit classes without training on them: LogME, and the H-score with shrinkage."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svd
from scipy.optimize import minimize_scalar
from sklearn.covariance import ledoit_wolf_shrinkage

# Of the penalty, in units of the largest eigenvalue: below, features that fit the classes perfectly would have infinite
# evidence; above, they have no weight any more.
_LOGARITHMS_OF_PENALTIES = np.linspace(np.log(1e-12), np.log(1e8), 100)


def log_maximum_evidence(features: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Score features by the evidence of linear models of the classes, LogME [1]_.

    Of each class, a column of zeros and ones is modelled as Gaussian noise around a weighted sum of the features, whose
    weights have a Gaussian prior. Both variances are chosen so that the evidence, the density of the column with the
    weights integrated out, is largest. The score is the logarithm of this density, a row, mean over the classes.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        One row a text.
    labels : ndarray of shape (n_samples,), dtype int
        Each row's class, of which there are at least two, each from 0 on with a row.

    Returns
    -------
    score : float
        Higher is better. It compares features of the same rows, not different data.

    Notes
    -----
    Neither a rotation of the features, nor a common factor, nor a constant zero among them changes it. A shift does:
    the model has no intercept.

    The maximum is that which the fixed-point iteration of the authors' second paper [2]_ approaches. But for a given
    ratio of the variances, the best noise is known: it is found by a search for one number, which cannot diverge or
    stop at a lower maximum. The ratio has bounds, for where fewer features than rows fit the classes perfectly, there
    is no maximum. Scores are not those of the authors' code for that paper where features are more than rows: it leaves
    the directions beyond the rank out of the determinant, but counts them in the prior, so that width alone raises it.

    References
    ----------
    .. [1] You, Liu, Wang and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML
           2021, arXiv 2102.11005.
    .. [2] You, Liu, Zhang, Wang, Jordan and Long, "Ranking and Tuning Pre-trained Models: A New Paradigm for Exploiting
           Model Hubs", JMLR 2022, arXiv 2110.10545.
    """
    left, singular_values, _ = svd(features.astype(np.float64), full_matrices=False)
    eigenvalues = (singular_values / (singular_values[0] or 1.0)) ** 2
    return float(np.mean([_maximize_evidence(eigenvalues, left, column) for column in _one_hot(labels).T]))


def _maximize_evidence(
    eigenvalues: NDArray[np.float64], left: NDArray[np.float64], target: NDArray[np.float64]
) -> float:
    """Return the logarithm of the evidence, a row, for the best variances of noise and weights."""
    along = (left.T @ target) ** 2
    outside = max(0.0, target @ target - along.sum())

    def loss(logarithm: float) -> float:
        penalty = np.exp(logarithm)
        noise = (outside + along @ (penalty / (penalty + eigenvalues))) / len(target)  # the best variance
        return (np.log(2 * np.pi * noise) + 1 + np.log1p(eigenvalues / penalty).sum() / len(target)) / 2

    best = int(np.argmin([loss(logarithm) for logarithm in _LOGARITHMS_OF_PENALTIES]))
    around = _LOGARITHMS_OF_PENALTIES[[max(best - 1, 0), min(best + 1, len(_LOGARITHMS_OF_PENALTIES) - 1)]]
    return -minimize_scalar(loss, bounds=around, method="bounded").fun


def shrunk_h_score(features: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Score features by how much of their variance lies between the classes: the H-score [1]_, with shrinkage [2]_.

    It is the trace of the inverse covariance of the features times the covariance of their class means. The first is
    estimated after Ledoit and Wolf, whose shrinkage it also takes off the second.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
        One row a text.
    labels : ndarray of shape (n_samples,), dtype int
        Each row's class, of which there are at least two, each from 0 on with a row.

    Returns
    -------
    score : float
        From 0, for class means that are equal, to less than the number of classes minus 1.

    Notes
    -----
    Neither a shift or rotation of the features nor a common factor changes it.

    References
    ----------
    .. [1] Bao, Li, Huang, Zhang, Zheng, Zamir and Guibas, "An Information-Theoretic Approach to Transferability in Task
           Transfer Learning", ICIP 2019.
    .. [2] Ibrahim, Ponomareva and Mazumder, "Newer is not always better: Rethinking transferability metrics, their
           peculiarities, stability and performance", ECML PKDD 2022, arXiv 2110.06893.
    """
    features = features.astype(np.float64)
    centred = features - features.mean(axis=0)
    shrinkage = ledoit_wolf_shrinkage(centred, assume_centered=True)
    # Along the singular vectors, the shrunk covariance is diagonal; the class means have no other components.
    left, singular_values, _ = svd(centred, full_matrices=False)
    own = (1 - shrinkage) * singular_values**2
    total = own + shrinkage * np.mean(np.sum(centred**2, axis=0))
    one_hot = _one_hot(labels)
    between = ((one_hot.T @ left) ** 2 / one_hot.sum(axis=0)[:, np.newaxis]).sum(axis=0)
    # What is left of a constant column is rounding, which is no variance.
    present = singular_values > np.linalg.norm(features) * max(features.shape) * np.finfo(np.float64).eps
    return float(between[present] @ (own[present] / total[present]))


def _one_hot(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.eye(labels.max() + 1)[labels]


SCORES: dict[str, Callable[[NDArray[np.floating], NDArray[np.integer]], float]] = {
    "logme": log_maximum_evidence,
    "h-score": shrunk_h_score,
}
