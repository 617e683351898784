"""compare: every estimator on the same splits, what it costs alone, and nothing lost that was measured."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, StratifiedShuffleSplit, cross_validate
from sklearn.pipeline import make_pipeline

from sklearn_irt import RandomSelection, compare, make_edit_baseline, make_frozen_baseline
from sklearn_irt import backbone as backbone_module
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.comparison_table import tabulate, tabulate_splits
from sklearn_irt.measured_split import count_trained_parameters, measure_split
from sklearn_irt.peak_memory import PeakMemory
from sklearn_irt.resampled_t_test import corrected_resampled_t_test

pytestmark = pytest.mark.filterwarnings("ignore:.*had more than max_length.*:UserWarning")


class Logged(DummyClassifier):
    """Predict as a dummy does, and note each fit."""

    fits: list = []

    def __init__(self, label="a", fails_at=None, constant=None, strategy="prior"):
        super().__init__(strategy=strategy, constant=constant)
        self.label = label
        self.fails_at = fails_at

    def fit(self, X, y, sample_weight=None):
        self.fits.append((self.label, len(X)))
        if len(self.fits) == self.fails_at:
            raise ValueError("no memory left")
        return super().fit(X, y)


@pytest.fixture
def fits(monkeypatch):
    """Return a list that gets the label and the number of rows of each fit of a Logged."""
    noted = []
    monkeypatch.setattr(Logged, "fits", noted)
    return noted


@pytest.fixture
def two():
    return {"a": Logged("a"), "b": Logged("b", strategy="most_frequent")}


@pytest.fixture(scope="module")
def rows():
    return [(f"a {n}", f"b {n}") for n in range(24)], np.tile(["x", "y", "y"], 8)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new folder" / "results.jsonl"


@pytest.fixture
def ctrl_c(monkeypatch):
    """Return a function that makes the user's Ctrl-C come at the n-th training step."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = SelectedLayers.on_batch_begin
    steps = []

    def interrupt_at(step):
        def interrupted(self, net, **kwargs):
            steps.append(1)
            if len(steps) == step:
                signal.raise_signal(signal.SIGINT)
            begin(self, net, **kwargs)

        monkeypatch.setattr(SelectedLayers, "on_batch_begin", interrupted)

    yield interrupt_at
    signal.signal(signal.SIGINT, handler)


class TestScores:
    def test_they_are_those_of_cross_validate_on_the_same_splits(self, revisions):
        cv = StratifiedKFold(3, shuffle=True, random_state=0)
        contenders = {"prior": DummyClassifier(), "edits": make_edit_baseline()}
        scoring = ["f1_macro", "accuracy"]
        table, splits = compare(contenders, *revisions, scoring=scoring, cv=cv, return_splits=True)
        for name, estimator in contenders.items():
            expected = cross_validate(estimator, *revisions, scoring=scoring, cv=cv)
            for score in scoring:
                assert_allclose(splits.loc[name, score], expected[f"test_{score}"])
                assert_allclose(table.loc[name, score], expected[f"test_{score}"].mean())
                assert_allclose(table.loc[name, f"{score}_std"], expected[f"test_{score}"].std(ddof=1))
        assert splits.index.names == ["estimator", "split"]
        assert splits["n_train"].tolist() == [40] * 6
        assert splits["n_test"].tolist() == [20] * 6

    def test_splits_that_are_drawn_at_random_are_drawn_once(self, rows):
        def count_rows(estimator, X, y):
            return sum(int(text.split()[1]) for text, _ in X)

        contenders = {"a": DummyClassifier(), "b": DummyClassifier()}
        _, splits = compare(contenders, *rows, scoring=count_rows, cv=StratifiedShuffleSplit(3), return_splits=True)
        assert splits.loc["a", "score"].tolist() == splits.loc["b", "score"].tolist()
        assert len(set(splits.loc["a", "score"])) > 1

    def test_groups_stay_on_one_side(self, rows):
        groups = np.repeat([0, 1, 2], 8)
        _, splits = compare({"a": DummyClassifier()}, *rows, cv=GroupKFold(3), groups=groups, return_splits=True)
        assert splits["n_test"].tolist() == [8, 8, 8]

    @pytest.mark.parametrize(
        ("scoring", "names"),
        [
            ("accuracy", ["accuracy"]),
            (None, ["score"]),
            (lambda estimator, X, y: 0.5, ["score"]),
            (lambda estimator, X, y: {"one": 1, "two": np.float32(2)}, ["one", "two"]),
            ({"mine": "accuracy", "other": "f1_macro"}, ["mine", "other"]),
            (("accuracy", "f1_macro"), ["accuracy", "f1_macro"]),
        ],
    )
    def test_each_has_the_name_that_scoring_gives_it(self, rows, scoring, names):
        table = compare({"a": DummyClassifier()}, *rows, scoring=scoring, cv=2)
        assert [column.removesuffix("_p_value") for column in table if column.endswith("_p_value")] == names
        assert list(table)[: 4 * len(names)] == [
            f"{name}{figure}" for name in names for figure in ("", "_std", "_difference", "_p_value")
        ]

    def test_what_is_no_number_is_refused(self, rows):
        with pytest.raises(RuntimeError, match=r"'a' failed on split 1: ValueError: scoring: 'score' must be a number"):
            compare({"a": DummyClassifier()}, *rows, scoring=lambda estimator, X, y: "good")


