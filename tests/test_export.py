"""An exported classifier is a checkpoint like any other, and scores as the classifier does."""

import json
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig
from sklearn.exceptions import NotFittedError
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config, pipeline

from sklearn_irt import export
from sklearn_irt.layer_dropping import without_layers


@pytest.fixture(scope="module")
def revisions(revisions):
    """Return 12 pairs, a long one among them, with their intentions."""
    X, y = revisions
    both = X[X.map(len).min(axis=1) > 0]
    rows = both.map(len).sum(axis=1).sort_values().index[[*range(11), -1]]
    return X.loc[rows], y.loc[rows]


def scores_of(folder, texts, classes):
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    answers = classify(texts, top_k=None, truncation=True)
    scores = [{one["label"]: one["score"] for one in answer} for answer in answers]
    return np.array([[score[str(label)] for label in classes] for score in scores])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize(
    ("adapter", "layers"),
    [("lora", {}), *((adapter, {"n_layers": 3, "drop_layers": 1}) for adapter in ("lora", "dora", "ia3", None))],
    ids=str,
)
def test_a_pipeline_scores_pairs_as_the_classifier_does(
    make_classifier, backbones, revisions, tmp_path, exact_states, enlarge_what_was_learned, family, adapter, layers
):
    X, y = revisions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of texts that are cut
        classifier = make_classifier(backbone=backbones[family], adapter=adapter, **layers).fit(X, y)
        enlarge_what_was_learned(classifier)
        expected = classifier.predict_proba(X)
    classifier.export(tmp_path / "exported")
    assert np.ptp(expected) > 0.3
    found = scores_of(tmp_path / "exported", classifier.write_texts(X), classifier.classes_)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_pipeline_scores_single_texts_and_reads_special_tokens_in_them_as_text(
    make_classifier, tmp_path, exact_states, enlarge_what_was_learned
):
    texts = ["a <eos> b", "c d", "e <unk> <pad>", "f g h"]
    classifier = make_classifier(candidate_layers="all").fit(texts, [3, 1, 3, 1])
    enlarge_what_was_learned(classifier)
    classifier.export(tmp_path / "exported")
    assert classifier.write_texts(texts) == texts
    found = scores_of(tmp_path / "exported", texts, classifier.classes_)
    np.testing.assert_allclose(found, classifier.predict_proba(texts), atol=1e-4)


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(r=2, target_modules=["q_proj"], bias="lora_only", use_rslora=True),
        LoraConfig(r=2, target_modules=["up_proj"], rank_pattern={"layers.3.mlp.up_proj": 3}),
    ],
    ids=["biases", "ranks"],
)
def test_a_peft_configuration(make_classifier, revisions, tmp_path, exact_states, enlarge_what_was_learned, adapter):
    texts, y = revisions[0]["before"].tolist()[:11], revisions[1][:11]
    classifier = make_classifier(adapter=adapter).fit(texts, y)
    enlarge_what_was_learned(classifier)
    classifier.export(tmp_path / "exported")
    found = scores_of(tmp_path / "exported", texts, classifier.classes_)
    np.testing.assert_allclose(found, classifier.predict_proba(texts), atol=1e-4)


