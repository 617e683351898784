"""LISA: trains layers drawn at random."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import COUNT, INTERVAL
from .interval import IntervalSelection


class RandomSelection(IntervalSelection):
    """Train layers drawn uniformly at random, and others after some steps (LISA).

    Parameters
    ----------
    n_trained : int or float, default=2
        How many of the candidate layers train at a step, or that share of them (rounded, at least one).

    interval : int, {"epoch"} or None, default=20
        When layers are drawn anew: after that many steps, at the beginning of each epoch, or never again.

    embeddings : bool, default=False
        Whether the token embeddings train at every step besides, as they do in the source, at the head's learning rate.
        No layer can then be kept in the frozen prefix: all of them run at each step.

    References
    ----------
    Pan, Liu, Diao, Pi, Zhang, Han and Zhang, "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language
    Model Fine-Tuning", NeurIPS 2024, arXiv 2403.17919. Number of layers and interval are the defaults of the authors'
    code (LMFlow), which draws exactly so many layers, without replacement. The authors train the layers' own weights
    (``adapter=None`` here) and keep AdamW's moments while a layer is frozen; here they start anew, as with every
    strategy.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_irt.selection import RandomSelection
    >>> selection = RandomSelection(n_trained=2, interval=10)
    >>> selection.begin([4, 5, 6, 7], np.random.RandomState(0), n_layers=8, steps_per_epoch=10)
    >>> [selection.select(step).tolist() for step in (0, 1, 10)]
    [[6, 7], [6, 7], [4, 6]]
    """

    _parameter_constraints: dict = {"n_trained": COUNT, "interval": INTERVAL, "embeddings": ["boolean"]}

    def __init__(self, *, n_trained: float = 2, interval: Any = 20, embeddings: bool = False) -> None:
        self.n_trained = n_trained
        self.interval = interval
        self.embeddings = embeddings

    @property
    def trains_embeddings(self) -> bool:  # type: ignore[override]
        """Whether the token embeddings train at every step."""
        return self.embeddings

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """Start a fit; the arguments are those of :meth:`LayerSelection.begin`.

        Raises
        ------
        ValueError
            If there are fewer candidates than layers to train.
        """
        super().begin(*args, **kwargs)
        self.n_trained_ = self._count(self.n_trained, "n_trained")

    def choose(self) -> NDArray[np.intp]:
        """Return layers drawn at random.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        return np.sort(self.random_state_.choice(self.layers_, self.n_trained_, replace=False))
