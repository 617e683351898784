"""
How fast a fit converges
========================

Loss and held-out score of several fits in one picture, by step and by second. A strategy that trains fewer layers takes
cheaper steps; whether it is ahead after as many seconds is another question than whether it is after as many steps.
"""

# %%
# Two ways to choose the layers, alike otherwise: all of them at every step, or, once ten steps have measured the
# gradient norms, those alone whose norms are large. A fifth of the 200 pairs is held out; after each epoch the macro F1
# on it is noted, which decides when to stop.

from sklearn_irt import ConvergenceDisplay, IRTuningClassifier, load_sample_revisions

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X, y = X[:200], y[:200]
settings = {
    "n_layers": 12,
    "candidate_layers": 6,
    "max_epochs": 3,
    "early_stopping": True,
    "scoring": ["f1_macro"],
    "validation_fraction": 0.2,
    "random_state": 0,
}

# %%
# The first fit of a process loads the backbone and computes the frozen prefix, which later ones find in memory. So that
# none of those that are compared pays for the other, the first one is not drawn.

IRTuningClassifier(**{**settings, "max_epochs": 1}).fit(X, y)
fits = {name: IRTuningClassifier(selection=name, **settings).fit(X, y) for name in ("full", "ir-fast")}

# %%
# By step: faint, the loss of each batch; strong, its running mean; the markers are the held-out part after each epoch.

ConvergenceDisplay.from_estimators(fits)

# %%
# By second since ``fit`` was called. What comes before the first step is the gap at the left.

ConvergenceDisplay.from_estimators(fits, x="seconds")

# %%
# The numbers behind it are in ``history_``, a row an epoch:

for name, classifier in fits.items():
    for epoch in classifier.history_:
        print(f"{name}: macro F1 {epoch['valid_f1_macro']:.3f} after {epoch['seconds']:.1f} s")
