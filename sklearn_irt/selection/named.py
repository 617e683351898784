"""The strategies that a ``selection`` parameter can name."""

from sklearn.base import clone

from .base import LayerSelection
from .budget import BudgetSelection
from .fisher import FisherSelection
from .full import FullSelection
from .gradient_norm import GradientNormSelection
from .half import HalfSelection
from .learned_importance import LearnedImportanceSelection
from .random import RandomSelection
from .sparse import SparseSelection
from .sub_tuning import SubTuningSelection

NAMED: dict[str, LayerSelection] = {
    "ir": GradientNormSelection(),
    "ir-fast": GradientNormSelection(warm_up=10, interval=None),
    "full": FullSelection(),
    "random": RandomSelection(),
    "ist": LearnedImportanceSelection(),
    "fisher": FisherSelection(),
    "subtuning": SubTuningSelection(),
    "budget": BudgetSelection(),
    "half": HalfSelection(),
    "sparse": SparseSelection(),
}
"""Each of them with its defaults, but "ir-fast"."""


def selection_for_fit(selection: str | LayerSelection) -> LayerSelection:
    """Return an unfitted copy of a strategy, or the one of that name."""
    return clone(NAMED[selection] if isinstance(selection, str) else selection)
