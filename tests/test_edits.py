import time
from itertools import product

import pytest

from sklearn_irt import load_sample_revisions
from sklearn_irt.edits import Piece, find_edits, join_edits, join_pieces, letters_kept, split_words

ODD_TEXTS = [
    "",
    " ",
    "\n\n\t",
    "word",
    " leading and trailing \n",
    "two  spaces\tand\na line",
    "no-break\u00a0space and\u3000wide",
    "line\u2028separator\x85and\x1cfile separator",
    "zero\u200bwidth \u200b",
    "e\u0301 is not \u00e9",
    "👩‍👩‍👧 ok 👍🏽!",
    "日本語の文。もう一つ、ね",
    "don't, don’t, 'quoted' a''b",
    "snake_case __x__ 3.14 1,000 50%",
    "(brackets) [-old][+new] … --- ***",
    "mixed العربية and עברית",
    "ﬁ İ ß ẞ",
    "trailing white space   ",
]


def edited(before: str, after: str) -> list[tuple[str, str]]:
    return [(piece.before, piece.after) for piece in find_edits(before, after) if piece.edited]


def sides(pieces: list[Piece]) -> tuple[str, str]:
    return "".join(piece.before for piece in pieces), "".join(piece.after for piece in pieces)


def words(text: str) -> list[str]:
    return [word.strip() for word in split_words(text) if word.strip()]


@pytest.fixture(scope="module")
def sample_pairs():
    return [tuple(pair) for pair in load_sample_revisions().data]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_words_rejoin_to_the_text_to_the_letter(text):
    assert "".join(split_words(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("He goes.", ["He", " goes", "."]),
        (" He\n\ngoes", [" He", "\n\ngoes"]),
        ("don't, don’t", ["don't", ",", " don’t"]),
        ("'a'", ["'", "a", "'"]),
        ("well-known 3.5", ["well", "-", "known", " 3", ".", "5"]),
    ],
)
def test_a_word_keeps_the_white_space_before_it(text, expected):
    assert split_words(text) == expected


@pytest.mark.parametrize("before", ODD_TEXTS)
def test_pieces_of_odd_texts_rejoin_to_both_texts_to_the_letter(before):
    assert [sides(find_edits(before, after)) for after in ODD_TEXTS] == [(before, after) for after in ODD_TEXTS]


def test_pieces_of_the_sample_corpus_rejoin_to_both_texts_to_the_letter(sample_pairs):
    assert [sides(find_edits(*pair)) for pair in sample_pairs] == sample_pairs


def test_pieces_that_are_not_edited_have_the_same_words_on_both_sides(sample_pairs):
    pieces = [piece for pair in [*sample_pairs, *product(ODD_TEXTS, ODD_TEXTS)] for piece in find_edits(*pair)]
    different = [piece for piece in pieces if not piece.edited and words(piece.before) != words(piece.after)]
    assert not different


def test_every_pair_of_the_sample_corpus_has_an_edit(sample_pairs):
    assert all(edited(*pair) for pair in sample_pairs)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param("It rains.", "It rains hard.", [("", " hard")], id="insertion"),
        pytest.param("It rains.", "Now It rains.", [("", "Now")], id="insertion at the start"),
        pytest.param("It rains", "It rains hard", [("", " hard")], id="insertion at the end"),
        pytest.param("", "It rains.", [("", "It rains.")], id="insertion into nothing"),
        pytest.param("It rains hard.", "It rains.", [(" hard", "")], id="deletion"),
        pytest.param("It rains.", "", [("It rains.", "")], id="deletion of everything"),
        pytest.param("I seen it.", "I saw it.", [(" seen", " saw")], id="replacement"),
        pytest.param("I seen it then.", "I saw it now.", [(" seen", " saw"), (" then", " now")], id="two replacements"),
        pytest.param("it rains.", "It rains.", [("it", "It")], id="case"),
        pytest.param("It rains", "It rains.", [("", ".")], id="punctuation"),
        pytest.param("well-known", "well known", [("-", "")], id="hyphen"),
        pytest.param("It rains.", "It rains.", [], id="nothing"),
    ],
)
def test_edits_are_the_words_that_changed(before, after, expected):
    assert edited(before, after) == expected


def test_pieces_come_in_the_order_of_the_text():
    assert find_edits("I seen it.", "I saw it.") == [
        Piece("I", "I", False),
        Piece(" seen", " saw", True),
        Piece(" it.", " it.", False),
    ]


def test_equal_texts_are_one_piece_that_is_not_edited():
    assert find_edits("It rains.", "It rains.") == [Piece("It rains.", "It rains.", False)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("I seen  it.", "I saw it.", id="inner"),
        pytest.param("  I seen it.", "I saw it.", id="leading"),
        pytest.param("I seen it. ", "I saw it.", id="trailing, deleted"),
        pytest.param("I seen it.", "I saw it.\n", id="trailing, added"),
        pytest.param("I seen it. ", "I saw it.\n", id="trailing, replaced"),
    ],
)
def test_white_space_is_no_edit_beside_another_edit(before, after):
    assert edited(before, after) == [(" seen", " saw")]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [("a b c", "a  b c", [(" b", "  b")]), ("a b", "a\nb", [(" b", "\nb")]), (" a b", "a b", [(" a", "a")])],
)
def test_white_space_is_the_edit_where_nothing_else_changed(before, after, expected):
    assert edited(before, after) == expected


@pytest.mark.parametrize(("before", "after"), [("a b ", "a b"), ("a b", "a b\n"), ("a b ", "a b\t")])
def test_white_space_at_the_end_is_an_edit_where_nothing_else_changed(before, after):
    assert len(edited(before, after)) == 1


def test_edits_are_joined_side_by_side():
    assert join_edits(find_edits("I seen it then.", "I saw it now.")) == ("seen  then", "saw  now")
    assert join_edits(find_edits("It rains.", "It rains hard.")) == ("", "hard")
    assert join_edits(find_edits("same", "same")) == ("", "")


@pytest.mark.parametrize(
    ("deleted", "added", "share"), [("go", "goes", 2 * 2 / 6), ("same", "same", 1), ("cold", "hut", 0), ("", "new", 0)]
)
def test_letters_kept_is_twice_the_common_letters_over_all(deleted, added, share):
    assert letters_kept(deleted, added) == pytest.approx(share)


def test_letters_kept_looks_at_the_first_thousand_letters():
    assert letters_kept("a" * 1000 + "b" * 100_000, "a" * 1000 + "c" * 100_000) == 1


def test_a_long_list_of_words_that_change_between_commas_takes_no_minute():
    before, after = (" ".join(f"{letter}{number}," for number in range(2000)) for letter in "ab")
    start = time.process_time()
    pieces = find_edits(before, after)
    assert time.process_time() - start < 20  # it took more than a minute; now about one second
    assert join_pieces(pieces) == (before, after)
