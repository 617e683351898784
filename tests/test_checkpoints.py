"""A fit that was stopped goes on, and its result is that of one that nobody stopped."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.numpy import save_file
from transformers import AutoModelForSequenceClassification

from sklearn_irt import checkpoints
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.selection import (
    FullSelection,
    GradientNormSelection,
    LayerSelection,
    LearnedImportanceSelection,
    RandomSelection,
    SparseSelection,
    SubTuningSelection,
)

DROPOUT = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear")
WINDOWS = {"long_text": "windows", "max_length": 24}


class OwnStrategy(LayerSelection):
    """Keeps the generator that it was given under a name of its own."""

    def begin(self, layers, random_state, **sizes):
        super().begin(layers, random_state, **sizes)
        self.draws_ = random_state

    def select(self, step):
        return np.sort(self.draws_.choice(self.layers_, 2, replace=False))


SETTINGS = {
    "the paper's rule, with dropout": {"adapter": DROPOUT, "candidate_layers": "all"},
    "layers that join the prefix twice": {
        "selection": GradientNormSelection(warm_up=2, interval=None),
        "candidate_layers": "all",
        "precision": "bf16",
    },
    "early stopping that stops": {
        "early_stopping": True,
        "validation_fraction": 0.2,
        "learning_rate": 0.1,
        "max_epochs": 9,
    },
    "early stopping by a score": {
        "early_stopping": True,
        "scoring": ["neg_log_loss", "f1_macro"],
        "validation_fraction": 0.2,
        "learning_rate": 0.1,
        "max_epochs": 9,
    },
    "a strategy of one's own, windows": {"selection": OwnStrategy(), "candidate_layers": "all", **WINDOWS},
    "a single epoch of single rows": {"batch_size": 1, "max_epochs": 1},
    "embeddings that train": {"selection": RandomSelection(interval=2, embeddings=True)},
    "a learned importance": {"selection": LearnedImportanceSelection(interval=2), "candidate_layers": "all"},
    "masked weights": {"selection": SparseSelection(interval=3), "adapter": None, "learning_rate": 3e-3},
    "a search that repeats itself": {"selection": SubTuningSelection(n_steps=2, interval="epoch")},
    "dropped layers, no seed": {"drop_layers": 1, "random_state": None},
}


class Stopped(BaseException):
    """What a test stops a fit with: nothing in the package catches it."""


@pytest.fixture
def stop_at(monkeypatch):
    """Return a function that stops fits at a step, or at none."""
    begin = SelectedLayers.on_batch_begin

    def stop(step):
        def stopped(self, net, training=False, **kwargs):
            if training and self.n_steps == step:
                raise Stopped
            begin(self, net, training=training, **kwargs)

        monkeypatch.setattr(SelectedLayers, "on_batch_begin", stopped)

    return stop


@pytest.fixture
def stopped_fit(make_classifier, revisions, stop_at, tmp_path):
    """Return a function that stops a fit at a step and gives the folder of its checkpoints."""

    def stop(step=5, **parameters):
        X, y = revisions
        stop_at(step)
        with pytest.raises(Stopped):
            make_classifier(checkpoint_dir=tmp_path, max_epochs=2, **{"checkpoint_interval": 2, **parameters}).fit(X, y)
        stop_at(None)
        return tmp_path

    return stop


def assert_same_fit(one, other):
    learned, again = (classifier.net_.module_.state_dict() for classifier in (one, other))
    assert list(learned) == list(again)
    assert all(torch.equal(tensor, again[name]) for name, tensor in learned.items())
    assert np.array_equal(one.layer_scores_, other.layer_scores_, equal_nan=True)
    assert np.array_equal(one.active_layers_, other.active_layers_)
    assert np.array_equal(one.n_active_parameters_, other.n_active_parameters_)
    rows, rows_again = (
        [{**without_times(row), "batches": list(map(without_times, row["batches"]))} for row in classifier.history_]
        for classifier in (one, other)
    )
    for row, row_again in zip(rows, rows_again, strict=True):
        assert row == row_again
    assert one.n_iter_ == other.n_iter_


def without_times(row):
    return {name: value for name, value in row.items() if name not in ("dur", "seconds")}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_stopped_fit_goes_on_to_the_same_result(make_classifier, revisions, stop_at, tmp_path, setting):
    X, y = revisions
    parameters = {"max_epochs": 4, "checkpoint_interval": 3, **SETTINGS[setting]}
    if parameters.get("random_state", 0) is None:
        np.random.seed(0)  # noqa: NPY002 - which must not matter
    classifier = make_classifier(**parameters, checkpoint_dir=tmp_path)
    for step in (2, 4, 8):
        stop_at(step)
        with pytest.raises(Stopped):
            classifier.fit(X, y)
        assert len(list(tmp_path.iterdir())) <= 2
    stop_at(None)
    classifier.fit(X, y)
    again = make_classifier(**{**parameters, "random_state": generator_of(tmp_path)}).fit(X, y)
    assert_same_fit(classifier, again)
    if setting == "early stopping that stops":
        assert again.n_iter_ < 9


def generator_of(folder):
    """Return the generator with which the fit of a checkpoint began."""
    generator = np.random.RandomState()
    generator.set_state(checkpoints._read(max(folder.iterdir()))["generator"])
    return generator


KILLING = """
import os, random, signal, sys, time
import numpy as np
import torch
from sklearn_irt import IRTuningClassifier, load_sample_revisions

