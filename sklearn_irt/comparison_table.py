"""Makes the table of a comparison from what was measured on each split."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .resampled_t_test import corrected_resampled_t_test

_COSTS = ("fit_seconds", "predict_seconds")
_OTHER_COLUMNS = ("peak_memory_mb", "peak_gpu_memory_mb", "trained_parameters", "n_train", "n_test", "n_splits")


def check_score_names(names: Iterable[str]) -> None:
    """Refuse with a ValueError names of scores of which another column of the table would have one."""
    names = list(names)
    columns = Counter([*names, *_COSTS, *(f"{cost}_std" for cost in _COSTS), *_OTHER_COLUMNS])
    columns.update(f"{name}_{figure}" for name in names for figure in ("std", "difference", "p_value"))
    taken = [name for name in names if columns[name] > 1]
    if taken:
        raise ValueError(f"scoring must not name a score {taken[0]!r}: another column of the table has this name.")


def tabulate_splits(measured: Mapping[tuple[str, int], Mapping[str, Any]]) -> pd.DataFrame:
    """Put what was measured into a frame.

    Parameters
    ----------
    measured : mapping of (str, int) to mapping
        What :func:`~sklearn_irt.measured_split.measure_split` returned, by estimator and split. At least one.

    Returns
    -------
    splits : DataFrame
        A row each: the scores, then what else was measured. The index has the levels "estimator" and "split".
    """
    rows = [{**one["scores"], **{k: v for k, v in one.items() if k != "scores"}} for one in measured.values()]
    index = pd.MultiIndex.from_tuples(measured, names=["estimator", "split"])
    splits = pd.DataFrame(rows, index=index).astype({"trained_parameters": "Int64"})
    return splits.drop(columns="peak_gpu_memory_mb") if splits["peak_gpu_memory_mb"].isna().all() else splits


def tabulate(names: Sequence[str], splits: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Sum up a comparison.

    Parameters
    ----------
    names : sequence of str
        The estimators, of which the first is what the others are compared with.
    splits : DataFrame
        From :func:`tabulate_splits`.
    scores : sequence of str
        Which of its columns are scores.

    Returns
    -------
    table : DataFrame
        See :func:`~sklearn_irt.compare`.
    """
    rows = {name: splits[splits.index.get_level_values("estimator") == name].droplevel("estimator") for name in names}
    summaries = [_sum_up(rows[name], rows[names[0]], scores) for name in names]
    table = pd.DataFrame(summaries, index=pd.Index(names, name="estimator"))
    reference = [f"{score}_{figure}" for score in scores for figure in ("difference", "p_value")]
    table.loc[names[0], reference] = np.nan
    counts = [column for column in ("trained_parameters", "n_splits") if column in table]
    return table.astype(dict.fromkeys(counts, "Int64"))


def _sum_up(splits: pd.DataFrame, reference: pd.DataFrame, scores: Sequence[str]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for score in scores:
        summary |= {score: splits[score].mean(), f"{score}_std": splits[score].std()}
        summary |= _contrast(splits, reference, score)
    for cost in _COSTS:
        summary |= {cost: splits[cost].mean(), f"{cost}_std": splits[cost].std()}
    for column in splits.columns.intersection(["peak_memory_mb", "peak_gpu_memory_mb"]):
        summary[column] = splits[column].max()
    n_parameters = splits["trained_parameters"].mean()
    summary["trained_parameters"] = pd.NA if pd.isna(n_parameters) else round(n_parameters)
    return {**summary, "n_splits": len(splits)}


def _contrast(splits: pd.DataFrame, reference: pd.DataFrame, score: str) -> dict[str, float]:
    """Compare the scores of two estimators on the splits that both have."""
    both = splits.index.intersection(reference.index)
    differences = (splits.loc[both, score] - reference.loc[both, score]).dropna()
    sizes = splits.loc[differences.index, "n_train"], splits.loc[differences.index, "n_test"]
    return {
        f"{score}_difference": differences.mean(),
        f"{score}_p_value": corrected_resampled_t_test(differences, *sizes),
    }
