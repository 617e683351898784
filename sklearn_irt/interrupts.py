"""Learns of a Ctrl-C that somebody else answered."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noticing_interrupts() -> Iterator[Callable[[], None]]:
    """Notice each Ctrl-C, and let what answers it do so.

    Networks of skorch, this package's classifier and scikit-learn's perceptrons end training at a Ctrl-C and return as
    if nothing had been: whoever measures them must know.

    Yields
    ------
    check : callable
        Raises KeyboardInterrupt if a Ctrl-C came since the context began.
    """
    came = threading.Event()
    answer: Any = signal.getsignal(signal.SIGINT)

    def notice(number: int, frame: Any) -> Any:
        came.set()
        return answer(number, frame)

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    # Only the main thread gets a Ctrl-C, and may say what becomes of it.
    if not callable(answer) or threading.current_thread() is not threading.main_thread():
        yield check
        return
    signal.signal(signal.SIGINT, notice)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, answer)
