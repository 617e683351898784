"""A pushed classifier is on the hub with a card that says what it is, and loads from there."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hub_stand_in import Hub
from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from joblib import Memory
from sklearn.exceptions import NotFittedError

from sklearn_irt import IRTuningClassifier


@contextmanager
def running(hub):
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@pytest.fixture
def hub():
    with running(Hub()) as hub:
        yield hub


@pytest.fixture(scope="module")
def texts(revisions):
    return revisions[0]["before"].tolist()[:20]


@pytest.fixture(scope="module")
def fitted(make_classifier, texts):
    return make_classifier(early_stopping=True, validation_fraction=0.2, n_layers=3, drop_layers=1).fit(
        texts, ["yes | or", "no"] * 10
    )


def loaded_from(hub, repo_id, folder, **parameters) -> IRTuningClassifier:
    return IRTuningClassifier.load(snapshot_download(repo_id, endpoint=hub.url, cache_dir=folder), **parameters)


def test_what_was_pushed_loads_and_predicts_the_same(hub, fitted, texts, tiny_llama, tmp_path):
    url = fitted.push_to_hub("me/pushed", token="hf_secret", private=True, endpoint=hub.url)
    assert url == f"{hub.url}/me/pushed/commit/{'c' * 40}"
    assert hub.visibility == {"me/pushed": "private"}
    assert hub.tokens == {"Bearer hf_secret"}
    again = loaded_from(hub, "me/pushed", tmp_path, backbone=tiny_llama)
    assert np.array_equal(again.predict_proba(texts), fitted.predict_proba(texts))


def test_files_that_the_hub_keeps_apart_arrive_as_well(fitted, texts, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with running(Hub(uses_lfs=True)) as hub:
        fitted.push_to_hub("me/pushed", token="hf_secret", endpoint=hub.url)
        assert len(hub.objects) == 2
        again = loaded_from(hub, "me/pushed", tmp_path, backbone=tiny_llama)
    assert np.array_equal(again.predict_proba(texts), fitted.predict_proba(texts))


def test_the_card_says_what_it_is(hub, fitted):
    fitted.push_to_hub("me/pushed", token="hf_secret", scores={"f1_macro": 0.625}, endpoint=hub.url)
    card = ModelCard(hub.repositories["me/pushed"]["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("sklearn-irt", "text-classification")
    best = min(fitted.history_, key=lambda epoch: epoch["valid_loss"])
    held_out = {"loss": best["valid_loss"], "accuracy": best["valid_acc"]}
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"f1_macro": 0.625, **held_out}
    share = fitted.active_layers_.mean(axis=0)[0]
    for line in (
        'clf = IRTuningClassifier.load(snapshot_download("me/pushed"), backbone=...)',
        "20 rows:",
        "| no | 10 |",
        "| yes \\| or | 10 |",
        "| f1_macro | given by the author | 0.625 |",
        f"| loss | held-out part of the training data | {best['valid_loss']:.4g} |",
        f"2 layers of the backbone run (layers {fitted.dropped_layers_[0]} were dropped).",
        f"| {fitted.candidate_layers_[0]} | {share:.0%} |",
        "`llama`",
    ):
        assert line in card.text, line


def test_neither_a_token_nor_a_folder_of_this_machine_is_passed_on(hub, make_classifier, texts, tiny_llama, tmp_path):
    memory = Memory(tmp_path / "states", verbose=0)
    options = {"token": "hf_other", "cache_dir": str(tmp_path / "cache")}
    classifier = make_classifier(memory=memory, backbone_options=options).fit(texts, ["a", "b"] * 10)
    classifier.push_to_hub("me/pushed", token="hf_secret", endpoint=hub.url)
    for name, content in hub.repositories["me/pushed"].items():
        for secret in (b"hf_secret", b"hf_other", str(tmp_path).encode(), tiny_llama.encode()):
            assert secret not in content, name
    assert classifier.memory is memory
    assert classifier.backbone_options is options
    with pytest.raises(ValueError, match=r"'llama' is not on this machine: pass load\(..., backbone=\)"):
        loaded_from(hub, "me/pushed", tmp_path / "downloads")


def test_what_an_earlier_one_had_is_gone(hub, fitted, make_classifier, texts, tmp_path, tiny_llama):
    fitted.push_to_hub("me/pushed", token="hf_secret", endpoint=hub.url)
    own = make_classifier(adapter=None).fit(texts, ["a", "b"] * 10)
    own.push_to_hub("pushed", token="hf_secret", endpoint=hub.url)
    assert "adapter_model.safetensors" not in hub.repositories["me/pushed"]
    again = loaded_from(hub, "me/pushed", tmp_path, backbone=tiny_llama)
    assert np.array_equal(again.predict_proba(texts), own.predict_proba(texts))


def test_nothing_is_uploaded_of_what_is_not_fitted_or_wrongly_scored(hub, fitted, make_classifier):
    with pytest.raises(NotFittedError):
        make_classifier().push_to_hub("me/pushed", endpoint=hub.url)
    for scores in ({"f1": float("nan")}, {"f1": "good"}, {1: 0.5}):
        with pytest.raises(ValueError, match="scores must map names of metrics to finite numbers"):
            fitted.push_to_hub("me/pushed", scores=scores, endpoint=hub.url)
    assert hub.repositories == {}


def test_a_refusal_is_passed_on(hub, fitted):
    hub.refuses_commits = True
    with pytest.raises(HfHubHTTPError, match="403"):
        fitted.push_to_hub("me/pushed", token="hf_secret", endpoint=hub.url)


def test_rows_are_counted_by_class(make_classifier, texts):
    y = ["b"] * 8 + ["a"] * 12
    assert make_classifier().fit(texts, y).class_count_.tolist() == [12, 8]
    assert make_classifier().fit(texts, y, sample_weight=[0, 0, *[1] * 18]).class_count_.tolist() == [12, 6]
