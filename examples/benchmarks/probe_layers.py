"""After which layer of the frozen backbone are the intentions told apart best, and by which of a text's states?

    python examples/benchmarks/probe_layers.py --data FOLDER

For each depth and each pooling of the states over a text's tokens, the macro-F1 of a logistic regression on these
features alone, ITERATER train, judged on dev. What leaves the last layer is taken behind the final norm. Some minutes
on two cores.
"""

import argparse

import pandas as pd
from measuring import load_parts, processor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_irt import BackboneFeatures

POOLINGS = ["last", "mean", "max"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--backbone", default="smollm2-135m", help="(default smollm2-135m)")
    parser.add_argument("--pairs", type=int, help="stratified part of the training pairs (default: all)")
    parser.add_argument("--C", type=float, default=0.01, help="inverse strength of the penalty (default 0.01)")
    arguments = parser.parse_args()
    X, y, X_dev, y_dev = load_parts(arguments.data, arguments.pairs)
    features = BackboneFeatures(arguments.backbone, layers=1.0, pooling=POOLINGS, verbose=1).fit(X)
    features.set_params(layers=range(features.layers_[0] + 1)).set_output(transform="pandas")
    train, dev = features.fit_transform(X), features.transform(X_dev)
    scores = pd.DataFrame(index=pd.Index(features.layers_, name="layers run"), columns=POOLINGS, dtype=float)
    for layer in scores.index:
        for pooling in POOLINGS:
            columns = train.columns[train.columns.str.startswith(f"layer{layer}_{pooling}_")]
            regression = LogisticRegression(C=arguments.C, class_weight="balanced", max_iter=1000)
            probe = make_pipeline(StandardScaler(), regression).fit(train[columns], y)
            scores.loc[layer, pooling] = f1_score(y_dev, probe.predict(dev[columns]), average="macro")
    print(scores.round(3).to_string())
    print(f"machine: {processor()}")


if __name__ == "__main__":
    main()
