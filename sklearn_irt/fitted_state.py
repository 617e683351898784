"""Takes a fitted net apart into plain data and arrays, and puts it together again, for pickle and skops."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from skorch.history import History

from .backbone import load_from_origin
from .callbacks import SelectedLayers
from .plain_data import Arrays, NotPlainError, from_plain, to_plain
from .prefix import PrefixStates
from .randomness import own_generator
from .selection import FullSelection
from .trained_part import TrainedPart
from .training import LayerwiseNet, build_net


def take_apart(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a classifier's attributes with plain data in the place of its net.

    Parameters
    ----------
    state : mapping
        Attributes, of a fitted or an unfitted one.

    Returns
    -------
    state : dict
        What :func:`put_together` reads. Beside the attributes that it has as they are, numbers, strings, lists, dicts
        and arrays; only a configuration of an adapter that has no such form is kept as it is.
    """
    state = dict(state)
    if "net_" in state:
        part = state.pop("net_").module_
        state["_learned"] = {
            "backbone": {**part.backbone.origin, "device": str(part.backbone.origin["device"])},
            "module": _write_module({key: value for key, value in part.origin.items() if key != "backbone"}),
            "tensors": {name: _as_array(tensor.detach().cpu()) for name, tensor in part.state_dict().items()},
        }
        state["history_"] = list(state["history_"])
    return state


def put_together(classifier: Any) -> None:
    """Make the net of a classifier whose attributes :func:`take_apart` returned; loads the backbone."""
    learned = vars(classifier).pop("_learned", None)
    if learned is None:
        return
    classifier.history_ = History(classifier.history_)
    backbone = load_from_origin({**learned["backbone"], "device": torch.device(learned["backbone"]["device"])})
    tensors = {name: torch.as_tensor(array) for name, array in learned["tensors"].items()}
    module = {"backbone": backbone, **_read_module(learned["module"])}
    classifier.net_ = rebuild_net(classifier, module, lambda part: part.load_state_dict(tensors))


def rebuild_net(classifier: Any, module: dict[str, Any], learn: Callable[[TrainedPart], None]) -> LayerwiseNet:
    """Make the net as it is after a fit.

    Parameters
    ----------
    classifier : IRTuningClassifier
        With its parameters and history.
    module : dict
        Arguments of :class:`~sklearn_irt.trained_part.TrainedPart`.
    learn : callable
        Takes the trained part, and loads into it what was learned.

    Returns
    -------
    net : LayerwiseNet
        Predicts.
    """
    # What was stored before a row could have many labels does not say that it has one.
    vars(classifier).setdefault("multilabel_", False)
    no_more_steps = SelectedLayers(FullSelection(), PrefixStates([], []), 0)
    with torch.inference_mode(False):
        net = build_net(
            module,
            no_more_steps,
            max_epochs=classifier.max_epochs,
            batch_size=classifier.batch_size,
            learning_rate=classifier.learning_rate,
            held_out_scores=None,
            validation_fraction=classifier.validation_fraction,
            random_state=own_generator(classifier.random_state),
            verbose=classifier.verbose,
            multilabel=classifier.multilabel_,
        )
        net.initialize()
        learn(net.module_)
    net.history_ = classifier.history_
    net.release_training_state()
    return net


def _write_module(module: dict[str, Any]) -> dict[str, Any]:
    arrays: Arrays = {}
    try:
        return {"plain": to_plain(module, "module", arrays), "arrays": arrays}
    except NotPlainError:
        return {"as_it_is": module}


def _read_module(written: Mapping[str, Any]) -> dict[str, Any]:
    if "as_it_is" in written:
        return written["as_it_is"]
    return from_plain(written["plain"], written["arrays"])


def _as_array(tensor: torch.Tensor) -> Any:
    return tensor if tensor.dtype == torch.bfloat16 else tensor.numpy()
