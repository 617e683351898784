"""Scores the held-out part after each epoch by scikit-learn's scorers, from the logits that the loss is computed of."""

import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils import _safe_indexing
from skorch import NeuralNet
from skorch.callbacks import Callback

from .answers import choose, decide, to_probabilities

Scorer = Callable[[Any, Any, Any], Any]
_LOSS = "loss"
_WITHOUT_STRATA = (
    " for rows that were drawn as those held out will be. Some scores need rows with and without each label: choose "
    "another one, or raise validation_fraction."
)
TAKEN = {"acc", "batch_count"}
"""Names that no score can have, for skorch notes something else in the columns that these would have."""


def read_scoring(scoring: Any) -> dict[str, Scorer | None]:
    """Read a ``scoring`` parameter.

    Parameters
    ----------
    scoring : str, callable, list, tuple or dict
        See :class:`~sklearn_irt.IRTuningClassifier`.

    Returns
    -------
    scorers : dict
        A scorer for each name, and None for "loss", which the net computes itself; the first one decides.

    Raises
    ------
    ValueError
        If a name is unknown, comes twice or is taken, a callable has none or is no scorer, or there are no scorers.
    """
    if isinstance(scoring, str):
        named: Mapping[str, Any] = {scoring: scoring}
    elif callable(scoring):
        named = {"score": scoring}
    else:
        named = scoring if isinstance(scoring, dict) else _by_name(scoring)
    if not named:
        raise ValueError(f"scoring={scoring!r} names no scorer: give at least one, or 'loss'.")
    return {name: _read_scorer(name, scorer) for name, scorer in named.items()}


def _by_name(scoring: Any) -> dict[str, str]:
    names = list(scoring)
    for position, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(
                f"scoring is a {type(scoring).__name__} with {name!r} at position {position}, which has no name: a "
                "list names scorers of scikit-learn. Give a dict, such as {'my_score': scorer}."
            )
        if name in names[:position]:
            raise ValueError(f"scoring={scoring!r} names {name!r} twice.")
    return {name: name for name in names}


def _read_scorer(name: Any, scorer: Any) -> Scorer | None:
    if not isinstance(name, str) or not (isinstance(scorer, str) or callable(scorer)):
        raise ValueError(f"scoring must be a dict of names and scorers, but it holds {name!r}: {scorer!r:.80}.")
    if name == scorer == _LOSS:
        return None
    if name == _LOSS or scorer == _LOSS or name in TAKEN or name.endswith("_best"):
        raise ValueError(
            f"scoring must not hold {name!r}: {scorer!r:.80}, because 'loss' goes by its own name and valid_{name} is "
            "noted in history_ already: choose another name."
        )
    if isinstance(scorer, str) and scorer not in get_scorer_names():
        similar = get_close_matches(scorer, get_scorer_names(), n=1)
        raise ValueError(
            f"scoring={scorer!r} is neither 'loss' nor a name that sklearn.metrics.get_scorer_names() lists."
            + "".join(f" Did you mean {name!r}?" for name in similar)
        )
    return check_scoring(scoring=scorer)


