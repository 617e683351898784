"""Training the layers' own weights: what trains, and that nobody else's backbone does."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from sklearn_irt import FullSelection, SparseSelection
from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import load_backbone
from sklearn_irt.trained_part import TrainedPart

OWN = {"adapter": None, "learning_rate": 1e-3, "candidate_layers": [1, 3], "max_length": 60}


def layers_of(classifier):
    part = classifier.net_.module_
    return {layer: dict(part.stack[layer].named_parameters()) for layer in part.layers}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_every_parameter_of_a_candidate_trains_on_a_copy(make_classifier, revisions, backbones, family, precision):
    X, y = revisions
    given = {**OWN, "backbone": backbones[family], "precision": precision, "selection": "full"}
    shared = load_backbone(backbones[family], precision=precision, device=torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in shared.model.state_dict().items()}
    classifier = make_classifier(**given).fit(X[:40], y[:40])
    assert classifier.net_.module_.backbone is shared
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.model.state_dict().items())
    for layer, parameters in layers_of(classifier).items():
        for name, parameter in parameters.items():
            if "key.bias" in name:
                continue  # the softmax of attention does not depend on it
            assert parameter.dtype == torch.float32
            original = before[f"{shared.stack}.{layer}.{name}"]
            assert not torch.equal(parameter.detach(), original.float()), name
    probabilities = classifier.predict_proba(X[:9])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(X[:9]), probabilities)


def test_before_training_the_logits_are_the_backbones(backbones):
    backbone = load_backbone(backbones["llama"], precision="fp32", device=torch.device("cpu"))
    parts = [TrainedPart(backbone, [2], adapter_config(a), n_classes=3, seed=0).eval() for a in (None, "lora")]
    inputs = {"states": torch.randn(2, 7, 32), "input_ids": torch.ones(2, 7, dtype=torch.long)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(parts[0](**inputs), parts[1](**inputs))


class FirstGradients(FullSelection):
    """Keep what the probe says of the gradients before the first step, and the norms of the step."""

    def __sklearn_clone__(self):
        return self

    def select(self, step):
        if step == 0:
            dataset = self.probe_._dataset
            self.token_ids = [dataset.states.token_ids[text] for text in dataset.texts]
            self.labels = torch.from_numpy(dataset.labels)
            self.head = self.probe_._net.module_.model.score.weight.detach().clone()
            self.gradients = self.probe_.gradients(100)
        return super().select(step)

    def observe(self, step, gradient_norms):
        if step == 0:
            self.norms = gradient_norms


def test_gradients_are_those_of_the_plain_model(make_classifier, revisions, tiny_llama):
    X, y = revisions
    selection = FirstGradients()
    given = {**OWN, "class_weight": None, "batch_size": 20, "selection": selection}
    make_classifier(**given).fit(X[:20], y[:20])
    plain = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=len(set(y[:20])))
    with torch.no_grad():
        plain.score.weight.copy_(selection.head)
    logits = [plain(input_ids=torch.tensor([ids])).logits for ids in selection.token_ids]
    cross_entropy(torch.cat(logits), selection.labels).backward()
    for layer in (1, 3):
        for name, parameter in plain.model.layers[layer].named_parameters():
            found = torch.from_numpy(selection.gradients[layer][name])
            torch.testing.assert_close(found, parameter.grad, rtol=0, atol=0.02 * float(parameter.grad.abs().max()))
        expected = sorted(p.grad.norm().item() for p in plain.model.layers[layer].parameters())
        np.testing.assert_allclose(sorted(selection.norms[layer]), expected, rtol=0.02)


def test_sparse_training_leaves_all_other_entries_to_the_bit(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(**OWN, selection=SparseSelection(share=0.1)).fit(X[:40], y[:40])
    shared = classifier.net_.module_.backbone
    for layer, parameters in layers_of(classifier).items():
        n_changed = 0
        for name, parameter in parameters.items():
            changed = (parameter != shared.model.get_parameter(f"{shared.stack}.{layer}.{name}")).numpy()
            assert not (changed & ~classifier.selection_.masks_[layer][name]).any()
            n_changed += changed.sum()
        n_entries = sum(p.numel() for p in parameters.values())
        assert round(0.1 * n_entries) * 0.95 < n_changed <= round(0.1 * n_entries)
    assert classifier.n_active_parameters_[0] == 2 * round(0.1 * n_entries)


def test_a_warm_start_goes_on_and_refuses_another_adapter(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(**OWN, warm_start=True).fit(X[:40], y[:40])
    losses = [classifier.history_[-1, "train_loss"], classifier.fit(X[:40], y[:40]).history_[-1, "train_loss"]]
    assert losses[1] < losses[0]
    with pytest.raises(ValueError, match="adapter changed"):
        classifier.set_params(adapter="lora").fit(X[:40], y[:40])
