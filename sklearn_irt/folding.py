"""Runs LoRA adapters at the price of the plain layer: folded into its weight, thin products for their own gradients."""

from threading import Lock
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D


def fold_adapters(model: nn.Module) -> bool:
    """Let every LoRA adapter that can be folded compute folded; the others run as peft wrote them.

    Parameters
    ----------
    model : Module
        Changed in place: its LoRA layers get another ``forward``, their parameters stay.

    Returns
    -------
    all_folded : bool
        Whether nothing of the model computes in peft's way.
    """
    adapters = [module for module in model.modules() if hasattr(module, "base_layer")]
    foldable = [module for module in adapters if _can_fold(module)]
    for module in foldable:
        module.forward = FoldedLinear(module)
    return len(foldable) == len(adapters)


def _can_fold(module: nn.Module) -> bool:
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


class FoldedLinear:
    """The forward pass of one LoRA layer, y = x W'^T + b with W' = W + s B A.

    W' is made anew only after A or B has changed, so an adapter that does not train costs nothing.

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
        self._folded: torch.Tensor | None = None
        self._folded_of: tuple[Any, ...] = ()
        self._lock = Lock()

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
        if not A.requires_grad:
            return linear(inputs, self._fold_once(A, B), self.bias)
        self._folded = None  # an optimizer may change A and B at any time, and a fused one leaves no trace in them
        folded = self._fold(A, B)
        if torch.is_grad_enabled():
            return _AdaptedProduct.apply(inputs, folded, self.bias, A, B, self.scaling)
        return linear(inputs, folded, self.bias)

    def _fold_once(self, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        # The version of a tensor counts the times that it was written to: a loaded state is folded anew.
        with self._lock:
            of = (A.data_ptr(), A._version, B.data_ptr(), B._version)
            if self._folded is None or of != self._folded_of:
                with torch.inference_mode(False):
                    self._folded, self._folded_of = self._fold(A, B), of
            return self._folded

    @torch.no_grad()
    def _fold(self, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        dtype = self.weight.dtype
        return torch.addmm(self.weight, B.to(dtype), A.to(dtype), alpha=self.scaling)


class _AdaptedProduct(torch.autograd.Function):
    """y = x W'^T + b, whose gradient reaches x through W', and A and B through products as thin as they are."""

    @staticmethod
    def forward(ctx: Any, inputs: Any, folded: Any, bias: Any, A: Any, B: Any, scaling: float) -> torch.Tensor:
        ctx.save_for_backward(inputs, folded, A.to(folded.dtype), B.to(folded.dtype))
        ctx.scaling = scaling
        return linear(inputs, folded, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, folded, A, B = ctx.saved_tensors
        inputs_gradient = gradient @ folded if ctx.needs_input_grad[0] else None
        rows, gradient = inputs.reshape(-1, inputs.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        A_gradient = ((gradient @ (ctx.scaling * B)).T @ rows).float()
        B_gradient = ((rows @ (ctx.scaling * A).T).T @ gradient).T.float()
        return inputs_gradient, None, None, A_gradient, B_gradient, None
