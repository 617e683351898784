"""Lets layers that will not train again join the frozen prefix in the middle of a fit."""

import torch

from .batching import pad_texts
from .fixed_shapes import batches_of_fixed_shape, fill_up
from .prefix import PrefixStates
from .trained_part import TrainedPart


def advance_states(part: TrainedPart, states: PrefixStates, layer: int) -> None:
    """Let the layers below ``layer`` join the frozen prefix: states that entered the first layer become its states.

    Parameters
    ----------
    part : TrainedPart
        Takes states of ``layer`` afterwards.
    states : PrefixStates
        Changed in place.
    layer : int
        The new lowest layer.
    """
    pad_token_id = part.backbone.tokenizer.pad_token_id
    was_training = part.training
    part.eval()
    for texts, n_rows, width in batches_of_fixed_shape(states.lengths):
        inputs = pad_texts([states[text] for text in fill_up(texts, n_rows)], pad_token_id, width)
        with torch.inference_mode():
            advanced = part.advance(layer, **{name: t.to(part.backbone.device) for name, t in inputs.items()})
        for text, row in zip(texts.tolist(), advanced, strict=False):
            states.replace(text, row[: len(states.token_ids[text])])
    part.train(was_training)
    part.start_from(layer)
