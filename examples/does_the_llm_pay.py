"""
Does the LLM pay?
=================

Is a fine-tuned LLM better than its own frozen features on *these* texts, are those better than words and a logistic
regression, by how much, and what does each cost? :func:`~sklearn_irt.compare` answers in one call. Here it compares on
200 pairs of the sample corpus, with the lower 12 layers of SmolLM2, so that it takes a minute or two;
``examples/benchmarks/comparison.py`` does the same with the default backbone on 800 pairs, in about an hour.
"""

# %%
# The corpus has 400 sentences before and after a revision; the label says why it was revised.

from sklearn.model_selection import StratifiedShuffleSplit

from sklearn_irt import (
    ComparisonDisplay,
    IRTuningClassifier,
    compare,
    load_sample_revisions,
    make_edit_baseline,
    make_frozen_baseline,
)

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X.assign(intention=y).head()

# %%
# The contenders
# --------------
# Of an :class:`~sklearn_irt.IRTuningClassifier` the name of its strategy is enough; what they have in common is set
# once, in ``classifier``. The first contender is the one that the others have to beat.

contenders = {
    "TF-IDF of the edits": make_edit_baseline(),
    "frozen features": make_frozen_baseline(layers=12, context=4),
    "fine-tuned": "full",
}
classifier = IRTuningClassifier(n_layers=12, candidate_layers=4, context=4, random_state=0)

# %%
# The comparison
# --------------
# All are fitted on the same splits. ``results_file`` would keep what was measured, so that the same call goes on after
# an interruption.

cv = StratifiedShuffleSplit(2, train_size=200, test_size=100, random_state=0)
table = compare(contenders, X, y, scoring="f1_macro", cv=cv, classifier=classifier)
table.round(3)

# %%
# ``f1_macro_p_value`` is of the corrected resampled t-test: the training parts overlap, which an ordinary t-test takes
# for more evidence than there is. With two splits hardly any difference can be told from chance.
#
# The figure
# ----------
# To the right is dearer, and above is better; the bars are one standard deviation.

display = ComparisonDisplay.from_comparison(table)
display.ax_.set_title("Revision intentions: what a better score costs")

# %%
# What else a contender costs can be drawn too: the memory that it needs, say.

ComparisonDisplay.from_comparison(table, cost="peak_memory_mb")
