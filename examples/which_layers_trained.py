"""
Which layers trained
====================

``selection="ir"``, the paper's rule, trains the layers whose gradient norms are large, and a layer that is frozen keeps
the norm that it had when it last trained. An adapter that starts at zero has a small norm until it has trained for a
while, so the layers that are chosen first tend to stay chosen: the choice locks in. Here is what that looks like, and
what refreshing the norms of all layers now and then does about it.
"""

# %%
# Two fits on 200 pairs, alike but for the rule: of the 12 lowest layers of SmolLM2-135M the upper 8 may train.

import matplotlib.pyplot as plt

from sklearn_irt import GradientNormSelection, IRTuningClassifier, LayerSelectionDisplay, load_sample_revisions

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X, y = X[:200], y[:200]
paper = IRTuningClassifier(n_layers=12, candidate_layers=8, selection="ir", max_epochs=2, random_state=0).fit(X, y)

# %%
# A row is a layer, coloured at the steps at which it trained: the colour is its gradient norm. The bars are the shares
# of the steps. Below is how well each step's ranking of the layers agrees with that of the step before (Kendall's tau).

LayerSelectionDisplay.from_estimator(paper)

# %%
# With ``refresh=10`` every tenth step trains all candidates, the first one too, so that none is judged by a norm from
# long ago. The columns that reach over all layers are these steps.

refreshed = IRTuningClassifier(
    n_layers=12, candidate_layers=8, selection=GradientNormSelection(refresh=10), max_epochs=2, random_state=0
).fit(X, y)

LayerSelectionDisplay.from_estimator(refreshed)

# %%
# How many steps ago the norm was measured that is the oldest in the last ranking:

for name, classifier in {"ir": paper, "refresh=10": refreshed}.items():
    steps_since = classifier.active_layers_[::-1].argmax(axis=0)
    print(f"{name}: {steps_since.max()} steps, that of layer {classifier.candidate_layers_[steps_since.argmax()]}")

# %%
# Both displays in one figure: an ``ax`` is divided among the parts of a display.

figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for ax, (name, classifier) in zip(axes, {"ir": paper, "refresh=10": refreshed}.items(), strict=True):
    LayerSelectionDisplay.from_estimator(classifier, ax=ax)
    ax.set_title(name)
plt.show()
