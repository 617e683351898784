"""Long documents become windows that hold every token, and batches keep those of a text together."""

import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, ByT5Tokenizer

from sklearn_irt.batching import StatesDataset, iterate_batches
from sklearn_irt.pair_format import write_pair
from sklearn_irt.pairs import Pair
from sklearn_irt.prefix import PrefixStates
from sklearn_irt.tokenization import tokenize_pairs
from sklearn_irt.training import LayerwiseNet
from sklearn_irt.windows import cut_into_windows, mean_by_text, run_in_parts

LONG = " ".join(f"w{number}" for number in range(60))


class TestCutIntoWindows:
    @settings(deadline=None, max_examples=300)
    @given(n=st.integers(1, 400), longest=st.integers(1, 64), n_before=st.integers(0, 2), n_behind=st.integers(0, 2))
    def test_windows_cover_every_token_overlap_and_fit(self, n, longest, n_before, n_behind):
        text, before, behind = list(range(n)), [-1] * n_before, [-2] * n_behind
        max_length = longest + n_before + n_behind
        windows = cut_into_windows([*before, *text, *behind], before, behind, max_length)
        assert all(len(window) <= max_length for window in windows)
        assert all(window[:n_before] == before and window[len(window) - n_behind :] == behind for window in windows)
        inner = [window[n_before : len(window) - n_behind] for window in windows]
        assert all(window == list(range(window[0], window[-1] + 1)) for window in inner)
        assert (inner[0][0], inner[-1][-1]) == (0, n - 1)
        for window, following in pairwise(inner):
            assert following[0] > window[0]
            assert following[-1] > window[-1]
            assert window[-1] + 1 - following[0] >= int(0.25 * longest)
        assert len({len(window) for window in inner}) == 1
        # One window less could not hold the text with these overlaps.
        assert (len(inner) - 1) * longest - max(len(inner) - 2, 0) * int(0.25 * longest) < n

    def test_a_text_that_fits_is_one_window(self):
        assert cut_into_windows([9, 1, 2, 3, 8], [9], [8], 5) == [[9, 1, 2, 3, 8]]
        assert cut_into_windows([9, 1, 2, 3, 4, 8], [9], [8], 5) == [[9, 1, 2, 8], [9, 3, 4, 8]]


class TestTokenizing:
    @pytest.mark.parametrize("pair_format", ["before-after", "instruction", "inline-diff", "{}=>{}".format])
    @pytest.mark.parametrize("family", ["llama", "bert", "byte by byte, in Python"])
    def test_every_token_of_the_written_pair_is_in_windows_with_special_tokens(self, backbones, family, pair_format):
        tokenizer = AutoTokenizer.from_pretrained(backbones[family]) if family in backbones else ByT5Tokenizer()
        before, behind = {"llama": ([], []), "bert": ([3], [4])}.get(family, ([], [1]))
        pair = Pair(f"{LONG} old", f"{LONG} new")
        tokenized = tokenize_pairs([pair], tokenizer, pair_format, ["a", "b"], None, 32, "windows")
        whole = tokenizer(write_pair(pair, pair_format, ["a", "b"], None))["input_ids"]
        assert tokenized.n_cut == 0
        assert len(tokenized.windows[0]) > 5
        windows = [tokenized.token_ids[window] for window in tokenized.windows[0]]
        inner = [window[len(before) : len(window) - len(behind)] for window in windows]
        assert windows == [[*before, *window, *behind] for window in inner]
        text = whole[len(before) : len(whole) - len(behind)]
        start, n_covered = -1, 0
        for window in inner:
            start = next(n for n in range(start + 1, len(text)) if text[n : n + len(window)] == window)
            assert start <= n_covered
            n_covered = start + len(window)
        assert n_covered == len(text)

    def test_pairs_share_equal_windows_and_count_their_tokens(self, backbones):
        tokenizer = AutoTokenizer.from_pretrained(backbones["llama"])
        pairs = [Pair(None, text) for text in (LONG, "short", LONG, f"{LONG} end")]
        tokenized = tokenize_pairs(pairs, tokenizer, "inline-diff", [], 8, 50, "windows")
        assert tokenized.texts.tolist() == [0, 1, 0, 2]
        assert len(tokenized.windows) == 3
        assert tokenized.n_windows.tolist() == [len(tokenized.windows[text]) for text in (0, 1, 0, 2)]
        by_hand = [sum(len(tokenized.token_ids[window]) for window in tokenized.windows[text]) for text in (0, 1, 0, 2)]
        assert tokenized.lengths.tolist() == by_hand
        repeated = tokenize_pairs([Pair(None, "?!" * 200)], tokenizer, "inline-diff", [], 8, 50, "windows")
        assert len(repeated.token_ids) < len(repeated.windows[0])

    def test_a_special_token_spelled_in_a_text_is_read_as_ordinary_text_in_every_window(self, backbones):
        tokenizer = AutoTokenizer.from_pretrained(backbones["bert"])
        tokenized = tokenize_pairs([Pair(None, "a <cls> b " * 40)], tokenizer, "inline-diff", [], 8, 32, "windows")
        assert {ids.count(tokenizer.cls_token_id) for ids in tokenized.token_ids} == {1}


