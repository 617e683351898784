"""What the strategies do in a fit: what trains, what stays as it was, and what is refused."""

import ast
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklearn_irt import (
    GradientNormSelection,
    HalfSelection,
    LayerSelection,
    RandomSelection,
)
from sklearn_irt.backbone import load_backbone
from sklearn_irt.callbacks import LastGoodWeights
from sklearn_irt.selection.named import NAMED

WITH_LORA = {
    **{name: selection for name, selection in NAMED.items() if name != "sparse"},
    "cosine": GradientNormSelection(importance="cosine"),
    "weight": GradientNormSelection(importance="weight", interval="epoch"),
    "relative": GradientNormSelection(score="relative-norm", refresh=3),
    "saving": GradientNormSelection(score="saving", refresh=3),
}


@pytest.mark.parametrize("name", WITH_LORA)
def test_a_strategy_selects_candidates_fits_again_the_same_and_pickles(make_classifier, revisions, name):
    X, y = revisions
    given = {"selection": WITH_LORA[name], "candidate_layers": [1, 2, 3], "max_epochs": 2, "max_length": 60}
    classifier = make_classifier(**given).fit(X[:40], y[:40])
    assert classifier.active_layers_.shape == (6, 3)
    assert classifier.active_layers_.any(axis=1).all()
    probabilities = classifier.predict_proba(X[:8])
    restored = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(restored.predict_proba(X[:8]), probabilities)
    assert not hasattr(restored.selection_, "probe_")
    again = clone(classifier).fit(X[:40], y[:40])
    np.testing.assert_array_equal(again.active_layers_, classifier.active_layers_)
    np.testing.assert_array_equal(again.predict_proba(X[:8]), probabilities)


