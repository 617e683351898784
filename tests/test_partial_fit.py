"""partial_fit trains on one part of the rows after the other, and goes on from where it stood."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from sklearn_irt import IRTuningClassifier
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.selection import FullSelection, RandomSelection, SparseSelection, SubTuningSelection

INTENTIONS = ["clarity", "coherence", "fluency", "meaning-changed", "style"]


def learned(classifier):
    return {name: tensor.clone() for name, tensor in classifier.net_.module_.state_dict().items()}


def assert_equal(one, other):
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def rates(monkeypatch):
    """Return a list that gets the adapters' learning rate of each step."""
    noted = []
    original = SelectedLayers.on_grad_computed

    def note(self, net, **kwargs):
        noted.append(net.optimizer_.param_groups[-1]["lr"])
        original(self, net, **kwargs)

    monkeypatch.setattr(SelectedLayers, "on_grad_computed", note)
    return noted


def test_each_call_adds_an_epoch(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(max_epochs=7)
    for n_calls in (1, 2, 3):
        assert classifier.partial_fit(X, y, classes=INTENTIONS) is classifier
        assert classifier.n_iter_ == n_calls
        assert classifier.layer_scores_.shape[0] == classifier.active_layers_.shape[0] == 4 * n_calls
        assert [row["epoch"] for row in classifier.history_] == list(range(1, n_calls + 1))
        assert classifier.class_count_.sum() == 60 * n_calls
    assert classifier.predict_proba(X).shape == (60, 5)


def test_it_learns_from_rows_that_come_in_parts(make_classifier):
    texts, labels = [f"{word} {number}" for number in range(24) for word in ("good", "bad")], ["up", "down"] * 24
    classifier = make_classifier(batch_size=8, adapter=None, candidate_layers="all", selection="full")
    for _ in range(10):
        for part in (slice(0, 24), slice(24, 48)):
            classifier.set_params(learning_rate=2e-3).partial_fit(texts[part], labels[part], classes=["down", "up"])
    assert classifier.score(["good 77", "bad 77", "bad 99", "good 99"], ["up", "down", "down", "up"]) == 1


def test_steps_are_those_of_adam_with_the_moments_of_the_calls_before(make_classifier, revisions):
    X, y = revisions
    one_batch = {"batch_size": 60, "selection": "full", "adapter": None, "class_weight": None, "learning_rate": 1e-3}
    classifier = make_classifier(**one_batch)
    states = [classifier.partial_fit(X, y, classes=INTENTIONS)._training_state for _ in range(3)]
    name = "model.model.layers.3.mlp.down_proj.weight"  # of its shape there is one in each of the two layers
    shape = states[0]["weights"][name].shape
    for step in (1, 2):
        weights, before = (states[n]["weights"][name] for n in (step, step - 1))
        moment = [one for one in states[step]["moments"].values() if one["exp_avg"].shape == shape][-1]
        assert moment["step"] == step + 1
        # AdamW without decay: less rate * m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + 1e-8); the rate rises by tenths.
        mean = moment["exp_avg"] / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(moment["exp_avg_sq"] / (1 - 0.999 ** (step + 1))) + 1e-8
        np.testing.assert_allclose(weights, before - 1e-3 * (step / 10) * mean / spread, rtol=0, atol=2e-7)
        assert not np.array_equal(weights, before)


def test_the_learning_rate_rises_over_ten_steps_and_stays(make_classifier, revisions, rates):
    X, y = revisions
    classifier = make_classifier(learning_rate=0.01)
    for _ in range(4):
        classifier.partial_fit(X, y, classes=INTENTIONS)
    assert rates == pytest.approx([0.01 * min(step / 10, 1) for step in range(16)])
    rates.clear()
    classifier.set_params(learning_rate=0.003).partial_fit(X, y)
    assert rates == pytest.approx([0.003] * 4)


@pytest.mark.parametrize(
    "parameters",
    [
        {"selection": "ir-fast", "candidate_layers": "all"},
        {"selection": "random", "candidate_layers": "all"},
        {"drop_layers": 1, "precision": "bf16"},
    ],
)
def test_a_pickled_one_goes_on_as_the_other_does(make_classifier, revisions, parameters):
    X, y = revisions
    classifier = make_classifier(**parameters)
    for _ in range(3):
        classifier.partial_fit(X[:40], y[:40], classes=INTENTIONS)
    again = pickle.loads(pickle.dumps(classifier))
    before = learned(classifier)
    for one in (classifier, again):
        one.partial_fit(X[20:], y[20:])
    assert_equal(learned(classifier), learned(again))
    assert np.array_equal(classifier.layer_scores_, again.layer_scores_, equal_nan=True)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learned(classifier).items())


def test_a_saved_one_goes_on_as_the_other_does(make_classifier, revisions, tmp_path):
    X, y = revisions
    classifier = make_classifier().partial_fit(X, y, classes=INTENTIONS)
    classifier.save(tmp_path / "kept")
    again = IRTuningClassifier.load(tmp_path / "kept").partial_fit(X, y)
    assert_equal(learned(classifier.partial_fit(X, y)), learned(again))


def test_the_same_calls_give_the_same_numbers(make_classifier, revisions):
    X, y = revisions
    one, other = (make_classifier().partial_fit(X, y, INTENTIONS).partial_fit(X[:30], y[:30]) for _ in range(2))
    assert_equal(learned(one), learned(other))


