"""Keeps what a comparison has measured in a file of JSON lines, and finds it again in a later call."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import sklearn
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator

from .backbone_files import cached_commit, file_times, locate_backbone
from .checkpoints import describe_differences, describe_fit, describe_parameter, hash_of
from .classifier import IRTuningClassifier
from .features import BackboneFeatures
from .prefix import processor

_KIND = "results of sklearn_irt.compare"
_FORMAT = 1


def describe_comparison(X: Any, y: Any, splits: Sequence[Any], scoring: Any) -> dict[str, str]:
    """Say what all results of a comparison depend on, so that two can be told apart by what differs.

    Parameters
    ----------
    X, y : indexable
        The rows.
    splits : sequence of tuples of two ndarrays of int
        Rows to train on and to score.
    scoring : str, callable, list, tuple, dict or None
        As :func:`~sklearn_irt.compare` has it.

    Returns
    -------
    description : dict of str to str
        Short values as they are, long ones as their hash.
    """
    columns = [str(column) for column in getattr(X, "columns", ())]
    data = {
        "X": joblib.hash([columns, _plain(X)]),
        "y": joblib.hash(_plain(y)),
        "the splits of cv": joblib.hash([[rows.tolist() for rows in split] for split in splits]),
    }
    description = describe_fit({"scoring": scoring if isinstance(scoring, str) else _describe(scoring)}, data, ())
    del description["the files of the backbone"]  # each estimator has its own
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {**description, "the version of scikit-learn": sklearn.__version__, "the processor": processor() + gpu}


def _plain(rows: Any) -> Any:
    """Return rows as lists, which have the same hash whatever container they came in."""
    return rows if issparse(rows) else np.asarray(rows, dtype=object).tolist()


def describe_estimator(estimator: BaseEstimator) -> str:
    """Return a hash of the kind and the parameters of an estimator, and of what it holds, but ``verbose``.

    Of a backbone in a folder the names, sizes and times of its files count, too.

    Functions, and objects without parameters, count by their name alone.
    """
    return hash_of(_describe(estimator))


def _describe(value: Any) -> Any:
    if hasattr(value, "get_params") and not isinstance(value, type):
        parameters = value.get_params(deep=False).items()
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        described = {name: _describe_named(name, value) for name, value in parameters if name != "verbose"}
        return [kind, described, _describe_backbone(value)]
    if isinstance(value, Mapping):
        return {str(name): _describe_named(str(name), entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return joblib.hash(value)  # its text may leave most of it out
    return describe_parameter("", value)


def _describe_backbone(estimator: Any) -> list[Any]:
    """Return which files the backbone of an estimator has, if it has one: the same name may be of others by then."""
    if not isinstance(estimator, (IRTuningClassifier, BackboneFeatures)):
        return []
    location = locate_backbone(estimator.backbone)
    return [file_times(location), cached_commit(location, estimator.backbone_options)]


def _describe_named(name: str, value: Any) -> Any:
    # Options may hold a token, which differs from day to day and must not be written.
    return describe_parameter(name, value or {}) if name == "backbone_options" else _describe(value)


class ResultsFile:
    """A file of JSON lines: what comparison it is of, then a line for each split of each estimator.

    Parameters
    ----------
    path : str or path-like
        Made, with its folder, if it does not exist. A last line that was not written to its end is cut off.
    description : dict of str to str
        From :func:`describe_comparison`.

    Attributes
    ----------
    lines : list of dict
        The results that it held.

    Raises
    ------
    ValueError
        If the file is of another comparison, damaged, or something else.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], description: dict[str, str]) -> None:
        self.path = Path(path).expanduser()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.read_bytes() if self.path.exists() else b""
        header, *self.lines = self._read(written) or [None]
        if header is None:
            self._write({"kind": _KIND, "format": _FORMAT, "description": description})
            return
        self._check_belongs(header, description)
        with self.path.open("r+b") as file:
            file.truncate(written.rfind(b"\n") + 1)

    def append(self, line: dict[str, Any]) -> None:
        """Write a result; where that fails, for want of space say, warn, for the comparison need not be lost."""
        try:
            self._write(line)
        except OSError as error:
            warnings.warn(
                f"results_file={str(self.path)!r} cannot be written ({error.strerror}): this result is in the table "
                "alone.",
                UserWarning,
                stacklevel=3,
            )

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self, written: bytes) -> list[Any]:
        """Return what the lines hold that were written to their ends."""
        read = []
        for number, line in enumerate(written.split(b"\n")[:-1], start=1):
            try:
                read.append(json.loads(line))
            except ValueError as error:
                if number == 1:
                    break
                raise ValueError(
                    f"Line {number} of results_file={str(self.path)!r} is damaged: remove it, and call again."
                ) from error
        if written and not read:
            raise self._another_file()
        return read

    def _check_belongs(self, header: Any, description: dict[str, str]) -> None:
        if not isinstance(header, dict) or header.get("kind") != _KIND:
            raise self._another_file()
        if header["format"] != _FORMAT:
            raise ValueError(f"results_file={str(self.path)!r} was written by another version: name another file.")
        differences = describe_differences(header["description"], description)
        if differences:
            raise ValueError(
                f"results_file={str(self.path)!r} is of another comparison: {differences}. To go on, give what it was "
                "begun with (splits that are drawn at random need a random_state); otherwise name another file."
            )

    def _another_file(self) -> ValueError:
        return ValueError(
            f"results_file={str(self.path)!r} is a file of something else: name another one, which need not exist."
        )
