"""Watches how much memory a block of code needs."""

from threading import Event, Thread

import psutil
import torch

_SECONDS_BETWEEN_LOOKS = 0.02
_BYTES_OF_MB = 2**20


class PeakMemory:
    """A context that watches by how much the memory of this process grows, at the most, above what it was before.

    A thread looks at it every 20 ms. Files that are mapped count as far as they were read, as the weights of a backbone
    do; processes that are started inside do not count.

    Attributes
    ----------
    megabytes : float
        Growth of the resident memory, in units of 2**20 bytes.
    gpu_megabytes : float or None
        Growth of what torch's tensors take on the current CUDA device; None without one.
    """

    megabytes: float
    gpu_megabytes: float | None

    def __enter__(self) -> "PeakMemory":
        self._before = self._peak = _resident()
        self._gpu_before = _restart_gpu_peak()
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="peak memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self.megabytes = (self._peak - self._before) / _BYTES_OF_MB
        self.gpu_megabytes = None
        if self._gpu_before is not None:
            self.gpu_megabytes = (torch.cuda.max_memory_allocated() - self._gpu_before) / _BYTES_OF_MB

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            self._look()

    def _look(self) -> None:
        self._peak = max(self._peak, _resident())


def _resident() -> int:
    return psutil.Process().memory_info().rss


def _restart_gpu_peak() -> int | None:
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
