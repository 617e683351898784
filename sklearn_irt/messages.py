"""Says what is being done: through logging where somebody listens there, otherwise on the standard output."""

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback, PrintLog

_COLOUR = re.compile(r"\x1b\[\d*m")


def tell(logger: logging.Logger, message: str) -> None:
    """Log a message at the level INFO, and print it if no handler takes it.

    Nothing is printed either where the user keeps the messages of this package from being logged: by the level of its
    logger, or by :func:`logging.disable`. The level of the root logger does not keep them back, because it is WARNING
    where nobody chose it.

    Parameters
    ----------
    logger : Logger
        That of the module that speaks.
    message : str
        May be coloured for a terminal; what is logged is not.
    """
    logger.info(_COLOUR.sub("", message), stacklevel=2)
    if not _is_heard(logger) and not _is_silenced(logger):
        print(message)


def _is_heard(logger: logging.Logger) -> bool:
    return logger.isEnabledFor(logging.INFO) and any(h.level <= logging.INFO for h in _handlers_of(logger))


def _handlers_of(logger: logging.Logger) -> Iterator[logging.Handler]:
    yield from logger.handlers
    if logger.propagate and logger.parent is not None:
        yield from _handlers_of(logger.parent)


def _is_silenced(logger: logging.Logger) -> bool:
    levels = (logger.level, logging.getLogger(__package__).level, logger.manager.disable + 1)
    return logger.disabled or any(level > logging.INFO for level in levels)


class EpochLines(Callback):
    """A line an epoch: skorch's, which as a callback of its own would miss the epoch after which training stops early.

    Parameters
    ----------
    sink : callable
        Gets each line (str).
    """

    def __init__(self, sink: Callable[[str], Any]) -> None:
        self.sink = sink

    def initialize(self) -> "EpochLines":
        """Begin a table."""
        self.table_ = PrintLog(sink=self.sink).initialize()
        return self

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Add a line to it."""
        self.table_.on_epoch_end(net)
