"""Attention with rotary positions, as Llama and its relatives have it, with fewer passes over queries and keys."""

from typing import Any

import torch
from torch import nn

from .attention import NAME, attend

_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}


def quicken_rotary_attention(module: nn.Module) -> None:
    """Let attention layers that compute as Llama's do so by fewer passes, where :func:`attend` is their kernel.

    Parameters
    ----------
    module : Module
        Changed in place: its attention layers get another ``forward``. Layers of other kinds stay as they are.
    """
    layers: list[Any] = [layer for layer in module.modules() if _is_plain(layer)]
    for layer in layers:
        layer.forward = _quick_forward(layer)


def _is_plain(layer: Any) -> bool:
    """Say whether a layer attends as Llama's does, which its name does not tell: compare what the two compute."""
    if (
        {name for name, _ in layer.named_children()} != _PROJECTIONS
        or not {"config", "head_dim", "scaling"} <= set(vars(layer))
        or layer.config._attn_implementation != NAME
        or getattr(layer, "attention_dropout", 0.0)
    ):
        return False
    weight = layer.q_proj.weight
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 3, weight.shape[1], generator=generator).to(weight)
    angles = torch.randn(2, 3, layer.head_dim // 2, generator=generator).repeat(1, 1, 2)
    mask = torch.zeros(2, 1, 3, 3).to(weight)
    mask[..., 2] = torch.finfo(mask.dtype).min
    arguments = {"position_embeddings": (angles.cos().to(weight), angles.sin().to(weight)), "attention_mask": mask}
    with torch.no_grad():
        try:
            expected = layer(hidden_states=inputs, **arguments)[0].float()
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return False  # what cannot be called as Llama's is of another kind
        outputs = _quick_forward(layer)(inputs, **arguments)[0].float()
    return torch.allclose(outputs, expected, rtol=0, atol=2e-2 * expected.abs().max().item())


def _quick_forward(layer: Any) -> Any:
    forward = layer.forward

    def quick(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        if past_key_values is not None:
            return forward(hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs)
        query = _Rotation.apply(layer.q_proj(hidden_states), *position_embeddings)
        key = _Rotation.apply(layer.k_proj(hidden_states), *position_embeddings)
        value = layer.v_proj(hidden_states).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
        outputs, _ = attend(layer, query, key, value, attention_mask, layer.scaling)
        return layer.o_proj(outputs.flatten(2)), None

    return quick


class _Rotation(torch.autograd.Function):
    """Rotate each head by its token's position (Su et al. 2021, equation 34), and put the heads before the tokens."""

    @staticmethod
    def forward(ctx: Any, projected: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        heads = projected.unflatten(-1, (-1, cos.shape[-1])).transpose(1, 2)
        return _rotate(heads, cos[:, None], sin[:, None], out=heads.new_empty(heads.shape))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        heads = gradient.transpose(1, 2)
        rotated_back = _rotate(heads, cos[:, :, None], -sin[:, :, None], out=heads.new_empty(heads.shape))
        return rotated_back.flatten(2), None, None


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs of which the first half of a head has the one and the second half the other coordinate."""
    half = heads.shape[-1] // 2
    torch.mul(heads, cos, out=out)
    out[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return out
