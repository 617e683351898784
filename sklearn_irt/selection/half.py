"""HFT: trains half of the parameters of every layer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import INTERVAL, Masks
from .interval import IntervalSelection


class HalfSelection(IntervalSelection):
    """Train half of every layer: its attention, its feed-forward part and its norms keep half of their modules (HFT).

    Every candidate layer trains; what is chosen, at random, are modules within it: of those that lie in the same part
    of the layer, half. Where their number is odd, one more than half trains in every second layer, drawn at random, and
    one less in the others, so that it is half of them over all layers.

    Parameters
    ----------
    interval : int, {"epoch"} or None, default="epoch"
        When the halves are drawn anew: at the beginning of each epoch, after that many steps, or never again.

    References
    ----------
    Hui, Zhang, Wang, Xu, Sun and Wu, "HFT: Half Fine-Tuning for Large Language Models", ACL 2025, arXiv 2404.18466,
    section 3 (by category): 2 of the 4 matrices of attention, 1 or 2 of the 3 of the feed-forward part, half of the
    norms. It trains the layers' own weights (``adapter=None`` here) and draws once a round of fine-tuning; what a round
    is within a single fit it leaves open. With an adapter, the adapters of half of the modules train.

    Examples
    --------
    >>> from sklearn_irt import IRTuningClassifier
    >>> from sklearn_irt.selection import HalfSelection
    >>> clf = IRTuningClassifier(selection=HalfSelection(), adapter=None, learning_rate=3e-4)
    """

    _parameter_constraints: dict = {"interval": INTERVAL}

    def __init__(self, *, interval: Any = "epoch") -> None:
        self.interval = interval

    def choose(self) -> NDArray[np.intp]:
        """Draw the halves, and return all candidate layers.

        Returns
        -------
        layers : ndarray of int
            The layers to train, ascending.
        """
        self.masks_ = self._draw()
        return self.layers_

    def masks(self, step: int) -> Masks:
        """Return which tensors train.

        Parameters
        ----------
        step : int
            Number of the step in this fit, from 0; :meth:`select` has answered for it.

        Returns
        -------
        masks : mapping of int to mapping of str to bool
            For each layer and tensor.
        """
        return self.masks_

    def _draw(self) -> Masks:
        tensors = self.probe_.tensors()
        turn = dict(zip(tensors, self.random_state_.permutation(len(tensors)) % 2, strict=True))
        masks = {}
        for layer, modules in tensors.items():
            chosen = self._draw_modules(sorted(set(modules.values())), turn[layer])
            masks[layer] = {tensor: module in chosen for tensor, module in modules.items()}
        return masks

    def _draw_modules(self, modules: list[str], one_more: int) -> set[str]:
        parts: dict[str, list[str]] = {}
        for module in modules:
            parts.setdefault(module.rpartition(".")[0], []).append(module)
        chosen: set[str] = set()
        for part in parts.values():
            chosen.update(self.random_state_.choice(part, (len(part) + one_more) // 2, replace=False).tolist())
        return chosen or {str(self.random_state_.choice(modules))}
