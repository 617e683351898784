"""Displays draw what a fit noted, as scikit-learn's displays do, and refuse what they cannot draw."""

import copy
import pickle
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_irt import (
    BudgetSelection,
    ConvergenceDisplay,
    FullSelection,
    GradientNormSelection,
    IRTuningClassifier,
    LayerSelectionDisplay,
)
from sklearn_irt.convergence_display import FitCurve
from sklearn_irt.displays import running_mean
from sklearn_irt.layer_selection_display import correlate_ranks

DISPLAYS = [LayerSelectionDisplay.from_estimator, ConvergenceDisplay.from_estimator]


@pytest.fixture(autouse=True)
def _no_figures():
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted(make_classifier, revisions):
    """Return a classifier that was fitted for two epochs, and validated after each."""
    held_out = {"early_stopping": True, "scoring": ["f1_macro"], "validation_fraction": 0.2}
    return make_classifier(candidate_layers="all", max_epochs=2, batch_size=6, **held_out).fit(*revisions)


def layer_display(active, scores, layers=None):
    active, scores = np.array(active, dtype=bool), np.array(scores, dtype=float)
    layers = np.arange(active.shape[1]) if layers is None else np.array(layers)
    return LayerSelectionDisplay(
        candidate_layers=layers,
        active_layers=active,
        layer_scores=scores,
        rank_correlation=correlate_ranks(scores),
    )


