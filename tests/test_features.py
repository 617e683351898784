"""Features are the frozen backbone's own hidden states, pooled; they are shared with the classifier."""

import pickle
import re

import numpy as np
import pytest
import torch
from numeric_rows import ReadsNumbers
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BartConfig, LlamaConfig

from sklearn_irt import BackboneFeatures, IRTuningClassifier, make_frozen_baseline
from sklearn_irt.pooled_states import POOLINGS, rows_between_calls
from sklearn_irt.stack import read_depths
from sklearn_irt.states_store import between_fits
from sklearn_irt.windows import cut_into_windows

pytestmark = pytest.mark.filterwarnings("ignore:.* texts had more than max_length=192 tokens")

BART = BartConfig(
    **{"vocab_size": 600, "d_model": 32, "max_position_embeddings": 256, "decoder_start_token_id": 4},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    **{"encoder_layers": 2, "decoder_layers": 4, "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 4},
)


def forget_states():
    between_fits.clear()
    rows_between_calls.clear()


@pytest.fixture(autouse=True)
def _nothing_known():
    forget_states()
    yield
    forget_states()


@pytest.fixture(scope="module")
def rows(revisions):
    """Return 20 pairs."""
    return revisions[0][:20]


@pytest.fixture(scope="module")
def labels(revisions):
    """Return one of two labels for each of them."""
    return revisions[1][:20] == "clarity"


@pytest.fixture
def make_features(tiny_llama):
    """Return a function that makes features of a tiny Llama."""

    def make(**parameters):
        return BackboneFeatures(**{"backbone": tiny_llama, "precision": "fp32", "device": "cpu", **parameters})

    return make


@pytest.fixture
def folder_of(backbones, save_tiny):
    """Return a function that returns the folder of a tiny backbone of a family."""
    return lambda family: save_tiny("bart", BART, encoder=True) if family == "bart" else backbones[family]


def hidden_states_of(folder, all_token_ids):
    """Yield what transformers itself gives for each text alone, of shape (n_layers + 1, n_tokens, hidden_size)."""
    model = AutoModel.from_pretrained(folder).eval()
    for token_ids in all_token_ids:
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([token_ids]), output_hidden_states=True)
        yield torch.cat(outputs.decoder_hidden_states if "decoder_hidden_states" in outputs else outputs.hidden_states)


def pool_all(states):
    return torch.stack([states[:, -1], states.mean(dim=1), states.amax(dim=1)], dim=1).numpy().ravel()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "bart"])
@pytest.mark.usefixtures("exact_states")
def test_features_are_the_hidden_states_of_transformers_pooled(make_features, folder_of, rows, family):
    texts, folder = [*rows["after"][:3], "short"], folder_of(family)
    plain = list(hidden_states_of(folder, AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]))
    for layers in ([0, 1, 2, 3, 4], [2], [1, 3], [4]):
        found = make_features(backbone=folder, layers=layers, pooling=["last", "mean", "max"]).fit_transform(texts)
        expected = [pool_all(states[layers]) for states in plain]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("exact_states")
def test_a_long_text_in_windows_has_the_mean_of_their_features(make_features, tiny_llama, rows):
    texts = ["a short one", " ".join(rows["before"][:3])]
    parameters = {"layers": [1, 3], "pooling": ["last", "mean", "max"]}
    found = make_features(**parameters, max_length=24, long_text="windows").fit_transform(texts)
    (whole,) = AutoTokenizer.from_pretrained(tiny_llama)([texts[1]])["input_ids"]
    windows = cut_into_windows(whole, [], [], 24)
    assert len(windows) > 3
    expected = np.mean([pool_all(states[[1, 3]]) for states in hidden_states_of(tiny_llama, windows)], axis=0)
    np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(found[0], make_features(**parameters).fit_transform(texts[:1])[0])


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_what_is_pooled_does_not_hold_on_to_the_states_of_the_other_tokens(pooling):
    pooled = POOLINGS[pooling](torch.arange(800.0).reshape(200, 4))
    assert pooled.untyped_storage().nbytes() == pooled.nbytes == 16


def test_names_say_layer_pooling_and_unit_in_the_order_of_the_columns(make_features, rows):
    joined = make_features(layers=[1, 3], pooling=["max", "last"]).fit(rows)
    names = joined.get_feature_names_out()
    assert names[[0, 31, 32, 64, 127]].tolist() == [
        "layer1_max_0",
        "layer1_max_31",
        "layer1_last_0",
        "layer3_max_0",
        "layer3_last_31",
    ]
    frame = joined.set_output(transform="pandas").transform(rows)
    assert frame.columns.tolist() == names.tolist()
    assert set(frame.dtypes) == {np.dtype(np.float32)}
    alone = make_features(layers=1, pooling="last").fit_transform(rows)
    assert np.array_equal(frame.filter(regex="layer1_last"), alone)


