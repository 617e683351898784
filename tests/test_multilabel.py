"""Many labels a row: y is an indicator matrix, and the classifier answers as scikit-learn's own multilabel ones do."""

import json
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import torch
from scipy.sparse import csr_array, csr_matrix
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import make_multilabel_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, get_scorer, get_scorer_names, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.utils import compute_class_weight
from transformers import pipeline

from sklearn_irt import IRTuningClassifier
from sklearn_irt.contradictions import describe_contradictions
from sklearn_irt.distributed import Processes
from sklearn_irt.label_matrix import describe_constant_labels
from sklearn_irt.labels import read_labels, weigh_labels
from sklearn_irt.model_card import write_card
from sklearn_irt.pairs import Pair
from sklearn_irt.predicting import predict_logits
from sklearn_irt.scoring import HeldOutAnswers
from sklearn_irt.selection import FixedSelection, SubTuningSelection

WORDS = ["good", "red", "fast"]
LABELS = np.random.RandomState(0).randint(0, 2, (96, 3))
TEXTS = [
    " ".join(["it is", *(word for word, has in zip(WORDS, row, strict=True) if has), str(number % 7)])
    for number, row in enumerate(LABELS)
]
TRAINING, TEST = slice(0, 64), slice(64, 96)
LEARNING = {
    **{"adapter": None, "candidate_layers": "all", "selection": "full"},
    **{"learning_rate": 5e-3, "max_epochs": 6, "batch_size": 8, "n_layers": 2, "random_state": 1},
}


@pytest.fixture(scope="module")
def fitted(make_classifier):
    """Return a classifier that has learned which words a text has; no test may change it."""
    return make_classifier(**LEARNING).fit(TEXTS[TRAINING], LABELS[TRAINING])


@pytest.fixture(scope="module")
def named():
    """Return the labels as a frame with the words as column names."""
    return pd.DataFrame(LABELS, columns=WORDS)


class TestAnswers:
    def test_each_label_is_learned_far_above_its_majority(self, fitted):
        right = (fitted.predict(TEXTS[TEST]) == LABELS[TEST]).mean(axis=0)
        majority = np.maximum(LABELS[TEST].mean(axis=0), 1 - LABELS[TEST].mean(axis=0))
        assert (right >= 0.9).all()
        assert (majority < 0.7).all()
        assert fitted.score(TEXTS[TEST], LABELS[TEST]) == accuracy_score(LABELS[TEST], fitted.predict(TEXTS[TEST]))

    def test_probabilities_are_the_sigmoids_of_the_logits_and_decide_at_one_half(self, fitted):
        probabilities, logits = fitted.predict_proba(TEXTS), fitted.decision_function(TEXTS)
        assert np.array_equal(probabilities, expit(logits))
        assert np.array_equal(fitted.predict(TEXTS), probabilities > 0.5)
        assert not np.allclose(probabilities.sum(axis=1), 1)

    @pytest.mark.parametrize("n_labels", [2, 3])
    def test_shapes_and_types_are_those_of_scikit_learns_neural_network(self, make_classifier, n_labels):
        y = LABELS[:, :n_labels]
        own = make_classifier().fit(TEXTS, y)
        theirs = MLPClassifier((3,)).partial_fit(LABELS, y, classes=range(n_labels))
        assert np.array_equal(own.classes_, theirs.classes_)
        for answer, other in [
            (own.predict(TEXTS), theirs.predict(LABELS)),
            (own.predict_proba(TEXTS), theirs.predict_proba(LABELS)),
            (own.decision_function(TEXTS), theirs.predict_proba(LABELS)),
        ]:
            assert (type(answer), answer.shape, answer.dtype) == (type(other), other.shape, other.dtype)

    @pytest.mark.parametrize(
        "as_container",
        [
            np.ndarray.tolist,
            list,
            lambda y: y.astype(bool),
            lambda y: y.astype(float),
            lambda y: y.astype(object),
            pd.DataFrame,
            lambda y: pd.DataFrame(y, columns=WORDS, dtype="Int64"),
            lambda y: pl.DataFrame(y, schema=WORDS),
            csr_matrix,
            csr_array,
        ],
        ids=["lists", "arrays", "bool", "float", "object", "frame", "Int64", "polars", "sparse matrix", "sparse array"],
    )
    def test_every_container_is_read_alike(self, as_container):
        classes, labels = read_labels(as_container(LABELS), 96)
        assert labels.dtype == np.int64
        assert np.array_equal(labels, LABELS)
        assert classes.tolist() == [0, 1, 2]

    def test_predictions_are_dense_where_y_was_sparse(self, make_classifier):
        sparse, dense = (make_classifier().fit(TEXTS, y).predict(TEXTS) for y in (csr_matrix(LABELS), LABELS))
        assert isinstance(sparse, np.ndarray)
        assert np.array_equal(sparse, dense)

    def test_a_single_column_is_one_label_a_row(self, make_classifier):
        with pytest.warns(UserWarning, match="column-vector y was passed"):
            classifier = make_classifier().fit(TEXTS, LABELS[:, :1])
        assert not classifier.multilabel_
        assert classifier.predict(TEXTS).shape == (96,)


