"""
Which edits does a prediction rest on?
======================================

A revised sentence often has several edits, and a classifier gives it one intention. Which of the edits made it say so?
:func:`~sklearn_irt.explain_edits` takes one edit back at a time, leaves the others as they are, and asks the classifier
again: what the probability of the predicted class loses is the share that it owes to this edit.
"""

# %%
# A classifier and pairs that it has not seen
# -------------------------------------------
# The sample corpus has 400 pairs of a sentence before and after a revision. To have an LLM in less than a minute, 12 of
# its 30 layers run, and the upper 4 of these are trained.

import numpy as np
from sklearn.model_selection import train_test_split

from sklearn_irt import EditsDisplay, IRTuningClassifier, explain_edits, load_sample_revisions, make_edit_baseline

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=200, test_size=60, stratify=y, random_state=0)
clf = IRTuningClassifier(n_layers=12, candidate_layers=4, selection="full", random_state=0).fit(X_train, y_train)
clf.score(X_test, y_test)

# %%
# One row an edit
# ---------------
# A pair with three edits is predicted four times: as it is, and without each of them. ``fall`` is above 0 where the
# edit speaks for the predicted class, and below 0 where it speaks against it.

explanation = explain_edits(clf, X_test)
explanation.head(8).round(2)

# %%
# In the text
# -----------
# The pairs with the most edits show best what there is to tell apart. On blue the probability falls without the edit,
# on orange it rises; hold the pointer over an edit to read from where to where.

rows = explanation["row"].value_counts().index[:5]
many_edits = explanation[explanation["row"].isin(rows)]
EditsDisplay.from_explanation(many_edits, X_test)

# %%
# The same of one pair, as bars:

figure = EditsDisplay.from_explanation(many_edits, X_test).plot(row=rows[0]).figure_

# %%
# Of a whole corpus
# -----------------
# Because an explanation is a table, questions about all pairs are a line of pandas. Is a class recognised by what was
# added, by what was deleted, or by what was replaced? Sixty pairs are too few to be sure of any of these means.

kind = np.select([explanation["before"] == "", explanation["after"] == ""], ["added", "deleted"], "replaced")
explanation.groupby(["predicted", kind])["fall"].agg(["mean", "size"]).round(2)

# %%
# What the numbers do not say
# ---------------------------
# They describe the classifier, not the author, and not the classifier's reasons either: a pair without one of its edits
# may be like nothing that it learned from. Nor do they add up to what all edits do together. Where two edits say the
# same, the classifier misses neither; where two say something only together, it misses both. Here is, for the pairs
# above, the sum of the falls beside the fall when all edits are taken back at once, which leaves the same text twice:

by_pair = many_edits.groupby("row", sort=False).agg({"predicted": "first", "probability": "first", "fall": "sum"})
before = X_test["before"].iloc[by_pair.index]
unrevised = clf.predict_proba(before.to_frame().assign(after=before))
without_all = unrevised[range(len(by_pair)), np.searchsorted(clf.classes_, by_pair["predicted"])]
by_pair.assign(fall_without_all=by_pair["probability"] - without_all).round(2)

# %%
# The measure is known as occlusion (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV
# 2014, arXiv 1311.2901) or erasure (Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation
# Erasure", 2016, arXiv 1612.08220).
#
# Of any classifier
# -----------------
# It needs no more of a classifier than ``predict_proba``. This is how the pipeline without an LLM sees the same pairs.
# Where the two disagree about an edit, one has learned something that the other has not, or something wrong.

baseline = make_edit_baseline().fit(X_train, y_train)
EditsDisplay.from_estimator(baseline, X_test.iloc[by_pair.index])
