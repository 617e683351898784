"""Trains adapters and head: the skorch net of one fit."""

import ctypes
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping, GradientNormClipping, LRScheduler
from skorch.dataset import ValidSplit
from skorch.utils import noop
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from .batching import StatesDataset, iterate_batches
from .callbacks import LastGoodWeights, SelectedLayers, StepBar
from .checkpoints import Checkpoints
from .distributed import ALONE, Processes
from .fit_clock import FitClock
from .head import embedding_name, head_modules
from .messages import EpochLines, tell
from .randomness import OwnDraws
from .scoring import HeldOutScores
from .trained_part import TrainedPart
from .training_state import ended_epochs, restore_training_state, unfinished_epoch
from .windows import OF_WINDOWS, mean_by_text, run_in_parts, split_by_text

_logger = logging.getLogger(__name__)
# Epochs without a better score after which early stopping stops.
EARLY_STOPPING_PATIENCE = 2
_WARM_UP_SHARE = 0.1
_WARM_UP_STEPS = 10
_LARGEST_GRADIENT_NORM = 1.0
# Tokens of a batch, padding included, that go through the trained part together.
_MOST_TOKENS_ON_A_CPU = 1024
# The head reads states of which a large part is common to all texts: at the adapters' learning rate, each step of AdamW
# would move the logits of all texts together by about as much as they differ.
_HEAD_LEARNING_RATE_SHARE = 0.05


