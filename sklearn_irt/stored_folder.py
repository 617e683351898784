"""Writes a folder whole or not at all, and tells one that is whole from one that was changed since."""

import ctypes
import errno
import glob
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from .backbone_files import digest

if sys.platform != "win32":
    import fcntl

MANIFEST = "manifest.json"
# Raised when what is written could not be read by the versions before.
FORMAT_VERSION = 1
# renameat2(2): paths are relative to the working directory; exchange them, in one step that no kill can divide.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SECONDS_TO_LOCK = 60


@contextmanager
def replaced_folder(path: str | os.PathLike[str], what: str) -> Iterator[Path]:
    """Let a block write a folder, which takes the place of the one at ``path`` when the block ends without an error.

    A kill or a full disk at any moment leaves the old folder, or the new one, whole. Where the system cannot exchange
    two folders in one step (it can on Linux), a kill between two steps may leave the old one under another name, by
    which :func:`check_folder` finds it.

    Parameters
    ----------
    path : str or path-like
        The folder to write. One that is there already must be empty, or have been written here as the same thing.
    what : str
        What it will hold, for the manifest.

    Yields
    ------
    folder : Path
        An empty folder beside it. Its manifest is written when the block ends.

    Raises
    ------
    FileExistsError
        If there is something else at ``path``.
    OSError
        If it cannot be written.
    """
    target = Path(path).expanduser().resolve()
    if _previous(target).exists() and not target.exists():
        _previous(target).rename(target)
    _check_replaceable(target, what)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _neighbour(target) as folder:
            yield folder
            _write_manifest(folder, what)
            _reach_the_disk(folder)
            _put_in_place(folder, target)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(target, error) from error


def _check_replaceable(target: Path, what: str) -> None:
    if Path.cwd().is_relative_to(target):
        raise FileExistsError(errno.EEXIST, "This is, or holds, the working directory: choose another path", target)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if _read_manifest(target).get("what") != what:
        raise FileExistsError(
            errno.EEXIST, f"This exists and was not written as {what}, so it is left alone: choose another path", target
        )
    if others := _files_of_others(target):
        raise FileExistsError(
            errno.EEXIST,
            f"{others[0].name} was not written as {what}, so the folder is left alone: choose another path",
            target,
        )


def _files_of_others(target: Path) -> list[Path]:
    """Return what lies in a folder and was not written with it."""
    written = {MANIFEST, *_read_manifest(target).get("files", {})}
    folders = {parent.as_posix() for name in written for parent in Path(name).parents}
    found = ((path, path.relative_to(target).as_posix()) for path in sorted(target.rglob("*")))
    return [path for path, name in found if name not in written | folders]


def _cannot_write(target: Path, error: Exception) -> OSError:
    number = getattr(error, "errno", None) or (errno.ENOSPC if "No space left" in str(error) else errno.EIO)
    advice = "free some disk space or choose another place" if number == errno.ENOSPC else "choose another place"
    return OSError(number, f"{target} could not be written, and is as it was before ({error}): {advice}")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


@contextmanager
def _neighbour(target: Path) -> Iterator[Path]:
    """Make a folder beside another; in the end remove what then has its name, and what killed processes left."""
    for abandoned in target.parent.glob(f".{glob.escape(target.name)}-*.unfinished"):
        with suppress(FileNotFoundError):  # whoever wrote it is ready by now
            _remove_abandoned(abandoned)
    folder = target.with_name(f".{target.name}-{secrets.token_hex(4)}.unfinished")
    folder.mkdir()
    lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    # One that was made just now may not be locked yet.
    if time.time() - folder.stat().st_mtime > _SECONDS_TO_LOCK and (lock := _lock(folder)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Hold a folder until the descriptor is closed, or the process ends; None where that cannot be had."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _write_manifest(folder: Path, what: str) -> None:
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = {"what": what, "format_version": FORMAT_VERSION, "written_by": f"sklearn_irt {version('sklearn_irt')}"}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": files}, indent=1), encoding="utf-8")


def _reach_the_disk(folder: Path) -> None:
    """Wait until the files of a folder, and then their names, are on the disk."""
    paths = sorted([folder, *folder.rglob("*")], key=lambda path: path.is_dir())
    for path in paths:
        if path.is_file() or sys.platform != "win32":  # Windows cannot open folders
            descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _put_in_place(folder: Path, target: Path) -> None:
    """Give a folder its name; what had it before has the folder's name then, or none."""
    with suppress(OSError):  # where there is a folder already, another thread's of just now perhaps
        folder.rename(target)
    if folder.exists() and not _exchange(folder, target):
        shutil.rmtree(_previous(target), ignore_errors=True)
        target.rename(_previous(target))
        folder.rename(target)
        shutil.rmtree(_previous(target), ignore_errors=True)
    if sys.platform != "win32":
        descriptor = os.open(target.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _exchange(folder: Path, target: Path) -> bool:
    """Exchange two folders in one step, or say that this system, or this disk, cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    names = os.fsencode(folder), os.fsencode(target)
    return rename is not None and rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def check_folder(path: str | os.PathLike[str], what: str) -> Path:
    """Find a folder that :func:`replaced_folder` wrote, and check that it is as it was written.

    Files beside those that were written are not looked at.

    Parameters
    ----------
    path : str or path-like
        The folder.
    what : str
        What it must hold.

    Returns
    -------
    folder : Path
        Where it is.

    Raises
    ------
    FileNotFoundError
        If it, or one of its files, is not there.
    ValueError
        If it holds something else, was written by a version that knows more, or was changed since; the message names
        the file.
    """
    folder = Path(path).expanduser().resolve()
    if not folder.exists() and _previous(folder).exists():
        folder = _previous(folder)  # the process that wrote was killed between two steps
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder", str(folder))
    manifest = _read_manifest(folder)
    if manifest.get("what") != what or not _is_well_formed(manifest):
        raise ValueError(f"{folder} holds no {what}: it has no {MANIFEST}, or one that says something else.")
    if manifest["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{folder} was written by {manifest['written_by']} in format {manifest['format_version']}, but this "
            f"version reads formats up to {FORMAT_VERSION}: upgrade sklearn-irt."
        )
    for name, written in manifest["files"].items():
        _check_file(folder / name, written)
    return folder


def _is_well_formed(manifest: dict[str, Any]) -> bool:
    files = manifest.get("files")
    return (
        isinstance(manifest.get("format_version"), int)
        and isinstance(manifest.get("written_by"), str)
        and isinstance(files, dict)
        and all(_is_inside(name) and isinstance(written, dict) for name, written in files.items())
    )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _check_file(file: Path, written: dict[str, Any]) -> None:
    if not file.is_file():
        raise FileNotFoundError(errno.ENOENT, "A file that was saved is missing: copy the whole folder", str(file))
    n_bytes = file.stat().st_size
    if n_bytes != written.get("bytes"):
        raise ValueError(
            f"{file} was changed since it was saved: it has {n_bytes} bytes instead of {written.get('bytes')}. "
            "Copy it anew."
        )
    if digest(file) != written.get("sha256"):
        raise ValueError(f"{file} was changed since it was saved: its content is another. Copy it anew.")
    if file.suffix == ".safetensors":
        _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, "np"):
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{file} is no safetensors file, whatever its name says ({error}). "
            "A pickle, which can run code, is not read."
        ) from error
