"""The interface between a way to choose layers and the training that obeys it."""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions

from ..doc_link import link_to_documentation
from ..parameters import refuse_booleans
from .probe import LayerProbe

INTERVAL: list[Any] = [Interval(Integral, 1, None, closed="left"), StrOptions({"epoch"}), None]
"""What an ``interval`` parameter may be: steps between two selections, "epoch", or None for a single one."""

COUNT: list[Any] = [Interval(Integral, 1, None, closed="left"), Interval(RealNotInt, 0, 1, closed="right")]
"""What a number of layers may be: an int, or a share of the candidates."""


Masks: TypeAlias = Mapping[int, Mapping[str, "bool | NDArray[np.bool_]"]]
"""Which tensors of each layer train, or which of their entries."""


@link_to_documentation
class LayerSelection(BaseEstimator, metaclass=ABCMeta):
    """A way to choose which candidate layers train at a step.

    Training calls :meth:`begin` once, then :meth:`select` before and :meth:`observe` after the backward pass
    of every step; once :meth:`select` has answered, it may ask :meth:`masks` and :meth:`lowest` for that step. Layers
    are named by their index in the backbone. A strategy sees numbers only, never a module: what it wants to know
    besides the gradient norms of the steps, it asks ``probe_``.

    Attributes
    ----------
    layers_ : ndarray of shape (n_candidates,), dtype int
        The candidate layers of this fit, ascending.
    n_layers_ : int
        How many layers of the backbone run in this fit.
    steps_per_epoch_ : int
        How many steps an epoch of this fit has.
    first_step_ : int
        The step with which the first of these epochs begins: 0, but in a later call of ``partial_fit``.
    scores_ : ndarray of shape (n_candidates,), dtype float
        The score of each candidate layer; the larger, the more important. NaN where a strategy keeps none.
    probe_ : LayerProbe
        Measures the candidate layers on request: gradients and losses on a sample of the training texts, hidden
        states, weights, costs. It is there while a fit runs, from the first :meth:`select` on.
    """

    _parameter_constraints: dict = {}

    needs_own_weights = False
    """Whether the strategy chooses among a layer's own weights, and so needs ``adapter=None``."""

    needs_lora = False
    """Whether the strategy suppresses adapters, and so needs those of LoRA's kind."""

    trains_embeddings = False
    """Whether the backbone's token embeddings train at every step, as the head does."""

    score_name: str = "Score"
    """What ``scores_`` are, as the label of an axis."""

    probe_: LayerProbe

    def begin(
        self, layers: ArrayLike, random_state: np.random.RandomState, *, n_layers: int, steps_per_epoch: int
    ) -> None:
        """Start a fit.

        Parameters
        ----------
        layers : array-like of int
            The candidate layers, ascending.
        random_state : RandomState
            The only source of chance that the strategy may use.
        n_layers : int
            How many layers of the backbone run.
        steps_per_epoch : int
            How many steps an epoch has.

        Raises
        ------
        ValueError
            If a parameter of the strategy cannot be met with these candidates.
        """
        self._validate_params()
        refuse_booleans(self)
        self.layers_: NDArray[np.intp] = np.asarray(layers, dtype=np.intp)
        self.scores_: NDArray[np.float64] = np.full(len(self.layers_), np.nan)
        self.random_state_ = random_state
        self.n_layers_ = n_layers
        self.steps_per_epoch_ = steps_per_epoch
        self.first_step_ = 0

    @abstractmethod
    def select(self, step: int) -> NDArray[np.intp]:
        """Return the layers to train.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.

        Returns
        -------
        layers : ndarray of int
            A subset of ``layers_``, not empty.
        """

    def masks(self, step: int) -> Masks | None:
        """Return which parameters within the selected layers train; the default is None, for all of them.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        masks : mapping of int to mapping of str to bool or ndarray of bool, or None
            For each selected layer and each of its tensors (by the names that ``probe_.tensors()`` gives): whether it
            trains, or which of its entries do. A mapping that is the same object as at the step before stands for the
            same choice.
        """
        return None

    def observe(self, step: int, gradient_norms: Mapping[int, Sequence[float]]) -> None:
        """Take note of the gradients of a step; the default takes none.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0.
        gradient_norms : mapping of int to sequence of float
            For every layer that trained: the L2 norm of each of its trainable tensors' gradients, before clipping.
        """

    def lowest(self, step: int) -> int:
        """Return the lowest layer that may still train; training may add what lies below it to the frozen prefix.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        layer : int
            The lowest layer that may train at this step or any later one; the default is the lowest candidate.
        """
        return int(self.layers_[0])

    def _is_due(self, step: int, interval: int | str | None) -> bool:
        """Say whether a selection is due at a step: see ``INTERVAL``."""
        if interval is None:
            return step == 0
        if isinstance(interval, Integral) and interval < 1:
            raise ValueError(f"{type(self).__name__} has interval={interval}: give a number of steps of 1 or more.")
        if interval == "epoch":
            return self._begins_epoch(step)
        return step % int(interval) == 0

    def _begins_epoch(self, step: int) -> bool:
        return (step - self.first_step_) % self.steps_per_epoch_ == 0

    def _count(self, number: float, name: str) -> int:
        """Return how many of the candidates a number of the kind ``COUNT`` stands for."""
        n_candidates = len(self.layers_)
        if not isinstance(number, Integral):
            return max(1, round(float(number) * n_candidates))
        if number > n_candidates:
            raise ValueError(
                f"{type(self).__name__}({name}={number}) asks for {number} layers, but there are {n_candidates} "
                "candidates: lower it, or widen candidate_layers."
            )
        return int(number)

    def _highest(self, number: int) -> NDArray[np.intp]:
        """Return the layers of the highest scores, ascending; of equal scores the higher layer."""
        order = np.lexsort((self.layers_, self.scores_))
        return np.sort(self.layers_[order[len(order) - number :]])


