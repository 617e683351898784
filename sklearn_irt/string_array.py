"""Writes X as strings that those of scikit-learn's meta-estimators take which would make numbers of all others."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .pairs import read_pairs


def to_string_array(X: Any) -> NDArray[Any]:
    """Write revision pairs, or single texts, as an array of numpy's own strings.

    :class:`~sklearn.semi_supervised.SelfTrainingClassifier`, :class:`~sklearn.multiclass.OneVsOneClassifier` and
    :class:`~sklearn.multiclass.OutputCodeClassifier` make numbers of frames and of arrays of objects, and so refuse
    texts. This kind of array they leave alone.

    Parameters
    ----------
    X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
        Revision pairs, the text before first; or single texts. A missing side becomes the empty text.

    Returns
    -------
    strings : ndarray of shape (n_samples, 2) or (n_samples, 1), dtype StringDType
        The same texts.

    Raises
    ------
    TypeError, ValueError
        If X cannot be used; the message names row and column.

    Examples
    --------
    In a pipeline, fits and predictions take frames, whose column names are known:

    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import FunctionTransformer
    >>> from sklearn.semi_supervised import SelfTrainingClassifier
    >>> from sklearn_irt import load_sample_revisions, make_edit_baseline, to_string_array
    >>> X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    >>> y = y.astype(object).where(y.index % 4 == 0, -1)  # -1: no label
    >>> learner = make_pipeline(FunctionTransformer(to_string_array), SelfTrainingClassifier(make_edit_baseline()))
    >>> learner.fit(X, y).feature_names_in_.tolist()
    ['before', 'after']
    """
    pairs = read_pairs(X)
    rows = [pair[1:] if pair.before is None else pair for pair in pairs]
    return np.array(rows, dtype=np.dtypes.StringDType())
