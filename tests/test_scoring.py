"""Early stopping looks at what scikit-learn's scorers say about the held-out part, as its user would see it."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone, is_classifier
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    get_scorer,
    get_scorer_names,
    log_loss,
    make_scorer,
    roc_auc_score,
)
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from skorch.dataset import ValidSplit

from sklearn_irt.scoring import HeldOutAnswers, read_scoring
from sklearn_irt.training import LayerwiseNet

STOPPING = {"early_stopping": True, "validation_fraction": 0.4, "learning_rate": 0.01}
SEVERAL = ["f1_macro", "balanced_accuracy", "roc_auc_ovr", "neg_log_loss", "accuracy", "loss"]


@pytest.fixture
def held_out(monkeypatch):
    """Return a list that gets the rows that each fit holds out."""
    rows = []
    split = ValidSplit.__call__

    def spy(self, *args, **kwargs):
        train, valid = split(self, *args, **kwargs)
        rows.append(valid.indices)
        return train, valid

    monkeypatch.setattr(ValidSplit, "__call__", spy)
    return rows


def test_scores_of_the_last_epoch_are_those_computed_by_hand_from_predictions(make_classifier, revisions, held_out):
    X, y = revisions
    classifier = make_classifier(**STOPPING, scoring=SEVERAL).fit(X, y)
    (rows,) = held_out
    X, y = X.iloc[rows], y.iloc[rows]
    probabilities, predicted = classifier.predict_proba(X), classifier.predict(X)
    assert len(set(predicted)) > 1
    by_hand = {
        "f1_macro": f1_score(y, predicted, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(y, predicted),
        "roc_auc_ovr": roc_auc_score(y, probabilities, multi_class="ovr"),
        "neg_log_loss": -log_loss(y, probabilities),
        "accuracy": accuracy_score(y, predicted),
    }
    (epoch,) = classifier.history_
    for name, expected in by_hand.items():
        assert epoch[f"valid_{name}"] == pytest.approx(expected, rel=1e-4), name
        assert type(epoch[f"valid_{name}"]) is float
    assert epoch["valid_accuracy"] == pytest.approx(epoch["valid_acc"])
    assert epoch["valid_loss"] != pytest.approx(-epoch["valid_neg_log_loss"])  # it is weighted by class


@pytest.mark.parametrize("scoring", ["balanced_accuracy", ["neg_log_loss", "accuracy"]])
def test_the_first_score_decides_when_to_stop_and_which_weights_are_kept(make_classifier, revisions, held_out, scoring):
    X, y = revisions
    classifier = make_classifier(**STOPPING | {"learning_rate": 0.05}, max_epochs=30, scoring=scoring).fit(X, y)
    first = scoring if isinstance(scoring, str) else scoring[0]
    scores = classifier.history_[:, f"valid_{first}"]
    best = int(np.argmax(scores))  # the first of equal ones
    assert classifier.n_iter_ == best + 1 + 2 < 30
    rows = held_out[0]
    kept = get_scorer(first)(classifier, X.iloc[rows], y.iloc[rows])
    assert kept == pytest.approx(scores[best], rel=1e-4)
    marks = classifier.history_[:, f"valid_{first}_best"]
    assert marks == [score > max(scores[:epoch], default=-np.inf) for epoch, score in enumerate(scores)]


def test_by_default_the_lowest_loss_decides(make_classifier, revisions):
    X, y = revisions
    classifier = make_classifier(**STOPPING | {"learning_rate": 0.03}, max_epochs=30).fit(X, y)
    losses = classifier.history_[:, "valid_loss"]
    assert classifier.n_iter_ == int(np.argmin(losses)) + 1 + 2 < 30
    assert not any(name.startswith("valid_score") for name in classifier.history_[0])


def test_what_is_scored_besides_changes_nothing(make_classifier, revisions):
    X, y = revisions
    alone, several = (make_classifier(**STOPPING, max_epochs=2, scoring=s).fit(X, y) for s in ("loss", SEVERAL[::-1]))
    assert np.array_equal(alone.predict_proba(X), several.predict_proba(X))
    assert alone.history_[:, "valid_loss"] == several.history_[:, "valid_loss"]


def test_many_scores_cost_one_pass_an_epoch(make_classifier, revisions, monkeypatch):
    passes = []
    infer = LayerwiseNet.infer

    def spy(self, x, **fit_params):
        passes.append(len(x["input_ids"]))
        return infer(self, x, **fit_params)

    monkeypatch.setattr(LayerwiseNet, "infer", spy)
    n_rows = []
    for scoring in ("loss", SEVERAL):
        passes.clear()
        make_classifier(**STOPPING, max_epochs=2, scoring=scoring).fit(*revisions)
        n_rows.append(sum(passes))
    assert n_rows == [2 * 60, 2 * 60]


def test_two_classes_are_scored_by_their_own_labels(make_classifier, revisions, held_out):
    X, y = revisions
    y = pd.Series(np.where(y == "fluency", "fluency", "other"))
    scoring = {
        "f1_fluency": make_scorer(f1_score, pos_label="fluency", average="binary"),
        "f1_other": make_scorer(f1_score, pos_label="other", average="binary"),
        "by_logits": make_scorer(roc_auc_score, response_method="decision_function"),
        "ranked": "roc_auc",
    }
    classifier = make_classifier(**STOPPING | {"learning_rate": 0.05}, max_epochs=2, scoring=scoring).fit(X, y)
    rows = held_out[0]
    best = int(np.argmax(classifier.history_[:, "valid_f1_fluency"]))
    for name, scorer in scoring.items():
        by_hand = (get_scorer(scorer) if isinstance(scorer, str) else scorer)(classifier, X.iloc[rows], y.iloc[rows])
        assert classifier.history_[best, f"valid_{name}"] == pytest.approx(by_hand), name
    assert classifier.history_[best, "valid_f1_fluency"] != classifier.history_[best, "valid_f1_other"]


@pytest.mark.parametrize(
    "make_X",
    [lambda X: X, lambda X: pl.DataFrame(X.to_dict("list")), lambda X: X.to_numpy(), lambda X: X.to_numpy().tolist()],
    ids=["pandas", "polars", "array", "list"],
)
def test_a_callable_gets_the_held_out_rows_as_the_user_gave_them(make_classifier, revisions, held_out, make_X):
    X, y = revisions
    seen = []

    def score(estimator, X, y):
        seen.append((X, y, estimator.predict(X), estimator.predict_proba(X), estimator.decision_function(X)))
        assert is_classifier(estimator)
        assert estimator.classes_.tolist() == sorted(set(revisions[1]))
        return estimator.score(X, y)

    weights = (np.arange(60) % 6 > 0).astype(float)
    classifier = make_classifier(**STOPPING, scoring=score).fit(make_X(X), y, sample_weight=weights)
    rows = np.flatnonzero(weights)[held_out[0]]
    given, labels, predicted, probabilities, logits = seen[-1]
    assert type(given) is type(make_X(X))
    assert np.array_equal(np.asarray(given, dtype=object), X.iloc[rows].to_numpy(dtype=object))
    assert labels.tolist() == y.iloc[rows].tolist()
    assert predicted.tolist() == classifier.predict(given).tolist()
    np.testing.assert_allclose(probabilities, classifier.predict_proba(given), rtol=1e-3)
    np.testing.assert_allclose(logits, classifier.decision_function(given), rtol=1e-3, atol=1e-4)
    assert classifier.history_[-1]["valid_score"] == accuracy_score(labels, predicted)


def test_the_answers_are_to_the_held_out_rows_alone():
    X = ["one", "two", "three"]
    answers = HeldOutAnswers(X, np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), np.array(["no", "yes"]))
    assert answers.predict(X).tolist() == ["no", "yes", "yes"]
    assert answers.decision_function(X).tolist() == [-1, 3, 1]
    assert answers.predict_proba(X)[1, 1] == pytest.approx(1 / (1 + np.exp(-3)))
    with pytest.raises(ValueError, match="pass X on as it came"):
        answers.predict(X[:2])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_scorer_of_scikit_learn_judges_the_answers_as_those_of_its_own_classifiers(n_classes):
    X, y = make_classification(100, n_informative=4, n_classes=n_classes, random_state=0)
    y = y + 0.0  # so that regression scorers apply
    judged = LogisticRegression(C=0.01).fit(X, y)
    logits = judged.decision_function(X)
    answers = HeldOutAnswers(X, np.column_stack([-logits / 2, logits / 2]) if n_classes == 2 else logits, np.unique(y))
    n_numbers = 0
    for name in get_scorer_names():
        try:
            expected = get_scorer(name)(judged, X, y)
        except ValueError as error:
            with pytest.raises(ValueError, match=re.escape(str(error)[:40])):
                get_scorer(name)(answers, X, y)
        else:
            assert get_scorer(name)(answers, X, y) == pytest.approx(expected, nan_ok=True), name
            n_numbers += 1
    assert n_numbers > 40


def test_without_early_stopping_nothing_is_scored(make_classifier, revisions):
    classifier = make_classifier(scoring=lambda *_: 1 / 0).fit(*revisions)
    assert not [name for name in classifier.history_[0] if name.startswith("valid_")]


def test_scoring_can_be_searched_and_cloned(make_classifier, revisions):
    X, y = revisions
    grid = {"scoring": ["loss", "accuracy", {"mine": make_scorer(accuracy_score)}]}
    search = GridSearchCV(clone(make_classifier(**STOPPING)), grid, cv=2, error_score="raise").fit(X, y)
    assert len(set(search.cv_results_["mean_test_score"])) == 1  # one epoch, whatever is scored


def raises(estimator, X, y):
    raise RuntimeError("not today")


BAD = [
    ("f1_makro", "scoring='f1_makro' is neither 'loss' nor a name .* Did you mean 'f1_macro'"),
    (f1_score, "looks like it is a metric function rather than a scorer"),
    ([], r"scoring=\[\] names no scorer"),
    (["accuracy", f1_score], "a list with <function f1_score.* at position 1, which has no name"),
    (("accuracy", "accuracy"), "names 'accuracy' twice"),
    ({"loss": "accuracy"}, "'loss' goes by its own name"),
    ({"mine": "loss"}, "'loss' goes by its own name"),
    ({"acc": "accuracy"}, "valid_acc is noted in history_ already"),
    ({"mine": 3}, "holds 'mine': 3"),
    ({3: "accuracy"}, "holds 3: 'accuracy'"),
    (3, "scoring"),
    ("r2", "'r2' fails on the 24 rows held out, were all answers right"),
    ("roc_auc", "'roc_auc' fails on the 24 rows held out, .*multi_class"),
    (make_scorer(f1_score, average="binary"), "'score' fails .*Target is multiclass"),
    (raises, "'score' fails .*: not today"),
    ({"fine": "accuracy", "none": lambda estimator, X, y: None}, "'none' must return a number, but returned None"),
    (lambda estimator, X, y: np.nan, "must return a number, but returned nan"),
    (lambda estimator, X, y: estimator.predict(X[:3]), "answers to the held-out rows alone"),
]


@pytest.mark.parametrize(("scoring", "message"), BAD)
def test_scorers_that_cannot_be_used_are_refused_before_a_backbone_is_looked_for(
    make_classifier, revisions, scoring, message
):
    with pytest.raises(ValueError, match=message):
        make_classifier(**STOPPING, backbone="/nowhere", scoring=scoring).fit(*revisions)


def test_a_label_that_is_no_class_is_refused_before_a_backbone_is_looked_for(make_classifier, revisions):
    X, y = revisions
    typo = make_scorer(f1_score, pos_label="stile", average="binary")
    with pytest.raises(ValueError, match=r"'score' fails .*pos_label=stile"):
        make_classifier(**STOPPING, backbone="/nowhere", scoring=typo).fit(X, np.where(y == "style", "style", "other"))


def test_a_score_that_needs_each_class_is_refused_where_the_held_out_part_lacks_one(make_classifier, revisions):
    X, y = revisions[0], np.repeat([0, 1, 2], [28, 28, 4])
    few = {"early_stopping": True, "validation_fraction": 0.06, "backbone": "/nowhere"}
    _, rows = next(StratifiedShuffleSplit(1, test_size=0.06, random_state=0).split(y, y))
    assert set(y[rows]) == {0, 1}
    with pytest.raises(ValueError, match="'roc_auc_ovr' fails on the 4 rows held out"):
        make_classifier(**few, scoring="roc_auc_ovr").fit(X, y)


def test_a_scorer_that_fails_later_leaves_what_was_learned(make_classifier, revisions):
    X, y = revisions
    calls = SimpleNamespace(n=0)

    def once(estimator, X, y):
        calls.n += 1
        if calls.n == 3:
            raise RuntimeError("out of patience")
        return calls.n

    classifier = make_classifier(**STOPPING, max_epochs=5, scoring=once)
    with pytest.raises(RuntimeError, match="out of patience"):
        classifier.fit(X, y)
    assert len(classifier.active_layers_) == 2 * 3
    assert classifier.predict(X).shape == (60,)


def test_names_are_those_of_a_multimetric_evaluation():
    assert list(read_scoring("f1_macro")) == ["f1_macro"]
    assert list(read_scoring(("f1_macro", "loss"))) == ["f1_macro", "loss"]
    assert list(read_scoring(make_scorer(f1_score))) == ["score"]
    assert list(read_scoring({"mine": "f1_macro"})) == ["mine"]
