import pytest
from transformers import AutoTokenizer

from sklearn_irt.pair_format import write_pair
from sklearn_irt.pairs import Pair, read_pairs
from sklearn_irt.tokenization import tokenize_pairs

INTENTIONS = ["clarity", "fluency"]
FILLER = " ".join(f"w{number}" for number in range(40))


def arrow(before: str, after: str) -> str:
    return f"{before} => {after}"


FORMATS = ["before-after", "instruction", "inline-diff", arrow]


@pytest.fixture(scope="module", params=["llama", "bert"])
def tokenizer(request, backbones):
    """Return a tokenizer; the second one puts special tokens around each text."""
    return AutoTokenizer.from_pretrained(backbones[request.param])


@pytest.fixture(scope="module")
def plain_tokenizer(backbones):
    return AutoTokenizer.from_pretrained(backbones["llama"])


@pytest.fixture(scope="module")
def pairs(revisions):
    odd = [
        Pair("", "Added."),
        Pair("Deleted.", ""),
        Pair(FILLER, f"{FILLER} end"),
        Pair("x" * 2000, "y" * 2000),
        Pair(FILLER, FILLER),
        Pair(None, FILLER),
        Pair(None, "one"),
        Pair("日本語 👍🏽", "日本 👍"),
    ]
    return [*read_pairs(revisions[0])[:12], *odd]


def count_tokens(pair, tokenizer, pair_format, context=8):
    return len(tokenizer(write_pair(pair, pair_format, INTENTIONS, context))["input_ids"])


@pytest.mark.parametrize("max_length", [8, 24, 80])
@pytest.mark.parametrize("pair_format", FORMATS)
def test_no_text_is_longer_than_max_length_or_empty(pairs, tokenizer, pair_format, max_length):
    tokenized = tokenize_pairs(pairs, tokenizer, pair_format, INTENTIONS, 8, max_length)
    assert tokenized.texts.shape == (len(pairs),)
    assert all(1 <= len(ids) <= max_length for ids in tokenized.token_ids)
    assert tokenized.lengths.max() == max(map(len, tokenized.token_ids))


def test_equal_texts_of_several_pairs_are_kept_once(plain_tokenizer):
    beginnings = "here", "there"  # both left out
    pairs = [Pair(f"{beginning} {FILLER} old", f"{beginning} {FILLER} new") for beginning in beginnings]
    pairs.insert(1, Pair("It old.", "It new."))
    tokenized = tokenize_pairs(pairs, plain_tokenizer, "inline-diff", INTENTIONS, 8, 10_000)
    assert tokenized.texts.tolist() == [0, 1, 0]
    assert tokenized.token_ids == [
        plain_tokenizer(write_pair(pair, "inline-diff", INTENTIONS, 8))["input_ids"] for pair in pairs[:2]
    ]
    assert tokenized.lengths.tolist() == [len(tokenized.token_ids[text]) for text in (0, 1, 0)]


def test_a_pair_too_long_with_all_its_words_keeps_as_many_as_fit(plain_tokenizer):
    pair = Pair(f"{FILLER} old", f"{FILLER} new")
    max_length = count_tokens(pair, plain_tokenizer, "inline-diff", context=20)
    few, every = (
        tokenize_pairs([pair], plain_tokenizer, "inline-diff", INTENTIONS, context, max_length) for context in (8, None)
    )
    assert (few.n_cut, every.n_cut) == (0, 1)
    assert every.token_ids == [plain_tokenizer(write_pair(pair, "inline-diff", INTENTIONS, 20))["input_ids"]]


@pytest.mark.parametrize("max_length", [8, 24, 80, 10_000])
@pytest.mark.parametrize("pair_format", FORMATS)
def test_n_cut_counts_the_texts_that_are_longer_than_max_length(pairs, tokenizer, pair_format, max_length):
    n_cut = tokenize_pairs(pairs, tokenizer, pair_format, INTENTIONS, 8, max_length).n_cut
    assert n_cut == sum(count_tokens(pair, tokenizer, pair_format) > max_length for pair in pairs)


