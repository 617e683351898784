"""Reads rows as an estimator's parameters say: checks their columns, writes them as texts, and tokenizes these."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from .pair_format import PairFormat
from .pairs import Pair, read_pairs
from .tokenization import TokenizedPairs, check_room, tokenize_pairs


def read_rows(X: Any, columns: BaseEstimator, *, reset: bool) -> list[Pair]:
    """Read X, and check its columns against those of a fit, or note those of a new one.

    Parameters
    ----------
    X : DataFrame, Series, array-like or list
        See :func:`~sklearn_irt.pairs.read_pairs`.
    columns : BaseEstimator
        Has noted the columns, or is to note them, as ``n_features_in_`` and ``feature_names_in_``.
    reset : bool
        Whether it is to note them.

    Returns
    -------
    pairs : list of Pair
        One entry a row.
    """
    pairs = read_pairs(X)
    single = pairs[0].before is None
    table = X if hasattr(X, "columns") else np.empty((len(pairs), 1 if single else 2))
    try:
        validate_data(columns, table, reset=reset, skip_check_array=True)
    except ValueError as error:
        if reset or not single or hasattr(X, "columns"):
            raise
        raise ValueError(f"{error} A single pair is a list of one, [(before, after)], or X.iloc[[0]].") from error
    return pairs


def check_max_length(estimator: Any, config: Any, tokenizer: Any) -> None:
    """Refuse texts that are longer than a backbone has positions.

    Parameters
    ----------
    estimator : BaseEstimator
        With the parameters ``max_length`` and ``backbone``.
    config : PreTrainedConfig
        The backbone's.
    tokenizer : PreTrainedTokenizerBase
        The backbone's.

    Raises
    ------
    ValueError
        If ``max_length`` is beyond what the backbone can read.
    """
    # RoBERTa's configuration counts two positions that no token can have; its tokenizer does not.
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    # XLNet's says -1, for it has no such limit.
    positions = min(positions if positions and positions > 0 else np.inf, tokenizer.model_max_length)
    if estimator.max_length > positions:
        raise ValueError(
            f"max_length={estimator.max_length}, but backbone={estimator.backbone!r} reads {positions} tokens at most: "
            "lower max_length."
        )


def tokenize_rows(
    estimator: Any,
    pairs: list[Pair],
    tokenizer: Any,
    pair_format: PairFormat,
    intentions: list[str],
    *,
    user_frame: int,
) -> TokenizedPairs:
    """Write pairs as texts and tokenize them; say how many were too long.

    Parameters
    ----------
    estimator : BaseEstimator
        With the parameters ``context``, ``max_length`` and ``long_text``, and a method ``_say``.
    pairs : list of Pair
        What to tokenize.
    tokenizer : PreTrainedTokenizerBase
        The backbone's.
    pair_format : str or callable
        How a pair is written; see :func:`~sklearn_irt.pair_format.write_pair`.
    intentions : list of str
        The classes, which ``pair_format="instruction"`` names.
    user_frame : int
        The frame that warnings name, counted as :func:`warnings.warn` does: 1 is this function.

    Returns
    -------
    tokenized : TokenizedPairs
        The texts.

    Raises
    ------
    ValueError
        If a row becomes a text without tokens, or the description of the task leaves no room for the pairs.
    """
    if pairs[0].before is not None:
        check_room(tokenizer, pair_format, intentions, estimator.max_length)
    tokenized = tokenize_pairs(
        *(pairs, tokenizer, pair_format, intentions),
        *(estimator.context, estimator.max_length, estimator.long_text),
    )
    n_windows = tokenized.n_windows
    if (n_windows > 1).any():
        estimator._say(
            f"{(n_windows > 1).sum()} of {len(pairs)} texts have more than max_length={estimator.max_length} tokens "
            f"and became {n_windows[n_windows > 1].sum()} windows."
        )
    if tokenized.n_cut:
        warnings.warn(
            f"{tokenized.n_cut} of {len(pairs)} texts had more than max_length={estimator.max_length} tokens "
            + ("and were cut around their edits." if pairs[0].before is not None else "and were cut at the end."),
            UserWarning,
            stacklevel=user_frame,
        )
    return tokenized
