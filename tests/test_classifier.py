"""The estimator's contract beyond scikit-learn's own checks."""

import pickle
import random
import shutil
import subprocess
import sys
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from transformers import AutoTokenizer

from sklearn_irt import FixedSelection, GradientNormSelection
from sklearn_irt.states_store import between_fits


@pytest.fixture(scope="session")
def fitted(make_classifier, revisions):
    """Return a classifier that was fitted on the 60 pairs; tests do not change it."""
    return make_classifier().fit(*revisions)


def test_fitted_attributes(fitted, revisions):
    _, y = revisions
    assert fitted.classes_.tolist() == sorted(set(y))
    assert fitted.n_features_in_ == 2
    assert fitted.feature_names_in_.tolist() == ["before", "after"]
    assert fitted.n_layers_ == 4
    assert fitted.candidate_layers_.tolist() == [2, 3]
    assert fitted.n_iter_ == len(fitted.history_) == 1
    assert fitted.precision_ == "fp32"
    per_layer = 16 * (64 + 48 + 48 + 64 + 3 * 80)  # rank * (inputs + outputs) of the seven projections
    assert fitted.n_trainable_parameters_ == 2 * per_layer + 5 * 32  # and the head


def test_probabilities(fitted, revisions):
    X, _ = revisions
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (60, 5)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert fitted.predict(X).tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()


def test_predictions_come_in_the_order_of_the_rows(fitted, revisions):
    X, _ = revisions
    shuffled = np.random.RandomState(0).permutation(60)
    together = fitted.predict_proba(X)
    np.testing.assert_allclose(fitted.predict_proba(X.iloc[shuffled]), together[shuffled], rtol=1e-4)
    np.testing.assert_allclose(fitted.predict_proba(X.iloc[[7]]), together[[7]], rtol=1e-4)


