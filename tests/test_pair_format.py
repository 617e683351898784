import pytest

from sklearn_irt.pair_format import write_pair, write_shortened
from sklearn_irt.pairs import Pair

INTENTIONS = ["clarity", "fluency"]
INSTRUCTION = "Why was this text revised? Choose one intention: clarity, fluency.\n"
FILLER = " ".join(f"w{number}" for number in range(40))


def arrow(before: str, after: str) -> str:
    return f"{before} => {after}"


def counts(n_edits: int, n_deleted: int, n_words: int, n_added: int, kept: int) -> str:
    return f"{n_edits} edits, {n_deleted} of {n_words} words deleted, {n_added} added, {kept} of 10 letters kept:"


FORMATS = ["before-after", "instruction", "inline-diff", arrow]


@pytest.mark.parametrize(
    ("pair_format", "text"),
    [
        ("before-after", "Before: He go home.\nAfter: He goes home."),
        ("instruction", INSTRUCTION + "Before: He go home.\nAfter: He goes home.\nIntention:"),
        (
            "inline-diff",
            "He [- go -] {+ goes +} home.\n"
            "1 edits, 1 of 4 words deleted, 1 added, 7 of 10 letters kept: [- go -] {+ goes +}",
        ),
        (arrow, "He go home. => He goes home."),
    ],
)
def test_each_format_writes_a_replacement(pair_format, text):
    assert write_pair(Pair("He go home.", "He goes home."), pair_format, INTENTIONS, 8) == text


@pytest.mark.parametrize(
    ("pair_format", "text"),
    [
        ("before-after", "Before: \nAfter: New text."),
        ("instruction", INSTRUCTION + "Before: \nAfter: New text.\nIntention:"),
        ("inline-diff", "{+ New text. +}\n" + counts(1, 0, 0, 3, 0) + " {+ New text. +}"),
        (arrow, " => New text."),
    ],
)
def test_each_format_writes_an_empty_before(pair_format, text):
    assert write_pair(Pair("", "New text."), pair_format, INTENTIONS, 8) == text


@pytest.mark.parametrize(
    ("pair_format", "text"),
    [
        ("before-after", "Before: Old text.\nAfter: "),
        ("instruction", INSTRUCTION + "Before: Old text.\nAfter: \nIntention:"),
        ("inline-diff", "[- Old text. -]\n" + counts(1, 3, 3, 0, 0) + " [- Old text. -]"),
        (arrow, "Old text. => "),
    ],
)
def test_each_format_writes_an_empty_after(pair_format, text):
    assert write_pair(Pair("Old text.", ""), pair_format, INTENTIONS, 8) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("It rains.", "It rains hard.", "It rains {+ hard +}.\n" + counts(1, 0, 3, 1, 0) + " {+ hard +}"),
        ("It rains hard.", "It rains.", "It rains [- hard -].\n" + counts(1, 1, 4, 0, 0) + " [- hard -]"),
        (
            "I seen it then.",
            "I saw it now.",
            # difflib's ratio of "seen  then" and "saw  now": 2 * len("s  n") / 18
            "I [- seen -] {+ saw +} it [- then -] {+ now +}.\n"
            + counts(2, 2, 5, 2, 4)
            + " [- seen -] {+ saw +} [- then -] {+ now +}",
        ),
        ("It rains.", "It rains.", "It rains.\n" + counts(0, 0, 3, 0, 10) + " none"),
        ("I seen  it.", "I saw it.", "I [- seen -] {+ saw +} it.\n" + counts(1, 1, 4, 1, 3) + " [- seen -] {+ saw +}"),
    ],
)
def test_inline_diff_marks_every_edit_and_lists_them(before, after, text):
    assert write_pair(Pair(before, after), "inline-diff", INTENTIONS, 8) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("X a b c d e f g h i j.", "Y a b c d e f g h i j.", "[- X -] {+ Y +} a b c d e f g h …"),
        ("z i h g f e d c b a X.", "z i h g f e d c b a Y.", "… h g f e d c b a [- X -] {+ Y +}."),
        ("X a b c d e f g h.", "Y a b c d e f g h.", "[- X -] {+ Y +} a b c d e f g h."),
        ("a b c d e f g h i j k.", "a b c d e f g h i j k.", "a b c d e f g h i j k."),
    ],
)
def test_inline_diff_keeps_eight_unchanged_words_beside_an_edit(before, after, text):
    assert write_pair(Pair(before, after), "inline-diff", INTENTIONS, 8).splitlines()[0] == text


