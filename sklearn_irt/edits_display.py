"""Shows in the text of pairs how far each edit carries the predicted class: as HTML, as plain text, or as bars."""

from __future__ import annotations  # matplotlib, whose types are named here, is there only where something is plotted

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .edit_explanation import COLUMNS, explain_edits, find_edits_of_pairs
from .edits import Piece, only_edits, strip_edit
from .edits_html import ExplainedPair, colour_of, write_fall, write_heading, write_pairs
from .pair_format import mark_edit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_MOST_BARS = 20
_LETTERS_OF_LABEL = 24
_VISIBLE_BLANKS = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})


class EditsDisplay:
    """Pairs with their edits marked, each shaded by how far it carries the predicted class.

    It is recommended to make one by :meth:`from_estimator` or :meth:`from_explanation`. A notebook shows it as HTML:
    deleted words struck through, added ones underlined, both on blue where the probability of the predicted class falls
    without this edit, on orange where it rises. The darkest shade is the largest difference among the pairs that are
    shown, or 0.1 where that is less. ``print`` shows the same as text, and :meth:`plot` the edits of one pair as bars.

    Parameters
    ----------
    pairs : sequence of ExplainedPair
        The pairs, in the order in which they are shown.
    n_without_edits : int, default=0
        How many more have nothing to show.
    max_pairs : int, default=20
        Of more pairs, the first so many are shown, and a line says how many there are besides. It may be set later.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        What :meth:`plot` drew on.
    figure_ : matplotlib.figure.Figure
        The figure that it belongs to.

    See Also
    --------
    sklearn_irt.explain_edits : The numbers, and what they mean.

    Examples
    --------
    >>> from sklearn_irt import EditsDisplay, load_sample_revisions, make_edit_baseline
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> clf = make_edit_baseline().fit(X, y)
    >>> print(EditsDisplay.from_estimator(clf, [("I seen it, then.", "I saw it then.")]))
    Pair 0: coherence, probability 0.27
    I [- seen -] {+ saw +} (+0.23) it [- , -] (+0.17) then.
    """

    figure_: Figure | SubFigure
    ax_: Axes

    def __init__(self, pairs: Sequence[ExplainedPair], *, n_without_edits: int = 0, max_pairs: int = 20) -> None:
        self.pairs = pairs
        self.n_without_edits = n_without_edits
        self.max_pairs = max_pairs

    @classmethod
    def from_estimator(cls, clf: Any, X: Any, *, max_pairs: int = 20) -> EditsDisplay:
        """Explain pairs, and show them in the order of X.

        Parameters
        ----------
        clf : object
            A fitted classifier; see :func:`~sklearn_irt.explain_edits`.
        X : DataFrame, array-like or list of shape (n_samples, 2)
            Revision pairs. All of them are explained, however many are shown at first.
        max_pairs : int, default=20
            Most pairs that are shown.

        Returns
        -------
        display : EditsDisplay
            Nothing is plotted yet.

        Raises
        ------
        sklearn.exceptions.NotFittedError, TypeError, ValueError
            As :func:`~sklearn_irt.explain_edits` does.
        """
        _check_max_pairs(max_pairs)
        return cls.from_explanation(explain_edits(clf, X), X, max_pairs=max_pairs)

    @classmethod
    def from_explanation(cls, explanation: pd.DataFrame, X: Any, *, max_pairs: int = 20) -> EditsDisplay:
        """Show pairs that were explained before.

        Parameters
        ----------
        explanation : DataFrame of shape (n_edits, 8)
            From :func:`~sklearn_irt.explain_edits`. It may be sorted, and pairs may be left out, but a pair has all of
            its edits: the pairs are shown in the order in which they come here first.
        X : DataFrame, array-like or list of shape (n_samples, 2)
            The revision pairs that it explains.
        max_pairs : int, default=20
            Most pairs that are shown.

        Returns
        -------
        display : EditsDisplay
            Nothing is plotted yet.

        Raises
        ------
        TypeError
            If the explanation is no DataFrame, or a cell of X no string.
        ValueError
            If the explanation lacks a column or has edits that are not those of X; the message names the row.
        """
        _check_max_pairs(max_pairs)
        pieces = find_edits_of_pairs(X)
        _check_columns(explanation)
        pairs = [_read_pair(pieces, row, edits) for row, edits in explanation.groupby("row", sort=False)]
        n_without_edits = sum(not only_edits(in_row) for in_row in pieces)
        return cls(pairs, n_without_edits=n_without_edits, max_pairs=max_pairs)

    def plot(self, ax: Axes | None = None, *, row: int | None = None) -> EditsDisplay:
        """Draw the edits of one pair as bars, as long as the predicted class's probability falls without them.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            What to draw on; None makes a figure.
        row : int, default=None
            The pair's position in X; None takes the first one that is shown. Of more than 20 edits those with the
            largest differences are drawn.

        Returns
        -------
        display : EditsDisplay
            This one, with ``ax_`` and ``figure_``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such pair, or none at all.
        """
        check_matplotlib_support("EditsDisplay.plot")
        import matplotlib.pyplot as plt

        pair = self._find_pair(row)
        drawn = _largest(pair.falls, _MOST_BARS)
        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 1.2 + 0.3 * len(drawn)), layout="constrained")
        edits = only_edits(pair.pieces)
        _draw_bars(ax, [_label(edits[edit]) for edit in drawn], np.array(pair.falls)[drawn])
        ax.set_title(write_heading(pair), parse_math=False)
        ax.set_xlabel("fall when the edit is taken back")
        if len(drawn) < len(edits):
            ax.set_ylabel(f"{len(drawn)} of {len(edits)} edits, those that matter most")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _find_pair(self, row: int | None) -> ExplainedPair:
        for pair in self.pairs:
            if row is None or pair.row == row:
                return pair
        if not self.pairs:
            raise ValueError("None of these pairs has an edit: there is nothing to draw.")
        rows = [str(pair.row) for pair in self.pairs[:10]] + ["…"] * (len(self.pairs) > 10)
        raise ValueError(f"row={row} is no pair with edits: choose one of {', '.join(rows)}.")

    def _repr_html_(self) -> str:
        return write_pairs(self.pairs[: self.max_pairs], list(self._describe_rest()))

    def __repr__(self) -> str:
        return "\n\n".join([*map(_write_as_text, self.pairs[: self.max_pairs]), *self._describe_rest()])

    def _describe_rest(self) -> Iterator[str]:
        n_more = len(self.pairs) - self.max_pairs
        if n_more > 0:
            yield f"Not shown: {n_more} more. Raise the display's max_pairs to see them."
        if self.n_without_edits:
            yield f"Pairs of equal texts, in which there is no edit: {self.n_without_edits}."


