"""Turns pairs into token ids: those too long are cut around the edits, or become several windows."""

from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .pair_format import INSTRUCTIONS, PairFormat, write_pair, write_shortened
from .pairs import Pair
from .windows import cut_into_windows


class TokenizedPairs(NamedTuple):
    """The distinct texts in which pairs are written, as the token ids of their windows.

    Where each text has one window, text and window have the same index.
    """

    token_ids: list[list[int]]
    """Tokens of each distinct window, none empty."""
    windows: list[list[int]]
    """The windows of each distinct text in their order, as indices into ``token_ids``."""
    texts: NDArray[np.intp]
    """The text of each pair, as an index into ``windows``; of shape (n_pairs,)."""
    n_cut: int
    """Pairs that were too long, and lost something."""

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Number of tokens of each pair, in all its windows, of shape (n_pairs,)."""
        return np.array([sum(len(self.token_ids[window]) for window in text) for text in self.windows])[self.texts]

    @property
    def n_windows(self) -> NDArray[np.intp]:
        """Number of windows of each pair, of shape (n_pairs,)."""
        return np.array([len(text) for text in self.windows])[self.texts]


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
    long_text: str = "edit",
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
        Most tokens a window may have.
    long_text : {"edit", "windows"}, default="edit"
        Whether a text that has more is cut around its edits, into one window, or becomes several.

    Returns
    -------
    tokenized : TokenizedPairs
        No window is longer than ``max_length``.
    """
    _, token_ids, n_cut = write_and_tokenize(pairs, tokenizer, pair_format, intentions, context, max_length, long_text)
    empty = [row for row, ids in enumerate(token_ids) if not ids]
    if empty:
        raise ValueError(
            f"Row {empty[0]} of X becomes a text without any token: {pairs[empty[0]]!r:.120}. Drop the row, or give "
            "another pair_format."
        )
    position: dict[tuple[int, ...], int] = {}
    texts = np.array([position.setdefault(tuple(ids), len(position)) for ids in token_ids])
    around = _special_tokens_around(tokenizer) if long_text == "windows" else ([], [])
    cut = [cut_into_windows(list(ids), *around, max_length) for ids in position]
    place: dict[tuple[int, ...], int] = {}
    windows = [[place.setdefault(tuple(ids), len(place)) for ids in text] for text in cut]
    return TokenizedPairs([list(ids) for ids in place], windows, texts, n_cut)


def write_and_tokenize(
    pairs: Sequence[Pair],
    tokenizer: Any,
    pair_format: PairFormat,
    intentions: Sequence[str],
    context: int | None,
    max_length: int,
    long_text: str,
) -> tuple[list[str], list[list[int]], int]:
    """Write pairs as texts, and tokenize these; windows are not cut yet.

    Parameters
    ----------
    pairs, tokenizer, pair_format, intentions, context, max_length, long_text
        See :func:`tokenize_pairs`.

    Returns
    -------
    texts : list of str
        Of each pair. With ``long_text="edit"`` each has ``max_length`` tokens at most, unless the shortest form of a
        pair has more.
    token_ids : list of list of int
        Of each text; with ``long_text="edit"`` no more than ``max_length``.
    n_cut : int
        Pairs that were too long and were cut.
    """

    def tokenize(texts: list[str], **options: Any) -> list[list[int]]:
        return _encode(tokenizer, texts, **options)["input_ids"]

    def fits(text: str) -> bool:
        return len(text) <= most_characters and len(tokenize([text])[0]) <= max_length

    texts = [write_pair(pair, pair_format, intentions, context) for pair in pairs]
    if long_text == "windows":
        return texts, tokenize(texts), 0
    most_characters = max_length * _CHARACTERS_A_TOKEN
    token_ids = tokenize([text if len(text) <= most_characters else "" for text in texts])
    too_long = [
        row
        for row, (text, ids) in enumerate(zip(texts, token_ids, strict=True))
        if len(text) > most_characters or len(ids) > max_length
    ]
    for row in too_long:
        shorter = write_shortened(pairs[row], pair_format, intentions, context, fits, most_characters)
        texts[row] = shorter[:most_characters]
        token_ids[row] = tokenize([texts[row]], truncation=True, max_length=max_length)[0]
    return texts, token_ids, len(too_long)


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
    if callable(pair_format) or pair_format not in INSTRUCTIONS:
        return
    n_tokens = len(_encode(tokenizer, write_pair(Pair("", ""), pair_format, intentions, None))["input_ids"])
    if n_tokens >= max_length:
        raise ValueError(
            f"pair_format='instruction' takes {n_tokens} tokens to name the {len(intentions)} classes, but "
            f"max_length={max_length}: raise max_length, or use another pair_format."
        )


def _encode(tokenizer: Any, texts: str | list[str], **options: Any) -> Any:
    with _tokenizing:
        return tokenizer(texts, split_special_tokens=True, verbose=False, **options)


def _special_tokens_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before each text, and behind it."""
    encoded = _encode(tokenizer, "a", return_special_tokens_mask=True)
    token_ids, is_special = encoded["input_ids"], encoded["special_tokens_mask"]
    n_before, n_behind = is_special.index(0), is_special[::-1].index(0)
    return token_ids[:n_before], token_ids[len(token_ids) - n_behind :]
