"""How many labels until the LLM pays? Learning curves of the classifier and of its cheap rivals on ITERATER.

    python examples/benchmarks/learning_curve.py --data FOLDER --figure learning_curve.svg

Each seed draws other training pairs, stratified, of which a smaller size takes the first; all are judged on dev, by
macro-F1. A line of the results file is one contender with one seed at all sizes, so an interrupted run continues.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from measuring import load_parts, parse_arguments, processor, read_results
from sklearn.model_selection import LearningCurveDisplay, learning_curve, train_test_split

from sklearn_irt import IRTuningClassifier, make_edit_baseline, make_frozen_baseline

QUICK = {"n_layers": 18, "candidate_layers": 4, "selection": "full"}
CONTENDERS: dict[str, Callable[[int], Any]] = {
    "edits": lambda seed: make_edit_baseline(random_state=seed),
    "frozen": lambda seed: make_frozen_baseline(random_state=seed),
    "quick": lambda seed: IRTuningClassifier(**QUICK, random_state=seed, verbose=1),
    "quick-longer": lambda seed: IRTuningClassifier(**QUICK, max_epochs=10, random_state=seed, verbose=1),
    "defaults": lambda seed: IRTuningClassifier(random_state=seed, verbose=1),
}
NAMES = {
    "edits": "make_edit_baseline()",
    "frozen": "make_frozen_baseline()",
    "quick": "IRTuningClassifier, quick",
    "quick-longer": "IRTuningClassifier, quick, 10 epochs",
    "defaults": "IRTuningClassifier()",
}
CHEAP = ["edits", "frozen"]


def main():
    parser = parse_arguments(__doc__, seeds=3, results="learning_curve_results.jsonl")
    parser.add_argument("--sizes", nargs="+", type=int, default=[30, 100, 300, 1000], help="numbers of labels")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["edits", "frozen", "quick"])
    parser.add_argument("--figure", type=Path, help="file for the picture, .png or .svg; a second one is dark")
    arguments = parser.parse_args()
    sizes, parts = sorted(arguments.sizes), load_parts(arguments.data)
    runs = [
        run_once(arguments.results, name, seed, sizes, parts)
        for seed in range(arguments.seeds)
        for name in arguments.contenders
    ]
    print_table(runs)
    print_verdict(runs)
    if arguments.figure:
        draw(runs, sizes, arguments.figure)


def run_once(results: Path, name: str, seed: int, sizes: list[int], parts: Any) -> dict[str, Any]:
    """Append the curve of one contender with one seed, unless the file has it, and return its line."""
    estimator = CONTENDERS[name](seed)
    parameters = str(estimator.get_params())
    key = {"contender": name, "seed": seed, "sizes": sizes, "parameters": parameters, "processor": processor()}
    for line in read_results(results):
        if key.items() <= line.items():
            return line
    line = {**key, **measure(estimator, seed, sizes, *parts), "date": time.strftime("%Y-%m-%d")}
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps({key: value for key, value in line.items() if key != "parameters"}), flush=True)
    return line


def measure(estimator: Any, seed: int, sizes: list[int], X: Any, y: Any, X_dev: Any, y_dev: Any) -> dict[str, Any]:
    split = nested_order(y, sizes, seed), len(y) + np.arange(len(y_dev))
    _, train_scores, dev_scores = learning_curve(
        estimator,
        pd.concat([X, X_dev], ignore_index=True),
        pd.concat([y, y_dev], ignore_index=True),
        train_sizes=sizes,
        cv=[split],
        scoring="f1_macro",
        error_score="raise",
    )
    figures = {"train_macro_f1": train_scores, "dev_macro_f1": dev_scores}
    return {name: values[:, 0].round(4).tolist() for name, values in figures.items()}


def nested_order(y: Any, sizes: list[int], seed: int) -> np.ndarray:
    """Order rows so that the first of any of these sizes are stratified, for ``learning_curve`` takes the first."""
    rows, parts = np.arange(len(y)), []
    for size in reversed(sizes):
        rows, rest = train_test_split(rows, train_size=size, stratify=y.iloc[rows], random_state=seed)
        parts.append(rest)
    return np.concatenate([rows, *reversed(parts[1:])])


def print_table(runs: list[dict[str, Any]]) -> None:
    """Print mean and deviation over the seeds."""
    columns = ["sizes", "train_macro_f1", "dev_macro_f1"]
    points = pd.DataFrame(runs).explode(columns).astype({"sizes": int, **dict.fromkeys(columns[1:], float)})
    groups = points.groupby(["sizes", "contender"], sort=False)
    table = groups[columns[1:]].mean().round(3)
    table.insert(0, "runs", groups.size())
    table.insert(3, "deviation", groups["dev_macro_f1"].std().round(3))
    print(table.rename_axis(["labels", "contender"]).sort_index(level="labels", sort_remaining=False).to_string())
    for name in ("processor", "date"):
        print(f"{name}: {', '.join(sorted({run[name] for run in runs}))}")


def print_verdict(runs: list[dict[str, Any]]) -> None:
    """Say from how many labels on a contender that is fine-tuned is ahead of the cheap ones, with each seed."""
    sizes = runs[0]["sizes"]
    curves = pd.DataFrame(runs).groupby("contender")["dev_macro_f1"].agg(list)  # each seed's, in the same order
    cheap = np.max([np.stack(curves[name]) for name in CHEAP if name in curves.index], axis=0)
    for name in curves.index.difference(CHEAP):
        behind = np.flatnonzero((np.stack(curves[name]) <= cheap).any(axis=0))
        first = behind[-1] + 1 if len(behind) else 0
        where = f"from {sizes[first]} labels on" if first < len(sizes) else f"not with {sizes[-1]} labels either"
        print(f"{NAMES[name]} is ahead of each cheap rival with each seed: {where}")


def draw(runs: list[dict[str, Any]], sizes: list[int], path: Path) -> None:
    """Draw all contenders into one picture, on a light ground and, beside that file, on a dark one."""
    dark = path.with_stem(f"{path.stem}_dark")
    for style, file in (("default", path), ("dark_background", dark)):
        with plt.style.context(style):
            draw_curves(runs, sizes).savefig(file, dpi=150)
            plt.close()


def draw_curves(runs: list[dict[str, Any]], sizes: list[int]) -> Any:
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for index, name in enumerate(dict.fromkeys(run["contender"] for run in runs)):
        curves = [run for run in runs if run["contender"] == name]
        train_scores, dev_scores = (
            np.transpose([run[f"{part}_macro_f1"] for run in curves]) for part in ("train", "dev")
        )
        display = LearningCurveDisplay(
            train_sizes=np.array(sizes), train_scores=train_scores, test_scores=dev_scores, score_name="macro-F1 on dev"
        )
        style = {"color": f"C{index}"}
        display.plot(
            ax, score_type="test", line_kw={**style, "marker": "o"}, fill_between_kw={**style, "alpha": 0.2, "lw": 0}
        )
        display.lines_[0].set_label(f"{NAMES[name]} ({len(curves)} seeds)")
    ax.set(xscale="log", xlabel="labelled pairs")
    ax.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    ax.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
