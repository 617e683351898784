"""Writes a fitted classifier as an ordinary transformers checkpoint, its adapters merged into the weights."""

import copy
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from sklearn.utils.validation import check_is_fitted
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from .adapters import attach_adapters
from .backbone import Backbone, load_backbone
from .backbone_files import quiet_transformers
from .head import replace_head
from .layer_dropping import without_layers
from .partial_model import run_up_to, share_weights
from .stack import get_layers
from .stored_folder import replaced_folder
from .trained_part import TrainedPart

EXPORTED = "exported IRTuningClassifier"
# How far the checkpoint's logits may be from the classifier's, as a share of the largest. bf16 has three digits, and a
# layer more or less, or one in another place, makes them wholly different ones.
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}


def export_classifier(classifier: Any, path: str | os.PathLike[str]) -> None:
    """Export a fitted classifier; see :meth:`~sklearn_irt.IRTuningClassifier.export`."""
    check_is_fitted(classifier, "net_")
    part = classifier.net_.module_
    _check_mergeable(part)
    if classifier.long_text == "windows":
        warnings.warn(
            "The checkpoint reads one window: of texts of more tokens than max_length it knows the beginning alone, "
            "and scores them otherwise than the classifier, which averages over their windows.",
            UserWarning,
            stacklevel=3,
        )
    with replaced_folder(path, EXPORTED) as folder, quiet_transformers(), torch.inference_mode(False):
        model = _merge(part)
        _describe_classes(model, classifier._class_names, multilabel=classifier.multilabel_)
        model.save_pretrained(folder)
        _tokenizer_as_used(part.backbone.tokenizer, classifier.max_length).save_pretrained(folder)
        _check_computes_the_same(part, folder)


def _check_mergeable(part: TrainedPart) -> None:
    if getattr(part.origin["adapter"], "_custom_modules", None):
        raise ValueError(
            "adapter='bottleneck' cannot be exported: its tanh keeps it from being merged into the weights. "
            "Use save(), or fit with adapter='lora'."
        )


def _merge(part: TrainedPart) -> PreTrainedModel:
    """Return a model of the layers that run, in fp32, with what was learned in its weights."""
    backbone = _not_quantized(part.backbone)
    n_layers = len(get_layers(backbone.model, backbone.stack))
    shared = without_layers(backbone.model, backbone.stack, range(len(part.stack), n_layers))
    model = copy.deepcopy(shared).float()
    replace_head(model, part.n_classes, backbone.drawn)
    adapter: Any = part.origin["adapter"]
    attach_adapters(model, backbone.stack, part.layers, adapter)
    learned = {name.removeprefix("model."): tensor.cpu() for name, tensor in part.state_dict().items()}
    unknown = model.load_state_dict(learned, strict=False).unexpected_keys
    assert not unknown
    for name, module in reversed(list(model.named_modules())):
        if isinstance(module, BaseTunerLayer):
            _merge_module(module)
            model.set_submodule(name, module.get_base_layer())
    vars(model).pop("peft_config", None)
    return model.eval()


def _not_quantized(backbone: Backbone) -> Backbone:
    # Merged weights are none that 8 or 4 bits can hold: adapters go into those that the quantized ones were made of.
    if backbone.origin["quantization"] is None:
        return backbone
    origin = {**backbone.origin, "quantization": None, "device": torch.device("cpu")}
    return load_backbone(origin.pop("backbone"), **origin)


def _merge_module(module: BaseTunerLayer) -> None:
    try:
        module.merge(safe_merge=True)
    except (NotImplementedError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The adapter cannot be exported, for peft cannot merge {type(module).__name__} into the weights: {error}. "
            "Use save()."
        ) from error


def _describe_classes(model: PreTrainedModel, names: list[str], *, multilabel: bool) -> None:
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    model.config.problem_type = "multi_label_classification" if multilabel else "single_label_classification"


def _tokenizer_as_used(tokenizer: Any, max_length: int) -> Any:
    """Return a tokenizer that cuts texts where the classifier does, and reads special tokens in them as text."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs |= {"model_max_length": max_length, "split_special_tokens": True}
    return tokenizer


def _check_computes_the_same(part: TrainedPart, folder: Path) -> None:
    """Refuse to leave a checkpoint that computes something else, in a family that is put together in its own way."""
    device = part.backbone.device
    tokens = torch.tensor([part.backbone.tokenizer("He goes home.")["input_ids"]], device=device)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    whole = share_weights(part.backbone.model)
    with torch.inference_mode():
        states = run_up_to(get_layers(whole, part.backbone.stack)[part.first_layer], whole, **inputs)
        expected = part(states=states, **inputs).cpu().float()
        found = model(**{name: tensor.cpu() for name, tensor in inputs.items()}).logits
    most = _TOLERANCE[part.backbone.precision] * expected.abs().max()
    if part.backbone.origin["quantization"] is None and not (found - expected).abs().max() <= most:
        raise ValueError(
            f"{type(model).__name__} cannot be exported: what was written computes other logits than the classifier, "
            "for the family's configuration cannot say which layers are left. Use save()."
        )
