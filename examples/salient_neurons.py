"""
Salient neurons of a frozen LLM
===============================

SPIN (Jiao et al., `arXiv 2311.15983 <https://arxiv.org/abs/2311.15983>`_) classifies texts without fine-tuning, and
with few of an LLM's units: in each layer a sparse linear probe says which neurons matter, and one classifier reads
these neurons of all layers. With :class:`~sklearn_irt.BackboneFeatures` that is an ordinary scikit-learn pipeline.
"""

# %%
# The states of several layers
# ----------------------------
#
# A row of the corpus is a sentence before and after a revision, and the label says why it was revised. All states are
# computed in one pass over the texts, and kept for the fits below.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_irt import BackboneFeatures, load_sample_revisions, make_frozen_baseline

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, stratify=y, random_state=0)

layers = range(3, 19, 3)
states = BackboneFeatures(layers=layers, max_length=256).set_output(transform="pandas")

# %%
# Which neurons of a layer matter
# -------------------------------
#
# The probe of a layer is a logistic regression for each class whose L1 penalty leaves most weights at zero. A neuron's
# importance is its squared weight. The most important ones are kept until they make up a share of the sum.
# ``SelectFromModel`` compares each neuron with a threshold: here, with what is left of the sum when its turn comes.

share_of_importance = 0.8


def share_left(probe):
    importance = np.sum([binary.coef_[0] ** 2 for binary in probe.estimators_], axis=0)
    order = np.argsort(-importance)
    left = np.empty_like(importance)
    left[order] = 1 - (np.cumsum(importance[order]) - importance[order]) / importance.sum()
    return left


def make_selection():
    sparse = LogisticRegression(l1_ratio=1, C=0.2, solver="liblinear", class_weight="balanced", random_state=0)
    probe = OneVsRestClassifier(sparse)
    selection = SelectFromModel(probe, threshold=1 - share_of_importance, importance_getter=share_left)
    return make_pipeline(StandardScaler(), selection)


salient = ColumnTransformer(
    [(f"layer {layer}", make_selection(), make_column_selector(f"^layer{layer}_")) for layer in layers]
)

# %%
# One classifier for the neurons of all layers
# --------------------------------------------
#
# It is compared with the same classifier on every neuron of these layers, whose states are not computed again.

classifier = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
spin = Pipeline([("states", states), ("salient", salient), ("classifier", classifier)]).fit(X_train, y_train)
all_neurons = make_frozen_baseline(layers=layers, max_length=256).fit(X_train, y_train)

for name, pipeline in (("salient neurons", spin), ("all neurons", all_neurons)):
    score = f1_score(y_test, pipeline.predict(X_test), average="macro")
    print(f"{name:15s} {pipeline[-1].n_features_in_:5d}   macro-F1 {score:.2f}")

# %%
# Where they are
# --------------

kept = [spin["salient"].named_transformers_[f"layer {layer}"][-1].get_support().mean() for layer in layers]

fig, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
bars = ax.bar([str(layer) for layer in layers], kept)
ax.bar_label(bars, [f"{share:.1%}" for share in kept], padding=2)
ax.set(xlabel="After so many of the 30 layers", ylabel="Neurons kept")
ax.yaxis.set_major_formatter("{x:.0%}")
ax.spines[["top", "right"]].set_visible(False)
ax.margins(y=0.12)
plt.show()

# %%
# In what it differs from SPIN
# ----------------------------
#
# - SPIN reads hidden states, or else the activations within the feed-forward parts, of every layer from the first.
# - It tries several shares of importance, numbers of layers and poolings, and keeps the best on validation data. Here
#   they are fixed; a ``GridSearchCV`` over ``states__pooling`` and the like would choose by cross-validation.
# - Its tasks have two classes, so that a neuron has one weight. Here the squared weights of all classes are added up.
# - Its last classifier has an L1 penalty as well, and its neurons are not scaled.
