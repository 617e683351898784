"""Three usual ways to fine-tune the backbone of IRTuningClassifier on the same pairs, each timed; run by speed.py."""

import tempfile
from typing import Any

import numpy as np
import torch
from costs import Progress, now
from peft import LoraConfig, TaskType, get_peft_model
from sklearn.metrics import f1_score
from sklearn.pipeline import Pipeline
from sklearn.utils import compute_class_weight
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, LRScheduler
from skorch.hf import HuggingfacePretrainedTokenizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_linear_schedule_with_warmup,
    set_seed,
)

from sklearn_irt import IRTuningClassifier
from sklearn_irt.backbone import load_config, load_tokenizer
from sklearn_irt.backbone_files import locate_backbone, quiet_transformers
from sklearn_irt.pair_format import write_pair
from sklearn_irt.pairs import read_pairs
from sklearn_irt.precision import choose_precision, product_size
from sklearn_irt.selection import GradientNormSelection
from sklearn_irt.stack import find_stack, get_layers

BACKBONE = "smollm2-135m"
BATCH_SIZE = 8
MAX_LENGTH = 192
PAPER_LENGTH = 256
# Between 2e-4, the custom for large LLMs, and the 2e-3 of IRTuningClassifier; no other was tried (see --trainer-rate).
TRAINER_RATE = 1e-3
PAPER_LEARNING_RATE = 2e-4
SKORCH_LEARNING_RATE = 5e-5
# Name: type of the loaded weights, and whether they are multiplied under autocast to bf16. What is trained is kept in
# fp32. (bf16 weights without autocast would multiply the adapters in fp32, which took a tenth longer.)
PRECISIONS = {
    "fp32": (torch.float32, False),
    "bf16 autocast": (torch.float32, True),
    "bf16 weights": (torch.bfloat16, True),
}


def write_texts(X: Any, pair_format: str, classes: np.ndarray) -> list[str]:
    """Write pairs as IRTuningClassifier does."""
    context = IRTuningClassifier().context
    return [write_pair(pair, pair_format, [str(label) for label in classes], context) for pair in read_pairs(X)]


def load_model(precision: str, n_classes: int, dropout: float, device: torch.device, seed: int) -> Any:
    """Load the backbone with LoRA adapters on the linear layers of all its layers, and a head."""
    set_seed(seed)
    model = load_plain_model(PRECISIONS[precision][0], n_classes)
    adapter = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=16, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear"
    )
    model = get_peft_model(model, adapter)
    for parameter in trained_parameters(model):
        parameter.data = parameter.data.float()
    return model.to(device)


def load_plain_model(dtype: torch.dtype, n_classes: int) -> Any:
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(
            locate_backbone(BACKBONE), num_labels=n_classes, dtype=dtype
        )


def trained_parameters(model: Any) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=PRECISIONS[precision][1])


