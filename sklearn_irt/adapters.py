"""Puts peft's adapters into the candidate layers, and nowhere else."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import IA3Config, LoraConfig, PeftConfig, inject_adapter_in_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .bottleneck import PARALLEL_MODULES, bottleneck_config
from .linear_modules import FEED_FORWARD_OUTPUT, KEYS_AND_VALUES, check_known, named
from .selection import LayerSelection

# What peft may start from without a look at the weights or texts (and "mica", which only looks).
_LORA_STARTS = ("gaussian", "orthogonal", "mica")
# Parameters of peft's configurations that concern other parts of a model than its layers, or their number.
_BEYOND_LAYERS = ("modules_to_save", "trainable_token_indices", "layer_replication")


def adapter_config(adapter: str | PeftConfig | None) -> PeftConfig | None:
    """Return the peft configuration that an ``adapter`` parameter stands for.

    Parameters
    ----------
    adapter : {"lora", "dora", "ia3", "bottleneck"}, PeftConfig or None
        "lora" is rank 16, alpha 32, no dropout, on every linear layer; "dora" the same with the length of each row of
        the weight apart (Liu et al. 2024, arXiv 2402.09353); "ia3" a factor for every key, value and inner unit of the
        feed-forward part (Liu et al. 2022, arXiv 2205.05638), or for what peft's own list of modules has in their place
        where it knows the family (queries and values in Qwen and Gemma, the output of attention too in BERT);
        "bottleneck" see
        :func:`~sklearn_irt.bottleneck.bottleneck_config`. None are the layers' own weights.

    Returns
    -------
    config : PeftConfig or None
        A copy, so that peft changes nothing of the user's.

    Raises
    ------
    ValueError
        If peft would begin by changing the backbone's own weights, which all estimators of a process share, or by
        measuring them on texts; if it would train anything but layers; or cannot be told which layers to leave alone.
    """
    if adapter is None:
        return None
    if isinstance(adapter, str):
        return _named(adapter)
    start = getattr(adapter, "init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _LORA_STARTS:
        raise ValueError(
            f"adapter has init_lora_weights={start!r}, which changes the backbone's own weights or measures texts "
            "beforehand; use True, False, 'gaussian', 'orthogonal' or 'mica'."
        )
    for name in _BEYOND_LAYERS:
        if getattr(adapter, name, None):
            raise ValueError(
                f"adapter has {name}={getattr(adapter, name)!r}, but adapters are in the candidate layers alone, and "
                f"the classification head is trained in any case: leave {name} out."
            )
    if not hasattr(adapter, "exclude_modules"):
        raise ValueError(
            f"adapter={type(adapter).__name__} cannot be restricted to layers: use LoraConfig or a relative."
        )
    return copy.deepcopy(adapter)


def _named(adapter: str) -> PeftConfig:
    if adapter == "bottleneck":
        return bottleneck_config()
    if adapter == "ia3":
        return IA3Config()
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", use_dora=adapter == "dora")


def check_suits(selection: LayerSelection, adapter: PeftConfig | None) -> None:
    """Refuse a strategy that cannot work with an adapter.

    Parameters
    ----------
    selection : LayerSelection
        The strategy.
    adapter : PeftConfig or None
        What is trained in a layer; None are its own weights.

    Raises
    ------
    ValueError
        If the strategy needs another one.
    """
    name = type(selection).__name__
    if selection.needs_own_weights and adapter is not None:
        raise ValueError(
            f"selection={name} chooses among the entries of a layer's own weights: set adapter=None, and "
            "learning_rate=3e-3 or so."
        )
    if selection.needs_lora and not isinstance(adapter, LoraConfig):
        raise ValueError(
            f"selection={name} suppresses adapters of LoRA's kind: set adapter='lora', 'dora', 'bottleneck' or a "
            "LoraConfig."
        )


def attach_adapters(model: PreTrainedModel, stack: str, layers: Sequence[int], config: PeftConfig | None) -> None:
    """Attach adapters to some layers of a model; of these layers only the adapters require gradients afterwards.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    stack : str
        Dotted name of its list of layers.
    layers : sequence of int
        Which layers get adapters.
    config : PeftConfig or None
        Which adapters, and into which modules of a layer (peft's own mapping if it names none). With None there are
        none, and all parameters of these layers require gradients.

    Raises
    ------
    ValueError
        If the configuration puts no parameters into these layers, or changes weights of the model; or if "ia3" or
        "bottleneck" do not know the names of its modules.
    """
    if config is None:
        for layer in layers:
            model.get_submodule(f"{stack}.{layer}").requires_grad_(True)
        return
    weights = {name: (parameter, parameter.data) for name, parameter in model.named_parameters()}
    restricted: Any = copy.deepcopy(config)
    if hasattr(config, "fan_in_fan_out") and any(isinstance(module, Conv1D) for module in model.modules()):
        restricted.fan_in_fan_out = True  # GPT-2 keeps its weights transposed; peft warns at every layer otherwise
    lowest = model.get_submodule(f"{stack}.{layers[0]}")
    if isinstance(config, IA3Config) and config.target_modules is None:
        _choose_ia3_modules(restricted, lowest, model.config.model_type)
    elif getattr(config, "target_modules", None) == PARALLEL_MODULES:
        check_known(lowest, "bottleneck", "give sklearn_irt.bottleneck.bottleneck_config() other target_modules")
    inside = rf"{re.escape(stack)}\.(?:{'|'.join(str(layer) for layer in layers)})\."
    restricted.exclude_modules = rf"(?!{inside}).*|{_as_pattern(restricted.exclude_modules)}"
    try:
        inject_adapter_in_model(restricted, model)
    except ValueError as error:
        raise ValueError(
            f"adapter={type(config).__name__} does not fit {type(model).__name__}: {error}. Change the configuration."
        ) from error
    finally:
        changed = _put_back(weights)
    if changed:
        raise ValueError(
            f"adapter={type(config).__name__} as configured changes the backbone's own weights ({changed[0]} and "
            f"{len(changed) - 1} others), which all estimators of a process share: configure it without that."
        )


def _choose_ia3_modules(config: Any, layer: torch.nn.Module, family: str) -> None:
    """Name keys, values and the feed-forward output of a family that peft does not know."""
    if family not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        check_known(layer, "ia3", "pass a peft.IA3Config with target_modules and feedforward_modules")
        config.target_modules = named(KEYS_AND_VALUES, FEED_FORWARD_OUTPUT)
        config.feedforward_modules = named(FEED_FORWARD_OUTPUT)


def _put_back(weights: dict[str, tuple[torch.nn.Parameter, torch.Tensor]]) -> list[str]:
    """Undo what replaced the data of parameters, and return their names."""
    changed = [name for name, (parameter, data) in weights.items() if parameter.data_ptr() != data.data_ptr()]
    for name in changed:
        parameter, data = weights[name]
        parameter.data = data
    return changed


def _as_pattern(exclude_modules: str | Sequence[str] | None) -> str:
    if isinstance(exclude_modules, str):
        return exclude_modules
    return "|".join(rf"(?:.*\.)?{re.escape(name)}" for name in exclude_modules or ()) or "(?!)"
