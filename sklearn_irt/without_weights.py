"""What a backbone's configuration tells of it alone, before any of its weights is read."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftConfig
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from .adapters import attach_adapters
from .backbone_files import reading
from .randomness import isolated_seed
from .stack import count_parameters, drop_upper_layers, find_stack, get_layers


class BackboneSize(NamedTuple):
    """How large a backbone is."""

    n_parameters: int
    """Of the whole model."""
    n_layers: int
    """Transformer layers that run."""
    n_layer_parameters: int
    """Parameters of the layers that run."""


def describe_backbone(
    config: Any, n_layers: str | float = "all", options: Mapping[str, Any] | None = None
) -> BackboneSize:
    """Count layers and parameters of a backbone without reading its weights.

    Parameters
    ----------
    config : PreTrainedConfig
        Its configuration.
    n_layers : {"all"}, int or float, default="all"
        See :func:`~sklearn_irt.stack.drop_upper_layers`.
    options : mapping, default=None
        See :func:`~sklearn_irt.backbone.load_backbone`.

    Returns
    -------
    size : BackboneSize
        What was counted.

    Raises
    ------
    ValueError
        If the configuration makes no model, or there are no such layers.
    """
    model = _without_weights(config, options)
    n_parameters = count_parameters(model)
    layers = get_layers(model, find_stack(model))
    drop_upper_layers(layers, n_layers)
    return BackboneSize(n_parameters, len(layers), count_parameters(layers))


def check_adapter_fits(
    adapter: PeftConfig | None, config: Any, layers: Sequence[int], options: Mapping[str, Any] | None = None
) -> None:
    """Refuse adapters that find no place in a backbone's layers.

    Parameters
    ----------
    adapter, layers
        See :func:`~sklearn_irt.adapters.attach_adapters`.
    config : PreTrainedConfig
        The backbone's configuration.
    options : mapping, default=None
        See :func:`~sklearn_irt.backbone.load_backbone`.

    Raises
    ------
    ValueError
        If they find none.
    """
    if adapter is not None:
        model = _without_weights(config, options)
        with torch.device("meta"), isolated_seed(0, torch.device("cpu")):
            attach_adapters(model, find_stack(model), layers, adapter)


def _without_weights(config: Any, options: Mapping[str, Any] | None) -> PreTrainedModel:
    taken = {name: value for name, value in (options or {}).items() if name == "attn_implementation"}
    taken["trust_remote_code"] = (options or {}).get("trust_remote_code", False)
    # Remote code may draw what it likes.
    with reading("configuration", config.name_or_path), torch.device("meta"), isolated_seed(0, torch.device("cpu")):
        return AutoModelForSequenceClassification.from_config(config, **taken)
