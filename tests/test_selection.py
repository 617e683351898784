"""The strategies against choices worked out by hand, and against a second implementation."""

from statistics import pvariance

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError

from sklearn_irt.selection import FixedSelection, FullSelection, GradientNormSelection, LayerSelection
from sklearn_irt.selection.base import layer_indices
from sklearn_irt.selection.ranking import best_block

NAN, INF = float("nan"), float("inf")
VARIANTS = ("standard", "reference")


def begun(selection, layers, seed=0, n_layers=None, steps_per_epoch=100):
    n_layers = n_layers or max(layers) + 1
    selection.begin(layers, np.random.RandomState(seed), n_layers=n_layers, steps_per_epoch=steps_per_epoch)
    return selection


def observe_scores(selection, scores):
    """Give every layer one tensor whose norm makes the wished score; sqrt(sqrt(norm)) of "reference" undoes **4."""
    power = 4 if selection.variant == "reference" else 1
    selection.observe(0, {layer: [score**power] for layer, score in scores.items()})


def choice(scores, **parameters):
    selection = begun(GradientNormSelection(**parameters), range(len(scores)))
    observe_scores(selection, dict(enumerate(scores)))
    return selection.select(1).tolist()


# Six layers consider the entries int(2.1) = 2 to int(3.9) = 3, so k = 3, 4; eight layers 2 to 5, so k = 3 .. 6; three
# layers int(1.05) = 1 to int(1.95) = 1, so k = 2; two layers k = 1. "standard" takes the ranks after k, "reference"
# the k-th too.
WORKED = {
    # Ranked 1 2 3 4 9 10 = layers 1 4 5 2 0 3. V(3) = 2/3 + 62/9 = 7.56; V(4) = 1.25 + 0.25 = 1.5. So k = 4.
    "distinct": ([9, 1, 4, 10, 2, 3], [0, 3], [0, 2, 3]),
    # Ranked 2 2 2 2 2 5 5 5 = layers 0 2 3 6 7 1 4 5. V(3) = 0 + 2.16; V(4) = 0 + 1.6875; V(5) = 0 + 0;
    # V(6) = 1.25 + 0. So k = 5; the last of the tied 2s is layer 7.
    "tied": ([2, 5, 2, 2, 5, 5, 2, 2], [1, 4, 5], [1, 4, 5, 7]),
    # Ranked by index. V(3) = V(4) = 0: the first, k = 3.
    "all equal": ([3, 3, 3, 3, 3, 3], [3, 4, 5], [2, 3, 4, 5]),
    # Ranked 1 1 1 1 1 9 = layers 0 to 5. V(3) = 0 + 128/9 = 14.2; V(4) = 0 + 16. So k = 3, within the ties.
    "cut through ties": ([1, 1, 1, 1, 1, 9], [3, 4, 5], [2, 3, 4, 5]),
    # Ranked 1 2 3 4 5 6 7 50 = layers 1 3 2 4 6 5 7 0. V(7) = 4 would be least, but is not considered:
    # V(3) = 0.67 + 317.84 = 318.51; V(4) = 1.25 + 363.5 = 364.75; V(5) = 2 + 420.67; V(6) = 2.92 + 462.25. So k = 3.
    "skewed": ([50, 1, 3, 2, 4, 6, 5, 7], [0, 4, 5, 6, 7], [0, 2, 4, 5, 6, 7]),
    # Ranked 1 2 3 4 u u = layers 2 0 5 3 1 4. The border of seen and unseen is k = 4.
    # With u = 1000, V(3) = 0.67 + 2/9 * 996**2 = 220448; V(4) = 1.25 + 0. So k = 4 again.
    "not finite": ([2, NAN, 1, 4, INF, 3], [1, 4], [1, 3, 4]),
    # Ranked 1 2 3 4 5 u = layers 2 0 5 3 4 1. The border k = 5 is not considered, the nearest is 4.
    # With u = 1000, V(3) = 0.67 + 220226.9; V(4) = 1.25 + 497.5**2 = 247507.5. So k = 3.
    "one not finite": ([2, NAN, 1, 4, 5, 3], [1, 4], [1, 3, 4, 5]),
    # Ranked 1 u u u u u = layers 5 0 1 2 3 4. The border k = 1 is not considered, the nearest is 3.
    # With u = 1000, V(3) = 2/9 * 999**2 + 0 = 221778; V(4) = 3/16 * 999**2 + 0 = 187125. So k = 4.
    "one finite": ([NAN, NAN, NAN, INF, INF, 1], [2, 3, 4], [2, 3, 4]),
    # Ranked 1 2 6 = layers 2 0 1. Only k = 2.
    "three layers": ([2, 6, 1], [1], [0, 1]),
    # Ranked 1 2 = layers 1 0. Only k = 1.
    "two layers": ([2, 1], [0], [0, 1]),
    "one layer": ([5], [0], [0]),
}


