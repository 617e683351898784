"""What a step of training does, and what it leaves alone."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.exceptions import NotFittedError
from sklearn.utils import compute_class_weight
from torch.utils.data import Subset

from sklearn_irt import FixedSelection, FullSelection, GradientNormSelection, LayerSelection
from sklearn_irt.batching import LengthBuckets, StatesDataset, iterate_batches
from sklearn_irt.callbacks import LastGoodWeights, describe_layers
from sklearn_irt.prefix import PrefixStates
from sklearn_irt.training import LayerwiseNet


class Alternating(LayerSelection):
    """Train layer 2 at even steps and layer 3 at odd ones."""

    def select(self, step):
        return self.layers_[[step % 2]]


def weights_of(classifier):
    return {name: tensor.clone() for name, tensor in classifier.net_.module_.state_dict().items()}


def test_a_frozen_layer_keeps_its_weights_to_the_bit_and_the_head_always_trains(make_classifier, revisions):
    X, y = revisions
    all_trained = make_classifier(candidate_layers=[2, 3], selection="full").fit(X, y)
    one_trained = make_classifier(candidate_layers=[2, 3], selection=FixedSelection([3])).fit(X, y)
    fresh = make_classifier(candidate_layers=[2, 3], learning_rate=1e-12, selection=FixedSelection([3])).fit(X, y)
    for name, tensor in weights_of(one_trained).items():
        is_frozen = ".layers.2." in name
        assert torch.equal(tensor, weights_of(fresh)[name]) == is_frozen, name
        if is_frozen:
            assert not torch.equal(tensor, weights_of(all_trained)[name])


def test_a_frozen_layer_has_no_gradient_and_no_optimizer_state(make_classifier, revisions, monkeypatch):
    seen = []

    def look(self, net, training=False, **kwargs):
        parameters = net.module_.layer_parameters
        seen.append(
            {
                layer: [any(f(p) for p in group) for f in (lambda p: p.requires_grad, lambda p: p.grad is not None)]
                + [any(p in net.optimizer_.state for p in group)]
                for layer, group in parameters.items()
            }
        )

    monkeypatch.setattr(LastGoodWeights, "on_batch_end", look, raising=False)
    X, y = revisions
    make_classifier(candidate_layers=[2, 3], selection=Alternating()).fit(X, y)
    assert len(seen) == 4
    for step, state in enumerate(seen):
        trained, frozen = (2, 3) if step % 2 == 0 else (3, 2)
        assert state[trained] == [True, True, True]
        assert state[frozen] == [False, False, False]


def test_scores_are_the_gradient_norms_before_clipping(make_classifier, revisions, monkeypatch):
    seen = []
    observe = GradientNormSelection.observe

    def spy(self, step, gradient_norms):
        seen.append(gradient_norms)
        observe(self, step, gradient_norms)

    monkeypatch.setattr(GradientNormSelection, "observe", spy)
    clipped = []
    monkeypatch.setattr("sklearn_irt.training._LARGEST_GRADIENT_NORM", 1e-3)

    def look(self, net, **kwargs):
        grads = [p.grad for p in net.module_.layer_parameters[3] if p.grad is not None]
        clipped.append(float(torch.stack([g.norm() for g in grads]).norm()) if grads else None)

    monkeypatch.setattr(LastGoodWeights, "on_batch_end", look, raising=False)
    X, y = revisions
    classifier = make_classifier(candidate_layers=[1, 2, 3]).fit(X, y)
    for step, norms in enumerate(seen):
        for layer, tensors in norms.items():
            column = classifier.candidate_layers_.tolist().index(layer)
            assert classifier.layer_scores_[step, column] == pytest.approx(np.linalg.norm(tensors))
            if layer == 3:
                assert clipped[step] <= 1e-3 < np.linalg.norm(tensors)


def test_a_batch_that_goes_in_parts_teaches_what_it_teaches_whole(make_classifier, revisions, monkeypatch):
    X, y = revisions
    weights = np.linspace(0.2, 3, len(y))
    parts = []
    infer = LayerwiseNet.infer

    def spy(self, x, **fit_params):
        parts.append(tuple(x["input_ids"].shape))
        return infer(self, x, **fit_params)

    monkeypatch.setattr(LayerwiseNet, "infer", spy)

    def fit(most_tokens):
        monkeypatch.setattr("sklearn_irt.training._MOST_TOKENS_ON_A_CPU", most_tokens)
        parts.clear()
        return make_classifier(precision="fp32", batch_size=20).fit(X, y, sample_weight=weights), list(parts)

    (whole, of_whole), (split, of_split) = fit(10**6), fit(700)
    assert len(of_split) > len(of_whole)
    assert all(n_texts * width <= 700 for n_texts, width in of_split)
    assert sum(n_texts for n_texts, _ in of_split) == len(y)
    assert split.history_[0]["train_loss"] == pytest.approx(whole.history_[0]["train_loss"], rel=1e-4)
    np.testing.assert_allclose(split.layer_scores_, whole.layer_scores_, rtol=1e-3)
    np.testing.assert_allclose(split.predict_proba(X), whole.predict_proba(X), atol=1e-3)


def test_rows_of_the_reports_are_steps_and_columns_are_candidates(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(max_epochs=2, candidate_layers="all").fit(X, y)
    assert classifier.active_layers_.shape == classifier.layer_scores_.shape == (2 * 4, 4)
    assert classifier.active_layers_.dtype == bool
    # four candidates, cuts of entries int(0.35 * 4) = 1 to int(0.65 * 4) = 2: the upper 2 or 1 train
    assert set(classifier.active_layers_.sum(axis=1)) <= {1, 2}
    never = ~np.logical_or.accumulate(classifier.active_layers_)
    assert np.array_equal(np.isinf(classifier.layer_scores_), never)


@pytest.mark.parametrize("batch_size", [1, 20, 60])
def test_the_loss_is_the_weighted_cross_entropy_in_batches_of_any_size(make_classifier, revisions, batch_size):
    X, y = revisions
    weights = np.linspace(0.5, 2, len(y))
    classifier = make_classifier(batch_size=batch_size, learning_rate=1e-12, class_weight="balanced")
    classifier.fit(X, y, sample_weight=weights)
    logits = np.log(classifier.predict_proba(X))
    labels = np.searchsorted(classifier.classes_, y)
    by_class = compute_class_weight("balanced", classes=classifier.classes_, y=y.to_numpy(), sample_weight=weights)
    total = weights * by_class[labels]
    expected = -(log_softmax(logits, axis=1)[np.arange(60), labels] * total).sum() / total.sum()
    assert classifier.history_[0, "train_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_0_and_the_head_learns_at_a_twentieth(
    make_classifier, revisions, monkeypatch
):
    rates = {"adapters": [], "head": []}

    def look(self, net, **kwargs):
        rate = {id(p): group["lr"] for group in net.optimizer_.param_groups for p in group["params"]}
        adapters = {rate.pop(id(p)) for ps in net.module_.layer_parameters.values() for p in ps}
        for part, found in (("adapters", adapters), ("head", set(rate.values()))):
            (only,) = found
            rates[part].append(only)

    monkeypatch.setattr(LastGoodWeights, "on_batch_begin", look, raising=False)
    X, y = revisions
    make_classifier(max_epochs=5, learning_rate=0.1).fit(X, y)
    # 5 epochs of 4 steps; the first 2 warm up from 0, then 18 steps of equal decrease to 0
    expected = np.array([0, 0.05, *(0.1 * (1 - step / 18) for step in range(18))])
    assert rates["adapters"] == pytest.approx(expected)
    assert rates["head"] == pytest.approx(0.05 * expected)


@pytest.mark.parametrize("learning_rate", [1e20, 1e30])
def test_divergence_names_step_and_rate_and_the_last_good_weights_predict(make_classifier, revisions, learning_rate):
    X, y = revisions
    classifier = make_classifier(max_epochs=20, learning_rate=learning_rate)
    with pytest.raises(FloatingPointError, match=r"(loss|gradient) is n.* at step \d+ .*learning_rate=1e\+"):
        classifier.fit(X, y)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(classifier).values())
    assert np.isfinite(classifier.predict_proba(X)).all()


def test_ctrl_c_keeps_what_was_learned_and_says_so(make_classifier, revisions, interrupt_at):
    X, y = revisions
    interrupt_at(3)
    classifier = make_classifier(max_epochs=5)
    with pytest.warns(UserWarning, match="interrupted after 3 steps") as warned:
        classifier.fit(X, y)
    assert {one.filename for one in warned} == {__file__}
    assert classifier.active_layers_.shape[0] == 3
    assert classifier.n_iter_ == 0
    assert classifier.predict(X).shape == (60,)


def test_ctrl_c_before_the_first_step_interrupts_and_leaves_the_estimator_unfitted(
    make_classifier, revisions, interrupt_at
):
    X, y = revisions
    interrupt_at(0)
    classifier = make_classifier()
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(X, y)
    with pytest.raises(NotFittedError):
        classifier.predict(X)


def test_early_stopping_stops_and_restores_the_best_weights(make_classifier, revisions, monkeypatch):
    best = {}
    original = LayerwiseNet.fit_loop

    def spy(self, *args, **kwargs):
        try:
            return original(self, *args, **kwargs)
        finally:
            best.update(self.callback("early_stopping").best_model_weights_)

    monkeypatch.setattr(LayerwiseNet, "fit_loop", spy)
    X, y = revisions
    classifier = make_classifier(max_epochs=30, learning_rate=0.03, early_stopping=True, validation_fraction=0.2)
    classifier.fit(X, y)
    losses = classifier.history_[:, "valid_loss"]
    assert classifier.n_iter_ == len(losses) == int(np.argmin(losses)) + 1 + 2 < 30
    assert all(torch.equal(tensor, best[name]) for name, tensor in weights_of(classifier).items())


def test_early_stopping_is_checked_before_anything_is_loaded(make_classifier):
    X = [("a b", "a c")] * 10
    with pytest.raises(ValueError, match="two rows of each class, but y has one of class 'odd'"):
        make_classifier(backbone="/nowhere", early_stopping=True).fit(X, ["even"] * 9 + ["odd"])
    with pytest.raises(ValueError, match="splits 10 rows into 9 and 1, fewer than the 2 classes"):
        make_classifier(backbone="/nowhere", early_stopping=True).fit(X, ["even"] * 5 + ["odd"] * 5)


def test_strategies_get_the_candidates_by_their_index(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(candidate_layers=[1, 3], selection=FullSelection()).fit(X, y)
    assert classifier.selection_.layers_.tolist() == [1, 3]
    assert classifier.active_layers_.all()


@pytest.mark.parametrize(("layers", "text"), [([3], "3"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10"), ([], "")])
def test_layers_are_described_as_ranges(layers, text):
    assert describe_layers(layers) == text


@pytest.mark.parametrize("rows", [np.arange(200), np.arange(0, 200, 3)], ids=["whole", "a row in three"])
def test_each_row_is_read_with_its_own_text_label_and_weight_shortest_first(rows):
    lengths = np.random.RandomState(0).permutation(np.arange(1, 71))
    token_ids = [[text] * length for text, length in enumerate(lengths)]
    states = PrefixStates([torch.tensor(ids)[:, None] for ids in token_ids], token_ids)
    texts = np.arange(200) % 70  # some rows have the same text
    dataset = StatesDataset(states, texts, labels=np.arange(200), weights=np.arange(200) / 2)
    inputs, labels = zip(*iterate_batches(Subset(dataset, rows), 1), strict=True)
    labels = torch.cat(labels).numpy()
    assert sorted(labels) == rows.tolist()
    for batch, text in zip(inputs, texts[labels], strict=True):
        n_tokens, width = lengths[text], batch["input_ids"].shape[1]
        assert n_tokens <= width < n_tokens + 8
        assert batch["attention_mask"].tolist() == [[1] * n_tokens + [0] * (width - n_tokens)]
        assert batch["input_ids"][0, :n_tokens].tolist() == token_ids[text]
        assert torch.equal(batch["states"].squeeze(-1), batch["input_ids"] * batch["attention_mask"])
    assert [batch["weight"].item() for batch in inputs] == (labels / 2).tolist()
    assert (np.diff(lengths[texts[labels]]) >= 0).all()


class TestLengthBuckets:
    lengths = np.random.RandomState(0).randint(5, 190, size=1003)

    def test_each_text_comes_once_and_batches_are_full(self):
        batches = list(LengthBuckets(self.lengths, 16, np.random.RandomState(0)))
        assert sorted(text for batch in batches for text in batch) == list(range(1003))
        assert sorted(map(len, batches)) == [11] + [16] * 62

    def test_batches_hold_similar_lengths(self):
        batches = LengthBuckets(self.lengths, 16, np.random.RandomState(0))
        padded = sum(self.lengths[batch].max() * len(batch) for batch in batches)
        assert padded < 1.08 * self.lengths.sum()

    def test_order_and_composition_change_between_epochs(self):
        buckets = LengthBuckets(self.lengths, 16, np.random.RandomState(0))
        first, second = ({frozenset(batch) for batch in buckets} for _ in range(2))
        assert len(first & second) < 5

    def test_without_a_generator_texts_come_sorted_by_length(self):
        order = [text for batch in LengthBuckets(self.lengths, 16, None) for text in batch]
        assert (np.diff(self.lengths[order]) >= 0).all()
