"""The parallel adapter of IR-Tuning's authors, as a layer that peft puts beside a linear module."""

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn
from transformers.pytorch_utils import Conv1D

from .linear_modules import FEED_FORWARD_INPUT, FEED_FORWARD_OUTPUT, KEYS_AND_VALUES, QUERIES, named

BOTTLENECK_SIZE = 256

PARALLEL_MODULES = named(QUERIES, KEYS_AND_VALUES, FEED_FORWARD_INPUT, FEED_FORWARD_OUTPUT)


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
    """Return the configuration of a parallel adapter beside queries, keys, values and the feed-forward modules.

    Of a gated feed-forward part it is beside ``up_proj`` and ``down_proj``, not beside the gate, unless a family has
    gate and ``up_proj`` in one module.

    Returns
    -------
    config : LoraConfig
        The matrices D and U of :class:`ParallelAdapter` are kept where LoRA keeps A and B. Set its ``target_modules``
        to put them elsewhere.

    References
    ----------
    He, Zhou, Ma, Berg-Kirkpatrick and Neubig, "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR
    2022, arXiv 2110.04366: the parallel adapter. Hu et al., "LLM-Adapters", EMNLP 2023, arXiv 2304.01933, the library
    that the authors of IR-Tuning trained with: tanh, no biases, added to the output of a linear module. Size and
    modules (``q_proj``, ``k_proj``, ``v_proj``, ``up_proj`` and ``down_proj``) are those of the authors' ``main.py``.
    The library draws U from a normal distribution unless told otherwise; here, as with its option "mam_adapter", U is
    zero, so that a fit begins with the backbone as it is.
    """
    config = LoraConfig(
        r=BOTTLENECK_SIZE, lora_alpha=BOTTLENECK_SIZE, lora_dropout=0.0, target_modules=PARALLEL_MODULES
    )
    config._register_custom_module({nn.Linear: ParallelAdapter, Conv1D: ParallelAdapter})
    return config
