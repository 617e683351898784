"""Answers with a trained part: logits, in the order of the texts."""

from collections.abc import Sequence

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .batching import batches_for
from .layer_by_layer import in_groups
from .prefix import PrefixStates, compute_prefix_states
from .states_store import between_fits
from .trained_part import TrainedPart

_TEXTS_TOGETHER = 1024


def predict_logits(
    part: TrainedPart,
    token_ids: Sequence[list[int]],
    memory: Memory | None = None,
    *,
    show_progress: bool = False,
) -> NDArray[np.float64]:
    """Compute logits.

    Parameters
    ----------
    part : TrainedPart
        In evaluation mode.
    token_ids : sequence of list of int
        The texts, or windows of texts.
    memory : Memory, default=None
        See :func:`~sklearn_irt.prefix.compute_prefix_states`.
    show_progress : bool, default=False
        Whether to show a bar.

    Returns
    -------
    logits : ndarray of shape (n_texts, n_classes), dtype float64
        One row a text. It does not depend on what other texts there are, but for the last bit of fp32 (see
        :mod:`~sklearn_irt.fixed_shapes`).
    """
    order = np.argsort([len(ids) for ids in token_ids], kind="stable")
    logits = np.empty((len(token_ids), part.n_classes))
    bar = tqdm(total=len(token_ids), desc="Predicting", unit="text", disable=not show_progress)
    with bar:
        # Not all at once: the prefix states of a hundred thousand texts would fill a laptop's memory.
        for start in range(0, len(order), _TEXTS_TOGETHER):
            texts = order[start : start + _TEXTS_TOGETHER]
            chosen = [token_ids[text] for text in texts]
            states = compute_prefix_states(part.backbone, chosen, part.first_layer, between_fits, memory)
            logits[texts] = _logits_of(part, states)
            bar.update(len(texts))
    part.forget_folded()
    return logits


def _logits_of(part: TrainedPart, states: PrefixStates) -> NDArray[np.float64]:
    logits = np.empty((len(states), part.n_classes))
    for group in in_groups(batches_for(part.backbone, states)):
        with torch.inference_mode():
            answers = part.classify([inputs for _, inputs in group])
        for (texts, _), rows in zip(group, answers, strict=True):
            logits[texts] = rows[: len(texts)].float().cpu().numpy()
    return logits
