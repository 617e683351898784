"""Chance of one's own: the global generators of torch and numpy stay as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

# Torch's generators belong to the process: a thread that draws from them keeps the others from seeding them meanwhile.
_drawing = RLock()


def own_generator(random_state: Any) -> np.random.RandomState:
    """Return a generator for a ``random_state`` parameter; None draws from the operating system, not the global one."""
    return np.random.RandomState() if random_state is None else check_random_state(random_state)


@contextmanager
def isolated_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators within a block and put them back afterwards; threads run such blocks in turn.

    Parameters
    ----------
    seed : int
        For the generators of the CPU and of the device.
    device : torch.device
        Where the block computes.
    """
    n_devices = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, 0)
    device_type = device.type if n_devices else "cuda"
    with _drawing, torch.random.fork_rng(devices=range(n_devices), device_type=device_type):
        if n_devices:
            torch.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)  # the other one seeds GPUs as well, which are not put back
        yield
