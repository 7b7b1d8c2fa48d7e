"""The machine that a run is on: its name, what it reaches, and how much memory was taken."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from pathlib import Path

import torch

from regard.native.products import product


def machine() -> str:
    """This machine in words: processor and number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = found[0].partition(":")[2].strip() if found else name
    return f"{os.cpu_count()} cores of {name}"


def peak_flops_per_second(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """The best of several products of two square matrices, with the threads that training has."""
    size = 8192 if device.type == "cuda" else 1024
    matrix, best, begun = torch.ones(size, size, dtype=dtype, device=device), 0.0, time.perf_counter()
    for number in range(100):
        started = time.perf_counter()
        product(matrix, matrix)
        _wait(device)
        if number:  # the first one prepares the kernel
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
        if number > 2 and time.perf_counter() - begun > seconds:
            break
    return best


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on an accelerator; else the most that this process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else 1024 * held


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
