"""A loop of fits, predictions or pickles does not fill the memory."""

import json
import subprocess
import sys

import pytest

# In a process of its own: what other tests leave behind, or give back meanwhile, is no growth of these.
PROGRAM = """
import json, pickle, sys, warnings
import psutil, torch
from sklearn_irt import IRTuningClassifier, load_sample_revisions

warnings.simplefilter("ignore")
torch.set_num_threads(1)
X, y = load_sample_revisions(return_X_y=True, as_frame=True)
X, y = X[:12], y[:12]
parameters = dict(backbone=sys.argv[1], precision="fp32", device="cpu", max_epochs=1)
fitted = IRTuningClassifier(**parameters).fit(X, y)

def predict(turn):
    fitted.predict(X.assign(after=X["after"] + f" {turn}"))

def pickle_and_predict(turn):
    pickle.loads(pickle.dumps(fitted)).predict(X)

def fit(turn):
    IRTuningClassifier(**parameters, random_state=0).fit(X, y)

def fit_another(turn):
    another = dict(adapter=("lora", "dora", "bottleneck")[turn % 3], candidate_layers=(1, 2, "all")[turn % 3])
    fitted.set_params(**another, random_state=turn).fit(X, y)

def growth_of(act):
    resident = []
    for turn in range(50):
        act(turn)
        resident.append(psutil.Process().memory_info().rss)
    return resident[49] / resident[9] - 1

print(json.dumps({act.__name__: growth_of(act) for act in (predict, pickle_and_predict, fit, fit_another)}))
"""


@pytest.fixture(scope="module")
def growths(tiny_llama):
    """Return by how much the resident memory grew between the tenth and the fiftieth turn of each loop, as a share."""
    command = [sys.executable, "-c", PROGRAM, tiny_llama]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", ["predict", "pickle_and_predict", "fit", "fit_another"])
def test_resident_memory_does_not_grow(what, growths):
    assert growths[what] < 0.05