def layer_indices(layers: Any, n_layers: int, name: str) -> NDArray[np.intp]:
    """Turn a user's choice of layers into indices.

    Parameters
    ----------
    layers : {"all"}, int, float or sequence of int
        All layers; the ``int`` top ones; that share of the layers, from the top (at least one); or their indices, where
        negative ones count from the top.
    n_layers : int
        How many layers there are.
    name : str
        The parameter's name, for the error.

    Returns
    -------
    indices : ndarray of int
        Ascending.

    Raises
    ------
    ValueError
        If there are no such layers, or one is named twice.
    """
    if isinstance(layers, str):
        if layers == "all":
            return np.arange(n_layers)
        raise ValueError(f"{name}={layers!r} is not understood: use 'all', a number, a share, or a list of indices.")
    if isinstance(layers, Integral) and not isinstance(layers, (bool, np.bool_)):
        if not 1 <= int(layers) <= n_layers:
            raise ValueError(
                f"{name}={layers} asks for the top {layers} layers, but {n_layers} run: see n_layers, drop_layers."
            )
        return np.arange(n_layers - int(layers), n_layers)
    if isinstance(layers, Real) and not isinstance(layers, (bool, np.bool_)):
        if not 0 < float(layers) <= 1:
            raise ValueError(f"{name}={layers} must be a share in (0, 1].")
        return np.arange(n_layers - max(1, round(float(layers) * n_layers)), n_layers)
    return _listed_indices(layers, n_layers, name)


def _listed_indices(layers: Any, n_layers: int, name: str) -> NDArray[np.intp]:
    try:
        indices = np.asarray(layers)
    except ValueError:  # rows of unequal length
        indices = np.empty(0)
    if indices.ndim != 1 or indices.size == 0 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"{name}={layers!r} must be a list of layer indices (integers), not empty.")
    unknown = [int(i) for i in indices if not -n_layers <= i < n_layers]
    if unknown:
        raise ValueError(f"{name} names layer {unknown[0]}, but layers 0 to {n_layers - 1} run: see n_layers.")
    indices = np.sort(np.where(indices < 0, indices + n_layers, indices)).astype(np.intp)
    repeated = indices[1:][np.diff(indices) == 0]
    if len(repeated):
        raise ValueError(f"{name}={layers!r} names layer {repeated[0]} more than once: name each once.")
    return indices
