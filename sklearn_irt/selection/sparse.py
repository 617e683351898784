"""Sparse fine-tuning: trains the entries of every layer's weights that have the largest gradients."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from .base import COUNT, INTERVAL, Masks
from .interval import IntervalSelection


class SparseSelection(IntervalSelection):
    """Train, within every candidate layer, the entries of its own weights with the largest gradients over a sample.

    All other entries are masked: their gradients count as zero. It needs ``adapter=None``.

    Parameters
    ----------
    share : float, default=0.02
        Share of a layer's entries that train (rounded, at least one): those of all of its tensors compete.

    interval : int, {"epoch"} or None, default=None
        When entries are selected. None selects them once, before training; "epoch" at the beginning of each epoch; an
        int after each so many steps. An entry that is masked again keeps the value that it reached.

    n_texts : int, default=128
        Training texts over which the gradient is the mean, drawn anew each time.

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        The smallest absolute gradient that trains, of each layer.

    References
    ----------
    Static masks: Xiao et al., "Refining Salience-Aware Sparse Fine-Tuning Strategies for Language Models", ACL 2025,
    arXiv 2412.13488, whose criterion (the absolute value of the mean gradient) and share are used; Zhang et al.,
    "Gradient-based Parameter Selection for Efficient Fine-Tuning", CVPR 2024, arXiv 2312.10136, who take the largest of
    every neuron instead. Drawn anew: Li et al., "Enhancing Large Language Model Performance with Gradient-Based
    Parameter Selection", AAAI 2025, arXiv 2406.15330. Whether entries compete within a tensor, a layer or the model
    differs between them; within the layer is this package's choice, so that every layer has its share.

    Examples
    --------
    >>> from sklearn_irt import IRTuningClassifier
    >>> from sklearn_irt.selection import SparseSelection
    >>> clf = IRTuningClassifier(selection=SparseSelection(share=0.05), adapter=None, learning_rate=3e-3)
    """

    _parameter_constraints: dict = {
        "share": [Interval(Real, 0, 1, closed="right")],
        "interval": INTERVAL,
        "n_texts": COUNT[:1],
    }

    needs_own_weights = True
    score_name = "Smallest gradient that trains"

    def __init__(self, *, share: float = 0.02, interval: Any = None, n_texts: int = 128) -> None:
        self.share = share
        self.interval = interval
        self.n_texts = n_texts

    def choose(self) -> NDArray[np.intp]:
        """Find the entries that train, and return all candidate layers.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        gradients = self.probe_.gradients(self.n_texts)
        thresholds = {layer: self._threshold(list(tensors.values())) for layer, tensors in gradients.items()}
        self.scores_ = np.array([thresholds[layer] for layer in self.layers_.tolist()])
        self.masks_ = {
            layer: {name: (np.abs(g) >= thresholds[layer]) & (g != 0) for name, g in tensors.items()}
            for layer, tensors in gradients.items()
        }
        return self.layers_

    def masks(self, step: int) -> Masks:
        """Return which entries train.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        masks : mapping of int to mapping of str to ndarray of bool
            For each layer and tensor, of the tensor's shape.
        """
        return self.masks_

    def _threshold(self, gradients: list[NDArray[np.float32]]) -> float:
        sizes = np.concatenate([np.abs(gradient).ravel() for gradient in gradients])
        position = len(sizes) - max(1, round(self.share * len(sizes)))
        return float(np.partition(sizes, position)[position])
