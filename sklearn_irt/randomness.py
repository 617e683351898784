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


class OwnDraws:
    """What torch draws from a seed, in blocks, outside of which its generators are as they were.

    Each block goes on where the one before it ended. Threads run their blocks in turn.

    Parameters
    ----------
    seed : int
        For the generators of the CPU and of the device.
    device : torch.device
        Where the blocks compute.

    Attributes
    ----------
    reached : list of Tensor
        State of the generators at the end of the last block; empty before the first one.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self.reached: list[torch.Tensor] = []

    @contextmanager
    def block(self) -> Iterator[None]:
        """Draw from the seed within a block."""
        modules: list[Any] = [] if self.device.type == "cpu" else [torch.get_device_module(self.device)]
        devices = [device for module in modules for device in range(module.device_count())]
        with _drawing, torch.random.fork_rng(devices=devices, device_type=self.device.type):
            if len(self.reached) == 1 + len(modules):  # they may be those of another device
                torch.set_rng_state(self.reached[0])
                for module in modules:
                    module.set_rng_state(self.reached[1], self.device)
            elif modules:
                torch.manual_seed(self.seed)
            else:
                torch.default_generator.manual_seed(self.seed)  # the other one seeds GPUs, which are not put back here
            try:
                yield
            finally:
                self.reached = [torch.get_rng_state(), *(module.get_rng_state(self.device) for module in modules)]


@contextmanager
def isolated_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Run one block of :class:`OwnDraws`."""
    with OwnDraws(seed, device).block():
        yield