class TestLoss:
    def test_it_is_the_weighted_mean_of_binary_cross_entropies(self, fitted):
        logits = torch.tensor([[0.0, np.log(3)], [-np.log(3), 0.0]])  # probabilities 1/2, 3/4, 1/4, 1/2
        labels = torch.tensor([[1, 0], [0, 1]])
        weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        loss = fitted.net_.get_loss(logits, labels, X={"weight": weights})
        assert loss.item() == pytest.approx(
            (np.log(2) + 2 * np.log(4) + 3 * np.log(4 / 3) + 4 * np.log(2)) / 4, rel=1e-6
        )

    @pytest.mark.parametrize("class_weight", [None, "balanced", "sqrt-balanced"])
    def test_a_fit_weighs_rows_and_labels_as_documented(self, make_classifier, class_weight):
        y, rows = LABELS[:40] * [[1, 1, 0]] + (np.arange(40) % 10 == 0)[:, None] * [0, 0, 1], np.arange(1, 41) / 20
        standing = {"learning_rate": 1e-12, "batch_size": 40, "class_weight": class_weight}
        classifier = make_classifier(**standing).fit(TEXTS[:40], y, sample_weight=rows)
        logits = classifier.decision_function(TEXTS[:40])
        losses = np.logaddexp(0, logits) - y * logits
        weights = np.ones((40, 3))
        for label in range(3):
            balanced = compute_class_weight("balanced", classes=np.arange(2), y=y[:, label], sample_weight=rows)
            power = {None: 0, "balanced": 1, "sqrt-balanced": 0.5}[class_weight]
            weights[:, label] = rows * balanced[y[:, label]] ** power
        expected = (losses * weights / weights.mean(axis=0)).mean()
        assert classifier.history_[0]["train_loss"] == pytest.approx(expected, rel=1e-4)

    def test_balanced_weighs_each_label_as_a_task_of_its_own(self):
        weights = weigh_labels(np.arange(2), np.array([[1, 0], [0, 0], [0, 1], [0, 1]]), "balanced", None)
        np.testing.assert_allclose(weights, [[2, 1], [2 / 3, 1], [2 / 3, 1], [2 / 3, 1]])

    def test_rows_of_weight_0_are_left_out(self, make_classifier):
        weights = np.arange(96) % 3 > 0
        few = make_classifier().fit(np.array(TEXTS, dtype=object)[weights], LABELS[weights])
        weighted = make_classifier().fit(TEXTS, LABELS, sample_weight=weights)
        assert np.array_equal(few.predict_proba(TEXTS), weighted.predict_proba(TEXTS))
        assert weighted.class_count_.tolist() == LABELS[weights].sum(axis=0).tolist()

    @pytest.mark.parametrize("rank", [0, 1])
    def test_processes_share_rows_with_all_their_labels(self, rank):
        inputs = {"weight": torch.arange(10.0).reshape(5, 2), "n_windows": torch.ones(5, dtype=torch.int64)}
        share, labels = Processes(rank, 2).share_of(inputs, torch.arange(10).reshape(5, 2))
        assert labels.tolist() == torch.arange(10).reshape(5, 2)[rank::2].tolist()
        torch.testing.assert_close(share["weight"], inputs["weight"][rank::2] * len(labels) / 5)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda y: y[:5], "X has 96 rows, but y has 5"),
            (
                lambda y: y.reindex([0, 1, 2, -1, *range(4, 96)]),
                "row 3, column 'good' has neither 0 nor 1",
            ),
            (lambda y: np.where(np.arange(96)[:, None] == 4, np.nan, y), r"row 4, column 0 has neither 0 nor 1"),
            (lambda y: y + (y.index == 7)[:, None] * 2, r"row 7, column 'good' has [23] \(3 such entries"),
            (lambda y: -y, r"has -1 .*\(multiclass-multioutput\).*MultiOutputClassifier"),
            (lambda y: y / 2, r"has 0\.5"),
            (lambda y: y.astype(str), "row 0, column 'good' has '0'"),
            (lambda y: y.set_axis(["a", "b", "a"], axis=1), "two columns that are named 'a'"),
            (lambda y: y.iloc[:, :0], "y has no column"),
            (lambda y: y * 0, "All rows have the same labels"),
            (lambda y: [["good"], ["red", "fast"]] * 48, "MultiLabelBinarizer"),
            (lambda y: [{"good"}, {"red", "fast"}] * 48, r"Row 0 of y has \{'good'\}, .*MultiLabelBinarizer"),
            (lambda y: y.to_numpy()[:, :, None], "dim 3"),
        ],
    )
    def test_a_matrix_that_cannot_be_used_names_row_and_column_before_a_backbone_is_looked_for(
        self, make_classifier, named, change, message
    ):
        with pytest.raises(ValueError, match=message):
            make_classifier(backbone="/nowhere").fit(TEXTS, change(named))

    def test_a_dict_of_class_weights_is_refused(self, make_classifier):
        with pytest.raises(ValueError, match=r"class_weight=\{0: 2\} cannot be used where y has many labels a row"):
            make_classifier(backbone="/nowhere", class_weight={0: 2}).fit(TEXTS, LABELS)

    def test_a_label_that_never_varies_is_told_and_learned_as_such(self, make_classifier, named):
        y = named.assign(never=0, always=1)[:64]
        with pytest.warns(
            UserWarning, match=r"2 of 5 labels do not vary, for example 'never', which no row has"
        ) as told:
            classifier = make_classifier(**{**LEARNING, "max_epochs": 2}).fit(TEXTS[:64], y)
        assert told[0].filename == __file__
        assert np.array_equal(classifier.predict(TEXTS[:64])[:, 3:], y[["never", "always"]])
        message = describe_constant_labels(np.column_stack([LABELS, np.ones(96, dtype=int)]), np.arange(4))
        assert message.startswith("1 of 4 labels do not vary, for example 3, which all rows have:")

    def test_equal_texts_with_other_labels_are_told(self):
        pairs = [Pair(None, text) for text in "abab"]
        labels = np.array([[1, 1], [0, 0], [1, 0], [0, 0]])
        assert describe_contradictions(pairs, np.array(["x", "y"]), labels, np.ones(4)).startswith(
            "2 of 4 training rows have the same text as a row with other labels, for example row 0 of X ('x, y') and "
            "row 2 ('x'): no classifier can be right about more than 3 of them (75.0%)."
        )
        assert describe_contradictions(pairs, np.arange(2), labels[[0, 1, 0, 1]], np.ones(4)) is None


