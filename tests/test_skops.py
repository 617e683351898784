"""A classifier goes through skops, pickle and copies, fitted or not, as plain data and arrays."""

import copy
import pickle

import numpy as np
import pytest
import skops.io
import torch
from peft import LoraConfig
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_irt import GradientNormSelection
from sklearn_irt.bottleneck import bottleneck_config

pytestmark = pytest.mark.filterwarnings("ignore:.*more than max_length")

OWN = "sklearn_irt.classifier.IRTuningClassifier"


@pytest.fixture(scope="module")
def rows(revisions):
    """Return 16 short pairs and two classes."""
    X, _ = revisions
    lengths = X.map(len)
    short = lengths.sum(axis=1)[lengths.min(axis=1) > 0].nsmallest(16).index
    return X.loc[short], np.array(["a", "b"] * 8)


def through_skops(estimator, trusted):
    data = skops.io.dumps(estimator)
    assert set(skops.io.get_untrusted_types(data=data)) <= set(trusted)
    return skops.io.loads(data, trusted=trusted)


@pytest.mark.parametrize(
    ("parameters", "types"),
    [
        ({}, ["sklearn_irt.selection.gradient_norm.GradientNormSelection"]),
        ({"adapter": None, "selection": "half", "drop_layers": 1}, ["sklearn_irt.selection.half.HalfSelection"]),
        ({"adapter": "bottleneck", "precision": "bf16"}, ["sklearn_irt.selection.gradient_norm.GradientNormSelection"]),
        (
            {"adapter": LoraConfig(r=2, target_modules=["q_proj"]), "selection": GradientNormSelection(n_splits=2)},
            [
                "sklearn_irt.selection.gradient_norm.GradientNormSelection",
                "peft.tuners.lora.config.LoraConfig",
                "peft.tuners.lora.config.LoraRuntimeConfig",
            ],
        ),
    ],
    ids=["defaults", "own weights", "bottleneck in bf16", "objects"],
)
def test_a_fitted_one_predicts_the_same_behind_skops_and_pickle(make_classifier, rows, parameters, types):
    X, y = rows
    classifier = make_classifier(**parameters).fit(X, y)
    expected = classifier.predict_proba(X)
    for again in (
        through_skops(classifier, [OWN, *types]),
        pickle.loads(pickle.dumps(classifier)),
        copy.deepcopy(classifier),
    ):
        assert np.array_equal(again.predict_proba(X), expected)
        assert set(vars(again)) == set(vars(classifier))
        assert again.history_ == classifier.history_ == again.net_.history
        assert type(again.history_) is type(classifier.history_)
        assert again.precision_ == again.net_.module_.backbone.precision == classifier.precision_
        first, own = (one.set_params(warm_start=True).fit(X, y).history_ for one in (again, copy.deepcopy(classifier)))
        assert first[0]["train_loss"] == own[0]["train_loss"]


def test_an_unfitted_one_keeps_its_parameters(make_classifier):
    classifier = make_classifier(class_weight={"a": 2.0}, candidate_layers=[1, 2])
    again = through_skops(classifier, [OWN])
    assert again.get_params() == classifier.get_params()
    assert set(vars(again)) == set(vars(classifier))


def test_a_pipeline_goes_through_skops(make_classifier, rows):
    X, y = rows
    pipeline = make_pipeline(FunctionTransformer(), make_classifier()).fit(X, y)
    again = through_skops(pipeline, [OWN, "sklearn_irt.selection.gradient_norm.GradientNormSelection"])
    assert np.array_equal(again.predict_proba(X), pipeline.predict_proba(X))


def test_a_clone_of_one_that_came_back_is_unfitted(make_classifier, rows):
    again = pickle.loads(pickle.dumps(make_classifier().fit(*rows)))
    assert not hasattr(clone(again), "net_")


def test_a_pickle_holds_no_frozen_weight(make_classifier, rows):
    classifier = make_classifier(candidate_layers=1, adapter="ia3").fit(*rows)
    n_bytes = sum(tensor.nbytes for tensor in classifier.net_.module_.backbone.model.state_dict().values())
    assert len(pickle.dumps(classifier)) < n_bytes / 5


def test_a_configuration_without_a_plain_form_is_pickled_as_it_is(make_classifier, rows):
    config = bottleneck_config()
    config._register_custom_module({torch.nn.Linear: OwnAdapter})
    classifier = make_classifier(adapter=config).fit(*rows)
    again = pickle.loads(pickle.dumps(classifier))
    assert np.array_equal(again.predict_proba(rows[0]), classifier.predict_proba(rows[0]))
    assert any(isinstance(module, OwnAdapter) for module in again.net_.module_.modules())


class OwnAdapter(next(iter(bottleneck_config()._custom_modules.values()))):
    """An adapter that sklearn_irt does not have."""