def test_parameters_in_training_are_counted(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(selection="random", candidate_layers=[0, 1, 2, 3]).fit(X, y)
    a_layer = sum(p.numel() for p in classifier.net_.module_.layer_parameters[0])
    np.testing.assert_array_equal(classifier.n_active_parameters_, [2 * a_layer] * 4)


def test_one_grid_compares_ways_to_choose(make_classifier, revisions):
    X, y = revisions
    grid = GridSearchCV(make_classifier(max_length=40), {"selection": ["ir", "full", "random", "ist", "fisher"]}, cv=2)
    grid.fit(X, y)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


def adapters_of(classifier):
    return {
        layer: {name: p.detach().clone() for name, p in tensors.items()}
        for layer, tensors in classifier.net_.module_.layer_tensors.items()
    }


def test_modules_that_are_not_drawn_keep_their_values(make_classifier, revisions):
    X, y = revisions
    given = {"candidate_layers": [2, 3], "learning_rate": 0.01}
    fresh = make_classifier(**{**given, "learning_rate": 1e-12}).fit(X, y)
    classifier = make_classifier(selection=HalfSelection(interval=None), **given).fit(X, y)
    for layer, tensors in adapters_of(classifier).items():
        for name, trained in classifier.selection_.masks_[layer].items():
            same = torch.allclose(tensors[name], adapters_of(fresh)[layer][name], rtol=0, atol=1e-8)
            assert same != trained, name


class Entries(LayerSelection):
    """Train the even entries in the first two steps, and then the odd ones."""

    def select(self, step):
        if step % 2 == 0:
            self.masks_ = {
                layer: {
                    name: np.arange(p.numel()).reshape(p.shape) % 2 == (step // 2) % 2 for name, p in tensors.items()
                }
                for layer, tensors in self.probe_._net.module_.layer_tensors.items()
            }
        return self.layers_

    def masks(self, step):
        return self.masks_


def test_masked_entries_keep_their_values_whatever_trained_before(make_classifier, revisions, monkeypatch):
    seen = []

    def look(self, net, training=False, **kwargs):
        if training:
            seen.append({name: p.detach().clone() for name, p in net.module_.layer_tensors[3].items()})

    monkeypatch.setattr(LastGoodWeights, "on_batch_end", look, raising=False)
    X, y = revisions
    classifier = make_classifier(selection=Entries(), candidate_layers=[3], learning_rate=0.01, max_epochs=2)
    classifier.fit(X, y)
    assert len(seen) == 8
    for step in range(1, 8):
        for name, after in seen[step].items():
            changed = (after != seen[step - 1][name]).flatten()
            parity = (step // 2) % 2
            assert not changed[1 - parity :: 2].any(), (step, name)
            assert "lora_B" not in name or changed[parity::2].float().mean() > 0.9
    n_parameters = sum(p.numel() for p in classifier.net_.module_.layer_parameters[3])
    np.testing.assert_array_equal(classifier.n_active_parameters_, [n_parameters // 2] * 8)


def test_gradients_of_masked_entries_do_not_count_in_the_norms(make_classifier, revisions, monkeypatch):
    norms = []
    monkeypatch.setattr(Entries, "observe", lambda self, step, given: norms.append(given), raising=False)
    expected = []

    def look(self, net, **kwargs):
        grads = net.module_.layer_tensors[3]
        expected.append([p.grad.norm().item() for p in grads.values()])

    monkeypatch.setattr("skorch.callbacks.GradientNormClipping.on_grad_computed", look)
    X, y = revisions
    make_classifier(selection=Entries(), candidate_layers=[3]).fit(X, y)
    np.testing.assert_allclose([given[3] for given in norms], expected, rtol=1e-5)


class WrongMasks(LayerSelection):
    """Return the masks that it was given."""

    def __init__(self, within=None):
        self.within = within

    def select(self, step):
        return self.layers_

    def masks(self, step):
        return {3: self.within(self.probe_.tensors()[3])}


@pytest.mark.parametrize(
    ("within", "message"),
    [
        (lambda tensors: {}, "masks of layer 3 must name the tensors"),
        (lambda tensors: {name: np.ones(3, bool) for name in tensors}, "must be of shape"),
        (lambda tensors: dict.fromkeys(tensors, np.False_), "no parameter of the selected layers trains"),
    ],
)
def test_masks_that_do_not_fit_say_so(make_classifier, revisions, within, message):
    X, y = revisions
    with pytest.raises(ValueError, match=message):
        make_classifier(selection=WrongMasks(within), candidate_layers=[3]).fit(X, y)


@pytest.mark.parametrize(
    ("selection", "adapter", "message"),
    [
        ("sparse", "lora", "SparseSelection chooses among the entries .* set adapter=None"),
        ("ist", IA3Config(), "LearnedImportanceSelection suppresses adapters of LoRA's kind"),
    ],
)
def test_an_adapter_that_does_not_suit_is_refused_before_weights_are_read(
    make_classifier, revisions, tiny_llama, tmp_path, selection, adapter, message
):
    shutil.copy(f"{tiny_llama}/config.json", tmp_path)
    with pytest.raises(ValueError, match=message):
        make_classifier(backbone=tmp_path, selection=selection, adapter=adapter).fit(*revisions)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_embeddings_train_on_a_copy_when_the_user_asks(make_classifier, revisions, backbones, family, precision):
    X, y = revisions
    shared = load_backbone(backbones[family], precision=precision, device=torch.device("cpu"))
    before = shared.model.get_input_embeddings().weight.clone()
    given = {"backbone": backbones[family], "precision": precision, "candidate_layers": [2, 3], "max_length": 60}
    fits = [
        make_classifier(selection=RandomSelection(embeddings=embeddings), **given).fit(X[:40], y[:40])
        for embeddings in (False, True)
    ]
    assert torch.equal(shared.model.get_input_embeddings().weight, before)
    parts = [classifier.net_.module_ for classifier in fits]
    assert parts[0].model.get_input_embeddings().weight is shared.model.get_input_embeddings().weight
    moved = (parts[1].model.get_input_embeddings().weight != before.float()).any(dim=1)
    seen = {token for ids in tokenize(fits[1], X[:40]).token_ids for token in ids}
    assert set(torch.flatten(moved.nonzero()).tolist()) <= seen
    assert moved.sum() > 0.9 * len(seen)
    probabilities = fits[1].predict_proba(X[:9])
    assert not np.allclose(probabilities, fits[0].predict_proba(X[:9]), atol=1e-4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fits[1])).predict_proba(X[:9]), probabilities)
    plain = plain_logits(fits[1], X[:9])
    np.testing.assert_allclose(
        np.log(probabilities), plain.log_softmax(dim=1), atol=1e-3 if precision == "fp32" else 0.1
    )


def tokenize(classifier, X):
    pairs = classifier._read_pairs(X, classifier)
    return classifier._tokenize(pairs, classifier.net_.module_.backbone.tokenizer, classifier.classes_, user_frame=3)


def plain_logits(classifier, X):
    """Let the fitted model run by itself on one text after the other, as transformers wrote it."""
    part = classifier.net_.module_
    tokenized, rows = tokenize(classifier, X), []
    for ids in tokenized.token_ids:
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        with torch.no_grad():
            rows.append(part(states=torch.full((1, len(ids), 32), torch.nan), **inputs)[0].float())
    return torch.stack(rows)[tokenized.texts]


def test_the_strategy_of_the_example_is_short_imports_no_training_code_and_fits(make_classifier, revisions):
    source = (Path(__file__).parent.parent / "examples" / "own_strategy.py").read_text()
    tree = ast.parse(source)
    (definition,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert definition.end_lineno - definition.lineno < 60
    assert not {"torch", "sklearn_irt.training", "sklearn_irt.probing"} & {
        node.module for node in tree.body if isinstance(node, ast.ImportFrom)
    }
    needed = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef))]
    exec(compile(ast.Module(needed, type_ignores=[]), "own_strategy.py", "exec"), names := {})
    strategy = names[definition.name]
    X, y = revisions
    classifier = make_classifier(selection=strategy(n_trained=2), candidate_layers=[0, 1, 2, 3], max_length=60)
    classifier.fit(X[:40], y[:40])
    assert classifier.active_layers_.sum(axis=1).tolist() == [2] * 3
