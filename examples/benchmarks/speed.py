"""IRTuningClassifier against three usual ways to fine-tune the same backbone on the same pairs: time, memory, macro-F1.

    python examples/benchmarks/speed.py --data FOLDER

A stratified 800 pairs of ITERATER train, judged on dev; batches of 8, 3 epochs, LoRA of rank 16. The contenders:

- ours: IRTuningClassifier with its defaults
- ours-quick: IRTuningClassifier(n_layers=18, candidate_layers=4): the lower 18 of 30 layers run, 4 of these may train
- trainer: transformers' Trainer with peft, set up for speed: short padding, texts of like length together
- paper: the recipe of Liu and Litman (arXiv 2510.00268), adapters in all layers and padding to 256 tokens
- skorch: its documentation's way to fine-tune a transformer, all weights in fp32

On one core of a Xeon with AMX a seed takes some 3 minutes for ours (with all that is measured 10), 12 for trainer, 35
for paper and 50 for skorch; --grid adds 25. An interrupted run continues from its results file.

Each run has a process of its own. Our seconds are those of the whole fit, with the loading of the backbone; those of
the others begin when their model is loaded, and judging it on dev is not counted. Where other work shares the cores,
compare train_cpu_seconds, the time that all threads computed. Peak memory (of the GPU, where there is one) is what
comes on top of the interpreter with all libraries. Needs matplotlib, and Linux.
"""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from costs import peak_memory, restart_peak_memory
from measuring import in_own_process, load_parts, parse_arguments, processor, read_results
from ours import SETTINGS, measure_fold, measure_grid, measure_ours
from rivals import BACKBONE, TRAINER_RATE, fastest_precision, train_as_paper, train_with_skorch, train_with_trainer

from sklearn_irt import IRTuningClassifier
from sklearn_irt.backbone_files import locate_backbone
from sklearn_irt.precision import choose_device

OWN_WORK = {"fit": measure_ours, "grid": measure_grid, "fold": measure_fold}
RIVALS = {"trainer": train_with_trainer, "paper": train_as_paper, "skorch": train_with_skorch}
CONTENDERS = (*SETTINGS, *RIVALS)
FIGURES = ("macro_f1", "best_macro_f1", "train_seconds", "train_cpu_seconds", "seconds_to_best", "peak_memory_mb")


