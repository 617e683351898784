"""How a default is settled: one parameter varied, the others at their defaults.

    python examples/benchmarks/defaults.py --data FOLDER --vary class_weight --values balanced sqrt-balanced

A stratified 800 pairs of ITERATER train, judged on dev; a run takes 5 to 15 minutes on two cores.
"""

import json

from measuring import load_parts, parse_arguments, print_table, run_once

from sklearn_irt import IRTuningClassifier


def main():
    parser = parse_arguments(__doc__, seeds=1, results="defaults_results.jsonl")
    parser.add_argument(
        "--pairs", type=int, default=800, help="stratified part of the training pairs (default 800; 0: all)"
    )
    parser.add_argument("--vary", required=True, help="parameter of IRTuningClassifier")
    parser.add_argument("--others", type=json.loads, default={}, help="other parameters to set, as a JSON object")
    parser.add_argument("--values", required=True, nargs="+", help="its values; what is JSON is read as JSON")
    arguments = parser.parse_args()
    parts = load_parts(arguments.data, arguments.pairs or None)
    runs = []
    for seed in range(arguments.seeds):
        for text in arguments.values:
            parameters = {**arguments.others, arguments.vary: read_value(text)}
            classifier = IRTuningClassifier(random_state=seed).set_params(**parameters)
            key = {"parameter": arguments.vary, "value": text, "pairs": arguments.pairs, "seed": seed}
            runs.append(run_once(arguments.results, key, classifier, parts))
    print_table(runs, by=["parameter", "value", "pairs"])


def read_value(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


if __name__ == "__main__":
    main()
