"""Surgical fine-tuning: trains the layers of the largest Fisher information."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import COUNT, INTERVAL
from .interval import IntervalSelection


class FisherSelection(IntervalSelection):
    """Train the layers whose parameters have the largest Fisher information, measured on a sample.

    Parameters
    ----------
    n_trained : int or float, default=0.5
        How many of the candidate layers train, or that share of them (rounded, at least one).

    interval : int, {"epoch"} or None, default=None
        When layers are scored. None scores them once, before training; "epoch" at the beginning of each epoch; an int
        after each so many steps.

    n_texts : int, default=100
        Training texts of the sample; each takes a backward pass of its own.

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        Mean over the texts and the layer's trainable parameters of the squared gradient of the loss of one text.

    References
    ----------
    Lodha, Belapurkar, Chalkapurkar, Tao, Ghosh, Basu, Petrov and Srinivasan, "On Surgical Fine-tuning for Language
    Encoders", Findings of EMNLP 2023, arXiv 2310.17041: the diagonal of the empirical Fisher information, with the
    given labels. The authors' code differentiates the logit of the label and adds the Frobenius norms of its tensors
    up; here it is the gradient of the loss, -log p(label), which the definition asks for, and the mean, so that layers
    of different size compare. They measure the layers' own weights; with an adapter it is the adapter's parameters that
    are measured, since these would train.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt import IRTuningClassifier
    >>> from sklearn_irt.selection import FisherSelection
    >>> clf = IRTuningClassifier(selection=FisherSelection(n_trained=4))
    """

    _parameter_constraints: dict = {"n_trained": COUNT, "interval": INTERVAL, "n_texts": COUNT[:1]}

    score_name = "Fisher information"

    def __init__(self, *, n_trained: float = 0.5, interval: Any = None, n_texts: int = 100) -> None:
        self.n_trained = n_trained
        self.interval = interval
        self.n_texts = n_texts

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """Start a fit; the arguments are those of :meth:`LayerSelection.begin`.

        Raises
        ------
        ValueError
            If there are fewer candidates than layers to train.
        """
        super().begin(*args, **kwargs)
        self.n_trained_ = self._count(self.n_trained, "n_trained")

    def choose(self) -> NDArray[np.intp]:
        """Return the layers of the largest scores; of equal scores the higher layer.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        self.scores_ = self.probe_.squared_gradients(self.n_texts)
        return self._highest(self.n_trained_)
