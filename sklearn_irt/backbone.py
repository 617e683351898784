"""Loads an LLM with its tokenizer, once a process, and finds its stack of transformer layers."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from .attention import choose_attention
from .backbone_files import (
    absolute,
    cached_commit,
    cached_folder,
    file_times,
    locate_backbone,
    quiet_transformers,
    reading,
)
from .fingerprint import FileState, fingerprint, is_shorter, overwritten, weight_files
from .head import head_modules
from .layer_dropping import without_layers
from .partial_model import stand_in_for
from .precision import DTYPES
from .quantization import quantization_options
from .randomness import isolated_seed
from .stack import find_stack, get_layers

# Options of from_pretrained that concern weights alone, and those that the package sets itself.
_WEIGHT_OPTIONS = ("use_safetensors", "attn_implementation")
_RESERVED_OPTIONS = (
    *("num_labels", "dtype", "torch_dtype", "ignore_mismatched_sizes", "output_loading_info"),
    *("device_map", "quantization_config"),
)
# Options that say where the files of a commit are had from.
_FETCH_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "proxies")


# The backbones in use, and the one that was loaded last: the next fit of a grid search finds it still there.
_loaded: "WeakValueDictionary[str, Backbone]" = WeakValueDictionary()
_latest: "list[Backbone]" = []
_loading = Lock()


@dataclass(eq=False)
class Backbone:
    """A frozen LLM, shared by all estimators of a process: they copy its modules, and never change its tensors.

    Pickled, it is the arguments of :func:`load_backbone`, not its weights.

    Attributes
    ----------
    model : PreTrainedModel
        The sequence-classification model, in evaluation mode, no parameter requiring a gradient.
    tokenizer : PreTrainedTokenizerBase
        Pads on the right with ``pad_token_id``.
    stack : str
        Dotted name of the list of transformer layers within ``model``.
    drawn : frozenset of str
        Parameters of the head that no file held, or not for as many classes as the configuration says.
    stand_in : callable
        See :func:`~sklearn_irt.partial_model.stand_in_for`.
    identity : str
        Equal for two backbones that compute the same: a hash of files and their times, precision, options and versions.
    origin : dict
        The arguments that it was loaded with, and the fingerprint of its weights.
    files : dict of str to tuple
        The weight files and their state then.
    commit : str or None
        Of a hub id: which one was loaded.
    """

    model: PreTrainedModel
    tokenizer: Any
    stack: str
    drawn: frozenset[str]
    stand_in: Callable[..., Any] = field(repr=False)
    identity: str
    origin: dict[str, Any] = field(repr=False)
    files: dict[str, FileState] = field(default_factory=dict, repr=False)
    commit: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def precision(self) -> str:
        """The arithmetic of the frozen products: "fp32" or "bf16"."""
        return self.origin["precision"]

    def autocast(self) -> torch.autocast:
        """Return the context in which fp32 adapters compute in the precision of the frozen weights."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def check_files(self) -> None:
        """Refuse to compute with weights that were written over in the file that they are mapped from.

        Raises
        ------
        RuntimeError
            If they were. Adapters and head are not concerned.
        """
        changed = overwritten(self.files)
        shorter = [path for path in changed if is_shorter(path, self.files)]
        if shorter or (changed and fingerprint(_frozen_for_all(self.model)) != self.origin["weights"]):
            raise RuntimeError(
                f"{(shorter or changed)[0]} was written over since the backbone was loaded from it, and its weights in "
                "memory with it: put the old file back, then predict again. What was trained is not lost."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return load_from_origin, (self.origin,)


def load_config(backbone: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Any:
    """Load a backbone's configuration alone: enough to check parameters before any weight is read.

    Parameters
    ----------
    backbone : str or path-like
        See :func:`load_backbone`.
    options : mapping, default=None
        See :func:`load_backbone`.

    Returns
    -------
    config : PreTrainedConfig
        Its configuration.

    Raises
    ------
    ValueError
        If it cannot be loaded, or transformers has no sequence-classification head for its family.
    """
    for name in options or {}:
        if not isinstance(name, str):
            raise TypeError(f"backbone_options={options!r} must have strings for names, not {name!r}.")
    reserved = sorted(set(options or {}) & set(_RESERVED_OPTIONS))
    if reserved:
        raise ValueError(
            f"backbone_options must not hold {reserved[0]!r}: the classifier sets it itself. Leave it out."
        )
    location = locate_backbone(backbone)
    with reading("configuration", backbone):
        config = AutoConfig.from_pretrained(cached_folder(location, options), **_file_options(options))
    # Remote code brings a head of its own.
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not getattr(config, "auto_map", None):
        raise ValueError(
            f"backbone={os.fspath(backbone)!r} is of the family {config.model_type!r}, for which transformers has no "
            "sequence-classification head: use another one."
        )
    return config


def load_backbone(
    backbone: str | os.PathLike[str],
    *,
    precision: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
    quantization: str | None = None,
    dropped: Sequence[int] = (),
    weights: str | None = None,
) -> Backbone:
    """Load a backbone, frozen, unless this process has it already.

    Weights that are kept in the precision of their safetensors file are mapped from it, so that processes share them.

    Parameters
    ----------
    backbone : str or path-like
        Alias, folder, .gguf file or hub id.
    precision : {"fp32", "bf16"}
        What its weights are kept and multiplied in.
    device : torch.device
        Where to.
    options : mapping, default=None
        Given to transformers' ``from_pretrained``. Unless it says otherwise, no remote code is run and weights
        are read from safetensors alone.
    quantization : {"8bit", "4bit"} or None, default=None
        See :func:`~sklearn_irt.quantization.quantization_options`.
    dropped : sequence of int, default=()
        Layers that are left out.
    weights : str or None, default=None
        What :func:`~sklearn_irt.fingerprint.fingerprint` must give for its weights, where adapters were trained on
        them already.

    Returns
    -------
    backbone : Backbone
        The model and its tokenizer.

    Raises
    ------
    ValueError
        If it cannot be loaded, has no stack of layers or one that cannot be started in the middle, its tokenizer does
        not suit it, or its weights are others.
    """
    location, config = locate_backbone(backbone), load_config(backbone, options)
    commit = cached_commit(location, options)
    options = {**(options or {}), **({"revision": commit} if commit else {})}
    origin = {"backbone": absolute(backbone), "precision": precision, "device": device, "options": options}
    origin["quantization"] = quantization
    options = {"trust_remote_code": False, "use_safetensors": True, **choose_attention(config, device), **options}
    parts = (
        (location, file_times(location), commit),
        precision,
        quantization,
        str(device),
        sorted(((name, value) for name, value in options.items() if not commit or name not in _FETCH_OPTIONS), key=str),
        torch.__version__,
        transformers.__version__,
    )
    identity = sha256(str(parts).encode()).hexdigest()  # options may hold a token, which must not be written anywhere
    with _loading:
        loaded = _loaded.get(identity)
        if loaded is None:
            location = cached_folder(location, options)
            loaded = _loaded[identity] = _load(location, config, options, identity, origin)
            loaded.commit = commit
        _latest[:] = [loaded]
    if weights not in (None, loaded.origin["weights"]):
        raise ValueError(
            f"The weights of backbone={os.fspath(backbone)!r} are not those that this classifier was trained on, so "
            "that it would predict something else: put the files of that time back, or fit a new classifier."
        )
    return loaded if not len(dropped) else _without(loaded, tuple(int(layer) for layer in dropped))


def forget_backbones() -> bool:
    """Let the next fit load its backbone anew, and say whether there was one to forget."""
    with _loading:
        there_was_one = bool(_latest or len(_loaded))
        _loaded.clear()
        _latest.clear()
    return there_was_one


def forget_latest() -> None:
    """Let the backbone that was loaded last go, unless something else has it: the next may need the memory."""
    with _loading:
        _latest.clear()


def _without(backbone: Backbone, dropped: tuple[int, ...]) -> Backbone:
    return replace(
        backbone,
        model=without_layers(backbone.model, backbone.stack, dropped),
        identity=f"{backbone.identity} without {dropped}",
        origin={**backbone.origin, "dropped": dropped},
    )


@quiet_transformers()
@torch.inference_mode(False)  # what is loaded serves fits that do not run in the user's inference mode
def _load(location: str, config: Any, options: dict[str, Any], identity: str, origin: dict[str, Any]) -> Backbone:
    backbone, device = origin["backbone"], origin["device"]
    tokenizer = load_tokenizer(backbone, options)
    _check_tokenizer(tokenizer, config, backbone)
    files = weight_files(location)
    with reading("weights", backbone), isolated_seed(0, device):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            location,
            dtype=DTYPES[origin["precision"]],
            ignore_mismatched_sizes=True,  # what lacks is named below
            output_loading_info=True,
            **_quantization_options(config, origin),
            **options,
        )
    drawn = _missing(report)
    _check_complete(model, drawn, backbone)
    origin = {**origin, "weights": fingerprint(_frozen_for_all(model))}
    # A decoder's head pools at the last token that is not this one.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    for module in model.modules():
        if getattr(module, "layerdrop", 0):
            module.layerdrop = 0.0  # selection says which layers take part in a step
    model.requires_grad_(False).eval()
    if origin["quantization"] is None:
        model.to(device)
    stack = find_stack(model)
    stand_in = stand_in_for(get_layers(model, stack), model)
    return Backbone(model, tokenizer, stack, drawn, stand_in, identity, origin, files)


def _frozen_for_all(model: PreTrainedModel) -> list[nn.Parameter]:
    """Return the weights but those of the head, which each classifier trains and keeps for itself."""
    head = _ids_of_head(model)
    return [parameter for parameter in model.parameters() if id(parameter) not in head]


def _ids_of_head(model: PreTrainedModel) -> set[int]:
    return {id(parameter) for module in head_modules(model).values() for parameter in module.parameters()}


def _quantization_options(config: Any, origin: Mapping[str, Any]) -> dict[str, Any]:
    trusted = origin["options"].get("trust_remote_code", False)
    dtype, device = DTYPES[origin["precision"]], origin["device"]
    return quantization_options(origin["quantization"], config, dtype, device, trust_remote_code=trusted)


def load_tokenizer(backbone: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Any:
    """Load a backbone's tokenizer, which pads on the right: that leaves the positions of real tokens alone.

    Parameters
    ----------
    backbone : str or path-like
        See :func:`load_backbone`.
    options : mapping, default=None
        See :func:`load_backbone`.

    Returns
    -------
    tokenizer : PreTrainedTokenizerBase
        The tokenizer; one without a padding token pads with its end token.

    Raises
    ------
    ValueError
        If it cannot be loaded, or has no token to pad with.
    """
    with reading("tokenizer", backbone), quiet_transformers():
        location = cached_folder(locate_backbone(backbone), options)
        tokenizer = AutoTokenizer.from_pretrained(location, **_file_options(options))
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"The tokenizer of backbone={os.fspath(backbone)!r} has neither a padding nor an end token."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _file_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the options that concern configuration and tokenizer, not weights."""
    return {"trust_remote_code": False, **{k: v for k, v in (options or {}).items() if k not in _WEIGHT_OPTIONS}}


def load_from_origin(origin: dict[str, Any]) -> Backbone:
    """Load a backbone again from what its ``origin`` says, on the CPU where the device of then is not here."""
    origin = dict(origin)
    if not _is_usable(origin["device"]):
        origin["device"] = torch.device("cpu")
    return load_backbone(origin.pop("backbone"), **origin)


def _is_usable(device: torch.device) -> bool:
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_available()) or (
        device.type == "mps" and torch.backends.mps.is_available()
    )  # fmt: skip


def _missing(report: Mapping[str, Any]) -> frozenset[str]:
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in report["mismatched_keys"]}
    return frozenset(report["missing_keys"]) | mismatched


def _check_complete(model: PreTrainedModel, drawn: frozenset[str], backbone: str | os.PathLike[str]) -> None:
    """Refuse a checkpoint that lacks weights, for which transformers would draw random ones."""
    head = _ids_of_head(model)
    behind = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    lacking = sorted(drawn - behind)
    if lacking:
        raise ValueError(
            f"The backbone {os.fspath(backbone)!r} is incomplete: its files lack {len(lacking)} weights or have them "
            f"in another shape, among them {lacking[0]!r}. Fetch it again."
        )


def _check_tokenizer(tokenizer: Any, config: Any, backbone: str | os.PathLike[str]) -> None:
    """Refuse a tokenizer whose texts the model cannot read."""
    size, end = getattr(config.get_text_config(), "vocab_size", None), config.eos_token_id
    if size is not None and tokenizer.pad_token_id >= size:
        raise ValueError(
            f"The tokenizer of backbone={os.fspath(backbone)!r} pads with token {tokenizer.pad_token_id}, but the "
            f"model knows {size}: give it a padding token of the vocabulary, or use the tokenizer that belongs to it."
        )
    # The head of an encoder-decoder reads the state of the end token.
    if config.is_encoder_decoder and (tokenizer("a")["input_ids"].count(end) != 1 or tokenizer.pad_token_id == end):
        raise ValueError(
            f"The head of backbone={os.fspath(backbone)!r} reads the state of the end token (eos_token_id={end}), but "
            "its tokenizer does not end each text with one, or pads with it: use the tokenizer that belongs to it."
        )
