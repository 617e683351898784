"""Tells whether weights are still those that a classifier was trained on, by a hash of a part of every tensor."""

import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

# Training changes entries all over a tensor. All of them, of a backbone of 16 GB, would take longer than to load it.
_PIECES_A_TENSOR, _ENTRIES_A_PIECE = 16, 4096

FileState = tuple[int, int, int]
"""Inode, size in bytes, and time of the last change in ns."""


def fingerprint(parameters: Iterable[nn.Parameter]) -> str:
    """Hash evenly spaced pieces of some tensors, and whole tensors of up to 65,536 entries.

    It depends on neither the files' format nor their number, place or times, nor on the order and names of the tensors.
    Of quantized weights, which a GPU rounds, it takes none.

    Parameters
    ----------
    parameters : iterable of Parameter
        Weights, in the precision that a backbone computes in.

    Returns
    -------
    fingerprint : str
        Equal for equal weights.
    """
    tensors = [parameter.detach() for parameter in parameters if parameter.is_floating_point()]
    return sha256("".join(sorted(_hash(tensor) for tensor in tensors)).encode()).hexdigest()


def whole_content(learned: Mapping[str, torch.Tensor]) -> bytes:
    """Return all bytes of adapters and head, one after the other, for a hash that no change escapes."""
    return b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in learned.values())


def _hash(tensor: torch.Tensor) -> str:
    digest = sha256(str(tuple(tensor.shape)).encode())
    for piece in _pieces(tensor.reshape(-1)):
        digest.update(piece.cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _pieces(entries: torch.Tensor) -> Iterator[torch.Tensor]:
    if len(entries) <= _PIECES_A_TENSOR * _ENTRIES_A_PIECE:
        yield entries
        return
    for number in range(_PIECES_A_TENSOR):
        start = number * (len(entries) - _ENTRIES_A_PIECE) // (_PIECES_A_TENSOR - 1)
        yield entries[start : start + _ENTRIES_A_PIECE]


def weight_files(location: str) -> dict[str, FileState]:
    """Return the state of each safetensors file in a folder, by its path; of a hub id there are none."""
    folder = Path(location)
    return {str(file): _state(file) for file in folder.glob("*.safetensors")} if folder.is_dir() else {}


def _state(file: str | os.PathLike[str]) -> FileState:
    stat = os.stat(file)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def overwritten(files: dict[str, FileState]) -> list[str]:
    """Return those of some files that were written over, so that what is mapped from them changed.

    Parameters
    ----------
    files : dict of str to tuple
        What :func:`weight_files` gave.

    Returns
    -------
    paths : list of str
        A file that was removed, or replaced by another of its name, is not among them: the mapped one is kept.
    """
    return [path for path, state in files.items() if os.path.exists(path) and _is_overwritten(_state(path), state)]


def _is_overwritten(now: FileState, before: FileState) -> bool:
    return now[0] == before[0] and now != before


def is_shorter(path: str, files: dict[str, FileState]) -> bool:
    """Say whether a file is shorter than it was: to read what was mapped from its end would kill the process."""
    return os.stat(path).st_size < files[path][1]
