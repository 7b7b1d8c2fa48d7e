"""A room: tensors of one shape that never move, and the step that reads and writes them, captured.

Everything in the step has a fixed shape, so that a CUDA graph can hold it, or `torch.compile`. Beams share what they
have in common: a table says which beam of a source wrote each position, and the mask is made of it; nothing is copied
when beams change places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.attention import MultiHeadAttention
from regard.layers.blocks import DecoderLayer
from regard.layers.positions import LearnedPositions, RotaryPositions, SinusoidalPositions, turned

Capture = Literal["none", "compile", "graph"]
"""A step as it is, compiled by `torch.compile` (on a GPU then recorded too), or recorded as a CUDA graph."""

Shape = tuple[int, int, int, int]
"""Sources, beams of a source, positions, source tokens."""


class Room:
    """Tensors that never move, for so many sources, beams, positions and source tokens; and the captured step.

    Row r is beam r % beams of source r // beams. All beams of a source are at one position.
    """

    def __init__(self, parts: Parts, shape: Shape) -> None:
        self.parts, self.shape, self.device = parts, shape, parts.model.device
        sources, beams, length, memory = shape
        layers, dtype, device = parts.decoder.layers, parts.dtype, self.device
        first: MultiHeadAttention = layers[0].self_attention
        self.positions = torch.zeros(sources, dtype=torch.long, device=device)
        self.table = torch.zeros(sources, beams, length, dtype=torch.long, device=device)
        heads, width = first.key_heads, first.head_width
        self.past = [torch.zeros(2, sources, heads, beams, length, width, dtype=dtype, device=device) for _ in layers]
        self.memories = [
            torch.zeros(2, sources, heads, memory, width, dtype=dtype, device=device) for _ in layers if memory
        ]
        self.memory_bias = torch.empty(sources, 1, 1, memory, dtype=dtype, device=device)
        everywhere = torch.arange(length, device=device)
        self.places = self.angles = self.distances = None
        if isinstance(parts.positions, LearnedPositions):
            self.places = parts.positions.table.weight[parts.positions.first :][:length]
        elif isinstance(parts.positions, SinusoidalPositions):
            self.places = parts.positions.encoding(everywhere).to(dtype)
        self.last = (length if self.places is None else len(self.places)) - 1
        if isinstance(first.rotation, RotaryPositions):
            self.angles = first.rotation._angles(everywhere)
        relative = getattr(parts.decoder, "positions", None)
        if relative is not None:  # (heads, how far back a key is)
            self.distances = relative(everywhere[-1:], everywhere)[:, 0].flip(-1)
        self._steps: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}
        self.cleared()

    def cleared(self) -> Room:
        """What an earlier search left might not be finite, and hidden is not the same as not there."""
        for tensor in (self.positions, self.table, *self.past, *self.memories):
            tensor.zero_()
        self.memory_bias.fill_(-torch.inf)[..., :1] = 0.0
        return self

    def bias(self, positions: Int[Tensor, "sources count"]) -> Float[Tensor, "sources heads queries keys"]:
        """0 where a query may look, -inf elsewhere, over the keys of all beams, whose table grows by the positions.

        What is added to the scores by distance is in it too.
        """
        sources, beams, length, _ = self.shape
        keys = torch.arange(length, device=self.device)
        allowed = (keys <= positions[:, :, None])[:, None, :, None]  # (sources, 1, count, 1, length)
        if beams > 1:
            own = torch.arange(beams, device=self.device)
            places = positions[:, None].expand(-1, beams, -1)
            self.table.scatter_(2, places, own[:, None].expand_as(places))
            allowed = allowed & (self.table[:, :, None, None] == own[:, None])
        bias = torch.zeros(allowed.shape, dtype=self.parts.dtype, device=self.device)
        bias = bias.masked_fill(~allowed, -torch.inf)[:, None]
        if self.distances is not None:
            added = self.distances[:, (positions[:, :, None] - keys).clamp_min(0)].movedim(0, 1)
            bias = bias + added[:, :, None, :, None]
        return bias.reshape(sources, bias.shape[1], -1, beams * length)

    def run(
        self, rows: Int[Tensor, "chosen"], tokens: Int[Tensor, "chosen count"]
    ) -> Float[Tensor, "rows count words"]:
        """Let tokens enter the chosen rows; the others do what they did before, and nobody looks."""
        count = tokens.shape[1]
        if count not in self._steps:
            entering = torch.zeros(self.table[..., 0].numel(), count, dtype=torch.long, device=self.device)
            step = captured(lambda: self.logits(entering), self.parts.capture, self.device)
            self._steps[count] = entering, step
        entering, step = self._steps[count]
        entering[rows] = tokens
        return step()

    def logits(self, tokens: Int[Tensor, "rows count"]) -> Float[Tensor, "rows count vocabulary"]:
        """Logits after tokens that enter every row at its position. Done twice it is as done once."""
        model, offsets = self.parts.model, torch.arange(tokens.shape[1], device=self.device)
        positions = (self.positions[:, None] + offsets).clamp(0, self.last)  # rows that nobody wants may be anywhere
        x = model.lookup(tokens.flatten())
        if self.places is not None:
            placed = self.places[positions][:, None].expand(-1, self.shape[1], -1, -1)
            x = x + placed.reshape(x.shape)
        x, bias = getattr(model, "target_embedding_norm", nn.Identity())(x), self.bias(positions)
        for number, layer in enumerate(self.parts.decoder.layers):
            entered = layer.self_attention_residual.enter(x)
            seen = _look_back(layer.self_attention, entered, self, number, positions, bias)
            x = layer.self_attention_residual.leave(x, seen)
            if isinstance(layer, DecoderLayer):
                entered = layer.cross_attention_residual.enter(x)
                seen = _look_at_source(layer.cross_attention, entered, self, number)
                x = layer.cross_attention_residual.leave(x, seen)
            x = layer.feed_forward_residual.leave(x, layer.feed_forward(layer.feed_forward_residual.enter(x)))
        found: Tensor = model.logits(self.parts.decoder.norm(x))
        return found.view(*tokens.shape, -1)


def captured(step: Callable[[], Tensor], capture: str, device: torch.device) -> Callable[[], Tensor]:
    """The step, to be called again and again; it reads and writes the same tensors each time.

    Running it several times over the same input must change nothing: that is how a graph is warmed up.
    """
    if capture == "compile":
        compiled: Any = torch.compile  # its stubs do not know all it takes
        step = compiled(step, dynamic=False, isolate_recompiles=True)
    if capture == "none" or device.type != "cuda":
        return step
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()

    def replay() -> Tensor:
        graph.replay()
        return found

    return replay


@dataclass(frozen=True)
class Parts:
    """What steps are made of: a model, its decoder as steps need it, and in what they compute."""

    model: Any
    decoder: Any
    dtype: torch.dtype
    capture: str

    @property
    def positions(self) -> Any:
        """What is added to embeddings to tell their positions, if anything is."""
        return getattr(self.model, "target_positions", getattr(self.model, "positions", None))


def _look_back(
    part: MultiHeadAttention,
    x: Float[Tensor, "tokens width"],
    room: Room,
    number: int,
    positions: Int[Tensor, "sources count"],
    bias: Float[Tensor, "sources heads queries keys"],
) -> Float[Tensor, "tokens width"]:
    """Remember the keys and values of new tokens; all beams of a source ask all that its beams have remembered."""
    shape = (*room.shape[:2], positions.shape[1], part.key_heads, -1, part.head_width)
    parts = part.projection(x).split([part.query_width, part.key_width, part.key_width], dim=-1)
    # (sources, key_heads, heads that share them, beams, count, head_width)
    queries, keys, values = (one.view(shape).permute(0, 3, 4, 1, 2, 5) for one in parts)
    if room.angles is not None:
        angles = [table[positions][:, None, None, None].to(x.dtype) for table in room.angles]
        queries, keys = turned(queries, *angles), turned(keys, *angles)
    pairs = torch.stack([keys, values])[:, :, :, 0]  # (2, sources, key_heads, beams, count, head_width)
    past = room.past[number]
    past.scatter_(4, positions[None, :, None, None, :, None].expand_as(pairs), pairs)
    asking = queries.flatten(2, 4)  # heads that share their keys are queries of one head
    groups = asking.shape[2] // bias.shape[2]
    mask = bias if groups == 1 else bias.repeat(1, 1, groups, 1)
    keys, values = past.flatten(3, 4).unbind()
    seen = F.scaled_dot_product_attention(asking, keys, values, mask, scale=part.scale)
    output: Tensor = part.output(seen.view(queries.shape).permute(0, 3, 4, 1, 2, 5).reshape(len(x), part.query_width))
    return output


def _look_at_source(
    part: MultiHeadAttention, x: Float[Tensor, "tokens width"], room: Room, number: int
) -> Float[Tensor, "tokens width"]:
    """Keys and values of the source stand once for all its beams."""
    queries = part.projection(x).view(room.shape[0], -1, part.heads, part.head_width).transpose(1, 2)
    keys, values = room.memories[number].unbind()
    seen = F.scaled_dot_product_attention(queries, keys, values, room.memory_bias, scale=part.scale)
    output: Tensor = part.output(seen.transpose(1, 2).reshape(len(x), part.query_width))
    return output