class TestEarlyStopping:
    STOPPING = {**LEARNING, "early_stopping": True, "validation_fraction": 0.25, "max_epochs": 6}

    @pytest.mark.parametrize("scoring", ["f1_macro", "loss"])
    def test_the_best_epoch_decides_by_a_score_of_many_labels(self, make_classifier, scoring):
        seen = []

        def keep(estimator, X, y):
            seen.append((X, y, estimator.predict(X), estimator.predict_proba(X), estimator.decision_function(X)))
            return 0.0

        scorers = {scoring: scoring, "kept": keep}
        classifier = make_classifier(**self.STOPPING, scoring=scorers).fit(TEXTS, LABELS)
        history = classifier.history_
        noted = np.array(history[:, f"valid_{scoring}"])
        best = int(noted.argmin() if scoring == "loss" else noted.argmax())
        X, y, predicted, probabilities, logits = seen[1 + best]  # the first call tries the scorers
        assert len(X) == 24
        assert noted[best] == pytest.approx(
            log_loss_of(y, logits) if scoring == "loss" else f1_score(y, predicted, average="macro"), rel=1e-3
        )
        assert history[best, "valid_acc"] == pytest.approx(accuracy_score(y, predicted))
        np.testing.assert_allclose(classifier.predict_proba(X), probabilities, rtol=1e-3)
        assert noted.min() < noted.max()
        assert f1_score(y, classifier.predict(X), average="macro") > 0.8

    @pytest.mark.filterwarnings("ignore:Only one class is present")
    def test_a_score_that_needs_rows_with_each_label_says_so(self, make_classifier):
        rare = np.column_stack([LABELS, np.arange(96) == 5])
        with pytest.raises(ValueError, match=r"'roc_auc' must .*raise validation_fraction"):
            make_classifier(**self.STOPPING, backbone="/nowhere", scoring="roc_auc").fit(TEXTS, rare)

    def test_a_score_that_becomes_nan_is_told(self, make_classifier):
        scores = iter([0.0, np.nan])
        with pytest.warns(UserWarning, match="'score' is nan after epoch 1"):
            make_classifier(**{**self.STOPPING, "max_epochs": 1}, scoring=lambda estimator, X, y: next(scores)).fit(
                TEXTS, LABELS
            )

    def test_too_few_rows_to_hold_some_out_are_refused(self, make_classifier):
        stopping = {"early_stopping": True, "validation_fraction": 0.9}
        with pytest.raises(ValueError, match="holds out all of the 3 rows"):
            make_classifier(**stopping, backbone="/nowhere").fit(TEXTS[:3], [[0, 1], [1, 1], [0, 0]])

    @pytest.mark.parametrize("n_labels", [2, 3])
    def test_every_scorer_judges_the_answers_as_those_of_scikit_learns_own_classifiers(self, n_labels):
        X, y = make_multilabel_classification(100, n_classes=n_labels, random_state=0)
        judged = OneVsRestClassifier(LogisticRegression(C=0.001)).fit(X, y)
        answers = HeldOutAnswers(X, judged.decision_function(X), np.arange(n_labels), multilabel=True)
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
        assert n_numbers > 20