def test_features_of_a_row_do_not_depend_on_the_rows_beside_it(make_features, rows):
    for precision in ("fp32", "bf16"):
        features = make_features(layers=[2, 3, 4], pooling=["last", "mean", "max"], precision=precision).fit(rows)
        together = features.transform(rows)
        for some in (slice(7, 8), slice(None, None, -1), slice(3, 20, 3)):
            forget_states()
            assert np.array_equal(features.transform(rows[some]), together[some])


def test_rows_and_not_only_their_number_make_the_features(make_features, rows):
    for how in ("last", "mean", "max"):
        features = make_features(layers=[0.5, 1.0], pooling=how).fit_transform(rows)
        assert len(np.unique(features, axis=0)) == len(rows)


class TestSharing:
    @pytest.mark.parametrize(
        "parameters",
        [{}, {"pair_format": "before-after"}, {"context": 1}, {"max_length": 24, "long_text": "windows"}],
        ids=str,
    )
    def test_after_a_fit_of_the_classifier_features_at_the_same_depth_cost_nothing(
        self, make_features, make_classifier, rows, labels, runs, parameters
    ):
        make_classifier(**parameters).fit(rows, labels)
        runs.clear()
        make_features(**parameters).fit_transform(rows)
        assert runs == []

    def test_after_features_the_classifier_runs_no_layer_below_its_candidates(
        self, make_features, make_classifier, rows, labels, runs
    ):
        alone = make_classifier().fit(rows, labels).predict_proba(rows)
        forget_states()
        make_features(layers=[0.5, 3]).fit_transform(rows)
        runs.clear()
        after_features = make_classifier().fit(rows, labels).predict_proba(rows)
        assert set(runs) == {2, 3}
        assert np.array_equal(after_features, alone)

    def test_what_is_higher_runs_on_from_the_lowest_states_and_no_further_than_asked(
        self, make_features, make_classifier, rows, labels, runs
    ):
        make_classifier().fit(rows, labels)
        runs.clear()
        make_features(layers=[2, 3]).fit_transform(rows)
        assert set(runs) == {2}
        n_batches = len(runs)
        runs.clear()
        make_features(layers=[2, 3, 4]).fit_transform(rows)
        assert runs == [2, 3] * n_batches

    def test_the_same_rows_again_run_no_layer_in_a_clone_nor_after_a_refit(self, make_features, rows, runs):
        features = make_features(layers=[0, 3, 4], pooling=["mean", "last"]).fit(rows)
        runs.clear()
        first = features.transform(rows)
        assert set(runs) == {0, 1, 2, 3}
        runs.clear()
        between_fits.clear()
        assert np.array_equal(features.transform(rows[5:9]), first[5:9])
        assert np.array_equal(clone(features).fit_transform(rows), first)
        assert runs == []

    def test_features_do_not_depend_on_what_was_computed_before(self, make_features, make_classifier, rows, labels):
        alone = make_features(layers=[2, 4]).fit_transform(rows)
        forget_states()
        make_classifier(candidate_layers=1).fit(rows, labels)
        make_features(layers=[1, 2, 4], precision="bf16").fit(rows).transform(rows)
        make_features(layers=[1, 2, 4]).fit(rows).transform(rows[10:])
        assert np.array_equal(make_features(layers=[2, 4]).fit_transform(rows), alone)

    def test_memory_keeps_states_for_a_process_that_knows_nothing(self, make_features, rows, runs, tmp_path):
        features = make_features(memory=tmp_path).fit(rows)
        expected = features.transform(rows)
        forget_states()
        runs.clear()
        assert np.array_equal(features.transform(rows), expected)
        assert runs == []

    def test_one_backbone_serves_features_and_classifier(self, make_features, make_classifier, rows, labels):
        features, classifier = make_features().fit(rows), make_classifier().fit(rows, labels)
        assert features._backbone is classifier.net_.module_.backbone


@pytest.mark.parametrize("n_layers", range(1, 31))
def test_a_half_is_where_the_candidates_of_the_classifier_begin(n_layers):
    prefix = n_layers - max(1, round(0.5 * n_layers))
    assert read_depths(0.5, n_layers) == [max(1, prefix)]
    assert read_depths([1.0], n_layers) == read_depths(n_layers, n_layers) == [n_layers]


