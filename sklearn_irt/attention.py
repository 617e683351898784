"""Attention for short texts on a CPU, with a backward pass that costs little more than its products."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

NAME = "sklearn_irt_grouped"


def choose_attention(config: PreTrainedConfig, device: torch.device) -> dict[str, str]:
    """Return the option of ``from_pretrained`` that names the fastest attention of a device.

    On CPUs, at the length of revision pairs, the backward pass of torch's fused kernel took as long as the rest of a
    layer; ``examples/benchmarks/attention.py`` times the three. On other devices transformers chooses, unless layers
    see a window of tokens only: where padding fills a window, the gradients of the fused kernels are not finite.

    Parameters
    ----------
    config : PreTrainedConfig
        The backbone's.
    device : torch.device
        Where it computes.

    Returns
    -------
    options : dict
        ``attn_implementation``, or nothing.
    """
    text_config = config.get_text_config()
    if device.type != "cpu":
        windows = (getattr(text_config, name, None) for name in ("sliding_window", "local_attention"))
        return {"attn_implementation": "eager"} if any(windows) else {}
    model_class: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    # Some families choose their attention among classes of their own, and some have none that is just a softmax.
    takes_ours = getattr(model_class, "_supports_attention_backend", False) and model_class._supports_sdpa
    caps_scores = getattr(text_config, "attn_logit_softcapping", None) is not None
    return {"attn_implementation": NAME if takes_ours and not caps_scores else "eager"}


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention, as transformers asks for it.

    Parameters
    ----------
    module : Module
        The attention layer.
    query : Tensor of shape (n_texts, n_heads, n_tokens, head_size)
        Queries.
    key, value : Tensor of shape (n_texts, n_key_heads, n_tokens, head_size)
        Keys and values; each of their heads serves n_heads / n_key_heads heads of the queries.
    attention_mask : Tensor of shape (n_texts, 1, n_tokens, n_tokens) or None
        Added to the scores.
    scaling : float, default=None
        Factor of the scores; None is head_size ** -0.5.
    dropout : float, default=0.0
        Share of the attention weights that is dropped.
    **kwargs : Any
        What other attention functions need.

    Returns
    -------
    outputs : Tensor of shape (n_texts, n_tokens, n_heads, head_size)
        Weighted means of the values.
    weights : None
        They are not kept.

    Raises
    ------
    NotImplementedError
        If the model caps its scores or has attention sinks.
    """
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise NotImplementedError(
            f"{type(module).__name__} changes its attention scores in ways of its own: "
            "use backbone_options={'attn_implementation': 'eager'}."
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if not learns and not dropout:
        grouped = query.shape[1] != key.shape[1]
        outputs = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=grouped)
        return outputs.transpose(1, 2).contiguous(), None
    return _GroupedAttention.apply(query, key, value, attention_mask, scaling, dropout), None


class _GroupedAttention(torch.autograd.Function):
    """softmax(s Q K^T + mask) V, in which the heads that share keys and values are rows of one product."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, dropout: float) -> torch.Tensor:
        n_texts, n_heads, n_tokens, head_size = query.shape
        grouped = (n_texts * key.shape[1], -1, head_size)
        queries, keys, values = (tensor.reshape(grouped) for tensor in (query, key, value))
        scores = _scaled_bmm(queries, keys.transpose(1, 2), scaling).view(n_texts, n_heads, n_tokens, -1).float()
        if mask is not None:
            scores += mask
        weights = torch.softmax(scores, dim=-1).to(query.dtype).view(len(queries), -1, scores.shape[-1])
        kept = drop(torch.ones_like(weights), dropout) if dropout else None
        dropped = weights if kept is None else weights * kept
        ctx.save_for_backward(queries, keys, values, weights, kept)
        ctx.scaling, ctx.shapes = scaling, (query.shape, key.shape)
        return torch.bmm(dropped, values).view(query.shape).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, keys, values, weights, kept = ctx.saved_tensors
        query_shape, key_shape = ctx.shapes
        gradient = gradient.transpose(1, 2).reshape(queries.shape)
        weights_gradient = torch.bmm(gradient, values.transpose(1, 2))
        dropped = weights
        if kept is not None:
            weights_gradient, dropped = weights_gradient * kept, weights * kept
        value_gradient = torch.bmm(dropped.transpose(1, 2), gradient)
        # The derivative of the softmax is w * (g - sum(w * g)).
        scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
        query_gradient = _scaled_bmm(scores_gradient, keys, ctx.scaling).view(query_shape)
        key_gradient = _scaled_bmm(scores_gradient.transpose(1, 2), queries, ctx.scaling).view(key_shape)
        return query_gradient, key_gradient, value_gradient.view(key_shape), None, None, None


def _scaled_bmm(left: torch.Tensor, right: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply batches of matrices, and the product by a factor, without another pass over it."""
    return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=factor)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
