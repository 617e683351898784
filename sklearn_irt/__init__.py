"""Fine-tune LLMs for text classification behind scikit-learn's fit and predict."""

from .backbone_ranking import rank_backbones
from .baselines import EditFeatures, make_edit_baseline, make_frozen_baseline
from .classifier import IRTuningClassifier
from .comparison import compare
from .comparison_display import ComparisonDisplay
from .convergence_display import ConvergenceDisplay
from .datasets import fetch_iterater, load_sample_revisions
from .edit_explanation import explain_edits
from .edits_display import EditsDisplay
from .features import BackboneFeatures
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
from .string_array import to_string_array

__version__ = "0.1.0"

__all__ = [
    "BackboneFeatures",
    "BudgetSelection",
    "ComparisonDisplay",
    "ConvergenceDisplay",
    "EditFeatures",
    "EditsDisplay",
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
    "compare",
    "explain_edits",
    "fetch_iterater",
    "load_sample_revisions",
    "make_edit_baseline",
    "make_frozen_baseline",
    "rank_backbones",
    "to_string_array",
]
