"""How long one training step takes, predicted.

Arithmetic: the step's operations (regard.training.flops; Hoffmann et al. 2022, "Chinchilla": about 6 a parameter and
token) over a share of the peak of matrix products; activation checkpointing adds one more forward pass of the layers
(Narayanan et al. 2021, section 5: 96 instead of 72). Everything else moves values between memory and processor (Ivanov
et al. 2021, "Data Movement Is All You Need"), at the speed of memory (Williams et al. 2009, "Roofline"): what is kept
for gradients is written and read in both passes, and the optimiser reads and writes its state, weights and gradients.
What hides nothing is added up; FSDP's messages are waited for where they take longer than computing.

Not counted: the time to start kernels (small models on large GPUs are slower than predicted), reading data,
validation.
"""

from __future__ import annotations

from dataclasses import dataclass

from regard.training.planning.communication import Messages
from regard.training.planning.devices import CPU, Device
from regard.training.planning.layout import Layout
from regard.training.planning.memory import Memory, activation_bytes
from regard.training.planning.workload import Workload

_TRIPS = 4  # of what is kept: written and read, and its gradient written and read
_CPU_TRIPS = 12  # a core computes exponentials, random numbers and casts more slowly than it moves their values
SHARE = 0.7
"""Of the peak that the matrix products of a step reach by themselves."""
_CPU_BF16_SHARE = 0.35  # attention is in float32 there, and small products reach little of what AMX can do
_RECURRENT_SHARES = {"seq2seq": 0.12, "rnnsearch": 0.12, "awd_lstm": 0.5, "ulmfit": 0.12}
"""Products of a few rows each, one step of time after the other; more where all texts of a batch are equally long."""
_CPU_RECURRENT_SHARES = {"fp32": 0.7, "bf16": 0.18}
"""Such steps are native code there (`regard/native/lstm.h`, `additive.h`)."""


@dataclass(frozen=True)
class Duration:
    """Seconds of one step."""

    products: float
    memory: float
    optimizer: float
    tensor_messages: float
    data_messages: float
    """Of them, what is waited for."""

    @property
    def total(self) -> float:
        return self.products + self.memory + self.optimizer + self.tensor_messages + self.data_messages


def share_of(work: Workload, device: Device) -> float:
    """Where no other is given. Held to runs on a CPU (tests/training/test_planning.py), not to runs on a GPU."""
    precision, recurrent = work.recipe.training.precision, work.config.model_type in _RECURRENT_SHARES
    if device.name != CPU:
        return _RECURRENT_SHARES[work.config.model_type] if recurrent else SHARE
    if recurrent:
        return _CPU_RECURRENT_SHARES[precision]
    return _CPU_BF16_SHARE if precision == "bf16" else SHARE


def duration_of(
    work: Workload, layout: Layout, device: Device, memory: Memory, messages: Messages, share: float
) -> Duration:
    training = work.recipe.training
    operations = work.flops + (work.layer_flops if layout.checkpointing else 0.0)
    products = operations / layout.gpus / (share * device.flops_per_second(training.precision))
    kept = Layout(layout.data, layout.tensor, layout.shard, layout.micro_batches)
    tokens = work.batch_tokens / layout.data / layout.micro_batches
    moved = activation_bytes(work, tokens, kept, device.name == CPU) + memory.logits + memory.copies
    trips = (_CPU_TRIPS if device.name == CPU else _TRIPS) + (2 if layout.checkpointing else 0)
    moving = layout.micro_batches * trips * moved / device.bandwidth
    state = 2 * (memory.weights + memory.gradients + memory.optimizer)
    waited = messages.data_seconds
    if messages.hidden:
        waited = max(0.0, waited - products - moving) + waited / (max(1, work.layers) + 1)
    return Duration(products, moving, state / device.bandwidth, messages.tensor_seconds, waited)
