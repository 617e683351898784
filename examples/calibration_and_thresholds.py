"""
Probabilities that can be trusted, and thresholds that pay
===========================================================

A classifier that was fine-tuned says how sure it is; whether that can be taken at its word is another question. Here it
tells edits that changed the meaning from others. On pairs that it was not fitted on, scikit-learn calibrates its
probabilities and tunes the threshold from which an edit counts as one, and neither fits it again.
"""

# %%
# One fit
# -------
# Of the sample corpus 200 pairs are fitted, 100 are for calibrating, 100 for judging. Of the 30 layers of SmolLM2 the
# lower 12 run and two of these train, which is quick enough to follow.

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split

from sklearn_irt import IRTuningClassifier, load_sample_revisions, make_edit_baseline

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
changed = (y == "meaning-changed").to_numpy()
X_train, X_rest, y_train, y_rest = train_test_split(X, changed, train_size=200, stratify=y, random_state=0)
X_held_out, X_test, y_held_out, y_test = train_test_split(
    X_rest, y_rest, test_size=100, stratify=y_rest, random_state=0
)

classifier = IRTuningClassifier(
    n_layers=12, candidate_layers=2, selection="full", context=4, max_epochs=6, random_state=0
)
classifier.fit(X_train, y_train)
rival = make_edit_baseline().fit(X_train, y_train)

# %%
# Calibrated on held-out pairs
# ----------------------------
# ``FrozenEstimator`` keeps scikit-learn from fitting the classifier again: what is learned from the held-out pairs is a
# curve with two parameters, or with ``method="temperature"`` a single factor for the logits.

probabilities = {
    "edits": rival.predict_proba(X_test)[:, 1],
    "LLM": classifier.predict_proba(X_test)[:, 1],
}
for name, method in (("LLM, sigmoid", "sigmoid"), ("LLM, temperature", "temperature")):
    calibrated = CalibratedClassifierCV(FrozenEstimator(classifier), method=method).fit(X_held_out, y_held_out)
    probabilities[name] = calibrated.predict_proba(X_test)[:, 1]

scores = pd.DataFrame(
    {
        name: {"log loss": log_loss(y_test, positive), "Brier score": brier_score_loss(y_test, positive)}
        for name, positive in probabilities.items()
    }
).T
print(scores.round(3))

# %%
# Of both scores, the lower is better. In the picture, a classifier that can be taken at its word lies on the diagonal:
# of the pairs to which it gives 0.3, three in ten changed the meaning. A point stands for 25 pairs of the 100, so
# distances of 0.1 may be chance.

figure, ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
for (name, positive), marker in zip(probabilities.items(), "osD^", strict=True):
    CalibrationDisplay.from_predictions(
        y_test, positive, n_bins=4, strategy="quantile", name=name, ax=ax, marker=marker
    )
ax.set(xlabel="probability of a change of meaning, mean of 25 pairs", ylabel="share that changed the meaning")
plt.show()

# %%
# A threshold that pays
# ---------------------
# Let an editor read whatever is flagged as a change of meaning, which costs a minute; one that slips through costs
# five. The threshold that costs least is found on the held-out pairs.


def minutes(y_true, flagged):
    """Return what it costs to read what was flagged and to miss what was not."""
    _, read_in_vain, missed, read = confusion_matrix(y_true, flagged).ravel()
    return read_in_vain + read + 5 * missed


tuned = TunedThresholdClassifierCV(
    FrozenEstimator(classifier), scoring=make_scorer(minutes, greater_is_better=False), cv="prefit", refit=False
).fit(X_held_out, y_held_out)

costs = {
    "read all": minutes(y_test, np.ones_like(y_test)),
    "edits, threshold 0.5": minutes(y_test, rival.predict(X_test)),
    "LLM, threshold 0.5": minutes(y_test, classifier.predict(X_test)),
    f"LLM, threshold {tuned.best_threshold_:.2f}": minutes(y_test, tuned.predict(X_test)),
}
print(pd.Series(costs, name="minutes for 100 pairs"))

# %%
# Where pairs are too few to hold any out, ``CalibratedClassifierCV(classifier, cv=5)`` and
# ``TunedThresholdClassifierCV(classifier, cv=5)`` fit in folds, which costs five fits or more.
# With ``method="temperature"``, give labels as ``y.to_numpy()``: scikit-learn 1.9 looks for a row named 0 in a Series.