class TestStrategies:
    def test_a_name_or_a_strategy_is_the_classifier_with_that_selection(self, make_classifier, revisions):
        classifier = make_classifier()
        cv = StratifiedShuffleSplit(1, test_size=20, train_size=20, random_state=0)
        written_out = make_classifier(selection="full")
        contenders = {"all": "full", "two": RandomSelection(n_trained=1), "written out": written_out}
        table = compare(contenders, *revisions, cv=cv, classifier=classifier)
        assert table.loc["all", "f1_macro"] == table.loc["written out", "f1_macro"]
        assert len(set(table["trained_parameters"])) == 1
        assert classifier.selection == "ir"
        assert not hasattr(classifier, "net_")

    def test_a_name_that_is_none_is_refused_with_those_that_are(self, rows):
        with pytest.raises(
            ValueError, match=r"'frozen' is no estimator and no strategy: the strategies are ir, .*full"
        ):
            compare({"frozen": "frozen"}, *rows)

    def test_the_users_estimators_stay_as_they_are(self, rows, two):
        compare(two, *rows, cv=2)
        assert not hasattr(two["a"], "classes_")


class TestBadInput:
    @pytest.mark.parametrize(
        ("estimators", "message"),
        [
            ({}, "at least one"),
            (["ir", "full"], r"dict of estimators by name, or a list of \(name, estimator\) tuples"),
            ([("a", DummyClassifier()), ("a", DummyClassifier())], "each once, but one is 'a'"),
            ({1: DummyClassifier()}, "names that are strings, each once, but one is 1"),
            ({"a": DummyClassifier}, "Cannot clone"),
            ({"a": LogisticRegression(C=-1)}, "'C' parameter of LogisticRegression"),
            ({"a": make_pipeline(TfidfVectorizer(), LogisticRegression(C=-1))}, "'C' parameter of LogisticRegression"),
        ],
    )
    def test_estimators_are_checked_before_the_first_fit(self, rows, fits, estimators, message):
        if isinstance(estimators, dict) and estimators:
            estimators = {"first": Logged(), **estimators}
        with pytest.raises((ValueError, TypeError), match=message) as raised:
            compare(estimators, *rows)
        assert fits == []
        if isinstance(estimators, dict) and "a" in estimators:
            assert raised.value.__notes__ == ["compare: this is about the estimator 'a'."]

    def test_a_backbone_that_cannot_be_loaded_is_refused_before_the_first_fit(self, rows, fits, tmp_path, two):
        contenders = {**two, "llm": make_frozen_baseline(str(tmp_path))}
        with pytest.raises(ValueError, match=str(tmp_path)):
            compare(contenders, *rows)
        assert fits == []

    def test_a_folder_of_checkpoints_is_refused_for_it_is_for_one_fit(self, make_classifier, rows, tmp_path):
        with pytest.raises(ValueError, match=r"checkpoint_dir is for one fit.*results_file"):
            compare({"a": "ir"}, *rows, classifier=make_classifier(checkpoint_dir=tmp_path))

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"scoring": "f2"}, "'f2'"),
            ({"cv": "many"}, "'cv' parameter of compare"),
            ({"cv": []}, "has no splits"),
            ({"groups": [1, 2]}, r"inconsistent numbers of samples: \[24, 24, 2\]"),
            ({"error_score": 0.0}, "'error_score' parameter of compare"),
            ({"classifier": DummyClassifier()}, "'classifier' parameter of compare"),
        ],
    )
    def test_parameters_are_checked_before_the_first_fit(self, rows, fits, two, parameters, message):
        with pytest.raises(ValueError, match=message):
            compare(two, *rows, **parameters)
        assert fits == []


