"""LayerSelectionDisplay says how stable the ranking of the layers was, however few layers there are."""

import numpy as np
import pytest

from sklearn_irt.layer_selection_display import correlate_ranks


@pytest.mark.parametrize(("after", "expected"), [([0.3, 0.4], 1), ([0.4, 0.3], -1), ([0.3, 0.3], np.nan)])
def test_of_two_layers_the_ranking_stayed_or_turned_round(after, expected):
    correlations = correlate_ranks(np.array([[0.1, 0.2], after]))
    np.testing.assert_equal(correlations, [np.nan, expected])


def test_of_three_layers_it_counts_the_pairs_that_changed_places():
    # One of three pairs did: (2 - 1) / 3.
    assert correlate_ranks(np.array([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]]))[1] == pytest.approx(1 / 3)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_layer_without_a_score_is_left_out(n_layers):
    scores = np.array([[0.1, np.inf], [0.2, np.inf]])[:, :n_layers]
    assert np.isnan(correlate_ranks(scores)).all()