@pytest.mark.parametrize("name", WORKED)
def test_choice_worked_by_hand(name):
    scores, standard, reference = WORKED[name]
    assert choice(scores) == standard
    assert choice(scores, variant="reference") == reference


def test_second_split_worked_by_hand():
    # Ranked 1 2 3 4 5 6 20 21 30 31 = layers 0 2 4 6 8 9 1 3 5 7; considered k = 4 .. 7. V(4) = 1.25 + 105.8;
    # V(5) = 2 + 81.04; V(6) = 2.92 + 25.25 = 28.17; V(7) = 35.8 + 20.2. So k = 6.
    scores = [1, 20, 2, 21, 3, 30, 4, 31, 5, 6]
    assert choice(scores) == [1, 3, 5, 7]
    # Within 20 21 30 31 = layers 1 3 5 7: V(2) = 0.25 + 0.25; V(3) = 20.2 + 0. So k = 2.
    assert choice(scores, n_splits=2) == [5, 7]
    assert choice(scores, variant="reference") == [1, 3, 5, 7, 9]
    # Within 6 20 21 30 31 = layers 9 1 3 5 7: V(2) = 49 + 20.2 = 69.2; V(3) = 46.9 + 0.25 = 47.1; V(4) = 73.7.
    # So k = 3.
    assert choice(scores, variant="reference", n_splits=2) == [3, 5, 7]


def chosen_again(scores, variant, n_splits, lower, upper):
    """Choose as section 1 of the design says, in other words."""
    kept = range(len(scores))
    for _ in range(n_splits):
        if len(kept) > 1:
            ranked = sorted(kept, key=lambda layer: (scores[layer], layer))
            r = [scores[layer] for layer in ranked]
            first, last = (min(int(quantile * len(r)) + 1, len(r) - 1) for quantile in (lower, upper))
            cut = min(range(first, last + 1), key=lambda k: pvariance(r[:k]) + pvariance(r[k:]))
            kept = ranked[cut - 1 :] if variant == "reference" else ranked[cut:]
    return sorted(kept)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_splits", [1, 2])
@pytest.mark.parametrize(("lower", "upper"), [(0.35, 0.65), (0.1, 0.9), (0.5, 0.5), (0.0, 1.0)])
def test_choice_of_a_second_implementation(variant, n_splits, lower, upper):
    random = np.random.RandomState(7)
    parameters = {"variant": variant, "n_splits": n_splits, "lower_quantile": lower, "upper_quantile": upper}
    for n_layers in range(2, 41):
        scores = random.lognormal(sigma=random.uniform(0.1, 2), size=n_layers).tolist()
        assert choice(scores, **parameters) == chosen_again(scores, variant, n_splits, lower, upper)


def test_norm_of_a_layer():
    # sqrt(3**2 + 4**2) = 5; sqrt(sqrt(16) + sqrt(144)) = sqrt(4 + 12) = 4.
    standard = begun(GradientNormSelection(), [0, 1])
    standard.observe(0, {1: [3.0, 4.0]})
    assert standard.scores_.tolist() == [INF, 5.0]
    reference = begun(GradientNormSelection(variant="reference"), [0, 1])
    reference.observe(0, {1: [16.0, 144.0]})
    assert reference.scores_.tolist() == [1000.0, 4.0]


@pytest.mark.parametrize(("variant", "unseen"), [("standard", INF), ("reference", 1000.0)])
@pytest.mark.parametrize("norm", [NAN, INF])
def test_norm_that_is_not_finite_counts_as_unseen(variant, unseen, norm):
    selection = begun(GradientNormSelection(variant=variant), [0, 1])
    assert selection.scores_.tolist() == [unseen, unseen]
    selection.observe(0, {0: [1.0], 1: [1.0]})
    selection.observe(1, {1: [1.0, norm]})
    assert selection.scores_.tolist() == [1.0, unseen]


