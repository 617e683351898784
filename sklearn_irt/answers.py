"""Turns logits into the answers that scikit-learn's classifiers give: labels, probabilities and decision values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax


def choose(logits: NDArray[np.float64], classes: NDArray[Any], *, multilabel: bool) -> NDArray[Any]:
    """Return the class of the largest logit; of many labels, 1 for each whose logit is above 0, and 0 for the others.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_classes), dtype float64
        One row each.
    classes : ndarray of shape (n_classes,)
        The class labels.
    multilabel : bool
        Whether a row may have any number of the labels.

    Returns
    -------
    labels : ndarray of shape (n_rows,), or of shape (n_rows, n_classes) and dtype int64
        What is predicted.
    """
    return (logits > 0).astype(np.int64) if multilabel else classes[np.argmax(logits, axis=1)]


def to_probabilities(logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
    """Return the softmax of each row's logits; of many labels, the sigmoid of each logit."""
    return expit(logits) if multilabel else softmax(logits, axis=1)


def decide(logits: NDArray[np.float64], *, multilabel: bool) -> NDArray[np.float64]:
    """Return the logits; of two classes, of which a row has one, that of the second less that of the first."""
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 and not multilabel else logits
