"""Runs LoRA adapters at little more than the price of the plain layer, in the precision of its frozen weight."""

from threading import Lock
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

# A folded weight is rounded to the precision of the frozen one. What it loses of the adapter may be this share.
_LARGEST_LOSS = 0.05


def fold_adapters(model: nn.Module) -> list["AdaptedLinear"] | None:
    """Let every LoRA adapter of a plain kind compute as :class:`AdaptedLinear`; the others run as peft wrote them.

    Parameters
    ----------
    model : Module
        Changed in place: its LoRA layers get another ``forward``, their parameters stay.

    Returns
    -------
    adapted : list of AdaptedLinear or None
        The new forward passes; None if some adapter computes in peft's way.
    """
    adapters = [module for module in model.modules() if hasattr(module, "base_layer")]
    plain = [module for module in adapters if _is_plain(module)]
    adapted = [AdaptedLinear(module) for module in plain]
    for module, forward in zip(plain, adapted, strict=True):
        module.forward = forward
    return adapted if len(plain) == len(adapters) else None


def _is_plain(module: nn.Module) -> bool:
    """Say whether a layer is y = x (W + s B A)^T + b, with W and b frozen, and nothing else."""
    if type(module) is not LoraLinear or type(module.base_layer) not in (nn.Linear, Conv1D):
        return False
    (name,) = module.lora_A
    return (
        isinstance(module.lora_dropout[name], nn.Identity)
        and not module.lora_variant
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
        and not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    )


class AdaptedLinear:
    """The forward pass of one LoRA layer, y = x (W + s B A)^T + b.

    While the adapter trains it takes thin products beside the frozen one: folded into a bfloat16 weight, the small
    adapter of the first steps would be rounded away. While it is frozen it is folded, once, and costs nothing; unless
    the fold would lose more than a twentieth of it.

    Parameters
    ----------
    layer : peft.tuners.lora.Linear
        A layer without dropout, of one adapter.
    """

    def __init__(self, layer: Any) -> None:
        base = layer.base_layer
        (name,) = layer.lora_A
        self.weight: torch.Tensor = base.weight.T if isinstance(base, Conv1D) else base.weight
        self.bias = base.bias
        self.lora_A = layer.lora_A[name]
        self.lora_B = layer.lora_B[name]
        self.scaling = layer.scaling[name]
        self._lock = Lock()
        self.forget()

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the layer.

        Parameters
        ----------
        inputs : Tensor of shape (..., n_inputs), dtype of the frozen weight

        Returns
        -------
        outputs : Tensor of shape (..., n_outputs), dtype of the frozen weight
        """
        A, B = self.lora_A.weight, self.lora_B.weight
        if A.requires_grad:
            self.forget()  # an optimizer may change A and B at any time, and a fused one leaves no trace in them
        elif (folded := self._fold_once(A, B)) is not None:
            return linear(inputs, folded, self.bias)
        return _AdaptedProduct.apply(inputs, self.weight, self.bias, A, B, self.scaling)

    def forget(self) -> None:
        """Free the folded weight; it is made anew when it is needed."""
        # One attribute, so that no other thread finds the key of one fold with the weight of another.
        self._known_fold: tuple[tuple[int, ...], torch.Tensor | None] = ((), None)

    def _fold_once(self, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor | None:
        # The version of a tensor counts the times that it was written to: a loaded state is folded anew.
        with self._lock:
            of = (A.data_ptr(), A._version, B.data_ptr(), B._version)
            folded_of, folded = self._known_fold
            if of != folded_of:
                with torch.inference_mode(False), torch.no_grad():
                    folded = self._fold(A, B)
                self._known_fold = of, folded
            return folded

    def _fold(self, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor | None:
        """Return W + s B A in the precision of W, or None where that loses too much of s B A."""
        if not B.any():
            return self.weight
        adapter = self.scaling * (B.float() @ A.float())
        folded = (self.weight + adapter).to(self.weight.dtype)
        loss = torch.linalg.vector_norm((folded - self.weight.float()) - adapter)
        return folded if loss <= _LARGEST_LOSS * torch.linalg.vector_norm(adapter) else None


class _AdaptedProduct(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T, all in the precision of W; the thin products are added in place."""

    @staticmethod
    def forward(ctx: Any, inputs: Any, weight: Any, bias: Any, A: Any, B: Any, scaling: float) -> torch.Tensor:
        A, B = (scaling * A).to(weight.dtype), B.to(weight.dtype)
        outputs = linear(inputs, weight, bias)
        reduced = inputs.reshape(-1, inputs.shape[-1]) @ A.T
        outputs.view(-1, outputs.shape[-1]).addmm_(reduced, B.T)
        A_trains, B_trains = ctx.needs_input_grad[3:5]
        ctx.save_for_backward(inputs if A_trains else None, weight, A, B, reduced if B_trains else None)
        ctx.scaling = scaling
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, A, B, reduced = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        reduced_gradient = rows @ B
        inputs_gradient = A_gradient = B_gradient = None
        if ctx.needs_input_grad[0]:
            inputs_gradient = (rows @ weight).addmm_(reduced_gradient, A).view(*gradient.shape[:-1], -1)
        if ctx.needs_input_grad[3]:
            A_gradient = (reduced_gradient.T @ inputs.reshape(-1, inputs.shape[-1])).float() * ctx.scaling
        if ctx.needs_input_grad[4]:
            B_gradient = (reduced.T @ rows).T.float()
        return inputs_gradient, None, None, A_gradient, B_gradient, None
