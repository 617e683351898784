"""Bad data and parameters are refused at once: in words that name culprit and cure, and nothing trained is lost."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from sklearn_irt import FixedSelection, GradientNormSelection, RandomSelection
from sklearn_irt.selection import IntervalSelection

NAN, INF = float("nan"), float("inf")
N_ROWS = 60
EVERY_LINEAR = partial(LoraConfig, target_modules="all-linear")


class OwnSelection(IntervalSelection):
    """What a user may write."""

    def __init__(self, interval=0):
        self.interval = interval

    def choose(self):
        return self.layers_


def fit_of(make_X):
    """Fit on what becomes of the 60 pairs."""
    return lambda classifier, X, y: classifier.fit(make_X(X), y)


def fit_with_cell(cell):
    """Fit on the 60 pairs, of which row 3 has something else after."""

    def with_cell(X):
        X = X.astype(object)
        X.iloc[3, 1] = cell
        return X

    return fit_of(with_cell)


def fit_to(make_y):
    """Fit to what becomes of the labels."""
    return lambda classifier, X, y: classifier.fit(X, make_y(y))


def fit_weighing(make_weights):
    """Fit with sample weights, made of the labels."""
    return lambda classifier, X, y: classifier.fit(X, y, sample_weight=make_weights(y))


def fit(classifier, X, y):
    return classifier.fit(X, y)


def predict_of(make_X):
    """Predict for what becomes of the 60 pairs."""
    return lambda classifier, X, y: classifier.predict(make_X(X))


def set_and_fit(**parameters):
    return lambda classifier, X, y: classifier.set_params(**parameters).fit(X, y)


def first_row(weight):
    return lambda y: [weight] + [1] * (N_ROWS - 1)


CONTAINER = ("X must be a DataFrame", "Convert it to one of these")
DATA = {
    "a number among the texts": (fit_with_cell(7), TypeError, "Row 3, column 'after' .* int 7", r"\.astype\(str\)"),
    "bytes among the texts": (fit_with_cell(b"x"), TypeError, "Row 3, column 'after' .* bytes", r"\.decode\('utf-8'\)"),
    "a list in a cell": (
        fit_with_cell(["a"]),
        TypeError,
        "Row 3, column 'after' .* list",
        r"pd\.DataFrame\(column\.tolist",
    ),
    "a lone surrogate": (fit_with_cell("a\ud800"), ValueError, "Row 3, column 'after'", "remove the character"),
    "no text on either side": (
        fit_of(lambda X: [*X[:59].to_numpy(), (None, " ")]),
        *(ValueError, "Row 59 of X has no text on either side", "drop the row or fill it"),
    ),
    "a row that is None": (
        fit_of(lambda X: [*X[:59].to_numpy(), None]),
        *(ValueError, "Row 59 of X has a single value", r"every row must be a \(before, after\) pair"),
    ),
    "a row of another length": (
        fit_of(lambda X: [("a", "b")] * 59 + [("a",)]),
        *(ValueError, "Row 59 of X has 1 values", r"every row must be a \(before, after\) pair"),
    ),
    "two columns of one name": (
        fit_of(lambda X: X[["after", "after"]]),
        *(ValueError, "columns named 'after'", "select two columns, or rename them"),
    ),
    "two polars-like columns": (
        fit_of(lambda X: pl.DataFrame({"a": [1] * 60})),
        TypeError,
        "Row 0, column 'a'",
        "astype",
    ),
    "three columns": (
        fit_of(lambda X: X.assign(id="7")),
        *(ValueError, r"3 columns \('before', 'after', 'id'\)", "Select the columns first"),
    ),
    "names of several kinds": (
        fit_of(lambda X: X.set_axis(["before", 1], axis=1)),
        *(TypeError, r"\['int', 'str'\] as feature name", r"X\.columns\.astype\(str\)"),
    ),
    "no rows": (lambda c, X, y: c.fit(X[:0], y[:0]), ValueError, "X has no rows", "Look at what selected them"),
    "one text for X": (fit_of(lambda X: "a text"), TypeError, *CONTAINER),
    "a dict for X": (fit_of(lambda X: X.to_dict("list")), TypeError, *CONTAINER),
    "a generator for X": (fit_of(lambda X: (row for row in X.to_numpy())), TypeError, *CONTAINER),
    "a file name for X": (fit_of(lambda X: Path("pairs.csv")), TypeError, *CONTAINER),
    "None for X": (fit_of(lambda X: None), TypeError, *CONTAINER),
    "a sparse matrix": (fit_of(lambda X: csr_array(np.eye(60, 2))), TypeError, "Sparse data .* X", "pass a DataFrame"),
    "an array of numbers": (
        fit_of(lambda X: np.eye(60, 2)),
        TypeError,
        "Row 0, column 0 of X",
        "select the text columns",
    ),
    "an array of bytes": (fit_of(lambda X: np.full((60, 2), b"a")), TypeError, "Row 0, column 0 of X", "Decode it"),
    "a tensor": (fit_of(lambda X: torch.zeros(60, 2)), TypeError, "Row 0, column 0 of X", "select the text columns"),
    "three dimensions": (
        fit_of(lambda X: X.to_numpy(dtype=object)[:, :, None]),
        *(ValueError, "X must have one or two dimensions, got 3", "Reshape your data"),
    ),
    "X and y swapped": (
        lambda c, X, y: c.fit(y, X),
        ValueError,
        "y has 2 columns, and row 0, column 'before' has 'Lift and divide",
        "one label a row",
    ),
    "y of another length": (
        fit_to(lambda y: y[:59]),
        ValueError,
        "X has 60 rows, but y has 59",
        "Give one label a row",
    ),
    "no y": (fit_to(lambda y: None), ValueError, "target y is None", "pass the labels"),
    "a missing label": (fit_to(lambda y: [None, *y[1:]]), ValueError, "y contains NaN: row 0", "Drop these rows"),
    "an infinite label": (
        fit_to(lambda y: [1.0, 0.0, INF] * 20),
        ValueError,
        "y contains infinity: row 2",
        "Drop these rows",
    ),
    "continuous labels": (
        fit_to(lambda y: np.linspace(0, 1, 60)),
        *(ValueError, "Unknown label type: continuous", r"Make classes of y, .* pandas\.cut"),
    ),
    "several classes a row": (
        fit_to(lambda y: 2 * np.eye(60, 3, dtype=int)),
        ValueError,
        r"y has 3 columns, and row 0, column 0 has 2 \(3 such entries",
        "MultiOutputClassifier",
    ),
    "lists of labels": (
        fit_to(lambda y: [["a"], ["a", "b"]] * 30),
        ValueError,
        "inhomogeneous",
        "Give y as one label a row",
    ),
    "two columns of labels": (
        fit_to(lambda y: pd.DataFrame({"first": y, "second": y})),
        *(ValueError, "y has 2 columns, and row 0, column 'first' has '", "one label a row"),
    ),
    "one class": (fit_to(lambda y: ["only"] * 60), ValueError, "one class only, 'only'", "give rows of another"),
    "a class a row": (
        fit_to(lambda y: [f"id {row}" for row in range(60)]),
        *(ValueError, "y has a class of its own for each of the 60 rows", "give class labels that repeat"),
    ),
    "ten thousand classes": (
        lambda c, X, y: c.fit([f"text {row}" for row in range(10_000)], np.arange(10_000)),
        *(ValueError, "y has a class of its own for each of the 10000 rows", "give class labels that repeat"),
    ),
    "labels of several kinds": (
        fit_to(lambda y: ["a", 1] * 30),
        TypeError,
        r"y mixes .*row 1 has 1",
        r"y\.astype\(str\)",
    ),
    "labels that are bytes": (
        fit_to(lambda y: np.array([b"a", b"b"] * 30)),
        TypeError,
        "labels .* bytes",
        "Convert the labels",
    ),
    "labels that are objects": (
        fit_to(lambda y: [object()] * 60),
        ValueError,
        "Unknown label type",
        "Make classes of y",
    ),
    "a negative weight": (
        fit_weighing(first_row(-1)),
        ValueError,
        "sample_weight .* negative .* row 0",
        "weights of 0 or more",
    ),
    "a weight that is NaN": (
        fit_weighing(first_row(NAN)),
        ValueError,
        "sample_weight .*NaN: row 0",
        "Give finite weights",
    ),
    "an infinite weight": (
        fit_weighing(first_row(INF)),
        ValueError,
        "sample_weight .*infinity: row 0",
        "Give finite weights",
    ),
    "weights of 0": (fit_weighing(lambda y: [0] * 60), ValueError, "sample_weight .* non-zero", "not all 0"),
    "too few weights": (
        fit_weighing(lambda y: [1] * 59),
        ValueError,
        r"sample_weight.*\(59,\)",
        r"one number a row \(60\)",
    ),
    "weights in words": (
        fit_weighing(lambda y: ["heavy"] * 60),
        ValueError,
        "sample_weight .* 'heavy'",
        "one number a row",
    ),
    "weights in two columns": (
        fit_weighing(lambda y: np.ones((60, 2))),
        ValueError,
        "sample_weight .* 2D",
        "one number a row",
    ),
    "a dict of weights": (
        fit_weighing(lambda y: {"style": 2}),
        TypeError,
        "sample_weight .*'dict'",
        "one number a row",
    ),
    "weights too large": (fit_weighing(lambda y: [1e308] * 60), ValueError, "sample_weight is too large", "Divide it"),
    "weights of one class": (
        fit_weighing(lambda y: (y == "style").astype(float)),
        *(ValueError, "classes have a positive sample_weight", "give rows of another class weight"),
    ),
    "predict before fit": (lambda c, X, y: clone(c).predict(X), NotFittedError, "not fitted yet", "Call 'fit'"),
    "predict for other columns": (
        predict_of(lambda X: X.set_axis(["old", "new"], axis=1)),
        *(
            ValueError,
            "feature names should match .*\n.*unseen at fit time:\n- new",
            "seen at fit time, yet now missing",
        ),
    ),
    "predict for swapped columns": (
        predict_of(lambda X: X[["after", "before"]]),
        *(ValueError, "feature names should match", "must be in the same order as they were in fit"),
    ),
    "predict for single texts": (
        predict_of(lambda X: X["before"]),
        *(ValueError, "X has 1 features", "is expecting 2 features", r"A single pair is a list of one, \[\(before"),
    ),
    "predict for no rows": (predict_of(lambda X: X[:0]), ValueError, "X has no rows", "Look at what selected them"),
    "predict for a number": (predict_of(lambda X: X.assign(after=7)), TypeError, "Row 0, column 'after'", "astype"),
    "a parameter of a string": (
        set_and_fit(selection__n_splits=2),
        *(ValueError, "selection__n_splits cannot be set, for selection='ir'", "set selection to an object first"),
    ),
    "a grid over a parameter of a string": (
        lambda c, X, y: GridSearchCV(c, {"selection__n_splits": [1, 2]}, error_score="raise").fit(X, y),
        *(ValueError, "selection__n_splits cannot be set, for selection='ir'", "set selection to an object first"),
    ),
    "a misspelt parameter": (set_and_fit(learning_rat=1), ValueError, "'learning_rat'", "Valid parameters are"),
}


@pytest.mark.parametrize("name", DATA)
def test_bad_data_is_refused_in_words_and_loses_nothing(check_refused, name):
    check_refused(*DATA[name])


OUTSIDE = "(a|an) (int|float) in the range"
PARAMETERS = [
    ({"learning_rate": 0}, "'learning_rate' .* Got 0", OUTSIDE),
    ({"learning_rate": NAN}, "'learning_rate' .* Got nan", OUTSIDE),
    ({"learning_rate": -1}, "'learning_rate' .* Got -1", OUTSIDE),
    ({"learning_rate": INF}, "'learning_rate' .* Got inf", OUTSIDE),
    ({"learning_rate": "fast"}, "'learning_rate' .* Got 'fast'", OUTSIDE),
    ({"max_epochs": 0}, "'max_epochs' .* Got 0", OUTSIDE),
    ({"max_epochs": 2.0}, r"'max_epochs' .* Got 2\.0", OUTSIDE),
    ({"max_epochs": True}, "'max_epochs' .* must not be True", "give a number"),
    ({"batch_size": 0.5}, r"'batch_size' .* Got 0\.5", OUTSIDE),
    ({"batch_size": np.True_}, r"'batch_size' .* Got np\.True_", OUTSIDE),
    ({"candidate_layers": [99]}, "candidate_layers names layer 99", "layers 0 to 3 run: see n_layers"),
    ({"candidate_layers": [3, -1]}, r"candidate_layers=\[3, -1\] names layer 3 more than once", "name each once"),
    ({"candidate_layers": []}, r"candidate_layers=\[\]", "must be a list of layer indices"),
    ({"candidate_layers": [2.0]}, r"candidate_layers=\[2\.0\]", "must be a list of layer indices"),
    ({"candidate_layers": [[1], [2, 3]]}, r"candidate_layers=\[\[1\], \[2, 3\]\]", "must be a list of layer indices"),
    ({"candidate_layers": 9}, "candidate_layers=9 asks for the top 9 layers", "see n_layers, drop_layers"),
    ({"candidate_layers": NAN}, "candidate_layers=nan", r"must be a share in \(0, 1\]"),
    ({"n_layers": 0}, "'n_layers' .* Got 0", OUTSIDE),
    ({"n_layers": 99}, "n_layers=99, but the backbone has 4 layers", "lower it, or use 'all'"),
    ({"n_layers": 1.5}, r"'n_layers' .* Got 1\.5", OUTSIDE),
    ({"n_layers": True}, "'n_layers' .* must not be True", "give a number"),
    ({"drop_layers": 4}, "drop_layers=4 leaves none", "lower it"),
    ({"max_length": 257}, "max_length=257, but .* reads 256 tokens at most", "lower max_length"),
    ({"max_length": 7}, "'max_length' .* Got 7", OUTSIDE),
    ({"context": True}, "'context' .* must not be True", "give a number"),
    ({"pair_format": "diff"}, "'pair_format' .* Got 'diff'", "must be a str among .*'inline-diff'"),
    ({"pair_format": str.upper}, "pair_format=.*upper", "must take two texts, before and after"),
    ({"pair_format": lambda before, after: 3}, "pair_format returned int", "instead of a string"),
    (
        {"pair_format": lambda before, after: ""},
        "Row 0 of X becomes a text without any token",
        "give another pair_format",
    ),
    (
        {"pair_format": "instruction", "max_length": 24},
        "'instruction' takes .* tokens .* max_length=24",
        "raise max_length",
    ),
    ({"selection": "best"}, "'selection' .* Got 'best'", "must be a str among .*'ir'"),
    ({"selection": GradientNormSelection}, "'selection' .* Got <class", "an instance of .*LayerSelection"),
    (
        {"selection": GradientNormSelection(interval=0)},
        "'interval' parameter of GradientNormSelection .* Got 0",
        OUTSIDE,
    ),
    ({"selection": GradientNormSelection(n_splits=True)}, "'n_splits' .* must not be True", "give a number"),
    ({"selection": OwnSelection()}, "'interval' parameter of OwnSelection .* Got 0", OUTSIDE),
    ({"selection": FixedSelection([0])}, r"FixedSelection\(layers=\[0\]\)", "choose others, or widen candidate_layers"),
    (
        {"selection": RandomSelection(n_trained=9)},
        r"RandomSelection\(n_trained=9\)",
        "lower it, or widen candidate_layers",
    ),
    ({"selection": "sparse"}, "selection=SparseSelection", "set adapter=None"),
    ({"adapter": "qlora"}, "'adapter' .* Got 'qlora'", "must be a str among .*'lora'"),
    (
        {"adapter": LoraConfig(target_modules=["nope"])},
        "adapter=LoraConfig does not fit Llama",
        "Change the configuration",
    ),
    ({"adapter": EVERY_LINEAR(r=-1)}, "adapter=LoraConfig does not fit .* -1", "Change the configuration"),
    ({"adapter": EVERY_LINEAR(modules_to_save=["score"])}, "modules_to_save", "leave modules_to_save out"),
    ({"adapter": EVERY_LINEAR(init_lora_weights="pissa")}, "init_lora_weights='pissa'", "use True, False"),
    ({"adapter": PromptTuningConfig(num_virtual_tokens=2)}, "adapter=PromptTuningConfig", "use LoraConfig"),
    ({"class_weight": {"stile": 2}}, "class_weight names 'stile'", "the classes are 'clarity'"),
    ({"class_weight": {"style": -1}}, "class_weight={'style': -1}", "a finite weight of 0 or more"),
    ({"class_weight": {"style": "2"}}, "class_weight={'style': '2'}", "a finite weight of 0 or more, a number"),
    ({"class_weight": "even"}, "'class_weight' .* Got 'even'", "must be a str among .*'balanced'"),
    ({"early_stopping": 1}, "'early_stopping' .* Got 1", "must be an instance of 'bool'"),
    ({"early_stopping": True, "validation_fraction": 0.01}, "validation_fraction=0.01", "change validation_fraction"),
    ({"validation_fraction": 1.0}, r"'validation_fraction' .* Got 1\.0", OUTSIDE),
    ({"precision": "fp16"}, "'precision' .* Got 'fp16'", "must be a str among .*'bf16'"),
    ({"quantization": "4bit"}, "quantization='4bit' needs a CUDA GPU", "leave it out"),
    ({"device": "abacus"}, "device='abacus' cannot be used here", "Use 'auto' or 'cpu'"),
    ({"prefix_cache": "ram"}, "'prefix_cache' .* Got 'ram'", "must be a str among .*'disk'"),
    ({"memory": 3}, "'memory' .* Got 3", "must be an instance of 'str'"),
    ({"memory": ""}, "memory='' names no folder", "give one, or None"),
    ({"random_state": "x"}, "'random_state' .* Got 'x'", OUTSIDE),
    ({"random_state": np.random.default_rng(0)}, "'random_state' .* Got Generator", "RandomState"),
    ({"verbose": -1}, "'verbose' .* Got -1", OUTSIDE),
    ({"backbone_options": "main"}, "'backbone_options' .* Got 'main'", "must be an instance of 'dict'"),
    ({"backbone_options": {1: 2}}, "backbone_options={1: 2}", "must have strings for names"),
    ({"backbone_options": {"dtype": "float16"}}, "backbone_options must not hold 'dtype'", "Leave it out"),
    ({"backbone_options": {"attn_implementation": "fast"}}, '="fast".* is not supported', "Change attn_implementation"),
    ({"backbone": None}, "'backbone' .* Got None", "must be an instance of 'str'"),
]


def _named(case):
    # Test processes must agree on the names: none has the place of an object in it.
    return re.sub(" at 0x[0-9A-Fa-f]*", "", ", ".join(f"{name}={value!r:.40}" for name, value in case[0].items()))


@pytest.mark.parametrize(("parameters", "culprit", "cure"), PARAMETERS, ids=map(_named, PARAMETERS))
def test_a_bad_parameter_is_refused_in_words_and_loses_nothing(check_refused, parameters, culprit, cure):
    check_refused(fit, (TypeError, ValueError), culprit, cure, **parameters)


def test_a_class_of_one_row_is_refused_where_a_part_is_held_out(check_refused):
    lonely = fit_to(lambda y: ["lonely", *y[1:]])
    check_refused(lonely, ValueError, "class 'lonely'", "needs two rows of each class", early_stopping=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(check_refused):
    check_refused(fit, ValueError, "device='cuda' cannot be used here", "Use 'auto' or 'cpu'", device="cuda")
