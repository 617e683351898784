"""The adapters that have a name: what they compute, what they train, and that they begin as the backbone."""

import copy
import pickle

import numpy as np
import pytest
import torch
from peft import IA3Config
from sklearn.base import clone
from torch import nn
from transformers import AutoModelForSequenceClassification, GPTJConfig, MixtralConfig, MPNetConfig

from sklearn_irt.adapters import adapter_config, attach_adapters
from sklearn_irt.backbone import load_backbone
from sklearn_irt.bottleneck import ParallelAdapter, bottleneck_config
from sklearn_irt.partial_model import share_weights
from sklearn_irt.trained_part import TrainedPart

NAMES = ("lora", "dora", "ia3", "bottleneck")
BESIDE = {
    "llama": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"],
    "gpt2": ["attn.c_attn", "mlp.c_fc", "mlp.c_proj"],
    "bert": [*(f"attention.self.{name}" for name in ("query", "key", "value")), "intermediate.dense", "output.dense"],
}
TINY = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 99}


def load(folder, precision="fp32"):
    return load_backbone(folder, precision=precision, device=torch.device("cpu"))


def inputs_of(backbone):
    ids = torch.tensor([[5, 9, 33, 7, 50], [8, 41, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    return {"states": torch.randn(2, 5, 32, generator=torch.manual_seed(0)), "input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_adapter_changes_nothing(backbones, family, name):
    backbone = load(backbones[family])
    parts = [TrainedPart(backbone, [2, 3], adapter_config(a), n_classes=3, seed=0).eval() for a in (name, None)]
    with torch.no_grad():
        torch.testing.assert_close(*(part(**inputs_of(backbone)) for part in parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_trains_in_the_candidates_alone_and_pickles(make_classifier, revisions, backbones, family, name):
    X, y = revisions
    shared = load(backbones[family])
    before = {key: tensor.clone() for key, tensor in shared.model.state_dict().items()}
    given = {"backbone": backbones[family], "adapter": name, "candidate_layers": [1, 3], "max_length": 60}
    classifier = make_classifier(**given, selection="full").fit(X[:32], y[:32])
    part = classifier.net_.module_
    assert part.backbone is shared
    assert all(torch.equal(tensor, before[key]) for key, tensor in shared.model.state_dict().items())
    learned = [key for key in part.learned_parameters if f"{shared.stack}." in key]
    assert {int(key.split(f"{shared.stack}.")[1].split(".")[0]) for key in learned} == {1, 3}
    probabilities = classifier.predict_proba(X[:8])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(X[:8]), probabilities)
    np.testing.assert_array_equal(clone(classifier).fit(X[:32], y[:32]).predict_proba(X[:8]), probabilities)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_bottleneck_is_a_tanh_between_two_matrices_beside_the_modules_of_the_papers_code(backbones, family):
    backbone = load(backbones[family])
    part = TrainedPart(backbone, [3], adapter_config("bottleneck"), n_classes=3, seed=0)
    assert {name.split(".lora")[0] for name in part.layer_tensors[3]} == set(BESIDE[family])
    plain = get_layer(backbone)
    for name in BESIDE[family]:
        adapter = part.stack[3].get_submodule(name)
        down, up = adapter.lora_A["default"].weight, adapter.lora_B["default"].weight
        assert len(down) == 256
        assert not up.any()
        nn.init.normal_(up)
        x = torch.randn(4, down.shape[1])
        expected = plain.get_submodule(name)(x) + torch.tanh(x @ down.T) @ up.T
        torch.testing.assert_close(adapter(x), expected)


def get_layer(backbone):
    return backbone.model.get_submodule(backbone.stack)[3]


def test_dora_trains_the_length_of_each_row_apart(backbones):
    part = TrainedPart(load(backbones["llama"]), [3], adapter_config("dora"), n_classes=3, seed=0)
    name = "self_attn.o_proj.lora_magnitude_vector.default.weight"
    weight = get_layer(part.backbone).self_attn.o_proj.weight
    torch.testing.assert_close(part.layer_tensors[3][name].detach(), weight.norm(dim=1))


def test_ia3_scales_keys_values_and_inner_units(backbones):
    part = TrainedPart(load(backbones["llama"]), [3], adapter_config("ia3"), n_classes=3, seed=0)
    sizes = {name.split(".ia3")[0]: p.numel() for name, p in part.layer_tensors[3].items()}
    assert sizes == {"self_attn.k_proj": 16, "self_attn.v_proj": 16, "mlp.down_proj": 48}


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {"self_attn.k_proj": 16, "self_attn.v_proj": 16, "mlp.down_proj": 48}),
        ("gpt2", {"attn.c_attn": 96, "mlp.c_proj": 128}),
        ("bert", {"attention.self.key": 32, "attention.self.value": 32, "output.dense": 48}),
    ],
)
def test_ia3_in_a_family_that_peft_does_not_know(backbones, family, expected):
    backbone = load(backbones[family])
    model = share_weights(backbone.model)
    model.config = copy.copy(model.config)
    model.config.model_type = "of_tomorrow"
    attach_adapters(model, backbone.stack, [3], IA3Config())
    sizes = {
        name.split(".ia3")[0].split(f"{backbone.stack}.3.")[1]: p.numel()
        for name, p in model.named_parameters()
        if "ia3" in name
    }
    assert sizes == expected


@pytest.mark.parametrize("name", NAMES)
def test_adapters_begin_as_the_backbone_and_learn_in_bf16_too(make_classifier, revisions, backbones, name):
    X, y = revisions
    backbone = load(backbones["llama"], "bf16")
    parts = [TrainedPart(backbone, [1, 3], adapter_config(a), n_classes=3, seed=0).eval() for a in (name, "lora")]
    inputs = inputs_of(backbone)
    inputs["states"] = inputs["states"].bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(*(part(**inputs) for part in parts))
    given = {"backbone": backbones["llama"], "adapter": name, "candidate_layers": [1, 3], "max_length": 60}
    classifier = make_classifier(**given, precision="bf16", selection="full").fit(X[:32], y[:32])
    part = classifier.net_.module_
    start = TrainedPart(**part.origin).state_dict()
    assert not [key for key, tensor in part.state_dict().items() if torch.equal(tensor, start[key])]
    restored = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(restored.predict_proba(X[:8]), classifier.predict_proba(X[:8]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config)), adapter_config])
