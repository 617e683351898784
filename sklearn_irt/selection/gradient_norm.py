"""IR-Tuning: trains the layers whose gradient norms stand out."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from .base import COUNT, INTERVAL, LayerSelection
from .ranking import best_block, best_cut

# By ``score`` where gradients score the layers, otherwise by ``importance``.
_SCORE_NAMES = {
    "norm": "Gradient norm",
    "relative-norm": "Gradient norm / first one",
    "saving": "Expected saving of loss",
    "cosine": "1 - cosine of states",
    "weight": "Norm of output projection",
}
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
    shows it. Nor does the choice save much time while a low layer trains, since gradients then pass all layers above
    it. ``warm_up``, ``cost_weight``, ``contiguous`` and ``interval=None`` are not the paper's: they score all layers on
    equal terms, and trade score against time.

    Parameters
    ----------
    importance : {"gradient", "cosine", "weight"}, default="gradient"
        What scores a layer. "gradient" is the rule above. "cosine" and "weight" are the paper's two ablations: 1 minus
        the mean over tokens of the cosine between the hidden state that enters a layer and the one that leaves it, so
        that the layers which change the states most are important; and the L2 norm of the weight of the attention's
        output projection, which never changes. These two are measured on all layers at each selection.

    score : {"norm", "relative-norm", "saving"}, default="norm"
        What ``importance="gradient"`` makes of a layer's gradients; the others do not use it. "norm" is the paper's.
        The other two are not, and make layers comparable that have trained for different times: "relative-norm" is the
        norm over that of the first step at which the layer trained; "saving" is the loss that the layer's next update
        is expected to save, the sum over its parameters of gradient times AdamW's step, for a learning rate of 1.

    refresh : int or None, default=None
        Every so many steps, the first of the fit included, all candidates train for one step, so that every score is
        fresh, and the next step selects anew. None, the paper's rule, never does: a frozen layer keeps its score. Only
        with ``importance="gradient"``.

    n_texts : int, default=8
        Training texts that ``importance="cosine"`` is measured on at each selection, drawn anew; the others do not use
        it.

    n_splits : int, default=1
        How often the layers are split; the second split is made within the layers that the first one selected.

    lower_quantile, upper_quantile : float, default=0.35 and 0.65
        Only cuts between these two quantiles of the ranked layers are considered, so that a skewed distribution chooses
        neither nearly all layers nor nearly none.

    interval : int, {"epoch"} or None, default=1
        When layers are selected after the warm-up, the first time at its end. An int is the steps between two
        selections: 1 selects anew at each step, as the paper does. "epoch" selects again at the beginning of each
        epoch. None selects once and holds the selection to the end of the fit; without a warm-up no layer has a
        gradient norm by then, so it holds a choice made at random. With ``refresh`` they are selected after each of
        those steps as well.

    warm_up : int, default=0
        The first that many steps train every candidate layer; at their end the score of a layer is the mean of its
        finite scores over them. A fit of no more steps than that trains every layer throughout.

    cost_weight : float, default=0.0
        Layers are ranked, and the ranking is cut, by score / cost ** cost_weight: 0 ignores the cost, and the larger
        the weight, the higher the layers that train. The cost of a layer is the share of the layers that run which
        gradients must pass to reach it, itself included: (n_layers - layer) / n_layers. A layer that was not seen ranks
        as such, whatever its cost.

    contiguous : bool, default=False
        Whether the important layers form one block: as many adjoining candidates as the rule selects, those of the
        largest sum of scores, weighed by cost; of equal sums the highest block. The block with the most unseen layers
        comes first, then the sum over the seen ones counts; while all are unseen, the block lies at random.

    variant : {"standard", "reference"}, default="standard"
        "standard" is the paper's description: the norm of a layer is the L2 norm over all of its trainable gradients,
        and the layers above the cut train. "reference" is the authors' code to the letter: the norm is sqrt(sum over
        tensors of sqrt(L2 norm of the tensor's gradient)), one layer more than the group above the cut trains, and an
        unseen layer scores 1000. (Their frozen random head is not reproduced: here the head always trains.)

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        The last score of each candidate layer (its gradient norm, unless parameters say otherwise), the mean of those
        so far during the warm-up; infinite (1000 in "reference") where it is not known. Not weighed by cost.

    References
    ----------
    Liu and Litman, "Efficient Layer-wise LLM Fine-tuning for Revision Intention Prediction", Findings of EMNLP 2025,
    arXiv 2510.00268: the rule. Where seen and unseen layers are mixed the paper leaves the variance open; with
    an infinite score the only cut of finite variance is the border between the two, so "standard" takes the considered
    cut nearest to it. "cosine" and "weight" are its section on layer importance; the paper measures the cosine on the
    batch of the step, here it is measured on texts drawn for it.

    Huang, Yin, Huang and Gao, "Towards Green AI in Fine-tuning Large Language Models via Adaptive Backpropagation",
    ICLR 2024, arXiv 2309.13192 (GreenTrainer), weighs the importance of a tensor against a cost that grows with the
    depth that gradients must reach. It maximizes the importance within a budget of operations; dividing by a power of
    the cost is this package's own.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.selection import GradientNormSelection
    >>> selection = GradientNormSelection()
    >>> selection.begin([0, 1, 2, 3], np.random.RandomState(0), n_layers=4, steps_per_epoch=10)
    >>> selection.observe(0, {0: [0.1], 1: [0.9], 2: [0.2], 3: [1.0]})
    >>> selection.select(step=1).tolist()
    [1, 3]
    """

    _parameter_constraints: dict = {
        "importance": [StrOptions({"gradient", "cosine", "weight"})],
        "score": [StrOptions({"norm", "relative-norm", "saving"})],
        "refresh": [Interval(Integral, 2, None, closed="left"), None],
        "n_texts": COUNT[:1],
        "n_splits": [Interval(Integral, 1, None, closed="left")],
        "lower_quantile": [Interval(Real, 0, 1, closed="both")],
        "upper_quantile": [Interval(Real, 0, 1, closed="both")],
        "interval": INTERVAL,
        "warm_up": [Interval(Integral, 0, None, closed="left")],
        "cost_weight": [Interval(Real, 0, None, closed="left")],
        "contiguous": ["boolean"],
        "variant": [StrOptions({"standard", "reference"})],
    }

    def __init__(
        self,
        *,
        importance: str = "gradient",
        score: str = "norm",
        refresh: int | None = None,
        n_texts: int = 8,
        n_splits: int = 1,
        lower_quantile: float = 0.35,
        upper_quantile: float = 0.65,
        interval: Any = 1,
        warm_up: int = 0,
        cost_weight: float = 0.0,
        contiguous: bool = False,
        variant: str = "standard",
    ) -> None:
        self.importance = importance
        self.score = score
        self.refresh = refresh
        self.n_texts = n_texts
        self.n_splits = n_splits
        self.lower_quantile = lower_quantile
        self.upper_quantile = upper_quantile
        self.interval = interval
        self.warm_up = warm_up
        self.cost_weight = cost_weight
        self.contiguous = contiguous
        self.variant = variant

    @property
    def score_name(self) -> str:  # type: ignore[override]
        """What the scores are, as the label of an axis."""
        return _SCORE_NAMES[self.score if self.importance == "gradient" else self.importance]

    def begin(
        self, layers: ArrayLike, random_state: np.random.RandomState, *, n_layers: int, steps_per_epoch: int
    ) -> None:
        """Start a fit: every layer is unseen.

        Parameters
        ----------
        layers : array-like of int
            The candidate layers, ascending.
        random_state : RandomState
            Ranks the layers while none has been seen.
        n_layers : int
            How many layers of the backbone run; a layer's cost depends on it.
        steps_per_epoch : int
            How many steps an epoch has.

        Raises
        ------
        ValueError
            If the lower quantile is above the upper one, or there is a refresh for scores that are never stale.
        """
        super().begin(layers, random_state, n_layers=n_layers, steps_per_epoch=steps_per_epoch)
        if self.lower_quantile > self.upper_quantile:
            raise ValueError(
                f"lower_quantile={self.lower_quantile} must not be above upper_quantile={self.upper_quantile}."
            )
        if self.refresh is not None and self.importance != "gradient":
            raise ValueError(
                f"refresh={self.refresh} is for importance='gradient': importance={self.importance!r} is measured on "
                "all layers whenever they are selected. Leave refresh out."
            )
        self.unseen_ = _REFERENCE_UNSEEN if self.variant == "reference" else np.inf
        self.scores_ = np.full(len(self.layers_), self.unseen_)
        self.selected_ = self.layers_
        self.warm_up_scores_: list[list[float]] = [[] for _ in self.layers_]
        self.first_norms_: dict[int, float] = {}

    def select(self, step: int) -> NDArray[np.intp]:
        """Return the important layers; during the warm-up, and for a refresh, all candidates.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        if self.refresh is not None and step % self.refresh == 0:
            return self.layers_
        if self._selects_at(step):
            self._measure()
            scores = self._weigh_by_cost()
            positions = np.arange(len(scores))
            for _ in range(self.n_splits):
                positions = positions[self._split(scores[positions])]
            if self.contiguous:
                scores = self._random_if_unseen(scores)
                positions = best_block(scores, scores == self.unseen_, len(positions))
            self.selected_ = self.layers_[np.sort(positions)]
        return self.selected_

    def observe(self, step: int, gradient_norms: Mapping[int, Sequence[float]]) -> None:
        """Score every layer that trained by its gradients; during the warm-up, by the mean of its scores so far.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.
        gradient_norms : mapping of int to sequence of float
            For every layer that trained: the L2 norm of each of its trainable tensors' gradients, before clipping.
        """
        if self.importance != "gradient":
            return
        for layer, score in self._score_step(gradient_norms).items():
            position = np.searchsorted(self.layers_, layer)
            measured = self.warm_up_scores_[position] if step < self.warm_up else []
            if math.isfinite(score):
                measured.append(score)
            self.scores_[position] = np.mean(measured) if measured else self.unseen_

    def lowest(self, step: int) -> int:
        """Return the lowest layer of a selection that is held; otherwise any candidate may train again.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        layer : int
            No layer below it trains at this step or any later one.
        """
        # Until the warm-up ends, all candidates are selected.
        held = self.interval is None and self.refresh is None
        return int(self.selected_[0] if held else self.layers_[0])

    def _selects_at(self, step: int) -> bool:
        since_warm_up = step - self.warm_up
        if self.refresh is not None and since_warm_up >= 0 and step % self.refresh == 1:
            return True
        if since_warm_up <= 0 or self.interval is None:
            return since_warm_up == 0
        if self.interval == "epoch":
            return self._begins_epoch(step)
        return since_warm_up % self.interval == 0

    def _measure(self) -> None:
        if self.importance == "cosine":
            self.scores_ = 1 - self.probe_.similarities(self.n_texts)
        elif self.importance == "weight":
            self.scores_ = self.probe_.weight_norms()

    def _score_step(self, gradient_norms: Mapping[int, Sequence[float]]) -> Mapping[int, float]:
        if self.score == "saving":
            return self.probe_.step_savings()
        norms = {layer: self._layer_norm(np.asarray(group, np.float64)) for layer, group in gradient_norms.items()}
        if self.score == "norm":
            return norms
        for layer, norm in norms.items():
            if 0 < norm < np.inf:
                self.first_norms_.setdefault(layer, norm)
        return {layer: norm / self.first_norms_.get(layer, np.nan) for layer, norm in norms.items()}

    def _weigh_by_cost(self) -> NDArray[np.float64]:
        costs = (self.n_layers_ - self.layers_) / self.n_layers_
        return np.where(self.scores_ == self.unseen_, self.unseen_, self.scores_ / costs**self.cost_weight)

    def _random_if_unseen(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.random_state_.random_sample(len(scores)) if np.all(scores == self.unseen_) else scores

    def _layer_norm(self, tensor_norms: NDArray[np.float64]) -> float:
        if self.variant == "reference":
            return float(np.sqrt(np.sum(np.sqrt(tensor_norms))))
        return math.hypot(*tensor_norms)

    def _split(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the positions of the important layers among ``scores``."""
        if len(scores) < 2:
            return np.arange(len(scores))
        scores = self._random_if_unseen(scores)
        order = np.argsort(scores, kind="stable")
        n_below = best_cut(scores[order], self.lower_quantile, self.upper_quantile)
        return order[n_below - 1 :] if self.variant == "reference" else order[n_below:]
