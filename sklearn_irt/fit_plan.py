"""What a fit learns from, and what it will do, as known before any weight is read."""

from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from peft import PeftConfig

from .adapters import adapter_config, check_suits
from .backbone import load_config, load_tokenizer
from .pairs import Pair
from .precision import choose_device, count_operations
from .quantization import check_quantization
from .rows import check_max_length
from .scoring import HeldOutScores
from .selection.base import layer_indices
from .selection.named import selection_for_fit
from .states_store import open_memory
from .tokenization import TokenizedPairs
from .training import count_steps
from .without_weights import BackboneSize, check_adapter_fits, describe_backbone


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
    memory: Memory | None
    """Where prefix states are kept for other processes."""
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


def plan_fit(classifier: Any, data: TrainingData, n_epochs: int, device: str) -> FitPlan:
    """Check what can be checked, and count what will be computed, before any weight is read or number drawn.

    Parameters
    ----------
    classifier : IRTuningClassifier
        Whose parameters say what to do; it is left as it is.
    data : TrainingData
        What it will learn from.
    n_epochs : int
        Passes over the texts.
    device : str
        Where it computes, as the parameter ``device`` has it.

    Returns
    -------
    plan : FitPlan
        What the fit will do.

    Raises
    ------
    TypeError, ValueError, OSError
        If something cannot be done as asked.
    """
    adapter = adapter_config(classifier.adapter)
    memory = open_memory(classifier.memory)
    chosen = choose_device(device)
    check_quantization(classifier.quantization, chosen, classifier.adapter)
    config = load_config(classifier.backbone, classifier.backbone_options)
    size = describe_backbone(config, classifier.n_layers, classifier.backbone_options)
    n_layers = _count_layers_that_run(size.n_layers, classifier.drop_layers)
    layers = layer_indices(classifier.candidate_layers, n_layers, "candidate_layers")
    check_suits(selection_for_fit(classifier.selection), adapter)
    check_adapter_fits(adapter, config, layers.tolist(), classifier.backbone_options)
    tokenizer = load_tokenizer(classifier.backbone, classifier.backbone_options)
    check_max_length(classifier, config, tokenizer)
    tokenized = classifier._tokenize(data.pairs, tokenizer, data.classes, user_frame=5)
    held_out = classifier.validation_fraction if classifier.early_stopping else 0.0
    n_steps = count_steps(len(data.pairs), classifier.batch_size, held_out)
    return FitPlan(adapter, chosen, memory, config, size, n_layers, layers, tokenized, n_epochs, n_steps)


def _count_layers_that_run(n_layers: int, drop_layers: int) -> int:
    if drop_layers >= n_layers:
        raise ValueError(f"drop_layers={drop_layers} leaves none of the {n_layers} layers that run: lower it.")
    return n_layers - drop_layers
