"""IR-Tuning: trains the layers whose gradient norms stand out."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from .base import LayerSelection

# The authors' stand-in for a norm that was not measured yet.
_REFERENCE_UNSEEN = 1000.0


class GradientNormSelection(LayerSelection):
    """Train the layers above a gap in the distribution of gradient norms (IR-Tuning).

    The layers are ranked by the gradient norm that each had when it last trained. Among the cuts of that ranking near
    its middle, the one is taken that leaves the least variance within the two groups; the layers above it are
    important and train, the ones below are redundant and stay frozen. A layer that never trained ranks above all
    others.

    A frozen layer keeps its last score. An adapter that starts at zero has a small gradient norm until it has trained
    for a while, so the choice tends to lock in within the first dozens of steps; ``IRTuningClassifier.active_layers_``
    shows it.

    Parameters
    ----------
    n_splits : int, default=1
        How often the layers are split; the second split is made within the layers that the first one selected.

    lower_quantile, upper_quantile : float, default=0.35 and 0.65
        Only cuts between these two quantiles of the ranked layers are considered, so that a skewed distribution chooses
        neither nearly all layers nor nearly none.

    interval : int, default=1
        Steps between two selections; 1 selects anew at each step, as the paper does.

    variant : {"standard", "reference"}, default="standard"
        "standard" is the paper's description: the norm of a layer is the L2 norm over all of its trainable gradients,
        and the layers above the cut train. "reference" is the authors' code to the letter: the norm is sqrt(sum over
        tensors of sqrt(L2 norm of the tensor's gradient)), one layer more than the group above the cut trains, and an
        unseen layer scores 1000. (Their frozen random head is not reproduced: here the head always trains.)

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        The last gradient norm of each candidate layer; infinite (1000 in "reference") where it is not known.

    References
    ----------
    Liu and Litman, "Efficient Layer-wise LLM Fine-tuning for Revision Intention Prediction", Findings of EMNLP 2025,
    arXiv 2510.00268. Where seen and unseen layers are mixed the paper leaves the variance open; with
    an infinite score the only cut of finite variance is the border between the two, so "standard" takes the considered
    cut nearest to it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.selection import GradientNormSelection
    >>> selection = GradientNormSelection()
    >>> selection.begin([0, 1, 2, 3], np.random.RandomState(0))
    >>> selection.observe(0, {0: [0.1], 1: [0.9], 2: [0.2], 3: [1.0]})
    >>> selection.select(step=1).tolist()
    [1, 3]
    """

    _parameter_constraints: dict = {
        "n_splits": [Interval(Integral, 1, None, closed="left")],
        "lower_quantile": [Interval(Real, 0, 1, closed="both")],
        "upper_quantile": [Interval(Real, 0, 1, closed="both")],
        "interval": [Interval(Integral, 1, None, closed="left")],
        "variant": [StrOptions({"standard", "reference"})],
    }

    def __init__(
        self,
        *,
        n_splits: int = 1,
        lower_quantile: float = 0.35,
        upper_quantile: float = 0.65,
        interval: int = 1,
        variant: str = "standard",
    ) -> None:
        self.n_splits = n_splits
        self.lower_quantile = lower_quantile
        self.upper_quantile = upper_quantile
        self.interval = interval
        self.variant = variant

    def begin(self, layers: ArrayLike, random_state: np.random.RandomState) -> None:
        """Start a fit: every layer is unseen.

        Parameters
        ----------
        layers : array-like of int
            The candidate layers, ascending.
        random_state : RandomState
            Ranks the layers while none has been seen.

        Raises
        ------
        ValueError
            If the lower quantile is above the upper one.
        """
        super().begin(layers, random_state)
        if self.lower_quantile > self.upper_quantile:
            raise ValueError(
                f"lower_quantile={self.lower_quantile} must not be above upper_quantile={self.upper_quantile}."
            )
        self.unseen_ = _REFERENCE_UNSEEN if self.variant == "reference" else np.inf
        self.scores_ = np.full(len(self.layers_), self.unseen_)
        self.selected_ = self.layers_

    def select(self, step: int) -> NDArray[np.intp]:
        """Return the important layers.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        if step % self.interval == 0:
            positions = np.arange(len(self.layers_))
            for _ in range(self.n_splits):
                positions = positions[self._split(self.scores_[positions])]
            self.selected_ = self.layers_[np.sort(positions)]
        return self.selected_

    def observe(self, step: int, gradient_norms: Mapping[int, Sequence[float]]) -> None:
        """Give every layer that trained the norm of its gradients as its score.

        Parameters
        ----------
        step : int
            Number of the step, not used.
        gradient_norms : mapping of int to sequence of float
            For every layer that trained: the L2 norm of each of its trainable tensors' gradients, before clipping.
        """
        for layer, norms in gradient_norms.items():
            norm = self._layer_norm(np.asarray(norms, dtype=np.float64))
            self.scores_[np.searchsorted(self.layers_, layer)] = norm if np.isfinite(norm) else self.unseen_

    def _layer_norm(self, tensor_norms: NDArray[np.float64]) -> float:
        if self.variant == "reference":
            return float(np.sqrt(np.sum(np.sqrt(tensor_norms))))
        return math.hypot(*tensor_norms)

    def _split(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the positions of the important layers among ``scores``."""
        if len(scores) < 2:
            return np.arange(len(scores))
        if np.all(scores == self.unseen_):
            scores = self.random_state_.random_sample(len(scores))
        order = np.argsort(scores, kind="stable")
        entry = self._best_entry(scores[order])
        return order[entry:] if self.variant == "reference" else order[entry + 1 :]

    def _best_entry(self, ranked: NDArray[np.float64]) -> int:
        """Return i for the best cut, which leaves the i + 1 lowest layers below it."""
        last_cut = len(ranked) - 2
        lowest = min(int(self.lower_quantile * len(ranked)), last_cut)
        highest = min(int(self.upper_quantile * len(ranked)), last_cut)
        n_seen = int(np.isfinite(ranked).sum())
        if n_seen < len(ranked):
            return int(np.clip(n_seen - 1, lowest, highest))
        variances = [np.var(ranked[: i + 1]) + np.var(ranked[i + 1 :]) for i in range(lowest, highest + 1)]
        return lowest + int(np.argmin(variances))
