"""RMS norms computed by fewer passes give what transformers' modules give; other norms stay as they are."""

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sklearn_irt.normalization import quicken_norms


def make_norm(dtype=torch.float32):
    norm = LlamaRMSNorm(24, eps=1e-3).requires_grad_(False)
    norm.weight.copy_(torch.linspace(0.5, 2, 24))
    return norm.to(dtype)


def run(norm, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    inputs = (3 * torch.randn(2, 5, 24, generator=generator)).to(dtype).requires_grad_()
    outputs = norm(inputs)
    outputs.backward(torch.randn(2, 5, 24, generator=generator).to(dtype))
    return outputs.detach(), inputs.grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_outputs_and_gradient_are_those_of_the_module(dtype, tolerance):
    quick = nn.ModuleList([make_norm(dtype)])
    quicken_norms(quick)
    assert "forward" in quick[0].__dict__, "the norm computes as before"
    for mine, expected in zip(run(quick[0], dtype), run(make_norm(dtype), dtype), strict=True):
        torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance)


def test_norms_that_train_and_norms_of_another_kind_stay_as_they_are():
    trained = make_norm().requires_grad_(True)
    modules = nn.ModuleList([trained, nn.LayerNorm(24), GemmaRMSNorm(24)]).eval()
    quicken_norms(modules)
    assert not any("forward" in module.__dict__ for module in modules)


def test_a_norm_of_a_name_alone_is_recognized_by_what_it_computes():
    class ScaledRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states):
            return 2 * super().forward(hidden_states)

    norm = nn.ModuleList([ScaledRMSNorm(24).requires_grad_(False)])
    quicken_norms(norm)
    assert "forward" not in norm[0].__dict__
