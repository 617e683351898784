"""Files and disks that cannot be used: refused in words that name culprit and cure, and nothing trained is lost."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, FunnelConfig, LlamaForSequenceClassification

from sklearn_irt.fingerprint import fingerprint
from sklearn_irt.known_answers import KnownAnswers
from sklearn_irt.states_store import between_fits

resource = pytest.importorskip("resource", reason="limits of processes are POSIX's")


def fit(classifier, X, y):
    return classifier.fit(X, y)


def writing(name, content):
    """Write something else into one file of a backbone."""

    def damage(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def removing(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def configuring(**values):
    def damage(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


def changing_weights(change):
    """Write other weights, made of the ones that are there."""

    def damage(folder):
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return damage


def cutting_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickling_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def keeping_configuration_of(config):
    def damage(folder):
        for file in folder.iterdir():
            file.unlink()
        config().save_pretrained(folder)

    return damage


def without_layer_1(weights):
    return {name: weight for name, weight in weights.items() if "layers.1." not in name}


def with_nan(weights):
    return {
        name: torch.full_like(weight, torch.nan) if "layers.1." in name else weight for name, weight in weights.items()
    }


AGAIN = "Fetch the files of its {} again".format
CONFIGURATION = "damaged' cannot be loaded: its configuration cannot be read"
TOKENIZER = "damaged' cannot be loaded: its tokenizer cannot be read"
WEIGHTS = "damaged' cannot be loaded: its weights cannot be read"
BEFORE_WEIGHTS = {
    "an empty folder": (
        removing("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("damaged' has no config.json", "Name a folder that save_pretrained wrote"),
    ),
    "no configuration": (removing("config.json"), "damaged' has no config.json", "Name a folder"),
    "a damaged configuration": (writing("config.json", "{not JSON"), CONFIGURATION, AGAIN("configuration")),
    "a configuration of nothing": (writing("config.json", "{}"), CONFIGURATION, AGAIN("configuration")),
    "a family that is unknown": (configuring(model_type="own"), f"{CONFIGURATION}.*`own`", AGAIN("configuration")),
    "a size in words": (configuring(hidden_size="wide"), f"{CONFIGURATION}.*'hidden_size'", AGAIN("configuration")),
    "no heads": (configuring(num_attention_heads=0), CONFIGURATION, AGAIN("configuration")),
    "a family without a head": (
        keeping_configuration_of(CLIPConfig),
        "damaged' is of the family 'clip'",
        "use another one",
    ),
    "a family without layers": (
        keeping_configuration_of(FunnelConfig),
        *("No stack of transformer layers was found in Funnel", "Use a backbone of another family"),
    ),
    "no tokenizer": (removing("tokenizer.json", "tokenizer_config.json"), TOKENIZER, AGAIN("tokenizer")),
    "a damaged tokenizer": (writing("tokenizer.json", "{not JSON"), TOKENIZER, AGAIN("tokenizer")),
    "another tokenizer": (writing("tokenizer.json", '{"version": "1.0"}'), TOKENIZER, AGAIN("tokenizer")),
}
OF_WEIGHTS = {
    "no weights": (removing("model.safetensors"), f"{WEIGHTS}.*model.safetensors", "Only safetensors and GGUF"),
    "truncated weights": (cutting_weights, f"{WEIGHTS}.*not fully covered", AGAIN("weights")),
    "weights of 0 bytes": (writing("model.safetensors", b""), WEIGHTS, AGAIN("weights")),
    "a pointer of git": (writing("model.safetensors", "version https://git-lfs.github.com"), WEIGHTS, AGAIN("weights")),
    "pickled weights": (
        pickling_weights,
        f"{WEIGHTS}.*model.safetensors",
        "backbone_options={'use_safetensors': False}",
    ),
    "a pickle of another name": (writing("model.safetensors", pickle.dumps({"a": 1})), WEIGHTS, AGAIN("weights")),
    "weights that are missing": (
        changing_weights(without_layer_1),
        r"damaged' is incomplete.*layers\.1",
        "Fetch it again",
    ),
    "weights of another size": (configuring(intermediate_size=64), "damaged' is incomplete.*mlp", "Fetch it again"),
    "weights that are NaN": (changing_weights(with_nan), "Llama.* computes NaN", "Fetch them again"),
}


def damaged(tiny_llama, tmp_path, damage):
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "damaged"))
    damage(folder)
    return folder


@pytest.mark.parametrize("name", BEFORE_WEIGHTS)
def test_a_damaged_backbone_is_refused_before_its_weights_are_read(check_refused, tiny_llama, tmp_path, name):
    damage, culprit, cure = BEFORE_WEIGHTS[name]
    check_refused(fit, ValueError, culprit, cure, backbone=damaged(tiny_llama, tmp_path, damage))


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_damaged_weights_are_refused_and_no_pickle_is_opened(check_refused, tiny_llama, tmp_path, name):
    damage, culprit, cure = OF_WEIGHTS[name]
    check_refused(fit, ValueError, culprit, cure, backbone=damaged(tiny_llama, tmp_path, damage), reads_weights=True)


def test_an_option_that_nobody_knows_is_refused(check_refused):
    parts = "unexpected keyword argument 'revison'", "Leave that out of backbone_options"
    check_refused(fit, ValueError, *parts, backbone_options={"revison": "main"}, reads_weights=True)


@pytest.mark.parametrize("name", ["smollm", "SmolLM2", "smollm2-135", "minilm", "MiniLM-L12"])
def test_a_misspelt_alias_is_named_at_once_without_a_look_at_the_hub(check_refused, name):
    check_refused(
        fit, ValueError, f"backbone='{name}' is no alias", "Did you mean '(smollm2-135m|minilm-l6)'", backbone=name
    )


@pytest.mark.parametrize(
    ("file", "content", "culprit", "cure"),
    [
        ("model.gguf", b"garbage" * 99, "model.gguf' cannot be loaded.*GGUF magic", AGAIN("weights")),
        ("model.gguf", b"", "model.gguf' cannot be loaded.*empty", AGAIN("weights")),
        ("model.gguf", b"GGUF\3\0\0\0" + bytes([5] + [0] * 7) * 2, "model.gguf' cannot be loaded", AGAIN("weights")),
        ("model.safetensors", b"", "model.safetensors' is no alias", "of a file, its folder"),
        (None, None, "nowhere' is no alias", "Give one of these"),
    ],
    ids=["garbage", "empty", "cut off", "weights alone", "nothing"],
)
def test_a_file_that_is_no_backbone_is_refused(check_refused, tmp_path, monkeypatch, file, content, culprit, cure):
    monkeypatch.setenv("SKLEARN_IRT_CACHE", str(tmp_path / "cache"))
    if file is not None:
        (tmp_path / file).write_bytes(content)
    check_refused(fit, ValueError, culprit, cure, backbone=tmp_path / (file or "nowhere"))


def test_a_folder_that_a_gguf_file_cannot_be_converted_in_is_named(check_refused, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("SKLEARN_IRT_CACHE", str(tmp_path / "file" / "cache"))
    check_refused(fit, OSError, "file/cache", "let .* SKLEARN_IRT_CACHE name another", backbone=tmp_path / "model.gguf")


def test_a_memory_that_cannot_be_written_is_named(check_refused, tmp_path):
    (tmp_path / "file").touch()
    memory = tmp_path / "file" / "memory"
    check_refused(
        fit, OSError, "memory='.*file/memory' cannot be written", "give another folder, or None", memory=memory
    )


@contextmanager
def largest_file(n_bytes):
    """Let no file grow beyond some bytes, as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_disk_without_room_for_the_prefix_states_is_named(check_refused, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fit_on_full_disk(classifier, X, y):
        with largest_file(100_000):
            classifier.fit(X, y)

    parts = f"prefix_cache='disk' needs .* in {tmp_path}", "free some, let TMPDIR name another folder, or use"
    check_refused(fit_on_full_disk, OSError, *parts, prefix_cache="disk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_bytes", [100, 2000])  # room for nothing, and for all but states
def test_a_memory_on_a_full_disk_costs_a_warning_and_no_number(make_classifier, unharmed, revisions, tmp_path, n_bytes):
    X, y = revisions
    between_fits.clear()
    classifier = make_classifier(memory=tmp_path)
    with largest_file(n_bytes), pytest.warns(Warning, match="Unable to cache to disk"):
        classifier.fit(X, y)
    assert np.array_equal(classifier.predict_proba(X), unharmed[1])


class TestReplacedWeights:
    """The file of a backbone is another than at the fit."""

    @pytest.fixture
    def folder(self, tiny_llama, tmp_path):
        return Path(shutil.copytree(tiny_llama, tmp_path / "backbone"))

    @pytest.fixture
    def other_weights(self, folder, tmp_path):
        weights = load_file(folder / "model.safetensors")
        weights["layers.3.mlp.up_proj.weight"] *= 1.01
        save_file(weights, tmp_path / "other", metadata={"format": "pt"})
        return tmp_path / "other"

    @pytest.fixture
    def fitted(self, make_classifier, revisions, folder):
        return make_classifier(backbone=folder).fit(*revisions)

    @staticmethod
    def predict_anew(classifier, X):
        classifier.net_.module_.known_answers = KnownAnswers()
        between_fits.clear()
        return classifier.predict_proba(X)

    def test_replaced_by_another_file_they_are_still_those_of_the_fit_in_this_process(
        self, fitted, revisions, folder, other_weights
    ):
        expected = fitted.predict_proba(revisions[0])
        os.replace(other_weights, folder / "model.safetensors")
        assert np.array_equal(self.predict_anew(fitted, revisions[0]), expected)

    @pytest.mark.parametrize("content", ["other weights", "a few bytes"])
    def test_written_over_they_are_refused_until_they_are_put_back(
        self, fitted, revisions, folder, other_weights, tmp_path, content
    ):
        expected = fitted.predict_proba(revisions[0])
        file = folder / "model.safetensors"
        shutil.copy(file, tmp_path / "kept")
        file.write_bytes(other_weights.read_bytes() if content == "other weights" else b"few")
        with pytest.raises(RuntimeError, match=r"model\.safetensors was written over .* put the old file back"):
            self.predict_anew(fitted, revisions[0])
        file.write_bytes((tmp_path / "kept").read_bytes())
        assert np.array_equal(self.predict_anew(fitted, revisions[0]), expected)

    def test_a_classifier_is_not_unpickled_onto_other_weights(self, fitted, revisions, folder, other_weights):
        stored = pickle.dumps(fitted)
        os.replace(other_weights, folder / "model.safetensors")
        with pytest.raises(
            ValueError, match=r"backbone' are not those .* trained on, .* put the files of that time back"
        ):
            pickle.loads(stored)

    def test_nor_in_a_new_process(self, fitted, folder, other_weights, tmp_path):
        joblib.dump(fitted, tmp_path / "fitted.joblib")
        os.replace(other_weights, folder / "model.safetensors")
        command = [sys.executable, "-c", f"import joblib; joblib.load({str(tmp_path / 'fitted.joblib')!r})"]
        process = subprocess.run(command, check=False, capture_output=True, text=True)
        assert process.returncode == 1
        assert "backbone' are not those that this classifier was trained on" in process.stderr

    def test_a_warm_start_does_not_go_on_from_other_weights(self, fitted, revisions, folder, other_weights):
        expected = fitted.predict_proba(revisions[0])
        os.replace(other_weights, folder / "model.safetensors")
        with pytest.raises(ValueError, match="backbone' are not those that this classifier was trained on"):
            fitted.set_params(warm_start=True).fit(*revisions)
        assert np.array_equal(self.predict_anew(fitted, revisions[0]), expected)

    def test_a_copy_of_them_in_other_files_of_another_time_is_accepted(self, fitted, revisions, folder):
        """As a backup, or a checkpoint that was written anew, has."""
        stored, expected = pickle.dumps(fitted), fitted.predict_proba(revisions[0])
        model = LlamaForSequenceClassification.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="50KB")
        assert len(list(folder.glob("*.safetensors"))) > 1
        assert np.array_equal(self.predict_anew(pickle.loads(stored), revisions[0]), expected)

    def test_a_file_that_was_merely_touched_is_accepted(self, fitted, revisions, folder):
        stored, expected = pickle.dumps(fitted), fitted.predict_proba(revisions[0])
        os.utime(folder / "model.safetensors", (1, 1))
        for classifier in (fitted, pickle.loads(stored)):
            assert np.array_equal(self.predict_anew(classifier, revisions[0]), expected)


