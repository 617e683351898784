"""Puts peft's adapters into the candidate layers, and nowhere else."""

import copy
import re
from collections.abc import Sequence

from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def adapter_config(adapter: str | PeftConfig) -> PeftConfig:
    """Return the peft configuration that an ``adapter`` parameter stands for.

    Parameters
    ----------
    adapter : {"lora"} or PeftConfig
        "lora" is rank 16, alpha 32, no dropout, on every linear layer.

    Returns
    -------
    config : PeftConfig
        A copy, so that peft changes nothing of the user's.
    """
    if isinstance(adapter, PeftConfig):
        return copy.deepcopy(adapter)
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")


def attach_adapters(model: PreTrainedModel, stack: str, layers: Sequence[int], config: PeftConfig) -> None:
    """Attach adapters to some layers of a model; only the adapters require gradients afterwards.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    stack : str
        Dotted name of its list of layers.
    layers : sequence of int
        Which layers get adapters.
    config : PeftConfig
        Which adapters, and into which modules of a layer (peft's own mapping if it names none).

    Raises
    ------
    ValueError
        If the configuration puts no parameters into these layers.
    """
    if not hasattr(config, "exclude_modules"):
        raise ValueError(
            f"adapter={type(config).__name__} cannot be restricted to layers: use LoraConfig or a relative."
        )
    config = copy.deepcopy(config)
    if hasattr(config, "fan_in_fan_out") and any(isinstance(module, Conv1D) for module in model.modules()):
        config.fan_in_fan_out = True  # GPT-2 keeps its weights transposed; peft warns at every layer otherwise
    inside = rf"{re.escape(stack)}\.(?:{'|'.join(str(layer) for layer in layers)})\."
    config.exclude_modules = rf"(?!{inside}).*|{_as_pattern(config.exclude_modules)}"
    try:
        inject_adapter_in_model(config, model)
    except ValueError as error:
        raise ValueError(f"adapter={type(config).__name__} does not fit {type(model).__name__}: {error}") from error


def _as_pattern(exclude_modules: str | Sequence[str] | None) -> str:
    if isinstance(exclude_modules, str):
        return exclude_modules
    return "|".join(rf"(?:.*\.)?{re.escape(name)}" for name in exclude_modules or ()) or "(?!)"
