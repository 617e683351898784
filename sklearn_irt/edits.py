"""Finds what changed between two texts, word by word."""

import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from .alignment import Block, common_blocks

# A word keeps the white space before it, so that joined words give back the text to the letter.
_WORD = re.compile(r"\s*(?:\w+(?:['’]\w+)*|[^\w\s])|\s+\Z")

# difflib takes the square of the letters' number.
_LETTERS_COMPARED = 1000


class Piece(NamedTuple):
    """A stretch of two texts that is either the same in both or was edited."""

    before: str
    after: str
    edited: bool


def split_words(text: str) -> list[str]:
    """Split a text into words and punctuation marks, each with the white space before it."""
    return _WORD.findall(text)


def find_edits(before: str, after: str) -> list[Piece]:
    """Align two texts word by word; see :func:`~sklearn_irt.alignment.common_blocks` for very long ones.

    Parameters
    ----------
    before, after : str
        The text before and after the revision.

    Returns
    -------
    pieces : list of Piece
        Unchanged and edited pieces in the order of the text. The ``before`` sides joined are the first
        text, the ``after`` sides joined are the second. White space alone counts as an edit only where
        nothing else was edited.
    """
    words_before, words_after = split_words(before), split_words(after)
    pieces = _align(words_before, words_after, key=str.strip)
    if before != after and not any(piece.edited for piece in pieces):
        pieces = _align(words_before, words_after, key=str)
    return pieces


def _align(words_before: list[str], words_after: list[str], key: Callable[[str], str]) -> list[Piece]:
    blocks = common_blocks([key(word) for word in words_before], [key(word) for word in words_after])
    pieces, i, j = [], 0, 0
    for block in [*blocks, Block(len(words_before), len(words_after), 0)]:
        if (i, j) != block[:2]:
            pieces.append(Piece("".join(words_before[i : block.before]), "".join(words_after[j : block.after]), True))
        i, j = block.before + block.size, block.after + block.size
        if block.size:
            pieces.append(Piece("".join(words_before[block.before : i]), "".join(words_after[block.after : j]), False))
    if len(pieces) > 1 and not key(pieces[-1].before + pieces[-1].after):
        # White space at the end of one text is no edit of its own.
        end = pieces.pop()
        last = pieces[-1]
        pieces[-1] = Piece(last.before + end.before, last.after + end.after, last.edited)
    return pieces


def join_pieces(pieces: Sequence[Piece]) -> tuple[str, str]:
    """Join pieces into the text before and the text after."""
    return "".join(piece.before for piece in pieces), "".join(piece.after for piece in pieces)


def only_edits(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces that were edited."""
    return [piece for piece in pieces if piece.edited]


def join_edits(pieces: Sequence[Piece]) -> tuple[str, str]:
    """Join what was deleted, and what was added, into one text each."""
    edits = only_edits(pieces)
    return " ".join(edit.before for edit in edits).strip(), " ".join(edit.after for edit in edits).strip()


def strip_edit(edit: Piece) -> tuple[str, str]:
    """Return what an edit deleted and what it added, without the white space around, unless that is the edit."""
    deleted, added = edit.before.strip(), edit.after.strip()
    return (deleted, added) if deleted != added else (edit.before, edit.after)


def take_back(pieces: Sequence[Piece], position: int) -> str:
    """Write the text after without one of its edits.

    Parameters
    ----------
    pieces : sequence of Piece
        From :func:`find_edits`.
    position : int
        The index of the edit among them.

    Returns
    -------
    after : str
        The text after, in which the words that the edit deleted stand again in place of those that it added, with the
        white space that they had around them. Without its only edit it is the text before, to the letter.
    """
    if len(only_edits(pieces)) == 1:
        # White space that changed elsewhere is no edit beside this one, but would be one without it.
        return join_pieces(pieces)[0]
    texts = [piece.after for piece in pieces]
    texts[position] = pieces[position].before
    for next_one in pieces[position + 1 : position + 2]:
        # A deleted first word would run into the next one, which lost the blank before it.
        texts[position + 1] = _leading_white_space(next_one.before) + next_one.after.lstrip()
    return "".join(texts)


def _leading_white_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def letters_kept(deleted: str, added: str) -> float:
    """Return how alike two texts are letter by letter, from 0 to 1, judged by their first thousand letters."""
    deleted, added = deleted[:_LETTERS_COMPARED], added[:_LETTERS_COMPARED]
    return SequenceMatcher(None, deleted, added, autojunk=False).ratio()
