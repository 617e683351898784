"""Saves a fitted classifier as a folder of safetensors and JSON, and loads it again; nothing in it is code."""

import json
import os
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from .backbone import Backbone, load_backbone, load_config
from .backbone_files import absolute, quiet_transformers
from .fitted_state import rebuild_net
from .learned_files import load_learned, save_learned
from .plain_data import Arrays, NotPlainError, describe, from_plain, to_plain, write_estimator
from .precision import choose_device, choose_precision, product_size
from .quantization import check_quantization
from .stored_backbone import find_again, record_backbone, risky_options, without_secrets
from .stored_folder import MANIFEST, check_folder, replaced_folder

SAVED = "saved IRTuningClassifier"
_CLASSIFIER, _ARRAYS = "classifier.json", "arrays.safetensors"
# Parameters that say where and how to compute, and nothing of what was learned.
_FREE = (
    *("backbone", "backbone_options", "device", "memory", "precision", "prefix_cache", "verbose"),
    *("checkpoint_dir", "checkpoint_interval", "distributed", "resume"),
)
_VERSIONS = ("sklearn-irt", "numpy", "peft", "scikit-learn", "skorch", "torch", "transformers")


def save_classifier(classifier: Any, path: str | os.PathLike[str]) -> None:
    """Save a fitted classifier; see :meth:`~sklearn_irt.IRTuningClassifier.save`."""
    check_is_fitted(classifier, "net_")
    record = record_backbone(classifier.net_.module_.backbone)
    with replaced_folder(path, SAVED) as folder:
        write_classifier(classifier, record, folder)


def write_classifier(classifier: Any, record: Mapping[str, Any], folder: Path) -> None:
    """Write the files of a fitted classifier.

    Parameters
    ----------
    classifier : IRTuningClassifier
        Fitted.
    record : mapping
        Its backbone, by :func:`~sklearn_irt.stored_backbone.record_backbone`.
    folder : Path
        Gets the files.
    """
    part = classifier.net_.module_
    arrays: Arrays = {}
    parameters, to_pass = _write_parameters(classifier, arrays)
    module = {key: value for key, value in part.origin.items() if key != "backbone"}
    stored = {
        "class": type(classifier).__qualname__,
        "versions": library_versions(),
        "parameters": parameters,
        "to_pass": to_pass,
        "backbone": {**record, **_write_origin(part.backbone.origin, classifier._fitted_backbone[1], arrays)},
        "module": to_plain(module, "module", arrays),
        **_write_fitted(classifier, to_pass, arrays),
    }
    with quiet_transformers():
        part.backbone.tokenizer.save_pretrained(folder)
    findable = record["kind"] == "hub" or os.path.isabs(record["name"])
    save_learned(part, folder, record["name"] if findable else None)
    save_file(arrays, folder / _ARRAYS)
    (folder / _CLASSIFIER).write_text(json.dumps(stored, indent=1, allow_nan=False), encoding="utf-8")


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a classifier's numbers depend on."""
    return {name: version(name) for name in _VERSIONS}


def parameters_to_pass(classifier: Any) -> list[str]:
    """Return the names of the parameters that a file cannot hold, which loading must be given."""
    _, to_pass = _write_parameters(classifier, {})
    return sorted(to_pass)


def _write_parameters(classifier: Any, arrays: Arrays) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters that a file can hold, and what the others were, which loading must be given."""
    parameters, to_pass = {}, {}
    for name, value in classifier.get_params(deep=False).items():
        try:
            parameters[name] = to_plain(_before_writing(name, value), f"parameters.{name}", arrays)
        except NotPlainError:
            to_pass[name] = describe(value)
    _, used = classifier._fitted_backbone
    if risky := risky_options(classifier.backbone_options) or risky_options(used):
        to_pass["backbone_options"] = f"with {', '.join(risky)}: what may run code is not taken from a file"
    if classifier.memory is not None:
        to_pass["memory"] = f"{classifier.memory!r}: joblib keeps pickles there, so that a file cannot name it"
    return {name: plain for name, plain in parameters.items() if name not in to_pass}, to_pass


def _before_writing(name: str, value: Any) -> Any:
    return without_secrets(value) if name == "backbone_options" and value is not None else value


def _write_origin(origin: Mapping[str, Any], options: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    risky = risky_options(options)
    harmless = {name: value for name, value in without_secrets(options).items() if name not in risky}
    return {
        "options": to_plain(harmless, "options", arrays),
        "precision": origin["precision"],
        "quantization": origin["quantization"],
        "dropped": list(origin.get("dropped", ())),
    }


def _write_fitted(classifier: Any, to_pass: Mapping[str, str], arrays: Arrays) -> dict[str, Any]:
    """Return the fitted attributes; those of a strategy of the user's own apart, for its class is not written."""
    parameters = classifier.get_params(deep=False)
    fitted: dict[str, Any] = {}
    own_selection = None
    for name, value in vars(classifier).items():
        if name in parameters or name in ("net_", "_fitted_backbone"):
            continue
        try:
            if name == "selection_" and "selection" in to_pass and type(value) is type(classifier.selection):
                own_selection = write_estimator(value, name, arrays)
            else:
                fitted[name] = to_plain(value, name, arrays)
        except NotPlainError as error:
            _warn_of_loss(name, error)
    return {"fitted": fitted, "own_selection": own_selection}


