"""Says which backbone a classifier was fitted on, and finds the same one again, without going online where it can."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from .backbone import Backbone, load_backbone
from .backbone_files import ALIASES, cached_folder, content_files, digest, find_source

# Options that only say where weights lie. Others may run code, or let files be read that can: they are not taken from a
# file, but from whoever loads it.
_HARMLESS_OPTIONS = ("revision", "subfolder", "variant", "cache_dir", "local_files_only", "force_download")
_HARMLESS_ATTENTION = ("eager", "sdpa")
_SECRET_OPTIONS = ("token", "use_auth_token", "proxies")


def without_secrets(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``backbone_options`` without those that must not be written anywhere."""
    return {name: value for name, value in (options or {}).items() if name not in _SECRET_OPTIONS}


def risky_options(options: Mapping[str, Any] | None) -> list[str]:
    """Return the names of those ``backbone_options`` that only whoever loads a file may set."""
    options = without_secrets(options)
    if options.get("attn_implementation") in _HARMLESS_ATTENTION:
        del options["attn_implementation"]
    return sorted(set(options) - set(_HARMLESS_OPTIONS))


def record_backbone(backbone: Backbone) -> dict[str, Any]:
    """Describe a backbone so that another process finds it, and knows it from any other.

    Parameters
    ----------
    backbone : Backbone
        In use.

    Returns
    -------
    record : dict
        "name"; "kind", which is "alias", "local" or "hub"; "commit" of a hub id; and "sha256" of its files, by name.

    Raises
    ------
    ValueError
        If its files are gone, or were changed since it was loaded.
    """
    name, options = backbone.origin["backbone"], backbone.origin["options"]
    source = find_source(name)
    kind = "alias" if name in ALIASES else "local" if os.path.exists(source) else "hub"
    if kind != "hub" and not _is_unchanged(backbone):
        raise ValueError(f"The files of backbone={name!r} were changed since it was loaded: fit again, then save.")
    folder = Path(source) if kind != "hub" else Path(cached_folder(name, {**options, "local_files_only": True}))
    files = _content_files(folder, options)
    sha256 = {key: digest(file) for key, file in files.items()}
    return {"name": name, "kind": kind, "commit": backbone.commit, "sha256": sha256}


def _is_unchanged(backbone: Backbone) -> bool:
    # It is still in memory, unless its files have other times.
    origin = {**backbone.origin, "dropped": (), "weights": None}
    return load_backbone(origin.pop("backbone"), **origin).origin["weights"] == backbone.origin["weights"]


def _content_files(source: Path, options: Mapping[str, Any]) -> dict[str, Path]:
    folder = source / options["subfolder"] if options.get("subfolder") else source
    return content_files(folder, options.get("variant"))


def find_again(record: Mapping[str, Any], name: str | os.PathLike[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Find the backbone that :func:`record_backbone` described, and check that it is that one.

    Parameters
    ----------
    record : mapping
        What was described.
    name : str or path-like
        Where it is now.
    options : mapping
        ``backbone_options``.

    Returns
    -------
    options : dict
        What loads it; of a hub id the files in the cache and nothing else.

    Raises
    ------
    ValueError
        If it cannot be found, or is another; the message names the file that differs.
    """
    name = os.fspath(name)
    if name == record["name"] and record["kind"] == "local" and not os.path.exists(name):
        raise ValueError(f"The backbone {name!r} is not on this machine: pass load(..., backbone=) with its place.")
    source, options = find_source(name), dict(options)
    if not os.path.exists(source):
        commit = record["commit"] if name == record["name"] else options.get("revision")
        folder = _find_or_fetch(name, commit, record["sha256"], options)
        options |= {"revision": folder.name, "local_files_only": True}
        source = str(folder)
    _check_same(record, name, _content_files(Path(source), options))
    return options


def _find_or_fetch(hub_id: str, commit: str | None, files: Mapping[str, str], options: Mapping[str, Any]) -> Path:
    """Return the folder of a hub id's files in the cache, and fetch them only where some are not there."""
    try:
        folder = Path(cached_folder(hub_id, {**options, "revision": commit, "local_files_only": True}))
        if set(files) <= set(_content_files(folder, options)):
            return folder
    except LocalEntryNotFoundError:
        pass
    inner = f"{options['subfolder']}/" if options.get("subfolder") else ""
    patterns = [inner + name for name in (*files, "*.json", "*.txt", "*.model")]
    place = {name: options[name] for name in ("cache_dir", "token", "local_files_only") if name in options}
    try:
        return Path(snapshot_download(hub_id, revision=commit, allow_patterns=patterns, **place))
    except (OSError, ValueError) as error:
        raise ValueError(f"The backbone {hub_id!r} is not in the cache, and could not be fetched: {error}") from error


def _check_same(record: Mapping[str, Any], name: str, files: Mapping[str, Path]) -> None:
    for key, sha256 in record["sha256"].items():
        if key not in files or digest(files[key]) != sha256:
            what = f"has no file {key!r}" if key not in files else f"has another {key!r}"
            raise ValueError(
                f"backbone={name!r} is not the one that the classifier was fitted on ({record['name']!r}): it {what}. "
                "Pass load(..., backbone=) with the place of the same files."
            )
