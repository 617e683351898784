"""All that the next step of a fit depends on, so that another net goes on from it as if training had never stopped."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from skorch.history import History

from .plain_data import from_plain, to_plain

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
        Plain data and tensors (see :mod:`~sklearn_irt.plain_data`); the tensors are those in training, no copies.
    """
    assert net.draws_ is not None
    names = {parameter: name for name, parameter in net.get_all_learnable_params()}
    return {
        "weights": net.module_.state_dict(),
        "last_good": {names[parameter]: kept for parameter, kept in net.callback("last_good_weights").copies_.items()},
        "moments": net.optimizer_.state_dict()["state"],
        "callbacks": {name: _describe(callback) for name, callback in net.callbacks_},
        "draws": net.draws_.reached,
        "generator": to_plain(net.generator.get_state(legacy=False)),
        "epoch_generator": to_plain(net.epoch_generator_),
        "history": to_plain(list(net.history)),
        "selection": net.callback("selected_layers").position(),
    }


def _describe(callback: Any) -> dict[str, Any]:
    kept = {name: getattr(callback, name) for name in _KEPT_BY_CALLBACKS if hasattr(callback, name)}
    # The weights of the best epoch are tensors already.
    return {name: value if name == "best_model_weights_" else to_plain(value, name) for name, value in kept.items()}


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
    state = copy.deepcopy(state)
    net.module_.load_state_dict(state["weights"])
    # Switching drops the moments of what does not train, and advancing the states needs the weights.
    net.callback("selected_layers").go_on_from(state["selection"], net)
    groups = net.optimizer_.state_dict()["param_groups"]
    net.optimizer_.load_state_dict({"state": state["moments"], "param_groups": groups})
    parameters = dict(net.get_all_learnable_params())
    device = torch.device(net.device)
    net.callback("last_good_weights").copies_ = {
        parameters[name]: kept.to(device) for name, kept in state["last_good"].items()
    }
    _set_learning_rate(net, net.callback("selected_layers").n_steps)
    for name, callback in net.callbacks_:
        vars(callback).update(state["callbacks"].get(name, {}))
    net.draws_.reached = state["draws"]
    if restored_history(state)[1] is None:  # otherwise the split and the order of the epoch are to be drawn again
        net.generator.set_state(from_plain(state["generator"]))


def _set_learning_rate(net: "LayerwiseNet", n_steps: int) -> None:
    """Put the schedule where it stands after so many steps."""
    schedule = net.callback("schedule").lr_scheduler_
    schedule.last_epoch = n_steps
    rates = [base * share(n_steps) for base, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(net.optimizer_.param_groups, rates, strict=True):
        group["lr"] = rate


def restored_history(state: dict[str, Any]) -> tuple[History, dict[str, Any] | None]:
    """Return the rows of the epochs that ended, and that of the epoch which training stood in, if it did.

    Parameters
    ----------
    state : dict
        Of :func:`capture_training_state`.

    Returns
    -------
    history : History
        A row an epoch.
    unfinished : dict or None
        The row of an epoch of which steps, or the validation, are still to come.
    """
    rows = from_plain(state["history"])
    unfinished = rows.pop() if rows and "train_loss" not in rows[-1] else None
    return History(rows), unfinished
