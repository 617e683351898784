"""Turns pairs into token ids, cut around the edits where they are too long."""

from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .pair_format import PairFormat, write_pair, write_shortened
from .pairs import Pair


class TokenizedPairs(NamedTuple):
    """The distinct texts in which pairs are written, as token ids."""

    token_ids: list[list[int]]
    """Tokens of each text, none empty."""
    texts: NDArray[np.intp]
    """The text of each pair, as an index into ``token_ids``; of shape (n_pairs,)."""
    n_cut: int
    """Pairs that were too long."""

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Number of tokens of each pair, of shape (n_pairs,)."""
        return np.array([len(ids) for ids in self.token_ids])[self.texts]


# A fast tokenizer keeps whether it cuts texts as its state, and all estimators of a backbone share one, in any thread.
_tokenizing = Lock()


def tokenize_pairs(
    pairs: Sequence[Pair],
    tokenizer: Any,
    pair_format: PairFormat,
    intentions: Sequence[str],
    context: int | None,
    max_length: int,
) -> TokenizedPairs:
    """Write pairs as text and tokenize them.

    A special token that a user's text happens to spell is read as ordinary text.

    Parameters
    ----------
    pairs : sequence of Pair
        What to tokenize.
    tokenizer : PreTrainedTokenizerBase
        The backbone's.
    pair_format, intentions, context
        See :func:`~sklearn_irt.pair_format.write_pair`.
    max_length : int
        Most tokens a text may have.

    Returns
    -------
    tokenized : TokenizedPairs
        No text is longer than ``max_length``.
    """
    _, token_ids, n_cut = _write_and_tokenize(pairs, tokenizer, pair_format, intentions, context, max_length)
    empty = [row for row, ids in enumerate(token_ids) if not ids]
    if empty:
        raise ValueError(f"Row {empty[0]} of X becomes a text without any token: {pairs[empty[0]]!r:.120}.")
    position: dict[tuple[int, ...], int] = {}
    texts = np.array([position.setdefault(tuple(ids), len(position)) for ids in token_ids])
    return TokenizedPairs([list(ids) for ids in position], texts, n_cut)


def write_texts(
    pairs: Sequence[Pair],
    tokenizer: Any,
    pair_format: PairFormat,
    intentions: Sequence[str],
    context: int | None,
    max_length: int,
) -> list[str]:
    """Write pairs as the texts that :func:`tokenize_pairs` tokenizes.

    Parameters
    ----------
    pairs, tokenizer, pair_format, intentions, context, max_length
        See :func:`tokenize_pairs`.

    Returns
    -------
    texts : list of str
        Each has ``max_length`` tokens at most, unless the shortest form of a pair has more.
    """
    texts, _, _ = _write_and_tokenize(pairs, tokenizer, pair_format, intentions, context, max_length)
    return texts


def _write_and_tokenize(
    pairs: Sequence[Pair],
    tokenizer: Any,
    pair_format: PairFormat,
    intentions: Sequence[str],
    context: int | None,
    max_length: int,
) -> tuple[list[str], list[list[int]], int]:
    """Return the text of each pair, its token ids, and how many pairs were too long."""

    def tokenize(texts: list[str], **options: Any) -> list[list[int]]:
        with _tokenizing:
            return tokenizer(texts, split_special_tokens=True, verbose=False, **options)["input_ids"]

    def fits(text: str) -> bool:
        return len(tokenize([text])[0]) <= max_length

    texts = [write_pair(pair, pair_format, intentions, context) for pair in pairs]
    token_ids = tokenize(texts)
    too_long = [row for row, ids in enumerate(token_ids) if len(ids) > max_length]
    for row in too_long:
        texts[row] = write_shortened(pairs[row], pair_format, intentions, context, fits)
        token_ids[row] = tokenize([texts[row]], truncation=True, max_length=max_length)[0]
    return texts, token_ids, len(too_long)