class TestTTest:
    def test_two_splits_by_hand(self):
        # Mean 0.2, variance 0.02: t = 0.2 / sqrt((1/2 + 1/4) 0.02); with one degree of freedom t is Cauchy's.
        t = 0.2 / np.sqrt(0.75 * 0.02)
        expected = 1 - 2 / np.pi * np.arctan(t)
        assert_allclose(corrected_resampled_t_test([0.1, 0.3], 80, 20), expected)
        assert_allclose(corrected_resampled_t_test([-0.1, -0.3], 80, 20), expected)

    def test_three_splits_of_unequal_size_by_hand(self):
        # Mean 0.02, variance 0.0001: t = 0.02 / sqrt((1/3 + 1/2) 0.0001) = sqrt(4.8); with two degrees of freedom
        # the two tails are 1 - t / sqrt(2 + t²).
        expected = 1 - np.sqrt(4.8 / 6.8)
        assert_allclose(corrected_resampled_t_test([0.01, 0.02, 0.03], [50, 100, 200], [25, 50, 100]), expected)

    def test_it_seldom_finds_a_difference_where_there_is_none(self):
        # Scores of two classifiers that guess, one as good as the other, on ten random halves of the same rows.
        generator = np.random.RandomState(0)
        found = 0
        for _ in range(200):
            better = generator.choice([-1.0, 0.0, 1.0], 100)
            halves = [generator.permutation(100)[:50] for _ in range(10)]
            found += corrected_resampled_t_test([better[half].mean() for half in halves], 50, 50) < 0.05
        assert found <= 20

    @pytest.mark.parametrize("differences", [[], [0.1], [0.0, 0.0, 0.0], [0.1 + 0.2, 0.3, 0.3]])
    def test_nan_where_no_deviation_can_be_told(self, differences):
        assert np.isnan(corrected_resampled_t_test(differences, 80, 20))

    def test_rows_are_compared_with_the_first_on_the_splits_that_both_have(self):
        costs = {"fit_seconds": 1, "predict_seconds": 1, "peak_memory_mb": 1, "peak_gpu_memory_mb": None}
        costs |= {"trained_parameters": None, "n_train": 80, "n_test": 20}
        scores = {("a", 0): 0.5, ("a", 1): 0.6, ("a", 2): 0.9, ("b", 1): 0.7, ("b", 2): 1.2, ("c", 0): 0.4}
        measured = {key: {"scores": {"s": value}, **costs} for key, value in scores.items()}
        table = tabulate(["a", "b", "c", "d"], tabulate_splits(measured), ["s"])
        assert_allclose(table["s_difference"], [np.nan, 0.2, -0.1, np.nan])
        assert_allclose(table["s_p_value"], [np.nan, corrected_resampled_t_test([0.1, 0.3], 80, 20), np.nan, np.nan])
        assert_allclose(table["s"], [2 / 3, 0.95, 0.4, np.nan])
        assert table["n_splits"].tolist() == [3, 2, 1, 0]
        assert table["trained_parameters"].isna().all()