def judge(model: Any, tokenizer: Any, texts: list[str], labels: np.ndarray, max_length: int, context: Any) -> float:
    """Return the macro-F1 of a model."""
    token_ids = tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
    order = np.argsort([len(ids) for ids in token_ids])
    predicted = np.empty(len(texts), dtype=int)
    model.eval()
    for rows in np.array_split(order, -(-len(order) // 32)):
        batch = tokenizer.pad({"input_ids": [token_ids[row] for row in rows]}, return_tensors="pt")
        with torch.inference_mode(), context:
            predicted[rows] = model(**batch.to(model.device)).logits.argmax(1).cpu().numpy()
    model.train()
    return float(f1_score(labels, predicted, average="macro"))


def fastest_precision(contender: str, X: Any, y: Any, device: torch.device) -> tuple[str, dict[str, float]]:
    """Time three training steps of a contender in each precision, and return the fastest with the seconds of each."""
    names = [name for name in PRECISIONS if name == "fp32" or bf16_is_quick(device)]
    classes = np.unique(y)
    tokenizer = load_tokenizer(BACKBONE)
    if contender == "paper":
        texts = write_texts(X[:BATCH_SIZE], "before-after", classes)
        batch = tokenizer(texts, padding="max_length", truncation=True, max_length=PAPER_LENGTH, return_tensors="pt")
    else:
        texts = sorted(write_texts(X, "inline-diff", classes), key=len)
        middle = len(texts) // 2
        batch = tokenizer(texts[middle : middle + BATCH_SIZE], padding=True, return_tensors="pt")
    labels = torch.zeros(len(batch["input_ids"]), dtype=torch.long)
    seconds = {name: _time_steps(name, batch.to(device), labels.to(device), len(classes)) for name in names}
    return min(seconds, key=lambda name: seconds[name]), seconds


def bf16_is_quick(device: torch.device) -> bool:
    """Say whether products in bfloat16 run faster here than in fp32; where they are emulated, a step takes minutes."""
    return choose_precision("auto", *product_size(load_config(BACKBONE)), device) == "bf16"


def _time_steps(precision: str, batch: Any, labels: torch.Tensor, n_classes: int) -> float:
    model = load_model(precision, n_classes, 0.0, labels.device, seed=0).train()
    optimizer = torch.optim.AdamW(trained_parameters(model), lr=1e-4)
    seconds = []
    for _ in range(3):
        start = now()
        with autocast(precision, labels.device):
            loss = torch.nn.functional.cross_entropy(model(**batch).logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a device that computes asynchronously
        seconds.append((now() - start)[int(labels.device.type == "cpu")])  # of computing, which other work leaves alone
    return round(float(min(seconds)), 3)


def train_with_trainer(
    parts: Any, seed: int, epochs: int, device: torch.device, precision: str, learning_rate: float
) -> dict[str, Any]:
    """Fine-tune with transformers' Trainer and peft, set up for speed."""
    X, y, X_dev, y_dev = parts
    classes, labels = np.unique(y, return_inverse=True)
    dev_texts, dev_labels = write_texts(X_dev, "inline-diff", classes), np.searchsorted(classes, y_dev)
    tokenizer, context = load_tokenizer(BACKBONE), autocast(precision, device)
    tokenizer.truncation_side = "left"  # a long text's last tokens are the list of its edits
    model = load_model(precision, len(classes), 0.0, device, seed)
    balanced = compute_class_weight("balanced", classes=classes, y=y)
    class_weights = torch.tensor(np.sqrt(balanced), dtype=torch.float32, device=device)

    def weighted_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs.logits.float(), labels, weight=class_weights)

    class EpochEnd(TrainerCallback):
        def on_epoch_end(self, *arguments: Any, **options: Any) -> None:
            progress.end_epoch()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,  # a share of all steps
            weight_decay=0.0,
            train_sampling_strategy="group_by_length",
            bf16=PRECISIONS[precision][1],
            use_cpu=device.type == "cpu",
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        progress = Progress(lambda: judge(model, tokenizer, dev_texts, dev_labels, MAX_LENGTH, context))
        encoded = tokenizer(write_texts(X, "inline-diff", classes), truncation=True, max_length=MAX_LENGTH)
        rows = zip(encoded["input_ids"], encoded["attention_mask"], labels.tolist(), strict=True)
        Trainer(
            model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=[{"input_ids": ids, "attention_mask": mask, "labels": label} for ids, mask, label in rows],
            processing_class=tokenizer,
            compute_loss_func=weighted_loss,
            callbacks=[EpochEnd()],
        ).train()
    return progress.figures()


def train_as_paper(parts: Any, seed: int, epochs: int, device: torch.device, precision: str) -> dict[str, Any]:
    """Fine-tune as Liu and Litman (arXiv 2510.00268) do, but for their random head: here it trains."""
    X, y, X_dev, y_dev = parts
    classes, labels = np.unique(y, return_inverse=True)
    dev_texts, dev_labels = write_texts(X_dev, "before-after", classes), np.searchsorted(classes, y_dev)
    tokenizer, context = load_tokenizer(BACKBONE), autocast(precision, device)
    model = load_model(precision, len(classes), 0.05, device, seed).train()
    trained = trained_parameters(model)
    layers = get_layers(model, find_stack(model))
    adapters = {layer: trained_parameters(module) for layer, module in enumerate(layers)}
    selection = GradientNormSelection(variant="reference")
    n_steps = -(-len(y) // BATCH_SIZE)
    selection.begin(list(adapters), np.random.RandomState(seed), n_layers=len(layers), steps_per_epoch=n_steps)
    optimizer = torch.optim.AdamW(trained, lr=PAPER_LEARNING_RATE, weight_decay=0.0)

    progress = Progress(lambda: judge(model, tokenizer, dev_texts, dev_labels, PAPER_LENGTH, context))
    texts = write_texts(X, "before-after", classes)
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=PAPER_LENGTH, return_tensors="pt")
    rows = TensorDataset(tokens["input_ids"], tokens["attention_mask"], torch.as_tensor(labels))
    batches = DataLoader(rows, BATCH_SIZE, shuffle=True, generator=torch.Generator().manual_seed(seed))
    schedule = get_linear_schedule_with_warmup(optimizer, 0, epochs * len(batches))
    step = 0
    for _ in range(epochs):
        for batch in batches:
            selected = selection.select(step).tolist()
            for layer, parameters in adapters.items():
                for parameter in parameters:
                    parameter.requires_grad_(layer in selected)
            input_ids, attention_mask, targets = (tensor.to(device) for tensor in batch)
            with context:
                logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
            torch.nn.functional.cross_entropy(logits.float(), targets).backward()
            norms = {layer: [p.grad.norm().item() for p in adapters[layer]] for layer in selected}
            selection.observe(step, norms)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
        progress.end_epoch()
    return progress.figures()


class PlainModule(torch.nn.Module):
    """The module of skorch's notebook on fine-tuning with transformers: logits are all that it returns."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.model = load_plain_model(torch.float32, n_classes)

    def forward(self, **tokens: torch.Tensor) -> torch.Tensor:
        return self.model(**tokens).logits


def train_with_skorch(parts: Any, seed: int, epochs: int, device: torch.device) -> dict[str, Any]:
    """Fine-tune all weights as skorch's notebook does, but without a validation part: all pairs are trained on."""
    X, y, X_dev, y_dev = parts
    classes = np.unique(y)
    dev_texts, dev_labels = write_texts(X_dev, "inline-diff", classes), np.searchsorted(classes, y_dev)
    n_steps = epochs * -(-len(y) // BATCH_SIZE)

    class EpochEnd(Callback):
        def on_epoch_end(self, net: Any, **options: Any) -> None:
            progress.end_epoch()

    set_seed(seed)
    tokenizer, context = load_tokenizer(BACKBONE), autocast("fp32", device)
    tokenizing = HuggingfacePretrainedTokenizer(tokenizer)  # cuts and pads to 256 tokens
    net = NeuralNetClassifier(
        PlainModule,
        module__n_classes=len(classes),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=SKORCH_LEARNING_RATE,
        max_epochs=epochs,
        batch_size=BATCH_SIZE,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[
            LRScheduler(LambdaLR, lr_lambda=lambda step: 1 - step / n_steps, step_every="batch"),
            EpochEnd(),
        ],
        device=str(device),
        warm_start=True,  # keeps fit from loading the model a second time
        verbose=0,
    ).initialize()
    model, max_length = net.module_.model, tokenizing.max_length
    progress = Progress(lambda: judge(model, tokenizer, dev_texts, dev_labels, max_length, context))
    texts = write_texts(X, "inline-diff", classes)
    Pipeline([("tokenizer", tokenizing), ("net", net)]).fit(texts, np.searchsorted(classes, y))
    return progress.figures()
