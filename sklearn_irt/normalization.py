"""Root-mean-square normalization with fewer passes over its input than transformers' modules make."""

from typing import Any

import torch
from torch import nn


def quicken_norms(module: nn.Module) -> None:
    """Let the RMS norms of Llama and its relatives, where they are frozen, compute by fewer passes.

    Parameters
    ----------
    module : Module
        Changed in place: its norms get another ``forward``. Norms of other kinds stay as they are.
    """
    norms: list[Any] = [norm for norm in module.modules() if _is_plain(norm)]
    for norm in norms:
        norm.forward = _quick_forward(norm.weight, norm.variance_epsilon)


def _is_plain(norm: Any) -> bool:
    """Say whether a module computes w * x / sqrt(mean(x^2) + epsilon): some families add 1 to w, or scale otherwise."""
    if not (
        type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon") and not norm.weight.requires_grad
    ):
        return False
    inputs = torch.linspace(-2, 3, len(norm.weight), dtype=torch.float32, device=norm.weight.device)[None]
    expected = (
        norm.weight.float() * inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    )
    with torch.no_grad():
        return torch.allclose(norm(inputs.to(norm.weight.dtype)).float(), expected, rtol=2e-2, atol=1e-6)


def _quick_forward(weight: torch.Tensor, epsilon: float) -> Any:
    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        return _RootMeanSquareNorm.apply(hidden_states, weight, epsilon)

    return forward


class _RootMeanSquareNorm(torch.autograd.Function):
    """y = w * x / rms(x) with rms(x) = sqrt(mean(x^2) + epsilon), summed in fp32 (Zhang and Sennrich 2019)."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        length = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_().to(inputs.dtype)
        ctx.save_for_backward(inputs, weight, scale)
        return (inputs * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # With r = 1 / rms(x): dx = r (g w - x r^2 mean(g w x))
        inputs, weight, scale = ctx.saved_tensors
        weighted = gradient * weight
        mean = torch.linalg.vecdot(weighted, inputs).unsqueeze(-1).mul_(scale.square()).div_(-inputs.shape[-1])
        return weighted.addcmul_(inputs, mean).mul_(scale), None, None
