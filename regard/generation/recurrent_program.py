"""Recurrent systems as programs (see program.py): the layers of an LSTM or GRU, and Bahdanau's decoder.

Tokens are rows in order of time (`TimeOrder`); where an answer is written step by step each row is one token. Buffers:

    x        embeddings, then the hidden states of each layer    gates    what a layer's gates are made of
    past     a decoder's state before the word                   context  what its attention gives
    inner    what goes into the maxout layer                     reset    of a GRU, the state that is not forgotten
"""

from __future__ import annotations

from torch import nn

from regard.generation.program import ADDITIVE, MAXOUT, MEMORY, RECALL, RECUR, Program, UnsupportedPartError
from regard.layers.recurrence import GRU, LSTM
from regard.models.rnnsearch import AttentiveLayer

_LSTM, _GRU_RESET_BEFORE = range(2)
KEYS, VALUES = f"{MEMORY}keys", f"{MEMORY}values"
"""What Bahdanau's attention looks at: (tokens, width of its network) and (tokens, both readers' widths)."""


def write_lstm(program: Program, layers: nn.ModuleList) -> None:
    """LSTM layers one above the other, from x to x."""
    widths = [_lstm(layer).width for layer in layers]
    size, begin = 2 * sum(widths), 0
    _recall(program, size)
    for layer, width in zip(layers, widths, strict=True):
        part = _lstm(layer)
        program.linear("x", "gates", part.input_weight, part.input_bias + part.hidden_bias)
        program.add(
            RECUR,
            source=program.buffer("gates", 4 * width),
            target=program.buffer("x", width),
            a=4 * width,
            b=width,
            c=size,
            d=begin,
            e=_LSTM,
            p=program.matrix(part.hidden_weight, None),
        )
        begin += 2 * width


def write_gru(program: Program, layer: GRU) -> None:
    """A GRU that reads x; its hidden states are left there."""
    _recall(program, layer.width)
    program.linear("x", "gates", layer.input_weight, layer.input_bias)
    _write_gru_cell(program, layer, "x")


def write_attentive_layer(program: Program, layer: AttentiveLayer) -> None:
    """Bahdanau's decoder: a word in x and the state before it; what the next word is chosen from is left in x."""
    gru, width = layer.gru, layer.gru.width
    embedding = gru.input_weight.shape[1] - 2 * width
    _recall(program, width, "past")
    program.linear("past", "query", layer.attention.query.weight, None)
    attention = len(layer.attention.vector)
    program.add(
        ADDITIVE,
        source=program.buffer("query", attention),
        target=program.buffer("context", 2 * width),
        a=attention,
        b=2 * width,
        c=program.buffer(KEYS, attention),
        d=program.buffer(VALUES, 2 * width),
        p=program.pointer(layer.attention.vector),
    )
    # Each part by itself: side by side they would be rounded to int8 by the largest of all.
    of_past, of_context, of_word = layer.readout.inner.weight.split([width, 2 * width, embedding], dim=1)
    program.linear("past", "inner", of_past, layer.readout.inner.bias)
    program.linear("context", "inner", of_context, None, adds=True)
    program.linear("x", "inner", of_word, None, adds=True)
    of_word, of_context = gru.input_weight.split([embedding, 2 * width], dim=1)
    program.linear("x", "gates", of_word, gru.input_bias)
    program.linear("context", "gates", of_context, None, adds=True)
    _write_gru_cell(program, gru, "hidden")
    chosen = layer.readout.width
    program.add(MAXOUT, source=program.buffer("inner", 2 * chosen), target=program.buffer("x", chosen), a=chosen)


def _write_gru_cell(program: Program, layer: GRU, target: str) -> None:
    if layer.hidden_bias is not None:
        raise UnsupportedPartError("a GRU that resets after the product")
    width = layer.width
    program.add(
        RECUR,
        source=program.buffer("gates", 3 * width),
        target=program.buffer(target, width),
        a=3 * width,
        b=width,
        c=width,
        e=_GRU_RESET_BEFORE,
        p=program.matrix(layer.hidden_weight[: 2 * width], None),
        q=program.matrix(layer.hidden_weight[2 * width :], None),
        r=program.buffer("reset", width),
    )


def _recall(program: Program, size: int, target: str = "") -> None:
    """Take up the states; the first of a state's parts, all of a GRU's, also into a buffer."""
    program.caches = [size, size]
    program.add(RECALL, target=program.buffer(target, size) if target else 0, a=size if target else 0, c=size)


def _lstm(layer: nn.Module) -> LSTM:
    """A ModuleList forgets what it holds; this tells the type checker."""
    if not isinstance(layer, LSTM):
        raise UnsupportedPartError(type(layer).__name__)
    return layer


def gru_of(layer: nn.Module) -> GRU:
    """The same for what is a GRU or an LSTM."""
    if not isinstance(layer, GRU):
        raise UnsupportedPartError(type(layer).__name__)
    return layer
