"""Families of backbones fit, select layers, predict, pickle, and give the plain model's logits, or say why not."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MBartConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    SmolLM3Config,
    T5Config,
    XLNetConfig,
)

from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import load_backbone
from sklearn_irt.head import head_modules
from sklearn_irt.prefix import compute_prefix_states
from sklearn_irt.states_store import StatesInMemory
from sklearn_irt.trained_part import TrainedPart

# The identifiers of the special tokens are those of the tokenizer of conftest.
IDS = {"pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 4}
BASE = {"vocab_size": 600, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4, **IDS}
SIZE = {**BASE, "intermediate_size": 48, "max_position_embeddings": 256}
GROUPED = {**SIZE, "num_key_value_heads": 1}
GEMMA = {**GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4}
SEQUENCE_TO_SEQUENCE = {
    **{"vocab_size": 600, "d_model": 32, "max_position_embeddings": 256, "decoder_start_token_id": 4, **IDS},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    **{"encoder_layers": 2, "decoder_layers": 4},
}
DECODERS = {
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=4),
    # Its tokenizer adds a padding token of its own.
    "qwen2": Qwen2Config(**{**GROUPED, "vocab_size": 640}),
    "qwen3": Qwen3Config(**GROUPED, head_dim=16),
    "phi": PhiConfig(**SIZE),
    "phi3": Phi3Config(**GROUPED),
    "gemma2": Gemma2Config(**GEMMA),
    "gemma3": Gemma3TextConfig(**GEMMA, layer_types=["sliding_attention", "full_attention"] * 2),
    "gpt2": GPT2Config(vocab_size=600, n_embd=32, n_head=2, n_layer=4, n_positions=256, **IDS),
    "gpt_neox": GPTNeoXConfig(**SIZE),
    "opt": OPTConfig(**BASE, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=256),
    "smollm3": SmolLM3Config(**GROUPED, no_rope_layer_interval=2),
}
ENCODERS = {
    "bert": BertConfig(**SIZE),
    "roberta": RobertaConfig(**SIZE),
    "distilbert": DistilBertConfig(
        vocab_size=600, dim=32, n_layers=4, n_heads=2, hidden_dim=48, max_position_embeddings=256, **IDS
    ),
    "modernbert": ModernBertConfig(
        **SIZE, cls_token_id=3, sep_token_id=4, global_attn_every_n_layers=2, local_attention=8
    ),
    "deberta_v3": DebertaV2Config(
        **SIZE,
        **{"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "type_vocab_size": 0},
        **{"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
    ),
    "electra": ElectraConfig(**SIZE, embedding_size=16),
}
ENCODER_DECODERS = {
    "bart": BartConfig(**SEQUENCE_TO_SEQUENCE),
    "mbart": MBartConfig(**SEQUENCE_TO_SEQUENCE),
}
FAMILIES = {**DECODERS, **ENCODERS, **ENCODER_DECODERS}


@pytest.fixture
def folder(save_tiny, request):
    family = request.param
    return save_tiny(family, FAMILIES[family], encoder=family not in DECODERS)


def load(folder):
    return load_backbone(folder, precision="fp32", device=torch.device("cpu"))


def inputs_of(backbone, texts, first_layer):
    token_ids = backbone.tokenizer(texts)["input_ids"]
    states = compute_prefix_states(backbone, token_ids, first_layer, StatesInMemory(2**20)).states
    ids = [torch.tensor(ids) for ids in token_ids]
    return {
        "states": pad_sequence(states, batch_first=True),
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=backbone.tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }


def part_of(backbone, layers):
    """Return an untrained part whose head tells texts apart."""
    part = TrainedPart(backbone, layers, adapter_config("lora"), n_classes=3, seed=0).eval()
    for module in head_modules(part.model).values():
        for parameter in module.parameters():
            parameter.data.mul_(10 if parameter.dim() == 2 else 1)
    return part


def plain_model_of(folder, part):
    """Return what transformers itself loads, with the part's head."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, attn_implementation="eager")
    model.config.pad_token_id = part.backbone.tokenizer.pad_token_id
    heads = head_modules(part.model)
    for name, module in head_modules(model).items():
        module.load_state_dict(heads.pop(name).state_dict())
    assert not heads
    return model.eval()


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_before_training_logits_are_those_of_the_plain_model(folder, revisions, monkeypatch):
    monkeypatch.setattr("sklearn_irt.prefix.STORED_DTYPE", torch.float32)
    backbone, texts = load(folder), [*revisions[0]["before"][:3], "short"]
    seen = []
    for layers in ([2, 3], [0, 2], [1], [3]):
        part = part_of(backbone, layers)
        inputs = inputs_of(backbone, texts, part.first_layer)
        plain = plain_model_of(folder, part)
        with torch.no_grad():
            found = part(**inputs)
            expected = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            alone = plain(**backbone.tokenizer([texts[-1]], return_tensors="pt", return_token_type_ids=False)).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[-1:], alone, rtol=1e-4, atol=1e-5)
        seen.append(found)
    assert torch.pdist(seen[0]).min() > 1e-2, "texts that are classified alike would show nothing"


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_it_fits_selects_layers_predicts_and_pickles(folder, make_classifier, revisions):
    X, y = revisions[0][:24], revisions[1][:24]
    classifier = make_classifier(backbone=folder, candidate_layers=3, batch_size=8, max_length=64).fit(X, y)
    assert classifier.candidate_layers_.tolist() == [1, 2, 3]
    n_active = classifier.active_layers_.sum(axis=1)
    assert len(n_active) == 3
    assert ((n_active > 0) & (n_active < 3)).all()
    probabilities = classifier.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert len(np.unique(probabilities, axis=0)) > 12
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_allclose(again.predict_proba(X), probabilities, rtol=1e-6)


