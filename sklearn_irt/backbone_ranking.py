"""Ranks backbones by how well their frozen hidden states suit the classes, without training any."""

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils._param_validation import StrOptions, validate_params
from tqdm.auto import tqdm

from .backbone import forget_latest, load_config, load_tokenizer
from .features import BackboneFeatures
from .label_matrix import has_many_labels
from .labels import read_labels
from .pairs import read_pairs
from .rows import check_max_length
from .stack import read_depths
from .transferability import SCORES
from .without_weights import BackboneSize, describe_backbone


@validate_params(
    {"score": [StrOptions(set(SCORES))], "layers": [Real, "array-like"], "verbose": ["verbose"]},
    prefer_skip_nested_validation=True,
)
def rank_backbones(
    X: Any,
    y: ArrayLike,
    backbones: Sequence[str | os.PathLike[str]],
    *,
    score: str = "logme",
    layers: Any = 0.5,
    verbose: int = 0,
    **parameters: Any,
) -> pd.DataFrame:
    """Rank backbones by how well their frozen hidden states suit the classes, without training any.

    Each backbone is loaded, runs once over the texts, and is forgotten again unless an estimator shares it.

    Parameters
    ----------
    X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
        Revision pairs, or single texts, as :class:`~sklearn_irt.IRTuningClassifier` takes them.
    y : array-like of shape (n_samples,)
        Class labels.
    backbones : sequence of str or path-like
        Aliases, folders, .gguf files or hub ids, as :class:`~sklearn_irt.IRTuningClassifier` takes them.
    score : {"logme", "h-score"}, default="logme"
        "logme" is the evidence of linear models of the classes [1]_; "h-score" is the share of the features' variance
        that lies between the classes, with shrinkage [2]_. Higher is better. Scores of different data or different
        ``score`` do not compare.
    layers : int, float or sequence of these, default=0.5
        After how many layers states are taken, as in :class:`~sklearn_irt.BackboneFeatures`: numbers of layers, or
        shares of all. Each is scored by itself. What is above the highest does not run. Where shares round to the same
        number, it counts once.
    verbose : int, default=0
        1 shows a progress bar.
    **parameters
        Further parameters of :class:`~sklearn_irt.BackboneFeatures`, such as ``pooling`` or ``max_length``, the same
        for all backbones.

    Returns
    -------
    ranking : DataFrame
        A row for each backbone, or for each backbone and layer where ``layers`` names several, the best first, with the
        columns

        - ``backbone``, as it was given,
        - ``layer``, after how many layers the states are,
        - ``score``,
        - ``n_layers``, how many the backbone has,
        - ``n_parameters``, of the whole backbone,
        - ``seconds``, in which the states were computed, of all layers together, without loading the backbone and
          without the score. States that the process, or ``memory``, has already are not computed again.

    Raises
    ------
    TypeError, ValueError
        If X, y or a parameter cannot be used, or a backbone is named twice, cannot be found, or lacks such layers: all
        are looked at before any weights are loaded. Or if weights cannot be read; what was computed of other backbones
        until then is kept by the process for a second call.

    See Also
    --------
    BackboneFeatures : The features that are scored.
    make_frozen_baseline : A classifier on them.

    Notes
    -----
    States of SmolLM2-135M after ten of its layers and of MiniLM-L6 after each of its six, of the last token and the
    mean, were ranked by each score and by the macro-F1 of a cross-validated logistic regression. On the sample corpus,
    Kendall's tau of the two was 0.88 for LogME and 0.59 for the H-score (``examples/benchmarks/ranking.py``); on 300
    pairs of ITERATER 0.77 and 0.44 (the same with ``--data FOLDER --pairs 300``). Within the mean states, LogME's was
    0.82 and 0.45. So a small difference of scores says little. Neither score was compared with fine-tuned classifiers.

    The upper layers of a backbone may suit the classes less than its middle: to compare backbones at their best, name
    several layers, and take the first row of each, ``ranking.drop_duplicates("backbone")``.

    References
    ----------
    .. [1] You, Liu, Wang and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML
           2021, arXiv 2102.11005.
    .. [2] Ibrahim, Ponomareva and Mazumder, "Newer is not always better: Rethinking transferability metrics, their
           peculiarities, stability and performance", ECML PKDD 2022, arXiv 2110.06893.

    Examples
    --------
    >>> from sklearn_irt import load_sample_revisions, rank_backbones
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> ranking = rank_backbones(X, y, ["smollm2-135m", "minilm-l6"])  # doctest: +SKIP
    >>> ranking.backbone[0]  # doctest: +SKIP
    'smollm2-135m'
    """
    names = _read_names(backbones)
    labels = _read_classes(y, len(read_pairs(X)))
    candidates = [_describe(name, layers, parameters) for name in names]
    rows = []
    with tqdm(candidates, desc="Backbones", unit="backbone", disable=not verbose) as bar:
        for candidate in bar:
            bar.set_postfix_str(candidate.name)
            rows += _rate(candidate, X, labels, score)
            forget_latest()
    return pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable", ignore_index=True)


