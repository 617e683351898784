"""The example of salient neurons runs, and selects by the rule that it tells of."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

import sklearn_irt
from sklearn_irt import BackboneFeatures, load_sample_revisions, make_frozen_baseline

EXAMPLE = Path(__file__).parents[1] / "examples" / "salient_neurons.py"


@pytest.fixture
def example(save_tiny, monkeypatch):
    """Run the example on fewer pairs and a tiny backbone of as many layers, and return what it defines."""
    pytest.importorskip("matplotlib").use("agg")
    size = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 18, "intermediate_size": 48}
    folder = save_tiny("deep", LlamaConfig(**size, vocab_size=600, max_position_embeddings=256))
    monkeypatch.setattr(BackboneFeatures.__init__, "__defaults__", (folder,))
    monkeypatch.setattr(make_frozen_baseline, "__defaults__", (folder,))
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    monkeypatch.setattr(sklearn_irt, "load_sample_revisions", lambda **options: (X[:160], y[:160]))
    return runpy.run_path(str(EXAMPLE))


@pytest.mark.filterwarnings("ignore:.*non-interactive", "ignore:.* texts had more than max_length")
def test_salient_neurons_are_the_fewest_that_make_up_the_share(example):
    assert len(example["kept"]) == 6
    for name, _, _ in example["salient"].transformers:
        fitted = example["spin"]["salient"].named_transformers_[name]["selectfrommodel"]
        importance = sum(binary.coef_[0] ** 2 for binary in fitted.estimator_.estimators_)
        salient = importance[fitted.get_support()] / importance.sum()
        assert 0 < len(salient) < 32
        assert salient.min() >= (importance[~fitted.get_support()] / importance.sum()).max()
        assert salient.sum() >= 0.8 > salient.sum() - salient.min()
    assert np.sum(example["kept"]) * 32 == pytest.approx(example["spin"]["classifier"].n_features_in_)
