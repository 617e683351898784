"""Fine-tune LLMs for text classification behind scikit-learn's fit and predict."""

from .baselines import EditFeatures, make_edit_baseline, make_frozen_baseline
from .classifier import IRTuningClassifier
from .datasets import fetch_iterater, load_sample_revisions
from .features import BackboneFeatures
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
    "EditFeatures",
    "FisherSelection",
    "FixedSelection",
    "FullSelection",
    "GradientNormSelection",
    "HalfSelection",
    "IRTuningClassifier",
    "LayerSelection",
    "LearnedImportanceSelection",
    "RandomSelection",
    "SparseSelection",
    "SubTuningSelection",
    "fetch_iterater",
    "load_sample_revisions",
    "make_edit_baseline",
    "make_frozen_baseline",
    "to_string_array",
]
