"""What happens around a training step: layers are switched, good weights kept, progress shown."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import nn
from tqdm.auto import tqdm

from .distributed import FirstOnesAnswers
from .longer_prefix import advance_states
from .prefix import PrefixStates
from .probing import TrainingProbe
from .selection import LayerSelection
from .selection.base import Masks


class SelectedLayers(Callback):
    """Ask the strategy which layers train, freeze the others, and report the gradient norms to it.

    Layers below the lowest one that may still train join the frozen prefix.

    Parameters
    ----------
    selection : LayerSelection
        The strategy; its fit must have begun.
    states : PrefixStates
        Those of the texts of the fit; they are changed as the prefix grows.
    n_steps_planned : int
        Steps of the whole fit.

    Attributes
    ----------
    scores_ : list of ndarray of shape (n_candidates,)
        The strategy's scores after each step.
    active_ : list of ndarray of shape (n_candidates,), dtype bool
        The layers in training at each step.
    n_active_parameters_ : list of int
        How many of their parameters trained at each step; masked ones do not count.
    """

    def __init__(self, selection: LayerSelection, states: PrefixStates, n_steps_planned: int) -> None:
        self.selection = selection
        self.states = states
        self.n_steps_planned = n_steps_planned

        self.scores_: list[NDArray[np.float64]] = []
        self.active_: list[NDArray[np.bool_]] = []
        self.n_active_parameters_: list[int] = []

    @property
    def n_steps(self) -> int:
        """Steps whose gradients were seen."""
        return len(self.scores_)

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Note where the net begins."""
        self._raised_to = [net.module_.first_layer]
        self._masks: Masks | None = None
        self._entry_masks: dict[nn.Parameter, torch.Tensor] = {}
        self._selected: set[int] = set()
        self._selected_for: int | None = None
        self._splits: dict[float, Any] = {}

    def on_epoch_begin(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Switch the layers before the first step."""
        if not hasattr(self.selection, "probe_"):
            probe = TrainingProbe(net, dataset_train, self.selection.random_state_, self._splits)
            self.selection.probe_ = probe if net.processes_.n == 1 else FirstOnesAnswers(probe, net.processes_)
        if self._selected_for != self.n_steps:
            self._select_layers(net)

    def on_batch_end(self, net: NeuralNet, training: bool = False, **kwargs: Any) -> None:
        """Switch the layers for the next step, of which no batch has been made of the states yet."""
        if training and self.n_steps < self.n_steps_planned:
            self._select_layers(net)

    def _select_layers(self, net: NeuralNet) -> None:
        self._selected = {int(layer) for layer in self.selection.select(self.n_steps)}
        self._selected_for = self.n_steps
        lowest = self.selection.lowest(self.n_steps)
        self._check_selected(lowest)
        self._switch_layers(net)
        if lowest > self._raised_to[-1] and not self.selection.trains_embeddings:
            self._raise_to(lowest, net)

    def _switch_layers(self, net: NeuralNet) -> None:
        masks = self.selection.masks(self.n_steps)
        if masks is not None and not self._selected <= set(masks):
            raise ValueError(f"{type(self.selection).__name__}.masks() must name every layer that select() returned.")
        if masks is not self._masks:
            self._masks, self._entry_masks = masks, _read_entry_masks(masks, net)
        for layer, tensors in net.module_.layer_tensors.items():
            for name, parameter in tensors.items():
                within = layer in self._selected and (masks is None or masks[layer][name])
                _switch(parameter, isinstance(within, np.ndarray) or bool(within), net.optimizer_)
        if not any(p.requires_grad for group in net.module_.layer_parameters.values() for p in group):
            raise ValueError(f"{type(self.selection).__name__}: no parameter of the selected layers trains.")

    def _raise_to(self, layer: int, net: NeuralNet) -> None:
        advance_states(net.module_, self.states, layer)
        self._raised_to.append(layer)

    def _check_selected(self, lowest: int) -> None:
        allowed = {layer for layer in self.selection.layers_.tolist() if layer >= lowest}
        if not self._selected or not self._selected <= allowed:
            raise ValueError(
                f"{type(self.selection).__name__} must select candidate layers from lowest() = {lowest} up, at least "
                f"one of {sorted(allowed)}, by their index (no mask), but it selected {sorted(self._selected)}."
            )

    def position(self) -> dict[str, Any]:
        """Return where selection stands, for :meth:`go_on_from`."""
        generator = self.selection.random_state_  # by whatever names a strategy keeps it
        kept = {name for name, value in vars(self.selection).items() if value is not generator and name != "probe_"}
        kept -= set(self.selection.get_params(deep=False))
        return {
            "strategy": {name: getattr(self.selection, name) for name in sorted(kept)},
            "splits": self._splits,
            "selected": sorted(self._selected),
            "selected_for": self._selected_for,
            "raised_to": self._raised_to,
            "scores": self.scores_,
            "active": self.active_,
            "n_active_parameters": self.n_active_parameters_,
        }

    def go_on_from(self, position: Mapping[str, Any], net: NeuralNet) -> None:
        """Go on from where selection stood in another net of the same layers."""
        steps_per_epoch = self.selection.steps_per_epoch_
        position = copy.deepcopy(position)
        for name, value in {**position["strategy"], "steps_per_epoch_": steps_per_epoch}.items():
            setattr(self.selection, name, value)
        self.scores_, self.active_ = position["scores"], position["active"]
        self.n_active_parameters_ = position["n_active_parameters"]
        self._splits = position["splits"]
        self._selected, self._selected_for = set(position["selected"]), position["selected_for"]
        for layer in position["raised_to"][1:]:
            self._raise_to(layer, net)  # one by one, for states are rounded each time
        if self._selected_for == self.n_steps:
            self._switch_layers(net)
            return
        self.selection.first_step_ = self.n_steps  # with it begins another part of the rows
        self._masks = self.selection.masks(self.n_steps - 1)
        self._entry_masks = _read_entry_masks(self._masks, net)

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **kwargs: Any) -> None:
        """Mask gradients, and report the norms before anything clips them."""
        for parameter, mask in self._entry_masks.items():
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        parameters = net.module_.layer_parameters
        gradients = {layer: [p.grad for p in parameters[layer] if p.grad is not None] for layer in self._selected}
        norms = iter(torch.stack(torch._foreach_norm([g for group in gradients.values() for g in group])).tolist())
        self.selection.observe(
            self.n_steps, {layer: [next(norms) for _ in group] for layer, group in gradients.items()}
        )
        self.scores_.append(self.selection.scores_.copy())
        self.active_.append(np.isin(self.selection.layers_, list(self._selected)))
        self.n_active_parameters_.append(self._count_active(parameters))

    def _count_active(self, parameters: Mapping[int, Sequence[nn.Parameter]]) -> int:
        active = [p for layer in self._selected for p in parameters[layer] if p.requires_grad]
        return sum(int(self._entry_masks[p].sum()) if p in self._entry_masks else p.numel() for p in active)


def _read_entry_masks(masks: Masks | None, net: NeuralNet) -> dict[nn.Parameter, torch.Tensor]:
    """Return the mask of every tensor of which only some entries train; its moments begin anew with it."""
    entry_masks = {}
    for layer, within in (masks or {}).items():
        tensors = net.module_.layer_tensors[layer]
        if set(within) != set(tensors):
            raise ValueError(f"The masks of layer {layer} must name the tensors {sorted(tensors)}, all of them.")
        for name, mask in within.items():
            if isinstance(mask, np.ndarray):
                if mask.shape != tensors[name].shape:
                    raise ValueError(f"The mask of {name!r} in layer {layer} must be of shape {tensors[name].shape}.")
                entry_masks[tensors[name]] = torch.from_numpy(mask).to(tensors[name].device)
                net.optimizer_.state.pop(tensors[name], None)
    return entry_masks


def _switch(parameter: nn.Parameter, trains: bool, optimizer: torch.optim.Optimizer) -> None:
    if parameter.requires_grad and not trains:
        parameter.grad = None
        optimizer.state.pop(parameter, None)
    parameter.requires_grad_(trains)


class LastGoodWeights(Callback):
    """Keep the weights that gave the last finite loss, and put them back when training diverges."""

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Start without a copy."""
        self.copies_: dict[nn.Parameter, torch.Tensor] = {}

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **kwargs: Any) -> None:
        """Copy what the coming step will change, unless its gradients are not finite."""
        trained = [p for _, p in net.get_all_learnable_params() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([p.grad for p in trained if p.grad is not None]))
        if not torch.isfinite(norms).all():
            raise net.divergence("A gradient is not finite")
        self.copies_ = {parameter: parameter.detach().clone() for parameter in trained}

    def restore(self) -> None:
        """Put the copied weights back."""
        with torch.no_grad():
            for parameter, copy in self.copies_.items():
                parameter.copy_(copy)


