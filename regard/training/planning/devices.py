"""Devices that a plan can be made for, by their makers' data sheets; and this machine, which is measured.

`products` of bf16 and fp32: dense, without sparsity; fp32 without TF32, which is PyTorch's default. `links` are one
way: NVLink's data sheets add both. Networks are those of the servers that these GPUs are mostly sold in (DGX and HGX: a
network card for each GPU); where the maker sells none, a server of 8 on 100 Gbit/s is assumed, and called so.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

import torch

from regard.errors import unknown
from regard.training.machine import machine, peak_flops_per_second

GB = 1e9
CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One GPU, or one machine that computes with its processor."""

    name: str
    bf16: float
    """FLOP/s of matrix products in bfloat16."""
    fp32: float
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second from and to memory."""
    link: float
    """Bytes a second, one way, to the others of its machine."""
    network: float
    """Bytes a second, one way, to other machines: its share of its machine's network."""
    watts: float | None
    """At full load (TDP); None where it is not known."""
    source: str

    def flops_per_second(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32


def _gpu(
    name: str,
    products: tuple[float, float],
    memory: tuple[float, float],
    links: tuple[float, float],
    watts: float,
    source: str,
) -> Device:
    """TFLOP/s of bf16 and fp32, GB and GB/s, GB/s inside and between machines, W."""
    rates = (1e12 * products[0], 1e12 * products[1])
    sizes = (GB * memory[0], GB * memory[1], GB * links[0], GB * links[1])
    return Device(name, *rates, *sizes, watts, source)


_SHARED = 12.5 / 8  # GB/s: 100 Gbit/s for a server of 8
_ASSUMED = "network assumed: 100 Gbit/s for 8"
_GPUS = (
    _gpu("b200", (2250, 75), (180, 7700), (900, 50), 1000, "NVIDIA DGX B200 data sheet, an eighth of it"),
    _gpu("h200", (989, 67), (141, 4800), (450, 50), 700, "NVIDIA H200 data sheet, SXM; DGX H200: 400 Gbit/s each"),
    _gpu("h100", (989, 67), (80, 3350), (450, 50), 700, "NVIDIA H100 data sheet, SXM; DGX H100: 400 Gbit/s each"),
    _gpu("a100", (312, 19.5), (80, 2039), (300, 25), 400, "NVIDIA A100 data sheet, SXM; DGX A100: 200 Gbit/s each"),
    _gpu("a100-40gb", (312, 19.5), (40, 1555), (300, 25), 400, "NVIDIA A100 data sheet, SXM 40 GB; DGX A100"),
    _gpu("l40s", (362, 91.6), (48, 864), (32, _SHARED), 350, f"NVIDIA L40S data sheet; PCIe 4; {_ASSUMED}"),
    _gpu("l4", (121, 30.3), (24, 300), (32, _SHARED), 72, f"NVIDIA L4 data sheet; PCIe 4; {_ASSUMED}"),
    _gpu("a10", (125, 31.2), (24, 600), (32, _SHARED), 150, f"NVIDIA A10 data sheet; PCIe 4; {_ASSUMED}"),
    _gpu("rtx-4090", (165, 82.6), (24, 1008), (32, _SHARED), 450, f"NVIDIA Ada architecture, 1.1; PCIe 4; {_ASSUMED}"),
    _gpu("rtx-3090", (71, 35.6), (24, 936), (32, _SHARED), 350, f"NVIDIA GA102 architecture, 2.1; PCIe 4; {_ASSUMED}"),
)
GPUS = {one.name: one for one in _GPUS}


def device_of(name: str) -> Device:
    """A device by its name; `cpu` is measured, in about a second. RegardError for a name that is none."""
    wanted = name.lower()  # data sheets write H100
    if wanted == CPU:
        return this_machine()
    if wanted not in GPUS:
        raise unknown("GPU", name, [*GPUS, CPU])
    return GPUS[wanted]


def this_machine() -> Device:
    """This machine's processor with the threads that it has now; several such machines meet over 1 Gbit/s."""
    half, full = (peak_flops_per_second(torch.device("cpu"), dtype) for dtype in (torch.bfloat16, torch.float32))
    size = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    told = f"measured: {machine()}, {torch.get_num_threads()} threads; network assumed: 1 Gbit/s"
    reach = _bandwidth()
    return Device(CPU, half, full, size, reach, reach, 0.125 * GB, _watts(), told)


def _bandwidth() -> float:
    """Bytes a second, read and written, of an addition over values that no cache holds."""
    values, best = torch.ones(1 << 25), 0.0
    result = torch.empty_like(values)
    for number in range(5):
        begun = time.perf_counter()
        torch.add(values, 1.0, out=result)
        if number:
            best = max(best, 2 * values.numel() * 4 / (time.perf_counter() - begun))
    return best


def _watts() -> float | None:
    """What `codecarbon` takes a processor of this name to need; None without it."""
    logging.getLogger("codecarbon").disabled = True
    try:
        from codecarbon.core.cpu import TDP

        return float(TDP().tdp)  # type: ignore[no-untyped-call]
    except Exception:  # not installed, or a machine that it cannot read
        return None
