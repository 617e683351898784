"""A saved classifier comes back as it was, or is refused in words, and no code is run from its folder."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Memory
from peft import LoraConfig, PeftModel
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig

from sklearn_irt import GradientNormSelection, IRTuningClassifier, RandomSelection, persistence, stored_folder
from sklearn_irt import backbone as backbone_module
from sklearn_irt.bottleneck import bottleneck_config
from sklearn_irt.plain_data import NotPlainError, from_plain, to_plain
from sklearn_irt.selection import FullSelection

pytestmark = pytest.mark.filterwarnings("ignore:.*more than max_length")


def arrow(before, after):
    return f"{before} => {after}"


class Lowest(FullSelection):
    """A strategy that sklearn_irt does not have."""

    def __init__(self, offset=0):
        self.offset = offset

    def select(self, step):
        self.asked_ = step
        return self.layers_[: 1 + self.offset]


class Opaque:
    """Something that only pickle can write."""


@pytest.fixture(scope="module")
def revisions(revisions):
    """Return 16 short pairs with their intentions."""
    X, y = revisions
    lengths = X.map(len)
    short = lengths.sum(axis=1)[lengths.min(axis=1) > 0].nsmallest(16).index
    return X.loc[short], y.loc[short]


@pytest.fixture(scope="module")
def fitted(make_classifier, revisions):
    return make_classifier(max_epochs=2, batch_size=4, learning_rate=0.01).fit(*revisions)


@pytest.fixture
def saved(fitted, tmp_path):
    """Return the folder of a saved classifier."""
    fitted.save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def offline(monkeypatch):
    """Let no connection be made."""

    def refuse(*args, **kwargs):
        raise AssertionError("went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def load_no_backbone(monkeypatch, forget_backbones):
    """Return a function after which it is an error to load weights."""

    def refuse(*args, **kwargs):
        raise AssertionError("the backbone was loaded")

    def from_now_on():
        forget_backbones()
        monkeypatch.setattr(backbone_module, "_load", refuse)

    return from_now_on


def saved_and_loaded(classifier, folder, **parameters) -> IRTuningClassifier:
    classifier.save(folder)
    return IRTuningClassifier.load(folder, **parameters)


def change_manifest(folder, **entries):
    """Change a manifest as someone would who wants to be believed."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, written in manifest["files"].items():
        content = (folder / name).read_bytes()
        written |= {"bytes": len(content), "sha256": stored_folder.digest(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest | entries))


