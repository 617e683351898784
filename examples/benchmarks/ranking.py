"""Do the scores that rank backbones say which frozen features a logistic regression does best on?

    python examples/benchmarks/ranking.py
    python examples/benchmarks/ranking.py --data FOLDER --pairs 300

Both backbones, several layers, two poolings: the score of each, the macro-F1 of a logistic regression on the same
features, cross-validated, and Kendall's tau between the two. On the sample corpus, or a stratified part of ITERATER
train. Two to four minutes on two cores.
"""

import argparse

import numpy as np
import pandas as pd
from measuring import load_parts, processor
from scipy.stats import kendalltau
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_irt import BackboneFeatures, load_sample_revisions
from sklearn_irt.transferability import SCORES

LAYERS = {"minilm-l6": range(1, 7), "smollm2-135m": range(3, 31, 3)}
POOLINGS = ["last", "mean"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with train.jsonl and dev.jsonl (default: the sample corpus)")
    parser.add_argument("--pairs", type=int, help="stratified part of the training pairs (default: all)")
    arguments = parser.parse_args()
    if arguments.data:
        X, y, _, _ = load_parts(arguments.data, arguments.pairs)
    else:
        X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    table = pd.DataFrame(row for backbone in LAYERS for row in judge(backbone, X, y))
    print(table.round(3).to_string(index=False))
    for name, rows in [*table.groupby("backbone"), *table.groupby("pooling"), ("all", table)]:
        taus = [f"{score} {kendalltau(rows['macro-F1'], rows[score]).statistic:.2f}" for score in SCORES]
        print(f"Kendall's tau, {len(rows)} rows, {name}: {', '.join(taus)}")
    print(f"machine: {processor()}")


def judge(backbone, X, y):
    """Yield a row of the table for each layer and pooling."""
    features = BackboneFeatures(backbone, layers=LAYERS[backbone], pooling=POOLINGS, verbose=1)
    parts = np.split(features.fit_transform(X), len(LAYERS[backbone]) * len(POOLINGS), axis=1)
    labels = np.unique(y, return_inverse=True)[1]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
    for (layer, pooling), part in zip(
        [(layer, pooling) for layer in LAYERS[backbone] for pooling in POOLINGS], parts, strict=True
    ):
        macro_f1 = cross_val_score(probe, part, y, scoring="f1_macro", cv=folds).mean()
        scores = {name: score(part, labels) for name, score in SCORES.items()}
        yield {"backbone": backbone, "layer": layer, "pooling": pooling, **scores, "macro-F1": macro_f1}


if __name__ == "__main__":
    main()
