"""Notes in the history when each step and each epoch of a fit ended."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from skorch.callbacks import Callback


class FitClock(Callback):
    """Note as "seconds", in the rows of epochs and batches, how long after the beginning of the fit they ended.

    It counts from when it is made, so that what comes before the first step counts too: loading, tokenizing and the
    frozen prefix. A step's end is when the layers of the next one are chosen; an epoch's, when it has been validated.

    A fit that goes on, from a checkpoint or in another call of ``partial_fit``, counts on from the last step that it
    knows. Pauses and the steps that were lost do not count; what is loaded and computed once more does.
    """

    def __init__(self) -> None:
        self.began_ = time.perf_counter()

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Set the clock to where the fit stands."""
        state = net.state_to_restore_
        self.began_ -= _last_time(state["history"]) if state else 0.0

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Note the time of a step."""
        if training:
            net.history.record_batch("seconds", self._seconds)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Note the time of an epoch."""
        net.history.record("seconds", self._seconds)

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self.began_


def _last_time(history: Iterable[Mapping[str, Any]]) -> float:
    """Return when the last step or epoch ended; 0 where none is known, as in what an earlier version wrote."""
    rows = [row for epoch in history for row in (*epoch["batches"], epoch)]
    return max((row["seconds"] for row in rows if "seconds" in row), default=0.0)
