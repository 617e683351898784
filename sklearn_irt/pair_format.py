"""Writes a revision pair as the one text that a backbone reads, no longer than it may be."""

import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence

from .edits import Piece, find_edits, join_edits, join_pieces, letters_kept, split_words, strip_edit
from .pairs import Pair

PairFormat = str | Callable[[str, str], str]
OMITTED = " …"
FOR_MANY_LABELS = "instruction for many labels"
# What the formats that name the classes ask for.
INSTRUCTIONS = {"instruction": "Choose one intention", FOR_MANY_LABELS: "Choose every intention that applies, or none"}


def write_pair(pair: Pair, pair_format: PairFormat, intentions: Sequence[str], context: int | None) -> str:
    """Write a pair as text.

    Parameters
    ----------
    pair : Pair
        What to write; a single text is returned as it is.
    pair_format : {"before-after", "instruction", "instruction for many labels", "inline-diff"} or callable
        How to write it; a callable gets the two texts and returns one.
    intentions : sequence of str
        The classes, which the instructions name.
    context : int or None
        Unchanged words that "inline-diff" keeps on each side of an edit; None keeps all.

    Returns
    -------
    text : str
        The text that the backbone's tokenizer gets.

    Raises
    ------
    TypeError
        If a callable returns anything but a string.
    """
    if pair.before is None:
        return pair.after
    if callable(pair_format):
        text = pair_format(pair.before, pair.after)
        if not isinstance(text, str):
            raise TypeError(f"pair_format returned {type(text).__name__} instead of a string for {pair!r:.120}.")
        return text
    if pair_format == "before-after":
        return f"Before: {pair.before.strip()}\nAfter: {pair.after.strip()}"
    if pair_format in INSTRUCTIONS:
        return (
            f"Why was this text revised? {INSTRUCTIONS[pair_format]}: {', '.join(intentions)}.\n"
            f"Before: {pair.before.strip()}\nAfter: {pair.after.strip()}\nIntention:"
        )
    pieces = find_edits(pair.before, pair.after)
    return _write_inline_diff(pieces, _count_edits(pieces), context)


def _write_inline_diff(pieces: list[Piece], counts: str, context: int | None) -> str:
    if context is not None and any(piece.edited for piece in pieces):
        pieces = _keep_near_edits(pieces, context)
    marked = "".join(mark_edit(piece) if piece.edited else piece.after for piece in pieces)
    # A decoder is pooled at its last token: the text ends with the edits.
    edits = "".join(mark_edit(piece) for piece in pieces if piece.edited)
    return f"{marked.strip()}\n{counts}:{edits or ' none'}"


def _count_edits(pieces: list[Piece]) -> str:
    """Say how much was edited, which a small LLM does not count for itself."""
    deleted, added = join_edits(pieces)
    n_edits = sum(piece.edited for piece in pieces)
    n_words = len(split_words(join_pieces(pieces)[0].strip()))
    return (
        f"{n_edits} edits, {len(split_words(deleted))} of {n_words} words deleted, {len(split_words(added))} added, "
        f"{round(10 * letters_kept(deleted, added))} of 10 letters kept"
    )


def mark_edit(piece: Piece) -> str:
    """Write "old" -> "new" as " [- old -] {+ new +}", nearly as ``git diff --word-diff`` does."""
    deleted, added = strip_edit(piece)
    # The blanks keep each word the token that it is in running text; "[-,-]" would even be read as "[-", ",-", "]".
    return (f" [- {deleted} -]" if deleted else "") + (f" {{+ {added} +}}" if added else "")


