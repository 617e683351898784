"""What the displays of a fit have in common: whom they take, how they divide an Axes, and how they smooth a curve."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_is_fitted

from .classifier import IRTuningClassifier


def check_fitted_classifier(estimator: Any, method: str) -> None:
    """Refuse what is no fitted classifier of this package.

    Parameters
    ----------
    estimator : Any
        What the user gave.
    method : str
        Who takes it, for the error.

    Raises
    ------
    TypeError
        If it is something else, such as a Pipeline around one.
    NotFittedError
        If it is not fitted.
    """
    if not isinstance(estimator, IRTuningClassifier):
        raise TypeError(
            f"{method} takes a fitted IRTuningClassifier, not {type(estimator).__name__}: {_describe_within(estimator)}"
        )
    check_is_fitted(estimator, "net_")


def _describe_within(estimator: Any) -> str:
    if hasattr(estimator, "steps"):
        return "pass the last step of the pipeline, pipeline[-1]."
    if hasattr(estimator, "refit"):
        return "pass the best one of the search, search.best_estimator_."
    return "pass the classifier itself; if another estimator wraps it, the one that was fitted within."


def open_axes(ax: Any, method: str) -> Any:
    """Return the Axes to draw on: the user's, or the one of a new figure that makes room for labels by itself.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    check_matplotlib_support(method)
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1] if ax is None else ax


def divide(ax: Any, heights: Sequence[float], widths: Sequence[float] = (1,)) -> Any:
    """Put an Axes into the first cell of a grid over the room that it had.

    Parameters
    ----------
    ax : Axes
        Shrinks.
    heights, widths : sequence of float
        Of the rows and columns of the grid, in proportion.

    Returns
    -------
    cells : SubplotSpec
        Its other cells are for further Axes: ``cells[row, column]``.
    """
    from matplotlib.gridspec import GridSpec

    sizes: dict[str, Any] = {"height_ratios": heights, "width_ratios": widths, "hspace": 0.08, "wspace": 0.04}
    room = ax.get_subplotspec()
    if room is None:
        box = ax.get_position()
        edges = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
        cells: Any = GridSpec(len(heights), len(widths), figure=ax.figure, **edges, **sizes)
    else:
        cells = room.subgridspec(len(heights), len(widths), **sizes)
    ax.set_subplotspec(cells[0, 0])
    return cells


def running_mean(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the mean of the values around each one, of those that are there and not NaN.

    Parameters
    ----------
    values : array-like of shape (n_values,)
        One a step.
    window : int
        How many are averaged; at both ends fewer.

    Returns
    -------
    means : ndarray of shape (n_values,), dtype float64
        NaN where all are.
    """
    return pd.Series(values, dtype=np.float64).rolling(window, center=True, min_periods=1).mean().to_numpy()
