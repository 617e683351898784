"""Draws the scores of a comparison against what they cost."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils._optional_dependencies import check_matplotlib_support

from .comparison import compare
from .displays import open_axes

_COSTS = {
    "fit_seconds": "Seconds of a fit",
    "predict_seconds": "Seconds to predict the held-out part",
    "peak_memory_mb": "Peak memory (MB)",
    "peak_gpu_memory_mb": "Peak GPU memory (MB)",
    "trained_parameters": "Trained parameters",
}


class ComparisonDisplay:
    """A figure of what estimators are worth and what they cost: a score against seconds, on a logarithmic axis.

    Make it with :meth:`from_comparison` or :meth:`from_estimators`; the parameters below are stored as attributes.

    Parameters
    ----------
    table : DataFrame
        What :func:`~sklearn_irt.compare` returned.
    score : str
        The column that is drawn upwards.
    cost : str
        The column that is drawn to the right.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        Its figure.
    points_ : list of matplotlib ErrorbarContainer
        The point of each estimator, with bars of one standard deviation to each side.
    texts_ : list of matplotlib Annotation
        Their names.

    See Also
    --------
    sklearn_irt.compare : Makes the table.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn_irt import ComparisonDisplay, load_sample_revisions, make_edit_baseline
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> contenders = {"most frequent": DummyClassifier(), "edits": make_edit_baseline()}
    >>> display = ComparisonDisplay.from_estimators(contenders, X, y, cv=2)
    >>> [text.get_text() for text in display.texts_]
    ['most frequent', 'edits']
    """

    def __init__(self, table: pd.DataFrame, *, score: str, cost: str = "fit_seconds") -> None:
        self.table = table
        self.score = score
        self.cost = cost

    @classmethod
    def from_comparison(
        cls,
        table: pd.DataFrame,
        *,
        score: str | None = None,
        cost: str = "fit_seconds",
        ax: Any = None,
        errorbar_kwargs: dict[str, Any] | None = None,
    ) -> "ComparisonDisplay":
        """Draw a table.

        Parameters
        ----------
        table : DataFrame
            What :func:`~sklearn_irt.compare` returned; rows without a score are left out.
        score : str, default=None
            Which of the scores; None is the first.
        cost : {"fit_seconds", "predict_seconds", "peak_memory_mb", "peak_gpu_memory_mb", "trained_parameters"}, \
