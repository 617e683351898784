"""Fits one estimator on ITERATER, measures it, and keeps the figures in a file of JSON lines so that a run can be
continued."""

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from sklearn_irt import IRTuningClassifier, fetch_iterater


def parse_arguments(description: str, seeds: int, results: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--data", help="folder with train.jsonl and dev.jsonl (default: scikit-learn's data home, then the hub)"
    )
    parser.add_argument("--seeds", type=int, default=seeds, help=f"number of seeds, from 0 (default {seeds})")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path(results),
        help=f"file that lines are appended to; a run that it holds is not repeated, so use another one after a change "
        f"of the code (default {results})",
    )
    return parser


def load_parts(data: str | None, n_pairs: int | None = None, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Load train and dev; with ``n_pairs``, a stratified part of train."""
    X, y = fetch_iterater("train", data_home=data, return_X_y=True, as_frame=True)
    X_dev, y_dev = fetch_iterater("dev", data_home=data, return_X_y=True, as_frame=True)
    if n_pairs is not None:
        X, _, y, _ = train_test_split(X, y, train_size=n_pairs, stratify=y, random_state=seed)
    return X, y, X_dev, y_dev


def measure(estimator: Any, *parts: Any) -> dict[str, Any]:
    """Fit on train and judge on dev, in a process of its own, so that the peak of its memory is this run's."""
    return in_own_process(_measure_here, estimator, *parts)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, which ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def _measure_here(estimator: Any, X: Any, y: Any, X_dev: Any, y_dev: Any) -> dict[str, Any]:
    start, start_of_computing = time.perf_counter(), time.process_time()
    estimator.fit(X, y)
    fitted, computing = time.perf_counter(), time.process_time() - start_of_computing
    prediction = estimator.predict(X_dev)
    figures = {
        "macro_f1": round(float(f1_score(y_dev, prediction, average="macro")), 4),
        "fit_seconds": round(fitted - start, 1),
        "computing_seconds": round(computing, 1),
        "predict_seconds": round(time.perf_counter() - fitted, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        // (2**20 if sys.platform == "darwin" else 2**10),
    }
    if isinstance(estimator, IRTuningClassifier):
        if torch.cuda.is_available():
            figures["gpu_memory_mb"] = torch.cuda.max_memory_allocated() // 2**20
        figures |= {"precision": estimator.precision_, "share_training": round(share_in_training(estimator), 3)}
    return figures


def share_in_training(classifier: IRTuningClassifier) -> float:
    """Return the share of the candidates' parameters in training, mean over the steps."""
    parameters = classifier.net_.module_.layer_parameters
    n_parameters = sum(p.numel() for group in parameters.values() for p in group)
    return float(classifier.n_active_parameters_.mean() / n_parameters)


def run_once(results: Path, key: dict[str, Any], estimator: Any, parts: tuple[Any, ...]) -> dict[str, Any]:
    """Append the figures of one run, unless the file has them for these parameters, and return its line."""
    own = ("random_state", "verbose")
    parameters = {name: value for name, value in estimator.get_params().items() if not name.endswith(own)}
    key = {**key, "parameters": str(parameters), "processor": processor()}
    for line in read_results(results):
        if key.items() <= line.items():
            return line
    line = {**key, **measure(estimator, *parts), "date": time.strftime("%Y-%m-%d")}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps({name: value for name, value in line.items() if name != "parameters"}), flush=True)
    return line


def read_results(results: Path) -> list[dict[str, Any]]:
    """Read the lines that runs have appended."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def print_table(runs: list[dict[str, Any]], by: list[str]) -> None:
    """Print mean and deviation over the seeds."""
    lines = pd.DataFrame(runs)
    figures = [
        c
        for c in (
            "macro_f1",
            "fit_seconds",
            "computing_seconds",
            "predict_seconds",
            "peak_memory_mb",
            "gpu_memory_mb",
            "share_training",
        )
        if c in lines
    ]
    table = lines.groupby(by)[figures].agg("mean").round(3)
    table.insert(0, "runs", lines.groupby(by).size())
    table.insert(2, "deviation", lines.groupby(by)["macro_f1"].std().round(3))
    print(table.to_string())
    print(f"machine: {', '.join(sorted(set(lines['processor'])))}")


def processor() -> str:
    """Name the processor and the instructions that decide which arithmetic is fast."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")
    kinds = [
        kind
        for flag, kind in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-bf16"), ("avx512f", "AVX512"))
        if flag in text
    ]
    return f"{name}, {text.count('processor	:')} cores, {kinds[0] if kinds else 'AVX2 only'}"
