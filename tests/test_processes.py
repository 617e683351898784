"""A classifier works in other processes and threads as it does in this one, to the last bit."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from joblib import Parallel, cpu_count, delayed, parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate

from sklearn_irt import IRTuningClassifier
from sklearn_irt.states_store import between_fits

# As ray does it: the answer to a question that came as a pickle.
PROGRAM = """
import sys, cloudpickle
cloudpickle.dump(cloudpickle.load(sys.stdin.buffer)(), sys.stdout.buffer)
"""


def in_a_fresh_process(act):
    """Return what a function without arguments returns in a process of its own, of one thread."""
    question = cloudpickle.dumps(act)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    run = subprocess.run(command, input=question, capture_output=True, env=environment, check=False, timeout=300)
    assert run.returncode == 0, run.stderr.decode()
    return cloudpickle.loads(run.stdout)


@pytest.fixture(scope="module")
def cluster():
    """Return a client of two dask workers, each a process of two threads."""
    workers = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "memory_limit": None}
    with LocalCluster(**workers, dashboard_address=None) as local, Client(local) as client:
        yield client


@pytest.fixture(scope="module")
def search(make_classifier, revisions):
    """Return a function that searches on as many workers."""
    X, y = revisions
    grid = {"learning_rate": [1e-3, 1e-2]}

    def run(n_jobs):
        # Of all scores, this one shows the last bits of the probabilities.
        options = {"cv": 2, "scoring": "neg_log_loss", "error_score": "raise"}
        return GridSearchCV(make_classifier(), grid, **options, n_jobs=n_jobs).fit(X, y == "style")

    return run


@pytest.fixture(scope="module")
def alone(search):
    return search(1)


def assert_same(one, other, X):
    for split in (0, 1):
        scores = [found.cv_results_[f"split{split}_test_score"] for found in (one, other)]
        assert np.array_equal(*scores)
        assert len(set(scores[0])) == 2
    assert one.best_params_ == other.best_params_
    assert np.array_equal(one.best_estimator_.predict_proba(X), other.best_estimator_.predict_proba(X))


def test_a_search_on_two_processes_of_joblib_gives_what_one_gives(search, alone, revisions):
    with parallel_config("loky", inner_max_num_threads=1):
        assert_same(search(2), alone, revisions[0])


def test_a_search_on_dask_gives_what_one_process_gives(search, alone, revisions, cluster):
    with parallel_config("dask"):
        assert_same(search(-1), alone, revisions[0])


def test_what_dask_workers_fitted_predicts_here_what_a_fit_here_predicts(make_classifier, revisions, cluster):
    X, y = revisions
    with parallel_config("dask"):
        fits = cross_validate(make_classifier(), X, y, cv=2, return_estimator=True, return_indices=True, n_jobs=2)
    for there, rows in zip(fits["estimator"], fits["indices"]["train"], strict=True):
        here = make_classifier().fit(X.iloc[rows], y.iloc[rows])
        assert np.array_equal(there.predict_proba(X), here.predict_proba(X))


def test_workers_share_the_cores(cluster, monkeypatch):
    """Threads beyond the cores would wait for each other: a fit takes many times as long then."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for threads in Parallel(n_jobs=2)(delayed(torch.get_num_threads)() for _ in range(2)):
        assert threads == max(1, cpu_count() // 2)
    assert set(cluster.run(torch.get_num_threads).values()) == {1}


@pytest.fixture(scope="module")
def from_afar(make_classifier, revisions):
    """Return a fitted classifier, and what it, an unfitted one and a clone answer in a fresh process."""
    X, y = revisions
    fitted = make_classifier(pair_format=lambda before, after: f"{before} => {after}").fit(X[:30], y[:30])
    unfitted = clone(fitted)

    def answer():
        first = fitted.predict_proba(X)
        return first, fitted.predict_proba(X), unfitted.fit(X[:30], y[:30]).predict_proba(X), unfitted

    return fitted, *in_a_fresh_process(answer)


def test_a_fitted_classifier_answers_the_same_in_a_fresh_process(from_afar, revisions):
    fitted, first, second, _, _ = from_afar
    assert np.array_equal(first, fitted.predict_proba(revisions[0]))
    assert np.array_equal(second, first)


def test_a_fit_in_a_fresh_process_learns_the_same(from_afar, revisions):
    fitted, _, _, fitted_there, returned = from_afar
    assert np.array_equal(fitted_there, fitted.predict_proba(revisions[0]))
    assert np.array_equal(returned.predict_proba(revisions[0]), fitted_there)
    states = (classifier.net_.module_.state_dict() for classifier in (fitted, returned))
    for here, there in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(here, there)


def test_two_threads_predict_with_one_classifier_while_a_third_one_fits(make_classifier, revisions):
    X, y = revisions
    one = make_classifier(learning_rate=0.01).fit(X[:30], y[:30])
    other = make_classifier(learning_rate=0.01, candidate_layers="all", random_state=1, max_epochs=3)

    def answer(part):
        return one._compute_logits(one._read_pairs(part, one))

    parts = [X[start : start + 6] for start in range(30, 60, 6)] * 4
    expected = [answer(part) for part in parts]
    expected_of_other = clone(other).fit(X, y).predict_proba(X)
    between_fits.clear()
    with ThreadPoolExecutor(3) as pool:
        fitting = pool.submit(other.fit, X, y)
        answers = list(pool.map(answer, parts))
        fitting.result()
    assert all(map(np.array_equal, answers, expected))
    assert np.array_equal(other.predict_proba(X), expected_of_other)


def test_two_threads_that_fit_clones_learn_what_one_after_the_other_learns(make_classifier, revisions):
    X, y = revisions[0], revisions[1] == "style"
    classifier = make_classifier(candidate_layers="all")
    halves = [(X[:30], y[:30]), (X[30:], y[30:])] * 2

    def fit(half):
        return clone(classifier).fit(*half).predict_proba(X)

    expected = [fit(half) for half in halves]
    with ThreadPoolExecutor(2) as pool:
        assert all(map(np.array_equal, pool.map(fit, halves), expected))
    assert not np.allclose(*expected[:2])


@pytest.fixture
def with_threads():
    """Return a function that fits and predicts with so many threads."""
    before = torch.get_num_threads()

    def run(classifier, X, y, *, fit, predict):
        torch.set_num_threads(fit)
        between_fits.clear()
        classifier = clone(classifier).fit(X[:40], y[:40])
        torch.set_num_threads(predict)
        between_fits.clear()
        return classifier.predict_proba(X[40:])

    yield run
    torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-6), ("bf16", 1e-3)])
def test_another_number_of_threads_changes_little(with_threads, make_classifier, revisions, precision, most):
    classifier = make_classifier(precision=precision, learning_rate=0.01)
    one, two = (with_threads(classifier, *revisions, fit=n, predict=n) for n in (1, 2))
    np.testing.assert_allclose(two, one, rtol=0, atol=most)


@pytest.mark.slow
def test_another_number_of_threads_changes_little_of_smollm2(with_threads, revisions):
    classifier = IRTuningClassifier(precision="bf16", max_epochs=1, device="cpu", random_state=0)
    one, predicted, both = (
        with_threads(classifier, *revisions, fit=fit, predict=predict) for fit, predict in ((1, 1), (1, 2), (2, 2))
    )
    assert 0 < abs(predicted - one).max() < 0.02
    assert 0 < abs(both - one).max() < 0.02