default="fit_seconds"
            What they are drawn against. Rows that have none are left out.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        errorbar_kwargs : dict, default=None
            Given to :meth:`matplotlib.axes.Axes.errorbar` for each point.

        Returns
        -------
        display : ComparisonDisplay
            With the drawing's attributes.

        Raises
        ------
        ValueError
            If the table has no such column.
        """
        scores = [column.removesuffix("_p_value") for column in table.columns if column.endswith("_p_value")]
        score = score or next(iter(scores), "")
        if score not in scores:
            raise ValueError(f"score={score!r} is no score of the table, which has {', '.join(scores) or 'none'}.")
        costs = [column for column in _COSTS if column in table.columns]
        if cost not in costs:
            raise ValueError(f"cost={cost!r} is no cost of the table, which has {', '.join(costs) or 'none'}.")
        return cls(table, score=score, cost=cost).plot(ax, errorbar_kwargs=errorbar_kwargs)

    @classmethod
    def from_estimators(
        cls,
        estimators: Any,
        X: Any,
        y: Any,
        *,
        score: str | None = None,
        cost: str = "fit_seconds",
        ax: Any = None,
        errorbar_kwargs: dict[str, Any] | None = None,
        **comparison: Any,
    ) -> "ComparisonDisplay":
        """Compare estimators and draw the table, which is then in ``table``.

        Parameters
        ----------
        estimators, X, y
            As in :func:`~sklearn_irt.compare`.
        score, cost, ax, errorbar_kwargs
            As in :meth:`from_comparison`.
        **comparison : dict
            Other parameters of :func:`~sklearn_irt.compare`, but ``return_splits``.

        Returns
        -------
        display : ComparisonDisplay
            With the drawing's attributes.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimators")  # which may be far from the end of the comparison
        table = compare(estimators, X, y, **comparison)
        return cls.from_comparison(table, score=score, cost=cost, ax=ax, errorbar_kwargs=errorbar_kwargs)

    def plot(self, ax: Any = None, *, errorbar_kwargs: dict[str, Any] | None = None) -> "ComparisonDisplay":
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        errorbar_kwargs : dict, default=None
            Given to :meth:`matplotlib.axes.Axes.errorbar` for each point.

        Returns
        -------
        self : ComparisonDisplay
            With the drawing's attributes.
        """
        ax = open_axes(ax, f"{type(self).__name__}.plot")
        self.ax_, self.figure_ = ax, ax.figure
        drawn = self.table.dropna(subset=[self.score, self.cost])
        self.points_ = [self._draw_point(row, errorbar_kwargs or {}) for _, row in drawn.iterrows()]
        # A logarithmic axis has no place for a cost of 0, such as the memory of what needs hardly any.
        scale = "log" if (drawn[self.cost] > 0).all() else "linear"
        ax.set(xscale=scale, xlabel=_COSTS[self.cost], ylabel=f"{self.score} (mean and deviation of the splits)")
        ax.margins(x=0.1, y=0.1)
        self.texts_ = _write_beside(ax, self.points_, drawn.index)
        return self

    def _draw_point(self, row: pd.Series, errorbar_kwargs: dict[str, Any]) -> Any:
        deviations = row.get(f"{self.score}_std"), row.get(f"{self.cost}_std")
        y_error, x_error = (None if value is None or pd.isna(value) else value for value in deviations)
        style = {"fmt": "o", "capsize": 3, **errorbar_kwargs}
        return self.ax_.errorbar(float(row[self.cost]), row[self.score], y_error, x_error, **style)


# Where the nearest corner of a name may stand, in points from its own point: near it first, and to the right.
_PLACES = [(x * 6, y * distance) for distance in (5, 14, 26, 40) for x, y in product((1, -1), (1, -1))]
_HALF_MARKER = 4


def _write_beside(ax: Any, points: Sequence[Any], names: Iterable[str]) -> list[Any]:
    """Write a name beside each point, at the first place where it covers nothing, or else where it covers least."""
    ax.figure.canvas.figure.draw_without_rendering()  # before, nobody knows where a point will be
    taken = [box for point in points for box in _boxes(ax, point)]
    texts = []
    for point, name in zip(points, names, strict=True):
        text = ax.annotate(
            name,
            _middle(point),
            _PLACES[0],
            textcoords="offset points",
            color=point.lines[0].get_color(),
            parse_math=False,
        )
        place = min(_PLACES, key=lambda place: _covered(_move(text, place), taken, ax.bbox))
        taken.append(_move(text, place))
        texts.append(text)
    return texts


def _move(text: Any, place: tuple[int, int]) -> Any:
    """Put a name at a place, and return the box that it fills."""
    text.set(position=place, ha="left" if place[0] > 0 else "right", va="bottom" if place[1] > 0 else "top")
    return text.get_window_extent()


def _covered(box: Any, taken: Sequence[Any], axes: Any) -> float:
    """Return the area of what a box covers, and of what is outside the axes."""
    common = [one for other in taken if (one := box.intersection(box, other)) is not None]
    inside = box.intersection(box, axes)
    outside = box.width * box.height - (0 if inside is None else inside.width * inside.height)
    return sum(one.width * one.height for one in common) + outside


def _middle(point: Any) -> tuple[float, float]:
    (x,), (y,) = point.lines[0].get_data()
    return x, y


def _boxes(ax: Any, point: Any) -> list[Any]:
    """Return the boxes, in pixels, of a point and its error bars."""
    from matplotlib.transforms import Bbox

    ends = [ax.transData.transform(bar) for bars in point.lines[2] for bar in bars.get_segments()]
    ends.append(ax.transData.transform([_middle(point)]))
    half = _HALF_MARKER * ax.figure.dpi / 72
    return [Bbox([np.min(end, axis=0) - half, np.max(end, axis=0) + half]) for end in ends]
