"""Checkpoints of a fit: written while it runs, found again by a later process, and refused where they do not belong."""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from skorch.callbacks import Callback

from .distributed import ALONE, Processes
from .plain_data import Arrays, NotPlainError, from_plain, to_plain
from .prefix import VERSION, processor
from .stored_backbone import without_secrets
from .training_state import capture_training_state

_FORMAT = 1
_KEPT = 2
_DIGITS = 9
_METADATA = "checkpoint"


class Checkpoints(Callback):
    """Write the training state every so many steps and at the end of each epoch; older checkpoints are removed.

    A checkpoint that cannot be written, for want of space say, is no reason to lose the fit: a warning says so.

    Parameters
    ----------
    folder : Path
        Where to. It must exist.
    interval : int
        Steps between two checkpoints.
    description : dict of str to str
        What fit this is, from :func:`describe_fit`.
    found : dict, default=None
        The checkpoint that the fit goes on from.
    """

    def __init__(
        self, folder: Path, interval: int, description: dict[str, str], found: dict[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.interval = interval
        self.description = description
        self.found = found
        self.begun_with: dict[str, Any] = {}
        self.processes = ALONE

    @property
    def state(self) -> dict[str, Any] | None:
        """The training state that the fit goes on from."""
        return None if self.found is None else self.found["state"]

    def begin(self, random_state: np.random.RandomState, processes: Processes) -> None:
        """Put the generator where it was when the fit that goes on began; of a new one, note where that is.

        Of processes that train together the first one alone writes.
        """
        self.processes = processes
        if self.found is None:
            self.begun_with["generator"] = random_state.get_state(legacy=False)
            return
        self.begun_with = {name: self.found[name] for name in ("generator", "precision", "processor", "weights")}
        random_state.set_state(self.found["generator"])
        if self.found["processor"] != self._computed_by:
            warnings.warn(
                f"The checkpoint in {self.folder} was written with other threads or instructions of the processor, or "
                f"by another number of processes ({self.found['processor']}, now {self._computed_by}): the last bits "
                "of the result may differ from those of a fit that nobody stopped.",
                UserWarning,
                stacklevel=4,
            )

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Remove what a killed process left unfinished, and the checkpoints of a fit that does not go on."""
        if not self.processes.is_first:
            return
        # What is newer than the one that was read is damaged.
        n_steps = net.callback("selected_layers").n_steps
        stale = [file for file in _files(self.folder) if self.found is None or _step_of(file) > n_steps]
        self._remove([*self.folder.glob(".step-*"), *stale])

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Learn before the first step whether the strategy's attributes can be stored."""
        selected_layers = net.callback("selected_layers")
        if selected_layers.n_steps == 0:
            _as_plain(selected_layers.position(), {})

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Write a checkpoint, if it is time."""
        selected_layers = net.callback("selected_layers")
        n_steps = selected_layers.n_steps
        at_end = n_steps % selected_layers.selection.steps_per_epoch_ == 0
        if training and (at_end or n_steps % self.interval == 0):
            state = capture_training_state(net)  # for which all processes are asked
            if self.processes.is_first:
                self._write(n_steps, {**self._header, "state": state})

    @property
    def _header(self) -> dict[str, Any]:
        return {"format": _FORMAT, "description": self.description, "processor": self._computed_by, **self.begun_with}

    @property
    def _computed_by(self) -> str:
        return processor() + (f", {self.processes.n} processes" if self.processes.n > 1 else "")

    def _write(self, n_steps: int, checkpoint: dict[str, Any]) -> None:
        try:
            _write_whole(self.folder / f"step-{n_steps:0{_DIGITS}}.safetensors", _write_bytes(checkpoint))
        except OSError as error:
            warnings.warn(
                f"No checkpoint of step {n_steps} in {self.folder} ({error.strerror}); training goes on, and the "
                "checkpoint before is kept.",
                UserWarning,
                stacklevel=2,
            )
            return
        self._remove(_files(self.folder)[_KEPT:])

    def _remove(self, files: list[Path]) -> None:
        for file in files:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                warnings.warn(f"{file} cannot be removed ({error.strerror}).", UserWarning, stacklevel=2)


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first; what others call a step is none of them."""
    names = f"step-{'[0-9]' * _DIGITS}.safetensors"
    return sorted((file for file in folder.glob(names) if file.is_file()), reverse=True)


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


def _write_bytes(checkpoint: dict[str, Any]) -> bytes:
    arrays: Arrays = {}
    plain = _as_plain(checkpoint, arrays)
    return save(arrays, {_METADATA: json.dumps(plain, allow_nan=False)})


def _as_plain(content: dict[str, Any], arrays: Arrays) -> Any:
    try:
        return to_plain(content, "checkpoint", arrays)
    except NotPlainError as error:
        raise TypeError(
            f"checkpoint_dir cannot be used: {error}, which only pickle could write. Let a strategy keep numbers, "
            "strings, arrays, and dicts, lists, tuples and sets of them."
        ) from error


def _read(file: Path) -> dict[str, Any]:
    with safe_open(file, "np") as stored:
        arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no mapping
        return from_plain(json.loads(stored.metadata()[_METADATA]), arrays)


def _write_whole(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def open_checkpoints(
    folder: str | os.PathLike[str], interval: int, description: dict[str, str], *, resume: str
) -> Checkpoints:
    """Find the checkpoint that a fit goes on from, and prepare to write others.

    Parameters
    ----------
    folder : str or path-like
        Made if it does not exist.
    interval : int
        Steps between two checkpoints.
    description : dict of str to str
        What fit this is, from :func:`describe_fit`.
    resume : {"auto", "never"}
        Whether to look for a checkpoint.

    Returns
    -------
    checkpoints : Checkpoints
        The callback that writes them.

    Raises
    ------
    OSError
        If nothing can be written there.
    ValueError
        See :func:`find_checkpoint`.
    """
    path = _open_folder(folder)
    found = find_checkpoint(path, description) if resume == "auto" else None
    return Checkpoints(path, interval, description, found)


def _open_folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".step-trial-{os.getpid()}"
        trial.write_bytes(b"1")
        trial.unlink()
    except OSError as error:
        raise OSError(
            error.errno,
            f"checkpoint_dir={os.fspath(folder)!r}: nothing can be written there ({error.strerror}); name another "
            "folder, or free some space",
        ) from error
    return path


def find_checkpoint(folder: Path, description: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the newest checkpoint of a folder that can be read.

    Parameters
    ----------
    folder : Path
        The folder.
    description : mapping of str to str
        From :func:`describe_fit`.

    Returns
    -------
    checkpoint : dict or None
        What was written; None if there are no files of checkpoints.

    Raises
    ------
    ValueError
        If it belongs to another fit, or no file can be read.
    """
    files = _files(folder)
    for file in files:
        try:
            checkpoint = _read(file)
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            kind = type(error).__name__
            warnings.warn(f"The checkpoint {file} is damaged, or none ({kind}), and is passed over.", stacklevel=8)
            continue
        _check_belongs(file, checkpoint, description)
        return checkpoint
    if files:
        raise ValueError(
            f"No checkpoint in checkpoint_dir={str(folder)!r} can be read: remove them, or set resume='never' to begin "
            "anew."
        )
    return None


def _check_belongs(file: Path, checkpoint: Any, description: Mapping[str, str]) -> None:
    is_one = isinstance(checkpoint, dict) and isinstance(checkpoint.get("description"), dict)
    if not is_one or checkpoint.get("format") != _FORMAT:
        raise ValueError(f"The checkpoint {file} is of a format that this version does not read: see resume='never'.")
    differences = describe_differences(checkpoint["description"], description)
    if differences:
        raise ValueError(
            f"The checkpoint {file} is of another fit: {differences}. To go on, give what it was begun with; otherwise "
            "name another checkpoint_dir, or set resume='never', which removes it."
        )


def describe_differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say in words in what two descriptions differ, of :func:`describe_fit` say; the empty text if in nothing."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(_contrast(name, before, now) for name in changed)


def _contrast(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    values = before.get(name, "missing"), now.get(name, "missing")
    hidden = any(value.startswith("sha256:") for value in values)
    return f"{name} changed" if hidden else f"{name} was {values[0]} and is {values[1]}"


def describe_fit(parameters: Mapping[str, Any], data: Mapping[str, Any], files: Sequence[Any]) -> dict[str, str]:
    """Say what a fit depends on, so that two can be told apart by what differs.

    Parameters
    ----------
    parameters : mapping of str to Any
        Those of the estimator that its result depends on.
    data : mapping of str to Any
        What it learns from, by the names that an error gives: values that JSON can hold, or bytes.
    files : sequence
        The backbone's files.

    Returns
    -------
    description : dict of str to str
        Short values as they are, long ones as their hash.
    """
    described = {name: describe_parameter(name, value) for name, value in parameters.items()}
    described |= {name: hash_of(value) for name, value in data.items()}
    versions = {"sklearn_irt": VERSION, "torch": str(torch.__version__), "transformers": transformers.__version__}
    versions["peft"] = peft.__version__
    described |= {f"the version of {package}": version for package, version in versions.items()}
    return {**described, "the files of the backbone": hash_of(list(files))}


def describe_parameter(name: str, value: Any) -> str:
    """Return a parameter's value as text if that is short, otherwise its hash."""
    if name == "backbone_options":
        return hash_of(sorted((key, str(option)) for key, option in without_secrets(value).items()))
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if hasattr(value, "to_dict"):
        return hash_of(sorted((key, _write(setting)) for key, setting in value.to_dict().items()))
    if isinstance(value, np.random.RandomState):
        return hash_of(str(value.get_state(legacy=False)))
    text = re.sub(" at 0x[0-9a-f]+", "", _write(value))  # functions have another place in each process
    return text if len(text) <= 60 else hash_of(text)


def _write(value: Any) -> str:
    if isinstance(value, (set, frozenset)):  # their order is another one in each process
        return f"{type(value).__name__}({sorted(map(repr, value))})"
    return f"{type(value).__name__}({value.get_params()})" if hasattr(value, "get_params") else repr(value)


def hash_of(value: Any) -> str:
    """Return a hash of bytes, or of what JSON can hold."""
    content = value if isinstance(value, bytes) else json.dumps(value, default=str).encode()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
