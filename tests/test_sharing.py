"""All estimators of a process share one backbone, and none sees what another learned."""

import gc
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from transformers import AutoModelForSequenceClassification

from sklearn_irt.backbone import load_backbone
from sklearn_irt.pairs import read_pairs
from sklearn_irt.states_store import between_fits
from sklearn_irt.tokenization import tokenize_pairs


@pytest.fixture
def loadings(monkeypatch, forget_backbones):
    """Return a list that gets an entry for each time that weights are read; nothing is loaded at first."""
    gc.collect()
    forget_backbones()
    counted = []
    from_pretrained = AutoModelForSequenceClassification.from_pretrained

    def counting(location, *args, **kwargs):
        counted.append(location)
        return from_pretrained(location, *args, **kwargs)

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", counting)
    return counted


def checksums(model):
    return {
        name: sha256(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def frozen_places(classifier):
    part = classifier.net_.module_
    learned = {id(parameter) for parameter in part.learned_parameters.values()}
    return {name: p.data_ptr() for name, p in part.model.named_parameters() if id(p) not in learned}


def test_two_classifiers_hold_the_same_frozen_tensors_and_their_own_adapters(make_classifier, revisions):
    X, y = revisions
    first, second = (make_classifier(random_state=seed).fit(X, y) for seed in (0, 1))
    places = frozen_places(first)
    assert len(places) > 30
    assert places == frozen_places(second)
    learned = [{p.data_ptr() for p in c.net_.module_.learned_parameters.values()} for c in (first, second)]
    assert not learned[0] & learned[1]
    assert not set(places.values()) & learned[0]


@pytest.mark.parametrize(
    ("family", "precision"), [("llama", "fp32"), ("llama", "bf16"), ("gpt2", "fp32"), ("bert", "fp32")]
)
def test_a_second_fit_does_not_change_what_the_first_one_predicts(
    make_classifier, revisions, backbones, family, precision
):
    X, y = revisions
    parameters = {"backbone": backbones[family], "precision": precision, "learning_rate": 0.01}
    alone = make_classifier(**parameters).fit(X[:30], y[:30]).predict_proba(X[30:])
    first = make_classifier(**parameters).fit(X[:30], y[:30])
    second = make_classifier(**parameters, random_state=1, candidate_layers="all").fit(X, y)
    assert np.array_equal(first.predict_proba(X[30:]), alone)
    assert not np.array_equal(second.predict_proba(X[30:]), alone)


def test_dropping_layers_and_training_biases_is_no_matter_of_others(make_classifier, revisions, backbones):
    X, y = revisions
    bert = {"backbone": backbones["bert"]}
    alone = make_classifier(**bert).fit(X[:30], y[:30]).predict_proba(X[30:])
    first = make_classifier(**bert).fit(X[:30], y[:30])
    biases = LoraConfig(r=2, target_modules=["query", "dense"], bias="lora_only", lora_dropout=0.1)
    make_classifier(**bert, n_layers=2, adapter=biases, learning_rate=0.1).fit(X, y).predict(X)
    assert np.array_equal(first.predict_proba(X[30:]), alone)
    assert np.array_equal(make_classifier(**bert).fit(X[:30], y[:30]).predict_proba(X[30:]), alone)


def test_classifiers_of_different_classes_work_on_one_backbone(make_classifier, revisions, loadings):
    X, y = revisions
    five = make_classifier().fit(X, y)
    expected = make_classifier().fit(X, y).predict_proba(X)
    two = make_classifier().fit(X, y == "style")
    three = make_classifier().fit(X, y.map({"style": "a", "clarity": "b"}).fillna("c"))
    assert [classifier.predict_proba(X).shape[1] for classifier in (five, two, three)] == [5, 2, 3]
    assert np.array_equal(five.predict_proba(X), expected)
    assert len(loadings) == 1


def compute(classifier, X):
    """Predict, though the answers may be known."""
    return softmax(classifier._compute_logits(classifier._read_pairs(X, classifier)), axis=1)


@pytest.fixture
def two_fitted(make_classifier, revisions):
    X, y = revisions
    return [make_classifier(random_state=seed, learning_rate=0.01).fit(X[:30], y[:30]) for seed in (0, 1)]


def test_two_threads_predict_at_once(two_fitted, revisions):
    X, _ = revisions
    rows = [X.iloc[[row]] for row in range(30, 48)]

    def predict(classifier):
        return np.concatenate([compute(classifier, row) for row in rows])

    expected = [predict(classifier) for classifier in two_fitted]
    assert not np.allclose(*expected)
    with ThreadPoolExecutor(4) as pool:
        between_fits.clear()
        answers = list(pool.map(predict, two_fitted * 2))
    for answer, alone in zip(answers, expected * 2, strict=True):
        assert np.array_equal(answer, alone)


def test_two_threads_predict_with_one_classifier(two_fitted, revisions):
    X, _ = revisions
    first, _ = two_fitted
    many = [X.iloc[row : row + 20] for row in range(30, 40)]  # of several lengths: they run layer by layer
    rows = [part for row, part in enumerate(many) for part in (X.iloc[[row + 30]], part)]
    expected = [compute(first, part) for part in rows]
    first.net_.module_.load_state_dict(first.net_.module_.state_dict())  # its adapters have to be folded again

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda part: compute(first, part), rows))
    assert all(map(np.array_equal, answers, expected))


