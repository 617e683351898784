"""One fit of a classifier: loads the backbone, computes the frozen prefix, trains, and keeps what was learned."""

from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator

from .backbone import Backbone, load_backbone
from .backbone_files import absolute
from .batching import StatesDataset
from .callbacks import SelectedLayers, describe_layers
from .checkpoints import Checkpoints, open_checkpoints
from .distributed import Processes, join_processes
from .fit_clock import FitClock
from .fit_plan import FitPlan, TrainingData, plan_fit
from .layer_dropping import MOST_TEXTS, least_changing_layers
from .precision import LARGE_BACKBONE, choose_precision, product_rates, product_size, warn_of_slow_fit
from .prefix import PrefixStates, compute_prefix_states
from .randomness import own_generator
from .selection import LayerSelection
from .selection.named import selection_for_fit
from .starting_point import adapters_to_start_from, describe_fit_of, describe_strategy
from .states_store import StatesStore, open_store
from .training import LayerwiseNet, build_net, train
from .training_state import capture_between_parts

# What the processes that train together may have been given differently: the first one's generator serves all.
_OWN_OF_PROCESSES = ("random_state", "device")


def fit_classifier(classifier: Any, data: TrainingData, columns: BaseEstimator, *, in_parts: bool = False) -> None:
    """Fit a classifier; until it has learned something, it is left as it was.

    Parameters
    ----------
    classifier : IRTuningClassifier
        Gets the fitted attributes, also when training ends with an error after the first step.
    data : TrainingData
        What it learns from.
    columns : BaseEstimator
        Has noted the columns of X; the classifier itself where they were checked against those of its last fit.
    in_parts : bool, default=False
        Whether it trains for one epoch more, as ``partial_fit`` does.
    """
    clock = FitClock()
    processes = join_processes(classifier.distributed, classifier.device)
    plan = plan_fit(classifier, data, 1 if in_parts else classifier.max_epochs, processes.device)
    checkpoints = _open_checkpoints(classifier, data, plan, processes, in_parts=in_parts)
    part_before = classifier._training_state if in_parts else None
    state = part_before or (checkpoints and checkpoints.state)
    # What goes on has a generator of its own: the user's may have moved on meanwhile.
    random_state = processes.share_generator(own_generator(None if part_before else classifier.random_state))
    if checkpoints is not None:
        checkpoints.begin(random_state, processes)
    selection = selection_for_fit(classifier.selection)
    selection.begin(plan.layers, random_state, n_layers=plan.n_layers, steps_per_epoch=plan.steps_per_epoch)
    start = adapters_to_start_from(classifier, plan, selection, data, in_parts=in_parts)
    precision = processes.ask_first(
        lambda: _choose_precision(classifier, plan, selection, checkpoints, goes_on=start is not None)
    )
    classifier._say(
        f"Computing in {precision} on {plan.device}; layers {describe_layers(plan.layers)} may train, of "
        f"{plan.n_layers} that run."
    )
    module_seed, dropout_seed = random_state.randint(np.iinfo(np.int32).max, size=2).tolist()
    with (
        torch.inference_mode(False),
        open_store(classifier.prefix_cache, plan.n_tokens, plan.hidden_size) as store,
    ):
        classifier._say(f"Prefix states ({plan.n_tokens * plan.hidden_size * 2 / 1e6:.0f} MB) are kept {store.place}.")
        backbone = _load_backbone(classifier, plan, precision, checkpoints, random_state, goes_on=start is not None)
        module = {
            "backbone": backbone,
            "n_classes": len(data.classes),
            "n_layers": plan.n_layers,
            "layers": plan.layers,
            "adapter": plan.adapter,
            "seed": module_seed,
            "trains_embeddings": selection.trains_embeddings,
        }
        states = _compute_states(classifier, plan, backbone, store, has_prefix=not selection.trains_embeddings)
        n_before = len(part_before["selection"]["scores"]) if part_before else 0
        selected_layers = SelectedLayers(selection, states, n_before + plan.n_epochs * plan.steps_per_epoch)
        net = build_net(
            module,
            selected_layers,
            max_epochs=plan.n_epochs + (len(part_before["history"]) if part_before else 0),
            batch_size=classifier.batch_size,
            learning_rate=classifier.learning_rate,
            held_out_scores=data.held_out_scores,
            validation_fraction=classifier.validation_fraction,
            random_state=random_state,
            verbose=classifier._own_verbose,
            multilabel=data.multilabel,
            decays=not in_parts,
            checkpoints=checkpoints,
            clock=clock,
        )
        tokenized, training_state = plan.tokenized, None
        dataset = StatesDataset(states, tokenized.texts, data.labels, data.weights, tokenized.windows)
        try:
            train(net, dataset, start, dropout_seed, state, processes)
            if in_parts and not net.interrupted_:
                training_state = capture_between_parts(net)
        finally:
            if selected_layers.n_steps > n_before:
                _keep(classifier, net, selected_layers, plan, data, columns, in_parts=in_parts)
                classifier._training_state = training_state


