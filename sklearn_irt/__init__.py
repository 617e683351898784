"""Fine-tune LLMs for text classification behind scikit-learn's fit and predict."""

from .baselines import EditFeatures, make_edit_baseline
from .classifier import IRTuningClassifier
from .convergence_display import ConvergenceDisplay
from .datasets import fetch_iterater, load_sample_revisions
from .layer_selection_display import LayerSelectionDisplay
from .selection import (
    BudgetSelection,
    FisherSelection,
    FixedSelection,
    FullSelection,
    GradientNormSelection,
    HalfSelection,
    LayerSelection,
    LearnedImportanceSelection,
    RandomSelection,
    SparseSelection,
    SubTuningSelection,
)

__version__ = "0.1.0"

__all__ = [
    "BudgetSelection",
    "ConvergenceDisplay",
    "EditFeatures",
    "FisherSelection",
    "FixedSelection",
    "FullSelection",
    "GradientNormSelection",
    "HalfSelection",
    "IRTuningClassifier",
    "LayerSelection",
    "LayerSelectionDisplay",
    "LearnedImportanceSelection",
    "RandomSelection",
    "SparseSelection",
    "SubTuningSelection",
    "fetch_iterater",
    "load_sample_revisions",
    "make_edit_baseline",
]