def test_a_copied_bottleneck_configuration_is_one_still(backbones, copied):
    config = bottleneck_config()
    config.target_modules = ["up_proj"]
    assert copied(config).to_dict() == config.to_dict()
    part = TrainedPart(load(backbones["llama"]), [3], copied(config), n_classes=3, seed=0)
    assert isinstance(part.stack[3].mlp.up_proj, ParallelAdapter)
    assert {key.split(".lora")[0] for key in part.layer_tensors[3]} == {"mlp.up_proj"}


MPNET = MPNetConfig(**TINY)
GPTJ = GPTJConfig(n_embd=32, n_head=2, n_layer=2, rotary_dim=8, vocab_size=99)
MIXTRAL = MixtralConfig(**TINY, num_key_value_heads=1, num_local_experts=2)


def modules_with_adapters(config, name):
    model = AutoModelForSequenceClassification.from_config(config)
    stack = next(n for n, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == 2)
    attach_adapters(model, stack, [1], adapter_config(name))
    names = [key.split(f"{stack}.1.")[1] for key, _ in model.named_parameters() if ".lora_" in key or ".ia3_" in key]
    return {key.split(".lora_")[0].split(".ia3_")[0] for key in names}


def test_families_with_names_of_their_own():
    queries, *keys_and_values = [f"attention.attn.{name}" for name in "qkv"]
    assert modules_with_adapters(MPNET, "ia3") == {*keys_and_values, "output.dense"}
    assert modules_with_adapters(MPNET, "bottleneck") == {
        queries, *keys_and_values, "intermediate.dense", "output.dense"
    }  # fmt: skip
    assert modules_with_adapters(GPTJ, "bottleneck") == {
        "attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in", "mlp.fc_out"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ia3", "bottleneck"])
def test_a_family_of_which_a_part_is_not_known_is_refused(name):
    config = copy.deepcopy(MIXTRAL)
    config.model_type = "of_tomorrow"  # peft has IA3 modules for Mixtral
    model = AutoModelForSequenceClassification.from_config(MIXTRAL)
    model.config = config
    with pytest.raises(ValueError, match=f"adapter='{name}' knows no feed-forward output in MixtralDecoderLayer"):
        attach_adapters(model, "model.layers", [1], adapter_config(name))