@pytest.mark.parametrize("variant", VARIANTS)
def test_choice_among_unseen_layers_is_random_and_reproducible(variant):
    def choices(seed):
        selection = begun(GradientNormSelection(variant=variant), range(12), seed)
        return [selection.select(step).tolist() for step in range(20)]

    # The global state must not matter.
    np.random.seed(0)  # noqa: NPY002
    first = choices(3)
    np.random.seed(1)  # noqa: NPY002
    assert choices(3) == first
    assert choices(4) != first
    assert {layer for chosen in first for layer in chosen} == set(range(12))
    assert len({tuple(chosen) for chosen in first}) > 10


def test_frozen_layer_keeps_its_score():
    selection = begun(GradientNormSelection(), range(6))
    observe_scores(selection, dict(enumerate([9, 1, 4, 10, 2, 3])))
    assert selection.select(1).tolist() == [0, 3]
    observe_scores(selection, {0: 0.5, 3: 11})
    assert selection.scores_.tolist() == [0.5, 1, 4, 11, 2, 3]


def test_begin_forgets_an_earlier_fit():
    selection = begun(GradientNormSelection(), range(6))
    observe_scores(selection, dict.fromkeys(range(6), 1.0))
    begun(selection, range(4))
    assert selection.scores_.tolist() == [INF] * 4
    selection.set_params(warm_up=5)
    for score in (1.0, 3.0):
        begun(selection, range(4))
        observe_scores(selection, dict.fromkeys(range(4), score))
        assert selection.scores_.tolist() == [score] * 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_second_split_is_within_the_first(variant):
    random = np.random.RandomState(2)
    for _ in range(20):
        scores = random.random_sample(30).tolist()
        once, twice = (choice(scores, variant=variant, n_splits=n_splits) for n_splits in (1, 2))
        assert set(twice) < set(once)


