"""Runs a part of a model: up to some layer, or on from it, and in the last layer no more than what the head reads."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from .head import head_modules
from .quantization import is_quantized

# Of the last layer of a decoder: the output projection of its attention and what follows it, as Llama and its many
# relatives call them, and GPT-2.
_POSITION_WISE = (("self_attn.o_proj", "post_attention_layernorm"), ("attn.c_proj", "ln_2"))

_entering: ContextVar[tuple[torch.Tensor, torch.Tensor]] = ContextVar("entering")
_every_position: ContextVar[bool] = ContextVar("every_position", default=False)


def share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model's modules but not its tensors, so that modules can be replaced without the first one noticing.

    The copy does not collect keys and values for texts to be continued.
    """
    # bitsandbytes moves an 8-bit weight into an object beside the parameter when it is first used.
    states = [module.state for module in model.modules() if is_quantized(module) and hasattr(module, "state")]
    shared = (*model.parameters(), *model.buffers(), *states)
    copied = copy.deepcopy(model, memo={id(one): one for one in shared})
    config = copied.config.get_text_config()
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return copied


class _End(Exception):  # noqa: N818 - it is a way out, not an error
    """Carries states, or what a layer returns, out of a model that need not run any further."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found


def _read_out(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stand in for the forward pass of the first layer that is not to run."""
    raise _End(hidden_states)