def _open_checkpoints(
    classifier: Any, data: TrainingData, plan: FitPlan, processes: Processes, *, in_parts: bool
) -> Checkpoints | None:
    """Return what writes the checkpoints of a fit, and has found the last one; None where there is no folder for them.

    Of several processes, see first whether all are about to do the same.
    """
    writes = classifier.checkpoint_dir is not None and not in_parts
    description = describe_fit_of(classifier, data, plan) if writes or processes.n > 1 else {}
    processes.check_alike({name: value for name, value in description.items() if name not in _OWN_OF_PROCESSES})
    if not writes:
        return None
    folder, interval, resume = classifier.checkpoint_dir, classifier.checkpoint_interval, classifier.resume
    return processes.ask_first(lambda: open_checkpoints(folder, interval, description, resume=resume))


def _choose_precision(
    classifier: Any, plan: FitPlan, selection: LayerSelection, checkpoints: Checkpoints | None, *, goes_on: bool
) -> str:
    """Return the precision of the fit that goes on; a new one takes the faster, where that is left open."""
    if checkpoints is not None and checkpoints.found is not None:
        return checkpoints.found["precision"]
    size = product_size(plan.config)
    precision = classifier.precision_ if goes_on else choose_precision(classifier.precision, *size, plan.device)
    if plan.device.type == "cpu" and plan.size.n_parameters > LARGE_BACKBONE:
        n_operations = plan.count_operations(has_prefix=not selection.trains_embeddings)
        warn_of_slow_fit(plan.size.n_parameters, n_operations / product_rates(*size, plan.device)[precision])
    if checkpoints is not None:
        checkpoints.begun_with["precision"] = precision
    return precision


def _load_backbone(
    classifier: Any,
    plan: FitPlan,
    precision: str,
    checkpoints: Checkpoints | None,
    random_state: np.random.RandomState,
    *,
    goes_on: bool,
) -> Backbone:
    load = partial(
        load_backbone,
        classifier.backbone,
        precision=precision,
        device=plan.device,
        options=classifier.backbone_options,
        quantization=classifier.quantization,
    )
    weights = checkpoints.found["weights"] if checkpoints and checkpoints.found else None
    if goes_on:
        weights = classifier.net_.module_.backbone.origin["weights"]
    backbone = load(weights=weights)
    if checkpoints is not None:
        checkpoints.begun_with["weights"] = backbone.origin["weights"]
    if not classifier.drop_layers:
        return backbone
    if goes_on:
        return load(dropped=tuple(classifier.dropped_layers_.tolist()))
    token_ids = plan.tokenized.token_ids
    sample = [token_ids[text] for text in random_state.permutation(len(token_ids))[:MOST_TEXTS]]
    dropped = least_changing_layers(
        backbone.model, backbone.stack, backbone.tokenizer, sample, plan.size.n_layers, classifier.drop_layers
    )
    classifier._say(f"Layers {describe_layers(dropped)} of the backbone are left out.")
    return load(dropped=dropped)


def _compute_states(
    classifier: Any, plan: FitPlan, backbone: Backbone, store: StatesStore, *, has_prefix: bool
) -> PrefixStates:
    states = compute_prefix_states(
        backbone,
        plan.tokenized.token_ids,
        int(plan.layers[0]) if has_prefix else 0,
        store,
        plan.memory,
        show_progress=classifier._own_verbose >= 1,
    )
    states.move_to_roomy(plan.device)
    return states


def _keep(
    classifier: Any,
    net: LayerwiseNet,
    selected_layers: SelectedLayers,
    plan: FitPlan,
    data: TrainingData,
    columns: BaseEstimator,
    *,
    in_parts: bool,
) -> None:
    """Set the fitted attributes."""
    net.release_training_state()
    counted_before = classifier.class_count_ if in_parts and hasattr(classifier, "net_") else 0
    if columns is not classifier:
        vars(classifier).pop("feature_names_in_", None)
        vars(classifier).update(vars(columns))
    classifier.net_ = net
    classifier._fitted_backbone = absolute(classifier.backbone), dict(classifier.backbone_options or {})
    classifier._fitted_selection = describe_strategy(classifier)
    classifier.classes_ = data.classes
    classifier.class_count_ = counted_before + data.counts
    classifier.multilabel_ = data.multilabel
    vars(classifier).pop("label_names_", None)
    if data.label_names is not None:
        classifier.label_names_ = data.label_names
    classifier.n_layers_ = plan.n_layers
    classifier.dropped_layers_ = np.array(net.module_.backbone.origin.get("dropped", ()), dtype=np.intp)
    classifier.selection_ = selected_layers.selection
    vars(classifier.selection_).pop("probe_", None)  # it holds what only training needs
    classifier.candidate_layers_ = classifier.selection_.layers_
    classifier.layer_scores_ = np.array(selected_layers.scores_)
    classifier.active_layers_ = np.array(selected_layers.active_)
    classifier.n_active_parameters_ = np.array(selected_layers.n_active_parameters_)
    classifier.history_ = net.history
    classifier.n_iter_ = sum("train_loss" in epoch for epoch in net.history)
    classifier.n_trainable_parameters_ = sum(p.numel() for _, p in net.get_all_learnable_params())
    classifier.precision_ = net.module_.backbone.precision
