"""The history says when each step and each epoch of a fit ended, counted from the fit's beginning."""

import time

import numpy as np
import pytest

from sklearn_irt import IRTuningClassifier, fit_clock, fitting


@pytest.fixture
def clock(monkeypatch):
    """Return a clock of which each reading is a second later than the one before, set by its "now"."""

    class Clock:
        now = 1000.0

        def perf_counter(self):
            self.now += 1
            return self.now

    clock = Clock()
    monkeypatch.setattr(fit_clock, "time", clock)
    return clock


def step_times(classifier):
    batches = [batch for row in classifier.history_ for batch in row["batches"]]
    return [batch["seconds"] for batch in batches if "train_loss" in batch]


def test_steps_and_epochs_are_timed_in_the_order_in_which_they_end(make_classifier, revisions, clock):
    X, y = revisions
    classifier = make_classifier(max_epochs=2, early_stopping=True, validation_fraction=0.2).fit(X, y)
    assert step_times(classifier) == [1, 2, 3, 5, 6, 7]
    assert [row["seconds"] for row in classifier.history_] == [4, 8]
    validated = [batch for row in classifier.history_ for batch in row["batches"] if "valid_loss" in batch]
    assert validated
    assert not any("seconds" in batch for batch in validated)


def test_the_epoch_after_which_training_stops_early_is_timed(make_classifier, revisions):
    X, y = revisions
    stops = {"early_stopping": True, "validation_fraction": 0.2, "learning_rate": 0.1, "max_epochs": 9}
    classifier = make_classifier(**stops).fit(X, y)
    assert len(classifier.history_) < 9
    assert all(row["seconds"] > row["batches"][0]["seconds"] for row in classifier.history_)


def test_what_comes_before_the_first_step_counts(make_classifier, revisions, monkeypatch):
    X, y = revisions
    compute = fitting.compute_prefix_states

    def slowly(*args, **kwargs):
        time.sleep(0.2)
        return compute(*args, **kwargs)

    monkeypatch.setattr(fitting, "compute_prefix_states", slowly)
    began = time.perf_counter()
    classifier = make_classifier().fit(X, y)
    assert 0.2 < step_times(classifier)[0] < classifier.history_[-1]["seconds"] < time.perf_counter() - began


def test_a_fit_that_goes_on_counts_neither_the_pause_nor_the_steps_that_were_lost(
    make_classifier, revisions, clock, interrupt_at, tmp_path
):
    X, y = revisions
    parameters = {"max_epochs": 2, "checkpoint_dir": tmp_path, "checkpoint_interval": 2}
    interrupt_at(3)
    with pytest.warns(UserWarning, match="interrupted after 3 steps"):
        make_classifier(**parameters).fit(X, y)
    clock.now += 10_000
    interrupt_at(None)
    assert step_times(make_classifier(**parameters).fit(X, y)) == [1, 2, 3, 4, 6, 7, 8, 9]


def test_calls_of_partial_fit_count_on_without_the_time_between_them(make_classifier, revisions, clock):
    X, y = revisions
    classifier = make_classifier().partial_fit(X, y, classes=np.unique(y))
    clock.now += 10_000
    classifier.partial_fit(X, y)
    assert step_times(classifier) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert [row["seconds"] for row in classifier.history_] == [5, 10]


def test_a_fit_that_begins_warm_counts_from_its_own_beginning(make_classifier, revisions, clock):
    X, y = revisions
    classifier = make_classifier(warm_start=True).fit(X, y).fit(X, y)
    assert step_times(classifier) == [1, 2, 3, 4]


def test_times_are_saved_to_the_last_bit(make_classifier, revisions, tmp_path):
    X, y = revisions
    classifier = make_classifier().fit(X, y)
    classifier.save(tmp_path / "saved")
    assert step_times(IRTuningClassifier.load(tmp_path / "saved")) == step_times(classifier)
