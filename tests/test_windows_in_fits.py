"""A fit on long documents: a text counts once, and answers with the mean of its windows."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig
from scipy.special import log_softmax, softmax
from sklearn.utils import compute_class_weight
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.utils.data import Subset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BartConfig

from sklearn_irt import FixedSelection, LayerSelection
from sklearn_irt.pairs import read_pairs
from sklearn_irt.predicting import predict_logits
from sklearn_irt.states_store import between_fits
from sklearn_irt.tokenization import tokenize_pairs
from sklearn_irt.trained_part import TrainedPart

LONG = " ".join(f"w{number}" for number in range(60))
WINDOWS = {"long_text": "windows", "max_length": 64}


@pytest.fixture(autouse=True)
def _nothing_known():
    between_fits.clear()


def save_bart(save_tiny):
    sizes = {f"{side}_{size}": n for side in ("encoder", "decoder") for size, n in [("layers", 2), ("ffn_dim", 48)]}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ends = {"pad_token_id": 1, "eos_token_id": 4, "bos_token_id": 3, "decoder_start_token_id": 4}
    config = BartConfig(vocab_size=600, d_model=32, max_position_embeddings=256, **sizes, **heads, **ends)
    return save_tiny("bart_for_windows", config, encoder=True)


@pytest.fixture(scope="module")
def texts_of_unequal_length():
    """Return 24 single texts of 1 to 7 windows or so, and labels."""
    random_state = np.random.RandomState(0)
    lengths = random_state.permutation(np.repeat([3, 20, 45, 100], 6))
    return [" ".join(f"w{n}" for n in random_state.randint(60, size=length)) for length in lengths], ["a", "b", "c"] * 8


def logits_by_hand(classifier, X):
    """Compute the windows of each text one by one, and their mean."""
    part = classifier.net_.module_
    pairs = classifier._read_pairs(X, classifier)
    tokenized = classifier._tokenize(pairs, part.backbone.tokenizer, classifier.classes_, user_frame=1)
    windows = [[tokenized.token_ids[window] for window in tokenized.windows[text]] for text in tokenized.texts]
    assert {len(text) for text in windows} == {1, 3, 6}
    return np.array([np.mean([predict_logits(part, [window])[0] for window in text], axis=0) for text in windows])


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "bart"])
def test_a_text_answers_with_the_mean_of_its_windows_fed_as_single_texts(
    make_classifier, backbones, save_tiny, texts_of_unequal_length, family
):
    backbone = save_bart(save_tiny) if family == "bart" else backbones[family]
    X, y = texts_of_unequal_length
    given = {"backbone": backbone, "candidate_layers": 1, "learning_rate": 0.01}
    classifier = make_classifier(**given, **WINDOWS).fit(X, y)
    expected = softmax(logits_by_hand(classifier, X), axis=1)
    np.testing.assert_allclose(classifier.predict_proba(X), expected, rtol=1e-5)
    assert len(np.unique(expected, axis=0)) == 24


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_where_no_text_is_too_long_both_ways_give_the_same_to_the_last_bit(
    make_classifier, backbones, revisions, family
):
    X, y = revisions
    tokenizer = AutoTokenizer.from_pretrained(backbones[family])
    short = tokenize_pairs(read_pairs(X), tokenizer, "inline-diff", [], 8, 256).lengths <= 192
    assert short.sum() > 40
    given = {"backbone": backbones[family], "max_epochs": 2, "early_stopping": True, "validation_fraction": 0.2}
    edit, windows = (
        make_classifier(**given, long_text=long_text).fit(X[short], y[short]) for long_text in ("edit", "windows")
    )
    assert np.array_equal(edit.predict_proba(X[short]), windows.predict_proba(X[short]))
    assert np.array_equal(edit.layer_scores_, windows.layer_scores_)
    for loss in ("train_loss", "valid_loss"):
        assert edit.history_[:, loss] == windows.history_[:, loss]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_row_has_the_same_probabilities_whatever_is_beside(
    make_classifier, backbones, texts_of_unequal_length, family
):
    X, y = texts_of_unequal_length
    classifier = make_classifier(backbone=backbones[family], learning_rate=0.01, **WINDOWS).fit(X, y)
    together = classifier.predict_proba(X)
    for rows in ([0], [1], [2], [5, 3], range(23, -1, -1), [4, 4]):
        between_fits.clear()
        fresh = pickle.loads(pickle.dumps(classifier))
        np.testing.assert_allclose(fresh.predict_proba([X[row] for row in rows]), together[rows], rtol=1e-6)


def write_twins(n_twins, seed):
    """Write pairs of which many words were edited and only the last edit says the class; twins differ in nothing else.

    The edits alone are too long, so that a cut around the edits leaves the last one out.
    """
    random_state = np.random.RandomState(seed)
    words = ["house", "man", "time", "work", "good", "people", "came", "there", "many"]
    X, y = [], []
    for _ in range(n_twins):
        before = random_state.choice(words, 12).tolist()
        after = ["new" if position % 4 == 0 else word for position, word in enumerate(before)]
        X += [(" ".join([*before, "end"]), " ".join([*after, last])) for last in ("xxx", "zzz")]
        y += ["xxx", "zzz"]
    return X, y


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.filterwarnings("ignore:.*max_length")
def test_windows_learn_what_a_cut_around_the_edits_leaves_out(make_classifier, backbones, family):
    (X, y), (X_held_out, y_held_out) = write_twins(40, 0), write_twins(40, 1)
    given = {"backbone": backbones[family], "candidate_layers": 3, "selection": "full", "learning_rate": 0.01}
    scores = {
        long_text: make_classifier(**given, max_epochs=10, max_length=96, long_text=long_text)
        .fit(X, y)
        .score(X_held_out, y_held_out)
        for long_text in ("edit", "windows")
    }
    assert scores["edit"] == 0.5
    assert scores["windows"] > 0.8


@pytest.mark.parametrize("batch_size", [1, 7, 24])
def test_each_text_weighs_as_it_is_told_in_the_loss_however_many_windows_it_has(
    make_classifier, texts_of_unequal_length, batch_size
):
    X, y = texts_of_unequal_length
    weights = np.linspace(0.5, 2, 24)
    given = {"batch_size": batch_size, "learning_rate": 1e-12, "class_weight": "balanced"}
    classifier = make_classifier(**given, **WINDOWS).fit(X, y, sample_weight=weights)
    by_class = compute_class_weight("balanced", classes=classifier.classes_, y=np.array(y), sample_weight=weights)
    labels = np.searchsorted(classifier.classes_, y)
    total = weights * by_class[labels]
    losses = -log_softmax(logits_by_hand(classifier, X), axis=1)[np.arange(24), labels]
    assert classifier.history_[0, "train_loss"] == pytest.approx((losses * total).sum() / total.sum(), rel=1e-5)


def test_early_stopping_judges_by_texts(make_classifier, texts_of_unequal_length, monkeypatch):
    X, y = texts_of_unequal_length
    held_out = []
    monkeypatch.setattr(
        "sklearn_irt.training.ValidSplit.__call__",
        lambda self, dataset, y, **kwargs: (dataset, held_out.append(dataset) or Subset(dataset, range(len(dataset)))),
    )
    given = {"early_stopping": True, "validation_fraction": 0.25, "learning_rate": 1e-12, "class_weight": None}
    classifier = make_classifier(**given, batch_size=7, **WINDOWS).fit(X, y)
    labels = np.searchsorted(classifier.classes_, y)
    losses = -log_softmax(logits_by_hand(classifier, X), axis=1)[np.arange(24), labels]
    assert len(held_out[0]) == 24
    assert classifier.history_[0, "valid_loss"] == pytest.approx(losses.mean(), rel=1e-5)


@pytest.fixture
def tokens_together(monkeypatch):
    """Return a list that gets, for each run of the trained part with gradients, how many tokens went through it."""
    runs = []
    forward = TrainedPart.forward

    def spy(self, states, input_ids, attention_mask):
        if torch.is_grad_enabled():
            runs.append(input_ids.numel())
        return forward(self, states, input_ids, attention_mask)

    monkeypatch.setattr(TrainedPart, "forward", spy)
    return runs


def test_a_text_of_many_windows_that_goes_in_parts_teaches_what_it_teaches_whole(
    make_classifier, texts_of_unequal_length, monkeypatch, tokens_together
):
    X, y = texts_of_unequal_length
    fits = {}
    for most in (10**6, 256, 130):
        monkeypatch.setattr("sklearn_irt.training._MOST_TOKENS_ON_A_CPU", most)
        tokens_together.clear()
        fits[most] = make_classifier(batch_size=8, **WINDOWS).fit(X, y, sample_weight=np.linspace(0.2, 3, 24))
        assert max(tokens_together) <= most
    whole = fits.pop(10**6)
    for parts in fits.values():
        assert parts.history_[0]["train_loss"] == pytest.approx(whole.history_[0]["train_loss"], rel=1e-4)
        np.testing.assert_allclose(parts.layer_scores_, whole.layer_scores_, rtol=1e-3)
        np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), atol=1e-3)


def test_random_state_makes_two_fits_equal_to_the_last_bit(make_classifier, backbones, texts_of_unequal_length):
    X, y = texts_of_unequal_length
    adapter = LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear")
    given = {"backbone": backbones["bert"], "adapter": adapter, "batch_size": 6, "max_epochs": 2}
    fits = [make_classifier(**given, **WINDOWS).fit(X, y) for _ in range(2)]
    assert np.array_equal(*(classifier.predict_proba(X) for classifier in fits))


class Asking(LayerSelection):
    """Train all candidates, and ask the probe before the first step."""

    def __sklearn_clone__(self):
        return self

    def select(self, step):
        if step == 0:
            probe = self.probe_
            self.before = copy.deepcopy(probe._net.module_.state_dict())
            self.dataset = probe._dataset
            self.gradients = probe.gradients(100)
            self.squares = probe.squared_gradients(100)
            self.similarities = probe.similarities(100)
            (self.loss,) = probe.losses([[]], 0.25, 100)
            self.accuracy, self.negative_loss = probe.score_after_training([3], 1, 0.25)
        return self.layers_


@pytest.fixture(params=[1024, 130], ids=["whole", "in parts"])
def asked(request, make_classifier, texts_of_unequal_length, tiny_llama, monkeypatch):
    """Return what a strategy was told of texts of several windows, and a plain model with the head it was told of."""
    monkeypatch.setattr("sklearn_irt.training._MOST_TOKENS_ON_A_CPU", request.param)
    X, y = texts_of_unequal_length
    asking = Asking()
    given = {"candidate_layers": [1, 3], "class_weight": None, "batch_size": 6, "selection": asking}
    make_classifier(**given, **WINDOWS).fit(X, y)
    plain = AutoModelForSequenceClassification.from_pretrained(
        tiny_llama, num_labels=3, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        plain.score.weight.copy_(asking.before["model.score.weight"])
    return asking, plain


def windows_of(asking):
    """Return the windows of each row as tensors."""
    texts = [asking.dataset.windows[text] for text in asking.dataset.texts]
    return [[torch.tensor([asking.dataset.states.token_ids[window]]) for window in text] for text in texts]


def losses_of(plain, asking):
    """Return the loss of each text, one by one."""
    logits = [torch.cat([plain(input_ids=ids).logits for ids in text]).mean(dim=0) for text in windows_of(asking)]
    return [cross_entropy(one, torch.tensor(label)) for one, label in zip(logits, asking.dataset.labels, strict=True)]


def gradients_of_up_projections(plain, loss, asking):
    """dL/dB = s dL/dW A^T, for y = (W + s B A) x and B = 0; then dL/dA is 0."""
    names = [
        f"model.layers.{layer}.{name.removesuffix('.weight')}"
        for layer in (1, 3)
        for name, _ in plain.model.layers[layer].named_parameters()
        if "proj" in name
    ]
    weights = [plain.get_submodule(name).weight for name in names]
    gradients = torch.autograd.grad(loss, weights, retain_graph=True)
    return {
        name: 2.0 * gradient @ asking.before[f"model.{name}.lora_A.default.weight"].T
        for name, gradient in zip(names, gradients, strict=True)
    }


def test_a_strategy_is_told_of_texts_not_of_windows(asked):
    asking, plain = asked
    losses = losses_of(plain, asking)
    mean = torch.stack(losses).mean()
    assert asking.loss == pytest.approx(mean.item(), rel=1e-4)
    assert asking.accuracy in {n / 6 for n in range(7)}
    assert 0 < -asking.negative_loss < 100
    for name, expected in gradients_of_up_projections(plain, mean, asking).items():
        layer, _, module = name.removeprefix("model.layers.").partition(".")
        found = torch.from_numpy(asking.gradients[int(layer)][f"{module}.lora_B.default.weight"])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
    squares = [
        {name: float(g.square().sum()) for name, g in gradients_of_up_projections(plain, loss, asking).items()}
        for loss in losses
    ]
    n_parameters = sum(gradient.size for gradient in asking.gradients[1].values())
    by_layer = [[sum(n for name, n in text.items() if f".{layer}." in name) for layer in (1, 3)] for text in squares]
    np.testing.assert_allclose(asking.squares, np.mean(by_layer, axis=0) / n_parameters, rtol=1e-2)


def test_similarities_are_the_mean_over_the_tokens_of_all_windows(asked):
    asking, plain = asked
    plain.model.norm = torch.nn.Identity()
    cosines = {1: [], 3: []}
    for ids in (window for text in windows_of(asking) for window in text):
        with torch.no_grad():
            states = plain(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in (1, 3):
            cosines[layer].append(cosine_similarity(states[layer][0], states[layer + 1][0], dim=-1))
    expected = [torch.cat(cosines[layer]).mean() for layer in (1, 3)]
    np.testing.assert_allclose(asking.similarities, expected, atol=1e-3)


@pytest.mark.parametrize("prefix_cache", ["memory", "disk"])
def test_layers_below_a_held_selection_join_the_prefix_of_every_window(
    make_classifier, texts_of_unequal_length, monkeypatch, prefix_cache
):
    X, y = texts_of_unequal_length
    given = {"candidate_layers": "all", "selection": FixedSelection([3]), "prefix_cache": prefix_cache}
    grown = make_classifier(**given, **WINDOWS).fit(X, y).predict_proba(X)
    monkeypatch.setattr(FixedSelection, "lowest", lambda self, step: 0)
    between_fits.clear()
    np.testing.assert_allclose(make_classifier(**given, **WINDOWS).fit(X, y).predict_proba(X), grown, atol=2e-2)


@pytest.mark.parametrize(
    "parameters",
    [{"drop_layers": 1}, {"selection": "ir-fast"}, {"adapter": None, "selection": "sparse", "learning_rate": 1e-3}],
    ids=["drop_layers", "ir-fast", "sparse"],
)
def test_it_goes_with_what_else_there_is(make_classifier, texts_of_unequal_length, parameters, tmp_path):
    X, y = texts_of_unequal_length
    given = {"candidate_layers": 2, "memory": tmp_path, "batch_size": 2, **parameters, **WINDOWS}
    classifier = make_classifier(**given).fit(X, y)
    probabilities = classifier.predict_proba(X)
    np.testing.assert_allclose(probabilities, softmax(logits_by_hand(classifier, X), axis=1), rtol=1e-5)
    between_fits.clear()  # the next fit finds the states of all windows in the folder
    assert np.array_equal(make_classifier(**given).fit(X, y).predict_proba(X), probabilities)


def test_nothing_stale_is_answered_where_long_texts_are_treated_in_another_way(
    make_classifier, texts_of_unequal_length
):
    X, y = texts_of_unequal_length
    classifier = make_classifier(learning_rate=0.01, **WINDOWS).fit(X, y)
    windows = classifier.predict_proba(X)
    with pytest.warns(UserWarning, match="texts had more than max_length"):
        edit = classifier.set_params(long_text="edit").predict_proba(X)
    is_short = np.array([len(text.split()) <= 20 for text in X])
    assert np.array_equal(is_short, np.isclose(edit, windows, rtol=1e-5).all(axis=1))
    assert np.array_equal(classifier.set_params(long_text="windows").predict_proba(X), windows)


def test_nothing_is_cut_so_nothing_warns_and_verbose_counts_windows(make_classifier, texts_of_unequal_length, capsys):
    X, y = texts_of_unequal_length
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classifier = make_classifier(verbose=1, **WINDOWS).fit(X, y)
    pairs = read_pairs(X)
    tokenizer = classifier.net_.module_.backbone.tokenizer
    n_windows = tokenize_pairs(pairs, tokenizer, "inline-diff", [], 8, 64, "windows").n_windows
    is_long = n_windows > 1
    assert is_long.sum() == 12
    said = f"12 of 24 texts have more than max_length=64 tokens and became {n_windows[is_long].sum()} windows."
    assert said in capsys.readouterr().out


def test_a_callable_format_is_called_once_a_pair(make_classifier):
    calls = []

    def join(before, after):
        calls.append(after)
        return f"{before} => {after}"

    X = [(LONG, f"{LONG} {end}") for end in range(8)]
    classifier = make_classifier(pair_format=join, **WINDOWS)
    classifier.fit(X, ["a", "b"] * 4)
    assert sorted(calls) == sorted(after for _, after in X)


def test_another_word_than_edit_or_windows_is_refused(make_classifier):
    with pytest.raises(ValueError, match="The 'long_text' parameter of IRTuningClassifier must be"):
        make_classifier(backbone="/nowhere", long_text="cut").fit(["a", "b"], [0, 1])
