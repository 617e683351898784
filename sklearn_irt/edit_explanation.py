"""Says which edits of a pair its predicted class rests on: each is taken back alone, and the pair predicted again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, compress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .edits import Piece, find_edits, join_pieces, only_edits, strip_edit, take_back
from .pairs import read_pairs

# All at once, those of many long documents would fill the memory.
_TEXTS_TOGETHER = 1024
# A class is an index at first; the last column is computed from these.
_DTYPES = {
    "row": np.int64,
    "edit": np.int64,
    "before": str,
    "after": str,
    "predicted": np.int64,
    "probability": np.float64,
    "probability_without": np.float64,
}
COLUMNS = [*_DTYPES, "fall"]


def explain_edits(clf: Any, X: Any) -> pd.DataFrame:
    """Measure how far the predicted class's probability falls when one edit of a pair is taken back.

    Of an edit that is taken back the deleted words stand again, and the added ones are gone; the other edits of the
    pair stay. That is occlusion [1]_, or erasure [2]_, of one edit at a time. It takes as many predictions as a pair
    has edits, and one.

    Parameters
    ----------
    clf : object
        A fitted classifier of revision pairs with ``predict_proba`` and ``classes_``: an
        :class:`~sklearn_irt.IRTuningClassifier`, the pipeline of :func:`~sklearn_irt.make_edit_baseline`, or whatever
        scikit-learn makes of them (``CalibratedClassifierCV``, ``GridSearchCV``). It is asked for all edits of a pair,
        and of as many pairs as make about 1,024 texts, in one call, in the container that X is; its own ``verbose``
        shows how far it is.
    X : DataFrame, array-like or list of shape (n_samples, 2)
        Revision pairs, the text before first. A missing side is the empty text.

    Returns
    -------
    explanation : DataFrame of shape (n_edits, 8)
        One row an edit, in the order of X and of the text. A pair of equal texts has none.

        - "row" (int64): the position of the pair in X, from 0.
        - "edit" (int64): the number of the edit within the pair, from 0.
        - "before", "after" (str): the words that it deleted and added, either of which may be empty; without the white
          space around them, unless nothing else changed.
        - "predicted" (as ``classes_``): the class of the largest probability, of the pair as it is.
        - "probability" (float64): that of this class, for the pair as it is.
        - "probability_without" (float64): that of the same class when this edit is taken back. Of a pair with a
          single edit that is a pair of twice the text before. It is NaN where the text before is empty, so that nothing
          would be left.
        - "fall" (float64): the difference of the two, from -1 to 1. Above 0 the edit speaks for the predicted class,
          below 0 against it.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If ``clf`` is not fitted.
    TypeError
        If ``clf`` is no estimator or has no ``predict_proba``, or a cell of X is no string; the message names its row.
    ValueError
        If X has one column, or a row without any text; or if ``clf`` predicts several labels a row. All of this is
        known before the first probability is computed.

    See Also
    --------
    sklearn_irt.EditsDisplay : Shows it in the text.

    Notes
    -----
    The numbers say what the classifier does, not why an author wrote so. They do not add up: where two edits say the
    same, neither is missed, and where two say something only together, both are. A pair without one of its
    edits may be unlike all that the classifier learned from. What else depends on an edit counts with it: how many
    edits there are, which "inline-diff" writes, and what is cut from a pair that is too long.

    References
    ----------
    .. [1] Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv 1311.2901.
    .. [2] Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016,
           arXiv 1612.08220.

    Examples
    --------
    >>> from sklearn_irt import explain_edits, load_sample_revisions, make_edit_baseline
    >>> X, y = load_sample_revisions(return_X_y=True)
    >>> clf = make_edit_baseline().fit(X, y)
    >>> explanation = explain_edits(clf, [("I seen it, then.", "I saw it then.")])
    >>> explanation[["before", "after", "predicted"]].to_numpy().tolist()
    [['seen', 'saw', 'coherence'], [',', '', 'coherence']]
    """
    _check_classifier(clf)
    pieces = find_edits_of_pairs(X)
    edited = [row for row, in_row in enumerate(pieces) if only_edits(in_row)]
    if edited:
        _refuse_several_labels(clf, X, join_pieces(pieces[edited[0]]))
    batches = _put_together(edited, [1 + len(only_edits(pieces[row])) for row in edited])
    edits = [edit for rows in batches for edit in _explain(clf, X, {row: pieces[row] for row in rows})]
    explanation = pd.DataFrame(edits, columns=list(_DTYPES)).astype(_DTYPES)
    explanation["predicted"] = np.asarray(clf.classes_)[explanation["predicted"]]
    return explanation.assign(fall=explanation["probability"] - explanation["probability_without"])


def find_edits_of_pairs(X: Any) -> list[list[Piece]]:
    """Align the texts of each pair.

    Parameters
    ----------
    X : DataFrame, array-like or list of shape (n_samples, 2)
        Revision pairs.

    Returns
    -------
    pieces : list of list of Piece
        Of each row, from :func:`~sklearn_irt.edits.find_edits`.

    Raises
    ------
    TypeError, ValueError
        If X holds no pairs; see :func:`~sklearn_irt.pairs.read_pairs`.
    """
    pairs = read_pairs(X)
    if pairs[0].before is None:
        raise ValueError(
            "Edits are explained of pairs: X needs two columns, the text before and the text after; it has one."
        )
    return [find_edits(str(before), after) for before, after in pairs]


def _check_classifier(clf: Any) -> None:
    check_is_fitted(clf)
    for name in ("predict_proba", "classes_"):
        if not hasattr(clf, name):
            raise TypeError(
                f"explain_edits compares probabilities of classes, but {type(clf).__name__} has no {name}: give a "
                "classifier that predicts probabilities, for example wrapped into CalibratedClassifierCV."
            )


def _refuse_several_labels(clf: Any, X: Any, pair: tuple[str, str]) -> None:
    # Nothing else tells such a classifier apart whatever it is wrapped into, and one pair is soon predicted.
    n_dimensions = np.ndim(clf.predict(_in_container_of(X, [pair])))
    if n_dimensions != 1:
        raise ValueError(
            f"{type(clf).__name__} predicts several labels a row, but explain_edits follows the probability of the one "
            "class that is predicted: fit a classifier for the label that you ask about, and explain that."
        )


def _put_together(rows: Sequence[int], n_texts: Sequence[int]) -> list[list[int]]:
    """Divide rows into batches of about as many texts; those of a row stay together."""
    batches: dict[int, list[int]] = defaultdict(list)
    for row, n_before in zip(rows, accumulate(n_texts, initial=0), strict=False):
        batches[n_before // _TEXTS_TOGETHER].append(row)
    return list(batches.values())


def _explain(clf: Any, X: Any, batch: Mapping[int, Sequence[Piece]]) -> Iterator[tuple[Any, ...]]:
    """Yield a tuple an edit, in which the predicted class is an index."""
    pairs = [_take_back_each(pieces) for pieces in batch.values()]
    probabilities = iter(_predict(clf, X, list(chain.from_iterable(pairs))))
    for row, pieces in batch.items():
        of_pair = next(probabilities)
        predicted = of_pair.argmax()
        for number, edit in enumerate(only_edits(pieces)):
            yield row, number, *strip_edit(edit), predicted, of_pair[predicted], next(probabilities)[predicted]


def _take_back_each(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return the pair as it is, and then without each of its edits."""
    before, after = join_pieces(pieces)
    edits = [position for position, piece in enumerate(pieces) if piece.edited]
    return [(before, after), *((before, take_back(pieces, position)) for position in edits)]


def _predict(clf: Any, X: Any, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """Return the probabilities of pairs; those of a pair without any text, which would be refused, are NaN."""
    has_text = np.array([any(text.strip() for text in pair) for pair in pairs])
    probabilities = np.full((len(pairs), len(clf.classes_)), np.nan)
    probabilities[has_text] = clf.predict_proba(_in_container_of(X, list(compress(pairs, has_text))))
    return probabilities


def _in_container_of(X: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    """Put pairs into the kind of container that X is, with the column names that the classifier may look for."""
    if hasattr(X, "columns"):
        sides = [list(side) for side in zip(*pairs, strict=True)]
        return type(X)(dict(zip(X.columns, sides, strict=True)))
    return list(pairs) if isinstance(X, (list, tuple)) else np.array(pairs, dtype=object)
