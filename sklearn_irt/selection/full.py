"""Trains every candidate layer at every step."""

import numpy as np
from numpy.typing import NDArray

from .base import LayerSelection


class FullSelection(LayerSelection):
    """Train every candidate layer at every step: ordinary fine-tuning, the baseline of every other strategy.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.selection import FullSelection
    >>> selection = FullSelection()
    >>> selection.begin([4, 5, 6], np.random.RandomState(0), n_layers=7, steps_per_epoch=10)
    >>> selection.select(step=0).tolist()
    [4, 5, 6]
    """

    def select(self, step: int) -> NDArray[np.intp]:
        """Return all candidate layers.

        Parameters
        ----------
        step : int
            Number of the step, not used.

        Returns
        -------
        layers : ndarray of int
            The candidate layers.
        """
        return self.layers_
