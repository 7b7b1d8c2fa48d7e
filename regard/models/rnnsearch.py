"""RNNsearch: Bahdanau, Cho & Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and Translate".

The first attention. A bidirectional GRU reads the source; for every target word the decoder looks at all its states and
takes their mean, weighted by how well each fits what the decoder is about to say. What is notable in it: the score of a
fit is a small network, v^T tanh(W s + U h) (A.1.2); the word is chosen from the state *before* it, through a maxout
layer (A.2.2); the first state is made from what the backward reader saw last (A.2.2).

The equations are those of appendix A. Its GRU applies the reset gate before the recurrent product, and its update gate
takes the candidate: s_i = (1 - z_i) * s_{i-1} + z_i * candidate (`GRU(reset_before=True)`); biases, which the appendix
leaves out "to increase readability", stand where the input enters. The decoder's GRU has [embedding; context] as input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from regard.attention import Mask, make_mask
from regard.errors import RegardError
from regard.layers.additive_attention import AdditiveAttention
from regard.layers.attentive_loop import Weights, attentive_loop, loops_fast
from regard.layers.dropout import Dropout
from regard.layers.recurrence import GRU, Bidirectional
from regard.layers.time_order import TimeOrder
from regard.models.base import Config, Model
from regard.native.products import Linear, linear
from regard.sequences import Layout, Sequences


class RNNSearchConfig(Config):
    """Sizes of the model; the defaults are the paper's (A.2.3)."""

    model_type: Literal["rnnsearch"] = "rnnsearch"
    vocab_size: int = Field(30_000, gt=0)
    """Words of the source."""
    target_vocab_size: int | None = Field(None, gt=0)
    """Words of the target; None where source and target share one vocabulary and its embeddings."""
    embedding_size: int = Field(620, gt=0)
    """m: width of the word embeddings."""
    hidden_size: int = Field(1000, gt=0)
    """n: width of each reader of the source and of the decoder."""
    attention_size: int = Field(1000, gt=0)
    """n': width of the network that scores a fit."""
    maxout_size: int = Field(500, gt=0)
    """l: width of what the target word is chosen from; twice as much goes into the maxout."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """On the embeddings, the memory and the maxout layer; the paper has none."""
    max_position_embeddings: int = Field(1024, gt=0)
    """Longest text accepted, in tokens. The recurrence needs no limit; memory and training lengths do."""
    pad_token_id: int = Field(0, ge=0)
    bos_token_id: int = Field(1, ge=0)
    """Begins the decoder's input."""
    eos_token_id: int = Field(2, ge=0)
    """Ends every source and every target."""


PRESETS = {"rnnsearch-50": RNNSearchConfig(target_vocab_size=30_000)}


