"""What a fit learns from, and what it will do, as known before any weight is read."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftConfig

from .backbone import BackboneSize
from .pairs import Pair
from .precision import count_operations
from .scoring import HeldOutScores
from .tokenization import TokenizedPairs


class TrainingData(NamedTuple):
    """The rows that count."""

    pairs: list[Pair]
    """The texts."""
    labels: NDArray[np.int64]
    """Index of each row's class, of shape (n_rows,)."""
    weights: NDArray[np.float64]
    """Weight of each row's loss, of shape (n_rows,), of mean 1."""
    classes: NDArray[Any]
    """The class labels, of shape (n_classes,)."""
    held_out_scores: HeldOutScores | None
    """What stops the fit early."""


class FitPlan(NamedTuple):
    """What a fit will do."""

    adapter: PeftConfig | None
    """What trains in a layer; None are its own weights."""
    device: torch.device
    """Where it computes."""
    config: Any
    """The backbone's configuration."""
    size: BackboneSize
    """Of the backbone, with the layers that will be dropped."""
    n_layers: int
    """Layers that run."""
    layers: NDArray[np.intp]
    """The candidate layers."""
    tokenized: TokenizedPairs
    """The texts."""
    n_epochs: int
    """Passes over the texts."""
    steps_per_epoch: int
    """Batches of a pass."""

    @property
    def n_tokens(self) -> int:
        """Of the distinct texts together."""
        return sum(map(len, self.tokenized.token_ids))

    @property
    def hidden_size(self) -> int:
        """Of the backbone's states."""
        return self.config.get_text_config().hidden_size

    def count_operations(self, *, has_prefix: bool) -> float:
        """Return the multiplications of the fit, of which those of the prefix count once a text."""
        return count_operations(
            self.size.n_layer_parameters * self.n_layers // self.size.n_layers,
            self.n_tokens,
            self.tokenized.lengths.sum(),
            self.layers[0] / self.n_layers if has_prefix else 0.0,
            self.n_epochs,
        )
