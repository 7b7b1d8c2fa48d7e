"""A model's layers as a program of few operations, which native code runs in one call (native/program.cpp).

The program is written from the model's own parts, once: what a part computes is said here in operations, and the tests
hold it to what the part's `forward` and `step` give. Buffers are arrays of rows, one row a token:

    x        the residual stream        normed   what a sublayer of a pre-norm layer reads
    heads    queries, keys, values      mixed    what attention gives
    inner    the feed-forward network   gate     its gate
"""

from __future__ import annotations

from ctypes import Array
from typing import Any

import torch
from torch import Tensor, nn

from regard.attention import MultiHeadAttention
from regard.layers.blocks import DecoderLayer, EncoderLayer, PostNorm, PreNorm
from regard.layers.feed_forward import FeedForward, GatedFeedForward
from regard.layers.positions import RelativePositions, RotaryPositions
from regard.native import OperationStruct
from regard.native.matrices import Matrix, Precision

_EMBED, _NORM, _LINEAR, _ROTATE, _REMEMBER, _ATTEND, _MULTIPLY, _TOP, _PACK = range(9)
RECALL, RECUR, ADDITIVE, MAXOUT = range(9, 13)
_OF_CACHE, _OF_MEMORY, _OF_ROWS, _OF_ROUNDED_ROWS, _OF_PACKED_MEMORY, _OF_ROUNDED_MEMORY = range(6)
_ACTIVATIONS = {"": 0, "relu": 1, "gelu": 2, "gelu_new": 3, "silu": 4, "tanh": 5}


MEMORY = "memory."
"""What the names of the buffers begin with that hold keys and values of a source, one for each layer."""


class UnsupportedPartError(Exception):
    """A part that has no operations: the model runs without a program, as it is."""


