"""IST: trains layers by an importance that is learned from suppressing the adapters of others."""

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.utils._param_validation import Interval

from .base import COUNT, INTERVAL, LayerSelection


class LearnedImportanceSelection(LayerSelection):
    """Train layers drawn by an importance that is learned from the loss while adapters are suppressed (IST).

    At each scoring, a few sets of layers are drawn, unimportant layers more often. The adapters of each set in turn
    are suppressed, and the loss of a batch is computed: where it stays low, the layers of the set lose importance,
    where it rises, they gain. Every step trains layers that are drawn by importance.

    Parameters
    ----------
    n_trained : int or float, default=0.25
        How many of the candidate layers train at a step, or that share of them (rounded, at least one).

    interval : int, {"epoch"} or None, default=10
        When layers are scored: after each so many steps, or at the beginning of each epoch but the first. None scores
        them once, at the beginning of the second epoch (before, the adapters have little to say), and then holds one
        draw.

    n_sets : int, default=3
        How many sets are suppressed at a scoring.

    n_suppressed : int or float, default=0.5
        Layers of a set, or their share of the candidates.

    factor : float, default=0.25
        What the output of a suppressed adapter is multiplied by.

    learning_rate : float, default=10.0
        How much a scoring changes the scores.

    n_texts : int, default=16
        Training texts that the loss is computed on, drawn anew at each scoring, the same for every set.

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        Importance of each layer: minus the source's score, which is large where a layer is not important.

    References
    ----------
    Yao et al., "Layer-wise Importance Matters: Less Memory for Better Performance in Parameter-efficient Fine-tuning of
    Large Language Models", Findings of EMNLP 2024, arXiv 2410.11772. The constants are those of the authors' code: with
    its score s and p = sigmoid(s), sets are drawn by p without replacement, no two of a scoring the same; a set with
    loss L has the reward exp(-L) minus the mean of exp(-L) over the sets; s += learning_rate * reward * p * (1 - p) for
    each of its layers, with the p from before the scoring; layers to train are drawn by sigmoid(-s) without
    replacement. The code leaves interval=None open; the rule for it is this package's own.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.selection import LearnedImportanceSelection
    >>> selection = LearnedImportanceSelection(n_trained=2)
    >>> selection.begin([4, 5, 6, 7], np.random.RandomState(0), n_layers=8, steps_per_epoch=10)
    >>> selection.select(step=0).tolist()
    [5, 6]
    """

    _parameter_constraints: dict = {
        "n_trained": COUNT,
        "interval": INTERVAL,
        "n_sets": COUNT[:1],
        "n_suppressed": COUNT,
        "factor": [Interval(Real, 0, 1, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "n_texts": COUNT[:1],
    }

    needs_lora = True
    score_name = "Learned importance"

    def __init__(
        self,
        *,
        n_trained: float = 0.25,
        interval: Any = 10,
        n_sets: int = 3,
        n_suppressed: float = 0.5,
        factor: float = 0.25,
        learning_rate: float = 10.0,
        n_texts: int = 16,
    ) -> None:
        self.n_trained = n_trained
        self.interval = interval
        self.n_sets = n_sets
        self.n_suppressed = n_suppressed
        self.factor = factor
        self.learning_rate = learning_rate
        self.n_texts = n_texts

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """Start a fit: all layers are equally important; the arguments are those of :meth:`LayerSelection.begin`.

        Raises
        ------
        ValueError
            If there are fewer candidates than layers to train or to suppress.
        """
        super().begin(*args, **kwargs)
        self.scores_ = np.zeros(len(self.layers_))
        self.n_trained_ = self._count(self.n_trained, "n_trained")
        self.n_suppressed_ = self._count(self.n_suppressed, "n_suppressed")

    def select(self, step: int) -> NDArray[np.intp]:
        """Return layers drawn by importance.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        if self._scores_at(step):
            self._learn()
        if self.interval is not None or step <= self.steps_per_epoch_:
            self.selected_ = self.layers_[self._draw(self.scores_, self.n_trained_)]
        return self.selected_

    def lowest(self, step: int) -> int:
        """Return the lowest layer of a draw that is held; otherwise any candidate may train again.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        layer : int
            No layer below it trains at this step or any later one.
        """
        held = self.interval is None and step >= self.steps_per_epoch_
        return int(self.selected_[0] if held else self.layers_[0])

    def _scores_at(self, step: int) -> bool:
        if self.interval is None:
            return step == self.steps_per_epoch_
        return step > 0 and self._is_due(step, self.interval)

    def _learn(self) -> None:
        sets = self._draw_sets()
        losses = self.probe_.losses([self.layers_[members].tolist() for members in sets], self.factor, self.n_texts)
        rewards = np.exp(-losses) - np.exp(-losses).mean()
        p = expit(-self.scores_)
        for members, reward in zip(sets, rewards, strict=True):
            self.scores_[members] -= self.learning_rate * reward * (p * (1 - p))[members]

    def _draw_sets(self) -> list[NDArray[np.intp]]:
        n_sets = min(self.n_sets, math.comb(len(self.layers_), self.n_suppressed_))
        sets: dict[bytes, NDArray[np.intp]] = {}
        while len(sets) < n_sets:
            members = self._draw(-self.scores_, self.n_suppressed_)
            sets[members.tobytes()] = members
        return list(sets.values())

    def _draw(self, scores: NDArray[np.float64], number: int) -> NDArray[np.intp]:
        p = expit(scores)
        return np.sort(self.random_state_.choice(len(scores), number, replace=False, p=p / p.sum()))
