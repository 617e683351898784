"""Probabilities that can be trusted: of the row alone, the same at each call, finite, and of sum 1."""

import pickle

import numpy as np
import pytest

from sklearn_irt.states_store import between_fits

N_ROWS = 10_000
# What the others in a batch change: the last bit of a logit in fp32, which bf16's products keep to as well, for the
# head is in fp32.
LAST_BIT = 1e-7


@pytest.fixture(scope="module")
def texts(revisions):
    """Return short texts, as many as a user may have unlabelled."""
    draw = np.random.RandomState(0)
    words = sorted({word for text in revisions[0]["after"] for word in text.split()})
    return np.array([" ".join(draw.choice(words, n)) for n in draw.randint(1, 9, N_ROWS)], dtype=object)


@pytest.fixture(
    scope="module",
    params=[(family, precision) for family in ("llama", "gpt2", "bert") for precision in ("fp32", "bf16")],
    ids="-".join,
)
def fitted(request, make_classifier, backbones, texts, revisions):
    family, precision = request.param
    classifier = make_classifier(backbone=backbones[family], precision=precision, learning_rate=0.01)
    return classifier.fit(texts[:60], revisions[1])


def predict_anew(classifier, texts):
    """Predict with nothing known from before."""
    between_fits.clear()
    return pickle.loads(pickle.dumps(classifier)).predict_proba(texts)


def test_a_row_has_its_answer_alone_and_at_any_place_among_ten_thousand(fitted, texts):
    together = predict_anew(fitted, texts)
    assert len(np.unique(together, axis=0)) > 0.9 * N_ROWS
    assert together.dtype == np.float64
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=0, atol=1e-12)
    for row in (0, 1, 4_999, N_ROWS - 1):
        alone = predict_anew(fitted, texts[[row]])
        np.testing.assert_allclose(alone, together[[row]], rtol=0, atol=LAST_BIT)
        assert alone.argmax() == together[row].argmax()
    order = np.random.RandomState(1).permutation(N_ROWS)[: N_ROWS // 10]
    np.testing.assert_allclose(predict_anew(fitted, texts[order]), together[order], rtol=0, atol=LAST_BIT)


def test_the_same_call_gives_the_same_numbers(fitted, texts):
    first = fitted.predict_proba(texts[:200])
    assert np.array_equal(fitted.predict_proba(texts[:200]), first)
    assert np.array_equal(predict_anew(fitted, texts[:200]), first)
    assert np.array_equal(fitted.predict(texts[:200]), fitted.classes_[first.argmax(axis=1)])


def test_the_same_fit_gives_the_same_numbers(make_classifier, revisions, backbones):
    X, y = revisions
    for family in backbones:
        classifier = make_classifier(backbone=backbones[family])
        first = classifier.fit(X, y).predict_proba(X)
        between_fits.clear()
        assert np.array_equal(classifier.fit(X, y).predict_proba(X), first)


@pytest.mark.parametrize("factor", [1e3, 1e30])
def test_probabilities_of_extreme_logits_are_finite_and_sum_to_one(make_classifier, revisions, factor):
    X, y = revisions
    classifier = make_classifier(learning_rate=0.1).fit(X, y)
    learned = classifier.net_.module_.state_dict()
    classifier.net_.module_.load_state_dict(
        {name: factor * tensor if name.endswith("score.weight") else tensor for name, tensor in learned.items()}
    )
    probabilities = classifier.predict_proba(X)
    assert (probabilities.max(axis=1) == 1).mean() > 0.5
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-12)
