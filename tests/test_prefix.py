"""The frozen prefix is exact: what runs from its states gives what the whole model gives."""

import numpy as np
import pytest
import torch

from sklearn_irt.adapters import adapter_config
from sklearn_irt.backbone import load_backbone
from sklearn_irt.batching import StatesDataset, pad_batch
from sklearn_irt.head import replace_head
from sklearn_irt.partial_model import share_weights
from sklearn_irt.prefix import compute_prefix_states
from sklearn_irt.randomness import isolated_seed
from sklearn_irt.stack import get_layers
from sklearn_irt.states_store import StatesInMemory, between_fits
from sklearn_irt.trained_part import TrainedPart

FAMILIES = ["llama", "gpt2", "bert"]
TOKEN_IDS = [[7, 8, 9, 10, 11, 12], [20, 21, 22], [30, 31, 32, 33, 34, 35, 36, 37, 38]]


def load(folder, precision="fp32", options=None):
    return load_backbone(folder, precision=precision, device=torch.device("cpu"), options=options)


def logits_from(backbone, first_layer, token_ids=TOKEN_IDS, n_layers="all"):
    """Prefix states, then the trained part with fresh adapters, which change nothing yet (B = 0)."""
    states = compute_prefix_states(backbone, token_ids, first_layer, StatesInMemory(2**20))
    layers = list(range(first_layer, 4 if n_layers == "all" else n_layers))
    part = TrainedPart(backbone, layers, adapter_config("lora"), n_classes=3, seed=0, n_layers=n_layers).eval()
    unknown = np.zeros(len(token_ids))
    rows = np.arange(len(token_ids))
    texts = [StatesDataset(states, rows, unknown, unknown)[row] for row in rows]
    inputs, _ = pad_batch(texts, backbone.tokenizer.pad_token_id)
    with torch.no_grad():
        return part(**{name: inputs[name] for name in ("states", "input_ids", "attention_mask")})


def plain_logits(backbone, token_ids=TOKEN_IDS):
    """Call the transformers model itself on each text alone, with the head that seed 0 gives."""
    model = share_weights(backbone.model)
    with isolated_seed(0, backbone.device):
        replace_head(model, 3, backbone.drawn)
    model.to(dtype=backbone.model.dtype)
    with torch.no_grad():
        return torch.cat([model(torch.tensor([ids])).logits for ids in token_ids]).float()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first_layer", range(4))
def test_logits_agree_with_the_whole_model_to_the_rounding_of_the_stored_dtype(backbones, family, first_layer):
    backbone = load(backbones[family])
    expected = plain_logits(backbone)
    difference = (logits_from(backbone, first_layer) - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 2**-8 * 4  # bfloat16 keeps 8 bits; later layers may enlarge the rounding a little


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("first_layer", range(4))
def test_logits_are_equal_where_nothing_is_rounded(backbones, family, first_layer, monkeypatch):
    monkeypatch.setattr("sklearn_irt.prefix.STORED_DTYPE", torch.float32)
    backbone = load(backbones[family])
    torch.testing.assert_close(logits_from(backbone, first_layer), plain_logits(backbone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_without_the_upper_layers_are_those_of_a_model_that_never_had_them(backbones, family, monkeypatch):
    monkeypatch.setattr("sklearn_irt.prefix.STORED_DTYPE", torch.float32)
    alone = load(backbones[family], options={"num_hidden_layers": 3})
    backbone = load(backbones[family])
    assert len(get_layers(alone.model, alone.stack)) == 3
    torch.testing.assert_close(logits_from(backbone, 1, n_layers=3), plain_logits(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_logit(backbones, family):
    backbone = load(backbones[family])
    together = logits_from(backbone, 2)
    alone = torch.cat([logits_from(backbone, 2, [ids]) for ids in TOKEN_IDS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_of_a_text_counts_and_no_other_texts(backbones, family):
    backbone = load(backbones[family])
    changed = [[99, *TOKEN_IDS[0][1:]], *TOKEN_IDS[1:]]
    before, after = logits_from(backbone, 2), logits_from(backbone, 2, changed)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:], rtol=1e-4, atol=1e-5)


def test_states_are_kept_in_half_the_bytes_of_fp32(tiny_llama):
    states = compute_prefix_states(load(tiny_llama), TOKEN_IDS, 2, StatesInMemory(2**20))
    assert [row.dtype for row in states.states] == [torch.bfloat16] * 3
    assert [row.shape for row in states.states] == [(6, 32), (3, 32), (9, 32)]
    assert sum(row.untyped_storage().nbytes() for row in states.states) == 2 * 32 * (6 + 3 + 9)
    assert [states[row][0].shape for row in range(3)] == [row.shape for row in states.states]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_of_a_text_are_the_same_to_the_last_bit_whatever_is_beside(backbones, family, precision):
    generator = np.random.RandomState(0)
    token_ids = [generator.randint(5, 600, size=length).tolist() for length in generator.randint(1, 200, size=60)]
    backbone = load(backbones[family], precision)
    together = compute_prefix_states(backbone, token_ids, 3, StatesInMemory(2**30)).states
    backwards = compute_prefix_states(backbone, token_ids[::-1], 3, StatesInMemory(2**30)).states[::-1]
    for ids, states, again in zip(token_ids, together, backwards, strict=True):
        (alone,) = compute_prefix_states(backbone, [ids], 3, StatesInMemory(2**30)).states
        assert torch.equal(states, alone)
        assert torch.equal(again, alone)


def test_the_prefix_runs_once_a_text_however_many_epochs_are_trained(make_classifier, revisions, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    rows = []
    forward = LlamaDecoderLayer.forward

    def counted(self, hidden_states, *args, **kwargs):
        rows.append((self.self_attn.layer_idx, len(hidden_states)))
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    X, y = revisions
    make_classifier().fit(X, y)  # loading the backbone runs a token through a layer
    runs = []
    for max_epochs in (1, 3):
        rows.clear()
        between_fits.clear()
        make_classifier(max_epochs=max_epochs, candidate_layers=1).fit(X, y)
        runs.append([sum(n for index, n in rows if index == layer) for layer in range(4)])
        assert runs[-1][3] == max_epochs * len(X)
    assert runs[0][:3] == runs[1][:3]
    assert 0 < runs[0][0] == runs[0][1] == runs[0][2]


def test_bf16_agrees_between_prefix_and_whole_model(backbones):
    backbone = load(backbones["llama"], precision="bf16")
    expected = plain_logits(backbone)
    difference = (logits_from(backbone, 2) - expected).abs().max() / expected.abs().max()
    assert difference < 0.03  # the head, in fp32 here, is rounded to bf16 in the plain model
