"""Texts longer than a backbone may read, as overlapping windows: cut, run within bounds of memory, and pooled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint

# Of the tokens of a window: enough to hold some edit, or a sentence, whole in one of two neighbours. Half would let
# every token be computed twice, where a quarter lets it be computed 4/3 times.
OVERLAP = 0.25
# The inputs of a trained part that have a row a window; the others have a row a text.
OF_WINDOWS = ("states", "input_ids", "attention_mask")


def cut_into_windows(token_ids: list[int], before: list[int], behind: list[int], max_length: int) -> list[list[int]]:
    """Cut a text into windows of equal length, or of a token's difference.

    A tokenizer's own ``return_overflowing_tokens`` leaves the rest of a text to the last window, which may hold one new
    token and would weigh as much as the others in the mean of their logits.

    Parameters
    ----------
    token_ids : list of int
        The text, between its special tokens.
    before, behind : list of int
        The special tokens that it begins and ends with; every window gets them.
    max_length : int
        Most tokens of a window, those among them.

    Returns
    -------
    windows : list of list of int
        In the order of the text, the fewest that hold every token of it; the text itself where it is no longer than
        ``max_length``. Each begins and ends later than the one before.
    """
    if len(token_ids) <= max_length:
        return [token_ids]
    text = token_ids[len(before) : len(token_ids) - len(behind)]
    longest = max_length - len(before) - len(behind)
    shared = int(OVERLAP * longest)
    n_windows = -(-(len(text) - shared) // (longest - shared))
    length = -(-(len(text) + (n_windows - 1) * shared) // n_windows)
    starts = np.linspace(0, len(text) - length, n_windows).round().astype(int).tolist()
    return [[*before, *text[start : start + length], *behind] for start in starts]


def mean_by_text(logits: torch.Tensor, n_windows: Sequence[int]) -> torch.Tensor:
    """Pool the logits of windows.

    Parameters
    ----------
    logits : Tensor of shape (n_windows, n_classes)
        Those of the windows of one text after the other.
    n_windows : sequence of int
        How many each text has.

    Returns
    -------
    logits : Tensor of shape (n_texts, n_classes)
        The mean over the windows of each text.
    """
    return torch.stack([windows.mean(dim=0) for windows in logits.split(list(n_windows))])


def pool_windows(rows: NDArray[Any], windows: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Pool logits, or features, in the order of distinct windows.

    Parameters
    ----------
    rows : ndarray of shape (n_windows, n_columns), of a floating dtype
        Those of each window.
    windows : sequence of sequence of int
        The windows of each text, as indices into ``rows``.

    Returns
    -------
    rows : ndarray of shape (n_texts, n_columns), of the same dtype
        See :func:`mean_by_text`.
    """
    by_text = torch.from_numpy(rows[np.concatenate(windows)])
    return mean_by_text(by_text, [len(text) for text in windows]).numpy()


def split_by_text(
    inputs: Mapping[str, torch.Tensor], n_together: int
) -> Iterator[tuple[slice, dict[str, torch.Tensor]]]:
    """Split a batch between its texts into parts of about as many windows.

    Parameters
    ----------
    inputs : mapping of str to Tensor
        From :func:`~sklearn_irt.batching.pad_batch`.
    n_together : int
        Most windows of a part; a text that has more makes one by itself.

    Yields
    ------
    texts : slice
        The texts of a part.
    part : dict of Tensor
        Their inputs.
    """
    n_windows = inputs["n_windows"].tolist()
    first = np.cumsum([0, *n_windows])
    for texts in _put_together(n_windows, n_together):
        windows = slice(first[texts.start], first[texts.stop])
        yield texts, _take(inputs, texts, windows)


def _put_together(n_windows: Sequence[int], n_together: int) -> Iterator[slice]:
    """Yield texts that follow one another and have no more windows than the parts would have on average."""
    n_parts = -(-sum(n_windows) // n_together)
    n_in_part = -(-sum(n_windows) // n_parts)
    start, n_so_far = 0, 0
    for text, n in enumerate(n_windows):
        if n_so_far and n_so_far + n > n_in_part:
            yield slice(start, text)
            start, n_so_far = text, 0
        n_so_far += n
    yield slice(start, len(n_windows))


def take_texts(inputs: Mapping[str, torch.Tensor], texts: slice) -> dict[str, torch.Tensor]:
    """Return what a batch holds of some of its texts: all of their windows."""
    taken = torch.zeros(len(inputs["n_windows"]), dtype=torch.bool)
    taken[texts] = True
    windows = taken.repeat_interleave(inputs["n_windows"])
    return _take(inputs, taken, windows)


def _take(inputs: Mapping[str, torch.Tensor], texts: Any, windows: Any) -> dict[str, torch.Tensor]:
    return {name: tensor[windows if name in OF_WINDOWS else texts] for name, tensor in inputs.items()}


def split_by_window(inputs: Mapping[str, torch.Tensor], n_together: int) -> Iterator[dict[str, torch.Tensor]]:
    """Split what a trained part reads of a batch into parts of so many windows, whose texts they may divide."""
    for parts in zip(*(inputs[name].split(n_together) for name in OF_WINDOWS), strict=True):
        yield dict(zip(OF_WINDOWS, parts, strict=True))


def run_in_parts(
    run: Callable[[dict[str, torch.Tensor]], torch.Tensor], inputs: Mapping[str, torch.Tensor], n_together: int
) -> torch.Tensor:
    """Compute the logits of windows, no more than some of them together.

    Parameters
    ----------
    run : callable
        Takes the inputs of some windows, returns their logits.
    inputs : mapping of str to Tensor
        From :func:`~sklearn_irt.batching.pad_batch`.
    n_together : int
        Most windows that run together. Where there are more, those that wait for their gradients keep their inputs
        alone, and run once more when it is their turn.

    Returns
    -------
    logits : Tensor of shape (n_windows, n_classes)
        Those of all windows of the batch.
    """
    parts = list(split_by_window(inputs, n_together))
    if len(parts) == 1:
        return run(parts[0])
    return torch.cat([checkpoint(run, part, use_reentrant=False) for part in parts])
