"""Remembers what a trained part answered, so that it computes nothing twice."""

from collections.abc import Hashable, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from .pairs import Pair

_MOST_ANSWERS = 2**16


class KnownAnswers:
    """The logits that were given to pairs, of shape (n_classes,) each; the oldest give way."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Pair, Hashable], NDArray[np.float64]] = {}
        self._lock = Lock()

    def look_up(self, pairs: Sequence[Pair], written: Hashable) -> dict[Pair, NDArray[np.float64]]:
        """Return the known answers to some pairs, written as text in this way."""
        with self._lock:
            return {pair: self._answers[pair, written] for pair in pairs if (pair, written) in self._answers}

    def note(self, answers: dict[Pair, NDArray[np.float64]], written: Hashable) -> None:
        """Keep answers to pairs that were written as text in this way."""
        with self._lock:
            self._answers |= {(pair, written): answer for pair, answer in answers.items()}
            for oldest in list(self._answers)[: max(0, len(self._answers) - _MOST_ANSWERS)]:
                del self._answers[oldest]