class TestWhatComesBack:
    @pytest.mark.parametrize(
        ("family", "adapter"),
        [
            *(("llama", adapter) for adapter in ("lora", "dora", "ia3", "bottleneck", None)),
            ("gpt2", None),
            ("bert", None),
        ],
    )
    def test_predictions_are_equal_to_the_bit(self, make_classifier, backbones, revisions, tmp_path, family, adapter):
        X, y = revisions
        classifier = make_classifier(backbone=backbones[family], adapter=adapter).fit(X, y)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
        for name, tensor in classifier.net_.module_.state_dict().items():
            assert torch.equal(again.net_.module_.state_dict()[name], tensor), name

    def test_parameters_and_fitted_attributes_are_equal(self, fitted, saved):
        again = IRTuningClassifier.load(saved)
        assert again.get_params() == fitted.get_params()
        assert set(vars(again)) == set(vars(fitted))
        assert again.feature_names_in_.tolist() == ["before", "after"]
        assert again.history_ == fitted.history_ == again.net_.history
        assert type(again.history_) is type(fitted.history_)
        assert np.isinf(fitted.layer_scores_).any()
        arrays = ("classes_", "dropped_layers_", "candidate_layers_", "layer_scores_", "active_layers_")
        for name in (*arrays, "n_active_parameters_"):
            one, other = getattr(again, name), getattr(fitted, name)
            assert np.array_equal(one, other)
            assert one.dtype == other.dtype
        assert again.selection_.get_params() == fitted.selection_.get_params()
        assert np.array_equal(again.selection_.scores_, fitted.selection_.scores_, equal_nan=True)
        assert again.selection_.random_state_.randint(1000) == fitted.selection_.random_state_.randint(1000)

    @pytest.mark.parametrize(
        "labels",
        [
            np.array(["no", "yes"]),
            np.array(["no", "yes"], dtype=object),
            np.array([3, -7]),
            np.array([1, 2], dtype=np.uint8),
            np.array([1.0, 2.0]),
            np.array([1.0, 2.0], dtype=np.float32),
            np.array([False, True]),
        ],
        ids=lambda labels: str(labels.dtype),
    )
    def test_labels_of_any_kind_keep_it(self, make_classifier, revisions, tmp_path, labels):
        X = revisions[0]
        weight = dict.fromkeys(labels, 2.0)
        classifier = make_classifier(class_weight=weight).fit(X, labels[np.arange(16) % 2])
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert again.classes_.dtype == classifier.classes_.dtype
        assert again.classes_.tolist() == classifier.classes_.tolist()
        assert [type(key) for key in again.class_weight] == [type(key) for key in weight]
        assert again.class_weight == weight
        assert again.predict(X).tolist() == classifier.predict(X).tolist()

    def test_series_of_single_texts(self, make_classifier, revisions, tmp_path):
        X, y = revisions[0], ["a", "b"] * 8
        classifier = make_classifier(early_stopping=True, validation_fraction=0.25).fit(X["after"], y)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert again.n_features_in_ == 1
        assert np.array_equal(again.predict_proba(X["after"]), classifier.predict_proba(X["after"]))

    @pytest.mark.parametrize(
        "adapter",
        [
            LoraConfig(r=2, target_modules=["q_proj"], rank_pattern={"layers.3.self_attn.q_proj": 3}, bias="lora_only"),
            bottleneck_config(),
        ],
        ids=["lora", "bottleneck"],
    )
    def test_a_peft_configuration(self, make_classifier, revisions, tmp_path, adapter):
        X, y = revisions
        classifier = make_classifier(adapter=adapter).fit(X, y)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert type(again.adapter) is LoraConfig
        assert again.adapter.to_dict() == adapter.to_dict()
        assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
        again.set_params(warm_start=True).fit(X, y)  # which compares configurations

    @pytest.mark.parametrize("selection", ["ist", "half", "fisher", "budget", RandomSelection(n_trained=1)], ids=str)
    def test_the_strategy_with_what_it_found(self, make_classifier, revisions, tmp_path, selection):
        classifier = make_classifier(selection=selection).fit(*revisions)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert type(again.selection_) is type(classifier.selection_)
        assert set(vars(again.selection_)) == set(vars(classifier.selection_))
        assert repr(vars(again.selection_)["scores_"]) == repr(vars(classifier.selection_)["scores_"])

    def test_random_states_go_on_where_they_were(self, make_classifier, revisions, tmp_path):
        generator = np.random.RandomState(5)
        generator.randn()  # leaves half of a pair of normal numbers
        classifier = make_classifier(random_state=generator).fit(*revisions)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert again.random_state.randn() == generator.randn()
        assert again.random_state.randn() == generator.randn()

    def test_a_loaded_one_can_be_saved_pickled_fitted_and_started_from(self, fitted, revisions, saved, tmp_path):
        X, y = revisions
        again = saved_and_loaded(IRTuningClassifier.load(saved), tmp_path / "again")
        assert np.array_equal(pickle.loads(pickle.dumps(again)).predict_proba(X), fitted.predict_proba(X))
        first = again.set_params(warm_start=True).fit(X, y).history_[0]["train_loss"]
        assert first < fitted.history_[0]["train_loss"]
        fresh = again.set_params(warm_start=False).fit(X, y)
        assert fresh.history_[0]["train_loss"] == fitted.history_[0]["train_loss"]

    def test_predictions_are_equal_in_another_process_and_folder(self, fitted, revisions, saved, tmp_path):
        moved = saved.rename(tmp_path / "moved")
        revisions[0].to_json(tmp_path / "X.json")
        code = (
            "import sys, pandas, torch; torch.set_num_threads(1); from sklearn_irt import IRTuningClassifier;"
            "X = pandas.read_json(sys.argv[2]);"
            "print(IRTuningClassifier.load(sys.argv[1]).predict_proba(X).tobytes().hex())"
        )
        run = [sys.executable, "-c", code, str(moved), str(tmp_path / "X.json")]
        found = subprocess.run(run, cwd="/", env=environment(), capture_output=True, text=True, check=True).stdout
        assert found.strip() == fitted.predict_proba(revisions[0]).tobytes().hex()

    @pytest.mark.parametrize(("fit", "load"), [("fp32", "bf16"), ("bf16", "fp32")])
    def test_another_precision(self, make_classifier, revisions, tmp_path, fit, load):
        X, y = revisions
        classifier = make_classifier(precision=fit).fit(X, y)
        same = saved_and_loaded(classifier, tmp_path / "saved")
        assert same.precision_ == fit
        assert np.array_equal(same.predict_proba(X), classifier.predict_proba(X))
        other = IRTuningClassifier.load(tmp_path / "saved", precision=load)
        assert (other.precision, other.precision_) == (load, load)
        np.testing.assert_allclose(other.predict_proba(X), classifier.predict_proba(X), atol=0.05)
        assert not np.array_equal(other.predict_proba(X), classifier.predict_proba(X))

    def test_an_automatic_precision_stays_what_it_was_unless_asked_for(self, make_classifier, revisions, tmp_path):
        classifier = make_classifier(precision="bf16").fit(*revisions).set_params(precision="auto")
        assert saved_and_loaded(classifier, tmp_path / "saved").precision_ == "bf16"

    def test_what_was_stored_before_a_row_could_have_many_labels_has_one(self, fitted, revisions, saved):
        written = json.loads((saved / "classifier.json").read_text())
        del written["fitted"]["multilabel_"]
        (saved / "classifier.json").write_text(json.dumps(written))
        change_manifest(saved)
        unpickled, state = IRTuningClassifier(), fitted.__getstate__()
        del state["multilabel_"]
        unpickled.__setstate__(state)
        for again in (IRTuningClassifier.load(saved), unpickled):
            assert np.array_equal(again.predict_proba(revisions[0]), fitted.predict_proba(revisions[0]))
            assert again.multilabel_ is False


