"""Layers that are left out before training: which, and that the others run as in a model that never had them."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, AutoModelForSequenceClassification, Gemma2Config, Qwen2Config

from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import load_backbone, load_tokenizer
from sklearn_irt.layer_dropping import least_changing_layers
from sklearn_irt.stack import get_layers
from sklearn_irt.trained_part import TrainedPart

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 3, "head_dim": 16}
TOKEN_IDS = [[5, 9, 33, 7, 50, 21, 4], [8, 41, 6], [100, 3, 77, 12]]


@pytest.fixture(scope="module")
def folders(backbones, tmp_path_factory):
    configs = {
        "gemma2": Gemma2Config(**SIZES, **ALTERNATING, vocab_size=600, num_hidden_layers=4),
        "qwen2": Qwen2Config(**SIZES, **ALTERNATING, vocab_size=600, num_hidden_layers=4, use_sliding_window=True),
    }
    made = dict(backbones)
    for family, config in configs.items():
        made[family] = str(tmp_path_factory.mktemp(family))
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(made[family])
        load_tokenizer(backbones["llama"]).save_pretrained(made[family])
    return made


def load(folder, **given):
    return load_backbone(folder, **{"precision": "fp32", "device": torch.device("cpu"), **given})


@pytest.mark.parametrize(("n_layers", "n_dropped"), [(4, 1), (4, 2), (4, 3), (3, 1)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_layers_that_change_the_states_least_are_found(folders, family, n_layers, n_dropped):
    backbone = load(folders[family])
    plain = AutoModel.from_pretrained(folders[family], attn_implementation="eager").eval()
    layers = plain.encoder.layer if family == "bert" else plain.h if family == "gpt2" else plain.layers
    leaving = []
    for layer in layers:  # the last hidden state that transformers returns is behind the final norm
        layer.register_forward_hook(lambda m, a, out: leaving.append(out[0] if isinstance(out, tuple) else out))
    cosines = [[] for _ in range(n_layers - n_dropped + 1)]
    for ids in TOKEN_IDS:
        leaving.clear()
        with torch.no_grad():
            entering = plain(torch.tensor([ids]), output_hidden_states=True).hidden_states[0]
        states = [entering, *leaving]
        for first, found in enumerate(cosines):
            found.append(cosine_similarity(states[first][0], states[first + n_dropped][0], dim=-1))
    first = int(np.argmax([float(torch.cat(found).mean()) for found in cosines]))
    found = least_changing_layers(backbone.model, backbone.stack, backbone.tokenizer, TOKEN_IDS, n_layers, n_dropped)
    assert found == tuple(range(first, first + n_dropped))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "gemma2", "qwen2"])
def test_the_others_run_as_in_a_model_that_never_had_them(folders, family):
    shared = load(folders[family])
    backbone = load(folders[family], dropped=[1])
    part = TrainedPart(backbone, [1, 2], adapter_config("lora"), n_classes=3, seed=0).eval()
    assert [len(get_layers(b.model, b.stack)) for b in (shared, backbone)] == [4, 3]
    plain = AutoModelForSequenceClassification.from_pretrained(
        folders[family], num_labels=3, attn_implementation="eager"
    ).eval()
    plain.config.use_cache = False
    del get_layers(plain, backbone.stack)[1]
    if family in ("gemma2", "qwen2"):
        plain.config.layer_types = [kind for index, kind in enumerate(ALTERNATING["layer_types"]) if index != 1]
        plain.config.num_hidden_layers = 3
    head = {name: t for name, t in part.model.state_dict().items() if name.startswith(("score", "classif"))}
    pooler = {name: t for name, t in part.model.state_dict().items() if ".pooler." in name}
    plain.load_state_dict({**head, **pooler}, strict=False)
    for ids in TOKEN_IDS:
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        with torch.no_grad():
            entering = run_to(plain, backbone, 1, inputs)
            expected = plain(**inputs).logits
            torch.testing.assert_close(part(states=entering, **inputs), expected, rtol=1e-4, atol=1e-4)


def run_to(plain, backbone, layer, inputs):
    seen = []
    hook = get_layers(plain, backbone.stack)[layer].register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    plain(**inputs)
    hook.remove()
    return seen[0]


def test_a_fit_leaves_layers_out_pickles_and_knows_which(make_classifier, revisions, runs):
    X, y = revisions
    classifier = make_classifier(drop_layers=2, candidate_layers=1, max_length=60).fit(X[:32], y[:32])
    assert classifier.n_layers_ == 2
    assert classifier.candidate_layers_.tolist() == [1]
    dropped = classifier.dropped_layers_.tolist()
    assert np.diff(dropped).tolist() == [1]
    runs.clear()
    probabilities = classifier.predict_proba(X[32:40])
    assert not set(runs) & set(dropped)
    restored = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(restored.predict_proba(X[32:40]), probabilities)
    assert make_classifier(max_length=60).fit(X[:32], y[:32]).n_layers_ == 4


def test_a_warm_start_keeps_the_layers_and_refuses_another_number(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(drop_layers=1, warm_start=True, random_state=None, max_length=60).fit(X[:32], y[:32])
    dropped = classifier.dropped_layers_.tolist()
    assert classifier.fit(X[:32], y[:32]).dropped_layers_.tolist() == dropped
    with pytest.raises(ValueError, match="drop_layers"):
        classifier.set_params(drop_layers=2).fit(X[:32], y[:32])


def test_to_leave_no_layer_is_refused(make_classifier, revisions):
    with pytest.raises(ValueError, match="drop_layers=3 leaves none of the 3 layers that run"):
        make_classifier(drop_layers=3, n_layers=3).fit(*revisions)


def test_grid_search_over_the_number(make_classifier, revisions):
    X, y = revisions
    grid = GridSearchCV(make_classifier(max_length=40), {"drop_layers": [0, 1]}, cv=2).fit(X[:40], y[:40])
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
