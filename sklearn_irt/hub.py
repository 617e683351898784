"""Uploads a fitted classifier to the Hugging Face hub, with a model card, and without what concerns one machine."""

import math
import tempfile
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from sklearn.utils.validation import check_is_fitted

from .model_card import write_card
from .persistence import SAVED, parameters_to_pass, write_classifier
from .stored_backbone import record_backbone
from .stored_folder import replaced_folder

# Of one machine.
_PLACES = ("cache_dir", "local_files_only", "force_download")


def push_classifier(
    classifier: Any,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    scores: Mapping[str, float] | None,
    endpoint: str | None,
) -> str:
    """Upload a fitted classifier; see :meth:`~sklearn_irt.IRTuningClassifier.push_to_hub`."""
    check_is_fitted(classifier, "net_")
    scores = _check_scores(scores)
    record = record_backbone(classifier.net_.module_.backbone)
    record["name"] = _without_place(record["name"], record["kind"])
    passed_on = _without_places(classifier)
    api = HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory(prefix="sklearn_irt-") as place:
        with replaced_folder(Path(place, "classifier"), SAVED) as folder:
            write_classifier(passed_on, record, folder)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        to_pass = [*parameters_to_pass(passed_on), *(["backbone"] if record["kind"] == "local" else [])]
        card = write_card(passed_on, record, repo_id, to_pass, scores)
        Path(place, "classifier", "README.md").write_text(card, encoding="utf-8")
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(place, "classifier"),
            commit_message="Upload a fitted IRTuningClassifier",
            delete_patterns="*",  # what an earlier one had and this one has not
        )
    return commit.commit_url


def _check_scores(scores: Mapping[str, float] | None) -> dict[str, float]:
    for name, value in (scores or {}).items():
        if not isinstance(name, str) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"scores must map names of metrics to finite numbers, but has {name!r}: {value!r}.")
    return dict(scores or {})


def _without_place(backbone: Any, kind: str) -> str:
    return Path(backbone).name if kind == "local" else str(backbone)


def _without_places(classifier: Any) -> Any:
    """Return a copy without folders of this machine among its parameters; it shares what was learned."""
    copied = object.__new__(type(classifier))
    vars(copied).update(vars(classifier))
    backbone, options = classifier._fitted_backbone
    is_local = Path(backbone).is_absolute()
    copied.backbone = _without_place(backbone, "local") if is_local else backbone
    copied.backbone_options = {name: value for name, value in options.items() if name not in _PLACES} or None
    copied._fitted_backbone = copied.backbone, copied.backbone_options or {}
    copied.memory = copied.checkpoint_dir = copied._training_state = None
    return copied
