"""Adapters go into the candidate layers only, whatever the peft configuration."""

import pytest
import torch
from peft import IA3Config, KasaConfig, LilyConfig, LNTuningConfig, LoraConfig, PromptTuningConfig

from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import load_backbone
from sklearn_irt.trained_part import TrainedPart


@pytest.fixture
def backbone(tiny_llama):
    return load_backbone(tiny_llama, precision="fp32", device=torch.device("cpu"))


def layers_with_adapters(part):
    names = [name for name in part.state_dict() if ".layers." in name]
    return {int(name.split(".layers.")[1].split(".")[0]) for name in names}


CONFIGS = [
    adapter_config("lora"),
    LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    LoraConfig(r=2),  # peft's own mapping
    LoraConfig(r=2, target_modules=r".*\.down_proj"),
    LoraConfig(r=2, target_modules="all-linear", exclude_modules=["o_proj"]),
    IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("layers", [[2, 3], [1, 3], [0, 1, 2, 3]])
def test_adapters_go_into_the_candidate_layers_only(backbone, config, layers):
    part = TrainedPart(backbone, layers, config, n_classes=3, seed=0)
    assert layers_with_adapters(part) == set(layers)
    assert set(part.layer_parameters) == set(layers)


def test_excluded_modules_of_the_user_stay_excluded(backbone):
    part = TrainedPart(backbone, [2, 3], CONFIGS[4], n_classes=3, seed=0)
    assert not [name for name in part.state_dict() if "o_proj" in name]


def test_the_default_adapter_is_on_all_seven_projections_with_rank_16(backbone):
    part = TrainedPart(backbone, [3], adapter_config("lora"), n_classes=3, seed=0)
    # rank * (inputs + outputs): q, k, v, o of a model of width 32 with key and value of width 16; gate, up, down of 48
    expected = 16 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + 3 * (32 + 48))
    assert sum(p.numel() for p in part.layer_parameters[3]) == expected


def test_dropout_of_rate_0_adds_no_module(backbone):
    part = TrainedPart(backbone, [3], adapter_config("lora"), n_classes=3, seed=0)
    adapters = [module for name, module in part.named_modules() if "lora" in name]
    assert adapters
    assert not [module for module in adapters if isinstance(module, torch.nn.Dropout)]


def test_the_users_configuration_is_left_as_it_was(backbone):
    config = LoraConfig(r=2, target_modules="all-linear")
    TrainedPart(backbone, [3], adapter_config(config), n_classes=3, seed=0)
    assert config.target_modules == "all-linear"
    assert config.exclude_modules is None


def test_a_configuration_that_trains_biases_leaves_the_shared_backbone_alone(backbones):
    backbone = load_backbone(backbones["bert"], precision="fp32", device=torch.device("cpu"))
    config = LoraConfig(r=2, target_modules=["query"], bias="lora_only")
    part = TrainedPart(backbone, [3], config, n_classes=3, seed=0)
    biases = [p for p in part.layer_parameters[3] if p.dim() == 1]
    assert biases
    shared = {id(p) for p in backbone.model.parameters()}
    assert not [p for p in biases if id(p) in shared]
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_an_adapter_without_parameters_in_the_layers_is_refused(backbone):
    with pytest.raises(ValueError, match="LoraConfig does not fit"):
        TrainedPart(backbone, [3], LoraConfig(target_modules=["no_such_module"]), n_classes=3, seed=0)
    with pytest.raises(ValueError, match="PromptTuningConfig cannot be restricted to layers"):
        adapter_config(PromptTuningConfig(num_virtual_tokens=2))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora", "OLoRA", "corda", "loftq", "eva", "lora_ga"])
def test_a_start_that_changes_the_backbone_or_reads_texts_is_refused(start):
    config = LoraConfig(r=2, target_modules=["q_proj"])
    config.init_lora_weights = start  # peft warns, or asks for more, where it is given at once
    with pytest.raises(ValueError, match=r"init_lora_weights='.*', which changes the backbone's own weights"):
        adapter_config(config)


@pytest.mark.parametrize(
    "beyond", [{"modules_to_save": ["score"]}, {"trainable_token_indices": [1]}, {"layer_replication": [(0, 4)]}]
)
def test_what_is_beyond_the_layers_is_refused(beyond):
    with pytest.raises(ValueError, match=r"are in the candidate layers alone.*leave .* out"):
        adapter_config(LoraConfig(r=2, **beyond))


def test_an_adapter_that_layers_share_is_refused(backbone):
    with pytest.raises(ValueError, match="shares parameters between modules"):
        TrainedPart(backbone, [2, 3], LilyConfig(r=2, target_modules=["q_proj"]), n_classes=3, seed=0)


def test_an_adapter_that_replaces_weights_of_the_backbone_is_refused_and_undone(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    truncating = LoraConfig(r=2, target_modules=["q_proj"], kasa_config=KasaConfig())
    with pytest.raises(ValueError, match=r"changes the backbone's own weights .*q_proj"):
        TrainedPart(backbone, [3], adapter_config(truncating), n_classes=3, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.model.state_dict().items())


def test_what_an_adapter_keeps_fixed_stays_fixed(make_classifier, revisions):
    X, y = revisions
    mica = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="mica")
    parameters = {"adapter": mica, "candidate_layers": 1, "learning_rate": 0.01}
    short, long = (make_classifier(max_epochs=n, **parameters).fit(X, y).net_.module_ for n in (1, 2))
    same = {name: torch.equal(tensor, long.state_dict()[name]) for name, tensor in short.state_dict().items()}
    assert {name.split(".")[-3] for name, is_same in same.items() if is_same} == {"lora_B"}
    assert {name.split("lora_")[1][0] for name in short.learned_parameters if "lora_" in name} == {"A"}


def test_frozen_weights_exist_once_for_all_trained_parts(backbone):
    parts = [TrainedPart(backbone, [3], adapter_config("lora"), n_classes=3, seed=seed) for seed in (0, 1)]
    shared = {p.data_ptr() for p in backbone.model.parameters()}
    for part in parts:
        own = [p for p in part.parameters() if p.data_ptr() not in shared]
        assert sum(p.numel() for p in own) == sum(t.numel() for t in part.state_dict().values())
    adapters = [{p.data_ptr() for p in part.layer_parameters[3]} for part in parts]
    assert not adapters[0] & adapters[1]


def test_state_dict_holds_adapters_and_head_and_loads_back(backbone):
    part, other = (TrainedPart(backbone, [2, 3], adapter_config("lora"), n_classes=3, seed=seed) for seed in (0, 1))
    assert all("lora_" in name or "score" in name for name in part.state_dict())
    assert not all(torch.equal(part.state_dict()[name], other.state_dict()[name]) for name in part.state_dict())
    other.load_state_dict(part.state_dict())
    assert all(torch.equal(part.state_dict()[name], other.state_dict()[name]) for name in part.state_dict())
    with pytest.raises(ValueError, match="do not belong"):
        TrainedPart(backbone, [3], adapter_config("lora"), n_classes=3, seed=0).load_state_dict(part.state_dict())


def test_norms_that_an_adapter_trains_get_gradients(backbone):
    part = TrainedPart(backbone, [3], LNTuningConfig(), n_classes=3, seed=0)
    norms = part.layer_parameters[3]
    for norm in norms:
        norm.requires_grad_(True)
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    part(states, torch.full((2, 5), 7), torch.ones(2, 5, dtype=torch.int64)).square().sum().backward()
    assert norms
    assert all(norm.grad is not None and norm.grad.any() for norm in norms)