def test_depths_are_read_as_numbers_and_shares_in_any_order():
    assert read_depths((1.0, 0, 7, 0.6, np.int64(3), np.float32(0.5)), 30) == [0, 3, 7, 15, 18, 30]


class TestLife:
    def test_a_pickle_holds_no_weights_and_gives_the_same_features(
        self, make_features, rows, save_tiny, forget_backbones
    ):
        size = {"hidden_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 256}
        large = save_tiny("large", LlamaConfig(**size, vocab_size=600))
        features = make_features(backbone=large).fit(rows)
        expected = features.transform(rows)
        pickled = pickle.dumps(features)
        assert len(pickled) < 5000
        forget_states()
        forget_backbones()
        assert np.array_equal(pickle.loads(pickled).transform(rows), expected)

    def test_before_fit_nothing_is_answered(self, make_features, rows):
        for call in (lambda f: f.transform(rows), lambda f: f.get_feature_names_out()):
            with pytest.raises(NotFittedError):
                call(make_features())

    def test_a_clone_has_the_parameters_but_is_not_fitted(self, make_features, rows):
        features = make_features(layers=[1, 0.5], pooling=["mean"], context=None).fit(rows)
        copy = clone(features)
        assert copy.get_params() == features.get_params()
        assert not hasattr(copy, "layers_")

    def test_columns_are_those_of_the_fit(self, make_features, rows):
        features = make_features().fit(rows)
        assert features.feature_names_in_.tolist() == ["before", "after"]
        with pytest.raises(ValueError, match="same order"):
            features.transform(rows[["after", "before"]])
        with pytest.raises(ValueError, match="expecting 2 features"):
            features.transform(["a text"])
        assert not hasattr(features.fit(["a text"]), "feature_names_in_")
        assert features.n_features_in_ == 1

    def test_a_fit_that_fails_leaves_the_features_as_they_were(self, make_features, rows, tmp_path):
        features = make_features().fit(rows)
        expected, usual = features.transform(rows), features.backbone
        for X, parameters in ((["one", ""], {}), (["one"], {"backbone": str(tmp_path)}), (["one"], {"layers": 9})):
            with pytest.raises(ValueError, match=r"Row 1 of X has no text|config\.json|layers names 9"):
                features.set_params(**parameters).fit(X)
            features.set_params(backbone=usual, layers=0.5)
            assert np.array_equal(features.transform(rows), expected)

    def test_cut_texts_are_warned_of_at_the_users_line(self, make_features):
        long = [" ".join(["word"] * 200)]
        features = make_features()
        for call in (features.fit, features.fit_transform, features.transform):
            with pytest.warns(UserWarning, match="1 of 1 texts had more than max_length=192 tokens") as caught:
                call(long)
            assert [warning.filename for warning in caught] == [__file__]

    def test_verbose_says_what_is_computed(self, make_features, rows, capsys):
        make_features(verbose=1, layers=[1, 0.5]).fit_transform(rows)
        printed = capsys.readouterr()
        assert "Computing in fp32 on cpu; states after [1, 2] of 4 layers." in printed.out
        assert "20/20" in printed.err


BAD = [
    ({"layers": 5}, "layers names 5, .* from 0 to 4"),
    ({"layers": -1}, "layers names -1, .* from 0 to 4"),
    ({"layers": 0.0}, r"layers names 0\.0, .* a share of them in \(0, 1\]"),
    ({"layers": [0.5, 1.5]}, r"layers names 1\.5"),
    ({"layers": [True]}, "layers names True"),
    ({"layers": True}, "'layers' .* must not be True"),
    ({"layers": "all"}, "'layers' parameter of BackboneFeatures"),
    ({"layers": ["2"]}, "layers names '2'"),
    ({"layers": []}, "layers is empty: name at least one"),
    ({"layers": [2, 0.5]}, "the states after 2 of 4 layers more than once"),
    ({"pooling": "cls"}, "'pooling' parameter of BackboneFeatures .*'last'"),
    ({"pooling": ["last", "first"]}, r"pooling=\['last', 'first'\] must be one of 'last', 'mean', 'max'"),
    ({"pooling": ["last", "last"]}, "a list of different ones"),
    ({"pooling": []}, r"pooling=\[\] must be one of"),
    ({"pooling": [["last"]]}, r"pooling=\[\['last'\]\] must be one of"),
    ({"pair_format": "instruction"}, "'pair_format' parameter of BackboneFeatures"),
    ({"pair_format": lambda text: text}, "must take two texts"),
    ({"max_length": 512}, "reads 256 tokens at most: lower max_length"),
    ({"quantization": "8bit"}, "needs a CUDA GPU"),
    ({"device": "abacus"}, "device='abacus' cannot be used here"),
    ({"memory": ""}, "memory='' names no folder"),
    ({"backbone": "smollm"}, "is no alias"),
    ({"backbone_options": {"dtype": "float16"}}, "must not hold 'dtype'"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=[str(case[0]).partition(" at 0x")[0] for case in BAD])
def test_a_bad_parameter_is_refused_before_weights_are_read(
    make_features, rows, forget_backbones, monkeypatch, parameters, message
):
    forget_backbones()
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    with pytest.raises((ValueError, TypeError)) as raised:
        make_features(**parameters).fit(rows)
    assert re.search(message, str(raised.value)), str(raised.value)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([("a", "b"), ("a", 7)], "Row 1, column 1 of X holds int 7"),
        ([("a", "b"), (None, " ")], "Row 1 of X has no text on either side"),
        (np.full((2, 3), "a"), "X has 3 columns"),
        ([], "X has no rows"),
    ],
    ids=["number", "no text", "three columns", "no rows"],
)
def test_bad_rows_are_refused_before_weights_are_read(make_features, forget_backbones, monkeypatch, X, message):
    forget_backbones()
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", None)
    with pytest.raises((ValueError, TypeError), match=message):
        make_features().fit(X)


