"""Turns what a fit knows besides tensors into plain Python data and tensors, which can be read back without pickle."""

from typing import Any

import numpy as np
import torch

_SIMPLE = (bool, int, float, str, type(None))


def to_plain(value: Any, name: str = "") -> Any:
    """Replace arrays by tensors and numpy's scalars by Python's, in nested containers.

    Parameters
    ----------
    value : None, bool, int, float, str, ndarray, numpy scalar, or a dict, list, tuple or set of these
        What to turn into plain data.
    name : str, default=""
        What it is called, for the error.

    Returns
    -------
    plain : Any
        A copy that holds no array; :func:`from_plain` makes arrays of the tensors.

    Raises
    ------
    TypeError
        If it holds anything else.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy())
    if type(value) in _SIMPLE:
        return value
    if type(value) is dict:
        return {to_plain(key, name): to_plain(entry, name) for key, entry in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(to_plain(entry, name) for entry in value)
    raise TypeError(
        f"{name} holds a {type(value).__name__}, which cannot be stored without pickle: use numbers, strings, numeric "
        "arrays, and dicts, lists, tuples and sets of them."
    )


def from_plain(plain: Any) -> Any:
    """Return what :func:`to_plain` was given, with arrays in the place of tensors."""
    if isinstance(plain, torch.Tensor):
        return plain.numpy().copy()
    if type(plain) is dict:
        return {key: from_plain(entry) for key, entry in plain.items()}
    if type(plain) in (list, tuple, set):
        return type(plain)(from_plain(entry) for entry in plain)
    return plain
