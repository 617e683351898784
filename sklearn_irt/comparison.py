"""Compares estimators on the same splits of a user's data: what each is worth, and what it costs."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import indexable
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints
from tqdm.auto import tqdm

from .classifier import IRTuningClassifier
from .comparison_results import ResultsFile, describe_comparison, describe_estimator
from .comparison_table import check_score_names, tabulate, tabulate_splits
from .fresh_start import parts_of, pay_once
from .interrupts import noticing_interrupts
from .measured_split import Split, measure_split
from .selection import LayerSelection
from .selection.named import NAMED

Measured = dict[tuple[str, int], dict[str, Any]]
"""What was measured, by estimator and split."""


_CONSTRAINTS: dict[str, Any] = {
    "estimators": [Mapping, list, tuple],
    "scoring": [str, callable, list, tuple, set, dict, None],
    "cv": ["cv_object"],
    "classifier": [IRTuningClassifier, None],
    "results_file": [str, os.PathLike, None],
    "error_score": [StrOptions({"raise"}), np.nan],
    "return_splits": ["boolean"],
    "verbose": ["verbose"],
}


def compare(
    estimators: Any,
    X: Any,
    y: Any,
    *,
    scoring: Any = "f1_macro",
    cv: Any = 5,
    groups: Any = None,
    classifier: IRTuningClassifier | None = None,
    results_file: str | os.PathLike[str] | None = None,
    error_score: Any = "raise",
    return_splits: bool = False,
    verbose: int = 0,
) -> Any:
    """Compare estimators on the same splits: scores, seconds, memory, and whether they differ from the first.

    Each estimator is cloned and fitted once a split, a split after the other, so that a comparison that is interrupted
    has about as many splits of each. Random states are the estimators' own.

    A fit costs what it costs alone: backbones and prefix states that the package shares between the fits of a process
    are forgotten before each one, which loads its weights from the file anew. What only the first fit of a process pays
    (imports, the timing of precision, the first look at the weights) is paid before. ``memory=`` of an estimator keeps
    what earlier fits computed all the same.

    Parameters
    ----------
    estimators : dict or list of (str, estimator) tuples
        The estimators by name; the others are compared with the first. For :class:`~sklearn_irt.IRTuningClassifier` its
        ``selection`` is enough: the name of a strategy, such as "ir" or "full", or an object of
        :mod:`sklearn_irt.selection`.

    X : DataFrame, array-like or list of shape (n_samples, ...)
        Whatever the estimators take: revision pairs, texts.

    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        The labels.

    scoring : str, callable, list, tuple, set, dict or None, default="f1_macro"
        What is measured on the held-out part of each split, as :func:`sklearn.model_selection.cross_validate` has it.
        The score is named as in ``scoring``, or "score" where that has no name for it.

    cv : int, splitter or iterable, default=5
        The splits, as :func:`sklearn.model_selection.cross_validate` has them: an int is the number of stratified
        folds, of rows in the order that they come in. They are drawn once.

    groups : array-like of shape (n_samples,), default=None
        Which rows belong together, for splitters that keep them on one side.

    classifier : IRTuningClassifier or None, default=None
        What the strategies in ``estimators`` are set in; None is ``IRTuningClassifier()``.

    results_file : str, path-like or None, default=None
        A file of JSON lines that gets what was measured on each split as soon as it is. The same call on the same data
        goes on from there; estimators that are new, or have other parameters, are measured alone. A function among the
        parameters is known by its name. One of other data, splits, scores, versions or threads is refused.

    error_score : "raise" or nan, default="raise"
        What becomes of an estimator that fails on a split. "raise" ends the comparison; nan leaves the split out, with
        a FitFailedWarning.

    return_splits : bool, default=False
        Whether to return what was measured on each split as well.

    verbose : int, default=0
        1 shows a progress bar over all fits.

    Returns
    -------
    table : DataFrame of shape (n_estimators, n_figures)
        A row for each estimator, by name. Of each score, here "f1_macro", and in this order:

        - "f1_macro", "f1_macro_std": mean and standard deviation over the splits.
        - "f1_macro_difference": mean difference to the first row, on the splits that both have; NaN in the first row.
        - "f1_macro_p_value": two-sided, of the corrected resampled t-test [1]_ of these differences, which allows for
          training parts that overlap. NaN in the first row, of fewer than two splits, and where all differences are
          equal. It is not corrected for the number of rows.
        - "fit_seconds", "fit_seconds_std": of a fit, on the clock.
        - "predict_seconds", "predict_seconds_std": to predict the held-out part, and to score that.
        - "peak_memory_mb": by how much the resident memory of this process grew, at the most, in a fit and the
          prediction after it (2**20 bytes); workers that an estimator starts do not count.
        - "peak_gpu_memory_mb": what tensors took on the GPU, at the most; only where there is one.
        - "trained_parameters": adapters and head of an LLM, coefficients of a linear model (of a pipeline the last
          step, of a search the best estimator), mean over the splits; <NA> for other kinds.
        - "n_splits": how many splits were measured.

    splits : DataFrame
        The same of each split, by estimator and split, with "n_train" and "n_test", the rows of either part. Only
        returned if ``return_splits`` is set.

    Raises
    ------
    TypeError, ValueError
        If parameters or data cannot be used, or ``results_file`` is of another comparison. Nothing is fitted before,
        but whatever has a backbone, to two short texts.
    RuntimeError
        If an estimator fails on a split; ``results_file`` keeps what was measured until then.
    KeyboardInterrupt
        If the user stopped it before anything was measured.

    Warns
    -----
    UserWarning
        If the user stopped it by Ctrl-C: the table has what was measured until then. A fit that was interrupted does
        not count, though its estimator may keep what it learned.

    See Also
    --------
    sklearn_irt.ComparisonDisplay : Draws scores against costs.

    References
    ----------
    .. [1] Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003.

    Examples
    --------
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn_irt import compare, load_sample_revisions, make_edit_baseline
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> contenders = {"most frequent": DummyClassifier(), "edits": make_edit_baseline()}
    >>> table = compare(contenders, X, y, cv=2)
    >>> table["f1_macro"].round(2).to_dict()
    {'most frequent': 0.07, 'edits': 0.51}

    With the LLM, which takes minutes:

    >>> contenders = {"edits": make_edit_baseline(), "IR-Tuning": "ir", "all layers": "full"}
    >>> compare(contenders, X, y, results_file="comparison.jsonl", verbose=1)  # doctest: +SKIP
    """
    _check(
        estimators=estimators,
        scoring=scoring,
        cv=cv,
        classifier=classifier,
        results_file=results_file,
        error_score=error_score,
        return_splits=return_splits,
        verbose=verbose,
    )
    contenders = _read_estimators(estimators, classifier)
    X, y, groups = indexable(X, y, groups)
    splits = _draw_splits(cv, X, y, groups)
    scorers = _read_scoring(scoring, contenders)
    described = {name: describe_estimator(estimator) for name, estimator in contenders.items()}
    file = None if results_file is None else ResultsFile(results_file, describe_comparison(X, y, splits, scoring))
    measured = {} if file is None else _find_measured(file.lines, described)
    missing = [(name, k) for k in range(len(splits)) for name in contenders if (name, k) not in measured]
    fits = tqdm(missing, initial=len(measured), total=len(measured) + len(missing), unit="fit", disable=verbose < 1)
    try:
        with noticing_interrupts() as check_interrupted, fits:
            _pay_once({name: contenders[name] for name, _ in missing}, check_interrupted)
            for name, k in fits:
                fits.set_description(f"{name}, split {k + 1} of {len(splits)}")
                with _answering_errors(name, k, error_score, file, check_interrupted):
                    one = measure_split(clone(contenders[name]), scorers[name], X, y, splits[k], check_interrupted)
                    measured[name, k] = one
                    if file is not None:
                        file.append({"estimator": name, "parameters": described[name], "split": k, **one})
    except KeyboardInterrupt:
        if not measured:
            raise
        _warn_of_interrupt(len(measured), len(splits) * len(contenders), file)
    return _sum_up(contenders, measured, return_splits=return_splits)


def _check(**parameters: Any) -> None:
    # Not by scikit-learn's decorator, which would blame compare for the parameters of the estimators.
    validate_parameter_constraints(_CONSTRAINTS, parameters, "compare")


def _read_estimators(estimators: Any, classifier: IRTuningClassifier | None) -> dict[str, Any]:
    """Return clones of the estimators by name, checked as far as they can be before a fit."""
    contenders: dict[str, Any] = {}
    for name, value in _read_pairs(estimators):
        if not isinstance(name, str) or name in contenders:
            raise ValueError(f"estimators must have names that are strings, each once, but one is {name!r}.")
        with _about(name):
            contenders[name] = _read_estimator(value, classifier)
    return contenders


def _read_pairs(estimators: Any) -> list[Any]:
    pairs = list(estimators.items() if isinstance(estimators, Mapping) else estimators)
    if not pairs or not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            "estimators must be a dict of estimators by name, or a list of (name, estimator) tuples, at least one, but "
            f"it is {estimators!r:.80}."
        )
    return pairs


def _read_estimator(value: Any, classifier: IRTuningClassifier | None) -> Any:
    if isinstance(value, str) and value not in NAMED:
        raise ValueError(f"{value!r} is no estimator and no strategy: the strategies are {', '.join(NAMED)}.")
    if isinstance(value, (str, LayerSelection)):
        estimator = clone(classifier or IRTuningClassifier()).set_params(selection=value)
    else:
        estimator = clone(value)
    for part in parts_of(estimator):
        if hasattr(part, "_parameter_constraints"):
            part._validate_params()
        if getattr(part, "checkpoint_dir", None) is not None:
            raise ValueError("checkpoint_dir is for one fit, and must be None here: see results_file.")
    return estimator


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Let an error say which estimator it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"compare: this is about the estimator {name!r}.")
        raise


def _draw_splits(cv: Any, X: Any, y: Any, groups: Any) -> list[Split]:
    drawn = check_cv(cv, y, classifier=True).split(X, y, groups)
    splits = [(np.asarray(train), np.asarray(test)) for train, test in drawn]
    if not splits:
        raise ValueError(f"cv={cv!r} has no splits.")
    return splits


def _read_scoring(scoring: Any, contenders: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    scorers = {}
    for name, estimator in contenders.items():
        with _about(name):
            # Of a list the scorer gives names to the scores.
            scorers[name] = check_scoring(estimator, [scoring] if isinstance(scoring, str) else scoring)
    if not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        check_score_names(scoring)
    return scorers


def _find_measured(lines: Iterable[dict[str, Any]], described: Mapping[str, str]) -> Measured:
    """Return what a file has of these estimators, with these parameters."""
    measured = {}
    for line in lines:
        name, parameters, k = line.pop("estimator"), line.pop("parameters"), line.pop("split")
        if described.get(name) == parameters:
            measured[name, k] = line
    return measured


def _pay_once(contenders: Mapping[str, Any], check_interrupted: Callable[[], None]) -> None:
    for name, estimator in contenders.items():
        with _about(name):
            pay_once(estimator)
        check_interrupted()


@contextmanager
def _answering_errors(
    name: str, k: int, error_score: Any, file: ResultsFile | None, check_interrupted: Callable[[], None]
) -> Iterator[None]:
    """Answer an error of a fit, or of what follows it, as ``error_score`` says."""
    try:
        yield
    except Exception as error:
        check_interrupted()  # some make another error of it
        what = f"{name!r} failed on split {k + 1}: {type(error).__name__}: {error}"
        if error_score != "raise":
            warnings.warn(f"{what}\nThe split does not count.", FitFailedWarning, stacklevel=4)
            return
        kept = f"{file.path} has what was measured" if file else "What was measured is lost, for want of a results_file"
        raise RuntimeError(f"{what}\n{kept}; error_score=nan goes on without the split.") from error


def _warn_of_interrupt(n_measured: int, n_fits: int, file: ResultsFile | None) -> None:
    warnings.warn(
        f"The comparison was interrupted after {n_measured} of {n_fits} fits; the table has what was measured until "
        "then, and the program goes on. Interrupt it again to end it."
        + ("" if file is None else " The same call will do the rest."),
        UserWarning,
        stacklevel=3,
    )


def _sum_up(contenders: Mapping[str, Any], measured: Measured, *, return_splits: bool) -> Any:
    if not measured:
        raise RuntimeError("Every estimator failed on every split: see the warnings.")
    order = list(contenders)
    measured = {key: measured[key] for key in sorted(measured, key=lambda key: (order.index(key[0]), key[1]))}
    splits = tabulate_splits(measured)
    table = tabulate(list(contenders), splits, list(next(iter(measured.values()))["scores"]))
    return (table, splits) if return_splits else table