class TestCosts:
    def test_a_second_rival_on_the_same_frozen_features_computes_them_anew(
        self, tiny_llama, revisions, runs, monkeypatch
    ):
        n_runs = []

        def measure(*arguments):
            before = len(runs)
            measured = measure_split(*arguments)
            n_runs.append(len(runs) - before)
            return measured

        monkeypatch.setattr("sklearn_irt.comparison.measure_split", measure)
        frozen = make_frozen_baseline(tiny_llama, precision="fp32")
        cv = StratifiedShuffleSplit(1, test_size=10, random_state=0)
        compare({"one": frozen, "other": frozen}, *first_rows(revisions), cv=cv)
        assert n_runs[0] == n_runs[1] > 0

    def test_each_fit_loads_its_backbone_and_computes_its_states_anew(
        self, make_classifier, tiny_llama, revisions, runs, monkeypatch
    ):
        load, loadings, by_name = backbone_module._load, [], {}
        monkeypatch.setattr(backbone_module, "_load", lambda *args: loadings.append(1) or load(*args))

        def measure(estimator, *arguments):
            before = len(runs), len(loadings)
            measured = measure_split(estimator, *arguments)
            found = (runs[before[0] :].count(0), runs[before[0] :].count(3), len(loadings) - before[1])
            by_name.setdefault(type(estimator).__name__, []).append(found)
            return measured

        monkeypatch.setattr("sklearn_irt.comparison.measure_split", measure)
        frozen = make_frozen_baseline(tiny_llama, precision="fp32")
        cv = StratifiedShuffleSplit(1, test_size=10, random_state=0)
        compare(
            {"one": "full", "frozen": frozen, "other": "full"},
            *first_rows(revisions),
            cv=cv,
            classifier=make_classifier(),
        )
        (one, other), (frozen_run,) = by_name["IRTuningClassifier"], by_name["Pipeline"]
        assert one == other
        assert min(one[0], frozen_run[0]) > 0
        assert one[2] == frozen_run[2] == 1

    def test_seconds_are_of_fit_and_prediction_apart(self, rows):
        class Slow(DummyClassifier):
            def fit(self, X, y, sample_weight=None):
                time.sleep(0.04)
                return super().fit(X, y)

            def predict(self, X):
                time.sleep(0.02)
                return super().predict(X)

        table = compare({"a": Slow()}, *rows, cv=2)
        assert table.loc["a", "fit_seconds"] >= 0.04
        assert table.loc["a", "predict_seconds"] >= 0.02

    def test_peak_memory_is_what_a_block_needs_in_between(self):
        with PeakMemory() as small:
            time.sleep(0.05)
        with PeakMemory() as large:
            needed = np.ones(64 * 2**17)  # of 8 bytes
            time.sleep(0.1)
            del needed
        assert small.megabytes < 8
        assert 60 < large.megabytes < 80

    def test_trained_parameters_of_linear_models_pipelines_and_searches(self):
        X, y = np.eye(6)[:, :4], [0, 1, 2, 0, 1, 2]
        regression = LogisticRegression()
        assert count_trained_parameters(regression.fit(X, y)) == 3 * 4 + 3
        search = GridSearchCV(make_pipeline("passthrough", regression), {"logisticregression__C": [1, 2]}, cv=2)
        assert count_trained_parameters(search.fit(X, y)) == 15
        assert count_trained_parameters(LogisticRegression(fit_intercept=False).fit(X, y).sparsify()) == 15
        assert count_trained_parameters(DummyClassifier().fit(X, y)) is None


