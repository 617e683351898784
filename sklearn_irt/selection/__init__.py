"""Ways to choose which layers train: one strategy a file."""

from .base import LayerSelection
from .fixed import FixedSelection
from .full import FullSelection
from .gradient_norm import GradientNormSelection

__all__ = ["FixedSelection", "FullSelection", "GradientNormSelection", "LayerSelection"]
