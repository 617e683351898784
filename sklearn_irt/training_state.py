"""All that the next step of a fit depends on, so that another net goes on from it as if training had never stopped."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from skorch.history import History

if TYPE_CHECKING:  # the net calls these functions
    from .training import LayerwiseNet

# What callbacks know of earlier epochs: skorch's scores, its early stopping, and the scores on the held-out part.
_KEPT_BY_CALLBACKS = ("best_score_", "best_", "misses_", "dynamic_threshold_", "best_epoch_", "best_model_weights_")


def capture_training_state(net: "LayerwiseNet") -> dict[str, Any]:
    """Return the state of training after a step.

    Parameters
    ----------
    net : LayerwiseNet
        In training, between two steps or after the last one.

    Returns
    -------
    state : dict
        Numbers, strings, and arrays in nested containers. The arrays are those in training, no copies.
    """
    assert net.draws_ is not None
    names = {parameter: name for name, parameter in net.get_all_learnable_params()}
    return {
        "weights": _as_arrays(net.module_.state_dict()),
        "last_good": {names[p]: _as_arrays(kept) for p, kept in net.callback("last_good_weights").copies_.items()},
        "moments": _as_arrays(net.optimizer_.state_dict()["state"]),
        "callbacks": {name: _describe(callback) for name, callback in net.callbacks_},
        "draws": net.processes_.each_ones(_as_arrays(net.draws_.reached)),
        "generator": net.generator.get_state(legacy=False),
        "epoch_generator": net.epoch_generator_,
        "history": list(net.history),
        "selection": net.callback("selected_layers").position(),
    }


def _describe(callback: Any) -> dict[str, Any]:
    return {name: _as_arrays(getattr(callback, name)) for name in _KEPT_BY_CALLBACKS if hasattr(callback, name)}


def _as_arrays(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: _as_arrays(entry) for key, entry in value.items()}
    return [_as_arrays(entry) for entry in value] if isinstance(value, list) else value


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.tensor(value)  # a copy, for training changes it
    if isinstance(value, dict):
        return {key: _as_tensors(entry) for key, entry in value.items()}
    return [_as_tensors(entry) for entry in value] if isinstance(value, list) else value


def capture_between_parts(net: "LayerwiseNet") -> dict[str, Any]:
    """Return the same at the end of an epoch after which training goes on with other rows.

    Without what belongs to rows of this epoch, and without the weights before its last step.
    """
    state = capture_training_state(net)
    return {**state, "last_good": {}, "selection": {**state["selection"], "splits": {}}}


def restore_training_state(net: "LayerwiseNet", state: dict[str, Any]) -> None:
    """Put a net, whose training begins, where another one stood.

    Parameters
    ----------
    net : LayerwiseNet
        Initialized; its callbacks have begun.
    state : dict
        Of :func:`capture_training_state`; left as it is.
    """
    assert net.draws_ is not None
    net.module_.load_state_dict(_as_tensors(state["weights"]))
    # Switching drops the moments of what does not train, and advancing the states needs the weights.
    net.callback("selected_layers").go_on_from(state["selection"], net)
    groups = net.optimizer_.state_dict()["param_groups"]
    net.optimizer_.load_state_dict({"state": _as_tensors(state["moments"]), "param_groups": groups})
    parameters = dict(net.get_all_learnable_params())
    net.callback("last_good_weights").copies_ = {
        parameters[name]: torch.tensor(kept, device=parameters[name].device)
        for name, kept in state["last_good"].items()
    }
    _set_learning_rate(net, net.callback("selected_layers").n_steps)
    for name, callback in net.callbacks_:
        vars(callback).update(_as_tensors(state["callbacks"].get(name, {})))
    if net.processes_.rank < len(state["draws"]):  # otherwise it is new among them
        net.draws_.reached = _as_tensors(state["draws"][net.processes_.rank])
    if unfinished_epoch(state) is None:  # otherwise the split and the order of the epoch are to be drawn again
        net.generator.set_state(state["generator"])


def _set_learning_rate(net: "LayerwiseNet", n_steps: int) -> None:
    """Put the schedule where it stands after so many steps."""
    schedule = net.callback("schedule").lr_scheduler_
    schedule.last_epoch = n_steps
    rates = [base * share(n_steps) for base, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(net.optimizer_.param_groups, rates, strict=True):
        group["lr"] = rate


def unfinished_epoch(state: dict[str, Any]) -> dict[str, Any] | None:
    """Return a copy of the row of the epoch that training stood in; None between two epochs."""
    last = state["history"][-1:]
    return copy.deepcopy(last[0]) if last and "train_loss" not in last[0] else None


def ended_epochs(state: dict[str, Any]) -> History:
    """Return a copy of the history of the epochs that came to their end, their validation included."""
    return History(copy.deepcopy([row for row in state["history"] if "train_loss" in row]))
