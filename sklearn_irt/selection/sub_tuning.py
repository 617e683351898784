"""SubTuning: trains the layers that a greedy search on held-out texts finds."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from .base import COUNT, INTERVAL
from .interval import IntervalSelection


class SubTuningSelection(IntervalSelection):
    """Train the layers that a greedy forward search finds: each round adds the one that validates best (SubTuning).

    A trial trains the layers found so far, one more layer and the head for some steps, on a part of the training
    texts, and judges on the rest. Then the weights are put back. The search ends when no layer makes it better.
    It takes up to ``n_trained * n_candidates * n_steps`` steps, most often more than the fit itself.

    Parameters
    ----------
    n_trained : int or float, default=3
        How many layers are found at most, or which share of the candidates (rounded, at least one).

    n_steps : int, default=10
        Training steps of a trial.

    validation_share : float, default=0.2
        Share of the training texts that trials are judged on; it is drawn once a fit, stratified by class.

    tolerance : float, default=0.0
        By how much a further layer must raise the accuracy, for the search to go on. With 0 a lower loss at the same
        accuracy is enough.

    interval : int, {"epoch"} or None, default=None
        When layers are searched. None searches once, before training; "epoch" at the beginning of each epoch; an int
        after each so many steps, always from the weights reached.

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        Accuracy of each layer's last trial.

    References
    ----------
    Kaplun, Gurevich, Swisa, David, Shalev-Shwartz and Malach, "Less is More: Selective Layer Finetuning with
    SubTuning", arXiv 2302.06354, Algorithm 1. The authors train every trial to the end and cross-validate it; here
    ``n_steps`` and ``validation_share`` are the budget. Where accuracies are equal, as they often are on few texts, the
    lower loss decides, which the paper leaves open.

    Examples
    --------
    >>> from sklearn_irt import IRTuningClassifier
    >>> from sklearn_irt.selection import SubTuningSelection
    >>> clf = IRTuningClassifier(selection=SubTuningSelection(n_trained=2, n_steps=5))
    """

    _parameter_constraints: dict = {
        "n_trained": COUNT,
        "n_steps": COUNT[:1],
        "validation_share": [Interval(Real, 0, 1, closed="neither")],
        "tolerance": [Interval(Real, 0, 1, closed="both")],
        "interval": INTERVAL,
    }

    score_name = "Accuracy of the last trial"

    def __init__(
        self,
        *,
        n_trained: float = 3,
        n_steps: int = 10,
        validation_share: float = 0.2,
        tolerance: float = 0.0,
        interval: Any = None,
    ) -> None:
        self.n_trained = n_trained
        self.n_steps = n_steps
        self.validation_share = validation_share
        self.tolerance = tolerance
        self.interval = interval

    def choose(self) -> NDArray[np.intp]:
        """Return the layers that the search finds.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        found: list[int] = []
        best = (-np.inf, -np.inf)
        while len(found) < self._most_layers:
            trials = {layer: self._try([*found, layer]) for layer in self.layers_.tolist() if layer not in found}
            added = max(trials, key=lambda layer: trials[layer])
            if trials[added] <= best or trials[added][0] - best[0] < self.tolerance:
                break
            found, best = [*found, added], trials[added]
        return np.sort(np.asarray(found, dtype=np.intp))

    @property
    def _most_layers(self) -> int:
        return self._count(min(self.n_trained, len(self.layers_)), "n_trained")

    def _try(self, layers: list[int]) -> tuple[float, float]:
        score = self.probe_.score_after_training(layers, self.n_steps, self.validation_share)
        self.scores_[np.searchsorted(self.layers_, layers[-1])] = score[0]
        return score
