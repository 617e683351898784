"""Finds the words that two texts have in common, in a time that does not grow with the square of their length."""

from collections import Counter
from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher
from itertools import accumulate, takewhile
from math import isqrt
from typing import NamedTuple

# Two texts of nine thousand words take so much, and a second or two.
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
    if _effort(before, after) <= _MOST_EFFORT:
        return _joined(_difflib_blocks(before, after))
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
    if _effort(before, after) <= _MOST_EFFORT:
        return _difflib_blocks(before, after)
    sentences_before, sentences_after = _split_into_sentences(before), _split_into_sentences(after)
    if _effort(sentences_before, sentences_after) > _MOST_EFFORT:
        return []
    starts_before, starts_after = _starts(sentences_before), _starts(sentences_after)
    blocks, i, j, left = [], 0, 0, _MOST_EFFORT
    for sentences in _difflib_blocks(sentences_before, sentences_after):
        next_i, next_j = starts_before[sentences.before], starts_after[sentences.after]
        between_before, between_after = before[i:next_i], after[j:next_j]
        left -= _effort(between_before, between_after)
        if left >= 0:
            blocks += [block.moved(i, j) for block in _difflib_blocks(between_before, between_after)]
        i, j = starts_before[sentences.before + sentences.size], starts_after[sentences.after + sentences.size]
        blocks.append(Block(next_i, next_j, i - next_i))
    return blocks


def _difflib_blocks(before: Sequence[Hashable], after: Sequence[Hashable]) -> list[Block]:
    return [Block(*block) for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()]


def _effort(before: Sequence[Hashable], after: Sequence[Hashable]) -> int:
    """Estimate what difflib does: for each run that it finds, it goes through the words between two others.

    In texts of any kind it finds about as many runs as the root of the number of pairs of equal words.
    """
    in_after = Counter(after)
    return len(before) * isqrt(sum(in_after[word] for word in before))


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
