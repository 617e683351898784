"""How the defaults were settled: one parameter varied, the others at their defaults, 800 pairs of ITERATER, judged on
dev.

python examples/benchmarks/defaults.py --data FOLDER --vary pair_format --values before-after instruction inline-diff
"""

from measuring import load_parts, measure, parse_arguments, print_table, run_once

from sklearn_irt import IRTuningClassifier

parser = parse_arguments(__doc__, seeds=1, results="defaults_results.jsonl")
parser.add_argument("--pairs", type=int, default=800, help="stratified part of the training pairs (default 800)")
parser.add_argument("--vary", required=True, help="parameter of IRTuningClassifier")
parser.add_argument("--values", required=True, nargs="+", help="its values; numbers are read as numbers")
arguments = parser.parse_args()
parts = load_parts(arguments.data, arguments.pairs)
for seed in range(arguments.seeds):
    for text in arguments.values:
        value = float(text) if text.replace(".", "", 1).replace("e-", "", 1).isdigit() else text
        value = int(value) if isinstance(value, float) and value >= 1 and value.is_integer() else value
        classifier = IRTuningClassifier(random_state=seed).set_params(**{arguments.vary: value})
        key = {"parameter": arguments.vary, "value": text, "pairs": arguments.pairs, "seed": seed}
        run_once(arguments.results, key, lambda classifier=classifier: measure(classifier, *parts))
print_table(arguments.results, by=["parameter", "value", "pairs"])
