"""
Which backbone suits the data?
==============================

Before anything is trained, :func:`~sklearn_irt.rank_backbones` scores the hidden states that backbones have as they
are: LogME (You et al., ICML 2021, `arXiv 2102.11005 <https://arxiv.org/abs/2102.11005>`_) says how well a linear model
can tell the classes apart by them. Two small backbones are ranked here; yours may be any of the Hugging Face hub.
"""

# %%
# The ranking
# -----------
#
# Each backbone reads the texts once, and is scored after a quarter of its layers, a half, three quarters and all. What
# tells classes apart need not be in the last layer: that predicts the next token, or what a text is about.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_irt import BackboneFeatures, load_sample_revisions, rank_backbones

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X, y = X[::2], y[::2]
backbones = ["smollm2-135m", "minilm-l6"]
options = {"layers": [0.25, 0.5, 0.75, 1.0], "pooling": "mean", "max_length": 256}

ranking = rank_backbones(X, y, backbones, **options)
print(ranking.round(3).to_string(index=False))

# %%
# The best layer of each:

print(ranking.drop_duplicates("backbone").round(3).to_string(index=False))

# %%
# Is it right?
# ------------
#
# The score only estimates how well a classifier will do. Here is a logistic regression on the same states, which are
# not computed again, cross-validated.

probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
macro_f1 = {}
for name in backbones:
    features = BackboneFeatures(name, **options)
    states = features.fit_transform(X)
    for layer, of_layer in zip(features.layers_, np.split(states, len(features.layers_), axis=1), strict=True):
        macro_f1[name, layer] = cross_val_score(probe, of_layer, y, cv=5, scoring="f1_macro").mean()

ranking["macro_f1"] = [macro_f1[row.backbone, row.layer] for row in ranking.itertuples()]
print(f"Kendall's tau: {ranking.score.corr(ranking.macro_f1, method='kendall'):.2f}")

# %%
# The number beside a point says after how many layers.

fig, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name, marker in zip(backbones, "os", strict=True):
    rows = ranking[ranking.backbone == name]
    ax.scatter(rows.score, rows.macro_f1, marker=marker, label=name)
for row in ranking.itertuples():
    ax.annotate(row.layer, (row.score, row.macro_f1), xytext=(5, -4), textcoords="offset points")
ax.set(xlabel="LogME", ylabel="Macro-F1, cross-validated")
ax.margins(x=0.08)
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