def _read_returned(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stand in for the forward pass of the last layer that is to run."""
    raise _End(forward(*args, **kwargs))


def _pass_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Stand in for the forward pass of a layer whose work is in the entering states already."""
    return hidden_states


def _pass_on_in_tuple(n_further: int, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """Do the same for a layer that returns attention weights and the like behind the states."""
    return hidden_states, *[None] * n_further


@contextmanager
def replaced(layers: Iterable[nn.Module], stand_in: Callable[[int], Callable[..., torch.Tensor]]) -> Iterator[None]:
    """Let something else stand in for each layer's forward pass, by its index in ``layers``, for a while."""
    try:
        for index, layer in enumerate(layers):
            layer.forward = stand_in(index)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def run_up_to(layer: nn.Module, model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """Run a model as far as the place where a layer begins.

    Parameters
    ----------
    layer : Module
        The first layer that does not run.
    model : PreTrainedModel
        The model.
    **inputs : Any
        Its inputs.

    Returns
    -------
    states : Tensor of shape (n_texts, n_tokens, hidden_size)
        What would enter the layer.

    Raises
    ------
    ValueError
        If the model did not come to that layer.
    """
    return _run_until(layer, _read_out, model, **inputs)


def _run_until(layer: nn.Module, stand_in: Callable[..., Any], model: PreTrainedModel, **inputs: Any) -> Any:
    """Run a model as far as a layer for which something stands in that ends the run."""
    with replaced([layer], lambda _: stand_in):
        try:
            model(**inputs)
        except _End as end:
            return end.found
    raise ValueError(f"{type(model).__name__} did not run its layers one after the other: it cannot be a backbone.")


def stand_in_for(layers: nn.ModuleList, model: PreTrainedModel) -> Callable[..., Any]:
    """Return what can stand in for a layer whose work is in the entering states already, and returns as many things.

    Parameters
    ----------
    layers : ModuleList
        The layers of the model.
    model : PreTrainedModel
        The model; it runs on three tokens, as far as its second layer.

    Returns
    -------
    stand_in : callable
        Passes on the states that it is given.

    Raises
    ------
    ValueError
        If the model cannot be started in the middle: it does not run one layer after the other, its layers do not take
        states of shape (n_texts, n_tokens, hidden_size), or hand each other more than these.
    """
    tokens = torch.arange(3, device=model.device)[None]
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    family = type(model).__name__
    with torch.inference_mode():
        try:
            entering = run_up_to(layers[0], model, **inputs)
            returned = _run_to_end_of(layers[0], model, **inputs)
        except (TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            raise ValueError(
                f"{family} cannot be a backbone: a run on tokens and their mask failed: {error}"
            ) from error
        if entering.shape[:-1] != tokens.shape:
            raise ValueError(
                f"{family} cannot be a backbone: its layers take states of shape {tuple(entering.shape)} for one text "
                "of three tokens, not (1, 3, hidden_size)."
            )
        stand_in = partial(_pass_on_in_tuple, len(returned) - 1) if isinstance(returned, tuple) else _pass_on
        if len(layers) > 1 and not _starts_in_the_middle(layers, model, stand_in, **inputs):
            raise ValueError(
                f"{family} cannot be a backbone: started at its second layer it computes something else, for its "
                "layers hand each other more than the states (T5's first one a position bias, say)."
            )
    return stand_in


def _run_to_end_of(layer: nn.Module, model: PreTrainedModel, **inputs: Any) -> Any:
    """Return what a layer returns."""
    return _run_until(layer, partial(_read_returned, layer.forward), model, **inputs)


def _starts_in_the_middle(
    layers: nn.ModuleList, model: PreTrainedModel, stand_in: Callable[..., Any], **inputs: torch.Tensor
) -> bool:
    """Say whether the second layer computes the same from the states alone as behind the first one."""
    expected = _states_of(_run_to_end_of(layers[1], model, **inputs))
    if not torch.isfinite(expected).all():
        raise ValueError(
            f"{type(model).__name__} cannot be a backbone: its second layer computes NaN or infinity, for its weights "
            "are damaged, or beyond what this precision can hold. Fetch them again, or change the precision."
        )
    states = run_up_to(layers[1], model, **inputs)
    entry = start_at(layers, 1, stand_in)
    try:
        with enter(states, inputs["attention_mask"]):
            found = _states_of(_run_to_end_of(layers[1], model, **inputs))
    except Exception:  # which the whole model did not raise
        return False
    finally:
        entry.remove()
        layers[0].__dict__.pop("forward", None)
    rounded = 2 * torch.finfo(expected.dtype).eps * expected.abs().max().item()
    return torch.allclose(found, expected, rtol=0, atol=rounded, equal_nan=True)


def _states_of(returned: Any) -> torch.Tensor:
    return returned[0] if isinstance(returned, tuple) else returned


def start_at(layers: nn.ModuleList, first_layer: int, stand_in: Callable[..., Any]) -> RemovableHandle:
    """Make a model start at a layer, from states given by :class:`enter`.

    Everything around the layers (positions, masks, final norm, pooling) stays the model's own, for any family.

    Parameters
    ----------
    layers : ModuleList
        The model's layers, changed in place: what is below ``first_layer`` does not run.
    first_layer : int
        The lowest layer that runs.
    stand_in : callable
        Runs in place of those below, from :func:`stand_in_for`.

    Returns
    -------
    entry : RemovableHandle
        To be removed before the model is made to start elsewhere.
    """
    for index, layer in enumerate(layers):
        if index < first_layer:
            layer.forward = stand_in
        else:
            layer.__dict__.pop("forward", None)
    return layers[first_layer].register_forward_pre_hook(_inject, with_kwargs=True)


def _inject(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    states, _ = _entering.get()
    if args:
        return (states, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": states}


class enter:
    """Context in which a model cut by :func:`start_at` continues from these states; one per thread.

    Parameters
    ----------
    states : Tensor of shape (n_texts, n_tokens, hidden_size)
        The states, padded on the right.
    attention_mask : Tensor of shape (n_texts, n_tokens), dtype int64
        1 where a token is no padding.
    """

    def __init__(self, states: torch.Tensor, attention_mask: torch.Tensor) -> None:
        self.entering = states, attention_mask.sum(dim=1) - 1

    def __enter__(self) -> None:
        self._token = _entering.set(self.entering)

    def __exit__(self, *error: Any) -> None:
        _entering.reset(self._token)


def read_pooled_alone(model: PreTrainedModel, layers: nn.ModuleList) -> None:
    """Let a decoder compute only what its head reads: the last token of each text.

    Behind the attention of the last layer nothing passes between positions, so its output projection, its feed-forward
    part, the final norm and the head see that token alone; the residual stream beside them is added by broadcasting,
    and is right at that position. Models whose modules have other names run as they are.

    Parameters
    ----------
    model : PreTrainedModel
        Changed in place.
    layers : ModuleList
        Its layers.
    """
    head = head_modules(model)
    if list(head) != ["score"]:  # the head of decoders, which pools at the last token
        return
    last = dict(layers[-1].named_modules())
    behind = [last[name] for names in _POSITION_WISE if set(names) <= set(last) for name in names]
    final_norm = getattr(model.base_model, "norm", None) if behind else None
    for module in (*behind, final_norm, head["score"]):
        if module is not None:
            module.register_forward_pre_hook(_keep_pooled)
    head["score"].register_forward_hook(_spread)


@contextmanager
def reading_every_position() -> Iterator[None]:
    """Let a model under :func:`read_pooled_alone` compute its last layer at every position, for a while."""
    token = _every_position.set(True)
    try:
        yield
    finally:
        _every_position.reset(token)


@contextmanager
def watch_layers(stack: nn.ModuleList, layers: Iterable[int]) -> Iterator[dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Note the states that enter and leave some layers, by their indices, in the runs of a while."""
    passed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def note(index: int, layer: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        passed[index] = entering, returned[0] if isinstance(returned, tuple) else returned

    hooks = [stack[index].register_forward_hook(partial(note, index), with_kwargs=True) for index in layers]
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


def _keep_pooled(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    states, *rest = args
    if states.shape[1] == 1 or _every_position.get():
        return args
    _, pooled = _entering.get()
    return states[torch.arange(len(states), device=states.device), pooled][:, None], *rest


def _spread(head: nn.Module, args: Any, logits: torch.Tensor) -> torch.Tensor:
    """Give the pooled position's logits to all positions: the model picks the pooled one."""
    return logits.expand(-1, _entering.get()[0].shape[1], -1)
