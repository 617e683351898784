"""What holds for texts of any characters and any length: order is kept, nothing is lost, no text is too long."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sklearn_irt.alignment import Block, common_blocks
from sklearn_irt.batching import LengthBuckets
from sklearn_irt.edits import find_edits, join_pieces, split_words
from sklearn_irt.fixed_shapes import batches_of_fixed_shape, fill_up
from sklearn_irt.known_answers import KnownAnswers
from sklearn_irt.pair_format import write_pair
from sklearn_irt.pairs import Pair, read_pairs
from sklearn_irt.states_store import between_fits
from sklearn_irt.tokenization import tokenize_pairs

INTENTIONS = ["clarity", "fluency"]
ANY_TIME = settings(deadline=None, derandomize=True, max_examples=60)
FEW = settings(ANY_TIME, max_examples=12, suppress_health_check=[HealthCheck.too_slow])

# Words of a few letters come again and again, as in a revision; the others are what breaks a reader of texts.
ODD = ["[-", "-]", "{+", "+}", "…", " …", "<unk>", "<eos>", "<pad>", "<cls>", "\0", "\x1c", "\r\n", "\u200f", "\u202e"]
ODD += [
    "e\u0301",
    "👍🏽",
    "👩‍👩‍👧",
    "שלום",
    "日本語",
    "\ufeff",
    "\u2028",
    "’",
    "it’s",
    "Before:",
    "Intention:",
    "none",
    "\x85",
]
WORDS = st.sampled_from(["a", "bb", "the", ".", ",", *ODD]) | st.text(max_size=6)
TEXTS = st.lists(st.tuples(st.sampled_from(["", " ", "  ", "\n"]), WORDS), max_size=30).map(
    lambda words: "".join(blank + word for blank, word in words)
)
UNICODE = st.text(max_size=80) | TEXTS
# As a user may write them: surrogates cannot be encoded, and are refused with their row.
ENCODABLE = UNICODE.map(lambda text: text.encode("utf-8", "ignore").decode())
FILLED = ENCODABLE.filter(str.strip)
PAIRS = st.tuples(ENCODABLE, ENCODABLE).filter(lambda pair: any(text.strip() for text in pair))
LETTERS = st.lists(st.sampled_from("abc."), max_size=60)
FORMATS = ["before-after", "instruction", "inline-diff", "{} => {}".format]


@ANY_TIME
@given(UNICODE, UNICODE)
@example(":0", " : 0:")
def test_edits_give_back_both_texts_to_the_letter(before, after):
    pieces = find_edits(before, after)
    assert join_pieces(pieces) == (before, after)
    assert all(piece.before or piece.after for piece in pieces)
    if any(piece.edited for piece in pieces):
        assert before != after
    else:
        assert before == after
    for piece in pieces:  # white space alone is no edit
        assert piece.edited or "".join(piece.before.split()) == "".join(piece.after.split())


@ANY_TIME
@given(UNICODE)
def test_words_joined_are_the_text(text):
    assert "".join(split_words(text)) == text


@ANY_TIME
@given(
    st.lists(st.sampled_from("abc."), max_size=60), st.lists(st.sampled_from("abc."), max_size=60), st.integers(0, 400)
)
def test_common_words_are_equal_and_in_order_however_little_effort_is_allowed(before, after, effort):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sklearn_irt.alignment._MOST_EFFORT", effort)
        blocks = common_blocks(before, after)
    end = Block(0, 0, 0)
    for block in blocks:
        assert block.size > 0
        assert block.before >= end.before
        assert block.after >= end.after
        assert (block.before, block.after) != (end.before, end.after) or end == Block(0, 0, 0)
        end = Block(block.before + block.size, block.after + block.size, 0)
        assert before[block.before : end.before] == after[block.after : end.after]
    assert end.before <= len(before)
    assert end.after <= len(after)
    if before == after and before:
        assert blocks == [Block(0, 0, len(before))]


@ANY_TIME
@given(PAIRS)
def test_a_text_with_all_its_context_holds_every_word_of_both_sides_in_order(pair):
    before, after = pair
    plain = write_pair(Pair(before, after), "before-after", INTENTIONS, None)
    assert plain == f"Before: {before.strip()}\nAfter: {after.strip()}"
    marked = write_pair(Pair(before, after), "inline-diff", INTENTIONS, None)
    position = 0
    for piece in find_edits(before, after):
        for text in (piece.before, piece.after) if piece.edited else (piece.after,):
            position = marked.index(text.strip(), position) + len(text.strip())


@pytest.fixture(scope="module", params=["llama", "bert"])
def tokenizer(request, backbones):
    return AutoTokenizer.from_pretrained(backbones[request.param])


@pytest.mark.parametrize("pair_format", FORMATS, ids=[*FORMATS[:3], "a callable"])
def test_tokenized_texts_are_those_of_their_rows_and_never_too_long(tokenizer, pair_format):
    @ANY_TIME
    @given(st.lists(PAIRS, min_size=1, max_size=8), st.integers(8, 60))
    def check(X, max_length):
        pairs = read_pairs(X)
        tokenized = tokenize_pairs(pairs, tokenizer, pair_format, INTENTIONS, 8, max_length)
        assert all(1 <= len(ids) <= max_length for ids in tokenized.token_ids)
        assert len({tuple(ids) for ids in tokenized.token_ids}) == len(tokenized.token_ids)
        assert set(tokenized.texts) == set(range(len(tokenized.token_ids)))
        for row, pair in enumerate(pairs):
            alone = tokenize_pairs([pair], tokenizer, pair_format, INTENTIONS, 8, max_length)
            assert tokenized.token_ids[tokenized.texts[row]] == alone.token_ids[0]

    check()


@ANY_TIME
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=300), st.integers(1, 64), st.none() | st.integers(0, 2**32 - 1)
)
def test_every_row_comes_once_in_a_pass_whatever_its_length(lengths, batch_size, seed):
    random_state = None if seed is None else np.random.RandomState(seed)
    buckets = LengthBuckets(np.array(lengths), batch_size, random_state)
    for _ in range(2):
        batches = list(buckets)
        assert len(batches) == len(buckets)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
        assert max(map(len, batches)) <= batch_size
        assert sum(len(batch) < batch_size for batch in batches) <= 1


@ANY_TIME
@given(st.lists(st.integers(1, 2000), max_size=200), st.sampled_from(["fp32", "bf16"]))
def test_every_text_comes_once_in_batches_of_fixed_shape_and_fits_in(lengths, precision):
    lengths = np.array(lengths, dtype=np.intp)
    seen = []
    for texts, n_rows, width in batches_of_fixed_shape(lengths, precision):
        assert 1 <= len(texts) <= n_rows
        assert width - 16 < lengths[texts].min() <= lengths[texts].max() <= width
        filled = fill_up(texts, n_rows)
        assert filled.shape == (n_rows,)
        assert filled[: len(texts)].tolist() == texts.tolist()
        seen += texts.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def predict_anew(classifier, X):
    classifier.net_.module_.known_answers = KnownAnswers()
    between_fits.clear()
    return classifier.predict_proba(X)


@pytest.mark.filterwarnings("ignore:.*had more than max_length")
@pytest.mark.parametrize(("rows", "family"), [(PAIRS, "llama"), (FILLED, "llama"), (PAIRS, "bert")])
def test_each_row_gets_its_own_probabilities_in_its_place(make_classifier, revisions, backbones, rows, family):
    X, y = revisions
    classifier = make_classifier(backbone=backbones[family], max_length=96)
    classifier.fit(X.to_numpy() if rows is PAIRS else X["after"].fillna("-").replace("", "-").to_numpy(), y)

    @FEW
    @given(st.lists(rows, min_size=1, max_size=6))
    def check(texts):
        together = predict_anew(classifier, texts)
        assert together.shape == (len(texts), 5)
        assert np.isfinite(together).all()
        np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-9)
        for row, text in enumerate(texts):
            np.testing.assert_allclose(predict_anew(classifier, [text]), together[[row]], rtol=0, atol=1e-6)

    check()
