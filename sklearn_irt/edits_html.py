"""Writes pairs as HTML: the text with its edits marked, and each edit shaded by how far it carries the prediction."""

from collections.abc import Iterator, Sequence
from html import escape
from math import isnan
from typing import Any, NamedTuple

from .edits import Piece

# The colour-blind tell this blue and this orange apart. They are laid over whatever ground there is, and the text keeps
# the notebook's colour, so that both are read in light and in dark ones.
_FOR, _AGAINST = "#1E88E5", "#D55E00"
_DARKEST = 0.5
# Where no edit makes a difference, rounding would be shaded as dark as what decides a class.
_LEAST_SCALE = 0.1
_STYLE = """
<style>
.irt-edits { max-width: 60em; line-height: 1.7; }
.irt-edits p { margin: 0.2em 0; }
.irt-edits .irt-pair { margin: 0.8em 0; padding-left: 0.8em; border-left: 3px solid rgba(127, 127, 127, 0.5); }
.irt-edits .irt-text { max-height: 25em; overflow: hidden auto; white-space: pre-wrap; overflow-wrap: anywhere;
    scrollbar-color: rgba(127, 127, 127, 0.6) transparent; }
.irt-edits .irt-edit { padding: 0.1em 0.15em; border-radius: 0.2em;
    -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.irt-edits del, .irt-edits ins { color: inherit; background: none; }
.irt-edits del { text-decoration: line-through; }
.irt-edits ins { text-decoration: underline; }
.irt-edits del + ins { margin-left: 0.2em; }
.irt-edits sub { margin: 0 0.2em; line-height: 1; direction: ltr; unicode-bidi: isolate; }
</style>
"""


class ExplainedPair(NamedTuple):
    """A pair, what it is predicted to be, and how far that rests on each of its edits."""

    row: int
    """Its position in X."""
    pieces: Sequence[Piece]
    """Its text, from :func:`~sklearn_irt.edits.find_edits`."""
    predicted: Any
    """The predicted class."""
    probability: float
    """That of this class."""
    without: Sequence[float]
    """The probability of this class without each of the edits, in the order of the text."""

    @property
    def falls(self) -> list[float]:
        """How far the probability falls without each edit."""
        return [self.probability - without for without in self.without]


def write_pairs(pairs: Sequence[ExplainedPair], not_shown: Sequence[str] = ()) -> str:
    """Write pairs one below the other, under a legend.

    Parameters
    ----------
    pairs : sequence of ExplainedPair
        The pairs.
    not_shown : sequence of str, default=()
        Lines that say what else there is.

    Returns
    -------
    block : str
        HTML without scripts, in which what users wrote is escaped.
    """
    scale = max([_LEAST_SCALE, *(abs(fall) for pair in pairs for fall in pair.falls if not isnan(fall))])
    written = "".join(_write_pair(pair, scale) for pair in pairs)
    lines = "".join(f"<p>{escape(line)}</p>" for line in not_shown)
    return f'{_STYLE}<div class="irt-edits">{_write_legend(scale)}{written}{lines}</div>'


def write_fall(fall: float) -> str:
    """Write a fall with its sign, to two digits, or to four where these would be zero."""
    if isnan(fall):
        return "no text left"
    digits = 4 if 0 < abs(fall) < 0.005 else 2
    return f"{fall:+z.{digits}f}"


def write_heading(pair: ExplainedPair) -> str:
    """Write which pair it is, and what it is predicted to be."""
    return f"Pair {pair.row}: {pair.predicted}, probability {pair.probability:.2f}"


def colour_of(fall: float) -> str:
    """Return the colour, as "#RRGGBB", of an edit without which the probability falls so far."""
    return _FOR if fall > 0 else _AGAINST


def _write_legend(scale: float) -> str:
    falls, rises = (
        f'<span class="irt-edit" style="{_shade(fall, scale)}">{write_fall(fall)}</span>' for fall in (scale, -scale)
    )
    return (
        "<p><del>deleted</del> <ins>added</ins>; the number is what the probability of the predicted class loses when "
        f"this edit alone is taken back: {falls} it falls, {rises} it rises.</p>"
    )


def _write_pair(pair: ExplainedPair, scale: float) -> str:
    return (
        f'<div class="irt-pair"><p><b dir="auto">{escape(write_heading(pair))}</b></p>'
        f'<div class="irt-text" dir="auto">{"".join(_write_pieces(pair, scale))}</div></div>'
    )


def _write_pieces(pair: ExplainedPair, scale: float) -> Iterator[str]:
    without = iter(pair.without)
    for piece in pair.pieces:
        yield _write_edit(piece, pair, next(without), scale) if piece.edited else escape(piece.after)


def _write_edit(edit: Piece, pair: ExplainedPair, without: float, scale: float) -> str:
    fall = pair.probability - without
    is_white_space = edit.before.strip() == edit.after.strip()
    marked = "".join(_mark(tag, text, is_white_space) for tag, text in (("del", edit.before), ("ins", edit.after)))
    words = marked.lstrip()
    return (
        f'{marked[: len(marked) - len(words)]}<span class="irt-edit" style="{_shade(fall, scale)}" '
        f'title="{escape(_describe(pair, without))}">{words}<sub>{write_fall(fall)}</sub></span>'
    )


def _mark(tag: str, text: str, is_white_space: bool) -> str:
    """Mark what was deleted or added; a line through the blank before it would reach to the word before."""
    words = text if is_white_space else text.lstrip()
    return text[: len(text) - len(words)] + (f"<{tag}>{escape(words)}</{tag}>" if words else "")


def _describe(pair: ExplainedPair, without: float) -> str:
    if isnan(without):
        return "Without this edit no text is left, which has no probability."
    change = "falls" if pair.probability >= without else "rises"
    return (
        f"Without this edit the probability of {pair.predicted} {change} from {pair.probability:.4f} to {without:.4f}."
    )


def _shade(fall: float, scale: float) -> str:
    strength = 0 if isnan(fall) else _DARKEST * min(abs(fall) / scale, 1)
    return f"background:{colour_of(fall)}{round(255 * strength):02X}"
