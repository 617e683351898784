"""The rivals of fine-tuning: a logistic regression on features of the edits, or on a frozen LLM's states."""

import os
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from .doc_link import link_to_documentation
from .edits import Piece, find_edits, join_edits, join_pieces, letters_kept, split_words
from .features import BackboneFeatures
from .pairs import read_pairs

_STATISTICS = [
    "n_edits",
    "n_deleted_words",
    "n_added_words",
    "length_change",
    "share_edited",
    "letters_kept",
    "only_added",
    "only_deleted",
    "punctuation_edited",
    "digits_edited",
    "case_edited",
    "n_sentences_change",
]


@link_to_documentation
class EditFeatures(TransformerMixin, BaseEstimator):
    """Turn revision pairs into features of their edits: words deleted and added, and statistics.

    Parameters
    ----------
    min_df : int, default=2
        An edited word, or two edited words in a row, that fewer pairs have is left out.

    Attributes
    ----------
    vectorizer_ : TfidfVectorizer
        Weighs the marked words ("-old", "+new") by TF-IDF.
    n_features_in_ : int
        Always 2.
    feature_names_in_ : ndarray of shape (2,)
        Column names, where X is a frame whose column names are strings.

    Examples
    --------
    >>> from sklearn_irt import EditFeatures
    >>> pairs = [("I seen it.", "I saw it."), ("He seen me.", "He saw me.")]
    >>> features = EditFeatures().fit(pairs)
    >>> features.get_feature_names_out()[:3].tolist()
    ['+saw', '-seen', '-seen +saw']
    """

    _parameter_constraints: dict = {"min_df": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, min_df: int = 2) -> None:
        self.min_df = min_df

    def fit(self, X: Any, y: ArrayLike | None = None) -> "EditFeatures":
        """Learn the edited words.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2)
            Revision pairs.
        y : None
            Not used.

        Returns
        -------
        self : EditFeatures
            The fitted transformer.
        """
        self._validate_params()
        marked = [_mark_words(edits) for edits in self._find_edits(X, reset=True)]
        self.vectorizer_ = TfidfVectorizer(analyzer=_with_neighbours, min_df=self.min_df, sublinear_tf=True)
        self.vectorizer_.fit(marked)
        return self

    def transform(self, X: Any) -> csr_matrix:
        """Compute the features.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2)
            Revision pairs.

        Returns
        -------
        features : csr_matrix of shape (n_samples, n_features), dtype float64
            TF-IDF of the marked words, then the statistics.
        """
        check_is_fitted(self)
        edits = self._find_edits(X, reset=False)
        words = self.vectorizer_.transform([_mark_words(pieces) for pieces in edits])
        return csr_matrix(hstack([words, np.array([_describe(pieces) for pieces in edits])]))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Name the features.

        Parameters
        ----------
        input_features : None
            Not used.

        Returns
        -------
        names : ndarray of shape (n_features,), dtype object
            "-word" and "+word" for deleted and added words, then the names of the statistics.
        """
        check_is_fitted(self)
        return np.array([*self.vectorizer_.get_feature_names_out(), *_STATISTICS], dtype=object)

    def _find_edits(self, X: Any, *, reset: bool) -> list[list[Piece]]:
        pairs = read_pairs(X)
        if pairs[0].before is None:
            raise ValueError("EditFeatures needs two columns, the text before and the text after; X has one.")
        validate_data(
            self, X if hasattr(X, "columns") else np.empty((len(pairs), 2)), reset=reset, skip_check_array=True
        )
        return [find_edits(str(before), after) for before, after in pairs]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags


def make_edit_baseline(random_state: Any = None) -> Pipeline:
    """Make the rival of the LLM: :class:`EditFeatures`, then a balanced logistic regression.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Of the logistic regression's solver.

    Returns
    -------
    pipeline : Pipeline
        An ordinary scikit-learn pipeline over revision pairs.

    Examples
    --------
    >>> from sklearn_irt import load_sample_revisions, make_edit_baseline
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> make_edit_baseline().fit(X, y).predict(X).shape
    (400,)
    """
    regression = LogisticRegression(class_weight="balanced", C=1.0, max_iter=2000, random_state=random_state)
    return make_pipeline(EditFeatures(), regression)


def make_frozen_baseline(
    backbone: str | os.PathLike[str] = "smollm2-135m", *, random_state: Any = None, **features: Any
) -> Pipeline:
    """Make the rival that fine-tunes nothing: :class:`BackboneFeatures`, scaled, then a balanced logistic regression.

    Its penalty is strong (``C=0.01``), for there are more features than a few hundred rows can tell apart.

    Parameters
    ----------
    backbone : str or path-like, default="smollm2-135m"
        The LLM whose states are read.
    random_state : int, RandomState instance or None, default=None
        Of the logistic regression's solver.
    **features : Any
        Further parameters of :class:`BackboneFeatures`.

    Returns
    -------
    pipeline : Pipeline
        An ordinary scikit-learn pipeline over revision pairs, or texts.

    Examples
    --------
    >>> from sklearn_irt import load_sample_revisions, make_frozen_baseline
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> baseline = make_frozen_baseline(layers=[12, 15, 18], memory="states")
    >>> baseline.fit(X[:300], y[:300]).score(X[300:], y[300:])  # doctest: +SKIP
    """
    regression = LogisticRegression(class_weight="balanced", C=0.01, max_iter=2000, random_state=random_state)
    return make_pipeline(BackboneFeatures(backbone, **features), StandardScaler(), regression)


def _mark_words(pieces: list[Piece]) -> list[str]:
    return [
        sign + word.strip().lower()
        for piece in pieces
        if piece.edited
        for sign, side in (("-", piece.before), ("+", piece.after))
        for word in split_words(side)
    ]


def _with_neighbours(words: list[str]) -> list[str]:
    return words + [f"{first} {second}" for first, second in pairwise(words)]


def _describe(pieces: list[Piece]) -> list[float]:
    """Compute the statistics in the order of ``_STATISTICS``."""
    deleted, added = join_edits(pieces)
    before, after = join_pieces(pieces)
    n_deleted, n_added = len(split_words(deleted)), len(split_words(added))
    return [
        np.log1p(sum(piece.edited for piece in pieces)),
        np.log1p(n_deleted),
        np.log1p(n_added),
        np.clip((len(after) - len(before)) / (len(before) + 1), -1, 1),
        (n_deleted + n_added) / (len(split_words(before)) + len(split_words(after))),
        letters_kept(deleted, added),
        bool(added) and not deleted,
        bool(deleted) and not added,
        any(not c.isalnum() and not c.isspace() for c in deleted + added),
        any(c.isdigit() for c in deleted + added),
        deleted != added and deleted.lower() == added.lower(),
        np.clip(after.count(". ") - before.count(". "), -1, 1),
    ]
