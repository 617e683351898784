"""Turns pairs into token ids, cut around the edits where they are too long."""

from collections.abc import Sequence
from typing import Any

from .pair_format import PairFormat, write_pair, write_shortened
from .pairs import Pair


def tokenize_pairs(
    pairs: Sequence[Pair], tokenizer: Any, pair_format: PairFormat, intentions: Sequence[str], max_length: int
) -> tuple[list[list[int]], int]:
    """Write pairs as text and tokenize them.

    A special token that a user's text happens to spell is read as ordinary text.

    Parameters
    ----------
    pairs : sequence of Pair
        What to tokenize.
    tokenizer : PreTrainedTokenizerBase
        The backbone's.
    pair_format : str or callable
        See :func:`~sklearn_irt.pair_format.write_pair`.
    intentions : sequence of str
        The classes.
    max_length : int
        Most tokens a text may have.

    Returns
    -------
    token_ids : list of list of int
        One list a pair, none empty.
    n_cut : int
        How many pairs were cut.
    """

    def tokenize(texts: list[str], **options: Any) -> list[list[int]]:
        return tokenizer(texts, split_special_tokens=True, verbose=False, **options)["input_ids"]

    def fits(text: str) -> bool:
        return len(tokenize([text])[0]) <= max_length

    token_ids = tokenize([write_pair(pair, pair_format, intentions) for pair in pairs])
    too_long = [row for row, ids in enumerate(token_ids) if len(ids) > max_length]
    for row in too_long:
        shorter = write_shortened(pairs[row], pair_format, intentions, fits)
        token_ids[row] = tokenize([shorter], truncation=True, max_length=max_length)[0]
    empty = [row for row, ids in enumerate(token_ids) if not ids]
    if empty:
        raise ValueError(f"Row {empty[0]} of X becomes a text without any token: {pairs[empty[0]]!r:.120}.")
    return token_ids, len(too_long)
