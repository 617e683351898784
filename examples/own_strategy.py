"""
A way to choose layers of your own
==================================

One class, and no training code::

    python examples/own_strategy.py

The strategy below trains the layers whose next update is expected to save the most loss for what it costs. It asks the
probe for both, when ``interval`` says. A grid search then says whether it is worth anything on your data.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit

from sklearn_irt import IRTuningClassifier, load_sample_revisions
from sklearn_irt.selection import IntervalSelection

# %%
# The strategy
# ------------
# ``choose`` returns layers by their index among those that run. To train a layer, gradients must pass all layers from
# the last one down to it: so a low layer has to save more loss than a high one.


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
        depth = [sum(cost.passing for cost in costs[layer:]) + costs[layer].own for layer in self.layers_]
        self.scores_ = self.probe_.savings(n_texts=16) / depth
        return np.sort(self.layers_[self.scores_.argsort()[-self.n_trained :]])


# %%
# Beside the paper's rule and all candidates
# ------------------------------------------
# To be quick, ten layers of the LLM run, two epochs of 150 pairs are fitted, and one split judges. That is too little
# to say which is better; on your own data take more of all three.

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
classifier = IRTuningClassifier(n_layers=10, candidate_layers=5, max_epochs=2, random_state=0)
strategies = ["ir", "full", SavingForCostSelection(n_trained=2)]
split = StratifiedShuffleSplit(1, train_size=150, test_size=100, random_state=0)
grid = GridSearchCV(classifier, {"selection": strategies}, scoring="f1_macro", cv=split, refit=False)
grid.fit(X, y)
results = pd.DataFrame(grid.cv_results_)
print(results[["param_selection", "mean_test_score", "mean_fit_time"]].round(3).to_string(index=False))

# %%
# What it trained
# ---------------
# ``active_layers_`` has a row a step.

train, _ = next(split.split(X, y))
own = classifier.set_params(selection=strategies[-1]).fit(X.iloc[train], y.iloc[train])
share = pd.Series(own.active_layers_.mean(axis=0), index=own.candidate_layers_)
axes = share.plot.bar(figsize=(6.4, 3), rot=0, ylim=(0, 1), xlabel="layer", ylabel="share of the steps")
axes.set_title("Layers that were trained")
plt.tight_layout()
plt.show()