@pytest.mark.parametrize("adapter", ["lora", LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear")])
def test_random_state_makes_two_fits_equal_to_the_last_bit(make_classifier, revisions, adapter):
    X, y = revisions
    first, second, other = (
        make_classifier(random_state=seed, adapter=adapter, max_epochs=2).fit(X, y) for seed in (0, 0, 1)
    )
    assert np.array_equal(first.predict_proba(X), second.predict_proba(X))
    assert np.array_equal(first.layer_scores_, second.layer_scores_)
    assert not np.array_equal(first.predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize("random_state", [None, 0])
def test_global_generators_are_neither_read_nor_moved(make_classifier, revisions, random_state):
    X, y = revisions
    dropout = LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear")

    def states():
        numpy_state = str(np.random.get_state())  # noqa: NPY002
        return numpy_state, random.getstate(), torch.get_rng_state().tolist()

    before = states()
    fits = [make_classifier(random_state=random_state, adapter=dropout).fit(X, y).predict_proba(X) for _ in range(2)]
    assert states() == before
    assert np.array_equal(*fits) == (random_state == 0)


def test_a_fit_on_a_cpu_does_not_seed_the_generators_of_gpus(make_classifier, revisions, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    make_classifier().fit(*revisions)
    assert not seeded


def test_a_fit_that_is_refused_leaves_the_estimator_as_it_was(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    expected = classifier.predict_proba(X)
    with pytest.raises(ValueError, match="one class only"):
        classifier.fit(["a text"] * 60, ["same"] * 60)
    assert classifier.n_features_in_ == 2
    assert list(classifier.feature_names_in_) == list(X.columns)
    assert np.array_equal(classifier.predict_proba(X), expected)
    classifier.fit([f"a text {row}" for row in range(60)], y)
    assert classifier.n_features_in_ == 1
    assert not hasattr(classifier, "feature_names_in_")


@pytest.mark.parametrize(
    "setting", [torch.inference_mode, torch.no_grad, partial(torch.set_default_dtype, torch.float64)]
)
def test_torchs_settings_of_the_user_do_not_matter(make_classifier, revisions, forget_backbones, setting):
    X, y = revisions
    between_fits.clear()
    forget_backbones()
    with setting() or nullcontext():
        try:
            within = make_classifier().fit(X, y)
            probabilities = within.predict_proba(X)
        finally:
            torch.set_default_dtype(torch.float32)
    after = make_classifier(learning_rate=0.01).fit(X, y)
    assert probabilities.shape == after.predict_proba(X).shape == (60, 5)
    if not isinstance(setting, partial):  # at another default, other numbers are drawn
        assert np.array_equal(make_classifier().fit(X, y).predict_proba(X), probabilities)


def test_one_generator_object_gives_another_fit_each_time(make_classifier, revisions):
    X, y = revisions
    generator = np.random.RandomState(0)
    first, second = (make_classifier(random_state=generator).fit(X, y).predict_proba(X) for _ in range(2))
    assert not np.array_equal(first, second)


def test_selection_object_is_cloned_not_changed(make_classifier, revisions):
    X, y = revisions
    selection = GradientNormSelection()
    make_classifier(selection=selection).fit(X, y)
    assert not hasattr(selection, "scores_")


@pytest.mark.parametrize(
    ("candidate_layers", "expected"),
    [("all", [0, 1, 2, 3]), (1, [3]), (3, [1, 2, 3]), (0.5, [2, 3]), (1.0, [0, 1, 2, 3]), ([0, -1], [0, 3])],
)
def test_candidate_layers(make_classifier, revisions, candidate_layers, expected):
    X, y = revisions
    assert make_classifier(candidate_layers=candidate_layers).fit(X, y).candidate_layers_.tolist() == expected


@pytest.mark.parametrize(
    ("n_layers", "candidate_layers", "n_run", "expected"),
    [(0.6, 0.5, 2, [1]), (3, 0.5, 3, [1, 2]), (3, "all", 3, [0, 1, 2]), (3, [-1, 0], 3, [0, 2]), ("all", 1, 4, [3])],
)
def test_candidates_are_counted_from_the_top_layer_that_runs(
    make_classifier, revisions, n_layers, candidate_layers, n_run, expected
):
    X, y = revisions
    classifier = make_classifier(n_layers=n_layers, candidate_layers=candidate_layers).fit(X, y)
    assert classifier.n_layers_ == n_run
    assert classifier.candidate_layers_.tolist() == expected


def test_layers_that_do_not_run_have_no_part_in_a_prediction(make_classifier, revisions, tiny_llama, tmp_path):
    X, y = revisions
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "other"))
    weights = load_file(folder / "model.safetensors")
    weights |= {name: weight + 1 for name, weight in weights.items() if name.startswith("layers.3.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for n_layers, equal in ((3, True), ("all", False)):
        fits = [make_classifier(backbone=b, n_layers=n_layers).fit(X, y).predict_proba(X) for b in (tiny_llama, folder)]
        assert np.array_equal(*fits) == equal


class TestSampleWeight:
    def test_ones_change_nothing(self, make_classifier, revisions):
        X, y = revisions
        plain, ones = (make_classifier().fit(X, y, sample_weight=w).predict_proba(X) for w in (None, np.ones(60)))
        assert np.array_equal(plain, ones)

    def test_0_leaves_a_row_out(self, make_classifier, revisions):
        X, y = revisions
        kept = np.arange(60) % 3 > 0
        weighted = make_classifier().fit(X, y, sample_weight=kept.astype(float))
        left_out = make_classifier().fit(X[kept], y[kept])
        assert np.array_equal(weighted.predict_proba(X), left_out.predict_proba(X))

    @pytest.mark.parametrize("class_weight", ["balanced", "sqrt-balanced", None])
    def test_integers_act_as_repetition_on_the_loss(self, make_classifier, revisions, class_weight):
        X, y = revisions
        times = np.arange(60) % 3 + 1
        whole = {"batch_size": 200, "class_weight": class_weight}  # one batch, so that repetition has the same one
        weighted = make_classifier(**whole).fit(X, y, sample_weight=times)
        repeated = make_classifier(**whole).fit(X.loc[X.index.repeat(times)], y.repeat(times))
        losses = [classifier.history_[0, "train_loss"] for classifier in (weighted, repeated)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        np.testing.assert_allclose(weighted.layer_scores_, repeated.layer_scores_, rtol=1e-3)


def test_class_weight_decides_what_an_imbalanced_fit_predicts(make_classifier, revisions):
    X, y = revisions
    y = np.where(y == "fluency", "fluency", "other")
    rare, usual = (
        make_classifier(class_weight=w, max_epochs=6, learning_rate=0.01, batch_size=60)
        .fit(X, y)
        .predict_proba(X)[:, 0]
        .mean()
        for w in ({"fluency": 50, "other": 1}, None)
    )
    assert rare > 0.5 > 0.35 > usual


class TestWarmStart:
    def test_goes_on_from_the_weights_before(self, make_classifier, revisions):
        X, y = revisions
        classifier = make_classifier(warm_start=True).fit(X, y)
        before = classifier.predict_proba(X)
        again = classifier.set_params(learning_rate=1e-12).fit(X, y).predict_proba(X)
        np.testing.assert_allclose(again, before, rtol=1e-4)
        fresh = clone(classifier).set_params(warm_start=False).fit(X, y).predict_proba(X)
        assert not np.allclose(fresh, before, rtol=1e-4)

    def test_without_it_a_second_fit_starts_anew(self, make_classifier, revisions):
        X, y = revisions
        classifier = make_classifier().fit(X, y)
        before = classifier.predict_proba(X)
        assert np.array_equal(classifier.fit(X, y).predict_proba(X), before)

    def test_refuses_what_belongs_to_something_else(self, make_classifier, revisions, backbones):
        X, y = revisions
        classifier = make_classifier(warm_start=True).fit(X, y)
        with pytest.raises(ValueError, match="warm_start=True, but the classes of y changed"):
            classifier.fit(X, y == "style")
        with pytest.raises(ValueError, match="warm_start=True, but candidate_layers changed"):
            clone(classifier).fit(X, y).set_params(candidate_layers=1).fit(X, y)
        with pytest.raises(ValueError, match="warm_start=True, but n_layers changed"):
            clone(classifier).fit(X, y).set_params(n_layers=3).fit(X, y)
        with pytest.raises(ValueError, match="warm_start=True, but backbone changed"):
            clone(classifier).fit(X, y).set_params(backbone=backbones["gpt2"]).fit(X, y)
        with pytest.raises(ValueError, match="warm_start=True, but adapter changed"):
            clone(classifier).fit(X, y).set_params(adapter=LoraConfig(r=4)).fit(X, y)


class TestPickle:
    def test_round_trips(self, fitted, revisions, tmp_path):
        X, _ = revisions
        joblib.dump(fitted, tmp_path / "classifier.joblib")
        for again in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "classifier.joblib")):
            assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
            assert np.array_equal(again.active_layers_, fitted.active_layers_)

    def test_round_trips_where_upper_layers_do_not_run(self, make_classifier, revisions):
        X, y = revisions
        fitted = make_classifier(n_layers=2).fit(X, y)
        assert np.array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(X), fitted.predict_proba(X))

    def test_predicts_the_same_in_a_fresh_process(self, fitted, revisions, tmp_path):
        X, _ = revisions
        joblib.dump((fitted, X), tmp_path / "fitted.joblib")
        script = (
            "import joblib, numpy, torch; torch.set_num_threads(1)\n"
            f"fitted, X = joblib.load({str(tmp_path / 'fitted.joblib')!r})\n"
            f"numpy.save({str(tmp_path / 'p.npy')!r}, fitted.predict_proba(X))"
        )
        subprocess.run([sys.executable, "-c", script], check=True)
        assert np.array_equal(np.load(tmp_path / "p.npy"), fitted.predict_proba(X))

    def test_holds_no_frozen_weight(self, fitted):
        adapters_and_head = 4 * fitted.n_trainable_parameters_
        assert len(pickle.dumps(fitted)) < adapters_and_head + 50_000

    def test_unfitted(self, make_classifier):
        classifier = make_classifier(selection=FixedSelection(1))
        assert repr(pickle.loads(pickle.dumps(classifier))) == repr(classifier)


@pytest.mark.parametrize(
    "make_input",
    [
        lambda X: X.to_numpy(),
        lambda X: list(X.itertuples(index=False, name=None)),
        lambda X: X.astype("string"),
        lambda X: pl.DataFrame({name: X[name].tolist() for name in X}),
    ],
    ids=["array", "tuples", "string dtype", "polars"],
)
def test_containers_give_equal_predictions(make_classifier, revisions, fitted, make_input):
    X, y = revisions
    classifier = make_classifier().fit(make_input(X), y)
    assert np.array_equal(classifier.predict_proba(make_input(X)), fitted.predict_proba(X))


@pytest.mark.parametrize("context", [0, None])
def test_words_outside_the_context_have_no_part_in_fit_and_prediction(make_classifier, revisions, context):
    X, y = revisions
    classifier = make_classifier(context=context)
    fits = [classifier.fit(frame, y).predict_proba(frame) for frame in ("Long ago " + X, "Last year " + X)]
    assert np.array_equal(*fits) == (context == 0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_single_texts_are_classified_too(make_classifier, revisions, backbones, family):
    X, y = revisions
    classifier = make_classifier(backbone=backbones[family])
    texts = X["before"] + X["after"]
    probabilities = classifier.fit(texts, y).predict_proba(texts)
    assert classifier.n_features_in_ == 1
    assert np.array_equal(probabilities, classifier.predict_proba(texts.tolist()))


@pytest.mark.parametrize("y_kind", [lambda y: y == "style", lambda y: y.map(len), lambda y: y.astype("category")])
def test_labels_of_other_kinds(make_classifier, revisions, y_kind):
    X, y = revisions
    labels = y_kind(y)
    assert set(make_classifier().fit(X, labels).predict(X)) <= set(labels)


def test_columns_are_checked_as_scikit_learn_does(fitted, revisions):
    X, _ = revisions
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X[["after", "before"]])
    with pytest.raises(ValueError, match="X has 1 features, but IRTuningClassifier is expecting 2"):
        fitted.predict(["one text a row"])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(X.to_numpy())


def test_in_bf16_what_trains_is_kept_in_fp32(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(precision="bf16", learning_rate=1e-5).fit(X, y)
    fresh = make_classifier(precision="bf16", learning_rate=1e-12).fit(X, y)
    state, start = classifier.net_.module_.state_dict(), fresh.net_.module_.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    trained = classifier.candidate_layers_[classifier.active_layers_.any(axis=0)]
    for name, tensor in state.items():
        if "lora_B" in name and any(f".layers.{layer}." in name for layer in trained):
            assert (tensor != start[name]).float().mean() > 0.9
    assert next(classifier.net_.module_.backbone.model.parameters()).dtype == torch.bfloat16
    assert np.isfinite(classifier.predict_proba(X)).all()


def test_a_first_fit_that_fails_leaves_the_estimator_unfitted(make_classifier, revisions):
    X, _ = revisions
    classifier = make_classifier()
    with pytest.raises(ValueError, match="one class only"):
        classifier.fit(X, ["same"] * 60)
    with pytest.raises(NotFittedError):
        classifier.predict(X)


def test_a_pickle_of_a_relative_backbone_works_in_another_folder(make_classifier, revisions, tiny_llama, monkeypatch):
    X, y = revisions
    monkeypatch.chdir(Path(tiny_llama).parent)
    classifier = make_classifier(backbone=Path(tiny_llama).name).fit(X, y)
    stored = pickle.dumps(classifier)
    monkeypatch.chdir("/")
    assert np.array_equal(pickle.loads(stored).predict_proba(X), classifier.predict_proba(X))


def test_not_fitted(make_classifier, revisions):
    with pytest.raises(NotFittedError):
        make_classifier().predict(revisions[0])


def test_cut_texts_are_counted_in_one_warning(make_classifier, revisions):
    X, y = revisions
    with pytest.warns(UserWarning, match=r"^\d+ of 60 texts had more than max_length=40 tokens") as caught:
        make_classifier(max_length=40).fit(X, y)
    assert len([w for w in caught if "max_length" in str(w.message)]) == 1


def test_a_tokenizer_that_takes_fewer_tokens_than_the_configuration_says_is_heeded(
    make_classifier, revisions, tiny_llama, tmp_path
):
    """As RoBERTa's does, whose first two positions are no token's."""
    shutil.copytree(tiny_llama, tmp_path / "backbone")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama, model_max_length=100)
    tokenizer.save_pretrained(tmp_path / "backbone")
    with pytest.raises(ValueError, match=r"max_length=101, but .* reads 100 tokens at most"):
        make_classifier(backbone=tmp_path / "backbone", max_length=101).fit(*revisions)


def test_max_length_is_checked_at_predict_too(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier().fit(X, y).set_params(max_length=257)
    with pytest.raises(ValueError, match=r"max_length=257, but .* reads 256 tokens at most"):
        classifier.predict(X)


def test_an_edit_at_the_end_of_a_long_text_reaches_the_backbone(make_classifier):
    beginning = "word " * 200
    X = [(beginning + f"ends {i} cold", beginning + f"ends {i} " + ("hot", "tepid")[i % 2]) for i in range(40)]
    y = np.arange(40) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        classifier = make_classifier(max_length=64, max_epochs=8, learning_rate=0.01, candidate_layers="all").fit(X, y)
        assert classifier.score(X, y) == 1


BAD = [
    ({"learning_rate": 0}, None, "learning_rate"),
    ({"max_epochs": 0}, None, "max_epochs"),
    ({"batch_size": 1.5}, None, "batch_size"),
    ({"pair_format": "diff"}, None, "pair_format"),
    ({"context": -1}, None, r"'context' .* an int in the range \[0, inf\) or None. Got -1"),
    ({"context": 2.5}, None, r"'context' .* Got 2.5"),
    ({"selection": "best"}, None, "selection"),
    ({"selection": GradientNormSelection(interval=0)}, None, "interval"),
    ({"selection": FixedSelection([0])}, None, r"must name candidate layers, which are \[2, 3\]"),
    ({"n_layers": 0}, None, "n_layers"),
    ({"n_layers": 1.5}, None, "n_layers"),
    ({"n_layers": "half"}, None, "n_layers"),
    ({"n_layers": 5}, None, "n_layers=5, but the backbone has 4 layers"),
    ({"candidate_layers": 9}, None, "asks for the top 9 layers, but 4 run"),
    ({"candidate_layers": [7]}, None, "names layer 7, but layers 0 to 3 run"),
    ({"n_layers": 3, "candidate_layers": [3]}, None, "names layer 3, but layers 0 to 2 run: see n_layers"),
    ({"candidate_layers": 1.5}, None, r"must be a share in \(0, 1\]"),
    ({"max_length": 1000}, None, "reads 256 tokens at most"),
    ({"class_weight": "even"}, None, "class_weight"),
    ({"device": "abacus"}, None, "device='abacus' cannot be used here"),
    ({"device": "meta"}, None, "device='meta' cannot be used here"),
    ({"memory": SimpleNamespace(cache=len)}, None, "memory"),
    ({"adapter": LoraConfig(init_lora_weights="pissa")}, None, "init_lora_weights='pissa', which changes"),
    ({"adapter": PromptTuningConfig(num_virtual_tokens=2)}, None, "cannot be restricted to layers"),
    ({"backbone": "/nowhere"}, None, "is no alias"),
    ({"backbone": "SmolLM2-135"}, None, "is no alias .* Did you mean 'smollm2-135m'"),
    ({"precision": "fp8"}, None, "precision"),
    ({"backbone_options": {"dtype": "float16"}}, None, "must not hold 'dtype'"),
    ({"class_weight": {"style": -1}}, None, "class_weight=.* must give each class a finite weight"),
    ({}, lambda X, y: (X.assign(before=None, after=np.nan), y), "Row 0 of X has no text on either side"),
    ({}, lambda X, y: (X.assign(third="c"), y), "X has 3 columns"),
    ({}, lambda X, y: (X[:0], y[:0]), "0 sample"),
    ({}, lambda X, y: (X, y[:59]), "X has 60 rows, but y has 59"),
    ({}, lambda X, y: (X, ["same"] * 60), "one class only, 'same'"),
    ({}, lambda X, y: (X, [None, *y[1:]]), "row 0 has no label"),
    ({}, lambda X, y: (X.assign(after=[*X["after"][:59], 7]), y), "Row 59, column 'after' of X holds int 7"),
]


@pytest.mark.parametrize(("parameters", "change", "message"), BAD)
def test_bad_input_is_refused_before_weights_are_loaded(
    make_classifier, revisions, monkeypatch, parameters, change, message
):
    def load(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("sklearn_irt.fitting.load_backbone", load)
    X, y = change(*revisions) if change else revisions
    with pytest.raises((ValueError, TypeError), match=message):
        make_classifier(**parameters).fit(X, y)


def test_verbose_says_what_was_chosen_and_shows_progress(make_classifier, revisions, capsys):
    X, y = revisions
    between_fits.clear()
    make_classifier(verbose=1).fit(X, y)
    printed = capsys.readouterr()
    assert "Computing in fp32 on cpu; layers 2-3 may train, of 4 that run." in printed.out
    assert "Frozen prefix" in printed.err
    assert "4/4" in printed.err
    assert "loss" in printed.err
    assert "layers" in printed.err
    make_classifier().fit(X, y)
    assert capsys.readouterr() == ("", "")
    make_classifier(verbose=2).fit(X, y)
    assert "train_loss" in capsys.readouterr().out


def test_a_large_backbone_on_a_cpu_gets_a_warning_with_the_hours(make_classifier, revisions, monkeypatch):
    X, y = revisions
    monkeypatch.setattr("sklearn_irt.fitting.LARGE_BACKBONE", 1e3)
    with pytest.warns(
        UserWarning, match=r"billion parameters: on this CPU the fit will take at least [\d.]+ hours"
    ) as warned:
        make_classifier().fit(X, y)
    assert {one.filename for one in warned} == {__file__}


def test_a_fit_writes_no_file(make_classifier, revisions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKLEARN_IRT_CACHE", str(tmp_path / "cache"))
    X, y = revisions
    make_classifier(early_stopping=True, validation_fraction=0.2).fit(X, y).predict(X)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_side_is_an_addition_or_a_deletion(make_classifier):
    X = pd.DataFrame({"before": [None, "Gone now."] * 10, "after": ["New here.", None] * 10})
    y = ["added", "deleted"] * 10
    classifier = make_classifier(max_epochs=5, learning_rate=0.01).fit(X, y)
    assert classifier.score(X, y) == 1
