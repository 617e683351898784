"""Finds the stack of transformer layers in a model, and cuts it to the layers that run."""

from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel


def get_layers(model: PreTrainedModel, stack: str) -> nn.ModuleList:
    """Return the list of layers that ``stack`` names."""
    layers = model.get_submodule(stack)
    assert isinstance(layers, nn.ModuleList)
    return layers


def find_stack(model: PreTrainedModel) -> str:
    """Find the transformer layers: the list of modules whose length is the configuration's number of layers.

    Those of an encoder-decoder are its decoder's: the head reads what leaves them.

    Parameters
    ----------
    model : PreTrainedModel
        Any transformers model.

    Returns
    -------
    name : str
        Its dotted name; the one with most parameters if several lists are that long.

    Raises
    ------
    ValueError
        If there is none.
    """
    n_layers, searched = _length_of_stack(model), _where_the_stack_is(model)
    stacks = {
        name: count_parameters(module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and id(module) in searched
    }
    if not stacks:
        raise ValueError(
            f"No stack of transformer layers was found in {type(model).__name__}: no list of modules has the length of "
            f"its configuration's num_hidden_layers ({n_layers}). Use a backbone of another family."
        )
    return max(stacks, key=lambda name: stacks[name])


def _length_of_stack(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    names = ("decoder_layers", "num_decoder_layers") if config.is_encoder_decoder else ()
    lengths = (getattr(config, name, None) for name in (*names, "num_hidden_layers"))
    return next((length for length in lengths if length is not None), None)


def _where_the_stack_is(model: PreTrainedModel) -> set[int]:
    decoder = getattr(model.base_model, "decoder", None) if model.config.is_encoder_decoder else None
    return {id(module) for module in (decoder or model).modules()}


def drop_upper_layers(layers: nn.ModuleList, n_layers: str | float) -> None:
    """Drop the layers that are not to run.

    Parameters
    ----------
    layers : ModuleList
        Changed in place.
    n_layers : {"all"}, int or float
        Layers that run, from the bottom: all of them, that many, or that share of them (rounded, at least one).

    Raises
    ------
    ValueError
        If there are not so many.
    """
    # The configuration stays that of the whole model, with which it agrees in other places (the kinds of layers, say).
    del layers[_count_layers(n_layers, len(layers)) :]


def _count_layers(n_layers: str | float, n_available: int) -> int:
    if n_layers == "all":
        return n_available
    if isinstance(n_layers, Integral):
        if n_layers > n_available:
            raise ValueError(f"n_layers={n_layers}, but the backbone has {n_available} layers: lower it, or use 'all'.")
        return int(n_layers)
    return max(1, round(float(n_layers) * n_available))


def read_depths(layers: Any, n_layers: int) -> list[int]:
    """Turn a user's choice of depths into numbers of layers.

    Parameters
    ----------
    layers : int, float or sequence of these
        Numbers of layers from the bottom, or shares of all of them. A share leaves out above it what the rest of the
        share rounds to, at least one layer being below it: 0.5 is where the upper half begins.
    n_layers : int
        How many there are.

    Returns
    -------
    depths : list of int
        From 0 to ``n_layers``, ascending.

    Raises
    ------
    ValueError
        If there are no such layers, none is named, or two are the same.
    """
    given = [layers] if isinstance(layers, Real) else list(layers)
    if not given:
        raise ValueError("layers is empty: name at least one, for example layers=0.5.")
    depths = sorted(_read_depth(layer, n_layers) for layer in given)
    repeated = [depth for depth, following in pairwise(depths) if depth == following]
    if repeated:
        raise ValueError(
            f"layers={layers!r} names the states after {repeated[0]} of {n_layers} layers more than once: name them "
            "once."
        )
    return depths


def _read_depth(layer: Any, n_layers: int) -> int:
    is_number = isinstance(layer, Real) and not isinstance(layer, (bool, np.bool_))
    if is_number and isinstance(layer, Integral) and 0 <= int(layer) <= n_layers:
        return int(layer)
    if is_number and not isinstance(layer, Integral) and 0 < float(layer) <= 1:
        return max(1, n_layers - round((1 - float(layer)) * n_layers))
    raise ValueError(
        f"layers names {layer!r}, but must be a number of layers from 0 to {n_layers}, the backbone's, or a share of "
        "them in (0, 1], or a list of these."
    )


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a module, each once."""
    return sum(parameter.numel() for parameter in module.parameters())
