"""
Many labels a pair
==================

What did a revision do? One answer is seldom enough: the same sentence may lose one word, get two others and a comma.
Here each revision has any number of labels, or none, and one classifier learns them all.

The labels are no research data: they are computed from the two texts, so that anybody can see whether an answer is
right. A program that computes them is of course a better classifier than any that has to learn them.
"""

# %%
# Labels as an indicator matrix
# -----------------------------
#
# One column a label, with 1 where a revision has it. Where y is a frame, the names of its columns are kept as
# ``label_names_``.

import re
from difflib import SequenceMatcher

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.multioutput import MultiOutputClassifier

from sklearn_irt import IRTuningClassifier, load_sample_revisions, make_edit_baseline

X, _ = load_sample_revisions(return_X_y=True, as_frame=True)


def label(before, after):
    """Say what happened to the words, and to the punctuation."""
    words = [re.findall(r"\w+", text.lower()) for text in (before, after)]
    marks = [re.findall(r"[^\w\s]", text) for text in (before, after)]
    happened = {kind for kind, *_ in SequenceMatcher(None, *words, autojunk=False).get_opcodes()}
    return {
        "words added": "insert" in happened,
        "words deleted": "delete" in happened,
        "words replaced": "replace" in happened,
        "punctuation": marks[0] != marks[1],
    }


y = pd.DataFrame([label(*pair) for pair in X.to_numpy()]).astype(int)
print(y.sum().to_string(), "\n\nlabels a revision:", y.sum(axis=1).value_counts().sort_index().to_dict())

# %%
# One classifier for all labels
# -----------------------------
#
# The small encoder ``"minilm-l6"`` is enough here, and all of its layers' own weights train. The head has an output for
# each label, with a sigmoid; the loss is the mean of their binary cross-entropies.

X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, random_state=0)
classifier = IRTuningClassifier(
    "minilm-l6",
    adapter=None,
    candidate_layers="all",
    selection="full",
    learning_rate=2e-4,
    max_epochs=4,
    random_state=0,
).fit(X_train, y_train)

pd.DataFrame(classifier.predict_proba(X_test[:3]), columns=classifier.label_names_).round(2)

# %%
# Is it any good?
# ---------------
#
# A rival is a classical pipeline for each label, which sees the edits too and takes seconds. And a score means little
# without that of the answer that looks at nothing: here, that every revision has the label.

contenders = {
    "every revision": DummyClassifier(strategy="constant", constant=[1] * y.shape[1]),
    "edits + logistic regression, one a label": MultiOutputClassifier(make_edit_baseline()),
}
predictions = {name: rival.fit(X_train, y_train).predict(X_test) for name, rival in contenders.items()}
predictions["IRTuningClassifier (MiniLM), one for all"] = classifier.predict(X_test)

scores = pd.DataFrame(
    {name: f1_score(y_test, predicted, average=None) for name, predicted in predictions.items()}, index=y.columns
)
scores.loc["mean (macro-F1)"] = scores.mean()
print(scores.round(2).to_string())

# %%
# After these few epochs on 300 pairs the small LLM is about as good on words, and behind on punctuation: the pipeline
# has each deleted or added mark as a feature of its own. The scores are scikit-learn's for many labels, so that
# ``"f1_macro"`` serves as ``scoring`` of the classifier's early stopping and of a ``GridSearchCV`` too.

axes = scores[::-1].plot.barh(figsize=(7, 4), width=0.75, xlim=(0, 1), xlabel="F1 on 100 held-out revisions")
axes.legend(*(entries[::-1] for entries in axes.get_legend_handles_labels()), loc="lower left", bbox_to_anchor=(0, 1))
axes.spines[["top", "right"]].set_visible(False)
plt.tight_layout()
plt.show()