def write_shortened(
    pair: Pair,
    pair_format: PairFormat,
    intentions: Sequence[str],
    context: int | None,
    fits: Callable[[str], bool],
    most_characters: int = sys.maxsize,
) -> str:
    """Write a pair cut around its edits so that its text fits.

    Unchanged words go first, those farthest from an edit before the others; when the edits alone are still too long,
    each keeps the first words of both sides; when even their first words are too many, the first edits are kept. A
    single text, and a pair without an edit, keeps its first words.

    Parameters
    ----------
    pair, pair_format, intentions, context
        See :func:`write_pair`. A callable is called for each cut that is tried, on texts in which " …" stands for
        what was left out.
    fits : callable
        Takes a text, says whether it is short enough.
    most_characters : int, default=sys.maxsize
        Of a longer text ``fits`` says no in any case.

    Returns
    -------
    text : str
        The longest that fits; the shortest one where none fits.
    """
    pieces = [Piece(pair.after, pair.after, False)] if pair.before is None else find_edits(pair.before, pair.after)
    counts = _count_edits(pieces)  # those of the whole pair

    def write(cut: list[Piece]) -> str:
        if pair_format == "inline-diff" and pair.before is not None:
            return _write_inline_diff(cut, counts, context)
        before, after = join_pieces(cut)
        return write_pair(Pair(None if pair.before is None else before, after), pair_format, intentions, context)

    for cut, longest in _ways_to_cut([_clip(piece, most_characters) for piece in pieces]):
        text = _longest_that_fits(cut, longest, write, fits)
        if fits(text):
            break
    return text


def _longest_that_fits(
    cut: Callable[[int], list[Piece]], longest: int, write: Callable[[list[Piece]], str], fits: Callable[[str], bool]
) -> str:
    def is_too_long(n: int) -> bool:
        return not fits(write(cut(n)))

    # Most cuts of a very long text are far too long, and slow to try: so the shortest ones come first.
    end = 1
    while end < longest and not is_too_long(end - 1):
        end *= 2
    too_long = bisect_right(range(longest), False, end // 2, min(end, longest), key=is_too_long)
    return write(cut(max(too_long - 1, 0)))


def _clip(piece: Piece, most_characters: int) -> Piece:
    """Leave out what no text of so many characters can hold."""
    if piece.edited:
        return Piece(piece.before[:most_characters], piece.after[:most_characters], True)
    if len(piece.after) <= 2 * most_characters:
        return piece
    text = piece.after[:most_characters] + OMITTED + piece.after[-most_characters:]
    return Piece(text, text, False)


def _ways_to_cut(pieces: list[Piece]) -> list[tuple[Callable[[int], list[Piece]], int]]:
    """Return functions that cut more and more, each of a number n below the one beside it: the less, the shorter."""
    longest = max((len(split_words(text)) for piece in pieces for text in piece[:2]), default=1)
    if not any(piece.edited for piece in pieces):
        return [(lambda n: [_keep_first_words(piece, n + 1) for piece in pieces], longest)]
    edits = _keep_near_edits(pieces, 0)
    shortest = [_keep_first(piece, 1) for piece in edits]
    return [
        (lambda n: _keep_near_edits(pieces, n), longest),
        (lambda n: [_keep_first(piece, n + 1) for piece in edits], longest),
        (lambda n: _keep_first_edits(shortest, n + 1), sum(piece.edited for piece in pieces)),
    ]


def _keep_near_edits(pieces: list[Piece], n_words: int) -> list[Piece]:
    """Leave out the unchanged words that are more than ``n_words`` away from every edit, unless it is a single one."""
    kept = []
    for position, piece in enumerate(pieces):
        words = split_words(piece.after)
        n_first = n_words if position > 0 else 0
        n_last = n_words if position < len(pieces) - 1 else 0
        if not piece.edited and len(words) > n_first + n_last + 1:
            text = "".join(words[:n_first]) + OMITTED + "".join(words[len(words) - n_last :])
            piece = Piece(text, text, False)
        kept.append(piece)
    return kept


def _keep_first(piece: Piece, n_words: int) -> Piece:
    if not piece.edited:
        return piece
    return Piece(_first_words(piece.before, n_words), _first_words(piece.after, n_words), True)


def _first_words(text: str, n_words: int) -> str:
    words = split_words(text)
    return text if len(words) <= n_words else "".join(words[:n_words]) + OMITTED


def _keep_first_words(piece: Piece, n_words: int) -> Piece:
    text = "".join(split_words(piece.after)[:n_words])
    return Piece(text, text, False)


def _keep_first_edits(pieces: list[Piece], n_edits: int) -> list[Piece]:
    positions = [position for position, piece in enumerate(pieces) if piece.edited]
    return pieces[: positions[n_edits]] if n_edits < len(positions) else pieces