@pytest.mark.parametrize(
    ("context", "marked"),
    [
        (0, "… [- seen -] {+ saw +} … [- then -] {+ now +} …"),
        (3, "… c d e [- seen -] {+ saw +} f g h … k l m [- then -] {+ now +} n o."),
        (None, "u v w x y z a b c d e [- seen -] {+ saw +} f g h i j k l m [- then -] {+ now +} n o."),
    ],
)
def test_inline_diff_keeps_as_many_unchanged_words_as_the_context_says(context, marked):
    pair = Pair(
        "u v w x y z a b c d e seen f g h i j k l m then n o.", "u v w x y z a b c d e saw f g h i j k l m now n o."
    )
    text = f"{marked}\n" + counts(2, 2, 24, 2, 4) + " [- seen -] {+ saw +} [- then -] {+ now +}"
    assert write_pair(pair, "inline-diff", INTENTIONS, context) == text


def test_no_ellipsis_stands_for_a_single_word():
    text = write_pair(Pair("He go home.", "He goes home."), "inline-diff", INTENTIONS, 0)
    assert text.splitlines()[0] == "He [- go -] {+ goes +} …"


@pytest.mark.parametrize("pair_format", ["before-after", "instruction", arrow])
def test_only_inline_diff_uses_the_context(pair_format):
    pair = Pair(f"{FILLER} old", f"{FILLER} new")
    none, all_words = (write_pair(pair, pair_format, INTENTIONS, context) for context in (0, None))
    assert none == all_words


def test_inline_diff_counts_the_words_that_it_leaves_out():
    words = " ".join("abcdefghijklmnop")
    assert counts(1, 1, 17, 1, 0) in write_pair(Pair(f"X {words}", f"Y {words}"), "inline-diff", INTENTIONS, 8)


@pytest.mark.parametrize("text", ["It rains. \n", " It rains. "])
def test_inline_diff_of_equal_texts_says_none(text):
    assert write_pair(Pair(text, text), "inline-diff", INTENTIONS, 8) == f"It rains.\n{counts(0, 0, 3, 0, 10)} none"


def test_white_space_at_an_end_is_no_edit_beside_another():
    bare = write_pair(Pair("I seen it.", "I saw it."), "inline-diff", INTENTIONS, 8)
    assert write_pair(Pair("I seen it. ", "I saw it."), "inline-diff", INTENTIONS, 8) == bare


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("a b", "a  b", "a [-  b -] {+   b +}"),
        ("a b", "a\nb", "a [-  b -] {+ \nb +}"),
        ("a ", "a", "a [-   -]"),
        ("a", "a\n", "a {+ \n +}"),
    ],
)
def test_inline_diff_shows_which_white_space_changed(before, after, marked):
    written = write_pair(Pair(before, after), "inline-diff", INTENTIONS, 8)
    assert written.startswith(f"{marked}\n1 edits")
    assert written.endswith(f": {marked.removeprefix('a ')}")


@pytest.mark.parametrize("pair_format", ["before-after", "instruction"])
def test_white_space_around_the_texts_is_left_out(pair_format):
    bare, padded = Pair("Old.", "New."), Pair(" Old.\n", "\tNew. ")
    assert write_pair(padded, pair_format, INTENTIONS, 8) == write_pair(bare, pair_format, INTENTIONS, 8)


def test_a_callable_gets_the_texts_as_they_are():
    assert write_pair(Pair(" Old.\n", "New. "), arrow, INTENTIONS, 8) == " Old.\n => New. "


@pytest.mark.parametrize("pair_format", FORMATS)
def test_a_single_text_is_written_as_it_is_in_every_format(pair_format):
    assert write_pair(Pair(None, " one text\n"), pair_format, INTENTIONS, 8) == " one text\n"


@pytest.mark.parametrize("returned", [None, 3, b"bytes", ("x", "y")], ids=repr)
def test_a_callable_that_returns_no_string_is_refused_naming_the_type(returned):
    with pytest.raises(TypeError, match=f"pair_format returned {type(returned).__name__}"):
        write_pair(Pair("Old.", "New."), lambda before, after: returned, INTENTIONS, 8)


@pytest.mark.parametrize("pair_format", FORMATS)
@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(Pair(f"old {FILLER}", f"new {FILLER}"), id="start"),
        pytest.param(Pair(f"{FILLER} old {FILLER}", f"{FILLER} new {FILLER}"), id="middle"),
        pytest.param(Pair(f"{FILLER} old", f"{FILLER} new"), id="end"),
    ],
)
def test_a_long_pair_is_cut_until_it_fits_and_keeps_its_edit(pair, pair_format):
    n_letters = 120 if pair_format == "inline-diff" else 160  # it leaves out most words by itself

    assert len(write_pair(pair, pair_format, INTENTIONS, 8)) > n_letters
    text = write_shortened(pair, pair_format, INTENTIONS, 8, lambda text: len(text) <= n_letters)
    assert len(text) <= n_letters
    assert "old" in text
    assert "new" in text