class LayerwiseNet(NeuralNetClassifier):
    """A skorch net whose loss is weighted by text, or by its labels, and whose divergence stops the fit.

    Its module is a :class:`~sklearn_irt.trained_part.TrainedPart`; what it learns are the adapters and the head. It
    predicts in the order of its batches, by length; :mod:`~sklearn_irt.predicting` gives the order of the texts.

    Attributes
    ----------
    interrupted_ : bool
        Whether the user stopped the last fit by Ctrl-C.
    draws_ : OwnDraws or None
        What dropout draws from, while training.
    epoch_generator_ : dict or None
        State of the generator when the order of this epoch's batches was drawn.
    state_to_restore_ : dict or None
        The training state that the next epoch goes on from.
    processes_ : Processes
        Those that train together.
    """

    interrupted_ = False
    draws_: OwnDraws | None = None
    epoch_generator_: dict[str, Any] | None = None
    state_to_restore_: dict[str, Any] | None = None
    processes_: Processes = ALONE
    optimizer_: Any
    callbacks_: Any

    @property
    def generator(self) -> np.random.RandomState:
        """The fit's source of chance, but for dropout."""
        return self.iterator_train__random_state

    @property
    def multilabel(self) -> bool:
        """Whether a text may have any number of the labels, each with a sigmoid of its own."""
        return self.criterion is nn.BCEWithLogitsLoss

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the indices of the classes of the largest logits; of many labels, 1 where a logit is above 0."""
        return (logits > 0).long() if self.multilabel else logits.argmax(dim=1)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the same of texts in the order of the batches, for skorch's accuracy."""
        return self.choose(self.forward(X)).numpy()

    def get_all_learnable_params(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield name and parameter of adapters and head; the frozen weights are not the optimizer's business."""
        return iter(self.module_.learned_parameters.items())

    def infer(self, x: dict[str, torch.Tensor], **fit_params: Any) -> torch.Tensor:
        """Compute the logits of texts, the means of those of their windows; weights belong to the loss."""
        run = partial(super().infer, **fit_params)
        # Before a part runs once more in the backward pass: dropout is to be drawn on the same device again.
        windows = {name: x[name].to(self.device, non_blocking=True) for name in OF_WINDOWS}
        return mean_by_text(run_in_parts(run, windows, self.count_together(x)), x["n_windows"].tolist())

    def count_together(self, inputs: dict[str, torch.Tensor]) -> int:
        """Return how many windows of a batch may run together: as many as it has texts, or as a part may have."""
        return max(len(inputs["n_windows"]), self._most_in_part(inputs))

    def _most_in_part(self, inputs: dict[str, torch.Tensor]) -> int:
        if torch.device(self.device).type != "cpu":
            return self.batch_size  # the user chose it so that as many fit
        return max(1, _MOST_TOKENS_ON_A_CPU // inputs["input_ids"].shape[1])

    def get_loss(
        self, y_pred: torch.Tensor, y_true: torch.Tensor, X: dict[str, torch.Tensor], training: bool = False
    ) -> torch.Tensor:
        """Compute the mean over the batch of the weighted cross-entropy; the weights of all texts have mean 1.

        Of many labels it is the binary cross-entropy, the mean over texts and labels.
        """
        weights = X["weight"].to(y_pred.device)
        target = y_true.to(y_pred.device)
        if self.multilabel:
            target = target.to(y_pred.dtype)
        return (self.criterion_(y_pred, target) * weights).mean()

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Compute loss and gradients of a batch, and stop if the loss is not finite.

        On a CPU a batch of many tokens goes in parts, whose gradients add up to those of the batch: what layers keep
        for their gradients is most of a fit's memory, and would be as large as the longest texts make it. On a GPU one
        of more windows than ``batch_size`` does so. Where processes train together, loss and gradients are the batch's,
        the logits those of this one's share.
        """
        assert self.draws_ is not None
        inputs, labels = self.processes_.share_of(*batch)
        parts = self.split(inputs, labels) if len(labels) else ()
        with self.draws_.block():
            steps = [super(LayerwiseNet, self).train_step_single(part, **fit_params) for part in parts]
        losses = [step["loss"].detach() for step in steps] or [torch.zeros((), device=self.device)]
        logits = [step["y_pred"] for step in steps] or [torch.zeros(0, self.module_.n_classes, device=self.device)]
        learned = (parameter for _, parameter in self.get_all_learnable_params())
        loss = self.processes_.add_up(torch.stack(losses).sum(), learned)
        if not torch.isfinite(loss):
            raise self.divergence(f"The loss is {loss.item()}")
        return {"loss": loss, "y_pred": torch.cat(logits)}

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, torch.Tensor]:
        """Compute loss and logits of a batch of the validation part, which processes share like one of the others."""
        if self.processes_.n == 1:
            return super().validation_step(batch, **fit_params)
        self._set_training(False)
        inputs, labels = batch
        like = torch.empty(len(labels), self.module_.n_classes, device=self.device)
        with torch.no_grad():
            logits = self.processes_.infer_together(partial(self.infer, **fit_params), inputs, like)
            return {"loss": self.get_loss(logits, labels, X=inputs), "y_pred": logits}

    def split(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield the parts of a batch that go through the trained part together; their losses add up to the batch's."""
        for texts, part in split_by_text(inputs, self._most_in_part(inputs)):
            part["weight"] = part["weight"] * (len(part["weight"]) / len(labels))  # the loss is a mean over the batch
            yield part, labels[texts]

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        """Weigh the batch by its texts in the loss of the epoch; skorch counts windows."""
        super().on_batch_end(net, batch=batch, training=training, **kwargs)
        _, labels = batch
        self.history.record_batch("train_batch_size" if training else "valid_batch_size", len(labels))

    def divergence(self, what: str) -> FloatingPointError:
        """Return the error that says where training diverged."""
        step = self.callback("selected_layers").n_steps
        rate = self.optimizer_.param_groups[-1]["lr"]
        return FloatingPointError(
            f"{what} at step {step} (learning rate {rate:.3g} there, learning_rate={self.lr:.3g}). "
            "The weights before the last step were restored. Try a smaller learning_rate."
        )

    def callback(self, name: str) -> Any:
        """Return the callback of this name."""
        return dict(self.callbacks_)[name]

    def run_single_epoch(self, iterator: Any, training: bool, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Run an epoch, or what is left of one that another process began."""
        batches = self._rest_of_epoch(iterator) if training else iterator
        super().run_single_epoch(batches, training, prefix, *args, **kwargs)
        if training:
            self.history.record(f"{prefix}_batch_count", len(self.history[-1, "batches"]))

    def _rest_of_epoch(self, batches: Iterable[Any]) -> Iterable[Any]:
        state, self.state_to_restore_ = self.state_to_restore_, None
        unfinished = None if state is None else unfinished_epoch(state)
        if state is None or unfinished is None:
            self.epoch_generator_ = self.generator.get_state(legacy=False)
            return batches
        self.history[-1].update(unfinished)
        self.epoch_generator_ = state["epoch_generator"]
        self.generator.set_state(self.epoch_generator_)
        rest = islice(batches, len(unfinished["batches"]), None)
        first = list(islice(rest, 1))  # the order is drawn by now
        self.generator.set_state(state["generator"])
        return chain(first, rest)

    def fit_loop(self, *args: Any, **kwargs: Any) -> "LayerwiseNet":
        """Run the epochs; tell a user's Ctrl-C from skorch's own signal to stop early."""
        self.interrupted_ = False
        try:
            return super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            self.interrupted_ = not any(
                isinstance(callback, EarlyStopping) and callback.misses_ == callback.patience
                for _, callback in self.callbacks_
            )
            raise

    def release_training_state(self) -> None:
        """Drop what only training needs: gradients, optimizer state, schedule and copies of the weights."""
        self.module_.zero_grad(set_to_none=True)
        self.module_.requires_grad_(False)
        self.module_.start_from(self.module_.first_layer)
        self.module_.eval()
        self.module_.forget_folded()
        self.draws_ = None
        self.state_to_restore_ = None
        self.processes_ = ALONE
        self.optimizer_ = None
        self.callbacks = None
        self.callbacks_ = []
        give_back_memory()


def give_back_memory() -> None:
    """Let glibc return to the system what the tensors of a fit leave behind; other libraries do so by themselves."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def build_net(
    module_arguments: dict[str, Any],
    selected_layers: SelectedLayers,
    *,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
    held_out_scores: HeldOutScores | None,
    validation_fraction: float,
    random_state: np.random.RandomState,
    verbose: int,
    multilabel: bool = False,
    decays: bool = True,
    checkpoints: Checkpoints | None = None,
    clock: FitClock | None = None,
) -> LayerwiseNet:
    """Assemble the skorch net of one fit.

    The optimizer is AdamW without weight decay; its learning rate rises over the first tenth of the steps and then
    falls linearly to 0; the norm of all gradients together is clipped to 1 (the schedule of Liu and Litman 2025, with
    a warm-up in proportion). The head, and embeddings that train, learn at a twentieth of the adapters' rate.

    Parameters
    ----------
    module_arguments : dict
        Arguments of :class:`~sklearn_irt.trained_part.TrainedPart`.
    selected_layers : SelectedLayers
        Switches the layers, and knows how many steps there will be.
    max_epochs, batch_size, learning_rate, validation_fraction
        As in :class:`~sklearn_irt.IRTuningClassifier`.
    held_out_scores : HeldOutScores or None
        Decide when to stop early; None holds nothing out.
    random_state : RandomState
        Draws the validation part and the order of the batches.
    verbose : int
        1 shows a bar over the steps, 2 tells skorch's table of epochs as well.
    multilabel : bool, default=False
        Whether a text may have any number of the labels; then the validation part is drawn without strata.
    decays : bool, default=True
        Whether the learning rate falls. Otherwise, where nobody knows how many steps there will be, it rises over ten
        steps and then stays.
    checkpoints : Checkpoints, default=None
        Writes the training state now and then.
    clock : FitClock, default=None
        Notes when steps and epochs end.

    Returns
    -------
    net : LayerwiseNet
        Not initialized yet.
    """
    backbone = module_arguments["backbone"]
    head_rate = {"lr": _HEAD_LEARNING_RATE_SHARE * learning_rate}
    around_layers = list(head_modules(backbone.model))
    if module_arguments.get("trains_embeddings"):
        around_layers.append(embedding_name(backbone.model))
    pad_token_id = backbone.tokenizer.pad_token_id
    split = ValidSplit(validation_fraction, stratified=not multilabel, random_state=random_state)
    tell_epoch = partial(tell, _logger) if verbose >= 2 else noop
    callbacks: list[tuple[str, Callback]] = [
        ("last_good_weights", LastGoodWeights()),
        ("selected_layers", selected_layers),
        ("gradient_norm_clipping", GradientNormClipping(_LARGEST_GRADIENT_NORM)),
        ("schedule", _schedule(selected_layers.n_steps_planned if decays else None)),
    ]
    if held_out_scores is not None:
        callbacks.append(("held_out_scores", held_out_scores))
    if clock is not None:  # before early stopping, which keeps what comes after it from the last epoch
        callbacks.append(("clock", clock))
    if verbose >= 2:
        callbacks.append(("epoch_lines", EpochLines(tell_epoch)))
    if held_out_scores is not None:
        callbacks.append(("early_stopping", _stop_early(held_out_scores, tell_epoch)))
    callbacks.append(("going_on", GoingOn()))
    if checkpoints is not None:
        callbacks.append(("checkpoints", checkpoints))
    if verbose >= 1:
        callbacks.append(("step_bar", StepBar(selected_layers)))
    return LayerwiseNet(
        TrainedPart,
        **{f"module__{name}": value for name, value in module_arguments.items()},
        criterion=nn.BCEWithLogitsLoss if multilabel else nn.CrossEntropyLoss,
        criterion__reduction="none",
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=0.0,
        optimizer__fused=True,
        optimizer__param_groups=[(f"model.{name}.*", head_rate) for name in around_layers],
        lr=learning_rate,
        max_epochs=max_epochs,
        batch_size=batch_size,
        train_split=split if held_out_scores else None,
        iterator_train=iterate_batches,
        iterator_train__random_state=random_state,
        iterator_train__pad_token_id=pad_token_id,
        iterator_train__pin_memory=backbone.device.type == "cuda",
        iterator_valid=iterate_batches,
        iterator_valid__pad_token_id=pad_token_id,
        callbacks=callbacks,
        callbacks__print_log=None,
        device=backbone.device,
        verbose=int(verbose >= 2),
    )


def _schedule(n_steps: int | None) -> LRScheduler:
    steps: dict[str, Any] = {"step_every": "batch", "event_name": None}  # the event would note the head's rate alone
    if n_steps is None:
        return LRScheduler(get_constant_schedule_with_warmup, num_warmup_steps=_WARM_UP_STEPS, **steps)
    n_rising = round(_WARM_UP_SHARE * n_steps)
    return LRScheduler(get_linear_schedule_with_warmup, num_warmup_steps=n_rising, num_training_steps=n_steps, **steps)


class GoingOn(Callback):
    """Put the net where another one stood, once all other callbacks have begun."""

    def on_train_begin(self, net: LayerwiseNet, **kwargs: Any) -> None:
        """Restore the training state."""
        if net.state_to_restore_ is not None:
            restore_training_state(net, net.state_to_restore_)


def _stop_early(held_out_scores: HeldOutScores, sink: Callable[[str], Any]) -> EarlyStopping:
    return EarlyStopping(
        monitor=f"valid_{held_out_scores.decisive}",
        lower_is_better=held_out_scores.lower_is_better,
        patience=EARLY_STOPPING_PATIENCE,
        threshold=0,
        threshold_mode="abs",  # the share of an infinite score would be no number
        load_best=True,
        sink=sink,
    )


def count_validation(n_texts: int, validation_fraction: float) -> int:
    """Return how many texts scikit-learn's splitters hold out."""
    return int(np.ceil(validation_fraction * n_texts))


def count_steps(n_texts: int, batch_size: int, validation_fraction: float) -> int:
    """Return how many steps an epoch has; where no text is held out, the fraction is 0."""
    return -(-(n_texts - count_validation(n_texts, validation_fraction)) // batch_size)


def check_validation_split(labels: NDArray[np.int64], classes: NDArray[Any], validation_fraction: float) -> None:
    """Refuse a validation part that cannot hold each class; of many labels, one that cannot be split off.

    Parameters
    ----------
    labels : ndarray of shape (n_texts,) or (n_texts, n_labels), dtype int64
        Index of each text's class; of many labels, 1 where a text has a label.
    classes : ndarray of shape (n_classes,)
        The class labels.
    validation_fraction : float
        Share that is to be held out.

    Raises
    ------
    ValueError
        If a class has a single text, or one of the two parts would be smaller than the number of classes.
    """
    n_valid = count_validation(len(labels), validation_fraction)
    if labels.ndim == 2:
        if n_valid == len(labels):
            raise ValueError(
                f"early_stopping=True with validation_fraction={validation_fraction} holds out all of the {n_valid} "
                "rows: change validation_fraction or give more rows."
            )
        return
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            f"early_stopping=True needs two rows of each class, but y has one of class "
            f"{classes.tolist()[present[counts.argmin()]]!r}."
        )
    if min(n_valid, len(labels) - n_valid) < len(present):
        raise ValueError(
            f"early_stopping=True with validation_fraction={validation_fraction} splits {len(labels)} rows into "
            f"{len(labels) - n_valid} and {n_valid}, fewer than the {len(present)} classes: "
            "change validation_fraction or give more rows."
        )


def train(
    net: LayerwiseNet,
    dataset: StatesDataset,
    start: dict[str, torch.Tensor] | None,
    seed: int,
    state: dict[str, Any] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Fit a net.

    Parameters
    ----------
    net : LayerwiseNet
        From :func:`build_net`.
    dataset : StatesDataset
        What to fit.
    start : dict of Tensor or None
        State of the trained part to start from.
    seed : int
        Of dropout. The global generators are left as they were.
    state : dict, default=None
        Training state to go on from; the epochs of its history count among those of the net.
    processes : Processes, default=ALONE
        Those that train together, each of which calls this function; dropout is drawn anew in each.

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the last good weights are back in the net.
    KeyboardInterrupt
        If the user stopped it before the first step, or several processes, which do not stop at the same step; a single
        one keeps what it learned later, with a warning.
    RuntimeError
        If several processes end with other weights.
    """
    n_before = 0 if state is None else len(state["selection"]["scores"])
    net.initialize()
    if start is not None:
        net.module_.load_state_dict(start)
    net.processes_ = processes
    net.draws_ = OwnDraws(seed + processes.rank, torch.device(net.device))
    if state is not None:
        net.state_to_restore_ = state
        net.history_ = ended_epochs(state)  # before the callbacks begin, which look for the best epoch in it
        for group in net.optimizer_.param_groups:
            group["initial_lr"] = group["lr"]  # a schedule that does not begin at its first step asks for it
    try:
        net.partial_fit(dataset, dataset.labels, epochs=net.max_epochs - len(net.history))
    except FloatingPointError:
        net.callback("last_good_weights").restore()
        raise
    finally:
        if "step_bar" in dict(net.callbacks_):
            net.callback("step_bar").close()
    if net.interrupted_:
        n_steps = net.callback("selected_layers").n_steps
        if n_steps == n_before or processes.n > 1:
            raise KeyboardInterrupt
        warnings.warn(
            f"Training was interrupted after {n_steps} steps; the estimator keeps what it learned until then, and the "
            "program goes on. Interrupt it again to end it.",
            UserWarning,
            stacklevel=4,
        )
    processes.check_same(net.module_.state_dict())
