"""Knows what transformers' families call the linear modules of a layer."""

import re

from torch import nn
from transformers.pytorch_utils import Conv1D

# Ends of names. Some families have queries, keys and values in one module, or the two inputs of a gated feed-forward
# part; BERT and its relatives call a module of their attention as they call the output of the feed-forward part.
QUERIES = "q_proj|q_lin|query|query_proj|attn\\.q"
KEYS_AND_VALUES = (
    "k_proj|v_proj|k_lin|v_lin|key|value|key_proj|value_proj|attn\\.k|attn\\.v|qkv_proj|query_key_value|Wqkv|c_attn|"
    "self\\.in_proj"
)
FEED_FORWARD_INPUT = "up_proj|gate_up_proj|fc1|fc_in|lin1|dense_h_to_4h|mlp\\.c_fc|mlp\\.Wi|intermediate\\.dense"
FEED_FORWARD_OUTPUT = "down_proj|fc2|fc_out|lin2|dense_4h_to_h|mlp\\.c_proj|mlp\\.Wo|(?<!attention\\.)output\\.dense"


def named(*kinds: str) -> str:
    """Return a pattern for the whole dotted name of a module of any of these kinds."""
    return rf"(?:.*\.)?(?:{'|'.join(kinds)})"


def check_known(layer: nn.Module, adapter: str, remedy: str) -> None:
    """Refuse a layer in which an adapter would silently go into one part alone.

    Parameters
    ----------
    layer : Module
        A transformer layer.
    adapter : str
        What the message calls the adapter.
    remedy : str
        What the user can pass instead.

    Raises
    ------
    ValueError
        If no linear module of it is known as keys and values, or as the output of the feed-forward part.
    """
    names = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for kind, pattern in (("keys and values", KEYS_AND_VALUES), ("feed-forward output", FEED_FORWARD_OUTPUT)):
        if not any(re.fullmatch(named(pattern), name) for name in names):
            raise ValueError(
                f"adapter={adapter!r} knows no {kind} in {type(layer).__name__}, whose linear modules are {names}: "
                f"{remedy}."
            )
