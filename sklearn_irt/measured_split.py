"""Fits one estimator on one split, and measures what it costs and is worth."""

import time
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing

from .comparison_table import check_score_names
from .fresh_start import forget_earlier_fits
from .peak_memory import PeakMemory

Split = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The rows to train on, and those to score."""


def measure_split(
    estimator: Any, score: Callable[..., Any], X: Any, y: Any, split: Split, check_interrupted: Callable[[], None]
) -> dict[str, Any]:
    """Fit an estimator on one part of the rows and score it on the other, as if it were alone in the process.

    Parameters
    ----------
    estimator : estimator
        Is fitted.
    score : callable
        From :func:`sklearn.metrics.check_scoring`.
    X, y : indexable
        All rows.
    split : tuple of two ndarrays of int
        The rows to train on, and those to score.
    check_interrupted : callable
        Raises KeyboardInterrupt where training was interrupted.

    Returns
    -------
    measured : dict
        "scores" by name, "fit_seconds", "predict_seconds", "peak_memory_mb", "peak_gpu_memory_mb",
        "trained_parameters", "n_train", "n_test".
    """
    (X_train, y_train), (X_test, y_test) = ((_safe_indexing(X, rows), _safe_indexing(y, rows)) for rows in split)
    forget_earlier_fits()
    with PeakMemory() as memory:
        start = time.perf_counter()
        estimator.fit(X_train, y_train)
        fitted = time.perf_counter()
        check_interrupted()
        scores = _read_scores(score(estimator, X_test, y_test), score)
        scored = time.perf_counter()
    return {
        "scores": scores,
        "fit_seconds": fitted - start,
        "predict_seconds": scored - fitted,
        "peak_memory_mb": memory.megabytes,
        "peak_gpu_memory_mb": memory.gpu_megabytes,
        "trained_parameters": count_trained_parameters(estimator),
        "n_train": len(y_train),
        "n_test": len(y_test),
    }


def _read_scores(scores: Any, score: Callable[..., Any]) -> dict[str, float]:
    scores = dict(scores) if isinstance(scores, Mapping) else {"score": scores}
    check_score_names(scores)
    for name, value in scores.items():
        if not isinstance(value, Real):
            raise ValueError(f"scoring: {name!r} must be a number, but {score!r} returned {value!r:.80}.")
    return {name: float(value) for name, value in scores.items()}


def count_trained_parameters(estimator: BaseEstimator) -> int | None:
    """Count the numbers that a fit has set by gradients: adapters and head of an LLM, or a linear model's coefficients.

    Parameters
    ----------
    estimator : estimator
        A fitted one. Of a pipeline the last step counts, of a search its best estimator.

    Returns
    -------
    n_parameters : int or None
        None for other kinds of model.
    """
    if hasattr(estimator, "best_estimator_"):
        return count_trained_parameters(estimator.best_estimator_)
    if isinstance(estimator, Pipeline):
        return count_trained_parameters(estimator.steps[-1][1])
    if hasattr(estimator, "n_trainable_parameters_"):
        return int(estimator.n_trainable_parameters_)
    if hasattr(estimator, "coef_"):
        return int(np.prod(np.shape(estimator.coef_)) + np.size(getattr(estimator, "intercept_", ())))
    return None
