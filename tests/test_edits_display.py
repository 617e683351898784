"""The display of explained edits: what a notebook, a terminal and matplotlib show of them."""

import re
import sys
from html.parser import HTMLParser
from io import StringIO

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sklearn_irt import EditsDisplay, explain_edits, make_edit_baseline
from sklearn_irt.edits import find_edits, only_edits
from sklearn_irt.edits_html import ExplainedPair

mpl.use("agg")

ODD_PAIRS = [
    ('He said <script>alert(1)</script> & "no".', "He said <img src=x onerror='alert(2)'> && \"yes\"."),
    ("הוא הלך הביתה אתמול.", "הוא רץ הביתה היום."),
    ("The 👩‍👩‍👧 goes home", "The 👍🏽 went home"),
    ("two  spaces here\nand a line", "two spaces here\n\nand a line"),
    ("Actually I seen  it &amp; ran. ", "I saw it &amp; ran\n"),
    (None, "It rains."),
    ("It rains.", ""),
    ("a$b_{c}$ %s {x}", "a$b^{c}$ %d {y}"),
]


class Page(HTMLParser):
    """What a page shows: the text, in which deleted and added words are marked, the numbers, and what is hovered."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.texts, self.headings, self.numbers = [], [], [], [], []
        self.titles, self.shades, self.lines = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.open.append(attributes.get("class", tag))
        if "irt-text" in self.open:
            self.titles += [attributes["title"]] if "title" in attributes else []
            self.shades += [attributes["style"]] if "style" in attributes else []
        if self.open[-1] == "irt-text":
            self.texts.append("")
        elif tag == "p":
            (self.headings if "irt-pair" in self.open else self.lines).append("")
        elif tag in ("del", "ins") and "irt-text" in self.open:
            self.texts[-1] += f"<{tag}>"

    def handle_endtag(self, tag):
        self.open.pop()
        if tag in ("del", "ins") and "irt-text" in self.open:
            self.texts[-1] += f"</{tag}>"

    def handle_data(self, data):
        if "sub" in self.open:
            self.numbers.append(data)
        elif "irt-text" in self.open:
            self.texts[-1] += data
        elif "p" in self.open:
            (self.headings if "irt-pair" in self.open else self.lines)[-1] += data


@pytest.fixture(scope="module")
def baseline(revisions):
    """Return a fitted classifier."""
    return make_edit_baseline().fit(revisions[0].to_numpy(), revisions[1])


def page_of(display):
    return Page(display._repr_html_())


def sides_of(text):
    """Return both texts of a marked one."""
    before = re.sub(r"<ins>.*?</ins>", "", text, flags=re.DOTALL).replace("<del>", "").replace("</del>", "")
    after = re.sub(r"<del>.*?</del>", "", text, flags=re.DOTALL).replace("<ins>", "").replace("</ins>", "")
    return before, after


def without_blanks(text):
    return "".join(text.split())


def test_the_text_is_whole_with_its_edits_marked(baseline, revisions):
    X = revisions[0].to_numpy()
    texts = page_of(EditsDisplay.from_estimator(baseline, X, max_pairs=60)).texts
    assert len(texts) == 60
    for text, (before, after) in zip(texts, X, strict=True):
        assert [without_blanks(side) for side in sides_of(text)] == [without_blanks(before), without_blanks(after)]
        marked = [(edit.before.strip(), edit.after.strip()) for edit in only_edits(find_edits(before, after))]
        assert re.findall(r"<del>(.*?)</del>", text) == [deleted for deleted, _ in marked if deleted]
        assert re.findall(r"<ins>(.*?)</ins>", text) == [added for _, added in marked if added]


def test_a_small_pair_is_shown_to_the_letter(baseline):
    page = page_of(EditsDisplay.from_estimator(baseline, [("I seen it, then.", "I saw it then now.")]))
    assert page.texts == ["I <del>seen</del> <ins>saw</ins> it<del>,</del> then <ins>now</ins>."]


def test_what_users_wrote_is_text_and_runs_nothing(baseline, revisions):
    X, y = revisions
    evil = "</b><script>alert('\"1\"')</script>"
    clf = make_edit_baseline().fit(X.to_numpy(), np.where(y == "style", evil, evil[::-1]))
    page = page_of(EditsDisplay.from_estimator(clf, ODD_PAIRS))
    assert set(page.tags) <= {"style", "div", "p", "b", "span", "del", "ins", "sub"}
    assert all(evil in heading or evil[::-1] in heading for heading in page.headings)
    assert any(evil in title or evil[::-1] in title for title in page.titles)
    for text, (before, after) in zip(page.texts, ODD_PAIRS, strict=True):
        pieces = find_edits(before or "", after)
        marked = "".join(piece.before + piece.after if piece.edited else piece.after for piece in pieces)
        assert re.sub("</?(del|ins)>", "", text) == marked


def test_numbers_and_hovered_texts_are_those_of_the_explanation(baseline, revisions):
    X = revisions[0].to_numpy()[:10]
    explanation = explain_edits(baseline, X)
    page = page_of(EditsDisplay.from_explanation(explanation, X))
    assert [float(number) for number in page.numbers] == pytest.approx(explanation["fall"], abs=0.00501)
    assert page.titles == [
        f"Without this edit the probability of {edit.predicted} {'falls' if edit.fall >= 0 else 'rises'} from "
        f"{edit.probability:.4f} to {edit.probability_without:.4f}."
        for edit in explanation.itertuples()
    ]
    first = explanation.groupby("row").first()
    assert page.headings == [
        f"Pair {edit.Index}: {edit.predicted}, probability {edit.probability:.2f}" for edit in first.itertuples()
    ]


def shown_pair(row, pair, *, falls, probability=0.9):
    return ExplainedPair(row, find_edits(*pair), "style", probability, [probability - fall for fall in falls])


@pytest.mark.parametrize(
    ("fall", "written"), [(0.0052, "+0.01"), (0.0008, "+0.0008"), (-0.0008, "-0.0008"), (0, "+0.00")]
)
def test_a_small_fall_has_its_sign_and_digits_that_tell_it_from_none(fall, written):
    page = page_of(EditsDisplay([shown_pair(0, ("a b", "a c"), falls=[fall])]))
    assert page.numbers == [written]


def test_shades_grow_with_the_fall_and_tell_it_from_a_rise():
    falls = [0.4, 0.2, -0.2, 0, np.nan]
    pair = ("a b c d e f g h i", "1 b 2 d 3 f 4 h 5")
    page = page_of(EditsDisplay([shown_pair(0, pair, falls=falls)]))
    colours, strengths = zip(*re.findall(r"background:(#.{6})(..)", " ".join(page.shades)), strict=True)
    assert colours[0] == colours[1] != colours[2]
    strengths = [int(strength, 16) for strength in strengths]
    assert strengths[0] == pytest.approx(2 * strengths[1], abs=1)
    assert strengths[1] == strengths[2] > 0
    assert strengths[3:] == [0, 0]
    assert page.numbers == ["+0.40", "+0.20", "-0.20", "+0.00", "no text left"]
    assert "+0.40" in page.lines[0]
    assert "-0.40" in page.lines[0]


def test_differences_next_to_nothing_are_not_shaded_as_if_they_decided():
    page = page_of(EditsDisplay([shown_pair(0, ("I seen it", "I saw it"), falls=[1e-9])]))
    assert page.shades[0].endswith("00")
    assert "+0.10" in page.lines[0]


@pytest.mark.parametrize(("ground", "text"), [("ffffff", "000000"), ("111111", "dddddd"), ("1f1f1f", "cccccc")])
@pytest.mark.parametrize("fall", [0.5, -0.5])
def test_the_darkest_shade_can_be_read_in_light_and_dark_notebooks(ground, text, fall):
    (shade,) = page_of(EditsDisplay([shown_pair(0, ("I seen it", "I saw it"), falls=[fall])])).shades
    red_green_blue_alpha = np.array(mpl.colors.to_rgba(shade.removeprefix("background:")))
    alpha = red_green_blue_alpha[3]
    behind = alpha * red_green_blue_alpha[:3] + (1 - alpha) * np.array(mpl.colors.to_rgb(f"#{ground}"))
    lighter, darker = sorted([luminance(behind), luminance(mpl.colors.to_rgb(f"#{text}"))], reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) > 4.5  # the least that WCAG 2 asks of text


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def test_of_many_pairs_the_first_are_shown_and_the_others_counted(baseline, revisions):
    pairs = [("same", "same"), *map(tuple, revisions[0].to_numpy()[:30])]
    display = EditsDisplay.from_estimator(baseline, pairs)
    page = page_of(display)
    assert [heading.split(":")[0] for heading in page.headings] == [f"Pair {row}" for row in range(1, 21)]
    assert "Not shown: 10 more." in page.lines[1]
    assert page.lines[2] == "Pairs of equal texts, in which there is no edit: 1."
    display.max_pairs = 40
    assert len(page_of(display).headings) == 30
    assert len(page_of(EditsDisplay.from_estimator(baseline, pairs, max_pairs=3)).headings) == 3


def test_without_any_edit_it_says_so(baseline):
    display = EditsDisplay.from_estimator(baseline, [("same", "same")])
    assert page_of(display).headings == []
    assert str(display) == "Pairs of equal texts, in which there is no edit: 1."


def test_a_terminal_shows_the_same_as_text(baseline):
    explanation = explain_edits(baseline, [("I seen it, then.", "I saw it then.")])
    display = EditsDisplay.from_explanation(explanation, [("I seen it, then.", "I saw it then.")])
    seen, comma = explanation["fall"]
    assert str(display) == repr(display)
    assert str(display).splitlines() == [
        f"Pair 0: {explanation['predicted'][0]}, probability {explanation['probability'][0]:.2f}",
        f"I [- seen -] {{+ saw +}} ({seen:+.2f}) it [- , -] ({comma:+.2f}) then.",
    ]


def test_an_explanation_may_be_sorted_and_lack_pairs(baseline, revisions):
    X = revisions[0].to_numpy()[:10]
    explanation = explain_edits(baseline, X)
    chosen = explanation[explanation["row"].isin([2, 7, 5])].sort_values("fall", ascending=False)
    display = EditsDisplay.from_explanation(chosen, X)
    assert [pair.row for pair in display.pairs] == chosen["row"].unique().tolist()
    for pair in display.pairs:
        assert pair.falls == pytest.approx(explanation.loc[explanation["row"] == pair.row, "fall"])


def test_an_explanation_may_come_from_a_file_of_comma_separated_values(baseline):
    pairs = [("I seen it, then.", "I saw it then."), ("", "It rains.")]
    explanation = explain_edits(baseline, pairs)
    read = pd.read_csv(StringIO(explanation.to_csv(index=False)))
    assert str(EditsDisplay.from_explanation(read, pairs)) == str(EditsDisplay.from_explanation(explanation, pairs))


def test_an_explanation_of_other_pairs_is_refused(baseline, revisions):
    X = revisions[0].to_numpy()[:5]
    explanation = explain_edits(baseline, X)
    with pytest.raises(ValueError, match=r"row 0 .* pass the X that was explained"):
        EditsDisplay.from_explanation(explanation, X[::-1])
    with pytest.raises(ValueError, match="row 4"):
        EditsDisplay.from_explanation(explanation, X[:4])
    several = explanation[explanation["row"].duplicated()]
    with pytest.raises(ValueError, match="all edits of a pair or none"):
        EditsDisplay.from_explanation(several, X)
    with pytest.raises(ValueError, match="no column 'probability'"):
        EditsDisplay.from_explanation(explanation.drop(columns="probability"), X)
    with pytest.raises(TypeError, match="explain_edits"):
        EditsDisplay.from_explanation([1, 2], X)
    with pytest.raises(ValueError, match="two columns"):
        EditsDisplay.from_explanation(explanation, ["a single text"])


@pytest.mark.parametrize("max_pairs", [0, -1, 2.5, "all"])
def test_max_pairs_is_checked_before_anything_is_predicted(max_pairs):
    with pytest.raises((TypeError, ValueError), match="max_pairs"):
        EditsDisplay.from_estimator(None, ODD_PAIRS, max_pairs=max_pairs)


class TestPlot:
    @pytest.fixture(autouse=True)
    def _close_figures(self):
        yield
        plt.close("all")

    def test_bars_are_the_falls_in_the_order_of_the_text(self):
        pair = ("I seen it , then", "I saw it then now")
        display = EditsDisplay([shown_pair(3, pair, falls=[0.3, -0.1, np.nan], probability=0.75)])
        assert display.plot() is display
        ax = display.ax_
        assert display.figure_ is ax.figure
        assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.3, -0.1, 0])
        assert [label.get_text() for label in ax.get_yticklabels()] == ["seen → saw", "− ,", "+ now"]
        assert ax.yaxis_inverted()
        assert ax.get_title() == "Pair 3: style, probability 0.75"
        assert [text.get_text() for text in ax.texts] == ["+0.30", "-0.10", "no text left"]

    def test_it_draws_the_pair_and_on_the_axes_that_are_asked_for(self):
        pairs = [shown_pair(row, ("a b", f"{row} b"), falls=[row / 10]) for row in (4, 2)]
        figure, (left, right) = plt.subplots(1, 2)
        display = EditsDisplay(pairs).plot(right, row=2)
        assert display.ax_ is right
        assert display.figure_ is figure
        assert [bar.get_width() for bar in right.patches] == pytest.approx([0.2])
        assert not left.patches

    def test_long_edits_are_shortened_and_blanks_made_visible(self):
        pairs = [
            shown_pair(0, ("word", "long " * 30 + "word"), falls=[0.1]),
            shown_pair(1, ("a b", "a\n b"), falls=[0.1]),
        ]
        (label,) = EditsDisplay(pairs).plot(row=0).ax_.get_yticklabels()
        assert label.get_text() == "+ long long long long lon…"
        (label,) = EditsDisplay(pairs).plot(row=1).ax_.get_yticklabels()
        assert label.get_text() == "␣b → ↵␣b"

    def test_of_many_edits_those_of_the_largest_differences_are_drawn(self):
        before, after = (" ".join(f"w{number} {verb}{number}" for number in range(30)) for verb in ("go", "goes"))
        falls = np.linspace(-0.3, 0.28, 30)
        ax = EditsDisplay([shown_pair(0, (before, after), falls=falls)]).plot().ax_
        expected = sorted(range(30), key=lambda edit: -abs(falls[edit]))[:20]
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(falls[sorted(expected)])
        assert "20 of 30 edits" in ax.get_ylabel()

    def test_texts_are_no_formulas(self, baseline):
        display = EditsDisplay.from_estimator(baseline, [("It is x.", "It is $x_{$ or $$."), ("a", r"$\frac{$")])
        for row in (0, 1):
            display.plot(row=row).figure_.canvas.draw()

    def test_a_pair_that_is_not_there_is_refused(self, baseline):
        display = EditsDisplay.from_estimator(baseline, [("same", "same"), ("a b", "a c")])
        with pytest.raises(ValueError, match="row=0 is no pair with edits: choose one of 1"):
            display.plot(row=0)
        with pytest.raises(ValueError, match="None of these pairs has an edit"):
            EditsDisplay([]).plot()

    def test_without_matplotlib_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        display = EditsDisplay([shown_pair(0, ("a b", "a c"), falls=[0.1])])
        assert "Pair 0" in display._repr_html_()
        with pytest.raises(ImportError, match=r"EditsDisplay\.plot requires matplotlib"):
            display.plot()
