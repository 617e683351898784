"""After which layer of the frozen backbone are the intentions told apart best? A linear probe of each layer's states.

    python examples/benchmarks/probe_layers.py --data FOLDER

The state of a pair's last token is what the head of a decoder reads; only a logistic regression on it is trained. The
states are taken before the final norm, but for those of the last layer, which transformers gives after it.
ITERATER train, judged on dev; some minutes on two cores.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from measuring import load_parts, processor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from sklearn_irt.backbone import load_backbone, load_config
from sklearn_irt.pairs import read_pairs
from sklearn_irt.precision import choose_device, choose_precision, product_size
from sklearn_irt.tokenization import tokenize_pairs

PAIRS_A_BATCH = 16


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--backbone", default="smollm2-135m", help="a decoder (default smollm2-135m)")
    parser.add_argument("--pairs", type=int, help="stratified part of the training pairs (default: all)")
    arguments = parser.parse_args()
    X, y, X_dev, y_dev = load_parts(arguments.data, arguments.pairs)
    states = last_token_states(arguments.backbone, pd.concat([X, X_dev]))
    lines = []
    for layer, of_layer in enumerate(states):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000))
        prediction = probe.fit(of_layer[: len(X)], y).predict(of_layer[len(X) :])
        scores = f1_score(y_dev, prediction, average="macro"), accuracy_score(y_dev, prediction)
        lines.append((layer, *np.round(scores, 3)))
    print(pd.DataFrame(lines, columns=["layers run", "macro-F1", "accuracy"]).to_string(index=False))
    print(f"machine: {processor()}")


def last_token_states(name, X):
    """Return what leaves the embedding and each layer, of shape (n_layers + 1, n_pairs, hidden_size)."""
    device = choose_device("auto")
    precision = choose_precision("auto", *product_size(load_config(name)), device)
    backbone = load_backbone(name, precision=precision, device=device)
    tokenized = tokenize_pairs(read_pairs(X), backbone.tokenizer, "inline-diff", [], context=8, max_length=192)
    texts = [tokenized.token_ids[text] for text in tokenized.texts]
    order = np.argsort([len(ids) for ids in texts], kind="stable")
    batches = [order[i : i + PAIRS_A_BATCH] for i in range(0, len(order), PAIRS_A_BATCH)]
    states = torch.cat([run_all_layers(backbone, [texts[row] for row in batch]) for batch in tqdm(batches)], dim=1)
    return states.numpy()[:, np.argsort(order)]


def run_all_layers(backbone, texts):
    batch = backbone.tokenizer.pad({"input_ids": texts}, return_tensors="pt").to(backbone.device)
    with torch.inference_mode():
        hidden_states = backbone.model.base_model(**batch, output_hidden_states=True, use_cache=False).hidden_states
    last = batch["attention_mask"].sum(dim=1) - 1
    return torch.stack([states[torch.arange(len(texts)), last].float().cpu() for states in hidden_states])


if __name__ == "__main__":
    main()
