"""Attention with rotary positions, as Llama and its relatives have it, with fewer passes over queries and keys."""

import ast
import inspect
import sys
from collections.abc import Callable
from functools import cache
from textwrap import dedent
from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention

from .attention import NAME, attend


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
    """Say whether a layer attends as Llama's does: by its code, for small differences hardly show in numbers."""
    config = getattr(layer, "config", None)
    return (
        hasattr(layer, "q_proj")
        and getattr(config, "_attn_implementation", None) == NAME
        and _code_of(type(layer).forward) == _code_of(LlamaAttention.forward) != ()
        and not layer.attention_dropout
    )


@cache
def _code_of(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the code of a layer's forward pass, and of how its module rotates, which differs between families."""
    module = sys.modules[forward.__module__]
    rotations = [getattr(module, name, None) for name in ("apply_rotary_pos_emb", "rotate_half")]
    try:
        return tuple(_body_of(function) for function in (forward, *rotations) if function is not None)
    except (OSError, TypeError):  # an application without its sources, or a kernel in a function's place
        return ()


def _body_of(function: Callable[..., Any]) -> str:
    """Write a function's statements in one form, without comments."""
    (definition,) = ast.parse(dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    for node in ast.walk(definition):
        if isinstance(node, ast.Call):  # the mask says what the sliding window says
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "sliding_window"]
    body = definition.body[1:] if ast.get_docstring(definition) else definition.body
    return "\n".join(map(ast.dump, body))


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