class _Candidate(NamedTuple):
    """What is known of a backbone before its weights are read."""

    name: str
    features: BackboneFeatures
    size: BackboneSize


def _read_classes(y: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    if has_many_labels(y):
        raise ValueError(
            "y has several columns, but backbones are ranked by one label a row: rank them for each column by itself."
        )
    return read_labels(y, n_rows)[1]


def _read_names(backbones: Iterable[str | os.PathLike[str]]) -> list[str]:
    if isinstance(backbones, (str, os.PathLike)):
        raise TypeError(f"backbones={backbones!r} must be a list of backbones; to rank one, give a list of one.")
    names = [os.fspath(backbone) for backbone in backbones]
    if not names:
        raise ValueError("backbones is empty: name at least one, for example backbones=['smollm2-135m'].")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"backbones names {repeated[0]!r} more than once: name it once.")
    return names


def _describe(name: str, layers: Any, parameters: dict[str, Any]) -> _Candidate:
    """Refuse whatever can be refused before weights are read."""
    features = BackboneFeatures(name, **parameters)
    features._validate_params()
    with _naming(name):
        config = load_config(name, features.backbone_options)
        check_max_length(features, config, load_tokenizer(name, features.backbone_options))
        size = describe_backbone(config, "all", features.backbone_options)
        given = [layers] if isinstance(layers, Real) else layers
        depths = {depth for layer in given for depth in read_depths(layer, size.n_layers)}
    return _Candidate(name, features.set_params(layers=sorted(depths)), size)


def _rate(candidate: _Candidate, X: Any, labels: NDArray[np.int64], score: str) -> list[dict[str, Any]]:
    """Return the rows of a backbone, one a layer."""
    features = clone(candidate.features).set_output(transform="default")  # the backbone goes with it
    with _naming(candidate.name):
        features.fit(X)
        start = time.perf_counter()
        states = _transform_once_warned(features, X)
        seconds = time.perf_counter() - start
        by_layer = np.split(states, len(features.layers_), axis=1)
        scores = [SCORES[score](of_layer, labels) for of_layer in by_layer]
    size = {"n_layers": candidate.size.n_layers, "n_parameters": candidate.size.n_parameters}
    return [
        {"backbone": candidate.name, "layer": layer, "score": scored, **size, "seconds": seconds}
        for layer, scored in zip(features.layers_.tolist(), scores, strict=True)
    ]


def _transform_once_warned(features: BackboneFeatures, X: Any) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ texts had more than max_length")  # fit has said it
        return features.transform(X)


@contextmanager
def _naming(backbone: str) -> Iterator[None]:
    """Name the backbone in any error."""
    try:
        yield
    except Exception as error:
        error.add_note(f"This happened while backbone={backbone!r} was ranked.")
        raise