def log_loss_of(y, logits):
    """Weigh nothing: of labels that are had by about half of the rows, the weights are all near 1."""
    return np.mean([log_loss(y[:, label], expit(logits[:, label])) for label in range(y.shape[1])])


class TestLayers:
    @pytest.mark.parametrize("selection", ["ir", "ir-fast", "random", "ist", "fisher", "budget", "half", "sparse"])
    def test_every_strategy_trains(self, make_classifier, selection):
        own = {"adapter": None, "learning_rate": 1e-3} if selection == "sparse" else {}
        classifier = make_classifier(selection=selection, candidate_layers="all", **own).fit(TEXTS[:32], LABELS[:32])
        assert len(classifier.active_layers_) == 2
        assert np.isfinite(classifier.history_[0]["train_loss"])

    def test_a_search_judges_by_the_share_of_labels(self, make_classifier):
        judged = []

        class Judging(FixedSelection):
            def select(self, step):
                if not judged:
                    score = self.probe_.score_after_training([3], 0, 0.25)
                    judged.append((score, self.probe_.splits[0.25][1]))
                return super().select(step)

        standing = {"learning_rate": 1e-12, "class_weight": None}
        classifier = make_classifier(selection=Judging(1), **standing).fit(TEXTS, LABELS)
        ((accuracy, negative_loss), rows), X = judged[0], [TEXTS[row] for row in judged[0][1]]
        assert len(rows) == 24
        assert accuracy == (classifier.predict(X) == LABELS[rows]).mean()
        assert -negative_loss == pytest.approx(log_loss_of(LABELS[rows], classifier.decision_function(X)), rel=1e-4)

    def test_a_search_finds_layers(self, make_classifier):
        search = SubTuningSelection(n_trained=1, n_steps=1)
        classifier = make_classifier(selection=search).fit(TEXTS, LABELS)
        assert classifier.active_layers_.sum(axis=1).tolist() == [1] * 6


