"""Memory that one GPU needs for a training step.

Model states: Rajbhandari et al. 2020, "ZeRO", section 3.1: weights, gradients and the optimiser's state, of which
stage 3 (FSDP) leaves each of N processes an N-th. Here all of them are float32 and products alone are bf16, so a
parameter takes 4 + 4 + 8 bytes with Adam, and 2 more for the copy that the products read.

Activations: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4: what
each part of a layer keeps for its gradient, added up (their equation 1: 34 s b h + 5 a s^2 b; tensor parallel divides
what is inside attention and feed-forward, equation 2). What differs here: the residual stream and what norms keep are
float32 also under bf16; the fused attention (Dao et al. 2022, "FlashAttention") keeps one number a row instead of its
weights, which the 5 a s^2 b are, so that term stands for plain attention only; a CPU keeps attention in float32 where
native code does not compute it, and dropout's masks as wide as their values. Recurrent layers: their gates and cells,
as PyTorch's kernels keep them or, on a CPU, the native loops (`regard/native/`).

Checkpointing (Chen et al. 2016) keeps what enters each layer, and one layer's activations at a time. The tests hold
these sums to what autograd keeps of real models on a CPU. On a GPU they were not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from regard.native import has_wide_vectors, library
from regard.training.planning.devices import CPU, Device
from regard.training.planning.layout import Layout
from regard.training.planning.workload import Workload

FULL = 4  # bytes of float32
USABLE = 0.92  # of a GPU's memory: the rest is its driver's, and lost between blocks
_OPTIMIZER = {"adam": 8, "muon": 8, "sgd": 0, "asgd": 4, "adadelta": 8}


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU, by what they hold."""

    weights: float
    copies: float
    """bf16 copies of matrices, and what FSDP has gathered of others' parts."""
    gradients: float
    optimizer: float
    averages: float
    """Weights kept for averaging: those of the last validations, and the exponential mean."""
    activations: float
    logits: float
    """Scores of the vocabulary and their gradient, while the loss is computed."""
    message: float
    """The buffers of data parallel's sum, when activations are gone."""
    libraries: float

    @property
    def total(self) -> float:
        """At the moment when it is most."""
        states = self.weights + self.gradients + self.optimizer + self.averages + self.libraries
        return states + max(self.copies + self.activations + self.logits, self.message)