def test_batches_keep_a_text_together_and_sort_by_all_its_tokens():
    n_windows = np.random.RandomState(0).randint(1, 9, size=40)
    windows = np.split(np.arange(n_windows.sum()), n_windows.cumsum()[:-1])
    token_ids = [[window] * 10 for window in range(n_windows.sum())]
    states = PrefixStates([torch.tensor(ids)[:, None] for ids in token_ids], token_ids)
    dataset = StatesDataset(states, np.arange(40)[::-1], np.arange(40), np.ones(40), windows)
    seen = []
    for inputs, labels in iterate_batches(dataset, 6):
        assert len(labels) == len(inputs["weight"]) <= 6
        of_rows = inputs["input_ids"][:, 0].split(inputs["n_windows"].tolist())
        assert [ids.tolist() for ids in of_rows] == [windows[39 - label].tolist() for label in labels]
        seen += inputs["n_windows"].tolist()
    assert seen == sorted(n_windows)


def test_on_a_gpu_no_more_windows_go_together_than_texts_of_a_batch_unless_they_are_of_one_text():
    net = LayerwiseNet(torch.nn.Identity, criterion=torch.nn.CrossEntropyLoss, batch_size=4, device="cuda")
    rows = torch.arange(16)[:, None]
    inputs = {"states": rows[..., None], "input_ids": rows, "attention_mask": torch.ones_like(rows)}
    inputs |= {"n_windows": torch.tensor([1, 2, 1, 3, 9]), "weight": torch.ones(5)}
    parts = list(net.split(inputs, torch.arange(5)))
    assert [part["input_ids"].flatten().tolist() for part, _ in parts] == [[0, 1, 2, 3], [4, 5, 6], [*range(7, 16)]]
    assert [labels.tolist() for _, labels in parts] == [[0, 1, 2], [3], [4]]
    assert [part["weight"].sum().item() for part, _ in parts] == pytest.approx([9 / 5, 1 / 5, 1 / 5])
    assert [net.count_together(part) for part, _ in parts] == [4] * 3


def test_the_mean_of_a_single_window_is_that_window_to_the_bit():
    logits = torch.randn(7, 3)
    assert torch.equal(mean_by_text(logits, [1] * 7), logits)
    torch.testing.assert_close(mean_by_text(logits, [3, 4]), torch.stack([logits[:3].mean(0), logits[3:].mean(0)]))


class Layers(torch.nn.Module):
    """Stands in for a trained part; knows what it computed as long as somebody keeps that."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 64), torch.nn.Linear(64, 3)
        self.hidden = []

    def forward(self, inputs):
        hidden = torch.dropout(self.first(inputs["states"][:, 0]).tanh(), 0.5, train=True)
        self.hidden.append(weakref.ref(hidden))
        return self.second(hidden)


def test_parts_keep_nothing_for_their_gradients_and_run_again_with_the_dropout_of_the_first_time():
    inputs = {"states": torch.randn(7, 5, 4), "input_ids": torch.ones(7, 5), "attention_mask": torch.ones(7, 5)}
    parts, plain = Layers(), Layers()
    plain.load_state_dict(parts.state_dict())
    torch.manual_seed(0)
    logits = run_in_parts(parts, inputs, 2)
    assert [hidden() for hidden in parts.hidden] == [None] * 4
    torch.manual_seed(0)
    expected = torch.cat([plain({"states": states}) for states in inputs["states"].split(2)])
    assert None not in [hidden() for hidden in plain.hidden]
    assert torch.equal(logits, expected)
    for result in (logits, expected):
        cross_entropy(result.mean(dim=0), torch.tensor(1)).backward()
    for gradient, other in zip(parts.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(gradient.grad, other.grad)