def curve(n_steps=4, seconds=None, **held_out):
    steps = np.arange(1, n_steps + 1)
    return FitCurve(
        losses=2.0 / steps,
        seconds=steps * 0.5 + 3 if seconds is None else seconds,
        epoch_steps=np.array([n_steps // 2, n_steps]),
        epoch_seconds=np.array([10.0, 20.0]),
        held_out={name: np.array(values) for name, values in held_out.items()},
    )


def drawn_cells(display):
    """Return what the cells show: for each step and layer the score, and NaN where there is no cell."""
    drawn = np.full(display.active_layers.shape, np.nan)
    for path, score in zip(display.cells_.get_paths(), display.cells_.get_array(), strict=True):
        (left, bottom), (right, top) = path.get_extents().min, path.get_extents().max
        assert right - left == 1
        assert top - bottom == pytest.approx(0.86)
        drawn[round(left), round((bottom + top) / 2)] = score
    return drawn


class TestLayerSelection:
    def test_a_cell_is_drawn_for_each_step_at_which_a_layer_trained_with_its_score(self, fitted):
        display = LayerSelectionDisplay.from_estimator(fitted)
        assert not fitted.active_layers_.all()
        expected = np.where(fitted.active_layers_, fitted.layer_scores_, np.nan)
        np.testing.assert_array_equal(drawn_cells(display), expected)
        assert display.colorbar_.ax.get_xlabel() == "Gradient norm"
        finite = expected[np.isfinite(expected)]
        assert display.cells_.get_clim() == (finite.min(), finite.max())

    def test_bars_are_the_shares_of_the_steps(self, fitted):
        display = LayerSelectionDisplay.from_estimator(fitted)
        assert [bar.get_width() for bar in display.bars_] == fitted.active_layers_.mean(axis=0).tolist()

    def test_the_line_is_the_rank_correlation(self, fitted):
        display = LayerSelectionDisplay.from_estimator(fitted)
        np.testing.assert_array_equal(display.correlation_line_.get_ydata(), display.rank_correlation)
        np.testing.assert_array_equal(display.rank_correlation, correlate_ranks(fitted.layer_scores_))
        assert display.correlation_line_.get_xdata()[0] == 0.5  # the middle of the first step

    def test_rank_correlation_counts_pairs_of_layers_that_both_steps_scored(self):
        scores = [
            [np.inf, 1.0, 2.0, 3.0],
            [9.0, 1.0, 3.0, 2.0],  # of the pairs 12, 13 and 23 the last one is turned round: (2 - 1) / 3
            [9.0, 1.0, 3.0, 2.0],
            [1.0, 4.0, 3.0, 2.0],  # all pairs turned round but 23: (1 - 5) / 6
        ]
        assert correlate_ranks(np.array(scores)) == pytest.approx([np.nan, 1 / 3, 1, -2 / 3], nan_ok=True)

    def test_rank_correlation_is_not_known_of_less_than_two_scored_layers(self):
        assert np.isnan(correlate_ranks(np.array([[np.inf, 1.0], [2.0, 1.0], [np.nan, np.nan]]))).all()

    @pytest.mark.parametrize(("after", "expected"), [([0.3, 0.4], 1), ([0.4, 0.3], -1), ([0.3, 0.3], np.nan)])
    def test_the_ranking_of_two_layers_stayed_or_turned_round(self, after, expected):
        np.testing.assert_equal(correlate_ranks(np.array([[0.1, 0.2], after])), [np.nan, expected])

    def test_the_number_that_stands_for_an_unseen_layer_is_no_score(self, fitted):
        reference = copy.copy(fitted)
        reference.selection_ = GradientNormSelection(variant="reference")
        reference.selection_.unseen_ = 1000.0
        reference.layer_scores_ = np.array([[1000.0, 1.0, 2.0, 1000.0], [1000.0, 2.0, 3.0, 0.5]])
        reference.active_layers_ = np.array([[False, True, True, False], [False, True, True, True]])
        display = LayerSelectionDisplay.from_estimator(reference)
        assert display.rank_correlation.tolist()[1] == 1
        assert np.isinf(display.layer_scores[:, 0]).all()

    def test_a_strategy_without_scores_is_drawn_in_one_colour(self):
        display = layer_display([[True, False], [True, True]], np.full((2, 2), np.nan)).plot()
        assert display.colorbar_ is display.correlation_ax_ is display.correlation_line_ is None
        assert len(display.cells_.get_paths()) == 3
        display.figure_.canvas.draw()
        assert {tuple(color) for color in display.cells_.get_facecolor()} == {mpl.colors.to_rgba("C0")}
        assert display.ax_.get_xlabel() == "Step"

    def test_a_single_step_of_thousands_is_seen_and_not_overstated(self):
        active = np.zeros((5000, 3), dtype=bool)
        active[1234, 0] = active[:, 1] = active[::2, 2] = True
        display = layer_display(active, np.where(active, 7.0, np.inf)).plot()
        boxes = [path.get_extents() for path in display.cells_.get_paths()]
        rare = [box for box in boxes if box.y1 < 0.5]
        assert [(box.x0, box.x1) for box in rare] == [(1225, 1250)]
        assert rare[0].height == pytest.approx(0.3)
        assert {round(box.height, 6) for box in boxes if 0.5 < box.y0 + box.height / 2 < 1.5} == {0.86}
        half = [box.height for box in boxes if box.y0 > 1.5]
        assert len(half) == 200
        assert np.mean(half) == pytest.approx(0.43, abs=1e-3)
        assert (display.cells_.get_array() == 7).all()

    def test_a_column_of_several_steps_has_the_mean_score_of_those_at_which_the_layer_trained(self):
        active = np.arange(400)[:, None] % 2 == [0, 1]
        scores = np.tile(np.arange(400.0)[:, None], 2)
        display = layer_display(active, scores).plot()
        lowest = [
            score
            for path, score in zip(display.cells_.get_paths(), display.cells_.get_array(), strict=True)
            if path.get_extents().y1 < 0.5
        ]
        assert lowest == list(range(0, 400, 2))

    def test_rows_have_the_indices_of_the_layers(self):
        display = layer_display([[True, True, True]], [[1.0, 2.0, 3.0]], layers=[3, 7, 12]).plot()
        display.figure_.canvas.draw()
        labels = {label.get_position()[1]: label.get_text() for label in display.ax_.get_yticklabels()}
        assert [labels[row] for row in (0, 1, 2)] == ["3", "7", "12"]

    def test_colours_can_be_chosen(self):
        display = layer_display([[True, True]], [[1.0, 100.0]]).plot(cmap="cividis", norm="log")
        assert display.cells_.get_cmap().name == "cividis"
        assert display.cells_.norm(10) == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("selection", "name"),
        [
            (GradientNormSelection(score="saving"), "Expected saving of loss"),
            (GradientNormSelection(importance="cosine"), "1 - cosine of states"),
            (BudgetSelection(), "Expected saving of loss"),
            (FullSelection(), "Score"),
        ],
    )
    def test_the_strategy_says_what_its_scores_are(self, fitted, selection, name):
        other = copy.copy(fitted)
        other.selection_ = selection
        assert LayerSelectionDisplay.from_estimator(other).score_name == name


class TestConvergence:
    def test_lines_are_what_the_history_notes(self, fitted):
        display = ConvergenceDisplay.from_estimator(fitted, name="tiny")
        losses = [batch["train_loss"] for row in fitted.history_ for batch in row["batches"] if "train_loss" in batch]
        n_steps = len(fitted.active_layers_)
        assert display.batch_lines_["tiny"].get_xydata().tolist() == list(map(list, enumerate(losses, start=1)))
        assert len(losses) == n_steps
        ends = [n_steps // 2, n_steps]
        for lines, column in ((display.held_out_lines_, "valid_loss"), (display.score_lines_, "valid_f1_macro")):
            values = [row[column] for row in fitted.history_]
            assert lines["tiny"].get_xydata().tolist() == list(map(list, zip(ends, values, strict=True)))
        assert display.score_ax_.get_ylabel() == "Held-out f1_macro"

    def test_seconds_are_those_of_the_history(self, fitted):
        display = ConvergenceDisplay.from_estimator(fitted, x="seconds")
        (line,), (held_out,) = display.loss_lines_.values(), display.held_out_lines_.values()
        steps = [batch["seconds"] for row in fitted.history_ for batch in row["batches"] if "train_loss" in batch]
        assert line.get_xdata().tolist() == steps
        assert held_out.get_xdata().tolist() == [row["seconds"] for row in fitted.history_]
        assert display.ax_.get_xlim()[0] == 0
        assert display.score_ax_.get_xlabel() == "Seconds since the fit began"

    def test_several_fits_are_told_apart(self, fitted):
        display = ConvergenceDisplay.from_estimators({"one": fitted, "other": fitted})
        assert list(display.loss_lines_) == list(display.score_lines_) == ["one", "other"]
        texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
        assert texts == ["one", "other", "held out, by epoch"]
        one, other = display.score_lines_.values()
        assert one.get_color() != other.get_color()
        assert one.get_marker() != other.get_marker()

    def test_the_running_mean_is_over_the_steps_around_each(self):
        assert running_mean([1.0, 2.0, 6.0, np.nan], 3).tolist() == [1.5, 3.0, 4.0, 6.0]
        display = ConvergenceDisplay(curves={"a": curve(n_steps=60), "b": curve(n_steps=20)}).plot()
        assert display.ax_.get_ylabel() == "Loss (mean of 3 steps)"
        assert display.loss_lines_["b"].get_ydata().tolist() == running_mean(curve(n_steps=20).losses, 3).tolist()
        display.plot(window=1)
        np.testing.assert_array_equal(display.loss_lines_["a"].get_ydata(), curve(n_steps=60).losses)

    def test_a_fit_that_held_nothing_out_has_no_markers(self):
        curves = {"plain": curve(), "validated": curve(loss=[1, 2], f1=[0.1, 0.2], kappa=[0.3, 0.4])}
        display = ConvergenceDisplay(curves=curves).plot()
        assert list(display.held_out_lines_) == list(display.score_lines_) == ["validated"]
        assert display.score_lines_["validated"].get_ydata().tolist() == [0.1, 0.2]
        assert display.plot(score="kappa").score_lines_["validated"].get_ydata().tolist() == [0.3, 0.4]

    def test_the_loss_alone_needs_no_second_panel(self):
        for display in (
            ConvergenceDisplay(curves={"plain": curve()}).plot(),
            ConvergenceDisplay(curves={"validated": curve(loss=[1, 2])}).plot(),
            ConvergenceDisplay(curves={"scored": curve(loss=[1, 2], f1=[1, 2])}).plot(score="loss"),
        ):
            assert display.score_ax_ is None
            assert display.figure_.axes == [display.ax_]
            assert display.ax_.get_xlabel() == "Step"

    def test_a_fit_of_an_earlier_version_has_steps_but_no_seconds(self, fitted):
        earlier = copy.copy(fitted)
        earlier.history_ = copy.deepcopy(fitted.history_)
        for row in earlier.history_:
            for entry in (row, *row["batches"]):
                entry.pop("seconds", None)
        with pytest.raises(ValueError, match=r"'old' noted no times, because an earlier version .* fit it again"):
            ConvergenceDisplay.from_estimators({"new": fitted, "old": earlier}, x="seconds")
        assert ConvergenceDisplay.from_estimators({"new": fitted, "old": earlier}).loss_lines_.keys() == {"new", "old"}

    @pytest.mark.parametrize(
        ("curves", "arguments", "message"),
        [
            ({"a": curve()}, {"x": "epoch"}, "x='epoch' must be 'step' or 'seconds'"),
            ({"a": curve()}, {"window": 0}, "window=0 must be a number of steps of 1 or more"),
            ({"a": curve()}, {"score": "f1"}, "score='f1', but no fit held anything out"),
            (
                {"a": curve(loss=[1, 2], f1=[1, 2])},
                {"score": "f2"},
                "of 'a' did not note the score 'f2', only loss, f1",
            ),
            ({"a": curve(loss=[1, 2], f1=[1, 2]), "b": curve(loss=[1, 2])}, {}, "of 'b' did not note the score 'f1'"),
        ],
    )
    def test_what_cannot_be_drawn_is_refused_before_a_figure_is_made(self, curves, arguments, message):
        with pytest.raises(ValueError, match=message):
            ConvergenceDisplay(curves=curves).plot(**arguments)
        assert not plt.get_fignums()

    @pytest.mark.parametrize("name", ["$5 against $6", "$x_$"])
    def test_a_name_is_written_to_the_letter(self, name):
        steps = np.array([1.0, 2.0])
        curve = FitCurve(steps, steps, np.array([2]), np.array([2.0]), {})
        display = ConvergenceDisplay(curves={name: curve}).plot()
        display.figure_.canvas.draw()
        (text,) = display.ax_.get_legend().get_texts()
        assert text.get_text() == name
        assert not text.get_parse_math()

    def test_classifiers_come_in_a_dict(self, fitted):
        with pytest.raises(TypeError, match="takes a dict of classifiers by name, not list"):
            ConvergenceDisplay.from_estimators([fitted])
        with pytest.raises(ValueError, match="got no classifier"):
            ConvergenceDisplay.from_estimators({})


@pytest.mark.parametrize("draw", DISPLAYS)
class TestEveryDisplay:
    def test_what_is_not_fitted_is_refused(self, draw, fitted):
        with pytest.raises(NotFittedError):
            draw(clone(fitted))

    def test_the_message_says_how_to_get_at_the_classifier_within(self, draw, fitted):
        with pytest.raises(TypeError, match=r"not Pipeline: .* pipeline\[-1\]"):
            draw(make_pipeline(FunctionTransformer(), fitted))
        with pytest.raises(TypeError, match=r"not GridSearchCV: .* search\.best_estimator_"):
            draw(GridSearchCV(fitted, {"max_epochs": [1, 2]}))
        with pytest.raises(TypeError, match="not str: pass the classifier itself"):
            draw("a classifier")
        assert not plt.get_fignums()

    def test_axes_that_are_given_are_used_and_nothing_else_is_changed(self, draw, fitted):
        figure, (left, right) = plt.subplots(1, 2)
        settings = dict(plt.rcParams)
        edges = right.get_position().bounds
        display = draw(fitted, ax=left)
        assert display.ax_ is left is plt.gca()
        assert display.figure_ is figure
        assert plt.get_fignums() == [figure.number]
        assert right.get_position().bounds == edges
        assert not right.has_data()
        assert dict(plt.rcParams) == settings

    def test_axes_without_a_grid_are_divided_where_they_are(self, draw, fitted):
        figure = plt.figure()
        display = draw(fitted, ax=figure.add_axes((0.1, 0.2, 0.5, 0.6)))
        boxes = [ax.get_position() for ax in figure.axes]
        assert len(boxes) > 1
        assert min(box.x0 for box in boxes) >= 0.1 - 1e-9
        assert max(box.x1 for box in boxes) <= 0.6 + 1e-9
        assert display.ax_ is figure.axes[0]

    def test_a_figure_of_its_own_is_made_where_no_axes_are_given(self, draw, fitted):
        display = draw(fitted)
        assert plt.get_fignums() == [display.figure_.number]
        again = pickle.loads(pickle.dumps(type(display)(**{n: v for n, v in vars(display).items() if n[-1] != "_"})))
        assert again.plot() is again
        assert again.figure_ is not display.figure_

    def test_matplotlib_is_asked_for_when_something_is_drawn(self, draw, fitted, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"Display\.plot requires matplotlib"):
            draw(fitted)


def test_fits_can_be_drawn_that_were_interrupted_in_their_first_epoch(make_classifier, revisions, interrupt_at):
    interrupt_at(2)
    with pytest.warns(UserWarning, match="interrupted after 2 steps"):
        classifier = make_classifier(early_stopping=True, validation_fraction=0.2).fit(*revisions)
    assert isinstance(classifier, IRTuningClassifier)
    assert len(LayerSelectionDisplay.from_estimator(classifier).active_layers) == 2
    display = ConvergenceDisplay.from_estimator(classifier, x="seconds")
    assert len(display.loss_lines_["IRTuningClassifier"].get_ydata()) == 2
    assert not display.held_out_lines_