class TestPipelines:
    def test_a_grid_finds_the_layers_and_computes_no_text_twice(self, make_features, rows, labels, runs):
        steps = [("featurize", make_features()), ("scale", StandardScaler()), ("classify", LogisticRegression(C=0.01))]
        make_features().fit(rows)  # which loads the backbone, and tries its layers
        needed = []
        for penalties in ([1e-2], [1e-3, 1e-2, 1.0]):
            forget_states()
            runs.clear()
            grid = {"featurize__layers": [2, [2, 4], 0.75], "classify__C": penalties}
            search = GridSearchCV(Pipeline(steps), grid, cv=2, error_score="raise").fit(rows, labels)
            search.best_estimator_.predict(rows)
            needed.append(len(runs))
        assert needed[0] == needed[1] > 0
        assert len(set(search.cv_results_["mean_test_score"])) > 1
        assert [search.best_params_[name] for name in grid] == [
            search.best_estimator_.get_params()[name] for name in grid
        ]

    def test_features_of_two_backbones_are_joined_by_a_union(self, make_features, rows, backbones):
        two = [make_features(), make_features(backbone=backbones["bert"], layers=1.0, pooling="mean")]
        union = make_union(*two).fit(rows)
        expected = np.hstack([clone(one).fit_transform(rows) for one in two])
        assert np.array_equal(union.transform(rows), expected)

    def test_the_frozen_baseline_is_a_pipeline_that_learns(self, tiny_llama, rows, labels):
        baseline = make_frozen_baseline(tiny_llama, layers=[2, 3], precision="fp32", device="cpu", random_state=3)
        assert [name for name, _ in baseline.steps] == ["backbonefeatures", "standardscaler", "logisticregression"]
        assert baseline["logisticregression"].random_state == 3
        assert cross_val_score(baseline, rows, labels, cv=2, error_score="raise").shape == (2,)
        assert baseline.set_params(logisticregression__C=10).fit(rows, labels).score(rows, labels) == 1
        np.testing.assert_allclose(baseline.predict_proba(rows).sum(axis=1), 1, rtol=1e-6)

    def test_the_frozen_baseline_refuses_what_is_no_parameter_of_the_features(self):
        with pytest.raises(TypeError, match="unexpected keyword argument 'layer'"):
            make_frozen_baseline(layer=3)

    def test_it_reads_where_the_prefix_of_the_classifier_ends_by_default(
        self, make_features, make_classifier, rows, labels
    ):
        features, classifier = make_features().fit(rows), make_classifier().fit(rows, labels)
        assert features.layers_.tolist() == [classifier.candidate_layers_[0]]
        shared = set(IRTuningClassifier().get_params()) & set(features.get_params())
        assert {name: BackboneFeatures().get_params()[name] for name in shared} == {
            name: IRTuningClassifier().get_params()[name] for name in shared
        }


class NumericRows(ReadsNumbers, BackboneFeatures):
    """Takes numeric rows, so that all checks for numeric input run."""


@parametrize_with_checks(
    [BackboneFeatures(precision="fp32", device="cpu"), NumericRows(precision="fp32", device="cpu")]
)
def test_scikit_learn_checks(estimator, check, tiny_llama):
    check(estimator.set_params(backbone=tiny_llama))