def test_a_text_of_exactly_max_length_is_not_cut(tokenizer):
    pair = Pair("He go home.", "He goes home.")
    n_tokens = count_tokens(pair, tokenizer, "inline-diff")
    whole = tokenize_pairs([pair], tokenizer, "inline-diff", INTENTIONS, 8, n_tokens)
    below = tokenize_pairs([pair], tokenizer, "inline-diff", INTENTIONS, 8, n_tokens - 1)
    assert (whole.lengths[0], whole.n_cut, below.n_cut) == (n_tokens, 0, 1)


@pytest.mark.parametrize("pair_format", FORMATS)
def test_a_text_that_fits_has_the_ids_that_the_tokenizer_gives_it_beside_texts_that_are_cut(tokenizer, pair_format):
    short = Pair("He go home.", "He goes home.")
    n_tokens = count_tokens(short, tokenizer, pair_format)
    tokenized = tokenize_pairs([Pair(FILLER, f"{FILLER} end"), short], tokenizer, pair_format, INTENTIONS, 8, n_tokens)
    assert tokenized.n_cut == 1
    ids = tokenized.token_ids[tokenized.texts[1]]
    assert ids == tokenizer(write_pair(short, pair_format, INTENTIONS, 8))["input_ids"]


@pytest.mark.parametrize("pair_format", FORMATS)
@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(Pair(f"old {FILLER}", f"new {FILLER}"), id="start"),
        pytest.param(Pair(f"{FILLER} old {FILLER}", f"{FILLER} new {FILLER}"), id="middle"),
        pytest.param(Pair(f"{FILLER} old", f"{FILLER} new"), id="end"),
    ],
)
def test_a_text_that_is_cut_still_shows_its_edit(tokenizer, pair, pair_format):
    tokenized = tokenize_pairs([pair], tokenizer, pair_format, INTENTIONS, 8, 80)
    assert tokenized.n_cut == 1
    text = tokenizer.decode(tokenized.token_ids[0]).replace(" ", "")
    assert "old" in text
    assert "new" in text


def test_a_single_text_that_is_cut_begins_as_it_did(plain_tokenizer):
    (ids,) = tokenize_pairs([Pair(None, FILLER)], plain_tokenizer, "inline-diff", INTENTIONS, 8, 20).token_ids
    whole = plain_tokenizer(FILLER)["input_ids"]
    assert len(ids) >= 15
    assert ids == whole[: len(ids)]


@pytest.mark.parametrize("max_length", [10_000, 30])
@pytest.mark.parametrize("special", ["<eos>", "<pad>", "<cls>", "<unk>"])
def test_a_special_token_spelled_in_a_text_is_read_as_ordinary_text(tokenizer, special, max_length):
    pair = Pair(None, f"a {special} b{special} " + FILLER)
    special_id = tokenizer.convert_tokens_to_ids(special)
    around = tokenizer("a")["input_ids"].count(special_id)
    assert tokenizer(pair.after)["input_ids"].count(special_id) == around + 2
    (ids,) = tokenize_pairs([pair], tokenizer, "inline-diff", INTENTIONS, 8, max_length).token_ids
    assert ids.count(special_id) == around


def test_reading_special_tokens_as_text_does_not_change_the_tokenizer_for_others(tokenizer):
    before = tokenizer("a <eos> b " + FILLER)["input_ids"]
    tokenize_pairs([Pair(None, "a <eos> b " + FILLER)], tokenizer, "inline-diff", INTENTIONS, 8, 12)
    assert tokenizer("a <eos> b " + FILLER)["input_ids"] == before


def test_a_text_without_any_token_is_refused_naming_its_row(plain_tokenizer):
    def only_additions(before: str, after: str) -> str:
        return after.replace(before, "")

    with pytest.raises(ValueError, match="Row 1 of X becomes a text without any token"):
        tokenize_pairs([Pair("a", "a b"), Pair("a", "a")], plain_tokenizer, only_additions, INTENTIONS, 8, 50)


def test_a_text_that_is_no_valid_unicode_is_refused_naming_its_row(plain_tokenizer):
    X = [("a", "b"), ("broken \ud800", "c")]
    with pytest.raises((TypeError, ValueError), match="Row 1"):
        tokenize_pairs(read_pairs(X), plain_tokenizer, "inline-diff", INTENTIONS, 8, 50)