class TestResultsFile:
    def test_the_same_call_goes_on_where_it_stopped(self, rows, two, fits, file):
        whole = compare(two, *rows, cv=3, results_file=file)
        assert len(fits) == 6
        assert_same(compare(two, *rows, cv=3, results_file=file), whole)
        assert len(fits) == 6
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed while it wrote
        again = compare(two, *rows, cv=3, results_file=str(file))
        assert fits[6:] == fits[3:6]
        assert_allclose(again["f1_macro"], whole["f1_macro"])
        assert len(file.read_bytes().splitlines()) == 7
        compare(two, *rows, cv=3, results_file=file)
        assert len(fits) == 9

    def test_another_container_of_the_same_rows_goes_on_too(self, rows, two, fits, file):
        X, y = rows
        compare(two, X, y, cv=3, results_file=file)
        compare(two, np.array(X), y.tolist(), cv=3, results_file=file)
        assert len(fits) == 6

    def test_a_new_or_changed_estimator_is_measured_alone(self, rows, two, fits, file):
        compare(two, *rows, cv=2, results_file=file)
        before = len(fits)
        table = compare({**two, "b": Logged("changed"), "c": Logged("new")}, *rows, cv=2, results_file=file)
        assert [label for label, _ in fits[before:]] == ["changed", "new"] * 2
        assert table["n_splits"].tolist() == [2, 2, 2]
        before = len(fits)
        compare(two, *rows, cv=2, results_file=file)
        assert len(fits) == before

    def test_another_backbone_in_the_same_folder_is_measured_anew(self, tiny_llama, revisions, file, tmp_path):
        folder = shutil.copytree(tiny_llama, tmp_path / "backbone")
        call = dict(zip("Xy", first_rows(revisions), strict=True), cv=2, results_file=file)
        frozen = {"frozen": make_frozen_baseline(str(folder), precision="fp32")}
        compare(frozen, **call)
        assert len(file.read_text().splitlines()) == 1 + 2
        compare(frozen, **call)
        assert len(file.read_text().splitlines()) == 1 + 2
        os.utime(folder / "model.safetensors", ns=(1, 1))
        compare(frozen, **call)
        assert len(file.read_text().splitlines()) == 1 + 4

    def test_a_changed_parameter_within_an_estimator_counts_but_verbose_does_not(self, rows, file):
        def contender(**parameters):
            return {"a": make_pipeline(TfidfVectorizer(analyzer=len_of), LogisticRegression(**parameters))}

        X = [" ".join(pair) for pair in rows[0]]
        compare(contender(), X, rows[1], cv=2, results_file=file)
        for parameters, n_lines in (({"verbose": 1}, 3), ({"class_weight": {"x": 2}}, 5), ({"C": 2}, 7)):
            compare(contender(**parameters), X, rows[1], cv=2, results_file=file)
            assert len(file.read_text().splitlines()) == n_lines

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"X": [("another", "text")] * 24}, "X changed"),
            ({"y": ["x", "y", "y"] * 7 + ["y", "x", "y"]}, "y changed"),
            ({"cv": 4}, "the splits of cv changed"),
            ({"scoring": "accuracy"}, "scoring was 'f1_macro' and is 'accuracy'"),
        ],
    )
    def test_a_file_of_another_comparison_is_refused_and_stays(self, rows, two, fits, file, change, message):
        data = {"X": rows[0], "y": rows[1], "cv": 2}
        compare(two, **data, results_file=file)
        written, n_fits = file.read_bytes() + b"torn", len(fits)
        file.write_bytes(written)
        with pytest.raises(ValueError, match=f"is of another comparison: .*{message}"):
            compare(two, **{**data, **change}, results_file=file)
        assert file.read_bytes() == written
        assert len(fits) == n_fits

    def test_a_file_of_another_version_is_refused(self, rows, two, file, monkeypatch):
        compare(two, *rows, cv=2, results_file=file)
        monkeypatch.setattr("sklearn.__version__", "0.1")
        with pytest.raises(ValueError, match=r"the version of scikit-learn was .* and is 0\.1"):
            compare(two, *rows, cv=2, results_file=file)

    @pytest.mark.parametrize("content", ["before,after\nI,you\n", '{"a": 1}\n', "[1]\n", "nothing ended", "\x80\n"])
    def test_another_file_is_refused_and_stays(self, rows, two, fits, file, content):
        file.parent.mkdir()
        file.write_text(content, "latin-1")
        with pytest.raises(ValueError, match="is a file of something else: name another one"):
            compare(two, *rows, results_file=file)
        assert file.read_text("latin-1") == content
        assert fits == []

    def test_a_damaged_line_is_named(self, rows, two, file):
        compare(two, *rows, cv=2, results_file=file)
        lines = file.read_text().splitlines()
        file.write_text("\n".join([lines[0], lines[1][:9], *lines[2:], ""]))
        with pytest.raises(ValueError, match=r"Line 2 of results_file=.* is damaged: remove it"):
            compare(two, *rows, cv=2, results_file=file)

    def test_a_file_that_cannot_be_written_is_refused_before_the_first_fit(self, rows, two, fits, tmp_path):
        with pytest.raises(OSError, match=str(tmp_path)):
            compare(two, *rows, results_file=tmp_path)
        assert fits == []

    def test_a_full_disk_does_not_end_the_comparison(self, rows, two, file, monkeypatch):
        def full(*args):
            raise OSError(28, "No space left on device")

        compare({"other": Logged()}, *rows, cv=2, results_file=file)
        monkeypatch.setattr("os.fsync", full)
        with pytest.warns(
            UserWarning, match="cannot be written .No space left on device.: this result is in the table"
        ):
            assert compare(two, *rows, cv=2, results_file=file)["n_splits"].tolist() == [2, 2]


