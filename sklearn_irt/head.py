"""What lies around the layers: the classification head of one estimator, for its classes, and the embeddings."""

import copy
from collections.abc import Set

import torch
from torch import nn
from transformers import PreTrainedModel


def head_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return what lies behind the layers, an encoder's pooler and the classification head, by their dotted names."""
    pooler = getattr(model.base_model, "pooler", None)
    behind = [pooler, *(module for module in model.children() if module is not model.base_model)]
    kept = {id(module) for module in behind if module is not None and any(True for _ in module.parameters())}
    return {name: module for name, module in model.named_modules() if id(module) in kept}


def embedding_name(model: PreTrainedModel) -> str:
    """Return the dotted name of the module of a model's token embeddings."""
    embeddings = model.get_input_embeddings()
    return next(name for name, module in model.named_modules() if module is embeddings)


def replace_head(model: PreTrainedModel, n_classes: int, drawn: Set[str]) -> None:
    """Give a model a head of its own, in fp32, with as many outputs as there are classes.

    What the backbone's files hold of it, and for as many classes, is copied; the rest is drawn from torch's generator
    as this family of models does it.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place; the tensors of its head stay as they were.
    n_classes : int
        The outputs.
    drawn : set of str
        Parameters that no file held.
    """
    device = model.device
    model.config.num_labels = n_classes
    with torch.device("meta"):
        fresh = type(model)(copy.deepcopy(model.config))
    for name, module in head_modules(fresh).items():
        module.float().to_empty(device=device)
        module.apply(fresh._init_weights)
        known = model.get_submodule(name).state_dict()
        with torch.no_grad():
            for key, tensor in module.state_dict().items():
                held = known.get(key)
                if held is not None and f"{name}.{key}" not in drawn and held.shape == tensor.shape:
                    tensor.copy_(held)
        model.set_submodule(name, module)
