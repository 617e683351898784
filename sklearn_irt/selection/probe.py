"""What a strategy can ask about the layers while a fit runs, beyond the gradient norms of the steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class LayerCost(NamedTuple):
    """What a layer costs in the backward pass of a training step, in multiplications a token."""

    passing: float
    """The gradient of its input, which is needed where it or a layer below it trains."""
    own: float
    """The gradients of its trainable parameters."""


class LayerProbe(Protocol):
    """Measures candidate layers; arrays are in the order of the candidates (``layers_``).

    Each method that takes ``n_texts`` draws so many training texts anew, from the fit's ``random_state``; all of
    them where there are fewer. Nothing that trains is changed when a method returns. Dropout does not act, but in
    :meth:`score_after_training`.
    """

    def tensors(self) -> Mapping[int, Mapping[str, str]]:
        """Return the names of each candidate layer's trainable tensors, each with the module that it belongs to.

        Returns
        -------
        tensors : mapping of int to mapping of str to str
            For each layer: name of the tensor, within the layer, to the name of the backbone's module (that which an
            adapter sits beside, or which holds the tensor itself).
        """

    def costs(self) -> Sequence[LayerCost]:
        """Return what each layer that runs costs: one multiplication per weight, token and product.

        Returns
        -------
        costs : sequence of LayerCost, of length n_layers
            One for each layer that runs, candidate or not, so that gradients can be followed to any depth. Of products
            with parameters; attention's own products, norms and activations are left out.
        """

    def weight_norms(self) -> NDArray[np.float64]:
        """Return the L2 norm of the weight of each layer's attention output projection, without its adapter.

        Returns
        -------
        norms : ndarray of shape (n_candidates,), dtype float
            One a layer.

        Raises
        ------
        ValueError
            If the family's layers have no such projection that is known by its name.
        """

    def similarities(self, n_texts: int) -> NDArray[np.float64]:
        """Return how little each layer changes the hidden states.

        Parameters
        ----------
        n_texts : int
            Texts to measure on.

        Returns
        -------
        similarities : ndarray of shape (n_candidates,), dtype float
            Mean over the tokens of the cosine between the hidden state that enters a layer and the one that leaves it.
        """

    def losses(self, suppressed: Iterable[Sequence[int]], factor: float, n_texts: int) -> NDArray[np.float64]:
        """Return the loss with some adapters suppressed.

        Parameters
        ----------
        suppressed : iterable of sequence of int
            Sets of layers; each is suppressed by itself.
        factor : float
            What the output of these layers' adapters is multiplied by.
        n_texts : int
            Texts that the loss is the mean of, the same for every set.

        Returns
        -------
        losses : ndarray of shape (n_sets,), dtype float
            One a set.

        Raises
        ------
        ValueError
            If layers have no adapter whose output could be suppressed.
        """

    def gradients(self, n_texts: int) -> Mapping[int, Mapping[str, NDArray[np.float32]]]:
        """Return the gradient of the mean loss over a sample, for every entry of every trainable tensor.

        Parameters
        ----------
        n_texts : int
            Texts of the sample.

        Returns
        -------
        gradients : mapping of int to mapping of str to ndarray
            For each candidate layer: tensor name (see :meth:`tensors`) to its gradient.
        """

    def squared_gradients(self, n_texts: int) -> NDArray[np.float64]:
        """Return the mean of the squared gradients of single texts: the diagonal of the empirical Fisher information.

        Parameters
        ----------
        n_texts : int
            Texts of the sample; each takes a backward pass of its own.

        Returns
        -------
        squares : ndarray of shape (n_candidates,), dtype float
            Mean over the texts and over the layer's trainable parameters.
        """

    def savings(self, n_texts: int) -> NDArray[np.float64]:
        """Return the loss that the coming update of each layer is expected to save, to first order.

        Parameters
        ----------
        n_texts : int
            Texts of the sample.

        Returns
        -------
        savings : ndarray of shape (n_candidates,), dtype float
            Sum over a layer's parameters of gradient times the step of AdamW that it would cause, for a learning rate
            of 1.
        """

    def step_savings(self) -> Mapping[int, float]:
        """Return the same for the step whose gradients :meth:`LayerSelection.observe` is shown, at no extra pass.

        Returns
        -------
        savings : mapping of int to float
            For every layer that trains at this step.
        """

    def score_after_training(self, layers: Sequence[int], n_steps: int, validation_share: float) -> tuple[float, float]:
        """Train some layers and the head for a while, on a part of the training texts, and judge on the rest.

        Parameters
        ----------
        layers : sequence of int
            Layers that train.
        n_steps : int
            Steps of AdamW at the fit's full learning rate, from the present weights; those are put back.
        validation_share : float
            Share of the training texts that is judged on, drawn once a fit, so that scores compare; stratified by
            class, but not where a text may have many labels.

        Returns
        -------
        accuracy : float
            Share of the held-out texts that are classified rightly; of many labels a text, share of the labels.
        negative_loss : float
            Minus the loss on them.
        """
