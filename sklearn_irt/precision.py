"""Which arithmetic is fastest on this processor: timed, not guessed from its name."""

import time
import warnings
from functools import cache
from typing import Any

import numpy as np
import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Parameters above which a fit on a CPU gets a warning.
LARGE_BACKBONE = 1e9
# A product is timed at the number of rows, doubled from the least, from which it takes long enough to be told from its
# launch. Where other processes take the cores, threads wait for each other for 70 ms and more: emulated bf16 (1.4 to
# 2.5 GFLOP/s a core where there is AVX2 only) takes longer from the first product on; real bf16 needs a larger one.
_LEAST_OPERATIONS, _OPERATIONS_TO_COMPARE = 2**30, 2**33
_LEAST_ROWS, _MOST_ROWS = 16, 2**16
_LEAST_SECONDS = 2e-2
_MOST_RUNS, _MOST_SECONDS = 4, 0.5
# A precision that is so many times slower is beaten, and not timed on more rows.
_BEATEN = 3
# By how many times bf16 must be faster to be worth its rounding.
_LEAST_GAIN = 1.2


def choose_device(device: str) -> torch.device:
    """Turn "auto" into CUDA, then MPS, then the CPU; anything else into the device of that name.

    Parameters
    ----------
    device : str
        "auto" or a torch device such as "cpu" or "cuda:1".

    Returns
    -------
    device : torch.device
        The device.

    Raises
    ------
    ValueError
        If there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()  # which the device "meta" cannot do
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(f"device={device!r} cannot be used here: {error}. Use 'auto' or 'cpu'.") from error
    return torch.device(device)


@cache
def product_rates(n_inputs: int, n_outputs: int, device: torch.device) -> dict[str, float]:
    """Time a matrix product in each precision, once a process.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Size of the weight matrix.
    device : torch.device
        Where it runs.

    Returns
    -------
    rates : dict of str to float
        Operations a second of "fp32" and "bf16", each of the best of a few runs.
    """
    weights = {name: torch.ones(n_outputs, n_inputs, dtype=dtype, device=device) for name, dtype in DTYPES.items()}
    for weight in weights.values():
        _time_run(weight[:1], weight)  # a device, or a library, may need seconds to wake
    rates: dict[str, float] = {}
    n_rows = int(np.clip(_LEAST_OPERATIONS // (2 * n_inputs * n_outputs), _LEAST_ROWS, _MOST_ROWS))
    while True:
        n_operations = 2 * n_rows * n_inputs * n_outputs
        seconds = _time_in_turn(weights, n_rows)
        rates |= {name: n_operations / best for name, best in seconds.items()}
        fastest = min(seconds.values())
        beaten = max(_LEAST_SECONDS, _BEATEN * fastest)
        weights = {name: weight for name, weight in weights.items() if seconds[name] < beaten}
        told_apart = len(weights) == 1 or n_operations >= _OPERATIONS_TO_COMPARE
        if n_rows >= _MOST_ROWS or (told_apart and fastest >= _LEAST_SECONDS):
            return rates
        n_rows *= 2


def _time_in_turn(weights: dict[str, torch.Tensor], n_rows: int) -> dict[str, float]:
    """Return the seconds of the best of a few runs for each weight, of fewer where they take long.

    They take turns, for what else the machine computes meanwhile would tell against the one that it meets.
    """
    rows = {name: weight.new_ones(n_rows, weight.shape[1]) for name, weight in weights.items()}
    seconds: dict[str, list[float]] = {name: [] for name in weights}
    for _ in range(_MOST_RUNS):
        for name, weight in weights.items():
            seconds[name].append(_time_run(rows[name], weight))
        if sum(map(sum, seconds.values())) >= _MOST_SECONDS:
            break
    return {name: min(runs) for name, runs in seconds.items()}


def _time_run(rows: torch.Tensor, weight: torch.Tensor) -> float:
    start = time.perf_counter()
    product = torch.nn.functional.linear(rows, weight)
    product[0, 0].item()  # waits for a device that computes asynchronously
    return time.perf_counter() - start


def choose_precision(precision: str, n_inputs: int, n_outputs: int, device: torch.device) -> str:
    """Turn "auto" into "bf16" where it makes a matrix product of this size faster by a fifth, and else into "fp32".

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16"}
        What the user asked for.
    n_inputs, n_outputs : int
        Size of the backbone's own products: hidden size and feed-forward size.
    device : torch.device
        Where it runs.

    Returns
    -------
    precision : {"fp32", "bf16"}
        The arithmetic to use.
    """
    if precision != "auto":
        return precision
    rates = product_rates(n_inputs, n_outputs, device)
    return "bf16" if rates["bf16"] >= _LEAST_GAIN * rates["fp32"] else "fp32"


def product_size(config: Any) -> tuple[int, int]:
    """Return the hidden and the feed-forward size of a backbone, which most of its products have."""
    config = config.get_text_config()
    feed_forward = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return config.hidden_size, feed_forward or 4 * config.hidden_size


def count_operations(
    n_layer_parameters: int, n_prefix_tokens: int, n_epoch_tokens: int, prefix_share: float, max_epochs: int
) -> float:
    """Count the operations that a fit costs at the least.

    A token costs 2 operations a parameter in the frozen prefix, once; in the trained part it costs 2 forwards and 2 for
    the gradient of the activations in every epoch (frozen weights need no gradient of their own).

    Parameters
    ----------
    n_layer_parameters : int
        Of the layers that run.
    n_prefix_tokens : int
        Of the distinct training texts.
    n_epoch_tokens : int
        Of all training texts.
    prefix_share : float
        Share of the layers below the lowest candidate.
    max_epochs : int
        Passes over the trained part.

    Returns
    -------
    n_operations : float
        Multiplications and additions.
    """
    return (
        2 * n_layer_parameters * (prefix_share * n_prefix_tokens + 2 * max_epochs * (1 - prefix_share) * n_epoch_tokens)
    )


def warn_of_slow_fit(n_parameters: int, seconds: float) -> None:
    """Warn that a backbone is large for a CPU, with the least time that the fit will take."""
    warnings.warn(
        f"The backbone has {n_parameters / 1e9:.1f} billion parameters: on this CPU the fit will take at least "
        f"{seconds / 3600:.1f} hours, at the rate just measured. "
        "Use a GPU, a smaller backbone, or fewer n_layers or candidate_layers.",
        UserWarning,
        stacklevel=7,
    )
