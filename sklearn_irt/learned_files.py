"""Writes what a trained part learned as files that peft opens, and reads it back to the bit."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import TaskType, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from .head import embedding_name, head_modules
from .trained_part import TrainedPart

OWN_WEIGHTS = "own_weights.safetensors"
# Of a PeftModel: the place of the backbone in it.
_PEFT_PREFIX = "base_model.model."
_METADATA = {"format": "pt"}


def save_learned(part: TrainedPart, folder: Path, backbone: str | None) -> None:
    """Write adapters and head.

    Modules are named as in the backbone's sequence-classification model, and layers by their index in it, whatever
    layers were dropped.

    Parameters
    ----------
    part : TrainedPart
        What to write.
    folder : Path
        Gets ``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes them, with the head among the
        ``modules_to_save``; what peft has no name for, which is everything where the layers' own weights trained or
        the adapter is none of peft's (the bottleneck), goes to ``own_weights.safetensors``.
    backbone : str or None
        Where peft finds the backbone by itself, if it can.
    """
    learned = {name: tensor.detach().cpu().contiguous() for name, tensor in part.state_dict().items()}
    in_peft, others = _file_names(part)
    if in_peft:
        _write_config(part, folder, backbone)
        save_file({file: learned[name] for name, file in in_peft.items()}, folder / SAFETENSORS_WEIGHTS_NAME, _METADATA)
    if others:
        save_file({file: learned[name] for name, file in others.items()}, folder / OWN_WEIGHTS, _METADATA)


def load_learned(part: TrainedPart, folder: Path) -> None:
    """Read what :func:`save_learned` wrote into a trained part of the same backbone, layers and adapter."""
    in_peft, others = _file_names(part)
    learned: dict[str, torch.Tensor] = {}
    for names, file_name in ((in_peft, SAFETENSORS_WEIGHTS_NAME), (others, OWN_WEIGHTS)):
        if names:
            tensors = load_file(folder / file_name)
            learned |= {name: tensors[file] for name, file in names.items()}
    part.load_state_dict(learned)


def _file_names(part: TrainedPart) -> tuple[dict[str, str], dict[str, str]]:
    """Return the name in peft's file of each tensor that peft can name, and that of the others in our own."""
    learned = {name.removeprefix("model."): tensor for name, tensor in part.state_dict(keep_vars=True).items()}
    in_peft = {name: _PEFT_PREFIX + file for name, file in _names_of_peft(part, learned).items()}
    rename = _naming_as_in_backbone(part)
    return (
        {f"model.{name}": rename(file) for name, file in in_peft.items()},
        {f"model.{name}": rename(name) for name in learned if name not in in_peft},
    )


def _names_of_peft(part: TrainedPart, learned: dict[str, torch.Tensor]) -> dict[str, str]:
    if not _is_known_to_peft(part.origin["adapter"]):
        return {}
    named = get_peft_model_state_dict(part.model, learned, save_embedding_layers=False)
    by_tensor = {id(tensor): file for file, tensor in named.items()}
    names = {name: by_tensor[id(tensor)] for name, tensor in learned.items() if id(tensor) in by_tensor}
    around = tuple(f"{module}." for module in _modules_around(part))
    return {**names, **{name: name for name in learned if name.startswith(around)}}


def _is_known_to_peft(adapter: Any) -> bool:
    return not (
        adapter is None or getattr(adapter, "_custom_modules", None) or getattr(adapter, "target_parameters", None)
    )


def _modules_around(part: TrainedPart) -> list[str]:
    """Name the modules that train beside the layers: the head's, and the embeddings."""
    return [*head_modules(part.model), *([embedding_name(part.model)] if part.trains_embeddings else [])]


def _naming_as_in_backbone(part: TrainedPart) -> Callable[[str], str]:
    """Return a function that replaces the index of a layer that is left, in a name, by its index in the backbone."""
    dropped = set(part.backbone.origin.get("dropped", ()))
    n_layers = len(part.stack) + len(dropped)
    own = [index for index in range(n_layers) if index not in dropped]
    inside = re.compile(rf"(?<![^.])({re.escape(part.backbone.stack)}\.)(\d+)(?=\.|$)")
    return lambda name: inside.sub(lambda match: f"{match[1]}{own[int(match[2])]}", name)


def _write_config(part: TrainedPart, folder: Path, backbone: str | None) -> None:
    config: Any = copy.deepcopy(part.model.peft_config["default"])
    rename = _naming_as_in_backbone(part)
    modules = part.model.named_modules()
    tuned: dict[str, Any] = {name: module for name, module in modules if isinstance(module, BaseTunerLayer)}
    config.task_type, config.inference_mode, config.base_model_name_or_path = TaskType.SEQ_CLS, True, backbone
    config.modules_to_save = _modules_around(part)
    # All by their whole names, and no other layer: nothing is left for peft to look for by itself.
    config.target_modules = sorted(rename(name) for name in tuned)
    for name in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        setattr(config, name, None)
    if hasattr(config, "feedforward_modules"):
        config.feedforward_modules = sorted(rename(name) for name, module in tuned.items() if module.is_feedforward)
    for name in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(config, name, None):
            key_of = {name: get_pattern_key(pattern, name) for name in tuned}
            setattr(config, name, {rename(name): pattern[key] for name, key in key_of.items() if key in pattern})
    config.save_pretrained(str(folder))