@pytest.mark.parametrize("folder", ["bart"], indirect=True)
def test_the_layers_of_an_encoder_decoder_are_its_decoders_and_its_encoder_drops_nothing(folder):
    part = part_of(load(folder), [2, 3])
    assert part.backbone.stack == "model.decoder.layers"
    part.train()
    assert part.model.model.decoder.layers[3].training
    assert not any(module.training for module in part.model.model.encoder.modules())


def test_no_layer_is_left_out_at_random(save_tiny, revisions):
    options = {**BASE, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 256}
    folder = save_tiny("dropping", OPTConfig(**options, layerdrop=0.9, dropout=0.0))
    part = part_of(load(folder), [2, 3])
    inputs = inputs_of(part.backbone, list(revisions[0]["before"][:3]), 2)
    with torch.no_grad():
        torch.testing.assert_close(part.train()(**inputs), part.eval()(**inputs))


T5 = T5Config(vocab_size=600, d_model=32, d_kv=16, num_layers=4, num_heads=2, d_ff=48, decoder_start_token_id=1, **IDS)


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("t5", T5, "T5ForSequenceClassification .* its layers hand each other more than the states"),
        (
            "xlnet",
            XLNetConfig(vocab_size=600, d_model=32, n_layer=4, n_head=2, d_inner=48, **IDS),
            r"XLNetForSequenceClassification .* states of shape \(3, 1, 32\)",
        ),
        (
            "mamba",
            MambaConfig(vocab_size=600, hidden_size=32, num_hidden_layers=4, state_size=4, **IDS),
            "'mamba', for which transformers has no sequence-classification head",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_family_that_cannot_work_says_why(save_tiny, make_classifier, revisions, family, config, reason):
    folder = save_tiny(family, config, encoder=True)
    with pytest.raises(ValueError, match=reason):
        make_classifier(backbone=folder).fit(*revisions)


def test_a_tokenizer_that_sets_no_end_token_is_refused_where_the_head_reads_it(save_tiny, make_classifier, revisions):
    folder = save_tiny("bart_without_end", BartConfig(**SEQUENCE_TO_SEQUENCE), encoder=False)
    with pytest.raises(ValueError, match=r"reads the state of the end token \(eos_token_id=4\)"):
        make_classifier(backbone=folder).fit(*revisions)


def test_a_tokenizer_that_pads_beyond_the_vocabulary_is_refused(save_tiny, make_classifier, revisions):
    folder = save_tiny("qwen2_without_padding", Qwen2Config(**GROUPED))
    with pytest.raises(ValueError, match="pads with token 600, but the model knows 600"):
        make_classifier(backbone=folder).fit(*revisions)