class TestCalls:
    def test_partial_fit_learns_from_parts_and_goes_on_behind_a_pickle(self, make_classifier):
        classifier = make_classifier(**LEARNING)
        for _ in range(4):
            for part in (slice(0, 32), slice(32, 64)):
                classifier.partial_fit(TEXTS[part], LABELS[part], classes=range(3))
            classifier = pickle.loads(pickle.dumps(classifier))
        assert (classifier.predict(TEXTS[TEST]) == LABELS[TEST]).mean() > 0.9
        assert classifier.class_count_.tolist() == (4 * LABELS[TRAINING].sum(axis=0)).tolist()

    def test_partial_fit_takes_parts_in_which_labels_do_not_vary(self, make_classifier):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            classifier = make_classifier().partial_fit(TEXTS[:1], LABELS[:1], classes=[0, 1, 2])
        assert classifier.multilabel_

    def test_partial_fit_refuses_another_kind_of_y(self, make_classifier, named):
        with pytest.raises(ValueError, match=r"y has 3 columns, .* classes of the first call are 0, 1: .*range\(3\)"):
            make_classifier().partial_fit(TEXTS, LABELS, classes=[0, 1])
        many = make_classifier().partial_fit(TEXTS, named, classes=range(3))
        before = dict(vars(many))
        with pytest.raises(ValueError, match="partial_fit, but whether a row of y has one label or many changed"):
            many.partial_fit(TEXTS, LABELS[:, 0])
        with pytest.raises(ValueError, match="y has 2 columns"):
            many.partial_fit(TEXTS, LABELS[:, :2])
        with pytest.raises(ValueError, match="partial_fit, but the column names of y changed"):
            many.partial_fit(TEXTS, named[WORDS[::-1]])
        assert vars(many) == before
        assert many.partial_fit(TEXTS, LABELS).label_names_.tolist() == WORDS

    def test_warm_start_goes_on_from_many_labels_alone(self, make_classifier):
        classifier = make_classifier(**{**LEARNING, "max_epochs": 2}, warm_start=True).fit(TEXTS, LABELS)
        loss = classifier.history_[0]["train_loss"]
        assert classifier.fit(TEXTS, LABELS).history_[0]["train_loss"] < loss / 1.1
        with pytest.raises(ValueError, match="warm_start=True, but whether a row of y has one label or many changed"):
            classifier.fit(TEXTS, np.arange(96) % 3)

    def test_a_stopped_fit_goes_on_to_the_same_result(self, make_classifier, interrupt_at, tmp_path):
        parameters = {"checkpoint_interval": 2, "max_epochs": 2}
        whole = make_classifier(**parameters).fit(TEXTS, LABELS)
        interrupt_at(5)
        with pytest.warns(UserWarning, match="interrupted after 5 steps"):
            make_classifier(**parameters, checkpoint_dir=tmp_path).fit(TEXTS, LABELS)
        interrupt_at(None)
        with pytest.raises(ValueError, match="y changed"):
            make_classifier(**parameters, checkpoint_dir=tmp_path).fit(TEXTS, LABELS[:, ::-1])
        again = make_classifier(**parameters, checkpoint_dir=tmp_path).fit(TEXTS, LABELS)
        assert np.array_equal(again.predict_proba(TEXTS), whole.predict_proba(TEXTS))

    def test_the_logits_of_a_long_text_are_the_mean_of_its_windows(self, make_classifier):
        texts = [f"{text} and {' '.join(WORDS)} {text}" for text in TEXTS[:32]]
        classifier = make_classifier(long_text="windows", max_length=8, learning_rate=0.02).fit(texts, LABELS[:32])
        part = classifier.net_.module_
        windows = classifier._tokenize([Pair(None, texts[0])], part.backbone.tokenizer, WORDS, user_frame=1).token_ids
        assert len(windows) > 2
        np.testing.assert_allclose(
            classifier.decision_function(texts[:1])[0], predict_logits(part, windows).mean(axis=0), rtol=1e-5
        )

    def test_searches_and_cross_validation(self, make_classifier):
        quick = make_classifier(**{**LEARNING, "max_epochs": 2})
        X, y = TEXTS[TRAINING], LABELS[TRAINING]
        search = GridSearchCV(quick, {"learning_rate": [1e-9, 5e-3]}, scoring="f1_micro", cv=2, error_score="raise")
        assert search.fit(X, y).best_params_ == {"learning_rate": 5e-3}
        probabilities = cross_val_predict(quick, X, y, cv=2, method="predict_proba")
        half = clone(quick).fit(X[32:], y[32:])
        assert np.array_equal(probabilities[:32], half.predict_proba(X[:32]))

    def test_a_classifier_for_each_column_is_what_it_was(self, make_classifier):
        each = MultiOutputClassifier(make_classifier()).fit(TEXTS, LABELS)
        alone = make_classifier().fit(TEXTS, LABELS[:, 1])
        assert np.array_equal(each.predict_proba(TEXTS)[1], alone.predict_proba(TEXTS))


