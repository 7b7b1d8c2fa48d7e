"""The sizes of any of our systems under one set of names: what memory and messages are counted from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Of a model. `heads` is 0 where nothing attends to itself: recurrent systems."""

    width: int
    outer: int
    """Of embeddings."""
    encoder_layers: int
    """With self-attention alone (or recurrent)."""
    decoder_layers: int = 0
    """With cross-attention too."""
    heads: int = 0
    key_heads: int = 0
    query_width: int = 0
    inner: int = 0
    """F."""
    inner_kept: int = 2
    """Of how many tensors of that width the gradient needs: before and after the non-linearity; with a gate 4."""
    dropout: bool = True
    weight_dropout: bool = False
    """On attention weights."""
    causal: bool = False
    """The layers with self-attention alone see no later token."""
    root_norm: bool = False
    """RMSNorm, which is several operations here."""
    cells: int = 16
    """Values of a recurrent layer that PyTorch's kernels keep for a token and unit."""
    gates: int = 4
    """Of a recurrent layer."""
    additive: int = 0
    """Width of an attention that scores pairs by a small network."""

    @property
    def layers(self) -> int:
        return self.encoder_layers + self.decoder_layers

    @property
    def sublayers(self) -> int:
        """Those that end with a sum over the processes, where a layer is cut."""
        return 2 * self.encoder_layers + 3 * self.decoder_layers


def sizes_of(config: Any) -> Sizes:
    return _SIZES[config.model_type](config)


def _transformer(config: Any) -> Sizes:
    width, heads = config.d_model, config.attention_heads
    kept = 1 if config.activation_function == "relu" else 2
    dropped = config.dropout > 0, config.attention_dropout > 0
    layers = config.encoder_layers, config.decoder_layers
    return Sizes(width, width, *layers, heads, heads, width, config.ffn_dim, kept, *dropped)


def _t5(config: Any) -> Sizes:
    inner, heads = config.num_heads * config.d_kv, config.num_heads
    kept = 4 if config.gated else 1 if config.activation_function == "relu" else 2
    dropped = config.dropout_rate > 0, config.dropout_rate > 0
    layers = config.encoder_layers, config.decoder_layers
    return Sizes(config.d_model, config.d_model, *layers, heads, heads, inner, config.d_ff, kept, *dropped, False, True)


def _gpt(config: Any) -> Sizes:
    width, heads = config.n_embd, config.n_head
    dropped = config.resid_pdrop > 0, config.attn_pdrop > 0
    return Sizes(width, width, config.n_layer, 0, heads, heads, width, config.n_inner or 4 * width, 2, *dropped, True)


def _llama(config: Any) -> Sizes:
    width, heads = config.hidden_size, config.num_attention_heads
    queries, inner = heads * config.head_width, config.intermediate_size
    dropped = config.resid_pdrop > 0, config.attention_dropout > 0
    layers = config.num_hidden_layers, 0
    return Sizes(width, width, *layers, heads, config.key_value_heads, queries, inner, 4, *dropped, True, True)


def _bert(config: Any) -> Sizes:
    width, heads = config.hidden_size, config.num_attention_heads
    dropped = config.hidden_dropout_prob > 0, config.attention_probs_dropout_prob > 0
    layers = config.num_hidden_layers * getattr(config, "inner_group_num", 1)
    return Sizes(width, config.embedding_width, layers, 0, heads, heads, width, config.intermediate_size, 2, *dropped)


def _seq2seq(config: Any) -> Sizes:
    depth = config.num_hidden_layers
    return Sizes(config.hidden_size, config.embedding_size, depth, depth, dropout=config.dropout > 0)


def _rnnsearch(config: Any) -> Sizes:
    """Two readers and a writer."""
    sizes = {"cells": 8, "gates": 3, "additive": config.attention_size, "dropout": config.dropout > 0}
    return Sizes(config.hidden_size, config.embedding_size, 2, 1, **sizes)


def _awd_lstm(config: Any) -> Sizes:
    return Sizes(config.hidden_size, config.embedding_size, config.num_hidden_layers)


_SIZES = {
    "transformer": _transformer,
    "t5": _t5,
    "gpt": _gpt,
    "llama": _llama,
    "bert": _bert,
    "albert": _bert,
    "seq2seq": _seq2seq,
    "rnnsearch": _rnnsearch,
    "awd_lstm": _awd_lstm,
    "ulmfit": _awd_lstm,
}
