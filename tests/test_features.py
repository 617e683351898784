"""Features are the frozen backbone's own hidden states, pooled, shared with the classifier, and the text's alone."""


import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BartConfig

from sklearn_irt import BackboneFeatures
from sklearn_irt.pooled_states import rows_between_calls
from sklearn_irt.states_store import between_fits

BART = BartConfig(
    **{"vocab_size": 600, "d_model": 32, "max_position_embeddings": 256, "decoder_start_token_id": 4},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    **{"encoder_layers": 2, "decoder_layers": 4, "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 4},
)


@pytest.fixture(autouse=True)
def _nothing_known():
    between_fits.clear()
    rows_between_calls.clear()
    yield
    between_fits.clear()
    rows_between_calls.clear()


@pytest.fixture
def make_features(tiny_llama):
    """Return a function that makes features of a tiny Llama."""

    def make(**parameters):
        return BackboneFeatures(**{"backbone": tiny_llama, "precision": "fp32", "device": "cpu", **parameters})

    return make


@pytest.fixture
def folder_of(backbones, save_tiny):
    """Return a function that returns the folder of a tiny backbone of a family."""
    return lambda family: save_tiny("bart", BART, encoder=True) if family == "bart" else backbones[family]


def plain_hidden_states(folder, text):
    """Return what transformers itself gives for a text alone, of shape (n_layers + 1, n_tokens, hidden_size)."""
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        outputs = model.eval()(**inputs, output_hidden_states=True)
    states = outputs.decoder_hidden_states if model.config.is_encoder_decoder else outputs.hidden_states
    return torch.cat(states)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "bart"])
@pytest.mark.parametrize("layers", [[0, 1, 2, 3, 4], [2], [3, 4], [4]])
@pytest.mark.usefixtures("exact_states")
def test_features_are_the_hidden_states_of_transformers_pooled(make_features, folder_of, revisions, family, layers):
    texts = [*revisions[0]["after"][:3], "short"]
    features = make_features(backbone=folder_of(family), layers=layers, pooling=["last", "mean", "max"])
    found = features.fit_transform(texts)
    for text, row in zip(texts, found, strict=True):
        states = plain_hidden_states(folder_of(family), text)[layers]
        expected = torch.stack([states[:, -1], states.mean(dim=1), states.amax(dim=1)], dim=1)
        np.testing.assert_allclose(row, expected.numpy().ravel(), rtol=1e-4, atol=1e-5)
