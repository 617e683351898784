"""Layers selected by gradient norm ("ir") against all candidate layers ("full"), for the same steps.

    python examples/benchmarks/ir_or_full.py --data FOLDER

A stratified 800 pairs of ITERATER train, judged on dev; a run takes 5 to 15 minutes on two cores.
"""

from measuring import load_parts, parse_arguments, print_table, run_once

from sklearn_irt import IRTuningClassifier


def main():
    parser = parse_arguments(__doc__, seeds=3, results="ir_or_full_results.jsonl")
    parser.add_argument("--pairs", type=int, default=800, help="stratified part of the training pairs (default 800)")
    arguments = parser.parse_args()
    parts = load_parts(arguments.data, arguments.pairs)
    runs = []
    for seed in range(arguments.seeds):
        for selection in ("ir", "full"):
            classifier = IRTuningClassifier(selection=selection, random_state=seed)
            key = {"selection": selection, "pairs": arguments.pairs, "seed": seed}
            runs.append(run_once(arguments.results, key, classifier, parts))
    print_table(runs, by=["selection", "pairs"])


if __name__ == "__main__":
    main()
