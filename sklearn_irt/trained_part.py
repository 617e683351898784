"""What training changes: the candidate layers' adapters and the classification head, as one torch module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from threading import RLock
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.utils.hooks import RemovableHandle

from .adapters import attach_adapters
from .backbone import Backbone
from .folding import fold_adapters
from .head import embedding_name, head_modules, replace_head
from .known_answers import KnownAnswers
from .layer_by_layer import run_layer_by_layer, try_layer_by_layer
from .normalization import quicken_norms
from .partial_model import (
    enter,
    read_pooled_alone,
    reading_every_position,
    replaced,
    run_up_to,
    share_weights,
    start_at,
    watch_layers,
)
from .quantization import is_quantized
from .randomness import isolated_seed
from .rotary_attention import quicken_rotary_attention
from .stack import drop_upper_layers, get_layers
from .states_store import STORED_DTYPE


class TrainedPart(nn.Module):
    """A backbone from its lowest candidate layer up: prefix states in, logits out.

    The frozen weights are the backbone's own tensors; adapters and head belong to this module alone. ``state_dict`` and
    pickle hold adapters and head only: a pickle loads the backbone again from where it was.

    Parameters
    ----------
    backbone : Backbone
        The frozen LLM.
    layers : sequence of int
        The candidate layers, ascending.
    adapter : PeftConfig or None
        What is attached to each of them; None trains copies of their own weights.
    n_classes : int
        Outputs of the head.
    seed : int
        Of the initial values of head and adapters. The global generator is left as it was.
    n_layers : {"all"}, int or float, default="all"
        See :func:`~sklearn_irt.stack.drop_upper_layers`.
    trains_embeddings : bool, default=False
        Whether a copy of the token embeddings belongs to this module as well. Then there is no prefix: what enters the
        lowest layer is computed from the tokens, and the states that are given are not looked at.

    Attributes
    ----------
    first_layer : int
        The lowest candidate layer; the lowest of all where the embeddings train.
    n_classes : int
        Outputs of the head.
    known_answers : KnownAnswers
        What it answered since it learned what it knows.
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        adapter: PeftConfig | None,
        *,
        n_classes: int,
        seed: int,
        n_layers: str | float = "all",
        trains_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.origin = {"backbone": backbone, "layers": layers, "adapter": adapter}
        self.origin |= {"n_classes": n_classes, "seed": seed, "n_layers": n_layers}
        self.origin |= {"trains_embeddings": trains_embeddings}
        self.layers = [int(layer) for layer in layers]
        self.trains_embeddings = trains_embeddings
        self.first_layer = 0 if trains_embeddings else self.layers[0]
        self.n_classes = n_classes
        self._frozen = {id(tensor) for tensor in (*backbone.model.parameters(), *backbone.model.buffers())}
        self.backbone = backbone
        self.model = share_weights(backbone.model)
        drop_upper_layers(self.stack, n_layers)
        quicken_rotary_attention(self.model)
        self._entered_layer = self.first_layer
        self._entry = None if trains_embeddings else self._start_at(self.first_layer)
        with isolated_seed(seed, backbone.device):
            replace_head(self.model, n_classes, backbone.drawn)
            attach_adapters(self.model, backbone.stack, self.layers, adapter)
        if trains_embeddings:
            self._prepare_embeddings()
        quicken_norms(self.model)
        self._own_what_trains()
        self._adapted = None if adapter is None else fold_adapters(self.model)
        tuned: list[Any] = [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        for module in tuned:
            module.cast_input_dtype_enabled = False  # autocast casts, where that is needed
        self._prepare_head()
        read_pooled_alone(self.model, self.stack)
        self.known_answers = KnownAnswers()
        self._running = RLock()  # for its layers are replaced meanwhile

    def forward(self, states: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Parameters
        ----------
        states : Tensor of shape (n_texts, n_tokens, hidden_size), dtype bfloat16
            What enters the lowest candidate layer, padded on the right.
        input_ids, attention_mask : Tensor of shape (n_texts, n_tokens), dtype int64
            The tokens, and 1 where they are not padding.

        Returns
        -------
        logits : Tensor of shape (n_texts, n_classes), dtype float32
            One row a text.
        """
        with self._running, self._entered_by(states, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    @property
    def stack(self) -> nn.ModuleList:
        """The layers that run."""
        return get_layers(self.model, self.backbone.stack)

    def start_from(self, layer: int) -> None:
        """Let :meth:`forward` take the states that enter ``layer``, which is no lower than ``first_layer``."""
        if self._entry is not None:
            self._entry.remove()
            self._entry, self._entered_layer = self._start_at(layer), layer

    def _start_at(self, layer: int) -> RemovableHandle:
        return start_at(self.stack, layer, self.backbone.stand_in)

    def advance(self, layer: int, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
        """Compute what enters ``layer`` in batches, each of which has the arguments of :meth:`forward`."""
        with self._running, self._autocast():
            return run_layer_by_layer(self.stack[self._entered_layer : layer], self._runs_up_to(layer, batches))

    def classify(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
        """Compute the logits of batches, each of which has the arguments of :meth:`forward`."""
        last = len(self.stack) - 1
        # Where the embeddings train, states cannot enter the model anywhere.
        if len(batches) == 1 or self._entered_layer == last or self.trains_embeddings:
            return [self(**batch) for batch in batches]
        with self._running:
            lower = self.stack[self._entered_layer : last]
            with self._autocast():
                advanced = try_layer_by_layer(lower, self._runs_up_to(last, batches))
            if advanced is None:
                return [self(**batch) for batch in batches]
            with replaced(lower, lambda index: self.backbone.stand_in):
                return [self(**{**batch, "states": states}) for batch, states in zip(batches, advanced, strict=True)]

    def _runs_up_to(
        self, layer: int, batches: Sequence[Mapping[str, torch.Tensor]]
    ) -> list[Callable[[], torch.Tensor]]:
        return [partial(self._run_up_to, self.stack[layer], **batch) for batch in batches]

    def _run_up_to(
        self, layer: nn.Module, states: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        with self._entered_by(states, attention_mask):
            return run_up_to(layer, self.model, input_ids=input_ids, attention_mask=attention_mask)

    @contextmanager
    def _entered_by(self, states: torch.Tensor, attention_mask: torch.Tensor) -> Iterator[None]:
        if states.dtype == STORED_DTYPE:
            states = states.to(next(self.backbone.model.parameters()).dtype)
        with enter(states, attention_mask), self._autocast():
            yield

    def _autocast(self) -> AbstractContextManager[Any]:
        # What trains is in fp32, the states in the precision of the frozen weights: folded adapters alone see to it.
        return self.backbone.autocast() if self._adapted is None else nullcontext()

    def similarities(
        self, states: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[int, torch.Tensor]:
        """Compute the cosine between the state that enters a candidate layer and the one that leaves it.

        Parameters
        ----------
        states, input_ids, attention_mask : Tensor
            As in :meth:`forward`.

        Returns
        -------
        cosines : dict of int to Tensor of shape (n_tokens,), dtype float32
            For each candidate layer and each token that is no padding.
        """
        states, input_ids, attention_mask = (t.to(self.backbone.device) for t in (states, input_ids, attention_mask))
        real = attention_mask.bool()
        entered = self._entered_by(states, attention_mask)
        with self._running, watch_layers(self.stack, self.layers) as passed, entered, reading_every_position():
            self.model(input_ids=input_ids, attention_mask=attention_mask)
        return {
            layer: cosine_similarity(entering[real].float(), leaving[real].float(), dim=-1)
            for layer, (entering, leaving) in passed.items()
        }

    def train(self, mode: bool = True) -> "TrainedPart":
        """Switch to training or evaluation; the modules are only visited when that changes something."""
        if mode != self.training or mode != self.model.training:
            super().train(mode)
            if self.model.config.is_encoder_decoder:
                self.model.get_encoder().eval()  # as frozen as the prefix, in which no dropout acts either
        return self

    @cached_property
    def learned_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of adapters and head, by name."""
        return {name: p for name, p in self.named_parameters() if name in self._learns}

    @property
    def layer_parameters(self) -> dict[int, list[nn.Parameter]]:
        """The parameters of each candidate layer that may train."""
        return {layer: list(tensors.values()) for layer, tensors in self.layer_tensors.items()}

    @cached_property
    def layer_tensors(self) -> dict[int, dict[str, nn.Parameter]]:
        """The same, by their names within the layer."""
        inside = {layer: f"model.{self.backbone.stack}.{layer}." for layer in self.layers}
        return {
            layer: {name[len(start) :]: p for name, p in self.learned_parameters.items() if name.startswith(start)}
            for layer, start in inside.items()
        }

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what was learned: adapters and head, without the frozen weights."""
        # A quantized module writes the statistics of its frozen weight into tensors made for the purpose.
        quantized = tuple(f"{name}." for name, module in self.named_modules() if is_quantized(module))
        learned = {
            name
            for name, tensor in super().state_dict(keep_vars=True).items()
            if id(tensor) not in self._frozen and not name.startswith(quantized)
        }
        return {name: tensor for name, tensor in super().state_dict(*args, **kwargs).items() if name in learned}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what :meth:`state_dict` returned."""
        if strict and set(state_dict) != set(self.state_dict()):
            raise ValueError("These adapters and head do not belong to this backbone and its candidate layers.")
        self.known_answers = KnownAnswers()
        for stale in ("learned_parameters", "layer_tensors") if assign else ():
            self.__dict__.pop(stale, None)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def forget_folded(self) -> None:
        """Free the copies of frozen weights into which adapters are folded; they are made anew when needed."""
        for adapted in self._adapted or ():
            adapted.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        learned = {name: tensor.detach().cpu() for name, tensor in self.state_dict().items()}
        return _restore, (self.origin, learned)

    def _own_what_trains(self) -> None:
        # A peft configuration may train tensors of the backbone itself (biases, say): other estimators share those.
        inside = (*(f"{self.backbone.stack}.{layer}." for layer in self.layers), *self._embedding_names)
        for name, parameter in list(self.model.named_parameters()):
            if parameter.requires_grad and id(parameter) in self._frozen and name.startswith(inside):
                owner, _, attribute = name.rpartition(".")
                setattr(self.model.get_submodule(owner), attribute, nn.Parameter(parameter.detach().clone()))
                parameter.requires_grad_(False)
        head = {id(p) for module in head_modules(self.model).values() for p in module.parameters()}
        head |= {id(self.model.get_parameter(name)) for name in self._embedding_names}
        # An adapter may have parameters that do not train: AdaLoRA's ranks, MiCA's matrix B.
        adapters = {id(p) for p in self.model.parameters() if p.requires_grad} - self._frozen
        self._learns = {name for name, parameter in self.named_parameters() if id(parameter) in head | adapters}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in head)
            if id(parameter) not in self._frozen:
                # bf16 cannot tell small steps of the optimizer apart; autocast computes in it all the same.
                parameter.data = parameter.data.float()
        if not all(self.layer_parameters.values()):
            raise ValueError("The adapter puts no parameters into some candidate layer: check its target_modules.")
        everywhere = [name for name, p in self.model.named_parameters(remove_duplicate=False) if id(p) in adapters]
        if len(everywhere) > len(adapters):
            raise ValueError("The adapter shares parameters between modules: layers cannot be chosen one by one.")

    @property
    def _embedding_names(self) -> list[str]:
        """The token embeddings' parameter, where it trains."""
        return [f"{embedding_name(self.model)}.weight"] if self.trains_embeddings else []

    def _prepare_embeddings(self) -> None:
        embeddings, dtype = self.model.get_input_embeddings(), self.model.dtype
        embeddings.requires_grad_(True)
        embeddings.register_forward_hook(lambda module, args, states: states.to(dtype))

    def _prepare_head(self) -> None:
        for module in head_modules(self.model).values():
            _run_in_fp32(module, self.backbone.device)


def _restore(origin: dict[str, Any], learned: Mapping[str, torch.Tensor]) -> TrainedPart:
    with torch.inference_mode(False):
        part = TrainedPart(**origin)
        part.load_state_dict(learned)
        return part.to(part.backbone.device).eval()


def _run_in_fp32(module: nn.Module, device: torch.device) -> None:
    # The head is a thousandth of the work, and bf16 logits would round probabilities to two digits.
    forward = module.forward

    def forward_in_fp32(*args: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        with torch.autocast(device.type, enabled=False):
            return forward(*(tensor.float() for tensor in args), **kwargs)

    module.forward = forward_in_fp32
