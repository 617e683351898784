"""Keeps a backbone's frozen weights in 8 or 4 bits on a GPU, by bitsandbytes."""

from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from .head import head_modules
from .randomness import isolated_seed


def is_quantized(module: nn.Module) -> bool:
    """Say whether a module keeps its weight in 8 or 4 bits; an adapter beside one does not."""
    return type(module).__module__.startswith("bitsandbytes.")


def check_quantization(quantization: str | None, device: torch.device, adapter: str | PeftConfig | None) -> None:
    """Refuse a quantization that cannot be had, before any weight is read.

    Parameters
    ----------
    quantization : {"8bit", "4bit"} or None
        What the frozen weights are kept in.
    device : torch.device
        Where the backbone computes.
    adapter : str, PeftConfig or None
        What is to train.

    Raises
    ------
    ValueError
        If the device is no CUDA GPU, or the adapter none that computes beside quantized weights.
    ImportError
        If bitsandbytes is not installed.
    """
    if quantization is None:
        return
    if device.type != "cuda":
        raise ValueError(
            f"quantization={quantization!r} needs a CUDA GPU, but device is {str(device)!r}: leave it out."
        )
    if find_spec("bitsandbytes") is None:
        raise ImportError(
            f"quantization={quantization!r} needs the package bitsandbytes. Install it with: pip install bitsandbytes"
        )
    if adapter is None or adapter == "bottleneck":
        raise ValueError(
            f"quantization={quantization!r} does not go with adapter={adapter!r}: use 'lora', 'dora' or 'ia3'."
        )


def quantization_options(
    quantization: str | None,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    *,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return what transformers' ``from_pretrained`` needs to quantize while it loads.

    Parameters
    ----------
    quantization : {"8bit", "4bit"} or None
        "8bit" is LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), "4bit" the NormalFloat of QLoRA (Dettmers et al.
        2023, arXiv 2305.14314); both for all linear modules but the head's.
    config : PreTrainedConfig
        The backbone's.
    dtype : torch.dtype
        What the other weights are kept in, and 4-bit products computed in.
    device : torch.device
        Where to.
    trust_remote_code : bool, default=False
        Whether the model's own code may be run.

    Returns
    -------
    options : dict
        Empty without a quantization.
    """
    if quantization is None:
        return {}
    with torch.device("meta"), isolated_seed(0, torch.device("cpu")):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust_remote_code)
    chosen = BitsAndBytesConfig(
        load_in_8bit=quantization == "8bit",
        load_in_4bit=quantization == "4bit",
        llm_int8_skip_modules=list(head_modules(model)),
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": chosen, "device_map": {"": device}}
