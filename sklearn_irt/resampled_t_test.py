"""Tests whether two estimators differ that were scored on the same resampled splits."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

# Differences that are equal but for the rounding of scores have no deviation that says anything.
_ROUNDING = 1e-12


def corrected_resampled_t_test(differences: ArrayLike, n_train: ArrayLike, n_test: ArrayLike) -> float:
    """Compute the p-value of the corrected resampled t-test.

    The training parts of resampled splits overlap, so that the differences of their scores vary together and an
    ordinary paired t-test finds a difference far too often. Nadeau and Bengio [1]_ enlarge the variance of the mean
    from s²/J to s² (1/J + n_test/n_train); the same serves k-fold cross-validation, once or repeated [2]_.

    Parameters
    ----------
    differences : array-like of shape (n_splits,)
        Score of the one less score of the other, on each split.
    n_train, n_test : array-like of shape (n_splits,) or int
        Rows of the two parts of each split.

    Returns
    -------
    p_value : float
        Two-sided, of Student's t with n_splits - 1 degrees of freedom. NaN for fewer than two splits, or where the
        differences are all equal, of which no deviation can be told.

    References
    ----------
    .. [1] Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003.
    .. [2] Bouckaert and Frank, "Evaluating the Replicability of Significance Tests for Comparing Learning
           Algorithms", PAKDD 2004.

    Examples
    --------
    >>> from sklearn_irt.resampled_t_test import corrected_resampled_t_test
    >>> round(corrected_resampled_t_test([0.02, 0.05, 0.01, 0.04, 0.03], n_train=80, n_test=20), 4)
    0.0474
    """
    differences = np.asarray(differences, dtype=float)
    n_splits = len(differences)
    if n_splits < 2 or np.ptp(differences) <= _ROUNDING:
        return np.nan
    share = np.mean(np.asarray(n_test) / np.asarray(n_train))
    deviation = np.sqrt((1 / n_splits + share) * differences.var(ddof=1))
    return float(2 * student.sf(abs(differences.mean()) / deviation, n_splits - 1))