class RNNSearch(Model):
    """Source tokens in, scores of every next target token out."""

    config_class = RNNSearchConfig

    def __init__(self, config: RNNSearchConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.target_embedding = (
            None if config.target_vocab_size is None else nn.Embedding(config.target_vocab_size, config.embedding_size)
        )
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.output = Linear(config.maxout_size, config.target_vocab_size or config.vocab_size)
        self._initialise()

    def forward(self, source: Sequences, target: Sequences) -> Float[Tensor, "tokens vocabulary"]:
        """Logits of the token after each target token. `target` begins with bos_token_id (teacher forcing)."""
        return self.logits(self.decode(target, self.encode(source)).values)

    def encode(self, source: Sequences) -> Sequences:
        """Token ids to the memory: what both readers know at each word, (source tokens, 2 hidden)."""
        if min(source.lengths, default=0) < 1:
            raise RegardError("a source needs at least one token")
        memory: Sequences = self.encoder(source.with_values(self.dropout(self.lookup(source.values))))
        return memory.with_values(self.dropout(memory.values))

    def decode(self, target: Sequences, memory: Sequences) -> Sequences:
        """Target ids and the memory to t_i, from which the words are chosen: (target tokens, maxout)."""
        hidden: Sequences = self.decoder(target.with_values(self.dropout(self.lookup_target(target.values))), memory)
        return hidden.with_values(self.dropout(hidden.values))

    def lookup(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens embedding"]:
        """Embeddings of source tokens."""
        found: Tensor = self.embedding(tokens)
        return found

    def lookup_target(self, tokens: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens embedding"]:
        """Embeddings of target tokens."""
        found: Tensor = (self.target_embedding or self.embedding)(tokens)
        return found

    def logits(self, hidden: Float[Tensor, "tokens maxout"]) -> Float[Tensor, "tokens vocabulary"]:
        """W_o t_i: scores of every word of the target vocabulary."""
        scores: Tensor = self.output(hidden)
        return scores

    # What generation knows of a model: start and step here, select on the state.

    def start(self, source: Sequences) -> RNNSearchState:
        """Encode the source, compute the keys of the memory once and s_0."""
        return self.decoder.layer.start(self.encode(source))

    def step(
        self, tokens: Int[Tensor, "rows"], state: RNNSearchState
    ) -> tuple[Float[Tensor, "rows vocabulary"], RNNSearchState]:
        """Logits after one more token in each row."""
        hidden, following = self.decoder.layer.step(self.lookup_target(tokens), state)
        return self.logits(hidden), following

    def _initialise(self) -> None:
        """B.1: recurrent matrices orthogonal, W_a and U_a with deviation 0.001, v_a and biases zero, others 0.01."""
        for name, parameter in self.named_parameters():
            if name.endswith("hidden_weight"):
                for part in parameter.chunk(3):  # reset gate, update gate, candidate
                    nn.init.orthogonal_(part)
            elif name.endswith(("attention.query.weight", "attention.key.weight")):
                nn.init.normal_(parameter, std=0.001)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)


class Encoder(nn.Module):
    """One layer that reads in both directions (A.2.1)."""

    def __init__(self, config: RNNSearchConfig) -> None:
        super().__init__()
        sizes = config.embedding_size, config.hidden_size
        ahead, back = GRU(*sizes, reset_before=True), GRU(*sizes, reverse=True, reset_before=True)
        self.layers = nn.ModuleList([Bidirectional(ahead, back)])

    def forward(self, x: Sequences) -> Sequences:
        memory: Sequences = self.layers[0](x)
        return memory


class Decoder(nn.Module):
    """One layer that looks, chooses and goes on (A.2.2)."""

    def __init__(self, config: RNNSearchConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([AttentiveLayer(config)])

    @property
    def layer(self) -> AttentiveLayer:
        assert isinstance(self.layers[0], AttentiveLayer)
        return self.layers[0]

    def forward(self, x: Sequences, memory: Sequences) -> Sequences:
        hidden: Sequences = self.layers[0](x, memory)
        return hidden


class AttentiveLayer(nn.Module):
    """Target words and the memory to t_i: attention, the GRU and the maxout layer, one word after the other."""

    def __init__(self, config: RNNSearchConfig) -> None:
        super().__init__()
        embedding, width = config.embedding_size, config.hidden_size
        self.initial = Linear(width, width)
        self.attention = AdditiveAttention(width, 2 * width, config.attention_size)
        self.gru = GRU(embedding + 2 * width, width, reset_before=True)
        self.readout = Maxout(width + embedding + 2 * width, config.maxout_size)

    def forward(self, x: Sequences, memory: Sequences) -> Sequences:
        """All target words, which are known (teacher forcing); rows leave the loop as they end."""
        if not x.layout.tokens:
            return x.with_values(x.values.new_zeros(0, self.readout.width))
        time = TimeOrder.of(x.layout)
        arranged = time.arrange(x.values)
        embedding_weight, context_weight = self._input_weights()
        inputs = linear(arranged, embedding_weight, self.gru.input_bias)
        if loops_fast(inputs):
            attention = self.attention
            weights = Weights(attention.query.weight, attention.vector, context_weight, self.gru.hidden_weight)
            keys, first = attention.key(memory.values), self._first(memory.values[memory.layout.offsets[:-1]])
            seen = attentive_loop(inputs, keys, memory.values, first, weights, time, memory.layout)
        else:
            seen = self._loop(inputs, context_weight, self.start(memory).select(time.rows), time)
        output = self.readout(torch.cat([*seen, arranged], dim=-1))
        return x.with_values(time.restore(output))

    def _loop(
        self,
        inputs: Float[Tensor, "tokens gates"],
        context_weight: Float[Tensor, "gates two_widths"],
        state: RNNSearchState,
        time: TimeOrder,
    ) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens two_widths"]]:
        """The hidden state before each word and what was seen from it, step by step."""
        befores, contexts = [], []
        for entering in inputs.split(time.sizes):
            if len(entering) < len(state.hidden):
                state = state.first(len(entering))
            context = self.attention.step(state.hidden, state.keys, state.values, state.mask)
            befores.append(state.hidden)
            contexts.append(context)
            gates = self.gru.gates(entering + linear(context, context_weight), state.hidden)
            state = state.after(gates["hidden"])
        return torch.cat(befores), torch.cat(contexts)

    def start(self, memory: Sequences) -> RNNSearchState:
        """s_0 = tanh(W_s h_1), h_1 from the backward reader; and what all steps look at."""
        keys, values = self.attention.keys_of(memory)
        mask = make_mask(Layout((1,) * len(memory), memory.layout.device), memory.layout)
        sources = torch.arange(len(memory), device=memory.layout.device)
        return RNNSearchState(self._first(values[:, 0]), keys, values, mask, sources)

    def step(
        self, x: Float[Tensor, "rows embedding"], state: RNNSearchState
    ) -> tuple[Float[Tensor, "rows maxout"], RNNSearchState]:
        """One more word in each row."""
        context = self.attention.step(state.hidden, state.keys, state.values, state.mask)
        output: Tensor = self.readout(torch.cat([state.hidden, context, x], dim=-1))
        hidden, _ = self.gru.step(torch.cat([x, context], dim=-1), state.hidden)
        return output, state.after(hidden)

    def steps(
        self,
        x: Float[Tensor, "tokens embedding"],
        queries: slice,
        memory: Float[Tensor, "source_tokens two_hidden"],
    ) -> dict[str, Tensor]:
        """Every intermediate value for the chosen target positions of one sequence, by name.

        `previous`, s_{i-1} (queries, hidden); `attention.weights` (queries, source tokens) and the others of the
        attention; `gru.reset_gate` and so on up to `gru.hidden`, s_i; `readout.inner`, `output`, t_i (queries, maxout).
        """
        states = [self.initial(memory[0, memory.shape[-1] // 2 :]).tanh()[None]]  # s_0, s_1, ...
        gates: list[dict[str, Tensor]] = []
        for token in x[: max(range(len(x))[queries], default=-1) + 1]:
            context = self.attention.steps(states[-1], memory)["output"]
            inputs = linear(torch.cat([token[None], context], dim=-1), self.gru.input_weight, self.gru.input_bias)
            gates.append(self.gru.gates(inputs, states[-1]))
            states.append(gates[-1]["hidden"])
        chosen = range(len(x))[queries]
        previous = torch.cat([states[0][:0], *(states[position] for position in chosen)])
        attention = self.attention.steps(previous, memory)
        found = {"previous": previous} | {f"attention.{name}": value for name, value in attention.items()}
        for name in ("reset_gate", "update_gate", "candidate", "hidden"):
            found[f"gru.{name}"] = torch.cat([states[0][:0], *(gates[position][name] for position in chosen)])
        readout = self.readout.steps(torch.cat([previous, attention["output"], x[queries]], dim=-1))
        found |= {f"readout.{name}": value for name, value in readout.items()}
        return found | {"output": readout["output"]}

    def _first(self, values: Float[Tensor, "rows two_widths"]) -> Float[Tensor, "rows width"]:
        """s_0, from what the memory has of the first word of each source."""
        first: Tensor = self.initial(values[:, values.shape[-1] // 2 :])
        return first.tanh()

    def _input_weights(self) -> tuple[Tensor, Tensor]:
        """The parts of the GRU's input matrix that see the embedding (W) and the context (C)."""
        width = self.gru.width
        embedding, context = self.gru.input_weight.split([self.gru.input_weight.shape[1] - 2 * width, 2 * width], 1)
        return embedding, context


class Maxout(nn.Module):
    """The larger one of each pair of 2 l linear maps (Goodfellow et al. 2013)."""

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.inner = Linear(input_width, 2 * width)

    def forward(self, x: Float[Tensor, "tokens input_width"]) -> Float[Tensor, "tokens width"]:
        pairs: Tensor = self.inner(x).unflatten(-1, (self.width, 2))
        return pairs.amax(dim=-1)

    def steps(self, x: Float[Tensor, "tokens input_width"]) -> dict[str, Tensor]:
        """`inner`, neighbours are a pair, (tokens, 2 width); `output` (tokens, width)."""
        inner = self.inner(x)
        return {"inner": inner, "output": inner.unflatten(-1, (self.width, 2)).amax(dim=-1)}


@dataclass(frozen=True)
class RNNSearchState:
    """What the decoder remembers between steps: its hidden state, and what it looks at."""

    hidden: Float[Tensor, "rows width"]
    keys: Float[Tensor, "rows source attention"]
    values: Float[Tensor, "rows source two_widths"]
    mask: Mask | None
    sources: Int[Tensor, "rows"]
    """For each row, its source: where rows of one source change places, nothing but `hidden` has to move."""

    def select(self, rows: Int[Tensor, "chosen"]) -> RNNSearchState:
        """The state of the chosen rows, in that order."""
        sources = self.sources[rows]
        if torch.equal(sources, self.sources):
            return replace(self, hidden=self.hidden[rows])
        mask = None if self.mask is None else Mask(self.mask.allowed[rows])
        return RNNSearchState(self.hidden[rows], self.keys[rows], self.values[rows], mask, sources)

    def first(self, rows: int) -> RNNSearchState:
        """The state of the first rows, without a copy."""
        mask = None if self.mask is None else Mask(self.mask.allowed[:rows])
        return RNNSearchState(self.hidden[:rows], self.keys[:rows], self.values[:rows], mask, self.sources[:rows])

    def after(self, hidden: Float[Tensor, "rows width"]) -> RNNSearchState:
        """The same look at the source from another state."""
        return replace(self, hidden=hidden)