def test_interval_keeps_the_choice():
    selection = begun(GradientNormSelection(interval=3), range(6))
    kept = [1, 3, 3, 1, 9, 10], [9, 10, 1, 3, 3, 1], [1, 1, 9, 10, 3, 3]
    chosen = []
    for step in range(9):
        # Before steps 0, 3 and 6 the scores that count; before the others some that would choose otherwise.
        observe_scores(selection, dict(enumerate(kept[step // 3] if step % 3 == 0 else [9, 1, 1, 10, 3, 3])))
        chosen.append(selection.select(step).tolist())
    # Ranked 1 1 3 3 9 10. V(3) = 8/9 + 86/9 = 10.4; V(4) = 1 + 0.25. So k = 4.
    assert chosen == [[4, 5]] * 3 + [[0, 1]] * 3 + [[2, 3]] * 3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
def test_at_least_one_layer_trains(variant, n_layers):
    for quantile in (0.0, 0.5, 1.0):
        selection = GradientNormSelection(variant=variant, n_splits=6, lower_quantile=quantile, upper_quantile=quantile)
        begun(selection, range(n_layers))
        assert len(selection.select(0)) >= 1
        observe_scores(selection, {0: 1.0})
        assert len(selection.select(1)) >= 1
        observe_scores(selection, dict.fromkeys(range(n_layers), 2.0))
        assert len(selection.select(2)) >= 1


# Scores that select two of six layers: ranked 1 1 3 3 9 10, so k = 4 as above.
FIRST_TWO, MIDDLE_TWO, LAST_TWO = [9, 10, 1, 3, 3, 1], [1, 1, 9, 10, 3, 3], [1, 3, 3, 1, 9, 10]
ALL_SIX = list(range(6))


def choices_of_steps(selection, scores_by_step, **fit):
    """Return the choice at each step; frozen layers too are given the step's norm, so that it alone decides."""
    begun(selection, range(6), **fit)
    chosen = []
    for step, scores in enumerate(scores_by_step):
        chosen.append(selection.select(step).tolist())
        selection.observe(step, {layer: [scores[layer]] for layer in range(6)})
    return chosen


def test_interval_of_an_epoch():
    steps = [LAST_TWO, LAST_TWO, FIRST_TWO, LAST_TWO, LAST_TWO, MIDDLE_TWO, LAST_TWO]
    chosen = choices_of_steps(GradientNormSelection(interval="epoch"), steps, steps_per_epoch=3)
    # Epochs begin at steps 0, 3 and 6; at the first no layer has a score.
    assert chosen[0] == chosen[1] == chosen[2]
    assert chosen[3:] == [[0, 1]] * 3 + [[2, 3]]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        # The end of the warm-up, step 2, is within an epoch; the next two begin at steps 4 and 8.
        ("epoch", [[0, 1]] * 2 + [[4, 5]] * 4 + [[0, 1]]),
        # Steps 2, 5 and 8.
        (3, [[0, 1]] * 3 + [[2, 3]] * 3 + [[0, 1]]),
        (None, [[0, 1]] * 7),
    ],
)
def test_intervals_count_from_the_end_of_the_warm_up(interval, expected):
    steps = [FIRST_TWO] * 3 + [LAST_TWO, MIDDLE_TWO, LAST_TWO, MIDDLE_TWO, FIRST_TWO, LAST_TWO]
    chosen = choices_of_steps(GradientNormSelection(interval=interval, warm_up=2), steps, steps_per_epoch=4)
    assert chosen == [ALL_SIX] * 2 + expected


def test_warm_up_longer_than_the_fit_trains_every_layer():
    assert choices_of_steps(GradientNormSelection(warm_up=10, interval=None), [LAST_TWO] * 9) == [ALL_SIX] * 9


@pytest.mark.parametrize(("variant", "unseen"), [("standard", INF), ("reference", 1000.0)])
def test_score_of_the_warm_up_is_the_mean_of_the_finite_norms(variant, unseen):
    selection = begun(GradientNormSelection(warm_up=2, variant=variant), range(4))
    # One tensor of norm n**4 scores n in "reference".
    power = 4 if variant == "reference" else 1
    assert selection.select(0).tolist() == [0, 1, 2, 3]
    selection.observe(0, {0: [1.0], 1: [4.0**power], 2: [8.0**power], 3: [NAN]})
    assert selection.scores_.tolist() == [1, 4, 8, unseen]
    selection.select(1)
    selection.observe(1, {0: [3.0**power], 1: [NAN], 2: [2.0**power], 3: [INF]})
    # (1 + 3) / 2; 4 alone; (8 + 2) / 2; none.
    assert selection.scores_.tolist() == [2, 4, 5, unseen]
    # Ranked 2 4 5 u: of k = 2 and 3 "standard" takes 3, the border. With u = 1000, V(2) = 1 + 247506 is more than
    # V(3) = 14 / 9 + 0: k = 3 again, and one layer more. By the last norms, 3 u 2 u, layer 1 would be in.
    assert selection.select(2).tolist() == ([2, 3] if variant == "reference" else [3])
    # After the warm-up the last norm counts, and a norm that is not finite makes the layer unseen.
    selection.observe(2, {2: [7.0**power], 3: [6.0**power], 0: [NAN]})
    assert selection.scores_.tolist() == [unseen, 4, 7, 6]


def test_without_warm_up_a_held_choice_is_random():
    def held(seed, **parameters):
        selection = begun(GradientNormSelection(interval=None, **parameters), range(12), seed)
        first = selection.select(0).tolist()
        observe_scores(selection, dict(enumerate(range(12))))
        assert [selection.select(step).tolist() for step in (1, 2, 500)] == [first] * 3
        return tuple(first)

    assert held(3) == held(3)
    assert len({held(seed) for seed in range(10)}) > 5
    blocks = {held(seed, contiguous=True) for seed in range(10)}
    assert len({block[-1] for block in blocks}) > 3
    assert all(np.ptp(block) == len(block) - 1 for block in blocks)


@pytest.mark.parametrize(
    ("cost_weight", "expected"),
    [
        # Ranked 1 2 2 4 = layers 1 2 3 0. V(2) = 0.25 + 1; V(3) = 0.22 + 0. So k = 3.
        (0, [0]),
        # Costs 1, 0.75, 0.5, 0.25; their roots 1, 0.87, 0.71, 0.5. Ranked 1.15 2.83 4 4 = layers 1 2 0 3.
        # V(2) = 0.70 + 0; V(3) = 1.36 + 0. So k = 2.
        (0.5, [0, 3]),
        # Ranked 1.33 4 4 8 = layers 1 0 2 3. V(2) = 1.78 + 4; V(3) = 1.58 + 0. So k = 3.
        (1, [3]),
    ],
)
def test_cost_worked_by_hand(cost_weight, expected):
    selection = begun(GradientNormSelection(cost_weight=cost_weight), range(4))
    observe_scores(selection, dict(enumerate([4, 1, 2, 2])))
    assert selection.select(1).tolist() == expected
    assert selection.scores_.tolist() == [4, 1, 2, 2]


def test_cost_depends_on_the_layers_that_run():
    # Of 4 layers that run, layers 2 and 3 cost 2/4 and 1/4, of 8 layers 6/8 and 5/8.
    for n_layers, score, expected in ((4, 1.9, [3]), (4, 2.1, [2]), (8, 1.15, [3]), (8, 1.25, [2])):
        selection = begun(GradientNormSelection(cost_weight=1), [2, 3], n_layers=n_layers)
        observe_scores(selection, {2: score, 3: 1})
        assert selection.select(1).tolist() == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_unseen_layer_ranks_as_such_whatever_its_cost(variant):
    selection = begun(GradientNormSelection(variant=variant, cost_weight=1), range(4))
    # Costs 1, 0.75, 0.5, 0.25. Ranked 4 6 u u = layers 1 2 0 3, the border k = 2; with u = 1000, V(2) = 1 + 0.
    # Were layer 3 weighed too, V(3) = var(4, 6, 1000) = 219783 would be less than V(2) = 1 + var(1000, 4000).
    observe_scores(selection, dict(enumerate([NAN, 3, 3, NAN])))
    assert selection.select(1).tolist() == ([0, 2, 3] if variant == "reference" else [0, 3])


CONTIGUOUS = {
    # The rule takes layers 0 and 3 (see WORKED), "reference" 2 too. Sums of two 10 5 14 12 5, of three 14 15 16 15.
    "between the two": ([9, 1, 4, 10, 2, 3], [2, 3], [2, 3, 4]),
    # Ranked 2 2 5 5 5 5 = layers 0 3 1 2 4 5. V(3) = 2 + 0; V(4) = 2.25 + 0. So k = 3, or four layers in "reference".
    # Sums of three 12 12 12 12, of four 14 17 17.
    "tied": ([2, 5, 5, 2, 5, 5], [3, 4, 5], [2, 3, 4, 5]),
    # Ranked 1 1 9 9 u u = layers 3 4 1 2 0 5, the border k = 4. With u = 1000, V(3) = 14.2 + 218240; V(4) = 16 + 0.
    # Unseen in blocks of two 1 0 0 0 1, their finite sums 9 and 1; of three 1 0 0 1, 18 and 2.
    "unseen at both ends": ([NAN, 9, 9, 1, 1, NAN], [0, 1], [0, 1, 2]),
    # Ranked 1 1 2 8 9 u = layers 2 4 5 1 0 3. The border k = 5 is not considered, the nearest is 4: layers 0 and 3.
    # With u = 1000, V(3) = 0.22 + 218461; V(4) = 8.5 + 245520. So k = 3, four layers in "reference".
    # The blocks of two with layer 3 have finite sums of 1 and 1, those of four 18, 10 and 4.
    "one unseen": ([9, 8, 1, NAN, 1, 2], [3, 4], [0, 1, 2, 3]),
}


@pytest.mark.parametrize("name", CONTIGUOUS)
def test_block_worked_by_hand(name):
    scores, standard, reference = CONTIGUOUS[name]
    assert choice(scores, contiguous=True) == standard
    assert choice(scores, contiguous=True, variant="reference") == reference


def test_block_is_of_adjoining_candidates():
    selection = begun(GradientNormSelection(contiguous=True), [1, 3, 4, 7])
    # Ranked 1 2 8 9. V(2) = 0.25 + 0.25: layers 1 and 7. Sums 11 3 9.
    observe_scores(selection, {1: 9, 3: 2, 4: 1, 7: 8})
    assert selection.select(1).tolist() == [1, 3]


def test_block_is_as_long_as_the_last_split_and_weighed_by_cost():
    # Four layers, then two (see the second split above). Sums of four 44 46 56 58 68 70 46; of two 21 22 23 24 33 34
    # 35 36 11.
    scores = [1, 20, 2, 21, 3, 30, 4, 31, 5, 6]
    assert choice(scores, contiguous=True) == [5, 6, 7, 8]
    assert choice(scores, n_splits=2, contiguous=True) == [7, 8]
    # Ranked 0.6 1.5 3 3 4 12. V(3) = 0.98 + 16.2; V(4) = 1.05 + 16. So k = 4. Sums of two 12.6 3.6 7 5.5 4.5.
    scores = [12, 0.6, 3, 4, 1.5, 3]
    assert choice(scores, contiguous=True) == [0, 1]
    # At costs 6/6 .. 1/6 they are 12 0.72 4.5 8 4.5 18, ranked 0.72 4.5 4.5 8 12 18. V(3) = 3.2 + 16.9;
    # V(4) = 6.6 + 9. So k = 4. Sums of two 12.72 5.22 12.5 12.5 22.5.
    assert choice(scores, contiguous=True, cost_weight=1) == [4, 5]


def test_blocks_tie_where_their_sums_differ_by_rounding():
    # 0.3 + 0.2 + 0.1 is 0.6, but 0.2 + 0.1 + 0.3 is 0.6000000000000001.
    scores = np.array([0.3, 0.2, 0.1, 0.3, 0.2, 0.1])
    assert best_block(scores, np.zeros(6, dtype=bool), 3).tolist() == [3, 4, 5]


def test_lowest_layer_that_may_still_train():
    layers = range(2, 8)
    scores = dict(zip(layers, MIDDLE_TWO, strict=True))
    for interval, lowest in ((1, 2), ("epoch", 2), (None, 4)):
        selection = begun(GradientNormSelection(interval=interval, warm_up=1), layers)
        selection.select(0)
        assert selection.lowest(0) == 2
        observe_scores(selection, scores)
        # Not selected yet: the promise must hold all the same.
        assert selection.lowest(1) == 2
        assert selection.select(1).tolist() == [4, 5]
        assert selection.lowest(1) == selection.lowest(9) == lowest
    # A new fit starts from the lowest candidate again.
    assert begun(selection, layers).lowest(0) == 2
    assert begun(FullSelection(), layers).lowest(3) == 2
    assert begun(FixedSelection(layers=2), layers).lowest(3) == 6
    assert begun(FixedSelection(layers=[5, 3]), layers).lowest(0) == 3
    assert begun(LoudestSelection(), layers).lowest(0) == 2


def active_layers(make_classifier, revisions, selection, **parameters):
    """Return the names of the layers in training at each step; four candidates, four steps an epoch."""
    classifier = make_classifier(candidate_layers="all", selection=selection, **parameters).fit(*revisions)
    return [np.flatnonzero(row).tolist() for row in classifier.active_layers_]


def test_fit_that_warms_up_and_holds(make_classifier, revisions):
    active = active_layers(make_classifier, revisions, GradientNormSelection(warm_up=2, interval=None), max_epochs=2)
    assert active[:2] == [[0, 1, 2, 3]] * 2
    assert active[2:] == [active[2]] * 6
    assert len(active[2]) in (1, 2)


def test_fit_that_selects_each_epoch(make_classifier, revisions):
    active = active_layers(make_classifier, revisions, GradientNormSelection(interval="epoch"), max_epochs=3)
    assert active == [active[0]] * 4 + [active[4]] * 4 + [active[8]] * 4
    # What was frozen in the first epoch is unseen, and ranks first in the second.
    assert set(active[4]).isdisjoint(active[0])


def test_fit_weighed_by_cost(make_classifier, revisions):
    def last_choice(cost_weight):
        selection = GradientNormSelection(warm_up=2, interval=None, cost_weight=cost_weight)
        return active_layers(make_classifier, revisions, selection)[-1]

    # Four layers cost 1 to 1/4; weighed so, the highest scores 10**10 times what another does.
    assert last_choice(100) == [3]
    assert last_choice(0) != [3]


def test_fit_of_blocks(make_classifier, revisions):
    def are_blocks(**parameters):
        selection = GradientNormSelection(lower_quantile=0.2, upper_quantile=0.5, **parameters)
        active = active_layers(make_classifier, revisions, selection, max_epochs=3, random_state=1)
        return all(np.ptp(layers) == len(layers) - 1 for layers in active)

    assert are_blocks(contiguous=True)
    assert not are_blocks(contiguous=False)


def test_fast_selection_by_name(make_classifier, revisions):
    active = active_layers(make_classifier, revisions, "ir-fast", max_epochs=2, batch_size=8)
    assert active[:10] == [[0, 1, 2, 3]] * 10
    assert active[10:] == [active[10]] * 6
    assert 1 <= len(active[10]) <= 3


def test_a_name_is_the_same_selection_in_each_fit(make_classifier, revisions):
    first, second = (make_classifier(selection="ir-fast").fit(*revisions) for _ in range(2))
    assert first.selection_ is not second.selection_
    assert first.selection_.get_params() == {
        **GradientNormSelection().get_params(),
        **{"warm_up": 10, "interval": None},
    }


def test_strategy_knows_the_fit(make_classifier, revisions):
    parameters = {"n_layers": 3, "batch_size": 6, "early_stopping": True, "candidate_layers": [1, 2]}
    classifier = make_classifier(selection="full", **parameters).fit(*revisions)
    # A tenth of 60 rows is held out; 54 of them make nine steps, 60 would make ten.
    assert classifier.selection_.steps_per_epoch_ == len(classifier.active_layers_) == 9
    assert classifier.selection_.n_layers_ == 3
    classifier = make_classifier(selection="full").fit(*revisions)
    # 60 rows in batches of 16.
    assert classifier.selection_.steps_per_epoch_ == len(classifier.active_layers_) == 4
    assert classifier.selection_.n_layers_ == 4


def test_grid_search_over_the_parameters(make_classifier, revisions):
    grid = {
        "selection__warm_up": [0, 1],
        "selection__interval": ["epoch", None],
        "selection__cost_weight": [0.5],
        "selection__contiguous": [True],
    }
    classifier = make_classifier(selection=GradientNormSelection(), candidate_layers="all")
    search = GridSearchCV(classifier, grid, cv=2, error_score="raise").fit(*revisions)
    best = search.best_estimator_
    assert {f"selection__{name}": best.selection_.get_params()[name] for name in ("warm_up", "interval")}.items() <= (
        search.best_params_.items()
    )
    assert best.active_layers_[0].all() == (search.best_params_["selection__warm_up"] == 1)


def test_candidates_are_named_by_their_index():
    selection = begun(GradientNormSelection(), range(15, 30))
    assert set(selection.select(0)) < set(range(15, 30))
    scores = dict.fromkeys(range(15, 30), 1.0) | dict.fromkeys([15, 17, 19, 21, 23, 25, 29], 8.0)
    observe_scores(selection, scores)
    # Considered k = 6 .. 10; of 8 ones and 7 eights, k = 8 leaves no variance.
    assert selection.select(1).tolist() == [15, 17, 19, 21, 23, 25, 29]


def test_reversed_quantiles():
    with pytest.raises(ValueError, match=r"lower_quantile=0.7.*upper_quantile=0.3"):
        begun(GradientNormSelection(lower_quantile=0.7, upper_quantile=0.3), range(4))


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        (GradientNormSelection, {"n_splits": 0}),
        (GradientNormSelection, {"n_splits": 1.5}),
        (GradientNormSelection, {"lower_quantile": -0.1}),
        (GradientNormSelection, {"upper_quantile": 1.1}),
        (GradientNormSelection, {"upper_quantile": NAN}),
        (GradientNormSelection, {"interval": 0}),
        (GradientNormSelection, {"interval": "step"}),
        (GradientNormSelection, {"interval": 2.0}),
        (GradientNormSelection, {"warm_up": -1}),
        (GradientNormSelection, {"warm_up": None}),
        (GradientNormSelection, {"cost_weight": -0.5}),
        (GradientNormSelection, {"cost_weight": INF}),
        (GradientNormSelection, {"contiguous": "yes"}),
        (GradientNormSelection, {"variant": "paper"}),
        (FixedSelection, {"layers": "last"}),
        (FixedSelection, {"layers": 1.5}),
        (FixedSelection, {"layers": None}),
    ],
)
def test_invalid_parameter_is_refused_at_begin(strategy, parameters):
    selection = strategy(**parameters)
    with pytest.raises(InvalidParameterError, match=next(iter(parameters))):
        begun(selection, range(4))