class TestWhatPeftOpens:
    @pytest.mark.parametrize("adapter", ["lora", "dora", "ia3"])
    @pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta"])
    def test_its_logits_are_the_same(
        self,
        make_classifier,
        save_tiny,
        backbones,
        revisions,
        tmp_path,
        exact_states,
        enlarge_what_was_learned,
        family,
        adapter,
    ):
        if family == "roberta":
            config = RobertaConfig(
                hidden_size=32, num_attention_heads=2, num_hidden_layers=4, intermediate_size=48, vocab_size=600,
                max_position_embeddings=258, pad_token_id=1,
            )  # fmt: skip
            backbones = {"roberta": save_tiny("roberta", config, encoder=True)}
        texts, y = revisions[0]["after"].tolist(), revisions[1]
        classifier = make_classifier(backbone=backbones[family], adapter=adapter).fit(texts, y)
        enlarge_what_was_learned(classifier)
        classifier.save(tmp_path / "saved")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # peft says what it does not find
            base = AutoModelForSequenceClassification.from_pretrained(
                backbones[family], num_labels=len(classifier.classes_)
            )
            model = PeftModel.from_pretrained(base, tmp_path / "saved").eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
        model.config.pad_token_id = tokenizer.pad_token_id
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
        expected = classifier.predict_proba(texts)
        assert np.ptp(expected) > 0.3
        np.testing.assert_allclose(torch.softmax(logits, dim=1).numpy(), expected, atol=1e-5)

    def test_layers_have_the_backbones_own_indices_where_some_were_dropped(self, make_classifier, revisions, tmp_path):
        adapter = LoraConfig(r=2, target_modules=["q_proj"], rank_pattern={"layers.2.self_attn.q_proj": 3})
        classifier = make_classifier(adapter=adapter, drop_layers=1, candidate_layers=[1, 2]).fit(*revisions)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert np.array_equal(again.predict_proba(revisions[0]), classifier.predict_proba(revisions[0]))
        left = [layer for layer in range(4) if layer not in classifier.dropped_layers_]
        config = json.loads((tmp_path / "saved/adapter_config.json").read_text())
        modules = [f"model.layers.{layer}.self_attn.q_proj" for layer in left[1:]]
        assert config["target_modules"] == modules
        assert config["rank_pattern"] == {modules[1]: 3}
        tensors = load_file(tmp_path / "saved/adapter_model.safetensors")
        assert tensors[f"base_model.model.{modules[1]}.lora_A.weight"].shape == (3, 32)
        assert {*tensors} == {
            "base_model.model.score.weight",
            *(f"base_model.model.{module}.lora_{matrix}.weight" for module in modules for matrix in "AB"),
        }

    @pytest.mark.parametrize("adapter", ["bottleneck", None])
    def test_what_peft_does_not_know_is_not_offered_to_it(self, make_classifier, revisions, tmp_path, adapter):
        make_classifier(adapter=adapter).fit(*revisions).save(tmp_path / "saved")
        names = {file.name for file in (tmp_path / "saved").iterdir()}
        assert "own_weights.safetensors" in names
        assert not names & {"adapter_config.json", "adapter_model.safetensors"}


