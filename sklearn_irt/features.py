"""Hidden states of a frozen LLM as features for any scikit-learn estimator."""

from __future__ import annotations  # help() would write out the many types that ArrayLike stands for

import logging
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Memory
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from .backbone import Backbone, load_backbone, load_config, load_tokenizer
from .doc_link import link_to_documentation
from .messages import tell
from .pairs import Pair
from .parameters import check_pair_format, refuse_booleans
from .pooled_states import POOLINGS, pool_states, read_poolings
from .precision import choose_device, choose_precision, product_size
from .quantization import check_quantization
from .rows import check_max_length, read_rows, tokenize_rows
from .stack import read_depths
from .states_store import open_memory
from .tokenization import TokenizedPairs
from .windows import pool_windows
from .without_weights import describe_backbone

_logger = logging.getLogger(__name__)


@link_to_documentation
class BackboneFeatures(TransformerMixin, BaseEstimator):
    """Turn revision pairs, or texts, into the hidden states of a frozen LLM, pooled over the tokens.

    Nothing is trained: an ordinary classifier on these features is the cheap rival of fine-tuning, as LLMEmbed has it
    [1]_, which reads the mean over the tokens after each of the last five layers. Backbone and states are those of
    :class:`~sklearn_irt.IRTuningClassifier`: in one process they are loaded and computed once for both. With their
    defaults, features of the rows of a fit cost nothing, and after features, its frozen layers do not run.

    Parameters
    ----------
    backbone : str or path-like, default="smollm2-135m"
        The LLM, as :class:`~sklearn_irt.IRTuningClassifier` has it: an alias, a local folder, a .gguf file, or a hub
        id.

    layers : int, float or sequence of these, default=0.5
        After how many layers, counted from the bottom, the states are taken: that many (0 is what enters the first) or
        that share of all (1.0 is after the last), rounded so that 0.5 is where ``candidate_layers=0.5`` begins. Those
        of several are joined. They are the ``hidden_states`` of transformers, which lets the final norm follow on the
        last layer alone. What is above the lowest one of these layers is computed from its states, rounded to bf16, as
        in the classifier; layers that no states are taken from do not run.

    pooling : {"last", "mean", "max"} or sequence of these, default="last"
        How the states of a text's tokens become one row: the last token's, which alone has read all others in a
        decoder; their mean; their maximum, of each unit apart. Several are joined. A logistic regression on 300 pairs
        of ITERATER has a macro-F1 of 0.50 by "last", 0.43 by "mean" and 0.40 by "max" after 12 to 17 of the 30 layers
        of SmolLM2-135M, where it is best; of the encoder "minilm-l6", 0.39, 0.43 and 0.45 after 2 of 6 layers
        (``examples/benchmarks/probe_layers.py --pairs 300``).

    pair_format : {"inline-diff", "before-after"} or callable, default="inline-diff"
        How a pair becomes text, as in the classifier.

    context : int or None, default=8
        Unchanged words that ``pair_format="inline-diff"`` keeps on each side of an edit; None keeps all of them.

    max_length : int, default=192
        Most tokens that the backbone reads at once.

    long_text : {"edit", "windows"}, default="edit"
        What becomes of a text of more than ``max_length`` tokens, as in the classifier: "edit" cuts it, "windows" lets
        it become overlapping windows, of whose features it gets the mean.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Arithmetic of the backbone. "auto" takes the faster.

    quantization : {"8bit", "4bit"} or None, default=None
        Keeps the weights of the backbone's linear modules in 8 or 4 bits, on a CUDA GPU, as in the classifier.

    device : str, default="auto"
        A torch device; "auto" takes CUDA, then MPS, then the CPU.

    memory : str, path-like, joblib.Memory or None, default=None
        A folder, or a ``joblib.Memory``, in which the states of the lowest of ``layers`` are kept for other processes
        and later sessions as well. Only processes that compute with as many threads find them.

    verbose : int, default=0
        1 says what was chosen and shows a progress bar; 0 is silent but for warnings.

    backbone_options : dict or None, default=None
        Given to transformers' ``from_pretrained`` (``revision``, ``token``, ...), as in the classifier.

    Attributes
    ----------
    layers_ : ndarray of shape (n_layers,), dtype int
        After how many layers states are taken, ascending.
    precision_ : {"fp32", "bf16"}
        The arithmetic that was chosen.
    n_features_in_ : int
        2 for pairs, 1 for single texts.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Column names, where X is a frame whose column names are strings.

    See Also
    --------
    sklearn_irt.make_frozen_baseline : A logistic regression on these features.

    Notes
    -----
    The features of a text do not depend on what other texts there are. A pickle holds where the backbone was loaded
    from, not its weights.

    References
    ----------
    .. [1] Liu, Zhang, Zhao, Ju and Yang, "LLMEmbed: Rethinking Lightweight LLM's Genuine Function in Text
           Classification", ACL 2024, arXiv 2406.03725. The authors join the features of three backbones and train a
           network of several layers on them.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_irt import BackboneFeatures, load_sample_revisions
    >>> X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    >>> probe = make_pipeline(BackboneFeatures(layers=18), StandardScaler(), LogisticRegression(C=0.01))
    >>> probe.fit(X[:300], y[:300]).score(X[300:], y[300:])  # doctest: +SKIP
    """

    _parameter_constraints: dict = {
        "backbone": [str, os.PathLike],
        "layers": [Integral, Real, "array-like"],
        "pooling": [StrOptions(set(POOLINGS)), list, tuple],
        "pair_format": [StrOptions({"inline-diff", "before-after"}), callable],
        "context": [Interval(Integral, 0, None, closed="left"), None],
        "max_length": [Interval(Integral, 8, None, closed="left")],
        "long_text": [StrOptions({"edit", "windows"})],
        "precision": [StrOptions({"auto", "fp32", "bf16"})],
        "quantization": [StrOptions({"8bit", "4bit"}), None],
        "device": [str],
        "memory": [str, os.PathLike, Memory, None],
        "verbose": ["verbose"],
        "backbone_options": [dict, None],
    }

    layers_: NDArray[np.intp]
    precision_: str
    _backbone: Backbone

    def __init__(
        self,
        backbone: str | os.PathLike[str] = "smollm2-135m",
        *,
        layers: Any = 0.5,
        pooling: str | Sequence[str] = "last",
        pair_format: Any = "inline-diff",
        context: int | None = 8,
        max_length: int = 192,
        long_text: str = "edit",
        precision: str = "auto",
        quantization: str | None = None,
        device: str = "auto",
        memory: Any = None,
        verbose: int = 0,
        backbone_options: dict[str, Any] | None = None,
    ) -> None:
        self.backbone = backbone
        self.layers = layers
        self.pooling = pooling
        self.pair_format = pair_format
        self.context = context
        self.max_length = max_length
        self.long_text = long_text
        self.precision = precision
        self.quantization = quantization
        self.device = device
        self.memory = memory
        self.verbose = verbose
        self.backbone_options = backbone_options

    def fit(self, X: Any, y: ArrayLike | None = None) -> BackboneFeatures:
        """Check parameters and texts, note the columns, and load the backbone; nothing is learned.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            Revision pairs, the text before first; or single texts. A missing side of a pair is the empty text; a row
            without any text is refused.
        y : None
            Not used.

        Returns
        -------
        self : BackboneFeatures
            The fitted transformer.

        Raises
        ------
        TypeError, ValueError
            If parameters or X cannot be used; the message names the row. No weights are loaded before.
        OSError
            If ``memory`` cannot be written.

        Warns
        -----
        UserWarning
            If texts are longer than ``max_length``.
        """
        self._fit(X, user_frame=5)
        return self

    def fit_transform(self, X: Any, y: ArrayLike | None = None) -> NDArray[np.float32]:
        """Fit, and compute the features of the same rows.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.
        y : None
            Not used.

        Returns
        -------
        features : ndarray of shape (n_samples, n_layers * n_poolings * hidden_size), dtype float32
            As :meth:`transform` returns them.
        """
        return self._compute(self._fit(X, user_frame=6))  # scikit-learn's set_output lies between

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Compute the features.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.

        Returns
        -------
        features : ndarray of shape (n_samples, n_layers * n_poolings * hidden_size), dtype float32
            For each layer, each pooling; their names are those of :meth:`get_feature_names_out`.

        Raises
        ------
        NotFittedError
            If there was no fit.
        TypeError, ValueError
            If X cannot be used, or its columns are not those of the fit; the message names the row or column.
        RuntimeError
            If the file that the backbone is mapped from was written over since.
        """
        check_is_fitted(self, "layers_")
        self._validate_params()
        check_max_length(self, self._backbone.model.config, self._backbone.tokenizer)
        pairs = self._read_pairs(X, self)
        return self._compute(tokenize_rows(self, pairs, self._backbone.tokenizer, [], user_frame=4))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Name the features.

        Parameters
        ----------
        input_features : None
            Not used.

        Returns
        -------
        names : ndarray of shape (n_features,), dtype object
            "layer15_mean_0" is the first unit of the mean after 15 layers.
        """
        check_is_fitted(self, "layers_")
        units = range(self._backbone.model.config.get_text_config().hidden_size)
        return np.array(
            [
                f"layer{layer}_{how}_{unit}"
                for layer in self.layers_
                for how in read_poolings(self.pooling)
                for unit in units
            ],
            dtype=object,
        )

    def _fit(self, X: Any, *, user_frame: int) -> TokenizedPairs:
        self._validate_params()
        columns = BaseEstimator()  # notes those of X, which are this estimator's only when nothing can fail any more
        pairs = self._read_pairs(X, columns)
        plan = _plan(self, pairs, user_frame=user_frame)
        precision = choose_precision(self.precision, *product_size(plan.config), plan.device)
        self._say(f"Computing in {precision} on {plan.device}; states after {plan.layers} of {plan.n_layers} layers.")
        self._backbone = load_backbone(
            self.backbone,
            precision=precision,
            device=plan.device,
            options=self.backbone_options,
            quantization=self.quantization,
        )
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(vars(columns))
        self.layers_, self.precision_ = np.array(plan.layers), precision
        return plan.tokenized

    def _compute(self, tokenized: TokenizedPairs) -> NDArray[np.float32]:
        self._backbone.check_files()
        rows = pool_states(
            self._backbone,
            tokenized.token_ids,
            self.layers_.tolist(),
            read_poolings(self.pooling),
            open_memory(self.memory),
            show_progress=self.verbose >= 1,
        )
        return pool_windows(rows, tokenized.windows)[tokenized.texts]

    def _read_pairs(self, X: Any, columns: BaseEstimator) -> list[Pair]:
        return read_rows(X, columns, reset=columns is not self)

    def _validate_params(self) -> None:
        super()._validate_params()
        refuse_booleans(self)
        check_pair_format(self.pair_format)
        read_poolings(self.pooling)

    def _say(self, message: str) -> None:
        if self.verbose >= 1:
            tell(_logger, message)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class _Plan(NamedTuple):
    """What is known before any weight is read."""

    device: torch.device
    config: Any
    n_layers: int
    layers: list[int]
    tokenized: TokenizedPairs


def _plan(features: BackboneFeatures, pairs: list[Pair], *, user_frame: int) -> _Plan:
    open_memory(features.memory)
    device = choose_device(features.device)
    check_quantization(features.quantization, device, "lora")
    config = load_config(features.backbone, features.backbone_options)
    n_layers = describe_backbone(config, "all", features.backbone_options).n_layers
    layers = read_depths(features.layers, n_layers)
    tokenizer = load_tokenizer(features.backbone, features.backbone_options)
    check_max_length(features, config, tokenizer)
    tokenized = tokenize_rows(features, pairs, tokenizer, [], user_frame=user_frame)
    return _Plan(device, config, n_layers, layers, tokenized)
