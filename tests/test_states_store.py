"""Prefix states are computed once, kept where the user says, and never mistaken for others."""

import errno
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sklearn_irt.backbone import load_backbone
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.prefix import PrefixStates, compute_prefix_states
from sklearn_irt.states_store import (
    STORED_DTYPE,
    StatesInMemory,
    StatesKey,
    StatesOnDisk,
    between_fits,
    open_memory,
    open_store,
)


@pytest.fixture(autouse=True)
def _nothing_known():
    between_fits.clear()
    yield
    between_fits.clear()


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Return the folder of temporary files, an empty one."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def key(text, backbone="backbone", first_layer=2):
    return StatesKey(backbone, first_layer, (text,))


def states_of(n_tokens, value=1.0):
    return torch.full((n_tokens, 8), value, dtype=STORED_DTYPE)  # 16 bytes a token


class TestInMemory:
    def test_what_was_put_is_got(self):
        store = StatesInMemory(1000)
        states = states_of(3)
        assert store.put(key(1), states) is states
        assert store.get(key(1)) is states
        for other in (key(2), key(1, backbone="another"), key(1, first_layer=1)):
            assert store.get(other) is None

    def test_the_longest_unused_give_way_where_the_bytes_do_not_suffice(self):
        store = StatesInMemory(4 * 16)
        for text in range(4):
            store.put(key(text), states_of(1))
        assert store.n_bytes == 64
        store.get(key(0))  # used again
        store.put(key(4), states_of(2))
        assert [store.get(key(text)) is not None for text in range(5)] == [True, False, False, True, True]
        assert store.n_bytes == 64

    def test_the_same_text_twice_counts_once(self):
        store = StatesInMemory(100)
        for _ in range(10):
            store.put(key(1), states_of(2))
        assert store.n_bytes == 32
        assert store.get(key(1)) is not None

    def test_what_is_too_large_is_returned_but_not_kept(self):
        store = StatesInMemory(100)
        states = states_of(20)
        assert store.put(key(1), states) is states
        assert store.n_bytes == 0
        assert store.get(key(1)) is None

    def test_clear(self):
        store = StatesInMemory(100)
        store.put(key(1), states_of(2))
        store.clear()
        assert store.n_bytes == 0
        assert store.get(key(1)) is None


