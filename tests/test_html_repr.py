"""What a notebook shows of a classifier: scikit-learn's diagram, and in it what the fit did."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_irt import EditFeatures, GradientNormSelection, IRTuningClassifier, LayerSelection
from sklearn_irt.doc_link import DOCUMENTATION

STOPPING = {"early_stopping": True, "validation_fraction": 0.4, "max_epochs": 2}


class Tables(HTMLParser):
    """The text of each cell of the tables of a page, row by row; and the page's scripts and images."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.scripts, self.images = [], [], 0
        self._open = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        self.images += tag == "img"
        self._open = tag if tag in ("td", "script") else self._open

    def handle_endtag(self, tag):
        self._open = None if tag in ("td", "script") else self._open

    def handle_data(self, data):
        if self._open == "td":
            self.rows[-1][-1] += data
        elif self._open == "script":
            self.scripts.append(data)


def shown(page):
    """Return the rows of the block about the training."""
    block = re.search(r"<summary>Training</summary>(.*?)</details>", page, flags=re.DOTALL)
    return dict(Tables(block[1]).rows)


@pytest.fixture(scope="module")
def fitted(make_classifier, revisions):
    """Return a classifier that noted scores."""
    return make_classifier(**STOPPING, scoring=["loss", "f1_macro"], candidate_layers="all").fit(*revisions)


def test_a_fitted_classifier_shows_what_was_trained(fitted, tiny_llama):
    rows = shown(fitted._repr_html_())
    assert rows["backbone"] == f"{tiny_llama}, in fp32"
    assert rows["layers that run"] == "4"
    assert rows["may train"] == "layers 0-3"
    assert rows["epochs"] == "2 (6 steps)"
    assert rows["parameters"] == (
        f"{fitted.n_trainable_parameters_:,} of adapters and head; in the layers, "
        f"{fitted.n_active_parameters_.mean():,.0f} trained at a step, on average"
    )
    assert rows["classes"] == ", ".join(fitted.classes_)


def test_losses_and_scores_are_those_of_the_last_epoch(fitted):
    rows = shown(fitted._repr_html_())
    last = {name.removeprefix("last "): float(text) for name, text in rows.items() if name.startswith("last ")}
    assert set(last) == {"train_loss", "valid_loss", "valid_acc", "valid_f1_macro"}
    assert last == {name: pytest.approx(fitted.history_[-1][name], rel=1e-3) for name in last}


def test_layers_are_shown_by_the_share_of_the_steps_in_which_they_trained(fitted, monkeypatch):
    active = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)
    monkeypatch.setattr(fitted, "active_layers_", active)
    assert shown(fitted._repr_html_())["trained"] == "2 in 100%; 3 in 75%; 1 in 25%; 0 in 0% of the steps"
    monkeypatch.setattr(fitted, "active_layers_", np.ones((3, 4), dtype=bool))
    assert shown(fitted._repr_html_())["trained"] == "0-3 in 100% of the steps"


def test_layers_that_were_left_out_are_named(make_classifier, revisions):
    classifier = make_classifier(drop_layers=1).fit(*revisions)
    (dropped,) = classifier.dropped_layers_
    assert shown(classifier._repr_html_())["layers that run"] == f"3; {dropped} of the backbone are left out"


def test_an_interrupted_first_epoch_has_no_losses_to_show(make_classifier, revisions, interrupt_at):
    interrupt_at(2)
    classifier = make_classifier()
    with pytest.warns(UserWarning, match="interrupted"):
        classifier.fit(*revisions)
    rows = shown(classifier._repr_html_())
    assert rows["epochs"] == "0 (2 steps)"
    assert not [name for name in rows if name.startswith("last ")]


def test_what_users_named_is_text_and_runs_nothing(make_classifier, revisions):
    X, y = revisions
    evil = "<script>alert(1)</script>"
    image = "<img src=x onerror=alert(1)>"
    plain = Tables(make_classifier(**STOPPING).fit(X, y)._repr_html_())
    y = np.where(y == "style", evil, image)
    classifier = make_classifier(**STOPPING, scoring={image: "accuracy"}, class_weight={evil: 2, image: 1}).fit(X, y)
    page = Tables(classifier._repr_html_())
    assert [script.split("forceTheme('")[0] for script in page.scripts] == [
        script.split("forceTheme('")[0] for script in plain.scripts
    ]
    assert page.images == 0
    rows = shown(classifier._repr_html_())
    assert rows["classes"] == f"{image}, {evil}"
    assert f"last valid_{image}" in rows


@pytest.mark.parametrize("wrap", ["pipeline", "search"])
def test_diagrams_of_what_contains_it_show_the_training_too(make_classifier, revisions, wrap):
    classifier = make_classifier(candidate_layers=1)
    clean = FunctionTransformer()
    outer = make_pipeline(clean, classifier) if wrap == "pipeline" else GridSearchCV(classifier, {}, cv=2)
    assert "<summary>Training</summary>" not in outer._repr_html_()
    page = outer.fit(*revisions)._repr_html_()
    assert page.count("<summary>Training</summary>") == 1
    assert shown(page)["trained"] == "3 in 100% of the steps"


def test_an_unfitted_classifier_shows_its_parameters_alone():
    page = IRTuningClassifier(max_epochs=7)._repr_html_()
    assert "<summary>Parameters</summary>" in page
    assert "<summary>Training</summary>" not in page
    assert ["", "max_epochs"] in [[row[0], row[1].split()[0]] for row in Tables(page).rows if len(row) == 3]


def test_attributes_are_shown_below(fitted):
    page = fitted._repr_html_()
    assert page.index("<summary>Training</summary>") < page.index("<summary>Fitted attributes</summary>")
    assert "n_trainable_parameters_" in page


def test_notebooks_get_it_as_html_and_terminals_as_text(fitted):
    bundle = fitted._repr_mimebundle_()
    assert bundle["text/plain"] == repr(fitted)
    assert "<summary>Training</summary>" in bundle["text/html"]
    with sklearn.config_context(display="text"):
        assert "text/html" not in fitted._repr_mimebundle_()


@pytest.mark.parametrize("estimator", [IRTuningClassifier(), GradientNormSelection(), EditFeatures()])
def test_the_question_mark_leads_to_the_page_of_the_class(estimator):
    page = f"{DOCUMENTATION}/generated/sklearn_irt.{type(estimator).__name__}.html"
    assert f'href="{page}"' in estimator._repr_html_()


def test_what_a_user_derives_has_no_page():
    class Mine(LayerSelection):
        def select(self, step):
            return self.layers_

    assert DOCUMENTATION not in Mine()._repr_html_()
