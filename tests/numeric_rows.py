"""Lets scikit-learn's checks for numeric input run over estimators that read texts."""

from sklearn.utils.validation import validate_data

from sklearn_irt.pairs import Pair


class ReadsNumbers:
    """Read each numeric row as a short text."""

    def _read_pairs(self, X, columns):
        rows = validate_data(columns, X, reset=columns is not self)
        return [Pair(None, " ".join(f"{value:.0f}" for value in 2 * row)) for row in rows]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.string = False
        tags.input_tags.allow_nan = False
        return tags
