"""Writes what a fit did as HTML, for the diagram that scikit-learn makes of a fitted estimator."""

from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

from .callbacks import describe_layers

# The classes are those of scikit-learn's own tables, whose style sheet comes with the diagram.
_BLOCK = """
<div class="estimator-table"><details open><summary>Training</summary>
<table class="parameters-table"><tbody>{}</tbody></table></details></div>
"""
_ROW = """
<tr class="default"><td class="param"><a class="param-doc-link" style="text-decoration:none;">{}</a></td>
<td class="value">{}</td></tr>
"""


def write_training(classifier: Any) -> str:
    """Write what was trained, for how long, and what came of it.

    Parameters
    ----------
    classifier : IRTuningClassifier
        A fitted one.

    Returns
    -------
    block : str
        HTML, in which names that users gave are escaped.
    """
    return _BLOCK.format("".join(_ROW.format(escape(name), escape(text)) for name, text in _rows(classifier)))


def _rows(classifier: Any) -> Iterator[tuple[str, str]]:
    yield "backbone", f"{classifier._fitted_backbone[0]}, in {classifier.precision_}"
    yield "layers that run", f"{classifier.n_layers_}" + _describe_dropped(classifier.dropped_layers_)
    yield "may train", f"layers {describe_layers(classifier.candidate_layers_)}"
    yield "trained", _describe_shares(classifier)
    yield (
        "parameters",
        (
            f"{classifier.n_trainable_parameters_:,} of adapters and head; in the layers, "
            f"{classifier.n_active_parameters_.mean():,.0f} trained at a step, on average"
        ),
    )
    yield "epochs", f"{classifier.n_iter_} ({len(classifier.active_layers_)} steps)"
    yield from _last_epoch(classifier.history_)
    yield "labels, any number a row" if classifier.multilabel_ else "classes", ", ".join(classifier._class_names)


def _describe_dropped(layers: Any) -> str:
    return f"; {describe_layers(layers)} of the backbone are left out" if len(layers) else ""


def _describe_shares(classifier: Any) -> str:
    """Write the layers by the share of steps in which they trained, for example "3 in 80%; 1-2 in 50% of the steps"."""
    layers_of = defaultdict(list)
    shares = classifier.active_layers_.mean(axis=0)
    for layer, share in zip(classifier.candidate_layers_.tolist(), shares, strict=True):
        layers_of[f"{share:.0%}"].append(layer)
    by_share = sorted(layers_of, key=lambda share: -int(share.rstrip("%")))
    return "; ".join(f"{describe_layers(layers_of[share])} in {share}" for share in by_share) + " of the steps"


def _last_epoch(history: Any) -> Iterator[tuple[str, str]]:
    """Yield losses and scores of the last epoch that ran to its end."""
    whole = [epoch for epoch in history if "train_loss" in epoch]
    for name, value in whole[-1].items() if whole else ():
        if isinstance(value, float) and name.startswith(("train_", "valid_")):
            yield f"last {name}", f"{value:.4g}"
