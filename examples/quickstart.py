"""
Does a small LLM beat a classical pipeline?
===========================================

Both, side by side, say why the sentences of the sample corpus were revised. Run it with::

    python examples/quickstart.py

A row of the corpus is a sentence before and after a revision; the label says why it was revised. 300 pairs are fitted,
100 are held out.
"""

import time

import pandas as pd
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split

from sklearn_irt import IRTuningClassifier, load_sample_revisions, make_edit_baseline

X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=100, stratify=y, random_state=0)
print("A pair of the corpus:", X_train.iloc[0].to_dict(), "->", y_train.iloc[0], "\n")

contenders = {
    "edits + logistic regression": make_edit_baseline(),
    # The upper layers of this LLM do little for the task: without them, a fit takes half the time.
    "IRTuningClassifier (SmolLM2-135M)": IRTuningClassifier(n_layers=0.6, random_state=0, verbose=1),
}
results = []
for name, classifier in contenders.items():
    start = time.perf_counter()
    prediction = classifier.fit(X_train, y_train).predict(X_test)
    results.append(
        {
            "method": name,
            "macro-F1": f1_score(y_test, prediction, average="macro"),
            "accuracy": accuracy_score(y_test, prediction),
            "seconds": time.perf_counter() - start,
        }
    )
print("\n" + pd.DataFrame(results).round(2).to_string(index=False))

share = pd.Series(classifier.active_layers_.mean(axis=0), index=classifier.candidate_layers_)
print(
    f"\nShare of the {len(classifier.active_layers_)} steps in which a layer, of the {classifier.n_layers_} that run, "
    "was trained:"
)
print("\n".join(f"  layer {layer:2d}  {trained:4.0%}  {'#' * round(40 * trained)}" for layer, trained in share.items()))
