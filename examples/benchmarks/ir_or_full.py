"""Layers selected by gradient norm ("ir", and ways to make it cheaper) against all candidate layers ("full").

    python examples/benchmarks/ir_or_full.py --data FOLDER
    python examples/benchmarks/ir_or_full.py --data FOLDER --selections ir ir-fast cost block epoch full

A stratified 800 pairs of ITERATER train, judged on dev, for the same steps; a run takes a minute or two on a core.
"""

from measuring import load_parts, parse_arguments, print_table, run_once

from sklearn_irt import IRTuningClassifier
from sklearn_irt.selection import GradientNormSelection

SELECTIONS = {
    "ir": "ir",
    "ir-fast": "ir-fast",
    "cost": GradientNormSelection(warm_up=10, interval=None, cost_weight=0.5),
    "block": GradientNormSelection(warm_up=10, interval=None, contiguous=True),
    "epoch": GradientNormSelection(warm_up=10, interval="epoch"),
    "full": "full",
}


def main():
    parser = parse_arguments(__doc__, seeds=3, results="ir_or_full_results.jsonl")
    parser.add_argument("--pairs", type=int, default=800, help="stratified part of the training pairs (default 800)")
    parser.add_argument("--selections", nargs="+", choices=SELECTIONS, default=["ir", "full"])
    arguments = parser.parse_args()
    parts = load_parts(arguments.data, arguments.pairs)
    runs = []
    for seed in range(arguments.seeds):
        for name in arguments.selections:
            classifier = IRTuningClassifier(selection=SELECTIONS[name], random_state=seed)
            key = {"selection": name, "pairs": arguments.pairs, "seed": seed}
            runs.append(run_once(arguments.results, key, classifier, parts))
    print_table(runs, by=["selection", "pairs"])


if __name__ == "__main__":
    main()
