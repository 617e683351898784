"""GreenTrainer: trains the most important layers that a budget of computation allows."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from sklearn.utils._param_validation import Interval

from .base import COUNT, INTERVAL
from .interval import IntervalSelection


class BudgetSelection(IntervalSelection):
    """Train the most important layers whose backward pass fits a share of a full step's (GreenTrainer).

    The importance of a layer is the loss that its next update is expected to save. Its cost is that of its parameters'
    gradients; and gradients must pass every layer above the lowest that trains, which costs too, so the budget asks for
    high layers. Of all choices within the budget the one of the largest sum of importances is taken.

    Parameters
    ----------
    share : float, default=0.5
        What the backward pass of a step may cost, as a share of that of a step which trains all candidates.

    interval : int, {"epoch"} or None, default="epoch"
        When layers are selected: at the beginning of each epoch, after each so many steps, or once, before training.

    n_texts : int, default=16
        Training texts on which the importance is measured, drawn anew each time.

    Attributes
    ----------
    scores_ : ndarray of shape (n_candidates,), dtype float
        Importance of each layer: sum over its parameters of gradient times AdamW's step, for a learning rate of 1.

    References
    ----------
    Huang, Yin, Huang and Gao, "Towards Green AI in Fine-tuning Large Language Models via Adaptive Backpropagation",
    ICLR 2024, arXiv 2309.13192: importance (section 3.3), costs and the constraint on them (sections 3.1 and 3.2). The
    authors choose single tensors by dynamic programming over rounded costs, and count the forward pass, which is the
    same for every choice, into the budget; here layers are chosen, by an exact
    integer program (``scipy.optimize.milp``). They measure the gradient after a trial update, every second epoch; here
    it is measured before the update, which changes no weights and no moments of AdamW.

    Examples
    --------
    >>> from sklearn_irt import IRTuningClassifier
    >>> from sklearn_irt.selection import BudgetSelection
    >>> clf = IRTuningClassifier(selection=BudgetSelection(share=0.6))
    """

    _parameter_constraints: dict = {
        "share": [Interval(Real, 0, 1, closed="right")],
        "interval": INTERVAL,
        "n_texts": COUNT[:1],
    }

    score_name = "Expected saving of loss"

    def __init__(self, *, share: float = 0.5, interval: Any = "epoch", n_texts: int = 16) -> None:
        self.share = share
        self.interval = interval
        self.n_texts = n_texts

    def choose(self) -> NDArray[np.intp]:
        """Return the most important layers within the budget.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.

        Raises
        ------
        ValueError
            If the budget allows no layer at all.
        """
        self.scores_ = self.probe_.savings(self.n_texts)
        return self._best_within_budget()

    def _best_within_budget(self) -> NDArray[np.intp]:
        """Maximize sum(importance * trains), with trains and passes 0 or 1 for each layer from the lowest candidate."""
        costs = self.probe_.costs()[self.layers_[0] :]
        passing, own = np.array([(cost.passing, cost.own) for cost in costs], dtype=np.float64).T
        n, candidates = len(costs), self.layers_ - self.layers_[0]
        is_candidate = np.isin(np.arange(n), candidates)
        own = own * is_candidate
        total = (passing + own).sum()
        importance = np.zeros(n)
        importance[candidates] = self.scores_ / max(np.abs(self.scores_).max(), np.finfo(float).tiny)
        identity = np.eye(n)
        found = milp(
            np.concatenate([-importance, np.zeros(n)]),
            integrality=np.ones(2 * n),
            bounds=Bounds(0, np.concatenate([is_candidate, np.ones(n)])),
            constraints=[
                LinearConstraint(np.concatenate([own, passing]) / total, ub=self.share * (1 + 1e-9)),
                LinearConstraint(np.hstack([-identity, identity]), lb=0),  # a layer that trains is passed
                LinearConstraint(np.hstack([0 * identity, np.eye(n, k=1) - identity])[:-1], lb=0),  # so are those above
                LinearConstraint(np.concatenate([np.ones(n), np.zeros(n)]), lb=1),
            ],
        )
        if found.x is None:
            top = candidates[-1]
            least = (passing[top:].sum() + own[top]) / total
            raise ValueError(
                f"BudgetSelection(share={self.share}) allows no layer to train: to train the highest candidate alone "
                f"takes {least:.2f} of a full backward pass. Raise share, or lower candidate_layers."
            )
        return self.layers_[np.round(found.x[candidates]).astype(bool)]
