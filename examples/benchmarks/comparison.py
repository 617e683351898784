"""Does a fine-tuned LLM pay, against its own frozen features and against TF-IDF of the edits? Five splits of 800 pairs.

    python examples/benchmarks/comparison.py --data FOLDER --figure comparison.png

About an hour on two cores. What was measured is kept in the results file, so that an interrupted run can be continued.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from measuring import load_parts, processor
from sklearn.model_selection import StratifiedKFold

from sklearn_irt import ComparisonDisplay, IRTuningClassifier, compare, make_edit_baseline, make_frozen_baseline


def main():
    arguments = parse_arguments()
    X, y, _, _ = load_parts(arguments.data, arguments.pairs, arguments.seed)
    contenders = {
        "edits + logistic regression": make_edit_baseline(random_state=arguments.seed),
        "frozen LLM + logistic regression": make_frozen_baseline(arguments.backbone, random_state=arguments.seed),
        "all candidate layers": "full",
        "IR-Tuning": "ir",
    }
    table = compare(
        contenders,
        X,
        y,
        scoring=["f1_macro", "accuracy"],
        cv=StratifiedKFold(arguments.splits, shuffle=True, random_state=arguments.seed),
        classifier=IRTuningClassifier(arguments.backbone, random_state=arguments.seed),
        results_file=arguments.results,
        verbose=1,
    )
    with pd.option_context("display.max_columns", None, "display.width", 200):
        print(table.round(3).T)
    print(
        f"{len(X)} pairs, {arguments.splits} splits, {arguments.backbone}; {processor()}; {time.strftime('%Y-%m-%d')}"
    )
    if arguments.figure:
        ComparisonDisplay.from_comparison(table).figure_.savefig(arguments.figure, dpi=150, bbox_inches="tight")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with train.jsonl and dev.jsonl (default: scikit-learn's data home)")
    parser.add_argument("--pairs", type=int, default=800, help="stratified part of the training pairs (default 800)")
    parser.add_argument("--splits", type=int, default=5, help="stratified folds (default 5)")
    parser.add_argument("--backbone", default="smollm2-135m", help="the LLM (default smollm2-135m)")
    parser.add_argument("--seed", type=int, default=0, help="of the part, the folds and the estimators (default 0)")
    parser.add_argument("--results", type=Path, default=Path("comparison_results.jsonl"), help="results file")
    parser.add_argument("--figure", type=Path, help="where to write the figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
