"""Rotary attention by fewer passes gives what transformers' modules give; attention of other kinds stays as it is."""

import pytest
import torch
from torch import nn
from transformers import (
    CohereConfig,
    DynamicCache,
    LlamaConfig,
    MistralConfig,
    NemotronConfig,
    Olmo2Config,
    OlmoConfig,
    OPTConfig,
    Qwen2Config,
    StableLmConfig,
)
from transformers.models.cohere.modeling_cohere import CohereAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.nemotron.modeling_nemotron import NemotronAttention
from transformers.models.olmo.modeling_olmo import OlmoAttention
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention
from transformers.models.opt.modeling_opt import OPTAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.stablelm.modeling_stablelm import StableLmAttention

from sklearn_irt.attention import NAME
from sklearn_irt.rotary_attention import quicken_rotary_attention

SIZES = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}


def make_attention(module_class=LlamaAttention, config_class=LlamaConfig, dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **options}, attn_implementation=NAME)
    return module_class(config, layer_idx=0).to(dtype).eval()


def quickened(attention):
    quicken_rotary_attention(nn.ModuleList([attention]))
    return "forward" in attention.__dict__


def run(attention, dtype, past_key_values=None):
    """Return outputs and the gradients of inputs and weights."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 5, 24, generator=generator).to(dtype).requires_grad_()
    angles = torch.randn(3, 5, 2, generator=generator).repeat(1, 1, 2)
    mask = torch.full((5, 5), torch.finfo(dtype).min, dtype=dtype).triu(1).expand(3, 1, -1, -1)
    outputs, _ = attention(
        hidden_states=inputs,
        position_embeddings=(angles.cos().to(dtype), angles.sin().to(dtype)),
        attention_mask=mask,
        past_key_values=past_key_values,
    )
    outputs.backward(torch.randn(3, 5, 24, generator=generator).to(dtype))
    return outputs.detach(), inputs.grad, attention.q_proj.weight.grad, attention.k_proj.weight.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_outputs_and_gradients_are_those_of_the_module(dtype, tolerance):
    quick = make_attention(dtype=dtype)
    assert quickened(quick), "the layer computes as before"
    for mine, expected in zip(run(quick, dtype), run(make_attention(dtype=dtype), dtype), strict=True):
        torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("module_class", "config_class"),
    [
        (CohereAttention, CohereConfig),
        (Olmo2Attention, Olmo2Config),
        (OlmoAttention, OlmoConfig),
        (NemotronAttention, NemotronConfig),
        (OPTAttention, OPTConfig),
        (StableLmAttention, StableLmConfig),
    ],
    ids=[
        "pairs that lie side by side",
        "normalized",
        "clipped",
        "half of each head rotated",
        "nothing rotated",
        "queries rotated in part",
    ],
)
def test_attention_of_another_kind_stays_as_it_is(module_class, config_class):
    assert not quickened(make_attention(module_class, config_class))


@pytest.mark.parametrize(
    ("module_class", "config_class"), [(MistralAttention, MistralConfig), (Qwen2Attention, Qwen2Config)]
)
def test_relatives_that_mask_distant_tokens_compute_by_fewer_passes_too(module_class, config_class):
    assert quickened(make_attention(module_class, config_class))


def test_dropout_and_other_kernels_stay_as_they_are():
    assert not quickened(make_attention(attention_dropout=0.1))
    eager = make_attention()
    eager.config._attn_implementation = "eager"
    assert not quickened(eager)


def test_keys_are_still_collected_where_a_model_continues_a_text():
    attention = make_attention()
    assert quickened(attention)
    cache = DynamicCache()
    outputs = run(attention, torch.float32, cache)[0]
    assert cache.get_seq_length() == 5
    torch.testing.assert_close(outputs, run(attention, torch.float32)[0])
