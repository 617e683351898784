"""What each way to choose layers makes of the numbers that it asks for, against independent computations."""

from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import clone

from sklearn_irt.selection import (
    BudgetSelection,
    FisherSelection,
    FixedSelection,
    GradientNormSelection,
    HalfSelection,
    LayerCost,
    LearnedImportanceSelection,
    RandomSelection,
    SparseSelection,
    SubTuningSelection,
)

LLAMA = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
]


class NumbersProbe:
    """Answers with given numbers, and notes what it was asked."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []

    def __getattr__(self, name):
        def answer(*arguments):
            self.asked.append((name, arguments))
            given = self.answers[name]
            return given(*arguments) if callable(given) else given

        return answer


def begun(selection, layers=range(4), n_layers=None, steps_per_epoch=10, **answers):
    layers = list(layers)
    selection = clone(selection)
    selection.begin(
        layers, np.random.RandomState(0), n_layers=n_layers or layers[-1] + 1, steps_per_epoch=steps_per_epoch
    )
    selection.probe_ = NumbersProbe(**answers)
    return selection


# interval


SCORING = {
    "fisher": (FisherSelection, {"squared_gradients": np.arange(4.0)}, "squared_gradients"),
    "subtuning": (SubTuningSelection, {"score_after_training": (0.5, -1.0)}, "score_after_training"),
    "budget": (BudgetSelection, {"savings": np.arange(4.0), "costs": [LayerCost(1, 1)] * 4}, "savings"),
    "sparse": (SparseSelection, {"gradients": {layer: {"w": np.ones(2)} for layer in range(4)}}, "gradients"),
    "half": (HalfSelection, {"tensors": {layer: {"a": "a"} for layer in range(4)}}, "tensors"),
    "ist": (LearnedImportanceSelection, {"losses": np.ones(3)}, "losses"),
    "cosine": (
        lambda interval: GradientNormSelection(importance="cosine", interval=interval),
        {"similarities": np.arange(4.0)},
        "similarities",
    ),
    "weight": (
        lambda interval: GradientNormSelection(importance="weight", interval=interval),
        {"weight_norms": np.arange(4.0)},
        "weight_norms",
    ),
}


@pytest.mark.parametrize(
    ("interval", "expected"),
    [(None, [0]), (1, list(range(25))), (7, [0, 7, 14, 21]), ("epoch", [0, 10, 20])],
)
@pytest.mark.parametrize("name", SCORING)
def test_layers_are_scored_when_the_interval_says(name, interval, expected):
    make, answers, question = SCORING[name]
    selection = begun(make(interval=interval), **answers)
    scored = []
    for step in range(25):
        before = len(selection.probe_.asked)
        assert set(selection.select(step)) <= set(range(4))
        if any(asked == question for asked, _ in selection.probe_.asked[before:]):
            scored.append(step)
    if name == "ist":  # at the first step its adapters still say nothing
        expected = [10] if interval is None else [step for step in expected if step > 0]
    assert scored == expected


@pytest.mark.parametrize("name", SCORING)
def test_a_choice_made_once_is_held_and_lets_the_lower_layers_join_the_prefix(name):
    make, answers, _ = SCORING[name]
    selection = begun(make(interval=None), **answers)
    chosen = {tuple(layers) for step in range(30) if (layers := selection.select(step).tolist()) and step >= 10}
    assert len(chosen) == 1
    assert selection.lowest(29) == min(chosen)[0]


# random


def test_random_layers_are_drawn_uniformly_and_anew():
    selection = begun(RandomSelection(n_trained=2, interval=5), range(3, 7))
    chosen = [tuple(selection.select(step)) for step in range(5 * 600)]
    assert all(len(set(chosen[i : i + 5])) == 1 for i in range(0, len(chosen), 5))
    pairs, counts = np.unique(chosen[::5], axis=0, return_counts=True)
    assert pairs.tolist() == [list(pair) for pair in combinations(range(3, 7), 2)]
    assert counts.min() > 60
    assert counts.max() < 140


def test_random_layers_that_are_held_let_the_lower_ones_join_the_prefix():
    selection = begun(RandomSelection(n_trained=0.5, interval=None))
    chosen = {tuple(selection.select(step)) for step in range(50)}
    assert len(chosen) == 1
    assert selection.lowest(7) == min(chosen)[0]


@pytest.mark.parametrize(
    "selection",
    [
        RandomSelection(n_trained=5),
        FisherSelection(n_trained=5),
        LearnedImportanceSelection(n_trained=5),
        LearnedImportanceSelection(n_suppressed=5),
    ],
    ids=str,
)
def test_more_layers_than_there_are_candidates_are_refused_before_training(selection):
    with pytest.raises(ValueError, match="asks for 5 layers, but there are 4 candidates"):
        begun(selection)


def test_fixed_layers_from_either_side():
    assert begun(FixedSelection(2), range(3, 8)).select(0).tolist() == [6, 7]
    assert begun(FixedSelection(2, side="bottom"), range(3, 8)).select(0).tolist() == [3, 4]


# ist


def test_importance_is_learned_as_in_the_sources_code():
    """The authors' loop, with their sign: a large score is of little importance."""
    sets = []
    losses = np.array([0.9, 1.4, 1.1])

    def answer(suppressed, factor, n_texts):
        sets.append([list(layers) for layers in suppressed])
        assert (factor, n_texts) == (0.25, 16)
        return losses

    selection = begun(LearnedImportanceSelection(), range(4, 12), losses=answer)
    for step in range(31):
        assert len(selection.select(step)) == 2
    assert len(sets) == 3
    scores = np.zeros(8)
    for drawn in sets:
        assert [len(layers) for layers in drawn] == [4, 4, 4]
        assert len(set(map(tuple, drawn))) == 3
        p = expit(scores)
        for layers, loss in zip(drawn, losses, strict=True):
            reward = np.exp(-loss) - np.mean(np.exp(-losses))
            for layer in layers:
                scores[layer - 4] += reward * p[layer - 4] * (1 - p[layer - 4]) * 10
    np.testing.assert_allclose(selection.scores_, -scores, rtol=1e-12)


