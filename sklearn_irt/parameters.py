"""Refuses parameters of an estimator that scikit-learn's own check lets through, or does not explain."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError


def refuse_booleans(estimator: BaseEstimator) -> None:
    """Refuse True and False where a number is asked for: to Python they are 1 and 0.

    Parameters
    ----------
    estimator : BaseEstimator
        Whose ``_parameter_constraints`` say what a parameter may be; those that they do not name are let through.

    Raises
    ------
    InvalidParameterError
        If a parameter that is neither "boolean" nor "verbose" is one of them.
    """
    for name, value in estimator.get_params(deep=False).items():
        allowed = estimator._parameter_constraints.get(name, ["boolean"])
        if isinstance(value, (bool, np.bool_)) and "boolean" not in allowed and "verbose" not in allowed:
            raise InvalidParameterError(
                f"The {name!r} parameter of {type(estimator).__name__} must not be {value}, which Python would read as "
                f"{int(value)}: give a number."
            )


def check_pair_format(pair_format: Any) -> None:
    """Refuse a callable that does not take two texts.

    Parameters
    ----------
    pair_format : str or callable
        What an estimator was given.

    Raises
    ------
    TypeError
        If it is a callable of another number of arguments, as far as Python can tell.
    """
    if not callable(pair_format):
        return
    try:
        signature = inspect.signature(pair_format)
    except ValueError:  # of some functions that are written in C
        return
    try:
        signature.bind("before", "after")
    except TypeError as error:
        raise TypeError(
            f"pair_format={pair_format!r} must take two texts, before and after, and return one, but it takes "
            f"{signature}."
        ) from error


def check_nested(estimator: BaseEstimator, parameters: Mapping[str, Any]) -> None:
    """Refuse to set a parameter of something that has none, such as ``selection__n_splits`` of the string "ir".

    Parameters
    ----------
    estimator : BaseEstimator
        Whose parameters are set.
    parameters : mapping of str to object
        What is set.

    Raises
    ------
    ValueError
        If there is a name ``a__b``, and ``a`` is a parameter whose value has no ``set_params``.
    """
    values = {**estimator.get_params(deep=False), **parameters}
    for name in parameters:
        outer, delimiter, inner = name.partition("__")
        if delimiter and outer in values and not hasattr(values[outer], "set_params"):
            raise ValueError(
                f"{name} cannot be set, for {outer}={values[outer]!r} is no object with a parameter {inner!r}: set "
                f"{outer} to an object first, or to several that differ in it."
            )
