"""IRTuningClassifier measured against its rivals: a fit, a second one, a grid search, predictions; run by speed.py."""

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from costs import peak_memory, restart_peak_memory, timed
from rivals import BACKBONE, write_texts
from scipy.special import softmax
from sklearn.base import clone
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from transformers import AutoModelForSequenceClassification, pipeline

from sklearn_irt import IRTuningClassifier
from sklearn_irt.backbone import load_tokenizer
from sklearn_irt.pairs import read_pairs
from sklearn_irt.precision import DTYPES, product_rates, product_size
from sklearn_irt.predicting import predict_logits
from sklearn_irt.stack import get_layers
from sklearn_irt.states_store import between_fits
from sklearn_irt.tokenization import tokenize_pairs
from sklearn_irt.without_weights import describe_backbone

GRID = {"learning_rate": [5e-4, 1e-3, 2e-3, 4e-3]}
# The parameters of ours that are not at their defaults, by the name of the contender.
SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours-quick": {"n_layers": 18, "candidate_layers": 4},
}


def measure_ours(parts: Any, classifier: IRTuningClassifier, device: torch.device) -> dict[str, Any]:
    X, y, X_dev, y_dev = parts
    resting = restart_peak_memory(device)
    figures: dict[str, Any] = timed("train", lambda: classifier.fit(X, y))
    figures |= {"peak_memory_mb": peak_memory(device) - resting, "precision": classifier.precision_}
    macro_f1 = round(float(f1_score(y_dev, classifier.predict(X_dev), average="macro")), 4)
    reached = {"seconds": figures["train_seconds"], "cpu_seconds": figures["train_cpu_seconds"], "macro_f1": macro_f1}
    figures |= {"macro_f1": macro_f1, "best_macro_f1": macro_f1, "seconds_to_best": reached["seconds"]}
    figures["epochs_reached"] = [reached]
    figures |= least_seconds(classifier, X)
    other_rate = clone(classifier).set_params(learning_rate=classifier.learning_rate / 2)
    figures |= timed("second_fit", lambda: other_rate.fit(X, y))
    figures |= timed("fitted_answers", lambda: other_rate.predict_proba(X))  # the prefix's states are still known
    return figures | predicting(classifier, X, device)


def least_seconds(classifier: IRTuningClassifier, X: Any) -> dict[str, float]:
    """Return what the matrix products of a fit, and of a training step, take at the rate of a bare matrix product.

    A token costs two operations a parameter of the prefix, once; and in each epoch two forwards through the candidate
    layers, and two backwards down to the lowest layer in training. The last layer computes queries, keys and values of
    every token, and the rest for one token a text, which is left out here.
    """
    backbone, candidates = classifier.net_.module_.backbone, classifier.candidate_layers_
    size = describe_backbone(backbone.model.config, classifier.n_layers)
    classes = [str(label) for label in classifier.classes_]
    tokens = tokenize_pairs(
        read_pairs(X), backbone.tokenizer, classifier.pair_format, classes, classifier.context, classifier.max_length
    )
    rate = product_rates(*product_size(backbone.model.config), backbone.device)[classifier.precision_]
    layer = size.n_layer_parameters / size.n_layers
    attention = get_layers(backbone.model, backbone.stack)[-1].self_attn
    last = sum(product.weight.numel() for product in (attention.q_proj, attention.k_proj, attention.v_proj))
    lowest_in_training = classifier.active_layers_.argmax(axis=1)
    n_parameters = 2 * last + layer * (2 * (len(candidates) - 1) - lowest_in_training.mean())
    steps = 2 * n_parameters * tokens.lengths.sum() * classifier.max_epochs
    prefix = 2 * layer * candidates[0] * sum(map(len, tokens.token_ids))
    n_steps = len(classifier.active_layers_)
    return {
        "product_rate": rate,
        "least_fit_seconds": (prefix + steps) / rate,
        "least_seconds_a_step": steps / n_steps / rate,
        "seconds_a_step": sum(epoch["dur"] for epoch in classifier.history_) / n_steps,
    }


def predicting(classifier: IRTuningClassifier, X: Any, device: torch.device) -> dict[str, float]:
    """Time the training pairs' probabilities, ours and a transformers pipeline's."""
    texts = write_texts(X, "inline-diff", classifier.classes_)
    tokenizer = load_tokenizer(BACKBONE)
    tokenizer.truncation_side = "left"
    model = merged_model(classifier).to(device)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=32, device=device)
    options = {"top_k": None, "truncation": True, "max_length": classifier.max_length}
    between_fits.clear()  # a prediction of texts that no fit has seen
    figures = timed("new_answers", lambda: classifier.predict_proba(X))
    figures |= timed("answers_again", lambda: classifier.predict_proba(X))
    figures |= timed("pipeline_answers", lambda: classify(texts, **options))
    some = texts[:100]
    token_ids = tokenizer(some, truncation=True, max_length=classifier.max_length)["input_ids"]
    ours = softmax(predict_logits(classifier.net_.module_, token_ids), axis=1)
    scores = [{score["label"]: score["score"] for score in scores} for scores in classify(some, **options)]
    theirs = np.array([[of_text[str(label)] for label in classifier.classes_] for of_text in scores])
    return figures | {"pipeline_difference": float(np.abs(ours - theirs).max())}


def merged_model(classifier: IRTuningClassifier) -> Any:
    """Put adapters and head into the plain model, which then needs neither peft nor this package."""
    with TemporaryDirectory() as folder:
        classifier.export(f"{folder}/merged")
        merged = AutoModelForSequenceClassification.from_pretrained(f"{folder}/merged")
        return merged.to(DTYPES[classifier.precision_])


def measure_grid(parts: Any, classifier: IRTuningClassifier, device: torch.device) -> dict[str, float]:
    search = GridSearchCV(classifier, GRID, scoring="f1_macro", cv=3, refit=False)
    resting = restart_peak_memory(device)
    figures = timed("train", lambda: search.fit(*parts[:2]))
    return {**figures, "peak_memory_mb": peak_memory(device) - resting}


def measure_fold(parts: Any, classifier: IRTuningClassifier, device: torch.device) -> dict[str, float]:
    """Measure what the grid does twelve times: a fit on two thirds of the pairs, and the score on the rest."""
    X, y = parts[:2]
    train, test = next(StratifiedKFold(3).split(X, y))
    resting = restart_peak_memory(device)
    figures = timed("train", lambda: classifier.fit(X.iloc[train], y.iloc[train]).predict(X.iloc[test]))
    return {**figures, "peak_memory_mb": peak_memory(device) - resting}
