"""Keeps prefix states: in memory for the next fit, in a mapped file where they are too many, or with joblib."""

import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import psutil
import torch
from joblib import Memory
from numpy.typing import NDArray

# bfloat16 has the range of fp32: hidden states of some backbones are beyond what float16 can hold.
STORED_DTYPE = torch.bfloat16
_MOST_BYTES_BETWEEN_FITS = 2**30
SHARE_OF_FREE_MEMORY = 0.5


class StatesKey(NamedTuple):
    """What prefix states depend on."""

    backbone: str
    """See :attr:`Backbone.identity`."""
    first_layer: int
    """The layer that they enter."""
    token_ids: tuple[int, ...]
    """The text."""


class StatesStore(Protocol):
    """Where prefix states are kept, each a tensor of shape (n_tokens, hidden_size) in bfloat16."""

    place: str
    """Where that is, in words."""

    def get(self, key: StatesKey) -> torch.Tensor | None:
        """Return the states of a text, or None."""

    def put(self, key: StatesKey, states: torch.Tensor) -> torch.Tensor:
        """Keep the states of a text, and return them from where they are kept."""


class StatesInMemory:
    """Keeps states in this process, for all its estimators; the ones longest unused give way.

    Parameters
    ----------
    most_bytes : int
        How much is kept. Whoever computed more holds the rest himself.
    """

    place = "in memory"

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.n_bytes = 0
        self._states: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> torch.Tensor | None:
        """Return the states of a text, or None."""
        with self._lock:
            if key in self._states:
                self._states.move_to_end(key)
            return self._states.get(key)

    def put(self, key: Hashable, states: torch.Tensor) -> torch.Tensor:
        """Keep the states of a text, and return them."""
        with self._lock:
            if key not in self._states:
                self._states[key] = states
                self.n_bytes += states.nbytes
            while self.n_bytes > self.most_bytes:
                _, oldest = self._states.popitem(last=False)
                self.n_bytes -= oldest.nbytes
        return states

    def clear(self) -> None:
        """Forget all states."""
        with self._lock:
            self._states.clear()
            self.n_bytes = 0


between_fits = StatesInMemory(_MOST_BYTES_BETWEEN_FITS)


class StatesOnDisk:
    """Keeps states in a mapped file, and knows those that :data:`between_fits` has.

    Parameters
    ----------
    folder : path-like
        Where the file is written; whoever made the folder removes it.
    n_tokens, hidden_size : int
        What will be put, in all.

    Raises
    ------
    OSError
        If the disk has no room for it.
    """

    def __init__(self, folder: str | os.PathLike[str], n_tokens: int, hidden_size: int) -> None:
        n_bytes = n_tokens * hidden_size * STORED_DTYPE.itemsize
        path = Path(folder) / "prefix_states"
        self.place = f"in the temporary file {path}"
        try:
            _reserve(path, n_bytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"prefix_cache='disk' needs {n_bytes / 1e9:.2f} GB in {path.parent}, which cannot be had "
                f"({error.strerror}): free some, let TMPDIR name another folder, or use prefix_cache='memory'",
            ) from error
        states = torch.from_file(str(path), shared=True, size=n_tokens * hidden_size, dtype=STORED_DTYPE)
        self._states = states.view(n_tokens, hidden_size)
        self._n_put = 0

    def get(self, key: StatesKey) -> torch.Tensor | None:
        """Write the states of a text that an earlier fit left in memory, and return them, or None."""
        states = between_fits.get(key)
        return None if states is None else self.put(key, states)

    def put(self, key: StatesKey, states: torch.Tensor) -> torch.Tensor:
        """Write the states of a text, and return them as they are in the file."""
        written = self._states[self._n_put : self._n_put + len(states)]
        written.copy_(states)
        self._n_put += len(states)
        return written


def _reserve(path: Path, n_bytes: int) -> None:
    # A mapped file with holes kills the process when the disk is full; so the room is taken beforehand.
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            for start in range(0, n_bytes, 2**24):
                file.write(bytes(min(2**24, n_bytes - start)))


@contextmanager
def open_store(prefix_cache: str, n_tokens: int, hidden_size: int) -> Iterator[StatesStore]:
    """Open the store of one fit; what it keeps on disk is removed at the end, also after an error or Ctrl-C.

    Parameters
    ----------
    prefix_cache : {"auto", "memory", "disk"}
        Where states are kept; "auto" takes the memory while they need no more than half of what is free.
    n_tokens, hidden_size : int
        Size of all the states.

    Yields
    ------
    store : StatesInMemory or StatesOnDisk
        The store.
    """
    n_bytes = n_tokens * hidden_size * STORED_DTYPE.itemsize
    fits = n_bytes <= SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available
    if prefix_cache == "memory" or (prefix_cache == "auto" and fits):
        yield between_fits
        return
    with tempfile.TemporaryDirectory(prefix="sklearn_irt-", ignore_cleanup_errors=True) as folder:
        yield StatesOnDisk(folder, n_tokens, hidden_size)


def open_memory(memory: Any) -> Memory | None:
    """Turn a ``memory`` parameter into joblib's Memory, or None; refuse with an OSError what is no folder to write."""
    if memory is None or isinstance(memory, Memory):
        return memory
    if not os.fspath(memory):
        raise ValueError("memory='' names no folder: give one, or None.")
    try:
        return Memory(os.fspath(memory), verbose=0)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"memory={os.fspath(memory)!r} cannot be written ({error.strerror}): give another folder, or None",
        ) from error


def read_from_memory(memory: Memory, key: StatesKey) -> torch.Tensor | None:
    """Return the states that joblib keeps for a text, or None."""
    cached = memory.cache(_states_as_array, ignore=["states"])
    try:
        if not cached.check_call_in_cache(*key, states=None):
            return None
        return torch.from_numpy(cached(*key, states=None)).view(STORED_DTYPE)
    except (_UnreadableEntryError, OSError):  # joblib also writes here
        return None


def write_to_memory(memory: Memory, key: StatesKey, states: torch.Tensor) -> None:
    """Let joblib keep the states of a text; where the disk is full, warn, for a fit can do without."""
    try:
        memory.cache(_states_as_array, ignore=["states"])(*key, states=states)
    except OSError as error:
        warnings.warn(
            f"Unable to cache to disk, in memory={memory.location!r} ({error}): free some room, or give another one.",
            UserWarning,
            stacklevel=2,
        )


class _UnreadableEntryError(LookupError):
    """Says that a file of joblib's is damaged, or was removed meanwhile."""


def _states_as_array(
    backbone: str, first_layer: int, token_ids: tuple[int, ...], states: torch.Tensor | None
) -> NDArray[Any]:
    if states is None:
        raise _UnreadableEntryError  # joblib cannot read the file, and asks for the states to be computed
    # numpy has no bfloat16. The states are no part of the key: the other three say all that they depend on.
    return states.contiguous().view(torch.int16).numpy()