@pytest.mark.parametrize(
    ("selection", "changes"),
    [
        (FullSelection(), {}),
        (FixedSelection(layers=[1, 2]), {"layers": 3}),
        (GradientNormSelection(n_splits=2, interval=3), {"variant": "reference", "lower_quantile": 0.2}),
        (GradientNormSelection(warm_up=2, cost_weight=1), {"interval": "epoch", "contiguous": True}),
        (GradientNormSelection(interval=None, contiguous=True), {"warm_up": 4, "cost_weight": 0.5}),
    ],
)
def test_strategy_is_a_plain_estimator(selection, changes):
    assert vars(selection) == selection.get_params()
    copy = clone(begun(clone(selection), range(4)))
    assert vars(copy) == selection.get_params()
    assert copy.set_params(**changes).get_params() == {**selection.get_params(), **changes}


def test_full_selection():
    selection = begun(FullSelection(), range(15, 30))
    selection.observe(0, {15: [1.0]})
    assert selection.select(1).tolist() == list(range(15, 30))
    assert np.isnan(selection.scores_).all()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(1, [6]), (2, [5, 6]), (np.int64(3), [4, 5, 6]), ([6, 4], [4, 6]), (np.array([5]), [5]), ((4, 4), [4])],
)
def test_fixed_selection(layers, expected):
    selection = begun(FixedSelection(layers=layers), [4, 5, 6])
    assert [selection.select(step).tolist() for step in (0, 1)] == [expected, expected]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([5, 7], r"7.*\[4, 5, 6\]"),
        ([0], r"0.*\[4, 5, 6\]"),
        ([], "candidate layers"),
        (4, "top 4 layers.* 3 candidates"),
        (0, "layers=0"),
        (-1, "layers=-1"),
    ],
)
def test_fixed_selection_refuses_what_is_no_candidate(layers, message):
    with pytest.raises(ValueError, match=message):
        begun(FixedSelection(layers=layers), [4, 5, 6])


