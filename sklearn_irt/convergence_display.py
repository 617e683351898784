"""Draws how loss and held-out score of one or several fits went, by step or by second."""

from __future__ import annotations  # matplotlib is not imported until something is drawn

from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .displays import check_fitted_classifier, divide, open_axes, running_mean
from .scoring import TAKEN

_MARKERS = "osD^vPX*"


class FitCurve(NamedTuple):
    """What a fit noted about its steps and epochs."""

    losses: NDArray[np.float64]
    """Loss of each step's batch, of shape (n_steps,)."""
    seconds: NDArray[np.float64]
    """When each step ended since the fit began, of shape (n_steps,); NaN where an earlier version noted none."""
    epoch_steps: NDArray[np.intp]
    """Steps done by the end of each epoch, of shape (n_epochs,)."""
    epoch_seconds: NDArray[np.float64]
    """When each epoch ended, its validation included, of shape (n_epochs,)."""
    held_out: dict[str, NDArray[np.float64]]
    """The loss on the held-out part and the other scores by name, each of shape (n_epochs,)."""


class ConvergenceDisplay:
    """Loss and held-out score of one or several fits, by step or by second.

    It is made by :meth:`from_estimator` or :meth:`from_estimators`. Parameters are stored as attributes.

    Parameters
    ----------
    curves : dict of str to FitCurve
        What each fit noted, by the name in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The losses.
    score_ax_ : matplotlib Axes or None
        The held-out score, below; None where no fit noted one beside the loss.
    figure_ : matplotlib Figure
        The figure.
    batch_lines_ : dict of str to matplotlib Line2D
        The loss of each step's batch, faint.
    loss_lines_ : dict of str to matplotlib Line2D
        Its running mean.
    held_out_lines_ : dict of str to matplotlib Line2D
        The loss on the held-out part after each epoch, of the fits that held one out.
    score_lines_ : dict of str to matplotlib Line2D
        The held-out score after each epoch, of the same.

    See Also
    --------
    LayerSelectionDisplay : Which layers trained in a fit.

    Notes
    -----
    Seconds count from the beginning of the fit: what comes before the first step, above all loading the backbone and
    computing the frozen prefix, is the gap at the left. The first fit of a process loads the backbone, and later ones
    find it, and often the prefix states, in memory: where fits are to be compared by seconds, let none of them profit
    from another, or let all, after a fit that is not drawn. Of a fit that went on from a checkpoint neither the pause
    counts nor the steps that were lost, but what was loaded and computed once more does.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.convergence_display import ConvergenceDisplay, FitCurve
    >>> curve = FitCurve(
    ...     losses=np.array([1.6, 1.2, 1.1, 0.9]),
    ...     seconds=np.array([3.0, 3.5, 4.1, 4.6]),
    ...     epoch_steps=np.array([2, 4]),
    ...     epoch_seconds=np.array([3.6, 4.7]),
    ...     held_out={"loss": np.array([1.3, 1.2]), "f1_macro": np.array([0.4, 0.5])},
    ... )
    >>> ConvergenceDisplay(curves={"paper's rule": curve}).plot(x="seconds")  # doctest: +SKIP
    """

    def __init__(self, *, curves: dict[str, FitCurve]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        name: str = "IRTuningClassifier",
        x: str = "step",
        score: str | None = None,
        window: int | None = None,
        ax: Any = None,
    ) -> ConvergenceDisplay:
        """Draw the course of a fit.

        Parameters
        ----------
        estimator : IRTuningClassifier
            A fitted one.
        name : str, default="IRTuningClassifier"
            Its name in the legend.
        x, score, window, ax
            As in :meth:`plot`.

        Returns
        -------
        display : ConvergenceDisplay
            Drawn.

        Raises
        ------
        TypeError, NotFittedError, ValueError, ImportError
            As in :meth:`from_estimators`.

        Examples
        --------
        >>> from sklearn_irt import ConvergenceDisplay, IRTuningClassifier, load_sample_revisions
        >>> X, y = load_sample_revisions(return_X_y=True, as_frame=True)
        >>> clf = IRTuningClassifier(early_stopping=True, scoring="f1_macro")
        >>> ConvergenceDisplay.from_estimator(clf.fit(X, y), x="seconds")  # doctest: +SKIP
        """
        check_fitted_classifier(estimator, f"{cls.__name__}.from_estimator")
        return cls(curves={name: read_curve(estimator)}).plot(ax, x=x, score=score, window=window)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        *,
        x: str = "step",
        score: str | None = None,
        window: int | None = None,
        ax: Any = None,
    ) -> ConvergenceDisplay:
        """Draw the course of several fits in one picture.

        Parameters
        ----------
        estimators : mapping of str to IRTuningClassifier
            Fitted ones, by their names in the legend.
        x, score, window, ax
            As in :meth:`plot`.

        Returns
        -------
        display : ConvergenceDisplay
            Drawn.

        Raises
        ------
        TypeError
            If it is no mapping, or one of them is no IRTuningClassifier but, say, a Pipeline around one.
        NotFittedError
            If one is not fitted.
        ValueError
            If there is none, or as in :meth:`plot`.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn_irt import ConvergenceDisplay, IRTuningClassifier, load_sample_revisions
        >>> X, y = load_sample_revisions(return_X_y=True, as_frame=True)
        >>> fits = {name: IRTuningClassifier(selection=name).fit(X, y) for name in ("ir", "full")}  # doctest: +SKIP
        >>> ConvergenceDisplay.from_estimators(fits, x="seconds")  # doctest: +SKIP
        """
        method = f"{cls.__name__}.from_estimators"
        if not isinstance(estimators, Mapping):
            raise TypeError(f"{method} takes a dict of classifiers by name, not {type(estimators).__name__}.")
        if not estimators:
            raise ValueError(f"{method} got no classifier: give at least one.")
        for estimator in estimators.values():
            check_fitted_classifier(estimator, method)
        curves = {str(name): read_curve(estimator) for name, estimator in estimators.items()}
        return cls(curves=curves).plot(ax, x=x, score=score, window=window)

    def plot(
        self, ax: Any = None, *, x: str = "step", score: str | None = None, window: int | None = None
    ) -> ConvergenceDisplay:
        """Draw it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Gets the losses; the score takes its room from it. None makes a new figure.
        x : {"step", "seconds"}, default="step"
            What the losses are drawn against: steps done, or seconds since the fit began.
        score : str, default=None
            Which held-out score is drawn, by its name in ``scoring``; "loss" draws none beside the loss. None is the
            first that a fit noted beside the loss.
        window : int, default=None
            Over how many steps the mean of the losses is drawn. None is a twentieth of those of the longest fit.

        Returns
        -------
        display : ConvergenceDisplay
            This object.

        Raises
        ------
        ValueError
            If ``x`` or ``window`` is none of these, a fit was validated without noting the score, or it noted no times
            because an earlier version did it.
        ImportError
            If matplotlib is not installed.
        """
        self._check(x, window)
        score = self._choose_score(score)
        self.ax_ = open_axes(ax, f"{type(self).__name__}.plot")
        self.figure_ = self.ax_.figure
        self.score_ax_ = self._add_panel() if score else None
        longest = max(len(curve.losses) for curve in self.curves.values())
        self._draw_losses(x, window or max(1, longest // 20))
        self._draw_held_out(x, score)
        self._label("Step" if x == "step" else "Seconds since the fit began", score)
        self.figure_.sca(self.ax_)
        return self

    def _check(self, x: str, window: int | None) -> None:
        if x not in ("step", "seconds"):
            raise ValueError(f"x={x!r} must be 'step' or 'seconds'.")
        if window is not None and not (isinstance(window, Integral) and window >= 1):
            raise ValueError(f"window={window!r} must be a number of steps of 1 or more, or None.")
        untimed = [name for name, curve in self.curves.items() if np.isnan(curve.seconds[:1]).any()]
        if x == "seconds" and untimed:
            raise ValueError(
                f"x='seconds', but the fit of {untimed[0]!r} noted no times, because an earlier version of this "
                "package did it: fit it again, or draw x='step'."
            )

    def _choose_score(self, score: str | None) -> str | None:
        """Return the score that has a panel of its own, after checking that each validated fit noted it."""
        validated = {name: curve.held_out for name, curve in self.curves.items() if curve.held_out}
        if score is not None and not validated:
            raise ValueError(f"score={score!r}, but no fit held anything out: see early_stopping and scoring.")
        noted = [name for scores in validated.values() for name in scores]
        chosen = score or next((name for name in noted if name != "loss"), "loss")
        for name, scores in validated.items():
            if chosen not in scores:
                raise ValueError(
                    f"The fit of {name!r} did not note the score {chosen!r}, only {', '.join(scores)}: choose another "
                    "score, or see scoring."
                )
        return None if chosen == "loss" else chosen

    def _add_panel(self) -> Any:
        cells = divide(self.ax_, (3, 2))
        self.ax_.tick_params(labelbottom=False)
        return self.figure_.add_subplot(cells[1, 0], sharex=self.ax_)

    def _draw_losses(self, x: str, window: int) -> None:
        self.batch_lines_, self.loss_lines_ = {}, {}
        for number, (name, curve) in enumerate(self.curves.items()):
            at = curve.seconds if x == "seconds" else np.arange(1, len(curve.losses) + 1)
            means = running_mean(curve.losses, window)
            faint = {"color": f"C{number}", "alpha": 0.3, "linewidth": 0.8}
            (self.batch_lines_[name],) = self.ax_.plot(at, curve.losses, **faint)
            (self.loss_lines_[name],) = self.ax_.plot(at, means, color=f"C{number}", label=name)
        self.ax_.set_ylabel("Loss" if window == 1 else f"Loss (mean of {window} steps)")

    def _draw_held_out(self, x: str, score: str | None) -> None:
        self.held_out_lines_, self.score_lines_ = {}, {}
        for number, (name, curve) in enumerate(self.curves.items()):
            if not curve.held_out:
                continue
            at = curve.epoch_seconds if x == "seconds" else curve.epoch_steps
            style = {"color": f"C{number}", "marker": _MARKERS[number % len(_MARKERS)], "linestyle": "--"}
            (self.held_out_lines_[name],) = self.ax_.plot(at, curve.held_out["loss"], **style)
            if self.score_ax_ is not None and score is not None:
                (self.score_lines_[name],) = self.score_ax_.plot(at, curve.held_out[score], **style)

    def _label(self, x_label: str, score: str | None) -> None:
        lines = list(self.loss_lines_.values())
        if self.held_out_lines_:
            (held_out,) = self.ax_.plot([], [], color="0.5", marker="o", linestyle="--", label="held out, by epoch")
            lines.append(held_out)
        for text in self.ax_.legend(handles=lines).get_texts():
            text.set_parse_math(False)  # a dollar sign in a name is one
        if self.score_ax_ is not None:
            self.score_ax_.set_ylabel(f"Held-out {score}")
        lowest = self.ax_ if self.score_ax_ is None else self.score_ax_
        lowest.set(xlabel=x_label)
        lowest.set_xlim(left=0)


def read_curve(classifier: Any) -> FitCurve:
    """Read what a fitted classifier noted about its steps and epochs.

    Parameters
    ----------
    classifier : IRTuningClassifier
        A fitted one.

    Returns
    -------
    curve : FitCurve
        Of its ``history_``: the steps, the epochs that came to their end, and the scores that the user asked for.
    """
    history = classifier.history_
    steps = [[batch for batch in epoch["batches"] if "train_loss" in batch] for epoch in history]
    ended = [epoch for epoch in history if "train_loss" in epoch]
    names = [_name_of(column) for column in ended[0]] if ended else []
    return FitCurve(
        losses=_read(chain(*steps), "train_loss"),
        seconds=_read(chain(*steps), "seconds"),
        epoch_steps=np.cumsum([len(batches) for batches in steps[: len(ended)]], dtype=np.intp),
        epoch_seconds=_read(ended, "seconds"),
        held_out={name: _read(ended, f"valid_{name}") for name in names if name is not None},
    )


def _name_of(column: str) -> str | None:
    """Return the name of a held-out score by its column; None of other columns, and of what skorch adds unasked."""
    name = column.removeprefix("valid_")
    return None if name == column or name in TAKEN or name.endswith("_best") else name


def _read(rows: Iterable[Mapping[str, Any]], column: str) -> NDArray[np.float64]:
    return np.array([row.get(column, np.nan) for row in rows], dtype=np.float64)