class TestOnDisk:
    def test_states_are_views_of_the_file(self, tmp_path):
        store = StatesOnDisk(tmp_path, 5, 8)
        first, second = (store.put(key(text), states_of(n, value=text)) for text, n in ((1, 2), (2, 3)))
        assert (tmp_path / "prefix_states").stat().st_size == 5 * 16
        assert torch.equal(first, states_of(2, 1))
        assert torch.equal(second, states_of(3, 2))
        written = np.fromfile(tmp_path / "prefix_states", dtype=np.int16)
        assert np.array_equal(written, torch.cat([first, second]).view(torch.int16).numpy().ravel())
        assert between_fits.get(key(1)) is None

    def test_it_takes_what_is_known_in_memory_without_sharing_it(self, tmp_path):
        known = between_fits.put(key(1), states_of(2, 7))
        store = StatesOnDisk(tmp_path, 5, 8)
        states = store.get(key(1))
        assert torch.equal(states, known)
        states.zero_()
        assert torch.equal(known, states_of(2, 7))
        assert store.get(key(2)) is None

    def test_a_full_disk_is_named_with_what_can_be_done(self, tmp_path, monkeypatch):
        def full(*args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
        with pytest.raises(
            OSError, match=r"prefix_cache='disk' needs 0\.04 GB .*\(No space left on device\)"
        ) as caught:
            StatesOnDisk(tmp_path, 10**6, 20)
        assert caught.value.errno == errno.ENOSPC
        assert "prefix_cache='memory'" in str(caught.value)

    def test_where_room_cannot_be_reserved_it_is_written(self, tmp_path, monkeypatch):
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        store = StatesOnDisk(tmp_path, 5, 8)
        assert torch.equal(store.put(key(1), states_of(5)), states_of(5))
        assert (tmp_path / "prefix_states").stat().st_size == 80


class TestReplace:
    def test_in_memory_other_estimators_keep_theirs(self):
        shared = states_of(2)
        states = PrefixStates([shared], [[1, 2]])
        states.replace(0, torch.full((2, 8), 5.0))
        assert torch.equal(states[0][0], states_of(2, 5))
        assert torch.equal(shared, states_of(2))

    def test_in_a_file_it_is_written_to_the_file(self, tmp_path):
        store = StatesOnDisk(tmp_path, 2, 8)
        states = PrefixStates([store.put(key(1), states_of(2))], [[1, 2]], in_file=True)
        states.replace(0, torch.full((2, 8), 5.0))
        assert np.fromfile(tmp_path / "prefix_states", dtype=np.int16).tolist() == (
            states_of(2, 5).view(torch.int16).flatten().tolist()
        )


def free_memory(n_bytes, monkeypatch):
    monkeypatch.setattr(
        "sklearn_irt.states_store.psutil.virtual_memory", lambda: SimpleNamespace(available=n_bytes, total=2**40)
    )


def test_auto_takes_the_disk_where_states_would_fill_half_of_the_free_memory(temporary, monkeypatch):
    for available, in_memory in ((4 * 16 * 2, True), (4 * 16 * 2 - 1, False)):
        free_memory(available, monkeypatch)
        with open_store("auto", n_tokens=4, hidden_size=8) as store:
            assert (store is between_fits) == in_memory
    free_memory(0, monkeypatch)
    with open_store("memory", n_tokens=4, hidden_size=8) as store:
        assert store is between_fits
    free_memory(2**40, monkeypatch)
    with open_store("disk", n_tokens=4, hidden_size=8) as store:
        assert isinstance(store, StatesOnDisk)
        assert list(temporary.rglob("prefix_states"))
    assert list(temporary.iterdir()) == []


def test_verbose_says_where_states_are(make_classifier, revisions, temporary, monkeypatch, capsys):
    X, y = revisions
    make_classifier(verbose=1).fit(X, y)
    assert "MB) are kept in memory." in capsys.readouterr().out
    free_memory(1000, monkeypatch)
    make_classifier(verbose=1).fit(X, y)
    assert f"MB) are kept in the temporary file {temporary}" in capsys.readouterr().out


@pytest.fixture
def files_at_each_step(monkeypatch, temporary):
    """Return a list that gets the temporary files, with their sizes, at each step of a fit."""
    seen = []
    begin = SelectedLayers.on_batch_begin

    def look(self, net, **kwargs):
        seen.append([path.stat().st_size for path in temporary.rglob("prefix_states")])
        begin(self, net, **kwargs)

    monkeypatch.setattr(SelectedLayers, "on_batch_begin", look)
    return seen


def test_the_file_lives_as_long_as_the_fit(make_classifier, revisions, temporary, files_at_each_step):
    X, y = revisions
    classifier = make_classifier(prefix_cache="disk").fit(X, y)
    assert len(files_at_each_step) == 4
    assert all(len(sizes) == 1 and sizes[0] > 60 * 32 * 2 for sizes in files_at_each_step)
    assert list(temporary.iterdir()) == []
    classifier.predict(X)
    assert list(temporary.iterdir()) == []


def test_no_file_where_states_are_in_memory(make_classifier, revisions, temporary, files_at_each_step):
    make_classifier(prefix_cache="memory").fit(*revisions)
    assert files_at_each_step == [[]] * 4


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_file_is_gone_after_an_error(make_classifier, revisions, temporary, monkeypatch, error):
    seen = []

    def fail(self, net, **kwargs):
        seen.append(len(list(temporary.rglob("prefix_states"))))
        raise error

    monkeypatch.setattr(SelectedLayers, "on_batch_begin", fail)
    with pytest.raises(error):
        make_classifier(prefix_cache="disk").fit(*revisions)
    assert seen == [1]
    assert list(temporary.iterdir()) == []


def test_the_file_is_gone_after_ctrl_c_while_the_prefix_runs(make_classifier, revisions, temporary, monkeypatch):
    def interrupted(self, *args, **kwargs):
        assert len(list(temporary.rglob("prefix_states"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(LlamaDecoderLayer, "forward", interrupted)
    classifier = make_classifier(prefix_cache="disk")
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(*revisions)
    assert list(temporary.iterdir()) == []
    with pytest.raises(NotFittedError):
        classifier.predict(revisions[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_disk_and_memory_give_equal_fits(make_classifier, revisions, temporary, precision):
    X, y = revisions
    fits = []
    for prefix_cache in ("memory", "disk"):
        between_fits.clear()
        fits.append(make_classifier(prefix_cache=prefix_cache, precision=precision, max_epochs=2).fit(X, y))
    assert np.array_equal(*(classifier.predict_proba(X) for classifier in fits))
    assert np.array_equal(*(classifier.layer_scores_ for classifier in fits))


def test_a_full_disk_leaves_a_fitted_estimator_as_it_was(make_classifier, revisions, temporary, monkeypatch):
    X, y = revisions
    classifier = make_classifier().fit(X[:40], y[:40])
    before = pickle.dumps(classifier.predict_proba(X))

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    classifier.set_params(prefix_cache="disk", random_state=1)
    with pytest.raises(OSError, match=r"prefix_cache='disk' needs .* TMPDIR"):
        classifier.fit(X, y)
    assert list(temporary.iterdir()) == []
    assert pickle.dumps(classifier.predict_proba(X)) == before


def test_a_second_fit_on_the_same_texts_runs_no_prefix_layer(make_classifier, revisions, runs):
    X, y = revisions
    first = make_classifier().fit(X, y)
    assert {0, 1} <= set(runs)
    runs.clear()
    second = make_classifier(learning_rate=1e-3).fit(X, y)
    assert set(runs) == {2, 3}
    runs.clear()
    second.predict(X)
    first.predict(X.iloc[::-1])
    assert set(runs) == {2, 3}
    runs.clear()
    make_classifier(prefix_cache="disk").fit(X, y)
    assert set(runs) == {2, 3}


def test_states_of_another_layer_precision_or_backbone_are_not_taken(make_classifier, revisions, runs, backbones):
    X, y = revisions
    make_classifier().fit(X, y)
    for parameters, prefix in (({"candidate_layers": 1}, {0, 1, 2}), ({"precision": "bf16"}, {0, 1})):
        runs.clear()
        make_classifier(**parameters).fit(X, y)
        assert prefix <= set(runs)
    n_bytes = between_fits.n_bytes
    make_classifier(backbone=backbones["gpt2"]).fit(X, y)
    assert between_fits.n_bytes > n_bytes


def test_fits_do_not_depend_on_what_earlier_ones_left(make_classifier, revisions):
    X, y = revisions
    alone = make_classifier().fit(X, y).predict_proba(X)
    between_fits.clear()
    make_classifier(candidate_layers="all").fit(X, y)
    make_classifier(precision="bf16").fit(X, y)
    make_classifier().fit(X[20:], y[20:])
    assert np.array_equal(make_classifier().fit(X, y).predict_proba(X), alone)


class TestMemory:
    @pytest.fixture(params=["path", "str", "object"])
    def memory(self, request, tmp_path):
        folder = tmp_path / "states"
        return {"path": folder, "str": str(folder), "object": joblib.Memory(folder, verbose=0)}[request.param]

    def test_states_are_there_after_the_process_forgot_them(self, make_classifier, revisions, runs, memory):
        X, y = revisions
        plain = make_classifier().fit(X, y).predict_proba(X)
        between_fits.clear()
        runs.clear()
        first = make_classifier(memory=memory).fit(X, y).predict_proba(X)
        assert {0, 1} <= set(runs)
        runs.clear()
        between_fits.clear()
        second = make_classifier(memory=memory).fit(X, y)
        assert set(runs) == {2, 3}
        between_fits.clear()
        assert np.array_equal(second.predict_proba(X), plain)
        assert set(runs) == {2, 3}
        assert np.array_equal(first, plain)

    def test_prediction_keeps_states_too(self, make_classifier, revisions, runs, tmp_path):
        X, y = revisions
        classifier = make_classifier(memory=tmp_path).fit(X[:40], y[:40])
        expected = classifier.predict_proba(X)
        between_fits.clear()
        runs.clear()
        again = pickle.loads(pickle.dumps(classifier)).predict_proba(X)
        assert set(runs) == {2, 3}
        assert np.array_equal(again, expected)

    def test_a_fit_on_disk_reads_them(self, make_classifier, revisions, runs, tmp_path, temporary):
        X, y = revisions
        first = make_classifier(memory=tmp_path / "states").fit(X, y).predict_proba(X)
        between_fits.clear()
        runs.clear()
        second = make_classifier(memory=tmp_path / "states", prefix_cache="disk").fit(X, y)
        assert set(runs) == {2, 3}
        assert np.array_equal(second.predict_proba(X), first)

    def test_another_process_reads_them(self, make_classifier, revisions, runs, tmp_path):
        X, y = revisions
        classifier = make_classifier(memory=tmp_path / "states")
        joblib.dump((classifier, X, y), tmp_path / "unfitted.joblib")
        script = (
            "import joblib, numpy, torch; torch.set_num_threads(1)\n"
            "from transformers.models.llama.modeling_llama import LlamaDecoderLayer\n"
            "layers, forward = [], LlamaDecoderLayer.forward\n"
            "def counted(self, states, *args, **kwargs):\n"
            "    if states.shape[1] > 3:  # loading tries the layers on three tokens\n"
            "        layers.append(self.self_attn.layer_idx)\n"
            "    return forward(self, states, *args, **kwargs)\n"
            "LlamaDecoderLayer.forward = counted\n"
            f"classifier, X, y = joblib.load({str(tmp_path / 'unfitted.joblib')!r})\n"
            f"numpy.save({str(tmp_path / 'p.npy')!r}, classifier.fit(X, y).predict_proba(X))\n"
            "print(layers.count(1))"
        )
        expected = classifier.fit(X, y).predict_proba(X)
        assert runs.count(0) > 5
        process = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True)
        # joblib may miss the first text of a folder, as it checks the function that it keeps results of.
        assert int(process.stdout.splitlines()[-1]) <= 1
        assert np.array_equal(np.load(tmp_path / "p.npy"), expected)

    def test_states_of_another_backbone_precision_or_layer_are_not_taken(self, backbones, tmp_path):
        memory = open_memory(tmp_path)
        ids = [[7, 8, 9], [10, 11]]

        def states(family, precision, first_layer, memory):
            backbone = load_backbone(backbones[family], precision=precision, device=torch.device("cpu"))
            return compute_prefix_states(backbone, ids, first_layer, StatesInMemory(2**20), memory).states

        kinds = [("llama", "fp32", 2), ("llama", "fp32", 1), ("llama", "bf16", 2), ("gpt2", "fp32", 2)]
        expected = [states(*kind, None) for kind in kinds]
        for _ in range(2):  # computed, then read
            for kind, known in zip(kinds, expected, strict=True):
                assert all(map(torch.equal, states(*kind, memory), known))

    def test_what_is_no_memory_is_refused(self, make_classifier, revisions):
        with pytest.raises((ValueError, TypeError), match="memory"):
            make_classifier(memory=7).fit(*revisions)


def test_a_damaged_file_of_kept_states_is_computed_anew(make_classifier, revisions, tmp_path):
    X, y = revisions
    expected = make_classifier(memory=str(tmp_path)).fit(X, y).predict_proba(X)
    files = list(tmp_path.rglob("output.pkl"))
    assert files
    for file in files:
        file.write_bytes(b"junk")
    between_fits.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib says what it could not read
        np.testing.assert_array_equal(make_classifier(memory=str(tmp_path)).fit(X, y).predict_proba(X), expected)