class TestWhatAFileCannotHold:
    def test_an_own_pair_format_is_passed_again(self, make_classifier, revisions, tmp_path, load_no_backbone):
        classifier = make_classifier(pair_format=arrow).fit(*revisions)
        again = saved_and_loaded(classifier, tmp_path / "saved", pair_format=arrow)
        assert np.array_equal(again.predict_proba(revisions[0]), classifier.predict_proba(revisions[0]))
        load_no_backbone()
        with pytest.raises(ValueError, match=r"load\(..., pair_format=\) was .*arrow"):
            IRTuningClassifier.load(tmp_path / "saved")
        with pytest.raises(ValueError, match=r"was .*arrow when it was fitted, but is .*environment now"):
            IRTuningClassifier.load(tmp_path / "saved", pair_format=environment)

    def test_an_own_strategy_is_passed_again_and_gets_what_it_found(self, make_classifier, revisions, tmp_path):
        classifier = make_classifier(selection=Lowest(offset=1)).fit(*revisions)
        again = saved_and_loaded(classifier, tmp_path / "saved", selection=Lowest(offset=1))
        assert type(again.selection_) is Lowest
        assert (again.selection_.offset, again.selection_.asked_) == (1, classifier.selection_.asked_)
        assert np.array_equal(again.predict_proba(revisions[0]), classifier.predict_proba(revisions[0]))
        with pytest.raises(ValueError, match=r"selection=.* was an object of .*Lowest"):
            IRTuningClassifier.load(tmp_path / "saved")
        with pytest.raises(ValueError, match=r"but is an object of .*GradientNormSelection now"):
            IRTuningClassifier.load(tmp_path / "saved", selection=GradientNormSelection())

    def test_a_memory_is_passed_again_for_it_holds_pickles(self, make_classifier, revisions, tmp_path):
        memory = Memory(tmp_path / "states", verbose=0, compress=True)
        classifier = make_classifier(memory=memory).fit(*revisions)
        classifier.save(tmp_path / "saved")
        with pytest.raises(ValueError, match=r"load\(..., memory=\) was .*states"):
            IRTuningClassifier.load(tmp_path / "saved")
        assert IRTuningClassifier.load(tmp_path / "saved", memory=memory).memory is memory
        assert IRTuningClassifier.load(tmp_path / "saved", memory=None).memory is None

    def test_options_that_may_run_code_are_passed_again_and_a_token_is_not_written(
        self, make_classifier, revisions, tmp_path
    ):
        options = {"token": "hf_secret", "trust_remote_code": True, "revision": "main"}
        classifier = make_classifier(backbone_options=options).fit(*revisions)
        classifier.save(tmp_path / "saved")
        assert not any(b"hf_secret" in file.read_bytes() for file in (tmp_path / "saved").iterdir())
        with pytest.raises(ValueError, match=r"backbone_options=.* with trust_remote_code"):
            IRTuningClassifier.load(tmp_path / "saved")
        assert IRTuningClassifier.load(tmp_path / "saved", backbone_options=options).backbone_options == options

    def test_harmless_options_come_back_without_the_token(self, make_classifier, revisions, tmp_path):
        options = {"attn_implementation": "eager", "token": "hf_secret"}
        classifier = make_classifier(backbone_options=options).fit(*revisions)
        again = saved_and_loaded(classifier, tmp_path / "saved")
        assert again.backbone_options == {"attn_implementation": "eager"}
        assert np.array_equal(again.predict_proba(revisions[0]), classifier.predict_proba(revisions[0]))
        again.set_params(warm_start=True).fit(*revisions)  # which compares the options
        assert classifier.backbone_options == options

    def test_an_attribute_of_unknown_kind_is_left_out_with_a_warning(self, fitted, tmp_path):
        fitted.note_ = Opaque()
        try:
            with pytest.warns(UserWarning, match=r"attribute note_ is left out .* is an object of .*Opaque"):
                again = saved_and_loaded(fitted, tmp_path / "saved")
        finally:
            del fitted.note_
        assert not hasattr(again, "note_")


