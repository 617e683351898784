"""Revision corpora: a small sample that ships with the package, and the published ITERATER."""

import json
import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch

COLUMNS = ["before", "after"]
_ITERATER_HUB_ID = "wanyu/IteraTeR_human_sent"
_HUB_SPLITS = {"train": "train", "dev": "validation", "test": "test"}

_SAMPLE_DESCRIPTION = """\
Sample of sentence revisions
----------------------------
400 pairs of a sentence before and after a revision, 80 of each of five intentions (clarity, coherence, fluency,
meaning-changed, style; the taxonomy of ITERATER, Du et al., ACL 2022), from 40 fields of writing. They were written
for this package, for trying it out: they are no research data.
"""
_ITERATER_DESCRIPTION = """\
ITERATER-HUMAN, sentence level
------------------------------
Revisions of Wikipedia, arXiv and news texts with their intentions, annotated by people. Du et al., "Understanding
Iterative Revision from Human-Written Text", ACL 2022 (arXiv 2203.03802); Apache License 2.0. The label `others` is left
out, as in published experiments.
"""


def load_sample_revisions(*, return_X_y: bool = False, as_frame: bool = False) -> Any:
    """Load 400 revision pairs, 80 of each of five intentions, that were written for this package.

    They are for trying the package out, not for research.

    Parameters
    ----------
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Whether data is a DataFrame and target a Series, instead of object arrays.

    Returns
    -------
    data : Bunch or tuple
        ``data`` of shape (400, 2), the text before and after; ``target`` of shape (400,), the intentions as str;
        ``feature_names``, ``target_names``, ``frame`` (None unless ``as_frame``), ``field`` of shape (400,), what the
        text is about; ``DESCR``.

    Examples
    --------
    >>> from sklearn_irt import load_sample_revisions
    >>> load_sample_revisions().data.shape
    (400, 2)
    """
    text = files("sklearn_irt").joinpath("data/sample_revisions.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    pairs = [(row["before"], row["after"]) for row in rows]
    bunch = _as_bunch(pairs, [row["intention"] for row in rows], _SAMPLE_DESCRIPTION, as_frame=as_frame)
    bunch.field = np.array([row["field"] for row in rows], dtype=object)
    return (bunch.data, bunch.target) if return_X_y else bunch


def fetch_iterater(
    subset: str = "train",
    *,
    data_home: str | os.PathLike[str] | None = None,
    return_X_y: bool = False,
    as_frame: bool = False,
) -> Any:
    """Load ITERATER-HUMAN, sentence level: real revisions and their intentions, without ``others``.

    Parameters
    ----------
    subset : {"train", "dev", "test"}, default="train"
        Which part.
    data_home : str or path-like, default=None
        A folder that holds ``train.jsonl``, ``dev.jsonl`` or ``test.jsonl``. None looks into the folder ``iterater``
        of scikit-learn's data home (the environment variable SCIKIT_LEARN_DATA, or ``~/scikit_learn_data``), and then
        loads ``wanyu/IteraTeR_human_sent`` from the hub.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=False
        Whether data is a DataFrame and target a Series, instead of object arrays.

    Returns
    -------
    data : Bunch or tuple
        ``data`` of shape (n_pairs, 2), ``target`` of shape (n_pairs,), ``feature_names``, ``target_names``, ``frame``,
        ``document`` of shape (n_pairs,), the document that each pair is from (groups for ``GroupKFold``); ``DESCR``.

    Raises
    ------
    ValueError
        If there is no such subset.
    FileNotFoundError
        If ``data_home`` has no such file.
    OSError
        If it is neither on disk nor to be had from the hub.
    """
    if subset not in _HUB_SPLITS:
        raise ValueError(f"subset={subset!r} must be one of {', '.join(map(repr, _HUB_SPLITS))}.")
    rows = [row for row in _read_iterater(subset, data_home) if row["labels"] != "others"]
    pairs = [(row["before_sent"], row["after_sent"]) for row in rows]
    bunch = _as_bunch(pairs, [row["labels"] for row in rows], _ITERATER_DESCRIPTION, as_frame=as_frame)
    bunch.document = np.array([row["doc_id"] for row in rows], dtype=object)
    return (bunch.data, bunch.target) if return_X_y else bunch


def _read_iterater(subset: str, data_home: str | os.PathLike[str] | None) -> list[dict[str, Any]]:
    folder = Path(data_home) if data_home is not None else Path(get_data_home()) / "iterater"
    file = folder / f"{subset}.jsonl"
    if not file.is_file():
        if data_home is not None:
            raise FileNotFoundError(f"data_home={os.fspath(data_home)!r} has no file {file.name}.")
        file = _download_iterater(subset)
    return _read_json(file)


def _download_iterater(subset: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    parts = (subset, _HUB_SPLITS[subset])
    try:
        names = HfApi().list_repo_files(_ITERATER_HUB_ID, repo_type="dataset")
        name = next(n for n in names if n.endswith((".json", ".jsonl")) and any(part in n for part in parts))
        return Path(hf_hub_download(_ITERATER_HUB_ID, name, repo_type="dataset"))
    except Exception as error:
        raise OSError(
            f"ITERATER's {subset!r} part is neither in scikit-learn's data home nor to be had from the hub "
            f"({_ITERATER_HUB_ID}): {error}. Pass data_home, a folder that holds its JSON lines."
        ) from error


def _read_json(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _as_bunch(pairs: Iterable[tuple[str, str]], labels: list[str], description: str, *, as_frame: bool) -> Bunch:
    frame = pd.DataFrame(pairs, columns=COLUMNS)
    target = pd.Series(labels, name="intention")
    return Bunch(
        data=frame if as_frame else frame.to_numpy(dtype=object),
        target=target if as_frame else target.to_numpy(dtype=object),
        frame=frame.assign(intention=target) if as_frame else None,
        feature_names=list(COLUMNS),
        target_names=np.unique(labels).tolist(),
        DESCR=description,
    )