def test_important_layers_train_more_often_and_are_suppressed_less_often():
    sets = []
    selection = begun(
        LearnedImportanceSelection(n_trained=1), losses=lambda drawn, *_: sets.extend(drawn) or np.ones(3)
    )
    trained = []
    for step in range(4000):
        selection.scores_ = np.array([3.0, 0.0, 0.0, -3.0])
        trained.append(selection.select(step)[0])
    share = np.bincount(trained, minlength=4) / 4000
    p = expit([3.0, 0.0, 0.0, -3.0])
    np.testing.assert_allclose(share, p / p.sum(), atol=0.03)
    suppressed = np.bincount(np.concatenate(sets), minlength=4)
    assert suppressed[0] < suppressed[1] < suppressed[3]


def test_fewer_sets_are_suppressed_where_there_are_not_so_many():
    drawn = []
    selection = begun(LearnedImportanceSelection(), range(2), losses=lambda sets, *_: drawn.append(sets) or np.ones(2))
    selection.select(0)
    selection.select(10)
    assert sorted(drawn[0]) == [[0], [1]]


# fisher


def test_layers_of_the_largest_fisher_information_train():
    selection = begun(FisherSelection(n_trained=2, n_texts=7), squared_gradients=np.array([0.3, 0.1, 0.2, 0.05]))
    assert selection.select(0).tolist() == [0, 2]
    assert selection.probe_.asked == [("squared_gradients", (7,))]


def test_of_equal_information_the_higher_layer_trains():
    assert begun(FisherSelection(n_trained=2), squared_gradients=np.ones(4)).select(0).tolist() == [2, 3]


# subtuning