class TestKept:
    def test_a_stored_one_answers_the_same_to_the_bit(self, make_classifier, named, tmp_path):
        classifier = make_classifier(learning_rate=0.02).fit(TEXTS, named)
        classifier.save(tmp_path / "saved")
        types = [
            "sklearn_irt.classifier.IRTuningClassifier",
            "sklearn_irt.selection.gradient_norm.GradientNormSelection",
        ]
        for again in (
            pickle.loads(pickle.dumps(classifier)),
            skops.io.loads(skops.io.dumps(classifier), trusted=types),
            IRTuningClassifier.load(tmp_path / "saved"),
        ):
            assert again.multilabel_
            assert again.label_names_.tolist() == WORDS
            assert again.net_.multilabel
            for method in ("predict", "predict_proba", "decision_function"):
                assert np.array_equal(getattr(again, method)(TEXTS), getattr(classifier, method)(TEXTS))
            refitted = again.set_params(warm_start=True).fit(TEXTS, named)
            assert refitted.history_[0]["train_loss"] < classifier.history_[0]["train_loss"]

    def test_a_pipeline_scores_the_exported_checkpoint_by_sigmoids(
        self, make_classifier, named, tmp_path, exact_states, enlarge_what_was_learned
    ):
        classifier = make_classifier().fit(TEXTS, named)
        enlarge_what_was_learned(classifier)
        classifier.export(tmp_path / "exported")
        answers = pipeline("text-classification", model=str(tmp_path / "exported"), device="cpu")(TEXTS[:9], top_k=None)
        scores = [{one["label"]: one["score"] for one in answer} for answer in answers]
        found = np.array([[score[word] for word in WORDS] for score in scores])
        expected = classifier.predict_proba(TEXTS[:9])
        assert np.ptp(expected) > 0.3
        np.testing.assert_allclose(found, expected, atol=1e-4)
        config = json.loads((tmp_path / "exported" / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification"

    def test_names_stand_for_the_labels_wherever_these_are_shown(self, make_classifier, named):
        pairs = [(text, text + ".") for text in TEXTS]
        classifier = make_classifier(pair_format="instruction").fit(pairs, named)
        assert "Choose every intention that applies, or none: good, red, fast." in classifier.write_texts(pairs)[0]
        card = write_card(classifier, {"name": "tiny", "kind": "hub"}, "me/mine", [], {})
        assert "which give revision pairs any number of 3 labels." in card
        assert f"| red | {LABELS[:, 1].sum()} |" in card
        assert "good, red, fast" in classifier._repr_html_()
        assert not hasattr(classifier.fit(pairs, LABELS), "label_names_")
        assert "0, 1, 2" in classifier.write_texts(pairs)[0]