class HeldOutAnswers(ClassifierMixin, BaseEstimator):
    """What a scorer gets as estimator: the answers of the classifier to the held-out rows, after an epoch.

    Parameters
    ----------
    X : DataFrame, array-like or list of shape (n_held_out, 2) or (n_held_out,)
        The held-out rows; it has answers to them alone.
    logits : ndarray of shape (n_held_out, n_classes), dtype float64
        One row each.
    classes : ndarray of shape (n_classes,)
        The class labels.
    multilabel : bool, default=False
        Whether a row may have any number of them.
    """

    def __init__(self, X: Any, logits: NDArray[np.float64], classes: NDArray[Any], *, multilabel: bool = False) -> None:
        self.X = X
        self.logits = logits
        self.classes = classes
        self.multilabel = multilabel

    @property
    def classes_(self) -> NDArray[Any]:
        """The class labels."""
        return self.classes

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable classes; of many labels, 1 for those that are more probable than not."""
        return choose(self._answer(X), self.classes, multilabel=self.multilabel)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities, columns in the order of ``classes_``."""
        return to_probabilities(self._answer(X), multilabel=self.multilabel)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return logits; of two classes, the log odds of the second."""
        return decide(self._answer(X), multilabel=self.multilabel)

    def _answer(self, X: Any) -> NDArray[np.float64]:
        if X is not self.X:
            raise ValueError("Within a scorer there are answers to the held-out rows alone: pass X on as it came.")
        return self.logits


class HeldOutScores(Callback):
    """Note the scores of the held-out part in the history, after each epoch.

    Parameters
    ----------
    scorers : dict
        From :func:`read_scoring`.
    X : DataFrame, array-like or list of shape (n_rows, 2) or (n_rows,)
        The user's rows, those of the net's dataset.
    labels : ndarray of shape (n_rows,) or (n_rows, n_classes), dtype int64
        Index of each row's class; of many labels, 1 where a row has a label.
    classes : ndarray of shape (n_classes,)
        The class labels.
    """

    def __init__(
        self, scorers: dict[str, Scorer | None], X: Any, labels: NDArray[np.int64], classes: NDArray[Any]
    ) -> None:
        self.scorers = scorers
        self.X = X
        self.labels = labels
        self.classes = classes

    @property
    def decisive(self) -> str:
        """Name of the score that decides when to stop."""
        return next(iter(self.scorers))

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value of that score is better."""
        return self.decisive == _LOSS

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Start without a best score."""
        self.best_ = dict.fromkeys(self.scorers, -np.inf)

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Start without logits."""
        self.logits_: list[torch.Tensor] = []

    def on_batch_end(self, net: NeuralNet, training: bool = False, y_pred: Any = None, **kwargs: Any) -> None:
        """Keep the logits of the held-out rows."""
        if not training:
            self.logits_.append(y_pred.float().cpu())

    def on_epoch_end(self, net: NeuralNet, dataset_valid: Any = None, **kwargs: Any) -> None:
        """Compute the scores and note them."""
        batches = net.get_iterator(dataset_valid, training=False).batch_sampler
        logits = np.empty((len(dataset_valid), len(self.classes)))
        logits[[position for batch in batches for position in batch]] = torch.cat(self.logits_).numpy()
        question = self._ask(np.asarray(dataset_valid.indices), logits)
        for name, scorer in self._computed.items():
            score = net.processes_.first_ones(float(scorer(*question)))  # it may draw at random
            if np.isnan(score):
                epoch = net.history[-1, "epoch"]
                warnings.warn(f"scoring: {name!r} is nan after epoch {epoch}, which counts as no better.", stacklevel=2)
            net.history.record(f"valid_{name}", score)
            net.history.record(f"valid_{name}_best", score > self.best_[name])
            self.best_[name] = max(score, self.best_[name])

    @property
    def _multilabel(self) -> bool:
        return self.labels.ndim == 2

    @property
    def _computed(self) -> dict[str, Scorer]:
        return {name: scorer for name, scorer in self.scorers.items() if scorer is not None}

    def _ask(self, held_out: NDArray[np.intp], logits: NDArray[np.float64]) -> tuple[HeldOutAnswers, Any, NDArray[Any]]:
        """Return what a scorer is called with."""
        X, labels = _safe_indexing(self.X, held_out), self.labels[held_out]
        answers = HeldOutAnswers(X, logits, self.classes, multilabel=self._multilabel)
        return answers, X, labels if self._multilabel else self.classes[labels]

    def check(self, validation_fraction: float) -> None:
        """Try the scorers on made-up answers, all of them right, to rows such as will be held out.

        Parameters
        ----------
        validation_fraction : float
            Share that will be held out; as many rows of each class are tried as the split will take.

        Raises
        ------
        ValueError
            If a scorer fails, or does not return a number.
        """
        kind = ShuffleSplit if self._multilabel else StratifiedShuffleSplit
        split = kind(1, test_size=validation_fraction, random_state=0)
        _, held_out = next(split.split(self.labels, self.labels))
        labels = self.labels[held_out]
        question = self._ask(held_out, 2.0 * labels - 1 if self._multilabel else np.eye(len(self.classes))[labels])
        for name, scorer in self._computed.items():
            try:
                score = scorer(*question)
            except Exception as error:
                raise ValueError(
                    f"scoring: {name!r} fails on the {len(held_out)} rows held out, were all answers right: {error}"
                ) from error
            if not isinstance(score, Real) or np.isnan(float(score)):
                raise ValueError(
                    f"scoring: {name!r} must return a number, but returned {score!r:.80}"
                    + (_WITHOUT_STRATA if self._multilabel else ".")
                )
