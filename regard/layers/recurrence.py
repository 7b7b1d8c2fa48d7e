"""Recurrence: the LSTM and the GRU over ragged batches, and the dropouts made for them.

LSTM: Hochreiter & Schmidhuber 1997, with forget gates (Gers et al. 2000) as everywhere today. GRU: Cho et al. 2014.
Each has `forward`, fast over a whole batch; `step`, one token a row, for decoding; and `steps`, every gate by name.

A ragged batch needs no padding here: its tokens are put in order of time, all first tokens, then all second ones, so
that row after row drops out as it ends. PyTorch's fused kernels (oneDNN and cuDNN where all lengths are equal) do the
rest. To read backward is to have the tokens in the opposite order of time; positions stay where they were.

Dropouts: Merity et al. 2018, "Regularizing and Optimizing LSTM Language Models", section 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from regard.layers.dropout import Dropout
from regard.layers.lstm_loop import learned_lstm, learns_fast
from regard.layers.time_order import TimeOrder
from regard.native.products import linear, product
from regard.sequences import Sequences


class LSTMState(NamedTuple):
    """What an LSTM remembers of each row."""

    hidden: Float[Tensor, "rows width"]
    cell: Float[Tensor, "rows width"]

    def select(self, rows: Int[Tensor, "chosen"]) -> LSTMState:
        return LSTMState(self.hidden[rows], self.cell[rows])

    def detach(self) -> LSTMState:
        return LSTMState(self.hidden.detach(), self.cell.detach())


class LSTM(nn.Module):
    """c_t = f * c_{t-1} + i * g and h_t = o * tanh(c_t); the gates i, f, o and the candidate g see x_t and h_{t-1}.

    Rows of the weights in PyTorch's order: input gate, forget gate, candidate, output gate. `weight_dropout` drops
    hidden-to-hidden weights, the same for the whole batch and all its time steps (Merity et al. 2018, section 4.1).
    """

    def __init__(self, input_width: int, width: int, reverse: bool = False, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.reverse = width, reverse
        self.input_weight = nn.Parameter(torch.empty(4 * width, input_width))
        self.hidden_weight = nn.Parameter(torch.empty(4 * width, width))
        self.input_bias = nn.Parameter(torch.empty(4 * width))
        self.hidden_bias = nn.Parameter(torch.empty(4 * width))
        self.weight_dropout = Dropout(weight_dropout)
        _initialise(self)

    def forward(self, x: Sequences, state: LSTMState | None = None) -> tuple[Sequences, LSTMState]:
        """Hidden state after each token, and the state after the last token read of each row."""
        state = state or self.start(len(x), x.values)
        weights = [self.input_weight, self.weight_dropout(self.hidden_weight), self.input_bias, self.hidden_bias]
        if torch.is_grad_enabled() and learns_fast(x):
            output, hidden, cell = learned_lstm(x, state, weights, self.reverse)
            return output, LSTMState(hidden, cell)
        output, (hidden, cell) = _fused(torch.lstm, x, state, weights, self)
        return output, LSTMState(hidden, cell)

    def step(
        self, x: Float[Tensor, "rows input_width"], state: LSTMState
    ) -> tuple[Float[Tensor, "rows width"], LSTMState]:
        """One more token in each row."""
        weights = self.input_weight, self.hidden_weight, self.input_bias, self.hidden_bias
        hidden, cell = torch.lstm_cell(x, state, *weights)
        return hidden, LSTMState(hidden, cell)

    def steps(
        self, x: Float[Tensor, "tokens input_width"], queries: slice, state: LSTMState | None = None
    ) -> dict[str, Tensor]:
        """For the chosen positions of one sequence, (queries, width) each: `input_gate`, `forget_gate`, `candidate`,
        `output_gate`, `cell`, `hidden`; `output` is the hidden state again. `state` has one row.
        """
        hidden, cell = state or self.start(1, x)
        inputs, found = linear(x, self.input_weight, self.input_bias), {}
        for position in _reading_order(len(x), queries, self.reverse):
            gates = inputs[position] + linear(hidden, self.hidden_weight, self.hidden_bias)
            entering, forgetting, candidate, leaving = gates.chunk(4, dim=-1)
            i, f, g, o = entering.sigmoid(), forgetting.sigmoid(), candidate.tanh(), leaving.sigmoid()
            cell = f * cell + i * g
            hidden = o * cell.tanh()
            found[position] = (i, f, g, o, cell, hidden, hidden)
        names = ("input_gate", "forget_gate", "candidate", "output_gate", "cell", "hidden", "output")
        return _chosen(names, found, range(len(x))[queries], x.new_zeros(0, self.width))

    def start(self, rows: int, like: Tensor) -> LSTMState:
        """The state before anything is read: zeros."""
        zeros = like.new_zeros(rows, self.width)
        return LSTMState(zeros, zeros)


class GRU(nn.Module):
    """h_t is a mean of h_{t-1} and a candidate, weighted by the update gate z_t; the reset gate r_t hides the past.

    PyTorch's form (`reset_before` False) applies r_t after the recurrent product and lets z_t keep the past:
    candidate = tanh(W x + b + r_t * (U h_{t-1} + b')), h_t = (1 - z_t) * candidate + z_t * h_{t-1}.
    Bahdanau et al. 2015, appendix A.1.1 (`reset_before` True), apply it before, and let z_t take the candidate:
    candidate = tanh(W x + b + U (r_t * h_{t-1})), h_t = (1 - z_t) * h_{t-1} + z_t * candidate. There is one bias then.
    Rows of the weights in PyTorch's order: reset gate, update gate, candidate.
    """

    def __init__(self, input_width: int, width: int, reverse: bool = False, reset_before: bool = False) -> None:
        super().__init__()
        self.width, self.reverse, self.reset_before = width, reverse, reset_before
        self.input_weight = nn.Parameter(torch.empty(3 * width, input_width))
        self.hidden_weight = nn.Parameter(torch.empty(3 * width, width))
        self.input_bias = nn.Parameter(torch.empty(3 * width))
        self.hidden_bias = None if reset_before else nn.Parameter(torch.empty(3 * width))
        _initialise(self)

    def forward(
        self, x: Sequences, state: Float[Tensor, "rows width"] | None = None
    ) -> tuple[Sequences, Float[Tensor, "rows width"]]:
        """Hidden state after each token, and after the last token read of each row."""
        state = self.start(len(x), x.values) if state is None else state
        if self.hidden_bias is None:
            return _reset_before_gru(self, x, state)
        weights = [self.input_weight, self.hidden_weight, self.input_bias, self.hidden_bias]
        output, (hidden,) = _fused(torch.gru, x, (state,), weights, self)
        return output, hidden

    def step(
        self, x: Float[Tensor, "rows input_width"], state: Float[Tensor, "rows width"]
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"]]:
        """One more token in each row."""
        found = self.gates(linear(x, self.input_weight, self.input_bias), state)
        return found["hidden"], found["hidden"]

    def gates(
        self, inputs: Float[Tensor, "rows gates"], hidden: Float[Tensor, "rows width"]
    ) -> dict[str, Float[Tensor, "rows width"]]:
        """One step by name, from the input's share of the gates: reset_gate, update_gate, candidate, hidden."""
        width = self.width
        if self.hidden_bias is None:
            past = linear(hidden, self.hidden_weight[: 2 * width])
            r, z = (inputs[:, : 2 * width] + past).sigmoid().chunk(2, dim=-1)
            candidate = (inputs[:, 2 * width :] + linear(r * hidden, self.hidden_weight[2 * width :])).tanh()
            new = hidden + z * (candidate - hidden)
        else:
            past = linear(hidden, self.hidden_weight, self.hidden_bias)
            r, z = (inputs + past)[:, : 2 * width].sigmoid().chunk(2, dim=-1)
            candidate = (inputs[:, 2 * width :] + r * past[:, 2 * width :]).tanh()
            new = candidate + z * (hidden - candidate)
        return {"reset_gate": r, "update_gate": z, "candidate": candidate, "hidden": new}

    def steps(
        self, x: Float[Tensor, "tokens input_width"], queries: slice, state: Float[Tensor, "1 width"] | None = None
    ) -> dict[str, Tensor]:
        """For the chosen positions of one sequence, (queries, width) each: `reset_gate`, `update_gate`, `candidate`,
        `hidden`; `output` is the hidden state again.
        """
        hidden = self.start(1, x) if state is None else state
        inputs, found = linear(x, self.input_weight, self.input_bias), {}
        for position in _reading_order(len(x), queries, self.reverse):
            gates = self.gates(inputs[position : position + 1], hidden)
            hidden = gates["hidden"]
            found[position] = (*gates.values(), hidden)
        names = ("reset_gate", "update_gate", "candidate", "hidden", "output")
        return _chosen(names, found, range(len(x))[queries], x.new_zeros(0, self.width))

    def start(self, rows: int, like: Tensor) -> Float[Tensor, "rows width"]:
        """The state before anything is read: zeros."""
        return like.new_zeros(rows, self.width)


class Bidirectional(nn.Module):
    """Two recurrent layers over the same tokens, one from each end; their hidden states side by side."""

    def __init__(self, ahead: LSTM | GRU, back: LSTM | GRU) -> None:
        super().__init__()
        if ahead.reverse or not back.reverse:
            raise ValueError("the first layer reads forward, the second in reverse")
        self.ahead, self.back = ahead, back

    def forward(self, x: Sequences) -> Sequences:
        return x.with_values(torch.cat([self.ahead(x)[0].values, self.back(x)[0].values], dim=-1))

    def steps(self, x: Float[Tensor, "tokens input_width"], queries: slice) -> dict[str, Tensor]:
        """The gates of both, as `ahead.` and `back.`; `output` (queries, both widths)."""
        found = {f"ahead.{name}": value for name, value in self.ahead.steps(x, queries).items()}
        found |= {f"back.{name}": value for name, value in self.back.steps(x, queries).items()}
        return found | {"output": torch.cat([found["ahead.output"], found["back.output"]], dim=-1)}


# --- dropouts ---------------------------------------------------------------------------------------------------------


class LockedDropout(nn.Module):
    """Variational dropout: one mask a row, the same at all its time steps (Gal & Ghahramani 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = Dropout(p)

    def forward(self, x: Sequences) -> Sequences:
        if not self.training or self.dropout.p == 0:
            return x
        mask = self.dropout(x.values.new_ones(len(x), x.values.shape[-1]))
        return x.with_values(x.values * mask[x.layout.rows])


class EmbeddingDropout(nn.Module):
    """Drops whole words of the vocabulary, wherever they stand in the batch (Merity et al. 2018, section 4.3)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = Dropout(p)

    def forward(self, embedding: nn.Embedding, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens width"]:
        """The embeddings of the tokens: what dropping rows of the matrix before the look-up gives."""
        found: Tensor = embedding(tokens)
        if not self.training or self.dropout.p == 0:
            return found
        kept = self.dropout(embedding.weight.new_ones(embedding.num_embeddings))
        dropped: Tensor = found * kept[tokens][:, None]
        return dropped


# --- the kernels ------------------------------------------------------------------------------------------------------


def _fused(
    kernel: Callable[..., Any], x: Sequences, state: tuple[Tensor, ...], weights: Sequence[Tensor], layer: LSTM | GRU
) -> tuple[Sequences, tuple[Tensor, ...]]:
    """PyTorch's kernel over a ragged batch: dense where all lengths are equal, in order of time elsewhere."""
    if not x.layout.tokens:
        return x.with_values(x.values.new_zeros(0, layer.width)), state
    learning = torch.is_grad_enabled()  # not layer.training: cuDNN refuses gradients to what only answers
    if x.layout.even:
        rows = x.layout.pad(x.values)
        read = rows.flip(1) if layer.reverse else rows
        with _without_compaction_warning(read):
            output, *last = kernel(read, _states(state), weights, True, 1, 0.0, learning, False, True)
        output = output.flip(1) if layer.reverse else output
        return x.with_values(x.layout.unpad(output)), tuple(part[0] for part in last)
    time = TimeOrder.of(x.layout, layer.reverse)
    sizes = torch.tensor(time.sizes)
    state = tuple(part[time.rows] for part in state)
    begun = tuple(part[: time.sizes[0]] for part in state)  # a row without tokens keeps its state
    with _without_compaction_warning(x.values):
        arranged = time.arrange(x.values)
        output, *last = kernel(arranged, sizes, _states(begun), weights, True, 1, 0.0, learning, False)
    ended = [torch.cat([part[0], rest[time.sizes[0] :]]) for part, rest in zip(last, state, strict=True)]
    return x.with_values(time.restore(output)), tuple(part[time.ranks] for part in ended)


def _states(state: tuple[Tensor, ...]) -> Any:
    """As the kernels want them: (1, rows, width), alone for a GRU."""
    states = tuple(part[None].contiguous() for part in state)
    return states if len(states) > 1 else states[0]


@contextmanager
def _without_compaction_warning(x: Tensor) -> Iterator[None]:
    """cuDNN copies the four weights of a layer into one block at each call, which costs little, and warns of it."""
    if x.device.type == "cpu":
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        yield


# --- the GRU that resets before the product ---------------------------------------------------------------------------


def _reset_before_gru(layer: GRU, x: Sequences, state: Tensor) -> tuple[Sequences, Tensor]:
    """No kernel of PyTorch has this form: a lean loop over time, the input's products done at once before it."""
    if not x.layout.tokens:
        return x.with_values(x.values.new_zeros(0, layer.width)), state
    time = TimeOrder.of(x.layout, layer.reverse)
    inputs = time.arrange(linear(x.values, layer.input_weight, layer.input_bias))
    begun = state[time.rows][: time.sizes[0]]
    hiddens: Tensor = _ResetBefore.apply(inputs, layer.hidden_weight, begun, time.sizes)  # type: ignore[no-untyped-call]
    output = x.with_values(time.restore(hiddens))
    last = (x.layout.offsets[:-1] if layer.reverse else x.layout.offsets[1:] - 1).clamp(0, x.layout.tokens - 1)
    ended = torch.where(x.layout.length_tensor[:, None] > 0, output.values[last], state.to(hiddens.dtype))
    return output, ended


class _ResetBefore(torch.autograd.Function):
    """The loop and its derivative by hand: the weights' gradient is one product over all tokens at the end."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, start: Tensor, sizes: tuple[int, ...]) -> Tensor:
        width = weight.shape[1]
        with torch.autocast(inputs.device.type, enabled=False):
            weight, hidden = weight.to(inputs.dtype), start.to(inputs.dtype)
            gates = torch.empty_like(inputs)  # reset gate, update gate, candidate
            pasts = inputs.new_empty(len(inputs), width)  # h_{t-1} of each token
            hiddens = torch.empty_like(pasts)
            parts = (inputs.split(sizes), gates.split(sizes), pasts.split(sizes), hiddens.split(sizes))
            for entering, gate, past, new in zip(*parts, strict=True):
                past.copy_(hidden[: len(past)])
                hidden = reset_before(entering, gate, past, weight, new)
        ctx.save_for_backward(gates, pasts, weight)
        ctx.sizes, ctx.start = sizes, len(start)
        return hiddens

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gates, pasts, weight = ctx.saved_tensors
        width = weight.shape[1]
        with torch.autocast(gates.device.type, enabled=False):
            d_gates = torch.empty_like(gates)
            d_hidden = gates.new_zeros(ctx.start, width)
            parts = [part.split(ctx.sizes) for part in (gradients[0].to(gates.dtype), gates, pasts, d_gates)]
            for d_output, gate, past, d_gate in reversed(list(zip(*parts, strict=True))):
                d = d_hidden[: len(past)].add_(d_output)
                reset_before_back(d, gate, past, weight, d_gate)
                d.addmm_(d_gate[:, : 2 * width], weight[: 2 * width])
            d_weight = reset_before_weights(d_gates, gates, pasts)
        return d_gates, d_weight, d_hidden, None


def reset_before(
    entering: Float[Tensor, "rows gates"],
    gate: Float[Tensor, "rows gates"],
    past: Float[Tensor, "rows width"],
    weight: Float[Tensor, "gates width"],
    out: Float[Tensor, "rows width"] | None = None,
) -> Float[Tensor, "rows width"]:
    """One step of that GRU: its gates into `gate`, which may be `entering`; the new hidden state."""
    width = past.shape[1]
    torch.addmm(entering[:, : 2 * width], past, weight[: 2 * width].t(), out=gate[:, : 2 * width]).sigmoid_()
    r, z, candidate = gate.split(width, dim=1)
    torch.addmm(entering[:, 2 * width :], r * past, weight[2 * width :].t(), out=candidate).tanh_()
    return torch.lerp(past, candidate, z, out=out)


def reset_before_back(
    d: Float[Tensor, "rows width"],
    gate: Float[Tensor, "rows gates"],
    past: Float[Tensor, "rows width"],
    weight: Float[Tensor, "gates width"],
    d_gate: Float[Tensor, "rows gates"],
) -> None:
    """The derivative of a step, into `d_gate`; `d`, of the new hidden state, becomes that of the past one but for what
    came by the reset and update gates.
    """
    width = past.shape[1]
    r, z, candidate = gate.split(width, dim=1)
    d_reset, d_update, d_candidate = d_gate.split(width, dim=1)
    torch.mul(d * z, 1 - candidate * candidate, out=d_candidate)
    torch.mul(d * (candidate - past), z - z * z, out=d_update)
    d_product = d_candidate @ weight[2 * width :]  # of r * h_{t-1}
    torch.mul(d_product * past, r - r * r, out=d_reset)
    d.mul_(1 - z).addcmul_(d_product, r)


def reset_before_weights(
    d_gates: Float[Tensor, "tokens gates"], gates: Float[Tensor, "tokens gates"], pasts: Float[Tensor, "tokens width"]
) -> Float[Tensor, "gates width"]:
    """The derivative of the hidden weight, over all tokens at once."""
    width = pasts.shape[1]
    final = product(d_gates[:, 2 * width :].t(), gates[:, :width] * pasts)
    return torch.cat([product(d_gates[:, : 2 * width].t(), pasts), final])


# --- small helpers ----------------------------------------------------------------------------------------------------


def _initialise(layer: LSTM | GRU) -> None:
    """PyTorch's default: uniform within 1 / sqrt(width). A model that wants another draws its own."""
    bound = layer.width**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)


def _reading_order(length: int, queries: slice, reverse: bool) -> range:
    """The positions that must be read to know the chosen ones, in the order of reading."""
    chosen = range(length)[queries]
    if not chosen:
        return range(0)
    return range(length - 1, min(chosen) - 1, -1) if reverse else range(max(chosen) + 1)


def _chosen(
    names: tuple[str, ...], found: Mapping[int, tuple[Tensor, ...]], queries: range, nothing: Tensor
) -> dict[str, Tensor]:
    """By name, the values of the chosen positions one below the other."""
    return {
        name: torch.cat([nothing, *(found[position][number] for position in queries)])
        for number, name in enumerate(names)
    }