def test_greedy_search_worked_by_hand():
    accuracy = {(2,): 0.5, (1,): 0.4, (1, 2): 0.7, (2, 3): 0.6, (0, 2): 0.6, (0, 1, 2): 0.7, (1, 2, 3): 0.8}
    trials = []

    def answer(layers, n_steps, share):
        assert (n_steps, share) == (5, 0.3)
        trials.append(tuple(sorted(layers)))
        return accuracy.get(trials[-1], 0.3), -1.0

    search = SubTuningSelection(n_trained=4, n_steps=5, validation_share=0.3)
    assert begun(search, score_after_training=answer).select(0).tolist() == [1, 2, 3]
    assert trials == [(0,), (1,), (2,), (3,), (0, 2), (1, 2), (2, 3), (0, 1, 2), (1, 2, 3), (0, 1, 2, 3)]
    tolerant = clone(search).set_params(tolerance=0.15)
    assert begun(tolerant, score_after_training=answer).select(0).tolist() == [1, 2]
    short = clone(search).set_params(n_trained=1)
    assert begun(short, score_after_training=answer).select(0).tolist() == [2]


def test_no_more_layers_are_found_than_there_are_candidates():
    search = begun(SubTuningSelection(n_trained=9), score_after_training=lambda layers, *_: (len(layers) / 9, 0.0))
    assert search.select(0).tolist() == [0, 1, 2, 3]


def test_where_accuracies_are_equal_the_lower_loss_decides():
    losses = {(0,): 1.2, (1,): 0.9, (2,): 1.0, (3,): 1.1, (0, 1): 0.8}

    def answer(layers, n_steps, share):
        return 0.5, -losses.get(tuple(sorted(layers)), 2.0)

    assert begun(SubTuningSelection(), score_after_training=answer).select(0).tolist() == [0, 1]
    assert begun(SubTuningSelection(tolerance=0.01), score_after_training=answer).select(0).tolist() == [1]


# budget


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("candidates", [[2, 3, 4, 5, 6, 7], [1, 4, 5, 7]], ids=str)
def test_choice_within_the_budget_is_the_best_of_all_subsets(share, candidates):
    rng = np.random.RandomState(round(100 * share) + len(candidates))
    costs = [LayerCost(*rng.uniform(0.5, 2, 2)) for _ in range(8)]
    importance = rng.uniform(0.1, 1, len(candidates))

    def cost(layers):
        return sum(costs[i].passing for i in range(min(layers), 8)) + sum(costs[i].own for i in layers)

    subsets = [c for n in range(1, len(candidates) + 1) for c in combinations(candidates, n)]
    allowed = [subset for subset in subsets if cost(subset) <= share * cost(candidates)]
    best = max(allowed, key=lambda subset: sum(importance[candidates.index(layer)] for layer in subset))
    selection = begun(BudgetSelection(share=share, n_texts=3), candidates, 8, savings=importance, costs=costs)
    assert selection.select(0).tolist() == list(best)
    assert selection.probe_.asked[0] == ("savings", (3,))


def test_a_budget_for_no_layer_says_what_one_takes():
    selection = begun(BudgetSelection(share=0.1), savings=np.ones(4), costs=[LayerCost(9, 1)] * 4)
    with pytest.raises(ValueError, match=r"takes 0\.25 of a full backward pass"):
        selection.select(0)


def test_a_single_candidate_trains_whatever_the_importance():
    assert begun(BudgetSelection(share=1.0), [2], savings=np.zeros(1), costs=[LayerCost(1, 1)] * 3).select(0) == [2]


# half


def test_half_of_the_modules_of_each_part_train():
    tensors = {layer: {f"{module}.weight": module for module in LLAMA} for layer in range(6)}
    selection = begun(HalfSelection(), range(6), tensors=tensors)
    assert selection.select(0).tolist() == list(range(6))
    masks = selection.masks(0)
    counts = [
        [sum(trains for name, trains in masks[layer].items() if name.startswith(part)) for layer in range(6)]
        for part in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
    ]
    assert counts[0] == [2] * 6
    assert sorted(counts[1]) == [1, 1, 1, 2, 2, 2]
    assert np.add(counts[2], counts[3]).tolist() == [1] * 6
    assert selection.masks(9) is masks
    selection.select(10)
    assert selection.masks(10) != masks


def test_all_tensors_of_a_module_train_together():
    tensors = {0: {f"self_attn.{m}.{t}": f"self_attn.{m}" for m in "qkvo" for t in ("A", "B")}}
    selection = begun(HalfSelection(), [0], tensors=tensors)
    selection.select(0)
    within = selection.masks(0)[0]
    assert sum(within.values()) == 4
    assert all(within[f"self_attn.{m}.A"] == within[f"self_attn.{m}.B"] for m in "qkvo")


