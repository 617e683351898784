"""Finds the words that two texts have in common, in a time that does not grow with the square of their length."""

from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, takewhile
from typing import Any, NamedTuple

# Pairs of equal words that are gone through, as often as they are: a second or so.
_MOST_EFFORT = 10_000_000
_ENDS_OF_SENTENCES = frozenset(".!?")


class Block(NamedTuple):
    """A run of words that two texts have in common."""

    before: int
    """Where it begins in the first text."""
    after: int
    """Where it begins in the second one."""
    size: int
    """How many words it has."""

    def moved(self, before: int, after: int) -> "Block":
        """Return the same run, counted from so many words earlier."""
        return Block(self.before + before, self.after + after, self.size)


def common_blocks(before: Sequence[str], after: Sequence[str]) -> list[Block]:
    """Align two lists of words.

    Parameters
    ----------
    before, after : sequence of str
        The words.

    Returns
    -------
    blocks : list of Block
        Ascending, none empty, none next to another in both texts. They are difflib's, unless these would take long: of
        such texts, the common beginning and end are put aside, what is left is aligned by whole sentences, and words
        only between these, as long as that does not take long either; then nothing between them counts as common.
    """
    blocks, _ = _difflib_blocks(before, after, _MOST_EFFORT)
    if blocks is not None:
        return _joined(blocks)
    beginning = _count_equal(before, after)
    end = _count_equal(before[beginning:][::-1], after[beginning:][::-1])
    middle = _blocks_by_sentence(before[beginning : len(before) - end], after[beginning : len(after) - end])
    return _joined(
        [
            Block(0, 0, beginning),
            *(block.moved(beginning, beginning) for block in middle),
            Block(len(before) - end, len(after) - end, end),
        ]
    )


def _blocks_by_sentence(before: Sequence[str], after: Sequence[str]) -> list[Block]:
    whole, _ = _difflib_blocks(before, after, _MOST_EFFORT)
    if whole is not None:
        return whole
    sentences_before, sentences_after = _split_into_sentences(before), _split_into_sentences(after)
    common, _ = _difflib_blocks(sentences_before, sentences_after, _MOST_EFFORT)
    starts_before, starts_after = _starts(sentences_before), _starts(sentences_after)
    end = Block(len(sentences_before), len(sentences_after), 0)
    blocks, i, j, left = [], 0, 0, _MOST_EFFORT
    for sentences in [*(common or []), end] if common is not None else []:
        next_i, next_j = starts_before[sentences.before], starts_after[sentences.after]
        between, left = _difflib_blocks(before[i:next_i], after[j:next_j], left)
        blocks += [block.moved(i, j) for block in between or []]
        i, j = starts_before[sentences.before + sentences.size], starts_after[sentences.after + sentences.size]
        blocks.append(Block(next_i, next_j, i - next_i))
    return blocks


def _difflib_blocks(
    before: Sequence[Hashable], after: Sequence[Hashable], most_effort: int
) -> tuple[list[Block] | None, int]:
    """Return difflib's blocks, or None where they take more effort, and the effort that is left.

    For each run that it finds, and once for each gap between two, difflib goes through the pairs of equal words of the
    gap's first text and all of the second one; that is counted, before it is done.
    """
    matcher: Any = SequenceMatcher(None, before, after, autojunk=False)
    places = matcher.b2j
    pairs_up_to = list(accumulate((1 + len(places.get(word, ())) for word in before), initial=0))
    blocks, gaps = [], [(0, len(before), 0, len(after))]
    while gaps:
        i, end_i, j, end_j = gaps.pop()
        if i == end_i or j == end_j:
            continue
        most_effort -= pairs_up_to[end_i] - pairs_up_to[i]
        if most_effort < 0:
            return None, most_effort
        found = Block(*matcher.find_longest_match(i, end_i, j, end_j))
        if found.size:
            blocks.append(found)
            gaps += [(i, found.before, j, found.after)]
            gaps += [(found.before + found.size, end_i, found.after + found.size, end_j)]
    return sorted(blocks), most_effort


def _count_equal(before: Sequence[str], after: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda words: words[0] == words[1], zip(before, after, strict=False)))


def _split_into_sentences(words: Sequence[str]) -> list[tuple[str, ...]]:
    ends = [position + 1 for position, word in enumerate(words) if word.strip() in _ENDS_OF_SENTENCES]
    starts = [0, *ends]
    return [tuple(words[start:end]) for start, end in zip(starts, [*ends, len(words)], strict=True) if end > start]


def _starts(sentences: Sequence[tuple[str, ...]]) -> list[int]:
    return list(accumulate(map(len, sentences), initial=0))


def _joined(blocks: Sequence[Block]) -> list[Block]:
    """Join runs that are next to each other in both texts, and leave out empty ones."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else Block(0, 0, 0)
        if block.size and joined and block[:2] == (last.before + last.size, last.after + last.size):
            joined[-1] = Block(last.before, last.after, last.size + block.size)
        elif block.size:
            joined.append(block)
    return joined
