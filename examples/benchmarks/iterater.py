"""IRTuningClassifier with its defaults against the classical rival: ITERATER, train to dev, macro-F1.

    python examples/benchmarks/iterater.py --data FOLDER --seeds 2

A seed takes 13 to 60 minutes on two cores. Its line is appended to the results file, so an interrupted run continues.
"""

from measuring import load_parts, parse_arguments, print_table, run_once

from sklearn_irt import IRTuningClassifier, make_edit_baseline


def main():
    arguments = parse_arguments(__doc__, seeds=2, results="iterater_results.jsonl").parse_args()
    parts = load_parts(arguments.data)
    runs = []
    for seed in range(arguments.seeds):
        rival = make_edit_baseline(random_state=seed)
        classifier = IRTuningClassifier(random_state=seed, verbose=1)
        runs += [
            run_once(arguments.results, {"method": "edits + logistic regression", "seed": seed}, rival, parts),
            run_once(arguments.results, {"method": "IRTuningClassifier()", "seed": seed}, classifier, parts),
        ]
    print_table(runs, by=["method"])


if __name__ == "__main__":
    main()
