"""ComparisonDisplay: scores against costs, with names that cover nothing."""

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.dummy import DummyClassifier

from sklearn_irt import ComparisonDisplay


@pytest.fixture(autouse=True)
def _close_figures():
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "f1_macro": [0.47, 0.52, 0.55, 0.56, 0.1, np.nan],
            "f1_macro_std": [0.03, 0.04, 0.02, 0.035, np.nan, np.nan],
            "f1_macro_difference": [np.nan] * 6,
            "f1_macro_p_value": [np.nan] * 6,
            "accuracy": [0.5, 0.5, 0.6, 0.6, 0.2, np.nan],
            "accuracy_std": 0.01,
            "accuracy_difference": 0.0,
            "accuracy_p_value": 0.5,
            "fit_seconds": [0.4, 12, 260, 240, 0.002, np.nan],
            "fit_seconds_std": [0.05, 1, 30, 22, 0.0001, np.nan],
            "trained_parameters": pd.array([2000, 5000, 10**6, 10**6, pd.NA, pd.NA], dtype="Int64"),
        },
        index=pd.Index(["edits", "frozen features of an LLM", "all layers", "IR-Tuning", "prior", "unfinished"]),
    )


def places(display):
    return [[values.item() for values in point.lines[0].get_data()] for point in display.points_]


def test_points_are_score_against_seconds_and_bars_their_deviations(table):
    display = ComparisonDisplay.from_comparison(table)
    assert_allclose(places(display), table[["fit_seconds", "f1_macro"]][:5])
    across, up = (bar.get_segments()[0] for bar in display.points_[0].lines[2])
    assert_allclose(across, [[0.35, 0.47], [0.45, 0.47]])
    assert_allclose(up, [[0.4, 0.44], [0.4, 0.5]])
    assert [text.get_text() for text in display.texts_] == table.index[:5].tolist()
    assert display.ax_.get_xscale() == "log"
    assert display.ax_.get_xlabel() == "Seconds of a fit"
    assert "f1_macro" in display.ax_.get_ylabel()


def test_another_score_and_cost_leaving_out_who_has_none(table):
    display = ComparisonDisplay.from_comparison(table, score="accuracy", cost="trained_parameters")
    assert_allclose(places(display), [[2000, 0.5], [5000, 0.5], [10**6, 0.6], [10**6, 0.6]])


@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("crowded", [False, True])
def test_names_cover_neither_each_other_nor_points_and_stay_inside(table, style, crowded):
    if crowded:
        table["fit_seconds"], table["f1_macro"] = (
            [240, 230, 260, 240, 250, np.nan],
            [0.53, 0.52, 0.55, 0.56, 0.5, np.nan],
        )
    with plt.style.context(style):
        display = ComparisonDisplay.from_comparison(table)
    display.figure_.draw_without_rendering()
    boxes = [text.get_window_extent() for text in display.texts_]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    points = display.ax_.transData.transform(places(display))
    assert not any(box.contains(*point) for box in boxes for point in points)
    frame = display.ax_.bbox
    assert all(frame.contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_it_draws_into_axes_of_the_user_with_his_style(table):
    figure, (_, ax) = plt.subplots(1, 2)
    display = ComparisonDisplay.from_comparison(table, ax=ax, errorbar_kwargs={"fmt": "s", "color": "black"})
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert {point.lines[0].get_marker() for point in display.points_} == {"s"}
    assert display.plot().ax_ is not ax


def test_a_column_that_is_not_there_is_refused_with_those_that_are(table):
    with pytest.raises(ValueError, match="score='f2' is no score of the table, which has f1_macro, accuracy"):
        ComparisonDisplay.from_comparison(table, score="f2")
    with pytest.raises(ValueError, match="cost='money' is no cost of the table, which has fit_seconds, trained_param"):
        ComparisonDisplay.from_comparison(table, cost="money")
    with pytest.raises(ValueError, match="has none"):
        ComparisonDisplay.from_comparison(pd.DataFrame({"fit_seconds": [1.0]}))


def test_from_estimators_compares_and_keeps_the_table():
    contenders = {"prior": DummyClassifier(), "guess": DummyClassifier(strategy="uniform", random_state=0)}
    X, y = ["a", "b", "c"] * 4, [0, 1, 1] * 4
    display = ComparisonDisplay.from_estimators(contenders, X, y, scoring=["accuracy", "f1_macro"], cv=2)
    assert display.score == "accuracy"
    assert_allclose(places(display), display.table[["fit_seconds", "accuracy"]])


def test_a_cost_of_nothing_is_drawn_on_a_linear_axis_and_a_name_is_no_formula(table):
    costless = table[:2].rename(index={"edits": "$x_$"}).assign(fit_seconds=[0.0, 3.0])
    display = ComparisonDisplay.from_comparison(costless)
    display.figure_.canvas.draw()
    assert display.ax_.get_xscale() == "linear"
    assert [text.get_text() for text in display.texts_] == ["$x_$", "frozen features of an LLM"]
