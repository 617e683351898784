"""Layers below a held selection join the frozen prefix in the middle of a fit: less work, the same result."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sklearn_irt import FixedSelection, GradientNormSelection, LayerSelection
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.longer_prefix import advance_states
from sklearn_irt.pairs import read_pairs
from sklearn_irt.states_store import between_fits
from sklearn_irt.tokenization import tokenize_pairs
from sklearn_irt.trained_part import TrainedPart

N_ROWS, N_STEPS = 60, 4  # of an epoch
WITHOUT_DROPOUT = {
    "llama": {},
    "gpt2": {"resid_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}


class HeldAfter(LayerSelection):
    """Train all candidates for some steps, then one layer to the end."""

    def __init__(self, n_steps=2, layer=3):
        self.n_steps = n_steps
        self.layer = layer

    def select(self, step):
        return self.layers_ if step < self.n_steps else np.array([self.layer])

    def lowest(self, step):
        return int(self.select(step)[0])


@pytest.fixture(autouse=True)
def _nothing_known():
    between_fits.clear()


@pytest.fixture
def without_advance(monkeypatch):
    """Return a function after which the prefix stays as long as it was."""

    def switch_off():
        for strategy in (HeldAfter, FixedSelection, GradientNormSelection):
            monkeypatch.setattr(strategy, "lowest", lambda self, step: int(self.layers_[0]))

    return switch_off


@pytest.fixture
def rows_by_step(monkeypatch):
    """Return a list that gets, for each training step, the layers that ran and in how many rows."""
    steps = []
    forward, begin = LlamaDecoderLayer.forward, SelectedLayers.on_batch_begin

    def counted(self, hidden_states, *args, **kwargs):
        if steps and torch.is_grad_enabled():
            rows = steps[-1]
            rows[self.self_attn.layer_idx] = rows.get(self.self_attn.layer_idx, 0) + len(hidden_states)
        return forward(self, hidden_states, *args, **kwargs)

    def mark(self, net, training=False, **kwargs):
        if training:
            steps.append({})
        begin(self, net, training=training, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    monkeypatch.setattr(SelectedLayers, "on_batch_begin", mark)
    return steps


def test_layers_below_a_held_selection_run_no_more(make_classifier, revisions, rows_by_step):
    make_classifier(candidate_layers="all", selection=HeldAfter(2, 3), max_epochs=2).fit(*revisions)
    assert [sorted(rows) for rows in rows_by_step] == [[0, 1, 2, 3]] * 2 + [[3]] * 6
    assert sum(rows[3] for rows in rows_by_step) == 2 * N_ROWS


@pytest.mark.parametrize(
    "selection", ["ir-fast", GradientNormSelection(warm_up=2, interval=None)], ids=["ir-fast", "warm_up=2"]
)
def test_layers_below_the_lowest_that_a_gradient_norm_rule_holds_run_no_more(
    make_classifier, revisions, rows_by_step, selection
):
    parameters = {"candidate_layers": "all", "max_epochs": 4, "selection": selection}
    classifier = make_classifier(**parameters).fit(*revisions)
    warm_up = classifier.selection_.warm_up
    lowest = int(classifier.candidate_layers_[classifier.active_layers_[-1]][0])
    assert len(rows_by_step) == 4 * N_STEPS > warm_up
    for step, rows in enumerate(rows_by_step):
        assert sorted(rows) == list(range(0 if step < warm_up else lowest, 4))


def test_layers_below_fixed_ones_run_in_no_step(make_classifier, revisions, rows_by_step):
    classifier = make_classifier(candidate_layers="all", selection=FixedSelection([2, 3])).fit(*revisions)
    assert [sorted(rows) for rows in rows_by_step] == [[2, 3]] * N_STEPS
    assert classifier.net_.module_.first_layer == 0


@pytest.mark.parametrize(
    ("family", "prefix_cache", "n_steps"),
    [("llama", "memory", 3), ("llama", "disk", 3), ("llama", "memory", 0), ("gpt2", "disk", 3), ("bert", "memory", 3)],
)
def test_the_result_is_that_of_the_same_fit_without_a_longer_prefix_where_nothing_is_rounded(
    make_classifier, revisions, backbones, without_advance, family, prefix_cache, n_steps, monkeypatch
):
    for module in ("prefix", "states_store"):
        monkeypatch.setattr(f"sklearn_irt.{module}.STORED_DTYPE", torch.float32)
    X, y = revisions
    parameters = {"backbone": backbones[family], "prefix_cache": prefix_cache, "candidate_layers": [1, 2, 3]}
    parameters |= {"selection": HeldAfter(n_steps, 3), "max_epochs": 2, "learning_rate": 0.01}
    parameters |= {"backbone_options": WITHOUT_DROPOUT[family]}
    longer = make_classifier(**parameters).fit(X, y)
    without_advance()
    plain = make_classifier(**parameters).fit(X, y)
    np.testing.assert_allclose(longer.predict_proba(X), plain.predict_proba(X), rtol=1e-3, atol=1e-4)
    losses = [classifier.history_[:, "train_loss"] for classifier in (longer, plain)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    between_fits.clear()


@pytest.mark.parametrize("prefix_cache", ["memory", "disk"])
def test_rounding_of_the_states_changes_the_result_little(make_classifier, revisions, without_advance, prefix_cache):
    X, y = revisions
    parameters = {"candidate_layers": [1, 2, 3], "prefix_cache": prefix_cache, "selection": HeldAfter(3, 3)}
    parameters |= {"max_epochs": 3, "learning_rate": 0.01}
    start = make_classifier(**{**parameters, "learning_rate": 1e-12}).fit(X, y).predict_proba(X)
    longer = make_classifier(**parameters).fit(X, y).predict_proba(X)
    without_advance()
    plain = make_classifier(**parameters).fit(X, y).predict_proba(X)
    assert 0 < np.abs(longer - plain).max() < 0.1 * np.abs(plain - start).max()


def test_disk_and_memory_give_equal_fits(make_classifier, revisions):
    X, y = revisions
    parameters = {"candidate_layers": "all", "selection": HeldAfter(2, 2), "max_epochs": 3}
    fits = [make_classifier(prefix_cache=p, **parameters).fit(X, y).predict_proba(X) for p in ("memory", "disk")]
    assert np.array_equal(*fits)


def test_states_of_other_fits_stay_as_they_were(make_classifier, revisions):
    X, y = revisions
    before = make_classifier(candidate_layers="all").fit(X, y).predict_proba(X)
    for prefix_cache in ("memory", "disk"):
        make_classifier(
            candidate_layers="all", selection=HeldAfter(1, 3), learning_rate=0.1, prefix_cache=prefix_cache
        ).fit(X, y)
    assert np.array_equal(make_classifier(candidate_layers="all").fit(X, y).predict_proba(X), before)


@pytest.mark.parametrize("prefix_cache", ["memory", "disk"])
def test_predictions_start_from_the_first_candidate_layer_and_agree_with_the_training_loss(
    make_classifier, revisions, prefix_cache
):
    """The last loss is that of the states that training saw: predictions from the texts give the same one."""
    X, y = revisions
    parameters = {"candidate_layers": "all", "class_weight": None, "batch_size": 60, "prefix_cache": prefix_cache}
    classifier = make_classifier(selection=HeldAfter(3, 3), max_epochs=6, **parameters).fit(X, y)
    probabilities = classifier.predict_proba(X)
    expected = -np.log(probabilities[np.arange(N_ROWS), np.searchsorted(classifier.classes_, y)]).mean()
    losses = classifier.history_[:, "train_loss"]
    assert losses[-1] == pytest.approx(expected, abs=0.5 * abs(losses[-2] - losses[-1]) + 1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("prefix_cache", ["memory", "disk"])
def test_early_stopping_works_with_it(make_classifier, revisions, prefix_cache, without_advance):
    X, y = revisions
    parameters = {"candidate_layers": "all", "selection": HeldAfter(2, 3), "prefix_cache": prefix_cache}
    parameters |= {"early_stopping": True, "validation_fraction": 0.2, "max_epochs": 30, "learning_rate": 0.03}
    longer = make_classifier(**parameters).fit(X, y)
    losses = longer.history_[:, "valid_loss"]
    assert longer.n_iter_ == len(losses) == int(np.argmin(losses)) + 1 + 2 < 30
    without_advance()
    plain = make_classifier(**parameters).fit(X, y)
    n_epochs = min(len(losses), len(plain.history_))
    np.testing.assert_allclose(losses[:n_epochs], plain.history_[:, "valid_loss"][:n_epochs], rtol=0.02)


@pytest.mark.parametrize("prefix_cache", ["memory", "disk"])
def test_ctrl_c_leaves_an_estimator_that_predicts_from_its_first_candidate_layer(
    make_classifier, revisions, interrupt_at, runs, prefix_cache
):
    X, y = revisions
    parameters = {"candidate_layers": "all", "selection": HeldAfter(2, 3), "learning_rate": 0.01, "max_epochs": 5}
    interrupt_at(6)
    with pytest.warns(UserWarning, match="interrupted after 6 steps"):
        stopped = make_classifier(**parameters, prefix_cache=prefix_cache).fit(X, y)
    runs.clear()
    probabilities = stopped.predict_proba(X)
    assert set(runs) == {0, 1, 2, 3}
    between_fits.clear()
    part = stopped.net_.module_
    assert part.first_layer == 0
    with torch.inference_mode():
        ids = torch.tensor(
            tokenize_pairs(read_pairs(X[:1]), part.backbone.tokenizer, "inline-diff", [], 8, 192).token_ids
        )
        states = part.backbone.model.model.embed_tokens(ids)
        logits = part(states.bfloat16(), ids, torch.ones_like(ids))
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), probabilities[:1], rtol=1e-4)


def test_ctrl_c_while_the_prefix_grows_leaves_an_estimator_that_predicts(make_classifier, revisions, monkeypatch):
    X, y = revisions

    def half_way(part, states, layer):
        states.replace(0, torch.zeros_like(states[0][0]))
        raise KeyboardInterrupt

    parameters = {"candidate_layers": "all", "selection": HeldAfter(2, 3), "max_epochs": 5}
    for prefix_cache in ("memory", "disk"):
        monkeypatch.setattr("sklearn_irt.callbacks.advance_states", half_way)
        with pytest.warns(UserWarning, match="interrupted after 2 steps"):
            stopped = make_classifier(**parameters, prefix_cache=prefix_cache).fit(X, y)
        expected = stopped.decision_function(X)
        between_fits.clear()
        stopped.net_.module_.zero_grad()
        assert np.array_equal(stopped._compute_logits(stopped._read_pairs(X, stopped)), expected)
        monkeypatch.setattr("sklearn_irt.callbacks.advance_states", advance_states)
        assert np.isfinite(make_classifier(**parameters, prefix_cache=prefix_cache).fit(X, y).predict_proba(X)).all()


@pytest.mark.parametrize(
    ("adapter", "precision"),
    [("lora", "bf16"), (LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear"), "fp32")],
)
def test_random_state_makes_two_fits_equal_to_the_last_bit(make_classifier, revisions, adapter, precision):
    X, y = revisions
    parameters = {"candidate_layers": "all", "adapter": adapter, "precision": precision, "max_epochs": 2}
    fits = [make_classifier(selection=HeldAfter(3, 2), **parameters).fit(X, y) for _ in range(2)]
    assert np.array_equal(*(classifier.predict_proba(X) for classifier in fits))


def test_dropout_is_off_while_states_are_advanced_and_on_again_afterwards(make_classifier, revisions, monkeypatch):
    modes = []

    def look(part, states, layer):
        advance_states(part, states, layer)
        modes.append(part.training)

    advanced = []
    advance = TrainedPart.advance

    def spy(self, *args, **kwargs):
        advanced.append(self.training)
        return advance(self, *args, **kwargs)

    monkeypatch.setattr("sklearn_irt.callbacks.advance_states", look)
    monkeypatch.setattr(TrainedPart, "advance", spy)
    dropout = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear")
    make_classifier(candidate_layers="all", selection=HeldAfter(2, 3), adapter=dropout).fit(*revisions)
    assert modes == [True]
    assert set(advanced) == {False}


class Contradiction(FixedSelection):
    """Trains all layers, and says that none but the last will train."""

    def lowest(self, step):
        return 3


def test_a_strategy_that_selects_below_its_lowest_is_refused(make_classifier, revisions):
    classifier = make_classifier(selection=Contradiction([2, 3]))
    with pytest.raises(ValueError, match=r"Contradiction must select candidate layers from lowest\(\) = 3 up"):
        classifier.fit(*revisions)
    assert not hasattr(classifier, "net_")


def test_nothing_is_advanced_after_the_last_step(make_classifier, revisions, monkeypatch):
    advances = []
    monkeypatch.setattr("sklearn_irt.callbacks.advance_states", lambda *args: advances.append(args))
    X, y = revisions
    selection = GradientNormSelection(warm_up=4, interval=None, cost_weight=3.0)
    classifier = make_classifier(selection=selection, candidate_layers="all", batch_size=15).fit(X, y)
    assert len(classifier.active_layers_) == 4
    assert classifier.active_layers_.all()
    assert not advances


def test_an_interruption_before_the_first_step_is_not_hidden_by_the_bar(make_classifier, revisions, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sklearn_irt.callbacks.advance_states", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_classifier(selection=FixedSelection(1), candidate_layers="all", verbose=1).fit(*revisions)
