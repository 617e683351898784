"""All ways to choose layers, side by side: macro-F1, seconds, memory, and the share of the parameters in training.

    python examples/benchmarks/selection.py --data FOLDER
    python examples/benchmarks/selection.py --data FOLDER --strategies ir full random-held --seeds 5 --jobs 4

A stratified 800 pairs of ITERATER train, judged on dev, SmolLM2-135M, the same steps for every strategy. A run takes
three minutes on a core of a processor that knows bf16. Its line is appended to the results file, so an interrupted run
continues. Fits that run side by side (--jobs, on a GPU say) say nothing of seconds.
"""

from itertools import product
from typing import Any

from joblib import Parallel, delayed
from measuring import load_parts, parse_arguments, print_table, run_once

from sklearn_irt import (
    BudgetSelection,
    FisherSelection,
    FixedSelection,
    FullSelection,
    GradientNormSelection,
    HalfSelection,
    IRTuningClassifier,
    LearnedImportanceSelection,
    RandomSelection,
    SparseSelection,
    SubTuningSelection,
)

# As many layers as "ir" trains of 15 candidates, in the middle of the fit.
SAME_SIZE = 6

WITH_LORA: dict[str, Any] = {
    "full": FullSelection(),
    "ir": GradientNormSelection(),
    "ir-cosine": GradientNormSelection(importance="cosine", interval=10),
    "ir-weight": GradientNormSelection(importance="weight"),
    "ir-refresh": GradientNormSelection(refresh=10),
    "ir-relative-refresh": GradientNormSelection(score="relative-norm", refresh=10),
    "ir-saving": GradientNormSelection(score="saving"),
    "ir-saving-refresh": GradientNormSelection(score="saving", refresh=10),
    "ir-held": GradientNormSelection(warm_up=10, interval=None),
    "random": RandomSelection(n_trained=SAME_SIZE, interval=1),
    "random-held": RandomSelection(n_trained=SAME_SIZE, interval=None),
    "last": FixedSelection(SAME_SIZE),
    "first": FixedSelection(SAME_SIZE, side="bottom"),
    "ist": LearnedImportanceSelection(),
    "fisher": FisherSelection(n_trained=SAME_SIZE),
    "subtuning": SubTuningSelection(),
    "budget": BudgetSelection(),
    "half": HalfSelection(),
}
OWN_WEIGHTS: dict[str, Any] = {
    "own-full": FullSelection(),
    "own-lisa": RandomSelection(),
    "own-lisa-embeddings": RandomSelection(embeddings=True),
    "own-half": HalfSelection(),
    "sparse": SparseSelection(),
    "sparse-epoch": SparseSelection(interval="epoch"),
}
LEARNING_RATES = {name: 3e-3 if name.startswith("sparse") else 3e-4 for name in OWN_WEIGHTS}


def make_classifier(strategy: str, **parameters: Any) -> IRTuningClassifier:
    if strategy in WITH_LORA:
        return IRTuningClassifier(selection=WITH_LORA[strategy], **parameters)
    own = {"adapter": None, "learning_rate": LEARNING_RATES[strategy]}
    return IRTuningClassifier(selection=OWN_WEIGHTS[strategy], **own, **parameters)


def main():
    parser = parse_arguments(__doc__, seeds=2, results="selection_results.jsonl")
    parser.add_argument("--pairs", type=int, default=800, help="stratified part of the training pairs (default 800)")
    names = [*WITH_LORA, *OWN_WEIGHTS]
    parser.add_argument("--strategies", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    parser.add_argument("--jobs", type=int, default=1, help="fits that run side by side (default 1)")
    arguments = parser.parse_args()
    parts = load_parts(arguments.data, arguments.pairs)

    def run(seed: int, name: str) -> dict[str, Any]:
        key = {"strategy": name, "pairs": arguments.pairs, "seed": seed}
        return run_once(arguments.results, key, make_classifier(name, random_state=seed), parts)

    # Threads, for each fit has a process of its own.
    points = product(range(arguments.seeds), arguments.strategies)
    runs = Parallel(n_jobs=arguments.jobs, prefer="threads")(delayed(run)(*point) for point in points)
    print_table(runs, by=["strategy"])


if __name__ == "__main__":
    main()
