"""Writes the model card of a fitted classifier: what it was trained on, how, and how well it did."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .persistence import library_versions
from .scoring import read_scoring

_COUNTS = ("batch_count", "batch_size")
_CARD = """---
{metadata}
---

# {title}

An `IRTuningClassifier` of [sklearn-irt](https://pypi.org/project/sklearn-irt/): {what_trained} on the backbone
`{backbone}`, which {task}.

```python
from huggingface_hub import snapshot_download
from sklearn_irt import IRTuningClassifier

clf = IRTuningClassifier.load(snapshot_download("{repo_id}"){to_pass})
clf.predict(X)
```

The folder holds no code and no pickle, and not the backbone's own weights.

## Training data

{data}

## Scores

{scores}

## Layers

{n_layers} layers of the backbone run{dropped}. Each row says in which share of the {n_steps} steps a layer trained.

{layers}

## Versions

{versions}
"""


def write_card(
    classifier: Any, record: Mapping[str, Any], repo_id: str, to_pass: Sequence[str], scores: Mapping[str, float]
) -> str:
    """Write a model card.

    Parameters
    ----------
    classifier : IRTuningClassifier
        Fitted.
    record : mapping
        Its backbone, by :func:`~sklearn_irt.stored_backbone.record_backbone`.
    repo_id : str
        Where it will be.
    to_pass : sequence of str
        Parameters that whoever loads it has to give.
    scores : mapping of str to float
        The user's own, by the names of the metrics.

    Returns
    -------
    card : str
        Markdown, with metadata that the Hugging Face hub reads.
    """
    steps = classifier.active_layers_
    dropped = ", ".join(map(str, classifier.dropped_layers_))
    held_out = _held_out_scores(classifier)
    text = _CARD.format(
        metadata=_metadata(record, repo_id, scores, held_out),
        title=repo_id.split("/")[-1],
        what_trained="weights of its own" if classifier.adapter is None else "adapters",
        backbone=record["name"],
        task=_task(classifier),
        repo_id=repo_id,
        to_pass="".join(f", {name}=..." for name in to_pass),
        data=_data(classifier),
        scores=_scores(scores, held_out),
        n_layers=classifier.n_layers_,
        dropped=f" (layers {dropped} were dropped)" if dropped else "",
        n_steps=len(steps),
        layers=_table(
            ("layer", "steps"),
            ((layer, f"{share:.0%}") for layer, share in zip(classifier.candidate_layers_, steps.mean(0), strict=True)),
        ),
        versions=_table(("library", "version"), library_versions().items()),
    )
    return str(ModelCard(text))


def _task(classifier: Any) -> str:
    what = "revision pairs" if classifier.n_features_in_ == 2 else "texts"
    n_classes = len(classifier.classes_)
    if classifier.multilabel_:
        return f"give {what} any number of {n_classes} labels"
    return f"classify {what} into {n_classes} classes"


def _metadata(
    record: Mapping[str, Any], repo_id: str, scores: Mapping[str, float], held_out: Mapping[str, float]
) -> str:
    results = [
        *(_result("given by the author", name, value) for name, value in scores.items()),
        *(_result("held-out part of the training data", name, value) for name, value in held_out.items()),
    ]
    data = ModelCardData(
        library_name="sklearn-irt",
        pipeline_tag="text-classification",
        base_model=record["name"] if record["kind"] == "hub" else None,
        tags=["sklearn-irt", "scikit-learn", "text-classification"],
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
    )
    return data.to_yaml()


def _result(dataset: str, metric: str, value: float) -> EvalResult:
    return EvalResult("text-classification", "unknown", dataset, metric, float(value))


def _held_out_scores(classifier: Any) -> dict[str, float]:
    """Return the scores of the epoch whose weights were kept, where a part was held out."""
    validated = [epoch for epoch in classifier.history_ if "valid_loss" in epoch]
    if not validated:
        return {}
    decisive = next(iter(read_scoring(classifier.scoring)))
    kept = [epoch for epoch in validated if epoch.get(f"valid_{decisive}_best")][-1:] or validated[-1:]
    names = {name.removeprefix("valid_"): name for name in kept[0] if name.startswith("valid_")}
    wanted = {name: key for name, key in names.items() if not name.endswith("_best") and name not in _COUNTS}
    return {"accuracy" if name == "acc" else name: float(kept[0][key]) for name, key in wanted.items()}


def _data(classifier: Any) -> str:
    counts = classifier.class_count_
    rows = list(zip(classifier._class_names, counts, strict=True))
    if classifier.multilabel_:
        return "A row may have any number of the labels:\n\n" + _table(("label", "rows that have it"), rows)
    return f"{counts.sum()} rows:\n\n" + _table(("class", "rows"), rows)


def _scores(scores: Mapping[str, float], held_out: Mapping[str, float]) -> str:
    rows = [
        *((name, "given by the author", f"{value:.4g}") for name, value in scores.items()),
        *((name, "held-out part of the training data", f"{value:.4g}") for name, value in held_out.items()),
    ]
    return _table(("metric", "of", "value"), rows) if rows else "None were given, and no part was held out."


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