class TestRefusals:
    def test_unfitted(self, make_classifier, tmp_path):
        with pytest.raises(NotFittedError):
            make_classifier().save(tmp_path / "saved")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["adapter_model.safetensors", "classifier.json", "tokenizer.json"])
    def test_a_changed_file(self, saved, load_no_backbone, name):
        content = bytearray((saved / name).read_bytes())
        content[len(content) // 2] ^= 1
        (saved / name).write_bytes(content)
        load_no_backbone()
        with pytest.raises(ValueError, match=f"{name} was changed since it was saved: its content"):
            IRTuningClassifier.load(saved)

    def test_a_truncated_file(self, saved, load_no_backbone):
        content = (saved / "adapter_model.safetensors").read_bytes()
        (saved / "adapter_model.safetensors").write_bytes(content[:-100])
        load_no_backbone()
        with pytest.raises(ValueError, match=rf"{len(content) - 100} bytes instead of {len(content)}"):
            IRTuningClassifier.load(saved)
        change_manifest(saved)
        with pytest.raises(ValueError, match=r"adapter_model.safetensors is no safetensors file"):
            IRTuningClassifier.load(saved)

    def test_a_missing_file(self, saved, load_no_backbone):
        (saved / "arrays.safetensors").unlink()
        load_no_backbone()
        with pytest.raises(FileNotFoundError, match=r"missing.*arrays\.safetensors"):
            IRTuningClassifier.load(saved)

    def test_a_pickle_by_the_name_of_weights(self, saved, load_no_backbone):
        torch.save({"weights": Opaque()}, saved / "adapter_model.safetensors")
        change_manifest(saved)
        load_no_backbone()
        with pytest.raises(ValueError, match="A pickle, which can run code, is not read"):
            IRTuningClassifier.load(saved)

    @pytest.mark.parametrize(
        ("part", "entry"),
        [
            ("parameters", {"memory": "a folder of pickles"}),
            ("parameters", {"backbone_options": {"trust_remote_code": True}}),
            ("backbone", {"options": {"trust_remote_code": True}}),
            ("backbone", {"options": {"$dict": [["use_safetensors", False]]}}),
            ("fitted", {"memory": "a folder of pickles"}),
            ("fitted", {"predict": 1}),
        ],
    )
    def test_a_folder_that_asks_for_what_may_run_code(self, saved, load_no_backbone, part, entry):
        written = json.loads((saved / "classifier.json").read_text())
        written[part] |= entry
        (saved / "classifier.json").write_text(json.dumps(written))
        change_manifest(saved)
        load_no_backbone()
        with pytest.raises(ValueError, match="do not trust it"):
            IRTuningClassifier.load(saved)

    @pytest.mark.parametrize("part", ["own_selection", "fitted", "module", "parameters"])
    def test_a_folder_that_lacks_a_part(self, saved, part):
        written = json.loads((saved / "classifier.json").read_text())
        del written[part]
        (saved / "classifier.json").write_text(json.dumps(written))
        change_manifest(saved)
        with pytest.raises(ValueError, match=r"was not written by save\(\)"):
            IRTuningClassifier.load(saved)

    @pytest.mark.parametrize(
        "entry",
        [{"files": []}, {"format_version": "2"}, {"files": {"../elsewhere": {}}}, {"files": {"/etc/passwd": {}}}],
    )
    def test_a_manifest_that_makes_no_sense(self, saved, load_no_backbone, entry):
        manifest = json.loads((saved / "manifest.json").read_text())
        (saved / "manifest.json").write_text(json.dumps(manifest | entry))
        load_no_backbone()
        with pytest.raises(ValueError, match="holds no saved IRTuningClassifier"):
            IRTuningClassifier.load(saved)

    def test_a_folder_that_is_replaced_meanwhile(self, make_classifier, revisions, saved, monkeypatch):
        other = make_classifier(random_state=7).fit(*revisions)
        load = persistence.load_backbone

        def replace_first(*args, **kwargs):
            other.save(saved)
            return load(*args, **kwargs)

        monkeypatch.setattr(persistence, "load_backbone", replace_first)
        with pytest.raises(ValueError, match="saved anew while it was being loaded"):
            IRTuningClassifier.load(saved)

    def test_a_folder_with_a_file_of_the_users_is_not_replaced(self, make_classifier, revisions, saved):
        (saved / "notes.txt").write_text("mine")
        with pytest.raises(FileExistsError, match=r"notes\.txt was not written as saved IRTuningClassifier"):
            make_classifier().fit(*revisions).save(saved)
        assert (saved / "notes.txt").read_text() == "mine"
        assert IRTuningClassifier.load(saved)

    def test_no_folder_or_one_of_something_else(self, tmp_path, tiny_llama):
        with pytest.raises(FileNotFoundError, match=r"no such folder.*nowhere"):
            IRTuningClassifier.load(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="holds no saved IRTuningClassifier"):
            IRTuningClassifier.load(tiny_llama)

    def test_a_later_format_says_who_wrote_it(self, saved, load_no_backbone):
        change_manifest(saved, format_version=7, written_by="sklearn_irt 9.1")
        load_no_backbone()
        with pytest.raises(ValueError, match=r"written by sklearn_irt 9\.1 in format 7.*upgrade"):
            IRTuningClassifier.load(saved)

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_another_backbone_names_the_file_that_differs(self, saved, tiny_llama, tmp_path, load_no_backbone, name):
        other = shutil.copytree(tiny_llama, tmp_path / "other")
        load_no_backbone()
        (other / name).write_bytes((other / name).read_bytes() + b" ")
        with pytest.raises(ValueError, match=rf"other' is not the one .* it has another '{name}'"):
            IRTuningClassifier.load(saved, backbone=other)
        (other / name).unlink()
        if name != "config.json":
            with pytest.raises(ValueError, match=rf"it has no file '{name}'"):
                IRTuningClassifier.load(saved, backbone=other)

    def test_a_backbone_that_is_not_here(self, make_classifier, tiny_llama, revisions, tmp_path):
        place = shutil.copytree(tiny_llama, tmp_path / "place")
        classifier = make_classifier(backbone=place).fit(*revisions)
        classifier.save(tmp_path / "saved")
        shutil.rmtree(place)
        with pytest.raises(ValueError, match=r"'.*place' is not on this machine: pass load\(..., backbone=\)"):
            IRTuningClassifier.load(tmp_path / "saved")
        again = IRTuningClassifier.load(tmp_path / "saved", backbone=tiny_llama)
        assert again.backbone == tiny_llama
        assert np.array_equal(again.predict_proba(revisions[0]), classifier.predict_proba(revisions[0]))
        again.set_params(warm_start=True).fit(*revisions)  # which compares the backbones

    def test_a_backbone_that_was_changed_since_the_fit_is_not_taken_for_its_own(
        self, make_classifier, tiny_llama, revisions, tmp_path
    ):
        place = shutil.copytree(tiny_llama, tmp_path / "place")
        classifier = make_classifier(backbone=place).fit(*revisions)
        tensors = load_file(place / "model.safetensors")
        save_file({name: tensor * 2 for name, tensor in tensors.items()}, place / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="place' were changed since it was loaded"):
            classifier.save(tmp_path / "saved")

    @pytest.mark.parametrize("name", ["adapter", "pair_format", "max_length", "n_layers", "selection", "random_state"])
    def test_a_parameter_that_belongs_to_what_was_learned(self, saved, load_no_backbone, name):
        load_no_backbone()
        with pytest.raises(ValueError, match=rf"load\(\) takes no '{name}': it belongs to what was learned"):
            IRTuningClassifier.load(saved, **{name: None})

    def test_parameters_that_do_not_exist_or_are_wrong(self, saved, load_no_backbone):
        load_no_backbone()
        with pytest.raises(TypeError, match="no parameter 'presicion'"):
            IRTuningClassifier.load(saved, presicion="fp32")
        with pytest.raises(ValueError, match="The 'precision' parameter"):
            IRTuningClassifier.load(saved, precision="fp8")
        with pytest.raises(ValueError, match="device='nowhere' cannot be used"):
            IRTuningClassifier.load(saved, device="nowhere")

    def test_another_class(self, fitted, tmp_path):
        class Own(IRTuningClassifier):
            pass

        fitted.save(tmp_path / "saved")
        with pytest.raises(ValueError, match=r"saved by IRTuningClassifier: load it by IRTuningClassifier\.load"):
            Own.load(tmp_path / "saved")


class TestHubIds:
    COMMIT = "0123456789012345678901234567890123456789"

    @pytest.fixture
    def cache(self, tmp_path, tiny_llama):
        """Return a cache that holds the hub id "someone/tiny"."""
        entry = tmp_path / "cache/models--someone--tiny"
        shutil.copytree(tiny_llama, entry / "snapshots" / self.COMMIT)
        (entry / "refs").mkdir()
        (entry / "refs/main").write_text(self.COMMIT)
        return tmp_path / "cache"

    @pytest.fixture
    def fitted_on_it(self, make_classifier, revisions, cache):
        options = {"cache_dir": str(cache), "local_files_only": True}
        classifier = make_classifier(backbone="someone/tiny", backbone_options=options).fit(*revisions)
        return classifier.set_params(backbone_options={"cache_dir": str(cache)})

    def test_a_cached_one_is_loaded_without_going_online(
        self, fitted_on_it, revisions, cache, tmp_path, offline, forget_backbones
    ):
        fitted_on_it.save(tmp_path / "saved")
        expected = fitted_on_it.predict_proba(revisions[0])
        forget_backbones()
        again = IRTuningClassifier.load(tmp_path / "saved", backbone_options={"cache_dir": str(cache)})
        assert np.array_equal(again.predict_proba(revisions[0]), expected)
        assert np.array_equal(pickle.loads(pickle.dumps(again)).predict_proba(revisions[0]), expected)

    def test_the_commit_of_the_fit_is_loaded_whatever_came_after(
        self, fitted_on_it, revisions, cache, tmp_path, offline, forget_backbones
    ):
        fitted_on_it.save(tmp_path / "saved")
        expected = fitted_on_it.predict_proba(revisions[0])
        entry = cache / "models--someone--tiny"
        later = shutil.copytree(entry / "snapshots" / self.COMMIT, entry / "snapshots" / ("f" * 40))
        tensors = load_file(later / "model.safetensors")
        save_file({name: tensor * 2 for name, tensor in tensors.items()}, later / "model.safetensors", {"format": "pt"})
        (entry / "refs/main").write_text("f" * 40)
        forget_backbones()
        again = IRTuningClassifier.load(tmp_path / "saved", backbone_options={"cache_dir": str(cache)})
        assert np.array_equal(again.predict_proba(revisions[0]), expected)

    def test_one_that_is_neither_cached_nor_to_be_had_is_refused(self, fitted_on_it, tmp_path, monkeypatch):
        fitted_on_it.save(tmp_path / "saved")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="'someone/tiny' is not in the cache, and could not be fetched"):
            IRTuningClassifier.load(tmp_path / "saved", backbone_options={"cache_dir": str(tmp_path / "empty")})