def test_two_threads_tokenize_at_once(tiny_llama, revisions):
    """Some of the texts are cut, and a tokenizer may remember that it was to cut."""
    tokenizer = load_backbone(tiny_llama, precision="fp32", device=torch.device("cpu")).tokenizer
    pairs = read_pairs(revisions[0])

    def tokenize(pair):
        return tokenize_pairs([pair], tokenizer, "inline-diff", [], 8, 192).token_ids[0]

    expected = [tokenize(pair) for pair in pairs]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(tokenize, pairs * 20)) == expected * 20
    finally:
        sys.setswitchinterval(interval)


def test_two_threads_fit_at_once(make_classifier, revisions, tiny_llama):
    X, y = revisions
    before = checksums(load_backbone(tiny_llama, precision="fp32", device=torch.device("cpu")).model)

    def fit(seed):
        parameters = {"random_state": seed, "max_epochs": 3, "learning_rate": 0.01, "candidate_layers": "all"}
        dropout = LoraConfig(r=2, lora_dropout=0.3 * seed, target_modules="all-linear")
        classifier = make_classifier(**parameters, adapter=dropout).fit(X[:30], y[:30])
        return classifier, classifier.predict_proba(X[30:])

    settings = torch.get_rng_state(), transformers.utils.logging.get_verbosity()
    alone = [fit(seed)[1] for seed in (0, 1, 2)]
    with ThreadPoolExecutor(3) as pool:
        fits = list(pool.map(fit, (0, 1, 2)))
    assert torch.equal(torch.get_rng_state(), settings[0])
    assert transformers.utils.logging.get_verbosity() == settings[1]
    for (classifier, at_once), expected in zip(fits, alone, strict=True):
        between_fits.clear()
        assert np.array_equal(compute(classifier, X[30:]), at_once)
        assert np.array_equal(at_once, expected)
    assert not np.allclose(fits[0][1], fits[1][1])
    assert frozen_places(fits[0][0]) == frozen_places(fits[1][0])
    assert checksums(fits[0][0].net_.module_.backbone.model) == before


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("llama", {"candidate_layers": "all", "precision": "bf16"}),
        ("gpt2", {"candidate_layers": "all", "early_stopping": True, "validation_fraction": 0.2}),
        ("bert", {"adapter": LoraConfig(r=2, target_modules=["query"], bias="all"), "warm_start": True}),
        ("llama", {"selection": "ir-fast", "batch_size": 4, "prefix_cache": "disk", "n_layers": 3}),
    ],
)
def test_no_frozen_tensor_changes_in_a_fit(make_classifier, revisions, backbones, family, parameters):
    X, y = revisions
    precision = parameters.get("precision", "fp32")
    model = load_backbone(backbones[family], precision=precision, device=torch.device("cpu")).model
    before = checksums(model)
    modules = {name: type(module) for name, module in model.named_modules()}
    classifier = make_classifier(backbone=backbones[family], learning_rate=0.1, **parameters).fit(X, y)
    classifier.predict(X)
    classifier.fit(X, y)
    assert classifier.net_.module_.backbone.model is model
    assert checksums(model) == before
    assert {name: type(module) for name, module in model.named_modules()} == modules
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_backbone_is_loaded_once_for_many_fits(make_classifier, revisions, loadings):
    X, y = revisions
    for parameters in ({}, {"n_layers": 3}, {"candidate_layers": 1}, {"random_state": 1, "prefix_cache": "disk"}):
        make_classifier(**parameters).fit(X, y).predict(X)
    assert len(loadings) == 1
    make_classifier(precision="bf16").fit(X, y)
    assert len(loadings) == 2


def test_a_backbone_is_loaded_anew_when_its_file_changed(
    make_classifier, revisions, tiny_llama, tmp_path, loadings, forget_backbones
):
    X, y = revisions
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "changing"))
    old = make_classifier(backbone=folder).fit(X[:30], y[:30])
    file = folder / "model.safetensors"
    weights = {name: tensor * 1.5 if ".0." in name else tensor for name, tensor in load_file(file).items()}
    save_file(weights, tmp_path / "new", metadata={"format": "pt"})
    os.replace(tmp_path / "new", file)
    new = make_classifier(backbone=folder).fit(X[:30], y[:30])
    assert len(loadings) == 2
    assert not np.allclose(new.predict_proba(X[30:]), old.predict_proba(X[30:]))
    forget_backbones()
    between_fits.clear()
    again = make_classifier(backbone=folder).fit(X[:30], y[:30])
    assert np.array_equal(again.predict_proba(X[30:]), new.predict_proba(X[30:]))


def test_a_backbone_that_nobody_uses_gives_way_to_the_next(tiny_llama, backbones, loadings):
    device = torch.device("cpu")
    for family in ("llama", "llama", "gpt2", "llama"):
        load_backbone(backbones[family], precision="fp32", device=device)
        gc.collect()
    assert len(loadings) == 3
    held = load_backbone(tiny_llama, precision="fp32", device=device)
    load_backbone(backbones["gpt2"], precision="fp32", device=device)
    assert load_backbone(tiny_llama, precision="fp32", device=device) is held
    assert len(loadings) == 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_weights_are_mapped_from_a_file_of_their_precision(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "mapped"))
    file = folder / "model.safetensors"

    def is_mapped():
        return str(file) in Path("/proc/self/maps").read_text()

    def place(precision):
        backbone = load_backbone(folder, precision=precision, device=torch.device("cpu"))
        addresses = [tensor.data_ptr() for tensor in backbone.model.model.layers.parameters()]
        ranges = [
            [int(end, 16) for end in line.split()[0].split("-")]
            for line in Path("/proc/self/maps").read_text().splitlines()
            if line.endswith(str(file))
        ]
        return [any(start <= address < end for start, end in ranges) for address in addresses]

    assert not is_mapped()
    assert all(place("fp32"))
    assert not any(place("bf16"))
