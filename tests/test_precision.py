"""What is timed is timed once, and what is counted is counted right."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from sklearn_irt import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_named_precision_is_not_timed(monkeypatch, asked):
    monkeypatch.setattr(precision, "product_rate", lambda *_: pytest.fail("timed"))
    assert precision.choose_precision(asked, 32, 48, CPU) == asked


@pytest.mark.parametrize(
    ("rates", "faster"), [({"fp32": 2.0, "bf16": 1.0}, "fp32"), ({"fp32": 1.0, "bf16": 2.0}, "bf16")]
)
def test_auto_takes_the_faster_precision(monkeypatch, rates, faster):
    sizes = set()

    def rate(name, *size):
        sizes.add(size)
        return rates[name]

    monkeypatch.setattr(precision, "product_rate", rate)
    assert precision.choose_precision("auto", 32, 48, CPU) == faster
    assert sizes == {(32, 48, CPU)}


@pytest.fixture
def _not_timed_before():
    precision.product_rate.cache_clear()
    yield
    precision.product_rate.cache_clear()


@pytest.mark.usefixtures("_not_timed_before")
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_product_is_timed_once(monkeypatch, name):
    runs = []
    time_run = precision._time_run

    def counted(rows, weight):
        runs.append(rows.dtype)
        return time_run(rows, weight)

    monkeypatch.setattr(precision, "_time_run", counted)
    rate = precision.product_rate(name, 24, 40, CPU)
    assert rate > 0
    assert set(runs) == {precision.DTYPES[name]}
    n_runs = len(runs)
    assert precision.product_rate(name, 24, 40, CPU) == rate
    assert len(runs) == n_runs


@pytest.mark.usefixtures("_not_timed_before")
def test_product_rate_is_of_the_best_run(monkeypatch):
    # 16 rows are 2 * 16 * 10 * 20 = 6400 operations; the best run takes 0.1 s. The first wakes the device.
    seconds = iter([7.0, 0.3, 0.1, 0.2, 0.4])
    monkeypatch.setattr(precision, "_time_run", lambda *_: next(seconds))
    assert precision.product_rate("fp32", 10, 20, CPU) == pytest.approx(64000)


@pytest.mark.usefixtures("_not_timed_before")
def test_a_fast_device_is_timed_on_more_rows_than_its_launch_takes(monkeypatch):
    """A launch takes 1 ms, each row another: of 16, 32, ... rows the first to take 20 ms are 32."""
    monkeypatch.setattr(precision, "_time_run", lambda rows, weight: 0.001 + 0.001 * len(rows))
    assert precision.product_rate("fp32", 10, 20, CPU) == pytest.approx(2 * 32 * 10 * 20 / 0.033)


@pytest.mark.usefixtures("_not_timed_before")
def test_a_very_fast_device_is_timed_on_no_more_rows_than_fit(monkeypatch):
    monkeypatch.setattr(precision, "_time_run", lambda rows, weight: 0.001)
    assert precision.product_rate("fp32", 10, 20, CPU) == pytest.approx(2 * 2**16 * 10 * 20 / 0.001)


@pytest.mark.usefixtures("_not_timed_before")
def test_a_product_that_takes_long_is_run_once(monkeypatch):
    seconds = iter([0.1, 1.4])  # the first one, of a single row, wakes the device
    monkeypatch.setattr(precision, "_time_run", lambda *_: next(seconds))
    assert precision.product_rate("bf16", 10, 20, CPU) == pytest.approx(6400 / 1.4)


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