class TestInterruption:
    def test_the_table_has_what_was_measured_but_no_half_trained_fit(self, make_classifier, revisions, ctrl_c, file):
        contenders = {"prior": DummyClassifier(), "llm": "ir"}
        call = dict(
            zip("Xy", first_rows(revisions), strict=True),
            cv=2,
            classifier=make_classifier(batch_size=8),
            results_file=file,
        )
        ctrl_c(1 + 2 + 2)  # after the trial on two texts and the first fit, in the second step of the second one
        with pytest.warns(UserWarning, match=r"interrupted after 3 of 4 fits.*same call will do the rest"):
            table = compare(contenders, **call)
        assert table["n_splits"].tolist() == [2, 1]
        written = [json.loads(line)["estimator"] for line in file.read_text().splitlines()[1:]]
        assert written == ["prior", "llm", "prior"]
        assert compare(contenders, **call)["n_splits"].tolist() == [2, 2]

    def test_one_that_comes_while_the_weights_are_first_looked_at_ends_it_before_a_fit(
        self, make_classifier, revisions, ctrl_c, runs
    ):
        ctrl_c(1)
        with pytest.raises(KeyboardInterrupt):
            compare({"llm": "ir"}, *first_rows(revisions), cv=2, classifier=make_classifier(batch_size=8))
        n_after_the_trial = len(runs)
        compare({"a": DummyClassifier()}, *first_rows(revisions), cv=2)
        assert len(runs) == n_after_the_trial < 40  # of two texts; a fit runs more

    def test_an_estimator_that_makes_another_error_of_it_does_not_hide_it(self, rows, fits):
        class Hides(Logged):
            def fit(self, X, y, sample_weight=None):
                super().fit(X, y)
                try:
                    signal.raise_signal(signal.SIGINT)
                except KeyboardInterrupt as error:
                    raise RuntimeError("stopped") from error

        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.warns(UserWarning, match="interrupted after 1 of 4 fits"):
                table = compare({"a": Logged("a"), "b": Hides("b")}, *rows, cv=2, error_score=np.nan)
        finally:
            signal.signal(signal.SIGINT, handler)
        assert table["n_splits"].tolist() == [1, 0]
        assert [label for label, _ in fits] == ["a", "b"]

    def test_it_is_passed_on_where_nothing_was_measured(self, make_classifier, revisions, ctrl_c):
        ctrl_c(1 + 2)
        with pytest.warns(UserWarning, match="Training was interrupted"), pytest.raises(KeyboardInterrupt):
            compare({"llm": "ir"}, *first_rows(revisions), cv=2, classifier=make_classifier(batch_size=8))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class TestErrors:
    @pytest.mark.parametrize("name", ["fit_seconds", "n_splits", "s_std", "s_p_value"])
    def test_a_score_by_the_name_of_another_column_is_refused_before_a_fit(self, rows, two, fits, name):
        with pytest.raises(ValueError, match=f"must not name a score '{name}'"):
            compare(two, *rows, cv=2, scoring={"s": "accuracy", name: "f1_macro"})
        assert not fits

    def test_the_error_names_estimator_and_split_and_the_file_keeps_the_others(self, rows, fits, file):
        contenders = {"a": Logged("a"), "b": Logged("b", fails_at=4)}
        message = r"'b' failed on split 2: ValueError: no memory left\n.*results.jsonl has what was measured"
        with pytest.raises(RuntimeError, match=message):
            compare(contenders, *rows, cv=3, results_file=file)
        assert len(file.read_text().splitlines()) == 1 + 3

    def test_nan_leaves_the_split_out(self, rows, fits):
        contenders = {"a": Logged("a"), "b": Logged("b", fails_at=4)}
        with pytest.warns(FitFailedWarning, match="'b' failed on split 2: ValueError: no memory left"):
            table = compare(contenders, *rows, cv=3, error_score=np.nan)
        assert table["n_splits"].tolist() == [3, 2]
        assert table.notna().loc["b", ["f1_macro", "f1_macro_difference"]].all()

    def test_a_comparison_of_which_nothing_is_left_is_an_error(self, rows, fits):
        with pytest.warns(FitFailedWarning), pytest.raises(RuntimeError, match="Every estimator failed"):
            compare({"a": Logged(fails_at=1)}, *rows, cv=StratifiedShuffleSplit(1), error_score=float("nan"))


def test_verbose_shows_a_bar_with_the_estimator_and_the_split(rows, two, capsys):
    compare(two, *rows, cv=2)
    assert capsys.readouterr().err == ""
    compare(two, *rows, cv=2, verbose=1)
    shown = capsys.readouterr().err
    assert "b, split 2 of 2: 100%" in shown
    assert "4/4" in shown


def test_several_labels_a_row(rows):
    y = np.random.RandomState(0).randint(2, size=(24, 3))
    table = compare({"a": DummyClassifier(strategy="uniform", random_state=0)}, rows[0], y, cv=3)
    assert 0 < table.loc["a", "f1_macro"] < 1


def first_rows(revisions):
    X, y = revisions
    return X[:32], y[:32]


def len_of(text):
    return [str(len(text)), text[-1]]


def assert_same(table, other):
    pd.testing.assert_frame_equal(table, other)
