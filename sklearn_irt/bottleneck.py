"""The parallel adapter of IR-Tuning's authors, as a layer that peft puts beside a linear module."""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn
from transformers.pytorch_utils import Conv1D

BOTTLENECK_SIZE = 256

# The feed-forward modules of transformers' families, by the ends of their names. BERT and its relatives call a module
# of their attention as one of these.
_FEED_FORWARD = (
    "up_proj|down_proj|gate_up_proj|fc1|fc2|lin1|lin2|dense_h_to_4h|dense_4h_to_h|mlp\\.c_fc|mlp\\.c_proj|mlp\\.Wi|"
    "mlp\\.Wo|intermediate\\.dense|(?<!attention\\.)output\\.dense"
)


class ParallelAdapter(Linear):
    """y = W x + b + U tanh(D x), with W and b frozen, D of 256 rows, and U zero at the start."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the layer.

        Parameters
        ----------
        x : Tensor of shape (..., n_inputs)
        *args, **kwargs : Any
            For the frozen layer.

        Returns
        -------
        outputs : Tensor of shape (..., n_outputs), dtype of the frozen layer's
        """
        outputs = self.base_layer(x, *args, **kwargs)
        (name,) = self.lora_A
        down, up = self.lora_A[name], self.lora_B[name]
        return (outputs + up(torch.tanh(down(x)))).to(outputs.dtype)


def bottleneck_config() -> LoraConfig:
    """Return the configuration of a parallel adapter beside each module of the feed-forward part.

    Returns
    -------
    config : LoraConfig
        The matrices D and U of :class:`ParallelAdapter` are kept where LoRA keeps A and B.

    References
    ----------
    He, Zhou, Ma, Berg-Kirkpatrick and Neubig, "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR
    2022, arXiv 2110.04366: the parallel adapter. Hu et al., "LLM-Adapters", EMNLP 2023, arXiv 2304.01933, the library
    that the authors of IR-Tuning trained with: size 256, tanh, no biases, beside ``up_proj`` and ``down_proj`` of
    Llama. It draws U from a normal distribution unless told otherwise; here, as with its option "mam_adapter", U is
    zero, so that a fit begins with the backbone as it is.
    """
    config = LoraConfig(
        r=BOTTLENECK_SIZE, lora_alpha=BOTTLENECK_SIZE, lora_dropout=0.0, target_modules=rf"(?:.*\.)?(?:{_FEED_FORWARD})"
    )
    config._register_custom_module({nn.Linear: ParallelAdapter, Conv1D: ParallelAdapter})
    return config
