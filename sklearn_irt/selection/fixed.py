"""Trains the layers that the user names."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import StrOptions

from .base import LayerSelection


class FixedSelection(LayerSelection):
    """Train the same layers at every step: those the user names.

    Parameters
    ----------
    layers : int or sequence of int
        An int n trains n adjoining candidates; a sequence names layers by their index in the backbone, and each must be
        a candidate.

    side : {"top", "bottom"}, default="top"
        Which n layers an int stands for: the highest candidates ("last-n") or the lowest ("first-n"). Not used where
        ``layers`` names them.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.selection import FixedSelection
    >>> selection = FixedSelection(layers=2)
    >>> selection.begin([4, 5, 6], np.random.RandomState(0), n_layers=7, steps_per_epoch=10)
    >>> selection.select(step=0).tolist()
    [5, 6]
    """

    _parameter_constraints: dict = {"layers": ["array-like", Integral], "side": [StrOptions({"top", "bottom"})]}

    def __init__(self, layers: Any, *, side: str = "top") -> None:
        self.layers = layers
        self.side = side

    def begin(
        self, layers: ArrayLike, random_state: np.random.RandomState, *, n_layers: int, steps_per_epoch: int
    ) -> None:
        """Start a fit.

        Parameters
        ----------
        layers : array-like of int
            The candidate layers, ascending.
        random_state : RandomState
            Not used.
        n_layers, steps_per_epoch : int
            Not used.

        Raises
        ------
        ValueError
            If a named layer is not a candidate, or there are fewer than n candidates.
        """
        super().begin(layers, random_state, n_layers=n_layers, steps_per_epoch=steps_per_epoch)
        self.selected_ = self._adjoining() if isinstance(self.layers, Integral) else self._named()

    def select(self, step: int) -> NDArray[np.intp]:
        """Return the named layers.

        Parameters
        ----------
        step : int
            Number of the step, not used.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        return self.selected_

    def lowest(self, step: int) -> int:
        """Return the lowest of the named layers.

        Parameters
        ----------
        step : int
            Number of the step, not used.

        Returns
        -------
        layer : int
            No layer below it ever trains.
        """
        return int(self.selected_[0])

    def _adjoining(self) -> NDArray[np.intp]:
        if not 1 <= self.layers <= len(self.layers_):
            raise ValueError(
                f"FixedSelection(layers={self.layers}) asks for the {self.side} {self.layers} layers, "
                f"but there are {len(self.layers_)} candidates."
            )
        return self.layers_[-self.layers :] if self.side == "top" else self.layers_[: self.layers]

    def _named(self) -> NDArray[np.intp]:
        named = np.asarray(self.layers)
        if named.ndim != 1 or named.size == 0 or not np.isin(named, self.layers_).all():
            raise ValueError(
                f"FixedSelection(layers={self.layers!r}) must name candidate layers, which are "
                f"{self.layers_.tolist()}; choose others, or widen candidate_layers."
            )
        return np.unique(named).astype(np.intp)
