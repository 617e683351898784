"""Draws which layers trained at each step of a fit, with what score, and how stable their ranking was."""

from __future__ import annotations  # matplotlib is not imported until something is drawn

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from .displays import check_fitted_classifier, divide, open_axes, running_mean

# More would be narrower than a pixel where the figure is as wide as a notebook.
_MOST_COLUMNS = 200
# Of the height of a row: what a layer takes that trained at each step of a column, and the least that can be seen.
_ROW, _SLIVER = 0.86, 0.3


class LayerSelectionDisplay:
    """Layers by steps: which of them trained, with what score, and how stable the ranking of the scores was.

    It is made by :meth:`from_estimator`. Parameters are stored as attributes.

    Parameters
    ----------
    candidate_layers : ndarray of shape (n_candidates,), dtype int
        The layers that may train, ascending.
    active_layers : ndarray of shape (n_steps, n_candidates), dtype bool
        Whether each of them trained at each step.
    layer_scores : ndarray of shape (n_steps, n_candidates), dtype float
        Their scores after each step; not finite where there is none.
    rank_correlation : ndarray of shape (n_steps,), dtype float64
        Of the scores after each step with those after the one before, from :func:`correlate_ranks`.
    score_name : str, default="Score"
        What the scores are.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Layers by steps. A row is coloured where its layer trained, by its score; elsewhere it was frozen.
    share_ax_ : matplotlib Axes
        The share of the steps at which each layer trained.
    correlation_ax_ : matplotlib Axes or None
        The rank correlation by steps; None where it is known of no step.
    figure_ : matplotlib Figure
        The figure.
    cells_ : matplotlib PolyCollection
        A cell for each column and layer that trained in it; of those, ``get_array()`` are the scores.
    bars_ : matplotlib BarContainer
        Those of the shares.
    colorbar_ : matplotlib Colorbar or None
        Says what the colours are; None where the strategy keeps no scores, and all cells are of one colour.
    correlation_line_ : matplotlib Line2D or None
        The rank correlation of each step.
    correlation_mean_line_ : matplotlib Line2D or None
        Its running mean over a twentieth of the steps.

    See Also
    --------
    ConvergenceDisplay : Losses and scores of one or several fits.

    Notes
    -----
    At most 200 columns are drawn. Where there are more steps, a column stands for several: the height of a cell is then
    the share of them at which the layer trained, but never so small that it could not be seen, and its colour is the
    mean score of those. Shares and correlation are of single steps all the same.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.layer_selection_display import LayerSelectionDisplay, correlate_ranks
    >>> scores = np.array([[np.inf, 0.2, 0.3], [0.1, 0.3, 0.2]])
    >>> display = LayerSelectionDisplay(
    ...     candidate_layers=np.array([3, 4, 5]),
    ...     active_layers=np.array([[False, True, True], [True, True, True]]),
    ...     layer_scores=scores,
    ...     rank_correlation=correlate_ranks(scores),
    ...     score_name="Gradient norm",
    ... )
    >>> display.plot()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        candidate_layers: NDArray[np.intp],
        active_layers: NDArray[np.bool_],
        layer_scores: NDArray[np.float64],
        rank_correlation: NDArray[np.float64],
        score_name: str = "Score",
    ) -> None:
        self.candidate_layers = candidate_layers
        self.active_layers = active_layers
        self.layer_scores = layer_scores
        self.rank_correlation = rank_correlation
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, cmap: Any = None, norm: Any = None
    ) -> LayerSelectionDisplay:
        """Draw the layer selection of a fitted classifier.

        Parameters
        ----------
        estimator : IRTuningClassifier
            A fitted one.
        ax : matplotlib Axes, default=None
            As in :meth:`plot`.
        cmap : str or matplotlib Colormap, default=None
            As in :meth:`plot`.
        norm : str or matplotlib Normalize, default=None
            As in :meth:`plot`.

        Returns
        -------
        display : LayerSelectionDisplay
            Drawn. A score that stands for a layer which was not seen is infinite in it.

        Raises
        ------
        TypeError
            If it is no IRTuningClassifier but, say, a Pipeline around one.
        NotFittedError
            If it is not fitted.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_irt import IRTuningClassifier, LayerSelectionDisplay, load_sample_revisions
        >>> X, y = load_sample_revisions(return_X_y=True, as_frame=True)
        >>> clf = IRTuningClassifier(random_state=0).fit(X[:300], y[:300])  # doctest: +SKIP
        >>> LayerSelectionDisplay.from_estimator(clf)  # doctest: +SKIP
        """
        check_fitted_classifier(estimator, f"{cls.__name__}.from_estimator")
        # Files do not hold a strategy of one's own class.
        selection = getattr(estimator, "selection_", None)
        scores = estimator.layer_scores_
        scores = np.where(scores == getattr(selection, "unseen_", np.inf), np.inf, scores)
        display = cls(
            candidate_layers=estimator.candidate_layers_,
            active_layers=estimator.active_layers_,
            layer_scores=scores,
            rank_correlation=correlate_ranks(scores),
            score_name=getattr(selection, "score_name", "Score"),
        )
        return display.plot(ax, cmap=cmap, norm=norm)

    def plot(self, ax: Any = None, *, cmap: Any = None, norm: Any = None) -> LayerSelectionDisplay:
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Gets the layers by steps; the other parts take their room from it. None makes a new figure.
        cmap : str or matplotlib Colormap, default=None
            Colours of the scores. None is viridis without its darkest and lightest ends, which would be lost on a dark
            or light ground.
        norm : str or matplotlib Normalize, default=None
            What maps scores to colours, for example "log"; None is linear from the smallest to the largest.

        Returns
        -------
        display : LayerSelectionDisplay
            This object.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.ax_ = open_axes(ax, f"{type(self).__name__}.plot")
        self.figure_ = self.ax_.figure
        is_ranked = bool(np.isfinite(self.rank_correlation).any())
        self._make_room(is_ranked)
        self._draw_cells(cmap, norm)
        self._draw_shares()
        self.correlation_line_ = self.correlation_mean_line_ = None
        if is_ranked:
            self._draw_correlation()
        self.figure_.sca(self.ax_)
        return self

    def _make_room(self, is_ranked: bool) -> None:
        cells = divide(self.ax_, (3, 1) if is_ranked else (1,), (5, 1))
        self.share_ax_ = self.figure_.add_subplot(cells[0, 1], sharey=self.ax_)
        self.correlation_ax_ = self.figure_.add_subplot(cells[1, 0], sharex=self.ax_) if is_ranked else None

    def _draw_cells(self, cmap: Any, norm: Any) -> None:
        from matplotlib.collections import PolyCollection
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        edges, shares, scores = self._columns()
        columns, rows = np.nonzero(shares)
        heights = np.maximum(_ROW * shares[columns, rows], _SLIVER) / 2
        left, right = edges[columns], edges[columns + 1]
        corners = [(left, rows - heights), (left, rows + heights), (right, rows + heights), (right, rows - heights)]
        self.cells_ = PolyCollection(
            list(np.moveaxis(np.array(corners, dtype=np.float64), 2, 0)),
            array=np.ma.masked_invalid(scores[columns, rows]),
            cmap=_choose_colours(cmap).with_extremes(bad="C0"),
            norm=norm,
            linewidths=0,
            antialiaseds=False,  # a seam would be seen between cells
        )
        self.ax_.add_collection(self.cells_)
        self.ax_.set(xlim=(0, edges[-1]), ylim=(-0.5, len(self.candidate_layers) - 0.5), ylabel="Layer")
        self.ax_.yaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1))
        self.ax_.yaxis.set_major_formatter(FuncFormatter(self._name_row))
        self._name_steps(self.ax_ if self.correlation_ax_ is None else self.correlation_ax_)
        self.colorbar_ = None
        if np.isfinite(scores).any():
            self.colorbar_ = self.figure_.colorbar(
                self.cells_,
                ax=[self.ax_, self.share_ax_],
                location="top",
                aspect=40,
                format="%.3g",
                label=self.score_name,
            )

    def _columns(self) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Return the edges of the columns, and for each and each layer share of steps, and mean score over them."""
        n_steps = len(self.active_layers)
        edges = np.linspace(0, n_steps, min(n_steps, _MOST_COLUMNS) + 1).astype(np.intp)
        scored = self.active_layers & np.isfinite(self.layer_scores)
        n_active, n_scored, total = (
            np.add.reduceat(values, edges[:-1], axis=0, dtype=np.float64)
            for values in (self.active_layers, scored, np.where(scored, self.layer_scores, 0))
        )
        means = np.divide(total, n_scored, out=np.full(total.shape, np.nan), where=n_scored > 0)
        return edges, n_active / np.diff(edges)[:, None], means

    def _name_row(self, position: float, _: Any) -> str:
        row = round(position)
        return str(self.candidate_layers[row]) if 0 <= row < len(self.candidate_layers) else ""

    def _name_steps(self, lowest: Any) -> None:
        lowest.set_xlabel("Step")
        if lowest is not self.ax_:
            self.ax_.tick_params(labelbottom=False)

    def _draw_shares(self) -> None:
        shares = self.active_layers.mean(axis=0)
        self.bars_ = self.share_ax_.barh(np.arange(len(shares)), shares, height=_ROW, color="C0")
        self.share_ax_.tick_params(labelleft=False, left=False)
        self.share_ax_.set(xlim=(0, 1), xticks=[1])
        self.share_ax_.set_xticklabels(["100%"], ha="right")
        self.share_ax_.set_xlabel("of steps", loc="right")
        # Below it is an empty cell; at the right nothing sticks out.
        self.share_ax_.xaxis.set_in_layout(self.correlation_ax_ is None)

    def _draw_correlation(self) -> None:
        ax: Any = self.correlation_ax_
        n_steps = len(self.rank_correlation)
        middles = np.arange(n_steps) + 0.5
        means = running_mean(self.rank_correlation, max(1, n_steps // 20))
        (self.correlation_line_,) = ax.plot(middles, self.rank_correlation, "C0", alpha=0.35, linewidth=0.8)
        (self.correlation_mean_line_,) = ax.plot(middles, means, "C0")
        ax.set(ylim=(min(0, np.nanmin(self.rank_correlation)) - 0.05, 1.05), ylabel="Rank\ncorrelation")
        ax.grid(axis="y", alpha=0.3)


def _choose_colours(cmap: Any) -> Any:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if cmap is not None:
        return colormaps.get_cmap(cmap)
    return ListedColormap(colormaps["viridis"](np.linspace(0.2, 0.95, 256)))


def correlate_ranks(layer_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how well each step's ranking of the layers agrees with that of the step before: Kendall's tau.

    Parameters
    ----------
    layer_scores : ndarray of shape (n_steps, n_layers), dtype float
        Scores after each step; not finite where a layer has none.

    Returns
    -------
    correlations : ndarray of shape (n_steps,), dtype float64
        From -1 to 1, over the layers that have a score after both steps. A layer that was not scored anew keeps its
        score, as it does for the strategy, so the correlation is 1 where none was. NaN of the first step, and where
        there are fewer than two such layers or all of them have the same score.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.layer_selection_display import correlate_ranks
    >>> correlate_ranks(np.array([[np.inf, 0.2, 0.3], [0.1, 0.3, 0.2]])).tolist()
    [nan, -1.0]
    """
    correlations = np.full(len(layer_scores), np.nan)
    for step, (before, after) in enumerate(pairwise(layer_scores), start=1):
        in_both = np.isfinite(before) & np.isfinite(after)
        if in_both.sum() > 1:
            correlations[step] = kendalltau(before[in_both], after[in_both]).statistic
    return correlations
