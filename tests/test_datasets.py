import json
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import cross_val_score

from sklearn_irt import fetch_iterater, load_sample_revisions, make_edit_baseline

INTENTIONS = ["clarity", "coherence", "fluency", "meaning-changed", "style"]
ITERATER = Path(__file__).parents[2] / "shared" / "data" / "iterater"
needs_iterater = pytest.mark.skipif(not ITERATER.is_dir(), reason=f"the ITERATER corpus is not in {ITERATER}")
LINES = [
    {"before_sent": "He go.", "after_sent": "He goes.", "labels": "fluency", "doc_id": "d1", "revision_depth": "1"},
    {"before_sent": "x", "after_sent": "y", "labels": "others", "doc_id": "d1", "revision_depth": "1"},
    {"before_sent": "", "after_sent": "Añadido\u2028here.", "labels": "clarity", "doc_id": "d2", "revision_depth": "2"},
]
PAIRS = [["He go.", "He goes."], ["", "Añadido\u2028here."]]


def write_lines(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in LINES)
    file.write_text(text + "\n\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Return a folder that holds two pairs and one of `others` as dev.jsonl."""
    write_lines(tmp_path / "dev.jsonl")
    return tmp_path


@pytest.fixture(scope="module")
def sample():
    return load_sample_revisions()


def test_the_sample_has_400_pairs_80_of_each_intention(sample):
    assert sample.data.shape == (400, 2)
    assert Counter(sample.target) == dict.fromkeys(INTENTIONS, 80)


def test_the_sample_is_described_as_scikit_learn_datasets_are(sample):
    assert sample.feature_names == ["before", "after"]
    assert sample.target_names == INTENTIONS
    assert sample.frame is None
    assert sample.field.shape == (400,)
    assert "no research data" in sample.DESCR


def test_the_sample_is_object_arrays_of_strings_by_default(sample):
    assert sample.data.dtype == sample.target.dtype == object
    assert {type(text) for text in [*sample.data.ravel(), *sample.target]} == {str}


def test_the_sample_as_frame_holds_the_same_texts(sample):
    bunch = load_sample_revisions(as_frame=True)
    assert isinstance(bunch.data, pd.DataFrame)
    assert isinstance(bunch.target, pd.Series)
    assert bunch.data.columns.tolist() == ["before", "after"]
    assert bunch.frame.columns.tolist() == ["before", "after", "intention"]
    assert bunch.data.to_numpy().tolist() == sample.data.tolist()
    assert bunch.target.tolist() == bunch.frame["intention"].tolist() == sample.target.tolist()


@pytest.mark.parametrize("as_frame", [False, True])
def test_the_sample_as_a_tuple_is_data_and_target(as_frame):
    X, y = load_sample_revisions(return_X_y=True, as_frame=as_frame)
    bunch = load_sample_revisions(as_frame=as_frame)
    assert type(X) is type(bunch.data)
    assert np.array_equal(X, bunch.data)
    assert np.array_equal(y, bunch.target)


def test_no_text_of_the_sample_occurs_twice(sample):
    counts = Counter(text for text in sample.data.ravel() if text)
    assert [text for text, count in counts.items() if count > 1] == []


def test_every_pair_of_the_sample_was_edited_and_has_a_text(sample):
    assert all(before.strip() != after.strip() for before, after in sample.data)


@pytest.mark.parametrize("side", [0, 1], ids=["before", "after"])
def test_no_two_pairs_of_the_sample_are_nearly_the_same(sample, side):
    texts = sample.data[:, side]
    # Texts that share 80 % of their letters in order share most of their triples of letters: the slow ratio is
    # computed for such candidates only.
    triples = CountVectorizer(analyzer="char", ngram_range=(3, 3)).fit_transform(texts)
    candidates = np.argwhere(np.triu(cosine_similarity(triples), 1) > 0.5)
    ratios = {(i, j): SequenceMatcher(None, texts[i], texts[j], autojunk=False).ratio() for i, j in candidates}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio > 0.8} == {}


def test_the_sample_is_neither_trivial_nor_hopeless_for_the_classical_rival(sample):
    scores = cross_val_score(make_edit_baseline(random_state=0), sample.data, sample.target, cv=5, scoring="f1_macro")
    assert 0.4 < scores.mean() < 0.75


def test_a_loaded_bunch_shares_nothing_that_a_user_may_change():
    first, second = load_sample_revisions(), load_sample_revisions()
    assert not np.shares_memory(first.data, second.data)
    assert first.feature_names is not second.feature_names


def test_iterater_is_read_from_json_lines_without_others(folder):
    bunch = fetch_iterater("dev", data_home=folder)
    assert bunch.data.tolist() == PAIRS
    assert bunch.target.tolist() == ["fluency", "clarity"]
    assert bunch.document.tolist() == ["d1", "d2"]
    assert bunch.target_names == ["clarity", "fluency"]
    assert bunch.feature_names == ["before", "after"]
    assert bunch.frame is None
    assert "ITERATER" in bunch.DESCR


def test_iterater_as_frame_and_tuple_holds_the_same_texts(folder):
    X, y = fetch_iterater("dev", data_home=str(folder), return_X_y=True, as_frame=True)
    assert isinstance(X, pd.DataFrame)
    assert X.columns.tolist() == ["before", "after"]
    assert X.to_numpy().tolist() == PAIRS
    assert isinstance(y, pd.Series)
    assert y.tolist() == ["fluency", "clarity"]


def test_iterater_is_looked_for_in_the_data_home_of_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    write_lines(tmp_path / "iterater" / "train.jsonl")
    assert fetch_iterater().data.tolist() == PAIRS


@pytest.mark.parametrize("subset", ["train", "test"])
def test_a_data_home_without_the_file_is_an_error_that_names_both(folder, subset):
    with pytest.raises(FileNotFoundError, match=rf"{folder.name}.*has no file {subset}\.jsonl"):
        fetch_iterater(subset, data_home=folder)


def test_without_file_and_network_the_error_says_to_pass_data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"'dev' part .* Pass data_home"):
        fetch_iterater("dev")


@pytest.mark.parametrize("subset", ["validation", "Train", ""])
def test_an_unknown_subset_is_refused_naming_the_known_ones(folder, subset):
    with pytest.raises(ValueError, match=f"subset='{subset}' must be one of 'train', 'dev', 'test'"):
        fetch_iterater(subset, data_home=folder)


@needs_iterater
@pytest.mark.parametrize(("subset", "n_pairs"), [("train", 3215), ("dev", 385)])
def test_the_published_corpus_has_its_published_size(subset, n_pairs):
    bunch = fetch_iterater(subset, data_home=ITERATER)
    assert bunch.data.shape == (n_pairs, 2)
    assert bunch.target.shape == bunch.document.shape == (n_pairs,)
    assert bunch.target_names == INTENTIONS
