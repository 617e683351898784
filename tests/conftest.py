"""Tiny real backbones: built from a config, with a tokenizer trained on the spot, in a second."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sklearn_irt import IRTuningClassifier, load_sample_revisions
from sklearn_irt import backbone as backbone_module
from sklearn_irt.callbacks import SelectedLayers
from sklearn_irt.known_answers import KnownAnswers
from sklearn_irt.states_store import between_fits

SIZE = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 48}
VOCABULARY = 600
QUICK = {"max_epochs": 1, "batch_size": 16, "precision": "fp32", "device": "cpu", "random_state": 0}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny products are slower on more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def revisions():
    """Return 60 pairs of the sample corpus as a frame, with their intentions."""
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    return X[:60], y[:60]


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """Return the folders of tiny backbones by family."""
    root = tmp_path_factory.mktemp("backbones")
    configs = {
        "llama": LlamaConfig(**SIZE, vocab_size=VOCABULARY, num_key_value_heads=1, max_position_embeddings=256),
        "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_head=2, n_layer=4, n_positions=256),
        "bert": BertConfig(**SIZE, vocab_size=VOCABULARY, max_position_embeddings=256),
    }
    return {family: _save_tiny(root / family, config, encoder=family == "bert") for family, config in configs.items()}


@pytest.fixture(scope="session")
def save_tiny(tmp_path_factory):
    """Return a function that saves a tiny backbone of a family, once, and returns its folder."""
    root = tmp_path_factory.mktemp("tiny")

    def save(family, config, *, encoder=False) -> str:
        folder = root / family
        return str(folder) if folder.exists() else _save_tiny(folder, config, encoder=encoder)

    return save


@pytest.fixture(scope="session")
def tiny_llama(backbones):
    """Return the folder of the tiny Llama."""
    return backbones["llama"]


@pytest.fixture
def runs(monkeypatch):
    """Return a list that gets the index of each layer that runs."""
    layers = []
    forward = LlamaDecoderLayer.forward

    def counted(self, *args, **kwargs):
        layers.append(self.self_attn.layer_idx)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoderLayer, "forward", counted)
    return layers


@pytest.fixture
def interrupt_at(monkeypatch):
    """Return a function that makes Ctrl-C come at a training step."""
    begin = SelectedLayers.on_batch_begin

    def interrupt(step):
        def interrupted(self, net, **kwargs):
            if self.n_steps == step:
                raise KeyboardInterrupt
            begin(self, net, **kwargs)

        monkeypatch.setattr(SelectedLayers, "on_batch_begin", interrupted)

    return interrupt


@pytest.fixture
def forget_backbones():
    """Return a function after which the next fit loads its backbone anew."""
    return backbone_module.forget_backbones


@pytest.fixture
def exact_states(monkeypatch):
    """Keep prefix states in fp32, where other code is to compute the same without them."""
    monkeypatch.setattr("sklearn_irt.prefix.STORED_DTYPE", torch.float32)
    between_fits.clear()
    yield
    between_fits.clear()


@pytest.fixture(scope="session")
def enlarge_what_was_learned():
    """Return a function that gives a classifier's adapters and head an effect that cannot be overlooked."""

    def enlarge(classifier):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in classifier.net_.module_.learned_parameters.values():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)

    return enlarge


@pytest.fixture(scope="session")
def unharmed(make_classifier, revisions):
    """Return a fitted classifier, and what it predicts; no test may change either."""
    classifier = make_classifier().fit(*revisions)
    return classifier, classifier.predict_proba(revisions[0])


@pytest.fixture
def check_refused(unharmed, revisions, forget_backbones, monkeypatch):
    """Return a function that checks how a call with a fitted classifier is refused, and that it loses nothing."""
    classifier, expected = unharmed

    def check(call, error, *parts_of_message, reads_weights=False, **parameters):
        forget_backbones()
        usual, before = classifier.get_params(deep=False), {**vars(classifier), **parameters}
        with monkeypatch.context() as patched:
            if not reads_weights:
                patched.setattr(AutoModelForSequenceClassification, "from_pretrained", _fail_to_load)
            try:
                vars(classifier).update(parameters)
                start = time.process_time()
                with pytest.raises(error) as raised:
                    call(classifier, *revisions)
                assert time.process_time() - start < 5  # a tenth of a second, but for other work of the machine
                assert vars(classifier).keys() == before.keys()
                assert all(vars(classifier)[name] is value for name, value in before.items())
            finally:
                vars(classifier).update(usual)
        for part in parts_of_message:
            assert re.search(part, str(raised.value)), str(raised.value)
        classifier.net_.module_.known_answers = KnownAnswers()
        between_fits.clear()
        assert np.array_equal(classifier.predict_proba(revisions[0]), expected)

    return check


def _fail_to_load(*args, **kwargs):
    pytest.fail("weights were loaded")


@pytest.fixture(scope="session")
def make_classifier(tiny_llama):
    """Return a function that makes a classifier of a tiny Llama, quick to fit."""

    def make(**parameters) -> IRTuningClassifier:
        return IRTuningClassifier(**{"backbone": tiny_llama, **QUICK, **parameters})

    return make


def _save_tiny(folder: Path, config, *, encoder: bool) -> str:
    tokenizer = _train_tokenizer(VOCABULARY, encoder=encoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        _enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _enlarge(model) -> None:
    """Give random layers the effect on their input that trained ones have, so that exactness tests can see them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(5)


def _train_tokenizer(vocabulary: int, *, encoder: bool) -> PreTrainedTokenizerFast:
    pairs, _ = load_sample_revisions(return_X_y=True)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<unk>", "<pad>", "<eos>", "<cls>", "<sep>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        pairs.ravel(), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    if encoder:
        ends = [("<cls>", 3), ("<sep>", 4)]
        tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $A <sep>", special_tokens=ends)
    names = {
        "unk_token": "<unk>",
        "eos_token": "<eos>",
        **({"pad_token": "<pad>", "cls_token": "<cls>"} if encoder else {}),
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