# sparse


def test_entries_of_the_largest_gradient_train():
    rng = np.random.RandomState(0)
    shapes = {"q": (5, 8), "k": (3, 8), "bias": (6,)}
    gradients = {
        layer: {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for layer in (2, 3)
    }
    selection = begun(SparseSelection(share=0.1, n_texts=9), [2, 3], gradients=gradients)
    assert selection.select(0).tolist() == [2, 3]
    assert selection.probe_.asked == [("gradients", (9,))]
    for layer in (2, 3):
        everything = sorted((abs(g) for tensor in gradients[layer].values() for g in tensor.ravel()), reverse=True)
        assert len(everything) == 70
        for name, tensor in gradients[layer].items():
            expected = np.isin(np.abs(tensor), everything[:7])
            np.testing.assert_array_equal(selection.masks(0)[layer][name], expected)
        assert selection.scores_[layer - 2] == everything[6]


def test_entries_without_a_gradient_never_train():
    gradients = {0: {"w": np.array([0.0, 0.0, -2.0, 0.0], np.float32)}}
    selection = begun(SparseSelection(share=0.75), [0], gradients=gradients)
    selection.select(0)
    assert selection.masks(0)[0]["w"].tolist() == [False, False, True, False]


# ablations and refreshed scores of IR-Tuning


def test_layers_that_change_the_states_most_are_important():
    selection = begun(
        GradientNormSelection(importance="cosine", n_texts=5), similarities=np.array([0.9, 0.2, 0.95, 0.3])
    )
    assert selection.select(0).tolist() == [1, 3]
    np.testing.assert_allclose(selection.scores_, [0.1, 0.8, 0.05, 0.7])
    selection.observe(0, {1: [9.0], 3: [9.0]})
    np.testing.assert_allclose(selection.scores_, [0.1, 0.8, 0.05, 0.7])
    assert selection.probe_.asked == [("similarities", (5,))]


def test_layers_of_large_projections_are_important():
    selection = begun(GradientNormSelection(importance="weight"), weight_norms=np.array([3.0, 1.0, 1.1, 2.9]))
    assert [selection.select(step).tolist() for step in (0, 1)] == [[0, 3], [0, 3]]


def test_a_refresh_trains_all_candidates_for_a_step_and_then_selects_anew():
    selection = begun(GradientNormSelection(refresh=4, interval=None))
    norms = {0: [[1.0, 2.0, 8.0, 9.0]], 4: [[9.0, 8.0, 1.0, 2.0]], 8: [[9.0, 1.0, 8.0, 2.0]]}
    chosen = []
    for step in range(10):
        layers = selection.select(step)
        chosen.append(layers.tolist())
        fresh = norms.get(step, [[5.0] * 4])[0]
        selection.observe(step, {layer: [fresh[layer]] for layer in layers.tolist()})
        assert selection.lowest(step) == 0
    everything = [0, 1, 2, 3]
    assert chosen == [everything, *[[2, 3]] * 3, everything, *[[0, 1]] * 3, everything, [0, 2]]


def test_a_relative_norm_is_that_over_the_first_one():
    selection = begun(GradientNormSelection(score="relative-norm"), range(2))
    selection.observe(0, {0: [3.0, 4.0]})
    assert selection.scores_.tolist() == [1.0, np.inf]
    selection.observe(1, {0: [6.0, 8.0], 1: [0.0]})
    assert selection.scores_.tolist() == [2.0, np.inf]
    selection.observe(2, {0: [1.0], 1: [0.5]})
    assert selection.scores_.tolist() == [0.2, 1.0]


def test_a_saving_is_asked_for():
    selection = begun(GradientNormSelection(score="saving"), range(2), step_savings={1: 0.25})
    selection.observe(0, {1: [3.0]})
    assert selection.scores_.tolist() == [np.inf, 0.25]


@pytest.mark.parametrize("importance", ["cosine", "weight"])
def test_scores_that_are_never_stale_cannot_be_refreshed(importance):
    with pytest.raises(ValueError, match="refresh=5 is for importance='gradient'"):
        begun(GradientNormSelection(importance=importance, refresh=5))
