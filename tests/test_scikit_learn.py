"""scikit-learn's own checks, and life inside its pipelines and searches."""

import numpy as np
import pandas as pd
import pytest
from numeric_rows import ReadsNumbers
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_classifier_multioutput, parametrize_with_checks

from sklearn_irt import GradientNormSelection, IRTuningClassifier, make_edit_baseline

TINY = {"max_epochs": 1, "precision": "fp32", "device": "cpu"}


class NumericRows(ReadsNumbers, IRTuningClassifier):
    """Takes numeric rows, so that all checks for numeric input run."""


class TinyDefault:
    """Where the checks look for a backbone: set by the fixture below, before any check runs."""

    folder = "unset"


@pytest.fixture(autouse=True)
def _tiny(tiny_llama):
    TinyDefault.folder = tiny_llama


def with_tiny_backbone(estimator):
    return estimator.set_params(backbone=TinyDefault.folder)


def expected_failures(estimator):
    if not isinstance(estimator, NumericRows):
        return {}
    reason = "a repeated row is one more row in the batches of a stochastic optimizer; the loss is equivalent, see "
    return {
        "check_sample_weight_equivalence_on_dense_data": reason + "test_integers_act_as_repetition_on_the_loss",
    }


@parametrize_with_checks(
    [
        IRTuningClassifier(**TINY),
        NumericRows(**{**TINY, "max_epochs": 6}, learning_rate=0.005, candidate_layers="all"),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_checks(estimator, check):
    check(with_tiny_backbone(estimator))


def test_scikit_learns_check_of_many_outputs_with_an_indicator_matrix():
    check_classifier_multioutput("NumericRows", with_tiny_backbone(NumericRows(**TINY)))


def test_pipeline_that_cleans_text(make_classifier, revisions):
    X, y = revisions
    spaced = X + "   "
    clean = FunctionTransformer(lambda frame: frame.apply(lambda column: column.str.strip()))
    cleaned = make_pipeline(clean, make_classifier()).fit(spaced, y).predict_proba(spaced)
    stripped = make_classifier().fit(X.apply(lambda column: column.str.strip()), y)
    assert np.array_equal(cleaned, stripped.predict_proba(X.apply(lambda column: column.str.strip())))


def test_pipeline_that_selects_columns_of_a_wider_frame(make_classifier, revisions):
    X, y = revisions
    wide = X.assign(author=range(60))[["author", "after", "before"]]
    select = ColumnTransformer([("texts", "passthrough", ["before", "after"])]).set_output(transform="pandas")
    pipeline = make_pipeline(select, make_classifier()).fit(wide, y)
    assert np.array_equal(pipeline.predict_proba(wide), make_classifier().fit(X, y).predict_proba(X))


def test_grid_search(make_classifier, revisions):
    X, y = revisions
    grid = {
        "learning_rate": [1e-3, 1e-2],
        "selection__n_splits": [1, 2],
        "pair_format": ["inline-diff", "before-after"],
    }
    classifier = make_classifier(selection=GradientNormSelection(), candidate_layers="all")
    search = GridSearchCV(classifier, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert len(set(search.cv_results_["mean_test_score"])) > 1
    assert search.best_estimator_.selection_.n_splits == search.best_params_["selection__n_splits"]
    assert search.predict(X).shape == (60,)


def test_cross_validation_with_strata_and_groups(make_classifier, revisions):
    X, y = revisions
    strata = cross_val_score(make_classifier(), X, y, cv=StratifiedKFold(3), error_score="raise")
    groups = cross_val_score(make_classifier(), X, y, cv=GroupKFold(3), groups=np.arange(60) // 4, error_score="raise")
    assert strata.shape == groups.shape == (3,)


def test_cross_validation_in_two_processes_gives_what_one_gives(make_classifier, revisions):
    X, y = revisions
    one, two = (cross_val_score(make_classifier(), X, y, cv=2, n_jobs=n, error_score="raise") for n in (1, 2))
    assert np.array_equal(one, two)


def test_calibration(make_classifier, revisions):
    X, y = revisions
    probabilities = CalibratedClassifierCV(make_classifier(), cv=2).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_stacking_with_the_classical_rival(make_classifier, revisions):
    X, y = revisions
    contenders = [("llm", make_classifier()), ("edits", make_edit_baseline())]
    stack = StackingClassifier(contenders, LogisticRegression(max_iter=1000), cv=2).fit(X, y)
    assert stack.final_estimator_.n_features_in_ == 2 * 5
    assert stack.predict(X).shape == (60,)


def test_clone_and_parameters():
    classifier = IRTuningClassifier(selection=GradientNormSelection(n_splits=2), learning_rate=0.5)
    again = clone(classifier)
    assert again.get_params()["selection__n_splits"] == 2
    assert again.selection is not classifier.selection
    assert again.set_params(selection__n_splits=3, learning_rate=1).selection.n_splits == 3
    assert classifier.selection.n_splits == 2


def test_a_frame_with_an_index_of_its_own(make_classifier, revisions):
    X, y = revisions
    index = pd.Index([f"row {i}" for i in range(60)])
    renamed = make_classifier().fit(X.set_axis(index), y.set_axis(index))
    assert np.array_equal(renamed.predict_proba(X), make_classifier().fit(X, y).predict_proba(X))
