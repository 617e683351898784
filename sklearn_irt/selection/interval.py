"""What strategies have in common that choose at intervals, and hold the choice in between."""

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import INTERVAL, LayerSelection


class IntervalSelection(LayerSelection):
    """Select layers when the parameter ``interval`` says so: what to select, a subclass says in :meth:`choose`.

    Attributes
    ----------
    selected_ : ndarray of int
        The layers that were selected last, ascending.
    """

    _parameter_constraints: dict = {"interval": INTERVAL}

    interval: Any
    """Steps between two selections, "epoch" for one at the beginning of each epoch, or None for a single one."""

    @abstractmethod
    def choose(self) -> NDArray[np.intp]:
        """Return the layers to train until the next selection.

        Returns
        -------
        layers : ndarray of int
            A subset of ``layers_``, ascending, not empty.
        """

    def select(self, step: int) -> NDArray[np.intp]:
        """Return the layers of the last selection, after another one where it is due.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        if self._is_due(step, self.interval):
            self.selected_ = self.choose()
        return self.selected_

    def lowest(self, step: int) -> int:
        """Return the lowest layer of a selection that is held to the end; otherwise any candidate may train again.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        layer : int
            No layer below it trains at this step or any later one.
        """
        return int(self.selected_[0] if self.interval is None else self.layers_[0])
