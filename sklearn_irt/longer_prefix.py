"""Lets layers that will not train again join the frozen prefix in the middle of a fit."""

import torch

from .batching import batches_for
from .layer_by_layer import in_groups
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
    was_training = part.training
    part.eval()
    for group in in_groups(batches_for(part.backbone, states)):
        with torch.inference_mode():
            advanced = part.advance(layer, [inputs for _, inputs in group])
        for (texts, _), rows in zip(group, advanced, strict=True):
            for text, row in zip(texts.tolist(), rows, strict=False):
                states.replace(text, row[: len(states.token_ids[text])])
    part.train(was_training)
    part.start_from(layer)
