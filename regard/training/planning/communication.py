"""What the GPUs of a layout send each other in one step, and how long it takes.

Ring collectives (Thakur et al. 2005, "Optimization of Collective Communication Operations in MPICH"; Patarasuk & Yuan
2009): an all-gather or reduce-scatter of S bytes over n processes sends (n - 1) / n S from each, an all-reduce twice
that.

- Data parallel: one all-reduce of the gradients, after the backward pass (regard.training.workers): 2 (n - 1) / n x 4
  P.
- FSDP: weights are gathered for the forward pass and again for the backward pass, gradients reduce-scattered, in every
  micro-batch: 3 (n - 1) / n x 4 P (Rajbhandari et al. 2020, "ZeRO", section 7.2). Sent while layers compute (Zhao et
  al. 2023, "PyTorch FSDP", section 3.3), so only what takes longer than computing is waited for.
- Tensor parallel: every sublayer ends with an all-reduce of its output in the forward pass and begins with one in the
  backward pass (Shoeybi et al. 2019, "Megatron-LM", section 3; Narayanan et al. 2021, section 3.2: 8 b s h (t - 1) / t
  values a layer); computing a layer again repeats those of the forward pass. Nothing hides them.

Delays of a message from one GPU to the next: NCCL's own model (its src/graph/tuning.cc, ring and tree, protocol
Simple). A collective over several machines uses the network of all of its members in a machine, up to the link's
speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from regard.training.planning.devices import Device
from regard.training.planning.layout import Layout
from regard.training.planning.memory import FULL
from regard.training.planning.workload import Workload

_INSIDE, _BETWEEN = 3.4e-6, 14e-6  # seconds, link and network


@dataclass(frozen=True)
class Messages:
    """Of one GPU in one step: bytes sent, and seconds if nothing hides them."""

    data_bytes: float = 0.0
    data_seconds: float = 0.0
    tensor_bytes: float = 0.0
    tensor_seconds: float = 0.0
    hidden: bool = False
    """Whether layers compute while `data_seconds` go by."""


@dataclass(frozen=True)
class Ring:
    """Processes that send to each other: how many, and how many of them are in one machine."""

    members: int
    inside: int
    device: Device

    @property
    def machines(self) -> int:
        return math.ceil(self.members / self.inside)

    @property
    def bandwidth(self) -> float:
        device = self.device
        return device.link if self.machines == 1 else min(device.link, device.network * self.inside)

    def gather(self, size: float) -> tuple[float, float]:
        """Bytes and seconds of an all-gather of so many bytes in all; a reduce-scatter takes the same."""
        sent = size * (self.members - 1) / self.members
        delay = (self.members - self.machines) * _INSIDE + (self.machines - 1) * _BETWEEN
        return sent, sent / self.bandwidth + delay

    def reduce(self, size: float) -> tuple[float, float]:
        """Of an all-reduce: a ring, or a tree where that has less delay."""
        sent = 2 * size * (self.members - 1) / self.members
        ring = (self.members - self.machines) * _INSIDE + (self.machines - 1) * _BETWEEN
        tree = math.log2(self.machines) * _BETWEEN + (min(self.members, self.inside) - 1) * _INSIDE
        return sent, sent / self.bandwidth + 2 * min(ring, tree)


def messages_of(work: Workload, layout: Layout, device: Device, in_machine: int) -> Messages:
    """Tensor parallel's groups are neighbours; the processes that share a batch stand `tensor` apart."""
    own = work.layer_parameters / layout.tensor + work.parameters - work.layer_parameters
    tensor_bytes = tensor_seconds = data_bytes = data_seconds = 0.0
    if layout.tensor > 1:
        ring = Ring(layout.tensor, min(layout.tensor, in_machine), device)
        value = 2 if work.recipe.training.precision == "bf16" else FULL
        tokens = work.batch_tokens / work.sides / layout.data / layout.micro_batches
        sums = work.sizes.sublayers * (3 if layout.checkpointing else 2) * layout.micro_batches
        sent, seconds = ring.reduce(value * tokens * work.sizes.width)
        tensor_bytes, tensor_seconds = sums * sent, sums * seconds
    if layout.data > 1:
        ring = Ring(layout.data, max(1, min(layout.data, in_machine // layout.tensor)), device)
        if layout.shard:
            parts = max(1, work.layers) + 1  # each layer, and what stands around them
            sent, seconds = ring.gather(FULL * own / parts)
            rounds = 3 * parts * layout.micro_batches
            data_bytes, data_seconds = rounds * sent, rounds * seconds
        else:
            data_bytes, data_seconds = ring.reduce(FULL * own)
    return Messages(data_bytes, data_seconds, tensor_bytes, tensor_seconds, layout.shard)
