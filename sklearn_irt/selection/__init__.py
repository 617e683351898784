"""Ways to choose which layers train: one strategy a file."""

from .base import LayerSelection
from .budget import BudgetSelection
from .fisher import FisherSelection
from .fixed import FixedSelection
from .full import FullSelection
from .gradient_norm import GradientNormSelection
from .half import HalfSelection
from .interval import IntervalSelection
from .learned_importance import LearnedImportanceSelection
from .probe import LayerCost, LayerProbe
from .random import RandomSelection
from .sparse import SparseSelection
from .sub_tuning import SubTuningSelection

__all__ = [
    "BudgetSelection",
    "FisherSelection",
    "FixedSelection",
    "FullSelection",
    "GradientNormSelection",
    "HalfSelection",
    "IntervalSelection",
    "LayerCost",
    "LayerProbe",
    "LayerSelection",
    "LearnedImportanceSelection",
    "RandomSelection",
    "SparseSelection",
    "SubTuningSelection",
]