def _check_max_pairs(max_pairs: int) -> None:
    check_scalar(max_pairs, "max_pairs", Integral, min_val=1)


def _check_columns(explanation: pd.DataFrame) -> None:
    if not isinstance(explanation, pd.DataFrame):
        raise TypeError(
            f"explanation is {type(explanation).__name__}, but must be the DataFrame that explain_edits returns."
        )
    missing = [column for column in COLUMNS if column not in explanation.columns]
    if missing:
        raise ValueError(
            f"explanation has no column {missing[0]!r}: pass what explain_edits returns, with all of its columns."
        )


def _read_pair(pieces: Sequence[Sequence[Piece]], row: Any, edits: pd.DataFrame) -> ExplainedPair:
    edits = edits.sort_values("edit")
    # A file of comma-separated values gives an empty side back as a missing one.
    explained = list(zip(edits["before"].fillna(""), edits["after"].fillna(""), strict=True))
    if not 0 <= row < len(pieces) or explained != [strip_edit(edit) for edit in only_edits(pieces[row])]:
        raise ValueError(
            f"The edits that explanation has of row {row} are not those of row {row} of X: pass the X that was "
            "explained, and all edits of a pair or none."
        )
    first = edits.iloc[0]
    return ExplainedPair(
        int(row), pieces[row], first["predicted"], float(first["probability"]), edits["probability_without"].tolist()
    )


def _write_as_text(pair: ExplainedPair) -> str:
    falls = iter(pair.falls)
    marked = "".join(
        f"{mark_edit(piece)} ({write_fall(next(falls))})" if piece.edited else piece.after for piece in pair.pieces
    )
    return f"{write_heading(pair)}\n{marked.strip()}"


def _largest(falls: Sequence[float], most: int) -> NDArray[np.intp]:
    """Return the indices of the falls, or rises, that are largest, ascending."""
    return np.sort(np.argsort(-np.nan_to_num(np.abs(falls)), kind="stable")[:most])


def _label(edit: Piece) -> str:
    deleted, added = strip_edit(edit)
    if deleted.strip() == added.strip():  # else the label would not show what changed
        deleted, added = deleted.translate(_VISIBLE_BLANKS), added.translate(_VISIBLE_BLANKS)
    deleted, added = _shorten(deleted), _shorten(added)
    return f"{deleted} → {added}" if deleted and added else f"+ {added}" if added else f"− {deleted}"


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LETTERS_OF_LABEL else text[: _LETTERS_OF_LABEL - 1] + "…"


def _draw_bars(ax: Axes, labels: Sequence[str], falls: NDArray[np.float64]) -> None:
    places = np.arange(len(labels))
    bars = ax.barh(places, np.nan_to_num(falls), color=[colour_of(fall) for fall in falls])
    ax.bar_label(bars, labels=[write_fall(fall) for fall in falls], padding=3)
    ax.set_yticks(places, labels, parse_math=False)
    ax.invert_yaxis()  # the first edit of the text comes first
    ax.axvline(0, color=ax.spines["left"].get_edgecolor(), linewidth=0.8)
    ax.margins(x=0.25)  # room for the numbers
