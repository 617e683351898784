"""What is timed is timed once, and what is counted is counted right."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from sklearn_irt import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_named_precision_is_not_timed(monkeypatch, asked):
    monkeypatch.setattr(precision, "product_rates", lambda *_: pytest.fail("timed"))
    assert precision.choose_precision(asked, 32, 48, CPU) == asked


@pytest.mark.parametrize(
    ("rates", "taken"),
    [
        ({"fp32": 2.0, "bf16": 1.0}, "fp32"),
        ({"fp32": 1.0, "bf16": 2.0}, "bf16"),
        ({"fp32": 1.0, "bf16": 1.1}, "fp32"),  # by chance, or not worth the rounding
    ],
)
def test_auto_takes_bf16_where_it_is_faster(monkeypatch, rates, taken):
    sizes = []

    def rates_of(*size):
        sizes.append(size)
        return rates

    monkeypatch.setattr(precision, "product_rates", rates_of)
    assert precision.choose_precision("auto", 32, 48, CPU) == taken
    assert sizes == [(32, 48, CPU)]


@pytest.fixture
def not_timed_before():
    precision.product_rates.cache_clear()
    yield
    precision.product_rates.cache_clear()


@pytest.fixture
def runs(monkeypatch, not_timed_before):
    """Return a function that sets how long a run takes, and a list that gets precision and rows of each."""
    timed = []

    def take(seconds):
        def time_run(rows, weight):
            name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[weight.dtype]
            timed.append((name, len(rows)))
            return seconds(name, 2 * len(rows) * weight.numel())

        monkeypatch.setattr(precision, "_time_run", time_run)
        return timed

    return take


@pytest.mark.usefixtures("not_timed_before")
def test_products_are_timed_once(monkeypatch):
    counted = []
    time_run = precision._time_run

    def counting(rows, weight):
        assert rows.dtype == weight.dtype
        assert rows.shape[1:] == (24,)
        assert weight.shape == (40, 24)
        counted.append(weight.dtype)
        return time_run(rows, weight)

    monkeypatch.setattr(precision, "_time_run", counting)
    rates = precision.product_rates(24, 40, CPU)
    assert set(rates) == {"fp32", "bf16"}
    assert min(rates.values()) > 0
    assert set(counted) == {torch.float32, torch.bfloat16}
    n_runs = len(counted)
    assert precision.product_rates(24, 40, CPU) == rates
    assert len(counted) == n_runs


# 2**30 operations are 1024 rows of a weight of 512 x 1024.
SIZE = (512, 1024, CPU)


@pytest.mark.parametrize("busy", [0.0, 0.07])
def test_emulated_bf16_is_told_by_a_product_even_on_a_busy_machine(runs, busy):
    """Operations a second as on a processor without bf16; ``busy`` is what threads wait for each other."""
    speed = {"fp32": 80e9, "bf16": 2.5e9}
    timed = runs(lambda name, n_operations: n_operations / speed[name] + busy)
    assert precision.choose_precision("auto", *SIZE) == "fp32"
    assert {rows for name, rows in timed if name == "bf16"} == {1, 1024}
    assert sum(n_rows * 2**20 / 2.5e9 for name, n_rows in timed if name == "bf16") < 2


@pytest.mark.parametrize("busy", [0.0, 0.07])
def test_real_bf16_is_told_even_on_a_busy_machine(runs, busy):
    speed = {"fp32": 80e9, "bf16": 400e9}
    runs(lambda name, n_operations: n_operations / speed[name] + busy)
    assert precision.choose_precision("auto", *SIZE) == "bf16"


def test_rates_are_of_the_best_run_and_precisions_take_turns(runs):
    waits = iter([9, 9, *[0.3, 0.1, 0.2, 0.4] * 100])  # of the first two, of a row each, which wake the device
    timed = runs(lambda name, n_operations: next(waits))
    rates = precision.product_rates(10, 20, CPU)
    n_operations = 2 * 2**16 * 10 * 20  # as many rows as are timed at the most
    # Turns of 0.3 (fp32) and 0.1 (bf16), then of 0.2 and 0.4: more than half a second, so there are no others.
    assert rates == {"fp32": n_operations / 0.2, "bf16": n_operations / 0.1}
    assert timed == [("fp32", 1), ("bf16", 1), *[("fp32", 2**16), ("bf16", 2**16)] * 2]


def test_a_fast_device_is_timed_on_more_rows_than_its_launch_takes(runs):
    """A launch takes 1 ms: at 2**33 operations the products take 9 ms, at 2**35 33 ms."""
    timed = runs(lambda name, n_operations: 0.001 + n_operations / 2**30 / 1000)
    rates = precision.product_rates(*SIZE)
    assert max(rows for _, rows in timed) == 2**15
    assert rates["bf16"] == pytest.approx(2**35 / 0.033)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_device_works(name):
    device = precision.choose_device(name)
    assert torch.ones(3, device=device).sum().item() == 3
    assert name == "auto" or device == CPU


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "cpu:x", "hpu", ""])
def test_unknown_device(name):
    with pytest.raises(ValueError, match=f"device='{name}'"):
        precision.choose_device(name)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_prefers_cuda_then_mps(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert precision.choose_device("auto") == torch.device(expected)


def test_count_operations():
    # 250 parameters in the prefix: 2 * 250 * 10 = 5000, once.
    # 750 above: (2 + 2) * 750 * 4 = 12000 in each of 3 epochs.
    assert precision.count_operations(1000, 10, 4, prefix_share=0.25, max_epochs=3) == 41000


def test_count_operations_without_a_trained_or_a_frozen_part():
    assert precision.count_operations(1000, 10, 10, prefix_share=1.0, max_epochs=3) == 20000
    assert precision.count_operations(1000, 10, 10, prefix_share=0.0, max_epochs=3) == 120000


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (LlamaConfig(hidden_size=32, intermediate_size=48, num_attention_heads=2), (32, 48)),
        (GPT2Config(n_embd=32, n_head=2), (32, 128)),
        (GPT2Config(n_embd=32, n_head=2, n_inner=80), (32, 80)),
    ],
)
def test_product_size(config, size):
    assert precision.product_size(config) == size


def test_warning_of_a_slow_fit():
    # 9000 s are 2.5 hours.
    with pytest.warns(UserWarning, match=r"7\.2 billion parameters.* at least 2\.5 hours"):
        precision.warn_of_slow_fit(7_240_000_000, 9000.0)
