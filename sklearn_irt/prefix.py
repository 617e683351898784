"""Hidden states that leave the frozen prefix: computed once a text, in half the bytes of fp32."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from tqdm.auto import tqdm

from .backbone import Backbone
from .fixed_shapes import batches_of_fixed_shape, fill_up
from .layer_by_layer import in_groups, run_layer_by_layer
from .normalization import quicken_norms
from .partial_model import run_up_to, share_weights
from .rotary_attention import quicken_rotary_attention
from .stack import get_layers
from .states_store import (
    SHARE_OF_FREE_MEMORY,
    STORED_DTYPE,
    StatesKey,
    StatesOnDisk,
    StatesStore,
    read_from_memory,
    write_to_memory,
)

VERSION = version("sklearn_irt")  # here, for it is read from a file


def processor() -> str:
    """Say what decides in which order a product is summed: the number of threads, the processor's instructions."""
    return f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def describe_arithmetic(backbone: Backbone) -> str:
    """Say all that a text's hidden states depend on, but for the text and the layer."""
    # The package decides how the layers are run.
    return f"{backbone.identity} {VERSION} {processor()}"


@dataclass
class PrefixStates:
    """The states that enter the lowest candidate layer, for many texts; a window of a longer one is a text here.

    Attributes
    ----------
    states : list of Tensor of shape (n_tokens_of_text, hidden_size), dtype bfloat16
        Those of each text.
    token_ids : list of list of int
        The tokens of each text.
    in_file : bool
        Whether they are views of a mapped file that nobody else uses.
    """

    states: list[torch.Tensor]
    token_ids: Sequence[list[int]]
    in_file: bool = False

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Tokens of each text, of shape (n_texts,)."""
        return np.array([len(ids) for ids in self.token_ids], dtype=np.intp)

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, text: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.states[text], torch.as_tensor(self.token_ids[text])

    @property
    def device(self) -> torch.device:
        """Where the states lie."""
        return self.states[0].device

    def move_to_roomy(self, device: torch.device) -> None:
        """Move the states to a GPU, unless they would take more than half of its free memory."""
        n_bytes = sum(states.nbytes for states in self.states)
        if device.type == "cuda" and n_bytes <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]:
            self.states, self.in_file = [states.to(device) for states in self.states], False

    def replace(self, text: int, states: torch.Tensor) -> None:
        """Put other states in the place of a text's; those that other estimators may use stay as they are."""
        if self.in_file:
            self.states[text].copy_(states)
        else:
            self.states[text] = states.to(self.states[text].device, STORED_DTYPE, copy=True)


@torch.inference_mode(False)  # the states of a prediction may be those of a later fit, which computes gradients
def compute_prefix_states(
    backbone: Backbone,
    token_ids: Sequence[list[int]],
    first_layer: int,
    store: StatesStore,
    memory: Memory | None = None,
    *,
    show_progress: bool = False,
) -> PrefixStates:
    """Run the frozen prefix on every text whose states are not known yet.

    Parameters
    ----------
    backbone : Backbone
        Whose layers below ``first_layer`` (and embedding) are run.
    token_ids : sequence of list of int
        The texts.
    first_layer : int
        The lowest candidate layer.
    store : StatesStore
        Where states are looked for, and kept.
    memory : Memory, default=None
        Where they are looked for and kept besides, across processes.
    show_progress : bool, default=False
        Whether to show a bar.

    Returns
    -------
    states : PrefixStates
        What enters ``first_layer``, rounded to bfloat16. It does not depend on what other texts there are.
    """
    arithmetic = describe_arithmetic(backbone)
    keys = [StatesKey(arithmetic, first_layer, tuple(ids)) for ids in token_ids]
    known = {key: states for key in dict.fromkeys(keys) if (states := _look_up(key, store, memory)) is not None}
    new = [key for key in dict.fromkeys(keys) if key not in known]
    with tqdm(total=len(new), desc="Frozen prefix", unit="text", disable=not (show_progress and new)) as bar:
        for text, states in _run_prefix(backbone, [list(key.token_ids) for key in new], first_layer):
            known[new[text]] = store.put(new[text], states)
            if memory is not None:
                write_to_memory(memory, new[text], states)
            bar.update()
    return PrefixStates([known[key] for key in keys], token_ids, in_file=isinstance(store, StatesOnDisk))


def _look_up(key: StatesKey, store: StatesStore, memory: Memory | None) -> torch.Tensor | None:
    states = store.get(key)
    if states is None and memory is not None:
        states = read_from_memory(memory, key)
        return states if states is None else store.put(key, states)
    return states


def _run_prefix(
    backbone: Backbone, token_ids: Sequence[list[int]], first_layer: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number of each text, and its states."""
    if not token_ids:
        return
    model = share_weights(backbone.model)
    layers = get_layers(model, backbone.stack)
    quicken_norms(layers[:first_layer])
    quicken_rotary_attention(layers[:first_layer])
    lengths = np.array([len(ids) for ids in token_ids], dtype=np.intp)
    for group in in_groups(batches_of_fixed_shape(lengths, backbone.precision)):
        padded = [_pad(backbone, token_ids, *batch) for batch in group]
        with torch.inference_mode():
            runs = [partial(run_up_to, layers[first_layer], model, **inputs) for inputs in padded]
            leaving = run_layer_by_layer(layers[:first_layer], runs)
        for (texts, _, _), rows in zip(group, leaving, strict=True):
            for text, row in zip(texts.tolist(), rows.to("cpu", STORED_DTYPE), strict=False):
                yield text, row[: len(token_ids[text])].clone()


def _pad(
    backbone: Backbone, token_ids: Sequence[list[int]], texts: NDArray[np.intp], n_rows: int, width: int
) -> dict[str, torch.Tensor]:
    rows = {"input_ids": [token_ids[text] for text in fill_up(texts, n_rows)]}
    padded = backbone.tokenizer.pad(rows, padding="max_length", max_length=width, return_tensors="pt")
    padded = padded.to(backbone.device)
    return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
