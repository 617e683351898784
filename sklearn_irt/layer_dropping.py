"""Leaves out the adjoining layers that change the hidden states least."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from .partial_model import share_weights, watch_layers

# Texts that the similarity is measured on, and texts of a batch.
MOST_TEXTS = 128
_TEXTS_TOGETHER = 16


def least_changing_layers(
    model: PreTrainedModel, stack: str, tokenizer: Any, token_ids: Sequence[list[int]], n_layers: int, n_dropped: int
) -> tuple[int, ...]:
    """Find the adjoining layers whose leaving states are most like the entering ones.

    Parameters
    ----------
    model : PreTrainedModel
        Not changed.
    stack : str
        Dotted name of its list of layers.
    tokenizer : PreTrainedTokenizerBase
        Pads on the right.
    token_ids : sequence of list of int
        The texts to measure on.
    n_layers : int
        How many of the layers run, from the bottom.
    n_dropped : int
        How many are to be found; fewer than that run.

    Returns
    -------
    layers : tuple of int
        Ascending; of equally similar ones the lowest.

    References
    ----------
    Chen, Hu, Zhang, Wang, Li and Chen, "Streamlining Redundant Layers to Compress Large Language Models"
    (LLM-Streamline), ICLR 2025, arXiv 2403.19135, section 3.1: the mean over tokens of the cosine between the state
    that enters the first of the layers and the one that leaves the last. The authors average over the tokens of a text
    and then over texts, here every token counts alike. They put a small trained layer in their place, here nothing is.
    """
    similarities = _similarities(model, stack, tokenizer, token_ids, n_layers, n_dropped)
    first = int(np.argmax(similarities))
    return tuple(range(first, first + n_dropped))


def _similarities(
    model: PreTrainedModel, stack: str, tokenizer: Any, token_ids: Sequence[list[int]], n_layers: int, n_dropped: int
) -> NDArray[np.float64]:
    """Return the mean cosine of each block of adjoining layers, of shape (n_layers - n_dropped + 1,)."""
    model = share_weights(model)
    layers: Any = model.get_submodule(stack)
    del layers[n_layers:]
    order = sorted(range(len(token_ids)), key=lambda text: len(token_ids[text]))
    sums, n_tokens = np.zeros(n_layers - n_dropped + 1), 0
    for start in range(0, len(order), _TEXTS_TOGETHER):
        rows = {"input_ids": [token_ids[text] for text in order[start : start + _TEXTS_TOGETHER]]}
        inputs = tokenizer.pad(rows, return_tensors="pt").to(model.device)
        with torch.inference_mode(), watch_layers(layers, range(n_layers)) as passed:
            model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        real = inputs["attention_mask"].bool()
        for first in range(len(sums)):
            entering, leaving = passed[first][0][real], passed[first + n_dropped - 1][1][real]
            sums[first] += cosine_similarity(entering.float(), leaving.float(), dim=-1).sum().item()
        n_tokens += int(real.sum())
    return sums / n_tokens


def without_layers(model: PreTrainedModel, stack: str, dropped: Sequence[int]) -> PreTrainedModel:
    """Copy a model without some of its layers, and none of its tensors.

    Parameters
    ----------
    model : PreTrainedModel
        Not changed.
    stack : str
        Dotted name of its list of layers.
    dropped : sequence of int
        The layers to leave out.

    Returns
    -------
    model : PreTrainedModel
        Its configuration has the number of the layers that are left, and in every list with an entry a layer, of the
        kinds of attention say, theirs.
    """
    model = share_weights(model)
    layers: Any = model.get_submodule(stack)
    n_layers, kept = len(layers), [index for index in range(len(layers)) if index not in set(dropped)]
    for index in sorted(dropped, reverse=True):
        del layers[index]
    config = model.config.get_text_config()
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == n_layers:
            setattr(config, name, [value[index] for index in kept])
    setattr(config, "decoder_layers" if config.is_encoder_decoder else "num_hidden_layers", len(kept))
    return model