class Program:
    """Operations, the widths of the buffers they need, and everything they point at."""

    def __init__(self, precision: Precision, positions: int, packs: bool = False) -> None:
        self.precision, self.positions = precision, positions
        self.packs = packs
        """Whether the memory is laid out for products, as pays where every source is long."""
        self.widths: dict[str, int] = {}
        self.operations: list[OperationStruct] = []
        self.caches: list[int] = []
        """Of each cache how far one position is from the next: keys, values, and a little room."""
        self.rounded = 64
        """Bytes of one row of the widest product's input."""
        self._kept: list[Any] = []

    def buffer(self, name: str, width: int) -> int:
        """The number of a buffer, which is as wide as its widest user needs it."""
        self.widths[name] = max(width, self.widths.get(name, 0))
        return list(self.widths).index(name)

    def sealed(self, count: int | None = None) -> Array[OperationStruct]:
        """The first `count` operations (all by default) as native code reads them."""
        chosen = self.operations[:count]
        return (OperationStruct * len(chosen))(*chosen)

    # --- operations ---

    def embed(self, table: Tensor, factor: float, places: Tensor | None, first: int = 0) -> None:
        """x = rows of the table times a factor, and rows of `places`, of which `first` stand before position 0."""
        width = table.shape[1]
        pointers = (self.pointer(table), None if places is None else self.pointer(places))
        self.add(_EMBED, target=self.buffer("x", width), a=width, b=first, f=factor, p=pointers[0], q=pointers[1])

    def norm(self, norm: nn.Module, source: str, target: str) -> None:
        if isinstance(norm, nn.Identity):
            return
        if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
            raise UnsupportedPartError(type(norm).__name__)
        (width,), bias = norm.normalized_shape, getattr(norm, "bias", None)
        weight = None if norm.weight is None else self.pointer(norm.weight)
        epsilon = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
        self.add(
            _NORM,
            source=self.buffer(source, width),
            target=self.buffer(target, width),
            a=width,
            b=int(isinstance(norm, nn.RMSNorm)),
            f=epsilon,
            p=weight,
            q=None if bias is None else self.pointer(bias),
        )

    def linear(
        self,
        source: str,
        target: str,
        weight: Tensor,
        bias: Tensor | None,
        activation: str = "",
        adds: bool = False,
        stride: int = 0,
    ) -> None:
        """target = f(source W^T + b), or added to what stands there; its rows are as wide as W^T, or `stride`."""
        outputs, inputs = weight.shape
        self.add(
            _LINEAR,
            source=self.buffer(source, inputs),
            target=self.buffer(target, stride or outputs),
            a=_ACTIVATIONS[activation],
            b=int(adds),
            c=stride,
            p=self.matrix(weight, bias),
        )

    def top(self, weight: Tensor, bias: Tensor | None, factor: float) -> None:
        """The best tokens by the logits that a matrix makes of x."""
        source = self.buffer("x", weight.shape[1])
        self.add(_TOP, source=source, p=self.matrix(weight, bias, factor))

    def logits(self) -> OperationStruct:
        """The last operation, `top`, as one that leaves all logits."""
        last = self.operations[-1]
        target = self.buffer("logits", self._kept[-1].struct.outputs)
        return OperationStruct(_LINEAR, last.source, target, p=last.p)

    def self_attention(self, part: MultiHeadAttention, source: str, added: Tensor | None = None) -> None:
        """Queries, keys and values; attention over the cache, which holds what was read so far, also of these rows."""
        cache = len(self.caches)
        stride = _stride(2 * part.key_width)
        self.caches.append(stride)
        width = self._project(part, source)
        heads = self.buffer("heads", width)
        self.add(_REMEMBER, source=heads, a=width, b=part.query_width, c=2 * part.key_width, d=cache, e=stride)
        self._attend(part, _OF_CACHE + 8 * cache, "heads", width, stride, 0, added)

    def attention_of_rows(self, part: MultiHeadAttention, source: str, added: Tensor | None = None) -> None:
        """Every row looks at all rows of its own text: attention without a mask, as in encoders."""
        width = self._project(part, source)
        kind = _OF_ROWS if self.precision == "fp32" else _OF_ROUNDED_ROWS
        keys = kind + 8 * self.buffer("heads", width)
        self._attend(part, keys, "heads", width, width, part.query_width, added)

    def cross_attention(self, part: MultiHeadAttention, source: str, memory: str) -> None:
        """Queries of x; keys and values of the memory, which lie in a buffer of their own."""
        weight, bias = part.projection.weight, part.projection.bias
        self.linear(source, "heads", weight[: part.query_width], None if bias is None else bias[: part.query_width])
        if self.packs:
            kind, stride = _OF_PACKED_MEMORY if self.precision == "fp32" else _OF_ROUNDED_MEMORY, 0
            keys = kind + 8 * self.buffer(memory, _packed_width(part))
        else:
            stride = _stride(2 * part.key_width)
            keys = _OF_MEMORY + 8 * self.buffer(memory, stride)
        self._attend(part, keys, "heads", part.query_width, stride, 0, None)

    def memory(self, part: MultiHeadAttention, memory: str) -> None:
        """Keys and values of what is in x, into a buffer of their own."""
        whole = part.projection.bias
        bias = None if whole is None else whole[part.query_width :]
        weight, pair = part.projection.weight[part.query_width :], 2 * part.key_width
        if not self.packs:
            self.linear("x", memory, weight, bias, stride=_stride(pair))
            return
        self.linear("x", "pairs", weight, bias)
        source, target = self.buffer("pairs", pair), self.buffer(memory, _packed_width(part))
        rounds = int(self.precision != "fp32")
        self.add(_PACK, source=source, target=target, a=pair, b=part.key_heads, c=part.head_width, d=rounds)

    def feed_forward(self, part: nn.Module, source: str) -> None:
        """Added to x."""
        if isinstance(part, GatedFeedForward):
            self.linear(source, "gate", part.gate.weight, part.gate.bias, part.activation)
            self.linear(source, "inner", part.inner.weight, part.inner.bias)
            width = part.inner.out_features
            self.add(_MULTIPLY, source=self.buffer("gate", width), target=self.buffer("inner", width), a=width)
        elif isinstance(part, FeedForward):
            self.linear(source, "inner", part.inner.weight, part.inner.bias, part.activation)
        else:
            raise UnsupportedPartError(type(part).__name__)
        self.linear("inner", "x", part.output.weight, part.output.bias, adds=True)

    # --- helpers ---

    def _project(self, part: MultiHeadAttention, source: str) -> int:
        """Queries, keys and values side by side, turned where the part turns them; how wide they are."""
        self.linear(source, "heads", part.projection.weight, part.projection.bias)
        width = part.query_width + 2 * part.key_width
        if part.rotation is not None:
            if not isinstance(part.rotation, RotaryPositions):
                raise UnsupportedPartError(type(part.rotation).__name__)
            cosines, sines = part.rotation._angles(torch.arange(self.positions))
            tables = {"p": self.pointer(cosines), "q": self.pointer(sines)}
            turned = part.heads + part.key_heads
            self.add(_ROTATE, target=self.buffer("heads", width), a=width, b=turned, c=part.head_width, **tables)
        return width

    def _attend(
        self,
        part: MultiHeadAttention,
        keys: int,
        source: str,
        width: int,
        stride: int,
        offset: int,
        added: Tensor | None,
    ) -> None:
        """Attention, and its output added to x. `stride` and `offset` say where the keys of a row lie."""
        if part.heads // part.key_heads > 64:
            raise UnsupportedPartError(f"{part.heads} heads that share {part.key_heads}")
        self.add(
            _ATTEND,
            source=self.buffer(source, width),
            target=self.buffer("mixed", part.query_width),
            a=width,
            b=part.heads,
            c=part.key_heads,
            d=part.head_width,
            e=keys,
            f=part.head_width**-0.5 if part.scale is None else part.scale,
            g=0 if added is None else (added.shape[-1] + 1) // 2,
            p=None if added is None else self.pointer(added),
            q=stride,
            r=offset,
        )
        self.linear("mixed", "x", part.output.weight, part.output.bias, adds=True)

    def matrix(self, weight: Tensor, bias: Tensor | None, factor: float = 1.0) -> int:
        matrix = Matrix(weight, bias, self.precision, factor)
        self.rounded = max(self.rounded, matrix.bytes_per_row)
        self._kept.append(matrix)
        return matrix.address

    def pointer(self, tensor: Tensor) -> int:
        kept = tensor.detach().float().contiguous()
        self._kept.insert(0, kept)
        return kept.data_ptr()

    def add(self, code: int, **fields: Any) -> None:
        self.operations.append(OperationStruct(code, **fields))