def _warn_of_loss(name: str, error: NotPlainError) -> None:
    warnings.warn(
        f"The attribute {name} is left out of what is saved: {error}, which only pickle could write. "
        "Predictions do not depend on it.",
        UserWarning,
        stacklevel=2,
    )


def load_classifier(kind: type, path: str | os.PathLike[str], given: Mapping[str, Any]) -> Any:
    """Load a classifier; see :meth:`~sklearn_irt.IRTuningClassifier.load`."""
    folder = check_folder(path, SAVED)
    if unknown := sorted(set(given) - set(kind().get_params(deep=False))):
        raise TypeError(f"{kind.__qualname__} has no parameter {unknown[0]!r}.")
    written = (folder / MANIFEST).read_bytes()
    try:
        classifier = _load(kind, folder, given)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder} was not written by save(): {error!r:.200}. Copy it anew.") from error
    if (folder / MANIFEST).read_bytes() != written:
        raise ValueError(f"{folder} was saved anew while it was being loaded: load it again.")
    return classifier


def _load(kind: type, folder: Path, given: Mapping[str, Any]) -> Any:
    stored = json.loads((folder / _CLASSIFIER).read_text(encoding="utf-8"))
    arrays = load_file(folder / _ARRAYS)
    _check_given(stored, given, kind)
    classifier = kind(**{**from_plain(stored["parameters"], arrays), **given})
    classifier._validate_params()
    vars(classifier).update(from_plain(stored["fitted"], arrays))
    _restore_own_selection(classifier, stored["own_selection"], arrays)
    backbone = _load_backbone(classifier, stored["backbone"], given, arrays)
    module = {"backbone": backbone, **from_plain(stored["module"], arrays)}
    classifier.net_ = rebuild_net(classifier, module, lambda part: load_learned(part, folder))
    classifier.precision_ = backbone.precision
    return classifier


def _check_given(stored: Mapping[str, Any], given: Mapping[str, Any], kind: type) -> None:
    """Refuse parameters that contradict what was learned, and ask for those that a file cannot hold."""
    if kind.__qualname__ != stored["class"]:
        raise ValueError(f"This was saved by {stored['class']}: load it by {stored['class']}.load().")
    to_pass = stored["to_pass"]
    if fixed := sorted(set(given) - set(_FREE) - set(to_pass)):
        raise ValueError(
            f"load() takes no {fixed[0]!r}: it belongs to what was learned. It can be given anew of "
            f"{', '.join(_FREE)}; for another fit use set_params() afterwards."
        )
    _check_harmless(stored, given, kind)
    if missing := sorted(set(to_pass) - set(given)):
        raise ValueError(
            "The file cannot hold some parameters, pass them again: "
            + "; ".join(f"load(..., {name}=) was {to_pass[name]}" for name in missing)
        )
    for name in sorted(set(given) & set(to_pass) - set(_FREE)):
        if (now := describe(given[name])) != to_pass[name]:
            raise ValueError(f"load(..., {name}=) was {to_pass[name]} when it was fitted, but is {now} now.")


def _check_harmless(stored: Mapping[str, Any], given: Mapping[str, Any], kind: type) -> None:
    """Refuse what :func:`write_classifier` never writes, because it could run code, or take the place of a method."""
    options = (stored["backbone"]["options"], stored["parameters"].get("backbone_options") or {})
    risky = [name for one in options for name in risky_options(one)]
    if risky and "backbone_options" not in given:
        raise ValueError(
            f"The folder asks for backbone_options with {risky[0]!r}, which may run code, as no saved classifier does: "
            "do not trust it; or pass load(..., backbone_options=) yourself."
        )
    if stored["parameters"].get("memory") is not None and "memory" not in given:
        raise ValueError(
            "The folder names a memory, in which joblib keeps pickles, as no saved classifier does: do not trust it; "
            "or pass load(..., memory=) yourself."
        )
    for name in stored["fitted"]:
        if name in stored["parameters"] or name in stored["to_pass"] or callable(getattr(kind, name, None)):
            raise ValueError(
                f"The folder has a fitted attribute {name!r}, as no saved classifier does: do not trust it."
            )


def _restore_own_selection(classifier: Any, plain: dict[str, Any] | None, arrays: Arrays) -> None:
    if plain is not None:
        selection = clone(classifier.selection).set_params(**from_plain(plain["parameters"], arrays))
        vars(selection).update(from_plain(plain["fitted"], arrays))
        classifier.selection_ = selection


def _load_backbone(classifier: Any, stored: Mapping[str, Any], given: Mapping[str, Any], arrays: Arrays) -> Backbone:
    """Find the backbone, check what is asked for, and load it."""
    name = given.get("backbone", stored["name"])
    options = given.get("backbone_options", from_plain(stored["options"], arrays)) or {}
    device = choose_device(classifier.device)
    check_quantization(stored["quantization"], device, classifier.adapter)
    options_here = find_again(stored, name, options)
    precision = stored["precision"]
    if "precision" in given:
        size = product_size(load_config(name, options_here))
        precision = choose_precision(given["precision"], *size, device)
    classifier._fitted_backbone = absolute(name), dict(options)
    return load_backbone(
        name,
        precision=precision,
        device=device,
        options=options_here,
        quantization=stored["quantization"],
        dropped=stored["dropped"],
    )