torch.set_num_threads(1)
backbone, root = sys.argv[1:]
X, y = load_sample_revisions(return_X_y=True)
X, y = X[:48], y[:48]


def fit(folder):
    classifier = IRTuningClassifier(
        backbone, selection="ir-fast", candidate_layers="all", max_epochs=4, batch_size=4, precision="fp32",
        device="cpu", random_state=0, early_stopping=True, checkpoint_dir=folder, checkpoint_interval=1,
    )
    return classifier.fit(X, y)


def in_child(work):
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def save_result(folder):
    classifier = fit(folder)
    arrays = {name: tensor.numpy() for name, tensor in classifier.net_.module_.state_dict().items()}
    np.savez(f"{folder}.npz", scores=classifier.layer_scores_, losses=classifier.history_[:, "valid_loss"], **arrays)


def result(folder):
    with np.load(f"{folder}.npz") as arrays:
        return {name: arrays[name] for name in arrays}


os.makedirs(root)
began = time.monotonic()
child = in_child(lambda: save_result(f"{root}/whole"))
assert os.waitpid(child, 0)[1] == 0
whole, duration = result(f"{root}/whole"), time.monotonic() - began
chance, n_kills, n_runs = random.Random(0), 0, 0
while n_kills < 20:
    n_runs += 1
    while True:
        child = in_child(lambda: save_result(f"{root}/{n_runs}"))
        time.sleep(chance.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        n_kills += 1
        files = os.listdir(f"{root}/{n_runs}") if os.path.isdir(f"{root}/{n_runs}") else []
        assert sum(not name.startswith(".") for name in files) <= 2 + 1, files  # the kill may come before a removal
        if n_kills > 60:
            break
    if n_kills > 60:
        break
    found = result(f"{root}/{n_runs}")
    assert set(found) == set(whole)
    for name in whole:
        assert np.array_equal(found[name], whole[name], equal_nan=True), name
print(f"{n_kills} kills, {n_runs} runs, each the same to the last bit")
"""


def test_a_fit_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(tiny_llama, tmp_path):
    script = tmp_path / "killing.py"
    script.write_text(KILLING)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), tiny_llama, str(tmp_path / "fits")],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "the same to the last bit" in ended.stdout


def test_a_finished_fit_trains_no_further_step(make_classifier, revisions, tmp_path, runs):
    X, y = revisions
    first = make_classifier(checkpoint_dir=tmp_path).fit(X, y)
    runs.clear()
    again = make_classifier(checkpoint_dir=tmp_path, verbose=0).fit(X, y)
    assert_same_fit(first, again)
    assert not runs
    assert np.array_equal(first.predict_proba(X), again.predict_proba(X))


def test_what_does_not_matter_to_the_result_may_change(make_classifier, revisions, stopped_fit):
    X, y = revisions
    folder = stopped_fit()
    changed = {"verbose": 1, "prefix_cache": "disk", "checkpoint_interval": 7}
    classifier = make_classifier(checkpoint_dir=folder, max_epochs=2, **changed).fit(X, y)
    assert_same_fit(classifier, make_classifier(max_epochs=2).fit(X, y))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.1}, "learning_rate was 0.002 and is 0.1"),
        ({"max_epochs": 3}, "max_epochs was 2 and is 3"),
        ({"selection": FullSelection()}, "selection was 'ir' and is FullSelection"),
        ({"random_state": 1}, "random_state was 0 and is 1"),
        ({"adapter": DROPOUT}, "adapter changed"),
        ({"context": 2}, "context was 8 and is 2; how texts are tokenized changed"),
    ],
)
def test_a_checkpoint_of_other_parameters_is_refused_by_name(
    make_classifier, revisions, stopped_fit, monkeypatch, changed, message
):
    X, y = revisions
    folder = stopped_fit()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    classifier = make_classifier(**{"checkpoint_dir": folder, "max_epochs": 2, **changed})
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, y)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_checkpoint_of_other_data_is_refused_by_name(make_classifier, revisions, stopped_fit):
    X, y = revisions
    classifier = make_classifier(checkpoint_dir=stopped_fit(), max_epochs=2)
    with pytest.raises(ValueError, match="of another fit: X changed; how texts are tokenized changed"):
        classifier.fit(X.assign(after=X["after"] + "!"), y)
    with pytest.raises(ValueError, match="of another fit: y changed; sample_weight changed"):
        classifier.fit(X, np.roll(y, 1))
    with pytest.raises(ValueError, match="of another fit: sample_weight changed"):
        classifier.fit(X, y, sample_weight=np.arange(1, 61))


def test_a_checkpoint_of_another_version_or_backbone_is_refused_by_name(
    make_classifier, revisions, stopped_fit, monkeypatch, tiny_llama, tmp_path
):
    X, y = revisions
    folder = stopped_fit()
    (Path(tiny_llama) / "notes.txt").write_text("one more file")
    try:
        with pytest.raises(ValueError, match="of another fit: the files of the backbone changed"):
            make_classifier(checkpoint_dir=folder, max_epochs=2).fit(X, y)
    finally:
        (Path(tiny_llama) / "notes.txt").unlink()
    monkeypatch.setattr(checkpoints, "VERSION", "9.9")
    with pytest.raises(ValueError, match=r"the version of sklearn_irt was .* and is 9.9"):
        make_classifier(checkpoint_dir=folder, max_epochs=2).fit(X, y)


def test_resume_never_begins_anew(make_classifier, revisions, stopped_fit):
    X, y = revisions
    parameters = {"max_epochs": 2, "learning_rate": 0.01}
    classifier = make_classifier(checkpoint_dir=stopped_fit(), resume="never", **parameters).fit(X, y)
    assert_same_fit(classifier, make_classifier(**parameters).fit(X, y))
    assert_same_fit(classifier, make_classifier(checkpoint_dir=classifier.checkpoint_dir, **parameters).fit(X, y))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(make_classifier, revisions, stopped_fit):
    X, y = revisions
    folder = stopped_fit()
    _, newest = sorted(folder.iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged") as warned:
        classifier = make_classifier(checkpoint_dir=folder, max_epochs=2).fit(X, y)
    assert {one.filename for one in warned} == {__file__}
    assert_same_fit(classifier, make_classifier(max_epochs=2).fit(X, y))


@pytest.mark.parametrize(
    "content", ['{"format":1}', '{"format":1,"description":[]}', '{"$array":{"dtype":1}}', "[" * 50_000, "7"]
)
def test_a_file_that_only_looks_like_a_checkpoint_is_refused(make_classifier, revisions, tmp_path, content):
    X, y = revisions
    save_file({"one": np.ones(1)}, tmp_path / "step-000000004.safetensors", {"checkpoint": content})
    warnings.simplefilter("ignore")  # pytest puts the filters back
    with pytest.raises(ValueError, match="resume='never'"):
        make_classifier(checkpoint_dir=tmp_path).fit(X, y)


def test_a_good_checkpoint_outlives_damaged_ones_of_later_steps(make_classifier, revisions, stopped_fit, stop_at):
    X, y = revisions
    folder = stopped_fit()
    for number in (90, 91):
        (folder / f"step-0000000{number}.safetensors").write_bytes(b"damaged")
    classifier = make_classifier(checkpoint_dir=folder, max_epochs=2, checkpoint_interval=2)
    stop_at(7)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(Stopped):
        classifier.fit(X, y)
    assert sorted(file.name for file in folder.iterdir()) == [f"step-00000000{n}.safetensors" for n in (4, 6)]


def test_files_and_folders_of_others_are_left_alone(make_classifier, revisions, tmp_path):
    X, y = revisions
    (tmp_path / "step-500.safetensors").write_text("another tool's")
    (tmp_path / "step-000000001.safetensors").mkdir()
    make_classifier(checkpoint_dir=tmp_path, resume="never").fit(X, y)
    names = ["step-000000001.safetensors", "step-000000004.safetensors", "step-500.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_a_pickle_in_the_place_of_a_checkpoint_is_not_run(make_classifier, revisions, tmp_path):
    X, y = revisions

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "was run"),))

    (tmp_path / "step-000000004.safetensors").write_bytes(pickle.dumps(Hostile()))
    torch.save(Hostile(), tmp_path / "step-000000005.safetensors")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="resume='never'"):
        make_classifier(checkpoint_dir=tmp_path).fit(X, y)
    assert not (tmp_path / "was run").exists()


def test_a_full_disk_costs_a_checkpoint_and_not_the_fit(make_classifier, revisions, tmp_path, monkeypatch):
    X, y = revisions
    written = []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(UserWarning, match="No checkpoint of step 3 in .*No space left on device"):
        classifier = make_classifier(checkpoint_dir=tmp_path, checkpoint_interval=1).fit(X, y)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "step-000000001.safetensors",
        "step-000000002.safetensors",
    ]
    assert_same_fit(classifier, make_classifier().fit(X, y))


def test_a_folder_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    make_classifier, revisions, tmp_path, monkeypatch
):
    X, y = revisions
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"checkpoint_dir='.*file/folder': nothing can be written there"):
        make_classifier(checkpoint_dir=str(tmp_path / "file" / "folder")).fit(X, y)


def test_a_strategy_that_cannot_be_stored_is_refused_before_the_first_step(make_classifier, revisions, tmp_path):
    class Keeping(FullSelection):
        def select(self, step):
            self.kept_ = object()
            return super().select(step)

    X, y = revisions
    classifier = make_classifier(selection=Keeping(), checkpoint_dir=tmp_path)
    with pytest.raises(TypeError, match=r"kept_ is an object of builtins\.object, which only pickle could write"):
        classifier.fit(X, y)
    assert not hasattr(classifier, "net_")
    assert make_classifier(selection=Keeping()).fit(X, y).n_iter_ == 1


def test_a_warm_start_goes_on_only_from_the_adapters_that_it_began_with(make_classifier, revisions, stop_at, tmp_path):
    X, y = revisions
    first = make_classifier().fit(X, y)
    expected = pickle.loads(pickle.dumps(first)).set_params(warm_start=True, max_epochs=2).fit(X, y)
    again = pickle.loads(pickle.dumps(first)).set_params(warm_start=True, max_epochs=2, checkpoint_dir=tmp_path)
    stop_at(6)
    with pytest.raises(Stopped):
        pickle.loads(pickle.dumps(again)).fit(X, y)
    stop_at(None)
    other = make_classifier(random_state=5).fit(X, y)
    other.set_params(warm_start=True, max_epochs=2, checkpoint_dir=tmp_path, random_state=0)
    with pytest.raises(ValueError, match="of another fit: what warm_start starts from changed"):
        other.fit(X, y)
    assert_same_fit(again.fit(X, y), expected)


def test_another_number_of_threads_is_told(make_classifier, revisions, stopped_fit, monkeypatch):
    X, y = revisions
    folder = stopped_fit()
    monkeypatch.setattr(checkpoints, "processor", lambda: "3 threads, other")
    with pytest.warns(UserWarning, match="other threads or instructions of the processor"):
        make_classifier(checkpoint_dir=folder, max_epochs=2).fit(X, y)


def test_unfinished_files_of_a_killed_process_are_removed(make_classifier, revisions, stopped_fit):
    X, y = revisions
    folder = stopped_fit()
    shutil.copy(max(folder.iterdir()), folder / ".step-000000009.safetensors-123")
    make_classifier(checkpoint_dir=folder, max_epochs=2).fit(X, y)
    assert sorted(file.name for file in folder.iterdir()) == [
        "step-000000004.safetensors",
        "step-000000008.safetensors",
    ]


def test_a_set_in_a_parameter_is_the_same_in_another_process_where_it_has_another_order():
    names = [f"layer_{number}" for number in range(99)]
    first, second = next(pair for pair in combinations(names, 2) if str({*pair}) != str({pair[1], pair[0]}))

    def describe(*targets):
        set_alone = checkpoints.describe_parameter("stop_words", frozenset(targets))
        return set_alone, checkpoints.describe_parameter("adapter", LoraConfig(target_modules=list(targets)))

    assert describe(first, second) == describe(second, first)
    assert not set(describe(first, second)) & set(describe(first))
