"""Measures candidate layers for a strategy that asks: the training side of LayerProbe."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import Dataset

from .batching import iterate_batches, pad_batch
from .selection import LayerCost
from .trained_part import TrainedPart
from .windows import split_by_window

# Of the output projection of attention: the last word of its name, in the families of transformers.
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "out_lin", "Wo")


class TrainingProbe:
    """The :class:`~sklearn_irt.selection.LayerProbe` of one fit.

    Parameters
    ----------
    net : LayerwiseNet
        The net of the fit, initialized.
    dataset : Dataset
        Its training texts: a :class:`~sklearn_irt.batching.StatesDataset` or a subset of one.
    random_state : RandomState
        Draws the samples.
    splits : dict of float to (list of int, list of int, int)
        Rows to train on and to judge by, and a seed, for each share that :meth:`score_after_training` was asked for so
        far; it adds to them.
    """

    def __init__(
        self,
        net: Any,
        dataset: Dataset,
        random_state: np.random.RandomState,
        splits: dict[float, tuple[list[int], list[int], int]],
    ) -> None:
        self.splits = splits
        self._net = net
        self._dataset: Any = dataset
        self._random_state = random_state

    @property
    def _part(self) -> TrainedPart:
        return self._net.module_

    def tensors(self) -> dict[int, dict[str, str]]:
        """Return the names of each layer's trainable tensors, each with its module."""
        return {
            layer: {name: _owner(self._part.stack[layer], name) for name in tensors}
            for layer, tensors in self._part.layer_tensors.items()
        }

    def costs(self) -> list[LayerCost]:
        """Return what each layer that runs costs, in multiplications a token."""
        own = {layer: sum(p.numel() for p in group) for layer, group in self._part.layer_parameters.items()}
        products = [_count_products(layer) for layer in self._part.stack]
        return [LayerCost(count, own.get(layer, 0)) for layer, count in enumerate(products)]

    def weight_norms(self) -> NDArray[np.float64]:
        """Return the L2 norm of the weight of each candidate's attention output projection."""
        projections = [_output_projection(self._part.stack[layer]) for layer in self._part.layers]
        with torch.no_grad():
            return np.array([torch.linalg.vector_norm(p.float()).item() for p in projections])

    def similarities(self, n_texts: int) -> NDArray[np.float64]:
        """Return the mean cosine between the state that enters a layer and the one that leaves it."""
        with self._evaluating(), torch.no_grad():
            cosines = [
                self._part.similarities(**windows)
                for inputs, _ in self._batches(n_texts)
                for windows in split_by_window(inputs, self._net.count_together(inputs))
            ]
        return np.array([torch.cat([batch[layer] for batch in cosines]).mean().item() for layer in self._part.layers])

    def losses(self, suppressed: Iterable[Sequence[int]], factor: float, n_texts: int) -> NDArray[np.float64]:
        """Return the loss on one sample while the adapters of each set of layers are suppressed."""
        batches = list(self._batches(n_texts))
        losses = []
        with self._evaluating(), torch.no_grad():
            for layers in suppressed:
                with self._suppressed(layers, factor):
                    losses.append(sum(self._share_of_loss(*batch).item() for batch in batches))
        return np.array(losses)

    def gradients(self, n_texts: int) -> dict[int, dict[str, NDArray[np.float32]]]:
        """Return the gradient of the mean loss over a sample."""
        with self._all_training():
            self._backward(self._batches(n_texts))
            return {
                layer: {name: _gradient(p).cpu().numpy().copy() for name, p in tensors.items()}
                for layer, tensors in self._part.layer_tensors.items()
            }

    def squared_gradients(self, n_texts: int) -> NDArray[np.float64]:
        """Return the mean of the squared gradients of single texts, unweighted."""
        sums = torch.zeros(len(self._part.layers))
        rows = self._draw(n_texts)
        with self._all_training():
            for row in rows:
                inputs, labels = self._pad([row])
                inputs["weight"] = torch.ones(1)
                self._backward([(inputs, labels)])
                sums += _on_cpu([_sum(_gradient(p).square() for p in group) for group in self._groups])
                self._forget_gradients()
        return sums.double().numpy() / len(rows) / [sum(p.numel() for p in group) for group in self._groups]

    def savings(self, n_texts: int) -> NDArray[np.float64]:
        """Return the loss that the coming update of each layer is expected to save, for a learning rate of 1."""
        with self._all_training():
            self._backward(self._batches(n_texts))
            return _on_cpu([self._saving(group) for group in self._groups]).double().numpy()

    def step_savings(self) -> dict[int, float]:
        """Return the same of the layers that train, from the gradients of the step itself."""
        trained = {
            layer: self._saving(group)
            for layer, group in self._part.layer_parameters.items()
            if any(p.grad is not None for p in group)
        }
        return dict(zip(trained, _on_cpu(list(trained.values())).tolist(), strict=True))

    def score_after_training(self, layers: Sequence[int], n_steps: int, validation_share: float) -> tuple[float, float]:
        """Train layers and head for a while on a part of the texts, judge on the rest, and put the weights back."""
        training, validation, seed = self._split_rows(validation_share)
        learned = [p for _, p in self._net.get_all_learnable_params()]
        copies = [p.detach().clone() for p in learned]
        chosen = {id(p) for layer in layers for p in self._part.layer_parameters[layer]}
        try:
            with self._training_alone({id(p) for p in learned} - {id(p) for p in self._adapters} | chosen):
                self._train_briefly(training, n_steps, seed)
            return self._judge(validation)
        finally:
            with torch.no_grad():
                for parameter, copy in zip(learned, copies, strict=True):
                    parameter.copy_(copy)

    # Samples

    def _draw(self, n_texts: int) -> list[int]:
        n_rows = len(self._dataset)
        return self._random_state.choice(n_rows, min(n_texts, n_rows), replace=False).tolist()

    def _batches(self, n_texts: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Draw a sample and yield it in batches, whose weights make their losses add up to the mean over the sample."""
        return self._batch(self._draw(n_texts))

    def _batch(self, rows: Sequence[int]) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        for start in range(0, len(rows), self._net.batch_size):
            batch = rows[start : start + self._net.batch_size]
            inputs, labels = self._pad(batch)
            inputs["weight"] = inputs["weight"] * (len(batch) / len(rows))
            yield inputs, labels

    def _pad(self, rows: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return pad_batch([self._dataset[row] for row in rows], self._part.backbone.tokenizer.pad_token_id)

    def _split_rows(self, share: float) -> tuple[list[int], list[int], int]:
        if share not in self.splits:
            labels = np.array([self._dataset[row]["label"] for row in range(len(self._dataset))])
            strata = labels if labels.ndim == 1 else None  # of many labels scikit-learn makes none
            seed = int(self._random_state.randint(np.iinfo(np.int32).max))
            try:
                training, validation = train_test_split(
                    np.arange(len(labels)), test_size=share, stratify=strata, random_state=seed
                )
            except ValueError as error:
                raise ValueError(
                    f"The share {share} of {len(labels)} training texts cannot be held out by class to judge layers: "
                    f"{error}"
                ) from error
            self.splits[share] = training.tolist(), validation.tolist(), seed
        return self.splits[share]

    # Passes

    def _share_of_loss(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return self._net.get_loss(self._net.infer(inputs), labels, X=inputs)

    def _backward(self, batches: Iterable[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> None:
        for batch in batches:
            for inputs, labels in self._net.split(*batch):
                self._share_of_loss(inputs, labels).backward()

    def _train_briefly(self, rows: Sequence[int], n_steps: int, seed: int) -> None:
        groups = [{"params": g["params"], "lr": g["initial_lr"]} for g in self._net.optimizer_.param_groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        rows_of_fit = torch.utils.data.Subset(self._dataset, rows)
        random_state = np.random.RandomState(seed)  # the same batches in every trial, so that their scores compare
        step = 0
        while step < n_steps:
            for batch in iterate_batches(
                rows_of_fit, self._net.batch_size, random_state, self._part.backbone.tokenizer.pad_token_id
            ):
                optimizer.zero_grad()
                self._net.train_step_single(batch)
                self._net.callback("gradient_norm_clipping").on_grad_computed(
                    self._net, named_parameters=self._net.get_all_learnable_params()
                )
                optimizer.step()
                step += 1
                if step == n_steps:
                    break

    def _judge(self, rows: Sequence[int]) -> tuple[float, float]:
        n_right, n_labels, loss = 0, 0, 0.0
        with self._evaluating(), torch.no_grad():
            for inputs, labels in self._batch(rows):
                logits = self._net.infer(inputs)
                loss += self._net.get_loss(logits, labels, X=inputs).item()
                n_right += int((self._net.choose(logits).cpu() == labels).sum())
                n_labels += labels.numel()
        return n_right / n_labels, -loss

    # States of the module, each for a while

    @property
    def _groups(self) -> list[list[nn.Parameter]]:
        return list(self._part.layer_parameters.values())

    @property
    def _adapters(self) -> list[nn.Parameter]:
        return [p for group in self._groups for p in group]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self._part.training
        self._part.eval()
        try:
            yield
        finally:
            self._part.train(was_training)

    @contextmanager
    def _training_alone(self, chosen: set[int]) -> Iterator[None]:
        """Let these parameters require gradients, and no others; what the last step left of them is forgotten."""
        learned = [p for _, p in self._net.get_all_learnable_params()]
        before = [p.requires_grad for p in learned]
        for parameter in learned:
            parameter.requires_grad_(id(parameter) in chosen)
        self._forget_gradients()
        try:
            yield
        finally:
            self._forget_gradients()
            for parameter, required in zip(learned, before, strict=True):
                parameter.requires_grad_(required)

    @contextmanager
    def _all_training(self) -> Iterator[None]:
        with self._training_alone({id(p) for p in self._adapters}), self._evaluating():
            yield

    def _forget_gradients(self) -> None:
        for _, parameter in self._net.get_all_learnable_params():
            parameter.grad = None

    @contextmanager
    def _suppressed(self, layers: Sequence[int], factor: float) -> Iterator[None]:
        weights = [weight for layer in layers for weight in _up_projections(self._part.stack[int(layer)])]
        copies = [weight.detach().clone() for weight in weights]
        try:
            for weight in weights:
                weight.mul_(factor)
            yield
        finally:
            for weight, copy in zip(weights, copies, strict=True):
                weight.copy_(copy)

    def _saving(self, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        trained = [p for p in parameters if p.grad is not None]
        return _sum(_gradient(p) * _adamw_step(self._net.optimizer_, p) for p in trained)


def _adamw_step(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.Tensor:
    """Return the step that AdamW would take, for a learning rate of 1 (Loshchilov and Hutter 2019, Algorithm 2)."""
    (beta1, beta2), epsilon = optimizer.defaults["betas"], optimizer.defaults["eps"]
    gradient, state = _gradient(parameter), optimizer.state.get(parameter, {})
    n_steps = float(state.get("step", 0)) + 1
    first = beta1 * state.get("exp_avg", 0) + (1 - beta1) * gradient
    second = beta2 * state.get("exp_avg_sq", 0) + (1 - beta2) * gradient.square()
    return first / (1 - beta1**n_steps) / ((second / (1 - beta2**n_steps)).sqrt() + epsilon)


def _sum(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def _on_cpu(numbers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Fetch numbers from the device all at once: it has to come to a halt for each that is fetched by itself."""
    return torch.stack(list(numbers)).cpu()


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def _owner(layer: nn.Module, tensor: str) -> str:
    """Return the module of the backbone that a tensor of a layer belongs to, or that its adapter sits beside."""
    parts = tensor.split(".")
    for n in range(1, len(parts)):
        if isinstance(layer.get_submodule(".".join(parts[:n])), BaseTunerLayer):
            return ".".join(parts[:n])
    return ".".join(parts[:-1])


def _count_products(layer: nn.Module) -> int:
    count = 0
    for module in layer.modules():
        if isinstance(module, nn.Linear):  # a quantized one keeps fewer numbers than it has weights
            count += module.in_features * module.out_features
        else:
            count += sum(p.numel() for p in module.parameters(recurse=False) if p.dim() >= 2)
    return count


def _output_projection(layer: nn.Module) -> torch.Tensor:
    for name, module in layer.named_modules():
        first, _, _ = name.partition(".")
        if "att" in first.lower() and name.rpartition(".")[2] in _OUTPUT_PROJECTIONS and hasattr(module, "weight"):
            base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            return dequantize_module_weight(base)
    raise ValueError(f"{type(layer).__name__} has no attention output projection that is known by its name.")


def _up_projections(layer: nn.Module) -> list[nn.Parameter]:
    """Return what the output of a layer's LoRA adapters is proportional to."""
    adapters: list[Any] = [module for module in layer.modules() if isinstance(module, LoraLayer)]
    if not adapters:
        raise ValueError("Only adapters of LoRA's kind can be suppressed.")
    return [p for module in adapters for p in module.lora_B.parameters()]