def memory_of(work: Workload, layout: Layout, device: Device, libraries: float = 0.0) -> Memory:
    """Of each of a layout's GPUs. `libraries`: what a process takes before it holds a model."""
    training = work.recipe.training
    own = work.layer_parameters / layout.tensor + work.parameters - work.layer_parameters
    held = own / layout.shards
    others = FULL if training.optimizer == "muon" else 0  # Muon keeps one moment of matrices
    matrices = work.matrices / layout.tensor / layout.shards
    validations = max(1, training.max_steps // training.validate_every)
    kept = min(training.average, validations) + (training.ema_decay > 0)
    half = training.precision == "bf16"
    cpu = device.name == CPU  # where a copy is made for each product, and none is kept (regard.native.products)
    copied = 2 * (work.matrices / layout.tensor + work.read_words) if half and not cpu else 0.0
    outside, layer = work.parameters - work.layer_parameters, work.layer_parameters / max(1, work.layers)
    gathered = FULL * (outside + 2 * layer / layout.tensor) if layout.shards > 1 else 0.0
    tokens = work.batch_tokens / layout.data / layout.micro_batches
    return Memory(
        weights=FULL * held,
        copies=copied + gathered,
        gradients=FULL * held,
        optimizer=_OPTIMIZER[training.optimizer] * held - others * matrices,
        averages=FULL * held * kept,
        activations=activation_bytes(work, tokens, layout, cpu),
        logits=logit_bytes(work, tokens, cpu),
        message=2 * FULL * own if layout.data > 1 and not layout.shard else 0.0,
        libraries=libraries,
    )


def logit_bytes(work: Workload, tokens: float, cpu: bool) -> float:
    """Scores and their gradient; on a GPU two float32 copies of them as well (see regard.training.objectives)."""
    value = _value(work)
    return work.scored(tokens) * work.vocabulary * (2 * value + (0 if cpu else 2 * FULL))


def activation_bytes(work: Workload, tokens: float, layout: Layout, cpu: bool) -> float:
    """Of so many tokens of a batch (both sides together)."""
    stacks, value = _stacks(work, cpu), _value(work)
    sizes = work.sizes
    layers = sum(count * one(tokens / work.sides, layout.tensor) for count, one in stacks)
    width = FULL if sizes.heads else value
    if layout.checkpointing:
        entering = sum(count for count, _ in stacks) * width * sizes.width * tokens / work.sides
        layers = entering + max(one(tokens / work.sides, layout.tensor) for _, one in stacks)
    around = tokens * (sizes.outer + sizes.width) * value + tokens * sizes.outer * (FULL if sizes.dropout else 0)
    return float(layers + around)


def _value(work: Workload) -> int:
    """Bytes of what products read and write."""
    return 2 if work.recipe.training.precision == "bf16" else FULL


def _attention(work: Workload, cpu: bool, causal: bool) -> float:
    """Bytes a token between the projections and the output's: queries, keys, values, what was mixed, a number a row."""
    sizes, value = work.sizes, _value(work)
    if (
        cpu and has_wide_vectors() and not sizes.root_norm
    ):  # models with that norm turn their queries or add to their scores
        return 4 * sizes.query_width * value + FULL * sizes.heads
    inside: float = sizes.query_width * (4 * (FULL if cpu else value) + value) + FULL * sizes.heads
    if cpu and (not causal or sizes.weight_dropout):  # plain products: weights, and dropout's mask and result
        inside += sizes.heads * work.length * FULL * (3 if sizes.weight_dropout else 1)
    return inside


def _stacks(work: Workload, cpu: bool) -> list[tuple[int, Any]]:
    """How many layers there are of each kind, and the bytes of one: a function of tokens and tensor parallel's cut."""
    sizes, value = work.sizes, _value(work)
    mask = (value if cpu else 1) if sizes.dropout else 0

    def residual(tokens: float) -> float:
        """What enters the norm, and the mask of dropout."""
        return tokens * sizes.width * (FULL * (2 if sizes.root_norm else 1) + mask)

    def attention(tokens: float, cut: int, causal: bool) -> float:
        return tokens * (value * sizes.width + _attention(work, cpu, causal) / cut) + residual(tokens)

    def feed_forward(tokens: float, cut: int) -> float:
        return tokens * value * (sizes.width + sizes.inner_kept * sizes.inner / cut) + residual(tokens)

    def encoder(tokens: float, cut: int) -> float:
        return attention(tokens, cut, sizes.causal) + feed_forward(tokens, cut)

    def decoder(tokens: float, cut: int) -> float:
        return attention(tokens, cut, True) + attention(tokens, cut, False) + feed_forward(tokens, cut)

    def recurrent(tokens: float, cut: int) -> float:
        """Gates, cells, hidden states, and what entered."""
        if cpu and library() is not None:  # gates, hidden state and its place; of an LSTM the cell
            of_unit = (sizes.gates + 1) * value + (FULL if sizes.gates == 4 else 0)
            looked = tokens * (work.length * FULL + sizes.additive * value) / 3 if sizes.additive else 0
            return tokens * sizes.width * (2 * value + of_unit) + looked
        found = tokens * (value * 2 * sizes.width + sizes.cells * sizes.width * (FULL + value) / 2)
        return found + tokens * work.length * sizes.additive / 5 * value * 1.2

    if not sizes.heads:
        return [(sizes.encoder_layers + sizes.decoder_layers, recurrent)]
    return [(sizes.encoder_layers, encoder), (sizes.decoder_layers, decoder)]