@pytest.mark.parametrize("size", [1, 5, 65_536, 65_537, 1_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fingerprint_sees_the_ends_and_whatever_training_does(size, dtype):
    tensor = torch.linspace(1, 2, size).to(dtype)
    changes = {"first": tensor.clone(), "last": tensor.clone(), "all": tensor * 1.02, "reversed": tensor.flip(0)}
    changes["first"][0] += 1
    changes["last"][-1] += 1
    expected = fingerprint([tensor])
    assert fingerprint([tensor.clone()]) == expected
    assert all(fingerprint([changed]) != expected for changed in changes.values() if not torch.equal(changed, tensor))
    assert fingerprint([tensor, changes["all"]]) == fingerprint([changes["all"], tensor]) != expected


def test_a_text_of_megabytes_costs_seconds_and_odd_characters_nothing(unharmed, revisions):
    words = " ".join(" ".join(revisions[0][side]) for side in revisions[0])
    long = (words * 150)[:5_000_000]
    inserted = f"{long[:2_000_000]} inserted {long[2_000_000:]}"
    pairs = [(long, inserted), ("", long[:1_000_000]), (words[::-1], words), ("a\0b", "\u200fa"), ("a", "a")]
    start = time.process_time()
    with pytest.warns(UserWarning, match="2 of 5 texts had more than max_length=192 tokens"):
        probabilities = unharmed[0].predict_proba(pairs)
    assert time.process_time() - start < 60  # six seconds, but for other work of the machine
    assert np.isfinite(probabilities).all()
