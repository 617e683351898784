"""
A way to choose layers of your own
==================================

One class, and no training code::

    python examples/own_strategy.py

The strategy below trains the layers whose next update is expected to save the most loss for what it costs. It asks the
probe for both, when ``interval`` says. The grid then says whether it is worth anything
on your data.
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from sklearn_irt import IRTuningClassifier, load_sample_revisions
from sklearn_irt.selection import IntervalSelection


class SavingForCostSelection(IntervalSelection):
    """Train the layers of the largest expected saving of loss per multiplication.

    Parameters
    ----------
    n_trained : int, default=3
        How many layers train.

    interval : int, {"epoch"} or None, default="epoch"
        When they are selected anew.
    """

    def __init__(self, n_trained=3, interval="epoch"):
        self.n_trained = n_trained
        self.interval = interval

    def choose(self):
        costs = self.probe_.costs()
        # To train a layer, gradients must pass all layers from the last one down to it.
        depth = [sum(cost.passing for cost in costs[layer:]) + costs[layer].own for layer in self.layers_]
        self.scores_ = self.probe_.savings(n_texts=16) / depth
        return np.sort(self.layers_[self.scores_.argsort()[-self.n_trained :]])


def main():
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    classifier = IRTuningClassifier(n_layers=16, candidate_layers=6, max_epochs=2, random_state=0)
    grid = GridSearchCV(
        classifier,
        {"selection": ["ir", "full", SavingForCostSelection(n_trained=2)]},
        scoring="f1_macro",
        cv=StratifiedShuffleSplit(1, test_size=100, random_state=0),
    )
    grid.fit(X, y)
    results = pd.DataFrame(grid.cv_results_)
    print(results[["param_selection", "mean_test_score", "mean_fit_time"]].round(3).to_string(index=False))
    best = grid.best_estimator_
    shares = pd.Series(best.active_layers_.mean(axis=0), index=best.candidate_layers_)
    print("Share of the steps in which a layer was trained:", shares.round(2).to_dict())


if __name__ == "__main__":
    main()