def write_encoder(program: Program, layers: nn.ModuleList, positions: RelativePositions | None = None) -> None:
    """Encoder layers, from x to x."""
    added = None if positions is None else _added(positions, program.positions)
    for layer in layers:
        if not isinstance(layer, EncoderLayer):
            raise UnsupportedPartError(type(layer).__name__)
        source = _enter(program, layer.self_attention_residual)
        program.attention_of_rows(layer.self_attention, source, added)
        _leave(program, layer.self_attention_residual)
        _write_feed_forward(program, layer)


def write_decoder(program: Program, layers: nn.ModuleList, positions: RelativePositions | None = None) -> int:
    """Decoder layers, with or without cross-attention; how many operations fill the caches."""
    added, filled = None if positions is None else _added(positions, program.positions), 0
    for number, layer in enumerate(layers):
        if not isinstance(layer, EncoderLayer | DecoderLayer):
            raise UnsupportedPartError(type(layer).__name__)
        source = _enter(program, layer.self_attention_residual)
        program.self_attention(layer.self_attention, source, added)
        filled = len(program.operations) - 2  # without attention itself and its output
        _leave(program, layer.self_attention_residual)
        if isinstance(layer, DecoderLayer):
            source = _enter(program, layer.cross_attention_residual)
            program.cross_attention(layer.cross_attention, source, memory_name(number))
            _leave(program, layer.cross_attention_residual)
        _write_feed_forward(program, layer)
    return filled


def write_memories(program: Program, layers: nn.ModuleList) -> None:
    """Keys and values that the decoder's layers will look at, from the encoder's output in x."""
    for number, layer in enumerate(layers):
        assert isinstance(layer, DecoderLayer)
        program.memory(layer.cross_attention, memory_name(number))


def memory_name(layer: int) -> str:
    return f"{MEMORY}{layer}"


def _stride(width: int) -> int:
    """How far keys and values of one position lie from those of the next: a power of two would put the keys that a
    query looks at one after the other all into the same few lines of the processor's cache.
    """
    return width + 16


def _packed_width(part: MultiHeadAttention) -> int:
    """Floats that a packed memory has for a token at most: heads are filled up to whole tiles."""
    return 2 * part.key_heads * (-(-part.head_width // 32) * 32)


def _write_feed_forward(program: Program, layer: EncoderLayer | DecoderLayer) -> None:
    program.feed_forward(layer.feed_forward, _enter(program, layer.feed_forward_residual))
    _leave(program, layer.feed_forward_residual)


def _enter(program: Program, residual: PostNorm) -> str:
    """The buffer a sublayer reads."""
    if not isinstance(residual, PreNorm):
        return "x"
    program.norm(residual.norm, "x", "normed")
    return "normed"


def _leave(program: Program, residual: PostNorm) -> None:
    """The sublayer's answer has been added to x."""
    if not isinstance(residual, PreNorm):
        program.norm(residual.norm, "x", "x")


def _added(positions: RelativePositions, longest: int) -> Tensor:
    """What distances from -longest + 1 to longest - 1 add to the scores: (heads, 2 longest - 1)."""
    distances = torch.arange(-longest + 1, longest)
    found: Tensor = positions.table(positions.bucket(distances[None]))[0]
    return found.T
