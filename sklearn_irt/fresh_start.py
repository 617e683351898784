"""Lets a fit cost what it costs alone: forgets what earlier ones left, and pays beforehand what is paid once."""

import gc
import warnings
from collections.abc import Iterator

from sklearn.base import BaseEstimator, clone

from .backbone import forget_backbones
from .classifier import IRTuningClassifier
from .features import BackboneFeatures
from .pooled_states import rows_between_calls
from .states_store import between_fits
from .training import give_back_memory

# A fit of these takes the shortest way through all that is imported or timed once a process.
_SHORTEST = {
    "selection": "full",
    "max_epochs": 1,
    "class_weight": None,
    "early_stopping": False,
    "distributed": False,
    "memory": None,
    "warm_start": False,
    "verbose": 0,
}
_TEXTS = ["A first text.", "Another one."]


def forget_earlier_fits() -> None:
    """Forget the backbones, prefix states and features that the fits of this process share, and free their memory."""
    between_fits.clear()
    rows_between_calls.clear()
    if forget_backbones():
        gc.collect()  # the nets that hold them are in cycles; it takes a good part of a second
        give_back_memory()


def pay_once(estimator: BaseEstimator) -> None:
    """Pay what only the first fit of a process pays: imports, the timing of precision, the first look at the weights.

    For this, whatever in the estimator has a backbone is fitted to two short texts, so that one whose backbone cannot
    be loaded fails here.

    Parameters
    ----------
    estimator : BaseEstimator
        One that will be fitted; it is left as it is.
    """
    for part in parts_of(estimator):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fits that count will warn
            if isinstance(part, IRTuningClassifier):
                clone(part).set_params(**_SHORTEST).fit(_TEXTS, [0, 1]).predict(_TEXTS[:1])
            elif isinstance(part, BackboneFeatures):
                clone(part).set_params(memory=None, verbose=0).fit_transform(_TEXTS)


def parts_of(estimator: BaseEstimator) -> Iterator[BaseEstimator]:
    """Yield an estimator, and those that it holds as parameters."""
    yield estimator
    for value in estimator.get_params(deep=True).values():
        if isinstance(value, BaseEstimator):
            yield value
