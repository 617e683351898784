"""A backbone kept in few bits: where it can be had, and that it computes what the plain quantized model does."""

import json
import pickle
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, LlamaConfig

from sklearn_irt import quantization as quantization_module
from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import load_backbone, load_config
from sklearn_irt.trained_part import TrainedPart

on_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("bitsandbytes") is None, reason="needs a CUDA GPU and bitsandbytes"
)
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture
def folder(save_tiny):
    config = LlamaConfig(**SIZES, vocab_size=600, num_hidden_layers=4, max_position_embeddings=256)
    return save_tiny("quantized", config)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_without_a_gpu_it_is_refused_before_anything_is_loaded(make_classifier, revisions, tmp_path, bits):
    with pytest.raises(ValueError, match=f"quantization='{bits}' needs a CUDA GPU, but device is 'cpu'"):
        make_classifier(backbone=tmp_path, quantization=bits).fit(*revisions)


def test_without_its_package_the_error_gives_the_pip_line(monkeypatch):
    monkeypatch.setattr(quantization_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        quantization_module.check_quantization("4bit", torch.device("cuda"), "lora")


@pytest.mark.parametrize("adapter", [None, "bottleneck"])
def test_what_cannot_train_beside_quantized_weights_is_refused(monkeypatch, adapter):
    monkeypatch.setattr(quantization_module, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match=f"quantization='8bit' does not go with adapter={adapter!r}"):
        quantization_module.check_quantization("8bit", torch.device("cuda"), adapter)


@pytest.mark.parametrize("option", ["quantization_config", "device_map"])
def test_there_is_one_place_to_say_it(make_classifier, revisions, option):
    with pytest.raises(ValueError, match=f"backbone_options must not hold '{option}'"):
        make_classifier(backbone_options={option: {}}).fit(*revisions)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_head_of_remote_code_is_left_whole_where_that_code_is_trusted(backbones, tmp_path):
    shutil.copytree(backbones["bert"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": classes}))
    (tmp_path / "own.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class OwnModel(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    config = load_config(tmp_path, {"trust_remote_code": True})
    options = quantization_module.quantization_options(
        "4bit", config, torch.bfloat16, torch.device("cuda"), trust_remote_code=True
    )
    assert options["quantization_config"].llm_int8_skip_modules == ["bert.pooler", "classifier"]


@on_a_gpu
@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_fit_trains_adapters_predicts_and_pickles(make_classifier, revisions, folder, bits, adapter):
    X, y = revisions
    given = {"backbone": folder, "quantization": bits, "adapter": adapter, "device": "cuda", "precision": "bf16"}
    classifier = make_classifier(**given, max_length=60, max_epochs=2, selection="full").fit(X[:40], y[:40])
    part = classifier.net_.module_
    frozen = [p for name, p in part.backbone.model.named_parameters() if "q_proj" in name]
    assert {p.dtype for p in frozen} == {torch.int8 if bits == "8bit" else torch.uint8}
    losses = classifier.history_[:, "train_loss"]
    assert losses[1] < losses[0]
    probabilities = classifier.predict_proba(X[:9])
    np.testing.assert_allclose(pickle.loads(pickle.dumps(classifier)).predict_proba(X[:9]), probabilities, atol=1e-3)


@on_a_gpu
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_before_training_it_is_the_plain_quantized_model(folder, bits):
    device = torch.device("cuda")
    backbone = load_backbone(folder, precision="bf16", device=device, quantization=bits)
    part = TrainedPart(backbone, [0, 3], adapter_config("lora"), n_classes=3, seed=0).eval().to(device)
    chosen = BitsAndBytesConfig(
        load_in_8bit=bits == "8bit",
        load_in_4bit=bits == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["score"],
    )
    plain = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, dtype=torch.bfloat16, quantization_config=chosen, device_map={"": device}
    ).eval()
    ids = torch.tensor([[5, 9, 33, 7, 50]], device=device)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        found = part(states=plain.model.embed_tokens(ids), input_ids=ids, attention_mask=mask)
        states = plain.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1]
        expected = states.float() @ part.model.score.weight.float().T
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)


@on_a_gpu
def test_copies_share_what_lies_beside_8_bit_weights(folder):
    backbone = load_backbone(folder, precision="bf16", device=torch.device("cuda"), quantization="8bit")
    before = torch.cuda.memory_allocated()
    parts = [TrainedPart(backbone, [3], adapter_config("ia3"), n_classes=3, seed=0) for _ in range(3)]
    n_weights = sum(p.numel() for p in backbone.model.model.layers.parameters())
    assert torch.cuda.memory_allocated() - before < n_weights
    assert len(parts) == 3