class StepBar(Callback):
    """A progress bar over all steps of a fit: loss, remaining time and the layers in training.

    Parameters
    ----------
    selected_layers : SelectedLayers
        Knows the layers in training, and how many steps there will be.
    """

    def __init__(self, selected_layers: SelectedLayers) -> None:
        self.selected_layers = selected_layers

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Show the bar."""
        total, done = self.selected_layers.n_steps_planned, self.selected_layers.n_steps
        self.bar_ = tqdm(total=total, initial=done, desc="Training", unit="step")

    def close(self) -> None:
        """End the bar, if training came so far."""
        if hasattr(self, "bar_"):
            self.bar_.close()

    def on_batch_end(self, net: NeuralNet, training: bool = False, loss: Any = None, **kwargs: Any) -> None:
        """Advance by a step."""
        if training:
            layers = self.selected_layers.selection.layers_[self.selected_layers.active_[-1]]
            self.bar_.set_postfix_str(f"loss {loss.item():.3f}, layers {describe_layers(layers)}", refresh=False)
            self.bar_.update()


def describe_layers(layers: Any) -> str:
    """Write ascending indices as ranges, for example "3, 15-17"."""
    layers = np.asarray(layers)
    runs = np.split(layers, np.flatnonzero(np.diff(layers) != 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs if len(run))
