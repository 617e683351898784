"""Turns what an estimator holds into JSON and arrays, and back: a closed list of kinds, none of which runs code."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from skorch.history import History

from . import selection
from .bottleneck import bottleneck_config

Arrays = dict[str, NDArray[Any]]
"""Arrays of numbers by name, as a safetensors file holds them."""

_SELECTIONS = {name: getattr(selection, name) for name in selection.__all__}


class NotPlainError(TypeError):
    """Says that a value has no plain form: only pickle could write it."""


def to_plain(value: Any, name: str, arrays: Arrays) -> Any:
    """Turn a value into what JSON can hold.

    Parameters
    ----------
    value : Any
        None, bool, int, float, str, path, list, tuple, set, range, or a dict with any such keys; numpy's scalars,
        arrays and ``RandomState``; a strategy of :mod:`sklearn_irt.selection`, fitted or not; a peft configuration;
        skorch's history; a torch device.
    name : str
        Of the value, for the names of its arrays.
    arrays : dict of str to ndarray
        Gets the arrays that it holds.

    Returns
    -------
    plain : Any
        What :func:`from_plain` reads, of dict, list, str, int, finite float, bool and None.

    Raises
    ------
    NotPlainError
        If it is, or holds, anything else; the message says what and where.
    """
    if type(value) in (bool, int, str, type(None)) or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is list:
        return [to_plain(one, f"{name}.{index}", arrays) for index, one in enumerate(value)]
    if type(value) is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: to_plain(one, f"{name}.{key}", arrays) for key, one in value.items()}
    for kind, (is_of_kind, write, _) in _KINDS.items():
        if is_of_kind(value):
            return {f"${kind}": write(value, name, arrays)}
    raise NotPlainError(f"{name} is {describe(value)}")


def from_plain(plain: Any, arrays: Arrays) -> Any:
    """Turn back what :func:`to_plain` returned.

    Parameters
    ----------
    plain : Any
        From a JSON file.
    arrays : dict of str to ndarray
        The arrays that belong to it.

    Returns
    -------
    value : Any
        Equal to the one that was written, and of the same types.
    """
    if isinstance(plain, list):
        return [from_plain(one, arrays) for one in plain]
    if not isinstance(plain, dict):
        return plain
    if len(plain) == 1 and (tag := next(iter(plain))).startswith("$"):
        return _KINDS[tag[1:]].read(plain[tag], arrays)
    return {key: from_plain(one, arrays) for key, one in plain.items()}


def describe(value: Any) -> str:
    """Say what a value is that has no plain form."""
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return f"an object of {type(value).__module__}.{type(value).__qualname__}"


def _write_items(value: Any, name: str, arrays: Arrays) -> list[Any]:
    return [to_plain(one, f"{name}.{index}", arrays) for index, one in enumerate(value)]


def _write_dict(value: dict[Any, Any], name: str, arrays: Arrays) -> list[list[Any]]:
    return [[to_plain(key, name, arrays), to_plain(one, f"{name}.{key}", arrays)] for key, one in value.items()]


def _read_dict(items: list[list[Any]], arrays: Arrays) -> dict[Any, Any]:
    return {from_plain(key, arrays): from_plain(one, arrays) for key, one in items}


def _write_array(array: NDArray[Any], name: str, arrays: Arrays) -> dict[str, Any]:
    dtype = array.dtype
    if dtype.kind in "OUT":
        values = _write_items(array.ravel().tolist(), name, arrays)
        return {"dtype": dtype.str, "shape": list(array.shape), "values": values}
    while name in arrays:
        name += "+"
    if dtype.kind in "biuf" and dtype.itemsize <= 8:
        arrays[name] = np.array(array, dtype=dtype.newbyteorder("="), order="C")
        return {"dtype": dtype.str, "array": name}
    if dtype.kind in "fcmMS":
        arrays[name] = np.frombuffer(array.tobytes(), dtype=np.uint8)
        return {"dtype": dtype.str, "shape": list(array.shape), "bytes": name}
    raise NotPlainError(f"{name} is an array of dtype {dtype}")


def _read_array(plain: dict[str, Any], arrays: Arrays) -> NDArray[Any]:
    # The only one of numpy's dtypes that its name does not give back.
    dtype = np.dtypes.StringDType() if plain["dtype"].startswith("StringDType") else np.dtype(plain["dtype"])
    if "array" in plain:
        return arrays[plain["array"]].astype(dtype)
    if "bytes" in plain:
        return np.frombuffer(arrays[plain["bytes"]].tobytes(), dtype=dtype).reshape(plain["shape"]).copy()
    array = np.empty(len(plain["values"]), dtype=dtype)
    for index, one in enumerate(plain["values"]):
        array[index] = from_plain(one, arrays)
    return array.reshape(plain["shape"])


def _write_scalar(scalar: np.generic, name: str, arrays: Arrays) -> Any:
    if scalar.dtype.kind == "U" or (scalar.dtype.kind in "biuf" and scalar.dtype.itemsize <= 8):
        return {"dtype": scalar.dtype.str, "value": to_plain(scalar.item(), name, arrays)}
    return _write_array(np.asarray(scalar), name, arrays)


def _read_scalar(plain: dict[str, Any], arrays: Arrays) -> Any:
    if "value" in plain:
        return np.dtype(plain["dtype"]).type(from_plain(plain["value"], arrays))
    return _read_array(plain, arrays)[()]


def _write_generator(generator: np.random.RandomState, name: str, arrays: Arrays) -> Any:
    state: Any = generator.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise NotPlainError(f"{name} is a RandomState of {state['bit_generator']}")
    return to_plain(state, name, arrays)


def _read_generator(plain: Any, arrays: Arrays) -> np.random.RandomState:
    generator = np.random.RandomState()
    generator.set_state(from_plain(plain, arrays))
    return generator


def write_estimator(estimator: Any, name: str, arrays: Arrays) -> dict[str, Any]:
    """Write parameters and fitted attributes of an estimator, by :func:`to_plain`, apart from each other."""
    parameters = estimator.get_params(deep=False)
    fitted = {key: value for key, value in vars(estimator).items() if key not in parameters}
    return {
        "class": type(estimator).__qualname__,
        "parameters": to_plain(parameters, name, arrays),
        "fitted": to_plain(fitted, name, arrays),
    }


def read_estimator(plain: dict[str, Any], kind: type, arrays: Arrays) -> Any:
    """Make an estimator of what :func:`write_estimator` wrote."""
    estimator = kind(**from_plain(plain["parameters"], arrays))
    vars(estimator).update(from_plain(plain["fitted"], arrays))
    return estimator


def _write_adapter(config: PeftConfig, name: str, arrays: Arrays) -> dict[str, Any]:
    modules = getattr(config, "_custom_modules", None)
    is_bottleneck = bool(modules) and modules == bottleneck_config()._custom_modules
    plain = {"bottleneck": is_bottleneck, "values": to_plain(_values_of(config), name, arrays)}
    again = _read_adapter(plain, arrays)
    if (modules and not is_bottleneck) or type(again) is not type(config) or _values_of(again) != _values_of(config):
        raise NotPlainError(f"{name} is {describe(config)}")
    return plain


def _values_of(config: PeftConfig) -> dict[str, Any]:
    return {**config.to_dict(), "peft_type": str(getattr(config.peft_type, "value", config.peft_type))}


def _read_adapter(plain: dict[str, Any], arrays: Arrays) -> PeftConfig:
    values = from_plain(plain["values"], arrays)
    config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[values.pop("peft_type")](**values)
    if plain["bottleneck"]:
        config._register_custom_module(bottleneck_config()._custom_modules)
    return config


class _Kind(NamedTuple):
    is_of_kind: Callable[[Any], bool]
    write: Callable[[Any, str, Arrays], Any]
    read: Callable[[Any, Arrays], Any]


def _exactly(kind: type, write: Callable[[Any, str, Arrays], Any], read: Callable[[Any, Arrays], Any]) -> _Kind:
    return _Kind(lambda value: type(value) is kind, write, read)


def _any(kind: type, write: Callable[[Any, str, Arrays], Any], read: Callable[[Any, Arrays], Any]) -> _Kind:
    return _Kind(lambda value: isinstance(value, kind), write, read)


_KINDS: dict[str, _Kind] = {
    "scalar": _any(np.generic, _write_scalar, _read_scalar),
    "float": _exactly(float, lambda value, name, arrays: str(value), lambda plain, arrays: float(plain)),
    "dict": _exactly(dict, _write_dict, _read_dict),
    "tuple": _exactly(tuple, _write_items, lambda plain, arrays: tuple(from_plain(plain, arrays))),
    "set": _exactly(
        set,
        lambda value, name, arrays: _write_items(sorted(value, key=repr), name, arrays),
        lambda plain, arrays: set(from_plain(plain, arrays)),
    ),
    "range": _exactly(
        range,
        lambda value, name, arrays: [value.start, value.stop, value.step],
        lambda plain, arrays: range(*plain),
    ),
    "path": _any(Path, lambda value, name, arrays: str(value), lambda plain, arrays: Path(plain)),
    "device": _any(torch.device, lambda value, name, arrays: str(value), lambda plain, arrays: torch.device(plain)),
    "array": _any(np.ndarray, _write_array, _read_array),
    "RandomState": _exactly(np.random.RandomState, _write_generator, _read_generator),
    "history": _any(History, _write_items, lambda plain, arrays: History(from_plain(plain, arrays))),
    "adapter": _any(PeftConfig, _write_adapter, _read_adapter),
    "selection": _Kind(
        lambda value: _SELECTIONS.get(type(value).__name__) is type(value),
        write_estimator,
        lambda plain, arrays: read_estimator(plain, _SELECTIONS[plain["class"]], arrays),
    ),
}
"""Of a value, the first that it is of; types that derive from another come before it."""