@pytest.mark.parametrize(
    ("pair", "n_letters", "expected"),
    [
        pytest.param(Pair("X a b c d e f", "Y a b c d e f"), 8, Pair("X a b …", "Y a b …"), id="start"),
        pytest.param(Pair("a b c d X e f g h", "a b c d Y e f g h"), 13, Pair(" … d X e …", " … d Y e …"), id="middle"),
        pytest.param(Pair("a b c d e f X", "a b c d e f Y"), 9, Pair(" … e f X", " … e f Y"), id="end"),
        pytest.param(Pair("a b c d e f", "a b c d e f Y"), 8, Pair(" … d e f", " … d e f Y"), id="insertion"),
        pytest.param(Pair("X a b c d e Z", "Y a b c d e W"), 9, Pair("X a … e Z", "Y a … e W"), id="two edits"),
    ],
)
def test_the_unchanged_words_nearest_to_an_edit_are_kept_as_many_as_fit(pair, n_letters, expected):
    text = write_shortened(pair, arrow, INTENTIONS, 8, lambda text: len(text.split(" => ")[0]) <= n_letters)
    assert text == arrow(*expected)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        pytest.param(Pair("a b c d", "w x y z"), Pair("a b …", "w x …"), id="replacement"),
        pytest.param(Pair("", "r s t u v w x y z"), Pair("", "r s t u v …"), id="insertion"),
        pytest.param(Pair("r s t u v w x y z", ""), Pair("r s t u v …", ""), id="deletion"),
    ],
)
def test_edits_that_are_too_long_alone_keep_the_first_words_of_both_sides(pair, expected):
    text = write_shortened(pair, arrow, INTENTIONS, 8, lambda text: len(text) <= 12 + len(" => "))
    assert text == arrow(*expected)


def test_edits_that_are_too_many_keep_the_first_of_them():
    words = [f"w{number}" for number in range(40)]
    pair = Pair(" ".join(words), " ".join("new" if number % 2 else word for number, word in enumerate(words)))
    text = write_shortened(pair, "inline-diff", INTENTIONS, 8, lambda text: len(text) <= 200)
    assert 150 < len(text) <= 200
    counted, edits = text.splitlines()[1].split(":")
    assert counted.startswith("20 edits, 20 of 40 words deleted, 20 added")
    assert edits.startswith(" [- w1 -] {+ new +} [- w3 -] {+ new +}")
    assert edits.endswith(" {+ new +}")


@pytest.mark.parametrize("context", [3, None])
def test_a_context_that_does_not_fit_is_narrowed_around_the_edit(context):
    expected = "… c d [- X -] {+ Y +} e f …"
    pair = Pair("a b c d X e f g h", "a b c d Y e f g h")
    text = write_shortened(
        pair, "inline-diff", INTENTIONS, context, lambda text: len(text.splitlines()[0]) <= len(expected)
    )
    assert text.splitlines()[0] == expected


def test_a_moved_phrase_is_still_the_edit_of_a_text_that_is_cut():
    pair = Pair(f"So as is well known, {FILLER}", f"So {FILLER} as is well known,")
    text = write_shortened(pair, "inline-diff", INTENTIONS, 8, lambda text: len(text) <= 190)
    assert text.splitlines()[0] == "So [- as is well known, -] w0 w1 w2 … w37 w38 w39 {+ as is well known, +}"


@pytest.mark.parametrize("n_letters", [80, 100, 200, 400])
def test_the_counts_are_those_of_the_whole_pair_however_much_is_cut(n_letters):
    pair = Pair(f"{FILLER} a b c d e f {FILLER} g", f"{FILLER} u v w x y z {FILLER} h")
    whole = write_pair(pair, "inline-diff", INTENTIONS, 8)
    text = write_shortened(pair, "inline-diff", INTENTIONS, 8, lambda text: len(text) <= n_letters)
    assert text.splitlines()[1].split(":")[0] == whole.splitlines()[1].split(":")[0]
    assert "7 of 87 words deleted, 7 added" in text


def test_a_single_text_keeps_its_first_words():
    assert write_shortened(Pair(None, "a b c d e"), arrow, INTENTIONS, 8, lambda text: len(text) <= 6) == "a b c"


def test_a_long_pair_without_an_edit_keeps_its_first_words():
    pair = Pair("a b c d e f", "a b c d e f")
    assert write_shortened(pair, arrow, INTENTIONS, 8, lambda text: len(text) <= 14) == "a b c => a b c"


@pytest.mark.parametrize(
    ("pair", "shortest"),
    [
        (Pair("a b c", "x y z"), "a … => x …"),
        (Pair("a b c", "a b x"), " … c =>  … x"),
        (Pair("a b", "a b"), "a => a"),
        (Pair(None, "a b c"), "a"),
    ],
)
def test_where_nothing_fits_the_shortest_text_is_returned_all_the_same(pair, shortest):
    assert write_shortened(pair, arrow, INTENTIONS, 8, lambda text: False) == shortest