class TestWholeOrNotAtAll:
    @pytest.fixture
    def other(self, make_classifier, revisions):
        return make_classifier(random_state=1).fit(*revisions)

    @pytest.mark.parametrize("moment", ["writing", "before it takes its place", "removing the old one", "in two steps"])
    def test_a_kill_at_any_moment_leaves_the_old_or_the_new_one(
        self, fitted, other, revisions, saved, monkeypatch, moment
    ):
        X = revisions[0][:10]
        process = multiprocessing.get_context("fork").Process(target=save_and_die, args=(other, saved, moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        expected = other if moment == "removing the old one" else fitted
        assert np.array_equal(IRTuningClassifier.load(saved).predict_proba(X), expected.predict_proba(X))
        monkeypatch.setattr(stored_folder, "_SECONDS_TO_LOCK", 0)
        other.save(saved)
        assert np.array_equal(IRTuningClassifier.load(saved).predict_proba(X), other.predict_proba(X))
        assert [file.name for file in saved.parent.iterdir()] == ["saved"]

    def test_where_folders_cannot_be_exchanged_the_old_one_is_replaced_all_the_same(
        self, other, saved, revisions, monkeypatch
    ):
        monkeypatch.setattr(stored_folder, "_exchange", lambda *folders: False)
        other.save(saved)
        X = revisions[0][:10]
        assert np.array_equal(IRTuningClassifier.load(saved).predict_proba(X), other.predict_proba(X))
        assert [file.name for file in saved.parent.iterdir()] == ["saved"]

    def test_a_full_disk_leaves_the_old_one_and_nothing_else(self, fitted, other, saved, revisions, monkeypatch):
        def full(tensors, file, *args):
            file.write_bytes(b"begun")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("sklearn_irt.learned_files.save_file", full)
        with pytest.raises(OSError, match=r"saved could not be written, and is as it was .*free some") as error:
            other.save(saved)
        assert error.value.errno == errno.ENOSPC
        X = revisions[0][:10]
        assert np.array_equal(IRTuningClassifier.load(saved).predict_proba(X), fitted.predict_proba(X))
        assert [file.name for file in saved.parent.iterdir()] == ["saved"]

    def test_a_disk_that_is_really_full(self, other, saved, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        try:
            with pytest.raises(OSError, match="free some disk space"):
                other.save(disk / "saved")
            assert list(disk.iterdir()) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_what_is_no_saved_classifier_is_left_alone(self, fitted, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        for target in (tmp_path, tmp_path / "notes.txt"):
            with pytest.raises(FileExistsError, match="left alone: choose another path"):
                fitted.save(target)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

    def test_an_empty_folder_and_folders_that_are_not_there_yet_will_do(self, fitted, tmp_path):
        (tmp_path / "empty").mkdir()
        for target in (tmp_path / "empty", tmp_path / "a/b/c"):
            fitted.save(target)
            IRTuningClassifier.load(str(target))

    def test_threads_that_save_to_one_place_leave_one_of_theirs(self, fitted, tmp_path):
        errors = []

        def save():
            try:
                fitted.save(tmp_path / "saved")
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=save) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        IRTuningClassifier.load(tmp_path / "saved")
        assert [file.name for file in tmp_path.iterdir()] == ["saved"]


class TestPlainData:
    @pytest.mark.parametrize(
        "value",
        [
            None, True, 7, 2**70, 0.1, -0.0, float("inf"), "ü", "broken \ud800", [1, [2]], (1, "a"), {"b"},
            range(2, 9, 3), {"a": {1: 2, "1": 3, (1, 2): None}}, {"$set": 1}, Path("a/b"),
            np.int8(3), np.float32(0.1), np.float64("nan"),
            np.longdouble("0.1"), np.str_("a"), np.bool_(True), np.datetime64("2024-05-01"), torch.device("cuda:1"),
            np.arange(6, dtype=">i4").reshape(2, 3).T, np.array(3.5), np.array([]), np.array([1 + 2j]),
            np.array([b"a", b"bc"]), np.array(["2024-05-01"], dtype="datetime64[ns]"), np.array(["a", "bc"]),
            np.array([["a"], [None]], dtype=object), np.array(["a", "b"], dtype=np.dtypes.StringDType()),
            np.array([0.1], dtype=np.longdouble), np.float16([1, np.nan]),
        ],
        ids=repr,
    )  # fmt: skip
    def test_values_come_back_equal_and_of_the_same_type(self, value, tmp_path):
        arrays = {}
        plain = json.loads(json.dumps(to_plain({"here": value}, "name", arrays), allow_nan=False))
        save_file(arrays, tmp_path / "arrays.safetensors")
        again = from_plain(plain, load_file(tmp_path / "arrays.safetensors"))["here"]
        assert type(again) is type(value)
        assert repr(again) == repr(value)
        assert getattr(again, "dtype", None) == getattr(value, "dtype", None)

    @pytest.mark.parametrize(
        "value",
        [Opaque(), arrow, [Opaque()], {"a": arrow}, np.array([Opaque()]), b"a"],
        ids=["object", "function", "in a list", "in a dict", "in an array", "bytes"],
    )
    def test_everything_else_is_refused(self, value):
        with pytest.raises(NotPlainError, match=r"name.* is (an object of )?\w+"):
            to_plain(value, "name", {})


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "OMP_NUM_THREADS": "1"}


def save_and_die(classifier, folder, moment):
    """Save, and be killed at some moment of it."""

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    def write_a_bit_and_die(tensors, file, *args):
        Path(file).write_bytes(b"begun")
        die()

    def rename_and_die_at_the_second(self, to, rename=Path.rename):
        return rename(self, to) if to.name.endswith(".previous") else die()

    if moment == "writing":
        persistence.save_file = write_a_bit_and_die
    elif moment == "before it takes its place":
        stored_folder._put_in_place = die
    elif moment == "removing the old one":
        shutil.rmtree = die
    else:
        stored_folder._exchange = lambda *folders: False
        Path.rename = rename_and_die_at_the_second
    classifier.save(folder)