def run_contender(contender: str, parts: Any, options: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Measure one run, in a process that does nothing else."""
    warnings.filterwarnings("ignore", message=".*max_length")
    name, _, work = contender.partition(" ")
    if name in SETTINGS:
        own = {"max_epochs": options["epochs"], "random_state": options["seed"], "device": str(device)}
        return OWN_WORK[work or "fit"](parts, IRTuningClassifier(**SETTINGS[name], **own), device)
    resting = restart_peak_memory(device)
    figures = RIVALS[contender](parts, device=device, **options)
    return {**figures, "peak_memory_mb": peak_memory(device) - resting}


def run_once(key: dict[str, Any], results: Path, parts: Any, device: torch.device) -> dict[str, Any]:
    """Append the figures of one run, unless the file has them, and return its line."""
    for line in read_results(results):
        if key.items() <= line.items():
            return line
    options = {name: key[name] for name in ("seed", "epochs", "learning_rate") if name in key}
    line = dict(key)
    if key["contender"] in ("trainer", "paper"):
        line |= choose_rival_precision(key, results, parts, device)
        options["precision"] = line["precision"]
    line |= in_own_process(run_contender, key["contender"], parts, options, device)
    line["date"] = time.strftime("%Y-%m-%d")
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)
    return line


def choose_rival_precision(key: dict[str, Any], results: Path, parts: Any, device: torch.device) -> dict[str, Any]:
    """Time the precisions before a rival's first run; its others follow."""
    same = {name: key[name] for name in ("contender", "device", "threads", "processor")}
    for line in read_results(results):
        if same.items() <= line.items():
            return {"precision": line["precision"]}
    precision, seconds = in_own_process(fastest_precision, key["contender"], *parts[:2], device)
    return {"precision": precision, "seconds_of_a_bare_step": seconds}


def print_table(runs: pd.DataFrame) -> None:
    """Print the mean over the seeds, and behind the costs how many times those of ours they are."""
    lines = runs[runs["contender"].isin(CONTENDERS)]
    table = lines.groupby("contender", sort=False)[[name for name in FIGURES if name in lines]].mean()
    for name in FIGURES[2:]:
        for ours in reversed([ours for ours in SETTINGS if ours in table.index]):
            table.insert(table.columns.get_loc(name) + 1, f"x {ours}", table[name] / table.loc[ours, name], True)
    table.insert(0, "runs", lines.groupby("contender").size())
    print(table.round(3).to_string())
    print(f"machine: {', '.join(sorted(set(lines['processor'])))}; threads: {sorted(set(lines['threads']))}")


def print_ours(runs: pd.DataFrame, name: str) -> None:
    """Print what was measured of ours alone."""
    kinds = runs.groupby("contender").mean(numeric_only=True)
    ours = kinds.loc[name]
    print(f"{name} (seconds of computing in brackets):")
    print(
        f"a second fit in the same process, on the same texts at half the learning rate: {costs(ours, 'second_fit')}, "
        f"the first one {costs(ours, 'train')}\n"
        f"probabilities of the {ours['pairs']:.0f} training pairs: {costs(ours, 'fitted_answers')} after the fit, "
        f"{costs(ours, 'new_answers')} where no fit of the process has seen them, asked again "
        f"{ours['answers_again_seconds']:.4f} s; a transformers pipeline on the merged model "
        f"{costs(ours, 'pipeline_answers')} (probabilities of the same text differ by "
        f"{ours['pipeline_difference']:.3f} at most)"
    )
    if f"{name} grid" in kinds.index:
        grid, fold = kinds.loc[f"{name} grid"], kinds.loc[f"{name} fold"]
        print(
            f"a grid of 4 points in 3 folds: {costs(grid, 'train')}, one point in one fold {costs(fold, 'train')}, "
            f"so {grid['train_seconds'] / fold['train_seconds']:.1f} times that; "
            f"{grid['peak_memory_mb']:.0f} MB against {fold['peak_memory_mb']:.0f} MB"
        )
    print(
        f"arithmetic: at {ours['product_rate'] / 1e12:.2f} TFLOP/s, the rate of a bare matrix product, a step takes "
        f"{ours['least_seconds_a_step']:.2f} s at least; ours takes {ours['seconds_a_step']:.2f} s and so reaches "
        f"{ours['least_seconds_a_step'] / ours['seconds_a_step']:.0%}, the fit as a whole "
        f"{ours['least_fit_seconds'] / ours['train_seconds']:.0%}"
    )


def costs(figures: pd.Series, name: str) -> str:
    return f"{figures[f'{name}_seconds']:.0f} s ({figures[f'{name}_cpu_seconds']:.0f})"


def plot(runs: pd.DataFrame, file: Path) -> None:
    """Draw macro-F1 over the seconds of training, and the peak of memory, as means over the seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[2, 1])
    for contender, lines in runs[runs["contender"].isin(CONTENDERS)].groupby("contender", sort=False):
        epochs = pd.DataFrame(
            {**epoch, "epoch": number}
            for line in lines.to_dict("records")
            for number, epoch in enumerate(line["epochs_reached"])
        )
        means = epochs.groupby("epoch").mean()
        left.plot(means["seconds"], means["macro_f1"], "o-", label=contender)
        right.bar(contender, lines["peak_memory_mb"].mean() / 1024)
    left.set(xlabel="seconds of training", ylabel="macro-F1 on dev", title="after each epoch (ours: after the fit)")
    left.set_xlim(left=0)
    left.legend()
    right.set(ylabel="peak memory, GB")
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main():
    parser = parse_arguments(__doc__, seeds=3, results="speed_results.jsonl")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--pairs", type=int, default=800, help="stratified part of the training pairs (default 800)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--trainer-rate", type=float, default=TRAINER_RATE, help="trainer's learning rate")
    parser.add_argument("--grid", action="store_true", help="also time grid searches over ours: 13 fits more for each")
    parser.add_argument("--plot", type=Path, default=Path("speed.png"))
    arguments = parser.parse_args()
    parts = load_parts(arguments.data, arguments.pairs)
    device = choose_device(arguments.device)
    locate_backbone(BACKBONE)  # converts it, once, before the clock starts
    setting = {"pairs": arguments.pairs, "epochs": arguments.epochs}
    setting |= {"device": device.type, "threads": torch.get_num_threads(), "processor": processor()}
    wanted = [{"contender": name, "seed": seed} for seed in range(arguments.seeds) for name in arguments.contenders]
    own = [name for name in SETTINGS if name in arguments.contenders]
    wanted += [
        {"contender": f"{name} {work}", "seed": 0} for name in own for work in ("fold", "grid") if arguments.grid
    ]
    runs = []
    for key in wanted:
        name = key["contender"].split()[0]
        if name in SETTINGS:
            key["parameters"] = str(SETTINGS[name])
        if name == "trainer":
            key["learning_rate"] = arguments.trainer_rate
        runs.append(run_once({**key, **setting}, arguments.results, parts, device))
    lines = pd.DataFrame(runs)
    print_table(lines)
    plot(lines, arguments.plot)
    for name in own:
        print_ours(lines, name)


if __name__ == "__main__":
    main()