def test_the_configuration_is_that_of_the_layers_that_are_left(make_classifier, save_tiny, revisions, tmp_path):
    config = Qwen2Config(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=4, intermediate_size=48,
        vocab_size=640, max_position_embeddings=256, use_sliding_window=True, sliding_window=4,
        layer_types=["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    classifier = make_classifier(backbone=save_tiny("qwen2", config), n_layers=3, drop_layers=1)
    classifier.fit(revisions[0]["before"], revisions[1]).export(tmp_path / "exported")
    written = json.loads((tmp_path / "exported/config.json").read_text())
    left = [layer for layer in range(3) if layer not in classifier.dropped_layers_]
    assert written["num_hidden_layers"] == 2
    assert written["layer_types"] == [config.layer_types[layer] for layer in left]
    assert written["architectures"] == ["Qwen2ForSequenceClassification"]
    assert written["id2label"] == {str(index): label for index, label in enumerate(classifier.classes_)}
    assert written["label2id"] == {label: index for index, label in enumerate(classifier.classes_)}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert written["pad_token_id"] == tokenizer.pad_token_id
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("right", classifier.max_length)
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not any(report.values())
    assert model.dtype == torch.float32


def test_a_batch_of_padded_texts_has_the_same_scores(
    make_classifier, revisions, tmp_path, exact_states, enlarge_what_was_learned
):
    texts, y = revisions[0]["before"].tolist()[:11], revisions[1][:11]
    classifier = make_classifier().fit(texts, y)
    enlarge_what_was_learned(classifier)
    classifier.export(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(torch.softmax(logits, 1).numpy(), classifier.predict_proba(texts), atol=1e-4)


def test_what_was_learned_in_bf16_is_exported_in_fp32(make_classifier, revisions, tmp_path):
    texts, y = revisions[0]["before"].tolist()[:11], revisions[1][:11]
    classifier = make_classifier(precision="bf16", adapter="lora").fit(texts, y)
    classifier.export(tmp_path / "exported")
    found = scores_of(tmp_path / "exported", texts, classifier.classes_)
    np.testing.assert_allclose(found, classifier.predict_proba(texts), atol=0.02)


def test_exporting_changes_neither_the_classifier_nor_its_backbone(make_classifier, revisions, tmp_path):
    X, y = revisions[0]["before"], revisions[1]
    classifier = make_classifier().fit(X, y)
    backbone = classifier.net_.module_.backbone
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    n_labels, padding = backbone.model.config.num_labels, backbone.tokenizer.model_max_length
    classifier.export(tmp_path / "exported")
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.model.state_dict().items())
    assert (backbone.model.config.num_labels, backbone.tokenizer.model_max_length) == (n_labels, padding)
    again = make_classifier().fit(X, y)
    assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))


def test_it_can_be_the_backbone_of_another_classifier(make_classifier, revisions, tmp_path):
    X, y = revisions[0]["before"], revisions[1]
    make_classifier(n_layers=3).fit(X, y).export(tmp_path / "exported")
    assert make_classifier(backbone=tmp_path / "exported").fit(X, y).n_layers_ == 3


def test_texts_are_cut_as_predictions_cut_them(make_classifier, revisions, tmp_path):
    X, y = revisions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        classifier = make_classifier(max_length=64).fit(X, y)
        texts = classifier.write_texts(X)
        classifier.export(tmp_path / "exported")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
        ids = tokenizer(texts, truncation=True)["input_ids"]
        pairs, own = classifier._read_pairs(X, classifier), classifier.net_.module_.backbone.tokenizer
        tokenized = classifier._tokenize(pairs, own, classifier.classes_, user_frame=2)
        assert ids == [tokenized.token_ids[text] for text in tokenized.texts]


class TestRefusals:
    def test_unfitted(self, make_classifier, tmp_path):
        for call in (lambda: make_classifier().export(tmp_path / "x"), lambda: make_classifier().write_texts(["a"])):
            with pytest.raises(NotFittedError):
                call()

    def test_the_bottleneck_cannot_be_merged(self, make_classifier, revisions, tmp_path):
        classifier = make_classifier(adapter="bottleneck").fit(revisions[0]["before"], revisions[1])
        with pytest.raises(ValueError, match=r"adapter='bottleneck' cannot be exported.*Use save\(\)"):
            classifier.export(tmp_path / "exported")
        assert not list(tmp_path.iterdir())

    def test_a_checkpoint_that_computes_something_else_is_not_left(
        self, make_classifier, revisions, tmp_path, monkeypatch
    ):
        classifier = make_classifier(n_layers=2).fit(revisions[0]["before"], revisions[1])
        monkeypatch.setattr(export, "without_layers", lambda model, stack, dropped: without_layers(model, stack, []))
        with pytest.raises(ValueError, match="LlamaForSequenceClassification cannot be exported"):
            classifier.export(tmp_path / "exported")
        assert not list(tmp_path.iterdir())

    def test_a_saved_classifier_is_not_replaced_by_an_exported_one(self, make_classifier, revisions, tmp_path):
        classifier = make_classifier().fit(revisions[0]["before"], revisions[1])
        classifier.save(tmp_path / "saved")
        with pytest.raises(FileExistsError, match="not written as exported IRTuningClassifier"):
            classifier.export(tmp_path / "saved")
        classifier.export(tmp_path / "exported")
        classifier.export(tmp_path / "exported")


def test_windows_are_told_to_be_scored_otherwise(make_classifier, revisions, tmp_path):
    classifier = make_classifier(long_text="windows", max_length=24).fit(*revisions)
    with pytest.warns(UserWarning, match="reads one window"):
        classifier.export(tmp_path / "exported")
