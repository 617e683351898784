"""What a fit starts from: tells it from other fits, and finds what the estimator learned before."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from peft import PeftConfig

from .backbone_files import absolute, file_times, locate_backbone
from .checkpoints import describe_fit, describe_parameter
from .fingerprint import whole_content
from .fit_plan import FitPlan, TrainingData
from .selection import LayerSelection
from .selection.named import selection_for_fit

# Parameters on which the result of a fit does not depend.
_NO_MATTER_OF_RESULTS = ("verbose", "memory", "prefix_cache", "checkpoint_dir", "checkpoint_interval", "resume")


def describe_fit_of(classifier: Any, data: TrainingData, plan: FitPlan) -> dict[str, str]:
    """Say what a fit depends on; see :func:`~sklearn_irt.checkpoints.describe_fit`.

    Parameters
    ----------
    classifier : IRTuningClassifier
        Whose parameters tell one fit from another.
    data : TrainingData
        So do the data.
    plan : FitPlan
        And their tokens.

    Returns
    -------
    description : dict of str to str
        By which two fits can be told apart.
    """
    goes_on = classifier.warm_start and hasattr(classifier, "net_")
    learned = classifier.net_.module_.state_dict() if goes_on else {}
    parameters = classifier.get_params(deep=False)
    return describe_fit(
        {name: value for name, value in parameters.items() if name not in _NO_MATTER_OF_RESULTS},
        {
            "X": data.pairs,
            "y": [data.classes.tolist(), data.labels.tolist()],
            "sample_weight": data.weights.tolist(),
            "how texts are tokenized": plan.tokenized.token_ids,
            "what warm_start starts from": whole_content(learned),
        },
        [(name, size) for name, size, _ in file_times(locate_backbone(classifier.backbone))],
    )


def adapters_to_start_from(
    classifier: Any, plan: FitPlan, selection: LayerSelection, data: TrainingData, *, in_parts: bool
) -> dict[str, Any] | None:
    """Return the adapters and head to go on from; refuse those that belong to something else.

    Parameters
    ----------
    classifier : IRTuningClassifier
        With its parameters of now, and what it learned in its last fit.
    plan : FitPlan
        What the coming fit will do.
    selection : LayerSelection
        The strategy of the coming fit.
    data : TrainingData
        What it will learn from.
    in_parts : bool
        Whether it is a ``partial_fit``.

    Returns
    -------
    learned : dict of Tensor or None
        None where the fit begins anew.

    Raises
    ------
    ValueError
        If a parameter changed that what was learned belongs to.
    """
    if not hasattr(classifier, "net_") or not (in_parts or classifier.warm_start):
        return None
    changed = _changed(classifier, plan, selection, data)
    if in_parts and classifier._training_state and describe_strategy(classifier) != classifier._fitted_selection:
        changed.append("selection")
    if changed:
        call = "partial_fit" if in_parts else "warm_start=True"
        raise ValueError(f"{call}, but {' and '.join(changed)} changed since the last fit: use a new estimator.")
    return classifier.net_.module_.state_dict()


def _changed(classifier: Any, plan: FitPlan, selection: LayerSelection, data: TrainingData) -> list[str]:
    module = classifier.net_.module_
    backbone, options = classifier._fitted_backbone
    # Where n_layers changed, other layers are candidates without the user's doing.
    same_candidates = plan.n_layers != classifier.n_layers_ or np.array_equal(plan.layers, classifier.candidate_layers_)
    is_same = {
        "the classes of y": np.array_equal(data.classes, classifier.classes_),
        "whether a row of y has one label or many": data.multilabel == classifier.multilabel_,
        "the column names of y": _names_agree(data.label_names, getattr(classifier, "label_names_", None)),
        "quantization": classifier.quantization == module.backbone.origin["quantization"],
        "drop_layers": classifier.drop_layers == len(classifier.dropped_layers_),
        "n_layers": plan.n_layers == classifier.n_layers_,
        "candidate_layers": same_candidates,
        "embeddings": selection.trains_embeddings == module.trains_embeddings,
        "precision": classifier.precision in ("auto", classifier.precision_),
        "backbone": absolute(classifier.backbone) == backbone,
        "backbone_options": (classifier.backbone_options or {}) == options,
        "adapter": _as_dict(plan.adapter) == _as_dict(module.origin["adapter"]),
    }
    return [name for name, same in is_same.items() if not same]


def _names_agree(names: NDArray[Any] | None, before: NDArray[Any] | None) -> bool:
    return names is None or before is None or np.array_equal(names, before)


def _as_dict(adapter: PeftConfig | None) -> dict[str, Any] | None:
    return None if adapter is None else adapter.to_dict()


def describe_strategy(classifier: Any) -> str:
    """Return the ``selection`` of a classifier as text by which two can be told apart."""
    return describe_parameter("selection", selection_for_fit(classifier.selection))
