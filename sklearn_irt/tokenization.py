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


# No text of more characters a token is looked at whole, for tokenizers need seconds for a few million: none that people
# write is so long, but what a tokenizer reads as one token or none, such as a megabyte of blanks, is.
_CHARACTERS_A_TOKEN = 1000

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

    def tokenize(texts: list[str], **options: Any) -> list[list[int]]:
        with _tokenizing:
            return tokenizer(texts, split_special_tokens=True, verbose=False, **options)["input_ids"]

    most_characters = max_length * _CHARACTERS_A_TOKEN

    def fits(text: str) -> bool:
        return len(text) <= most_characters and len(tokenize([text])[0]) <= max_length

    written = [write_pair(pair, pair_format, intentions, context) for pair in pairs]
    token_ids = tokenize([text if len(text) <= most_characters else "" for text in written])
    lengths = zip(map(len, written), map(len, token_ids), strict=True)
    too_long = [
        row for row, (letters, tokens) in enumerate(lengths) if letters > most_characters or tokens > max_length
    ]
    for row in too_long:
        shorter = write_shortened(pairs[row], pair_format, intentions, context, fits, most_characters)
        token_ids[row] = tokenize([shorter[:most_characters]], truncation=True, max_length=max_length)[0]
    empty = [row for row, ids in enumerate(token_ids) if not ids]
    if empty:
        raise ValueError(
            f"Row {empty[0]} of X becomes a text without any token: {pairs[empty[0]]!r:.120}. Drop the row, or give "
            "another pair_format."
        )
    position: dict[tuple[int, ...], int] = {}
    texts = np.array([position.setdefault(tuple(ids), len(position)) for ids in token_ids])
    return TokenizedPairs([list(ids) for ids in position], texts, len(too_long))


def check_room(tokenizer: Any, pair_format: PairFormat, intentions: Sequence[str], max_length: int) -> None:
    """Refuse a task whose description leaves no room for the pairs.

    Parameters
    ----------
    tokenizer, pair_format, intentions, max_length
        See :func:`tokenize_pairs`.

    Raises
    ------
    ValueError
        If "instruction" takes more tokens than a text may have before a pair begins, so that all pairs would be equal.
    """
    if pair_format != "instruction":
        return
    with _tokenizing:
        n_tokens = len(tokenizer(write_pair(Pair("", ""), pair_format, intentions, None), verbose=False)["input_ids"])
    if n_tokens >= max_length:
        raise ValueError(
            f"pair_format='instruction' takes {n_tokens} tokens to name the {len(intentions)} classes, but "
            f"max_length={max_length}: raise max_length, or use another pair_format."
        )
