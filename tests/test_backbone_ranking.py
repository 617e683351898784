"""Backbones are ranked by the score of their states; they are checked before any is loaded, and forgotten after."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from transformers import AutoModelForSequenceClassification

from sklearn_irt import BackboneFeatures, rank_backbones
from sklearn_irt import backbone as backbone_module
from sklearn_irt.pooled_states import rows_between_calls
from sklearn_irt.states_store import between_fits
from sklearn_irt.transferability import SCORES

QUICK = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def revisions(revisions):
    """Return 24 short pairs."""
    X, y = revisions
    short = X["after"].str.len().between(1, 90) & (X["before"].str.len() <= 90)
    return X[short][:24], y[short][:24]


@pytest.fixture
def nothing_known():
    """Forget the states that other tests left."""
    between_fits.clear()
    rows_between_calls.clear()


@pytest.fixture
def weights_unread(monkeypatch):
    """Let a test fail that reads weights."""
    monkeypatch.setattr(
        AutoModelForSequenceClassification, "from_pretrained", lambda *args, **kwargs: pytest.fail("weights were read")
    )


@pytest.mark.parametrize("score", sorted(SCORES))
def test_each_layer_of_each_backbone_is_scored_and_the_best_comes_first(backbones, revisions, score):
    X, y = revisions
    labels = np.unique(y, return_inverse=True)[1]
    folders = [backbones["llama"], backbones["bert"]]
    ranking = rank_backbones(X, y, folders, score=score, layers=[1, 0.5, 1.0, 0.49], **QUICK)
    expected = {
        (folder, layer): SCORES[score](BackboneFeatures(folder, layers=layer, **QUICK).fit_transform(X), labels)
        for folder in folders
        for layer in (1, 2, 4)
    }
    assert sorted(zip(ranking.backbone, ranking.layer, strict=True)) == sorted(expected)
    assert ranking.score.is_monotonic_decreasing
    rows = zip(ranking.backbone, ranking.layer, strict=True)
    # Above the lowest layer, states are computed from rounded ones.
    np.testing.assert_allclose(ranking.score, [expected[row] for row in rows], rtol=0.01)


def test_the_ranking_is_a_frame_with_the_size_and_seconds_of_each_backbone(backbones, revisions):
    ranking = rank_backbones(*revisions, list(backbones.values()), **QUICK)
    assert ranking.columns.tolist() == ["backbone", "layer", "score", "n_layers", "n_parameters", "seconds"]
    assert ranking.index.tolist() == [0, 1, 2]
    assert sorted(ranking.backbone) == sorted(backbones.values())
    assert ranking.layer.tolist() == [2, 2, 2]
    assert ranking.n_layers.tolist() == [4, 4, 4]
    assert (ranking.seconds > 0).all()
    for folder, n_parameters in zip(ranking.backbone, ranking.n_parameters, strict=True):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert n_parameters == model.num_parameters()


@pytest.mark.usefixtures("nothing_known")
def test_neither_the_order_of_backbones_nor_what_ran_before_changes_the_scores(backbones, revisions):
    folders = list(backbones.values())
    first = rank_backbones(*revisions, folders, **QUICK)
    again = rank_backbones(*revisions, folders[::-1], **QUICK)
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), again.drop(columns="seconds"))


def test_single_texts_labels_of_any_kind_and_outputs_as_frames_are_taken(tiny_llama, revisions):
    X, y = revisions
    texts, numbers = X["after"].tolist(), pd.factorize(y, sort=True)[0]
    plain = rank_backbones(texts, y, [tiny_llama], **QUICK)
    with config_context(transform_output="pandas"):
        in_frames = rank_backbones(texts, numbers, [tiny_llama], **QUICK)
    assert plain.score[0] == in_frames.score[0]


def test_parameters_of_the_features_reach_them(tiny_llama, revisions):
    X, y = revisions
    labels = np.unique(y, return_inverse=True)[1]
    parameters = {"layers": [2], "pooling": "max", "pair_format": "before-after", **QUICK}
    features = BackboneFeatures(tiny_llama, **parameters).fit_transform(X)
    ranking = rank_backbones(X, y, [tiny_llama], **parameters)
    assert ranking.score[0] == SCORES["logme"](features, labels)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"score": "leep"}, ValueError, "score.*logme"),
        ({"layers": 5}, ValueError, "layers names 5"),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": True}, (TypeError, ValueError), "layers"),
        ({"max_length": 1000}, ValueError, "max_length=1000.*256"),
        ({"max_length": "192"}, ValueError, "max_length"),
        ({"pooling": "middle"}, ValueError, "pooling"),
        ({"poling": "last"}, TypeError, "poling"),
        ({"y": None}, ValueError, "y is None"),
        ({"y": ["clarity"] * 24}, ValueError, "one class only"),
        ({"y": ["clarity", "style"]}, ValueError, "24 rows, but y has 2"),
        ({"y": np.eye(24, 3, dtype=int)}, ValueError, "several columns.*each column by itself"),
        ({"X": [("a", "b"), ("", "")] * 12}, ValueError, "Row 1"),
        ({"backbones": []}, ValueError, "backbones is empty"),
        ({"backbones": "smollm2-135m"}, TypeError, "must be a list"),
        ({"backbones": ["minilm-l6", "minilm-l6"]}, ValueError, "'minilm-l6' more than once"),
        ({"backbones": [7]}, TypeError, "int"),
        ({"backbones": ["smolm2-135m"]}, ValueError, "smolm2-135m.*Did you mean"),
    ],
)
@pytest.mark.usefixtures("weights_unread")
def test_what_cannot_be_ranked_is_refused_before_weights_are_read(
    tiny_llama, revisions, forget_backbones, parameters, error, message
):
    forget_backbones()
    X, y = revisions
    arguments = {"X": X, "y": y, "backbones": [tiny_llama], **QUICK, **parameters}
    with pytest.raises(error, match=f"(?i){message}"):
        rank_backbones(**arguments)


@pytest.mark.usefixtures("weights_unread")
def test_a_backbone_that_is_not_there_is_named_before_those_ahead_of_it_are_loaded(
    tiny_llama, revisions, forget_backbones, tmp_path
):
    forget_backbones()
    with pytest.raises(ValueError, match=r"no config\.json") as caught:
        rank_backbones(*revisions, [tiny_llama, tmp_path], **QUICK)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.usefixtures("nothing_known")
def test_an_error_amidst_names_the_backbone_and_loses_nothing(backbones, revisions, monkeypatch, runs):
    def fail(*args):
        raise MemoryError

    names = [backbones["llama"], backbones["gpt2"]]
    load = backbone_module._load
    with monkeypatch.context() as patched:
        patched.setattr(backbone_module, "_load", lambda *args: fail() if "gpt2" in args[0] else load(*args))
        with pytest.raises(MemoryError) as caught:
            rank_backbones(*revisions, names, **QUICK)
    assert caught.value.__notes__ == [f"This happened while backbone={names[1]!r} was ranked."]
    assert len(runs) > 10
    runs.clear()
    rank_backbones(*revisions, names, **QUICK)
    assert len(runs) <= 5  # which loading tries


def test_one_backbone_is_in_memory_at_a_time_and_none_afterwards(backbones, revisions, monkeypatch, forget_backbones):
    forget_backbones()
    n_loaded, load = [], backbone_module._load

    def counted(*args):
        n_loaded.append(len(backbone_module._loaded))
        return load(*args)

    monkeypatch.setattr(backbone_module, "_load", counted)
    rank_backbones(*revisions, list(backbones.values()), **QUICK)
    assert n_loaded == [0, 0, 0]
    assert len(backbone_module._loaded) == 0


def test_a_backbone_that_an_estimator_has_is_shared_and_stays(backbones, revisions, monkeypatch, forget_backbones):
    forget_backbones()
    features = BackboneFeatures(backbones["llama"], **QUICK).fit(revisions[0])
    loaded, load = [], backbone_module._load
    monkeypatch.setattr(backbone_module, "_load", lambda *args: loaded.append(args[0]) or load(*args))
    rank_backbones(*revisions, [backbones["llama"], backbones["gpt2"]], **QUICK)
    assert loaded == [backbones["gpt2"]]
    assert list(backbone_module._loaded.values()) == [features._backbone]


def test_seconds_leave_loading_out(tiny_llama, revisions, monkeypatch, forget_backbones):
    forget_backbones()
    now, load, transform = [0.0], backbone_module._load, BackboneFeatures.transform

    def taking(seconds, function):
        def slow(*args):
            now[0] += seconds
            return function(*args)

        return slow

    monkeypatch.setattr("sklearn_irt.backbone_ranking.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(backbone_module, "_load", taking(100.0, load))
    monkeypatch.setattr(BackboneFeatures, "transform", taking(7.0, transform))
    assert rank_backbones(*revisions, [tiny_llama], **QUICK).seconds[0] == 7
    assert now == [107.0]


def test_long_texts_are_warned_of_once_a_backbone(backbones, revisions):
    folders = [backbones["llama"], backbones["gpt2"]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rank_backbones(*revisions, folders, max_length=16, **QUICK)
    assert sum("max_length=16" in str(warning.message) for warning in caught) == 2


def test_verbose_shows_a_bar_with_the_name_of_the_backbone(tiny_llama, revisions, capsys):
    rank_backbones(*revisions, [tiny_llama], **QUICK)
    assert capsys.readouterr() == ("", "")
    rank_backbones(*revisions, [tiny_llama], verbose=1, **QUICK)
    shown = capsys.readouterr().err
    assert "Backbones: 100%" in shown
    assert tiny_llama in shown
