"""Processes of one launch train together, and learn what a single one does: two of them on the CPU."""

import os
import pickle
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import cloudpickle
import numpy as np
import pytest
import torch
from peft import LoraConfig

from sklearn_irt import IRTuningClassifier
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.distributed import ALONE, Processes, join_processes
from sklearn_irt.windows import take_texts

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the processes cannot import it
# What both processes run: a function that came as a pickle, whose answer each writes into a file of its own.
PROGRAM = """
import os, sys, cloudpickle, torch
folder = sys.argv[1]
with open(f"{folder}/act", "rb") as file:
    act = cloudpickle.load(file)
answer = act(int(os.environ["RANK"]))
with open(f"{folder}/answer-{os.environ['RANK']}", "wb") as file:
    cloudpickle.dump(answer, file)
torch.distributed.destroy_process_group()
"""
COMMON = {"max_epochs": 2, "candidate_layers": "all", "learning_rate": 0.01, "device": "auto"}
LORA_WITH_DROPOUT = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear")
EARLY = {"early_stopping": True, "validation_fraction": 0.3, "scoring": ["f1_macro", "loss"]}


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Return a function that lets two processes call a function with their index, and returns what each returned."""

    def run(act):
        folder = tmp_path_factory.mktemp("launch")
        (folder / "act").write_bytes(cloudpickle.dumps(act))
        (folder / "program.py").write_text(PROGRAM)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "ACCELERATE_USE_CPU": "true"}
        command = [*launcher, str(folder / "program.py"), str(folder)]
        done = subprocess.run(command, capture_output=True, env=environment, check=False, timeout=300)
        assert done.returncode == 0, done.stderr.decode()
        answers = [pickle.loads((folder / f"answer-{rank}").read_bytes()) for rank in (0, 1)]
        return answers, done.stdout.decode()

    return run


def describe(classifier, X):
    """Return what is to be equal, as plain data."""
    return SimpleNamespace(
        weights={name: t.numpy() for name, t in classifier.net_.module_.state_dict().items()},
        probabilities=classifier.predict_proba(X),
        scores=classifier.layer_scores_,
        active=classifier.active_layers_,
        n_active_parameters=classifier.n_active_parameters_,
        losses=[row["train_loss"] for row in classifier.history_],
        held_out=[(row["valid_loss"], row["valid_f1_macro"]) for row in classifier.history_ if "valid_loss" in row],
    )


def fits(revisions, make, folder):
    """Return the fits that one process and two do, by name."""
    X, y = revisions
    X, y = X[:33], y[:33] == "style"  # the last batch has one text

    def fit(**parameters):
        return describe(make(**COMMON | parameters).fit(X, y), X)

    def learn_in_parts():
        classifier = make(**COMMON)
        for rows in (slice(0, 17), slice(17, 33)):
            classifier.partial_fit(X[rows], y[rows], classes=[False, True])
        return describe(classifier, X)

    def go_on():
        full = fit(checkpoint_dir=folder / "of-two-epochs", checkpoint_interval=2)
        (folder / "of-two-epochs" / "step-000000006.safetensors").unlink(missing_ok=True)
        return full, fit(checkpoint_dir=folder / "of-two-epochs", checkpoint_interval=2)

    return {
        "ir": fit,
        "in parts": learn_in_parts,
        "early": lambda: fit(**EARLY, max_epochs=6),
        "sparse": lambda: fit(selection="sparse", adapter=None, learning_rate=1e-3, max_epochs=1),
        "subtuning": lambda: fit(selection="subtuning", candidate_layers=2, max_epochs=1),
        "windows": lambda: fit(long_text="windows", max_length=24, context=None, max_epochs=1),
        "checkpoints": go_on,
    }


def cases():
    return ["ir", "in parts", "early", "sparse", "subtuning", "windows"]


@pytest.fixture(scope="module")
def alone(make_classifier, revisions, tmp_path_factory):
    """Return what a single process learns, by the name of the fit."""
    acts = fits(revisions, make_classifier, tmp_path_factory.mktemp("alone"))
    return {name: acts[name]() for name in cases()}


@pytest.fixture(scope="module")
def together(launch, make_classifier, revisions, tiny_llama, tmp_path_factory):
    """Return what each of two processes learns, by the name of the fit, and what was printed."""
    folder = tmp_path_factory.mktemp("together")
    X, y = revisions[0][:33], revisions[1][:33]

    def stop(classifier, step):
        def interrupted(self, net, **kwargs):
            if self.n_steps == step:
                raise KeyboardInterrupt

        with patch.object(SelectedLayers, "on_batch_begin", interrupted):
            classifier.fit(X, y)

    small = {"precision": "fp32", "random_state": 0, "batch_size": 16}

    def act(rank):
        def make(**parameters):
            return IRTuningClassifier(tiny_llama, distributed=True, **small | parameters)

        answers = {name: act() for name, act in fits(revisions, make, folder).items()}
        dropout = {"selection": "full", "adapter": LORA_WITH_DROPOUT, "checkpoint_dir": folder / "dropout"}
        answers["files"] = sorted(file.name for file in (folder / "of-two-epochs").iterdir())
        answers["dropout"] = describe(make(**COMMON | dropout).fit(X, y), X)
        torch.distributed.barrier()
        (folder / "dropout" / "step-000000006.safetensors").unlink(missing_ok=True)  # that of the first epoch is left
        torch.distributed.barrier()
        answers["dropout again"] = describe(make(**COMMON | dropout).fit(X, y), X)
        answers["none"] = describe(make(random_state=None, max_epochs=1).fit(X, y), X)
        state = np.random.RandomState(rank)
        answers["state"] = describe(make(random_state=state, max_epochs=1).fit(X, y), X)
        answers["next number"] = state.randint(2**31)
        print(f"process {rank} speaks:", flush=True)
        make(verbose=2, max_epochs=1).fit(X, y)
        torch.distributed.barrier()
        try:
            make(max_epochs=1).fit(X, y if rank == 0 else y[::-1])
        except ValueError as error:
            answers["other labels"] = str(error)
        try:
            stop(make(), 1)
        except KeyboardInterrupt:
            answers["interrupted"] = True
        try:
            Processes(rank, 2).check_same({"head": torch.tensor([rank])})
        except RuntimeError as error:
            answers["other weights"] = str(error)
        try:
            make(max_epochs=1, checkpoint_dir=folder / "of-two-epochs").fit(X, y)
        except ValueError as error:
            answers["another fit"] = str(error)
        return answers

    return launch(act)


def assert_same(one, other):
    assert one.weights.keys() == other.weights.keys()
    for name, weight in one.weights.items():
        assert np.array_equal(weight, other.weights[name]), name
    assert np.array_equal(one.probabilities, other.probabilities)
    assert np.array_equal(one.scores, other.scores, equal_nan=True)
    assert one.losses == other.losses
    assert one.held_out == other.held_out


@pytest.mark.parametrize("name", [*cases(), "dropout", "none", "state"])
def test_all_processes_end_with_the_same_weights(together, name):
    first, second = (answers[name] for answers in together[0])
    assert_same(first, second)


@pytest.mark.parametrize("name", cases())
def test_two_processes_learn_what_one_learns(together, alone, name):
    two, one = together[0][0][name], alone[name]
    assert np.array_equal(two.active, one.active)
    assert np.array_equal(two.n_active_parameters, one.n_active_parameters)
    np.testing.assert_allclose(two.scores, one.scores, rtol=1e-4)
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-4)
    np.testing.assert_allclose(two.held_out, one.held_out, rtol=1e-4)
    np.testing.assert_allclose(two.probabilities, one.probabilities, rtol=0, atol=1e-4)


def test_the_fits_that_are_compared_have_what_they_are_to_test(together):
    answers = together[0][0]
    assert not answers["ir"].active.all()
    assert len(answers["ir"].active) == 2 * 3  # of 33 texts, 16 a batch: the last one has one text for two processes
    assert 1 < len(answers["early"].held_out) < 6


def test_one_process_writes_checkpoints_from_which_all_go_on(together):
    for answers in together[0]:
        stopped, gone_on = answers["checkpoints"]
        assert_same(stopped, gone_on)
        assert answers["files"] == ["step-000000004.safetensors", "step-000000006.safetensors"]


def test_each_process_goes_on_with_its_own_dropout(together):
    assert_same(together[0][0]["dropout"], together[0][0]["dropout again"])


def test_without_a_seed_the_first_process_decides(together):
    first, second = (answers["next number"] for answers in together[0])
    assert first == second


def test_the_first_process_alone_speaks(together):
    printed = together[1]
    assert printed.count("Computing in fp32") == 1
    assert printed.count("train_loss") == 1


def test_other_data_in_another_process_is_an_error_in_all(together):
    for answers in together[0]:
        assert "process 1 differs from process 0 in y" in answers["other labels"]


def test_other_weights_in_another_process_are_an_error_in_all(together):
    for answers in together[0]:
        assert "weights of process 1 are not those of process 0" in answers["other weights"]


def test_what_the_first_process_refuses_all_refuse(together):
    for answers in together[0]:
        assert "is of another fit" in answers["another fit"]


def test_ctrl_c_ends_the_program_for_the_processes_need_not_stand_at_the_same_step(together):
    assert all(answers["interrupted"] for answers in together[0])


def test_one_process_trains_as_usual(make_classifier, revisions):
    X, y = revisions
    one, other = (make_classifier(distributed=distributed).fit(X, y) for distributed in (False, True))
    assert np.array_equal(one.predict_proba(X), other.predict_proba(X))


def test_a_fitted_net_and_its_pickle_are_alone(make_classifier, revisions):
    classifier = pickle.loads(pickle.dumps(make_classifier(distributed=True).fit(*revisions)))
    assert classifier.net_.processes_ == ALONE


def test_a_state_of_accelerate_for_one_process_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sklearn_irt.distributed.PartialState", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(RuntimeError, match="2 processes were launched, but accelerate was set up before"):
        join_processes(True, "cpu")


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_the_device_of_another_process_is_refused(monkeypatch, device):
    state = SimpleNamespace(num_processes=2, process_index=1, device=torch.device("cuda", 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("sklearn_irt.distributed.PartialState", lambda cpu: state)
    monkeypatch.setattr("sklearn_irt.distributed.choose_device", torch.device)
    with pytest.raises(ValueError, match=f"device='{device}', but .* this process 'cuda:1'"):
        join_processes(True, device)
    assert join_processes(True, "cuda:1") == Processes(1, 2, "cuda")


def test_a_share_has_all_windows_of_its_texts():
    inputs = {"input_ids": torch.arange(6)[:, None], "n_windows": torch.tensor([1, 3, 2]), "weight": torch.ones(3)}
    share, labels = Processes(rank=0, n=2).share_of(inputs, torch.tensor([4, 5, 6]))
    assert share["input_ids"].ravel().tolist() == [0, 4, 5]
    assert labels.tolist() == [4, 6]
    assert share["weight"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert len(take_texts(inputs, slice(3, None, 4))["input_ids"]) == 0
