"""
How many labels until the LLM pays?
===================================

scikit-learn's learning curve, with the classical rival, with features of the frozen LLM, and with the LLM fine-tuned.
The picture here is of the sample corpus, which is small; ``examples/benchmarks/learning_curve.py`` draws that of
ITERATER.
"""

# %%
# 300 pairs are drawn to learn from and 100 to be judged on; a smaller size takes the first of the 300. One draw says
# little: give the splitter more, and the picture gets bands of one standard deviation. Of the 30 layers of SmolLM2 the
# lower 12 run, and two of these train, which is quick enough to follow.

import pandas as pd
from matplotlib import pyplot as plt
from sklearn.model_selection import LearningCurveDisplay, StratifiedShuffleSplit, learning_curve

from sklearn_irt import IRTuningClassifier, load_sample_revisions, make_edit_baseline, make_frozen_baseline

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
contenders = {
    "edits": make_edit_baseline(),
    "frozen features": make_frozen_baseline(layers=12, context=4),
    "fine-tuned": IRTuningClassifier(
        n_layers=12, candidate_layers=2, selection="full", context=4, max_epochs=4, random_state=0
    ),
}
curves = {
    name: learning_curve(
        estimator,
        X,
        y,
        train_sizes=[30, 100, 300],
        cv=StratifiedShuffleSplit(1, train_size=300, test_size=100, random_state=0),
        scoring="f1_macro",
        error_score="raise",
    )
    for name, estimator in contenders.items()
}
sizes = curves["edits"][0]
scores = {name: test.mean(axis=1).round(3) for name, (_, _, test) in curves.items()}
print(pd.DataFrame(scores, index=pd.Index(sizes, name="labels")))

# %%
# All three in one picture:

figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
for index, (name, (_, train, test)) in enumerate(curves.items()):
    display = LearningCurveDisplay(train_sizes=sizes, train_scores=train, test_scores=test, score_name="macro-F1")
    color = f"C{index}"
    display.plot(
        ax,
        score_type="test",
        line_kw={"color": color, "marker": "o"},
        fill_between_kw={"color": color, "alpha": 0.2, "linewidth": 0},
    )
    display.lines_[0].set_label(name)
ax.set(xscale="log", xlabel="labelled pairs")
ax.set_xticks(sizes, labels=sizes)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# Read off for your own data where the curves cross, if they do. With few labels four epochs are few steps: a larger
# ``max_epochs`` may lift the left end of the curve of the fine-tuned LLM.
