"""What a run costs: seconds on the clock, seconds of computing, and the peak of its memory."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Progress:
    """Seconds since its making and dev macro-F1 at the end of each epoch; judging on dev does not count as time."""

    def __init__(self, judge: Callable[[], float]) -> None:
        self.judge = judge
        self.epochs: list[dict[str, float]] = []
        self.judging = np.zeros(2)
        self.start = now()

    def end_epoch(self) -> None:
        reached = now()
        seconds, cpu_seconds = (reached - self.start - self.judging).round(2).tolist()
        self.epochs.append({"seconds": seconds, "cpu_seconds": cpu_seconds, "macro_f1": round(self.judge(), 4)})
        self.judging += now() - reached

    def figures(self) -> dict[str, Any]:
        best = max(self.epochs, key=lambda epoch: epoch["macro_f1"])
        last = self.epochs[-1]
        return {
            "macro_f1": last["macro_f1"],
            "best_macro_f1": best["macro_f1"],
            "train_seconds": last["seconds"],
            "train_cpu_seconds": last["cpu_seconds"],
            "seconds_to_best": best["seconds"],
            "epochs_reached": self.epochs,
        }


def now() -> np.ndarray:
    """Return the time on the clock and the time that all threads of this process computed."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(name: str, work: Callable[[], Any]) -> dict[str, float]:
    """Return how long some work took: on the clock, and of computing."""
    start = now()
    work()
    seconds, cpu_seconds = (now() - start).tolist()
    return {f"{name}_seconds": seconds, f"{name}_cpu_seconds": cpu_seconds}


def restart_peak_memory(device: torch.device) -> int:
    """Set the peak back to what is in use now, on the device if it is a GPU, and return that, in MB.

    The peak that getrusage tells is no use: Linux hands it down from a process to those that it starts.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Return the peak since it was set back, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 2**10 for line in lines if line.startswith("VmHWM"))
