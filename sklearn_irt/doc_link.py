"""Links the diagrams that notebooks show of estimators to the pages of the documentation."""

from typing import Any, TypeVar

DOCUMENTATION = "https://sklearn-irt.github.io/sklearn-irt"
_Estimator = TypeVar("_Estimator")


def link_to_documentation(estimator_class: type[_Estimator]) -> type[_Estimator]:
    """Let scikit-learn's diagram of a public estimator of this package link to its page.

    Parameters
    ----------
    estimator_class : type
        A BaseEstimator; changed in place. Subclasses that others write have no page, and no link.

    Returns
    -------
    estimator_class : type
        The same.
    """
    names: dict[str, Any] = {
        "_doc_link_module": __package__,
        "_doc_link_template": f"{DOCUMENTATION}/generated/{__package__}.{{name}}.html",
        "_doc_link_url_param_generator": lambda estimator: {"name": type(estimator).__name__},
    }
    for name, value in names.items():
        setattr(estimator_class, name, value)
    return estimator_class