def test_it_goes_on_from_a_fit(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(max_epochs=3, learning_rate=0.01).fit(X, y)
    fitted = learned(classifier)
    classifier.set_params(learning_rate=1e-12).partial_fit(X, y)
    for name, tensor in learned(classifier).items():
        torch.testing.assert_close(tensor, fitted[name], rtol=0, atol=1e-9)


def test_a_fit_afterwards_begins_anew(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().partial_fit(X, y, classes=INTENTIONS)
    assert_equal(learned(classifier.fit(X, y)), learned(make_classifier().fit(X, y)))


def test_a_call_may_have_rows_of_a_single_class(make_classifier, revisions):
    X, y = revisions
    style = (y == "style").to_numpy()
    classifier = make_classifier(class_weight="balanced")
    classifier.partial_fit(X[style], y[style], classes=INTENTIONS).partial_fit(X[~style], y[~style])
    assert classifier.classes_.tolist() == INTENTIONS


def test_what_it_cannot_do_is_refused(make_classifier, revisions):
    X, y = revisions
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        make_classifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="set early_stopping=False"):
        make_classifier(early_stopping=True).partial_fit(X, y, classes=INTENTIONS)
    with pytest.raises(ValueError, match=r"Row 0 of y has the label 'fluency', which is not among the classes"):
        make_classifier().partial_fit(X[y == "fluency"], y[y == "fluency"], classes=["clarity", "style"])
    with pytest.raises(NotFittedError):
        make_classifier().predict(X)


def test_a_refused_call_leaves_the_estimator_as_it_was(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().partial_fit(X, y, classes=INTENTIONS)
    before, answers = dict(vars(classifier)), classifier.predict_proba(X)
    for changed, name in [
        ({"selection": FullSelection()}, "selection"),
        ({"candidate_layers": 1}, "candidate_layers"),
        ({"adapter": "ia3"}, "adapter"),
    ]:
        with pytest.raises(ValueError, match=f"partial_fit, but {name} changed since the last fit"):
            classifier.set_params(**changed).partial_fit(X, y)
        classifier.set_params(**{key: before[key] for key in changed})
    with pytest.raises(ValueError, match="is not the same as on last call"):
        classifier.partial_fit(X, y, classes=["a", "b"])
    with pytest.raises(ValueError, match="feature names"):
        classifier.partial_fit(X.rename(columns={"before": "old"}), y)
    assert vars(classifier) == before
    assert np.array_equal(classifier.predict_proba(X), answers)


def test_an_interrupted_call_keeps_what_it_learned_and_the_next_one_starts_from_it(
    make_classifier, revisions, interrupt_at
):
    X, y = revisions
    classifier = make_classifier().partial_fit(X, y, classes=INTENTIONS)
    interrupt_at(6)
    with pytest.warns(UserWarning, match="interrupted"):
        classifier.partial_fit(X, y)
    interrupt_at(None)
    kept = learned(classifier)
    classifier.set_params(learning_rate=1e-12).partial_fit(X, y)
    for name, tensor in learned(classifier).items():
        torch.testing.assert_close(tensor, kept[name], rtol=0, atol=1e-9)


def test_a_call_that_ends_before_its_first_step_changes_nothing(make_classifier, revisions, interrupt_at):
    X, y = revisions
    classifier = make_classifier().partial_fit(X, y, classes=INTENTIONS)
    before = dict(vars(classifier))
    interrupt_at(4)
    with pytest.raises(KeyboardInterrupt):
        classifier.partial_fit(X, y)
    assert vars(classifier) == before


def test_a_search_for_layers_judges_by_the_rows_of_the_call(make_classifier, revisions):
    X, y = revisions
    strategy = SubTuningSelection(n_steps=1, interval="epoch", validation_share=0.5)
    classifier = make_classifier(selection=strategy, candidate_layers="all", batch_size=8)
    classifier.partial_fit(X, y, classes=INTENTIONS).partial_fit(X[:40], y[:40])
    assert classifier.n_iter_ == 2


def test_an_epoch_of_a_strategy_begins_with_the_call(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(
        selection=RandomSelection(n_trained=1, interval="epoch"), candidate_layers="all", batch_size=8
    )
    classifier.partial_fit(X[:40], y[:40], classes=INTENTIONS)
    for _ in range(6):
        classifier.partial_fit(X[:24], y[:24])
    changes = np.flatnonzero((np.diff(classifier.active_layers_.astype(int), axis=0) != 0).any(axis=1)) + 1
    assert set(changes.tolist()) <= {5, 8, 11, 14, 17, 20}
    assert len(changes) > 2


def test_masked_weights_keep_their_moments(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(selection=SparseSelection(), adapter=None, learning_rate=3e-3)
    for _ in range(3):
        classifier.partial_fit(X, y, classes=INTENTIONS)
    assert {float(moment["step"]) for moment in classifier._training_state["moments"].values()} == {12.0}


def test_a_generator_of_the_users_is_not_turned_back(make_classifier, revisions):
    X, y = revisions
    generator = np.random.RandomState(0)
    classifier = make_classifier(random_state=generator).partial_fit(X, y, classes=INTENTIONS)
    drawn, _ = generator.random_sample(3), classifier.partial_fit(X, y)
    assert not np.array_equal(generator.random_sample(3), drawn)
    again = np.random.RandomState(0)
    other = make_classifier(random_state=again).partial_fit(X, y, classes=INTENTIONS).partial_fit(X, y)
    assert_equal(learned(classifier), learned(other))