@pytest.mark.parametrize(
    ("layers", "n_layers", "expected"),
    [
        ("all", 3, [0, 1, 2]),
        (1, 4, [3]),
        (np.int64(2), 4, [2, 3]),
        (4, 4, [0, 1, 2, 3]),
        (0.5, 6, [3, 4, 5]),
        (1.0, 3, [0, 1, 2]),
        (0.01, 3, [2]),
        ([2, 0], 4, [0, 2]),
        ((-1, -4), 4, [0, 3]),
        (np.array([3, -3]), 4, [1, 3]),
        (range(15, 30), 30, list(range(15, 30))),
    ],
)
def test_layer_indices(layers, n_layers, expected):
    assert layer_indices(layers, n_layers, "candidate_layers").tolist() == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("top", "'top'"),
        (0, "top 0 layers"),
        (-1, "4 run"),
        (5, "top 5 layers.* 4 run"),
        (0.0, "share"),
        (1.5, "share"),
        (NAN, "share"),
        (True, "list of layer indices"),
        (None, "list of layer indices"),
        ([], "not empty"),
        ([0.5], "integers"),
        ([True, False, True, False], "integers"),
        ([[0, 1]], "list of layer indices"),
        ([0, 4], "layer 4.* 0 to 3"),
        ([-5], "layer -5.* 0 to 3"),
        ([3, 1, -1], "layer 3 more than once"),
        ([[0], [1, 2]], "list of layer indices"),
    ],
)
def test_layer_indices_refuses(layers, message):
    with pytest.raises(ValueError, match=message) as error:
        layer_indices(layers, 4, "candidate_layers")
    assert "candidate_layers" in str(error.value)


class LoudestSelection(LayerSelection):
    """Train the layer of the largest gradient: what a user may write."""

    def __init__(self, start=0):
        self.start = start

    def select(self, step):
        return self.layers_[[self.start if step == 0 else int(np.nanargmax(self.scores_))]]

    def observe(self, step, gradient_norms):
        for layer, norms in gradient_norms.items():
            self.scores_[self.layers_ == layer] = max(norms)


def test_strategy_of_a_user():
    selection = begun(clone(LoudestSelection(start=1)), [4, 5, 6])
    assert selection.select(0).tolist() == [5]
    selection.observe(0, {4: [0.1, 0.2], 6: [0.3]})
    assert selection.select(1).tolist() == [6]


def test_interface_cannot_be_used_alone():
    with pytest.raises(TypeError, match="select"):
        LayerSelection()
