"""Floating-point operations of a forward pass, counted from a model's configuration and the lengths of its texts.

Matrix products only, a multiplication and an addition each counted as one operation: what `torch.utils.flop_counter`
counts too (the tests hold both to each other), and what is compared with a machine's peak (Chowdhery et al. 2022,
"PaLM", appendix B). Each token counts once, padding never; under a causal mask all pairs of positions are counted, as
is usual. A training step is three forward passes: every product has two gradients of the same cost.

Counted as if every layer learnt: layers that are frozen, and what activation checkpointing computes twice, change
nothing (it is the model's work that is counted, not the machine's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Lengths = Sequence[int]


def training_flops(config: Any, batch: Any) -> int:
    """Of one training step on a batch; 0 where this cannot be told (an unknown system, or a batch without texts)."""
    source = getattr(batch, "source", None) or getattr(batch, "inputs", None)
    if source is None or config.model_type not in _COUNTS:
        return 0
    target = getattr(batch, "target", None)
    lengths = None if target is None else target.lengths
    return 3 * forward_flops(config, source.lengths, lengths, places_scored(config, source.lengths))


def forward_flops(config: Any, source: Lengths, target: Lengths | None = None, predicted: int | None = None) -> int:
    """Of one forward pass over texts of these lengths, (source and) target.

    `predicted`: at how many places words of the vocabulary are scored; None is at every token (of the target).
    """
    return _COUNTS[config.model_type](config, source, target or (), predicted)


def places_scored(config: Any, lengths: Lengths) -> int | None:
    """Places at which words are scored while a model learns; None is at every token (of the target)."""
    if config.model_type in ("bert", "albert"):
        if "masked_words" not in config.heads:
            return 0
        return sum(max(1, round(0.15 * (length - 3))) for length in lengths)  # all but [CLS] and two [SEP]
    if config.model_type == "gpt" and config.labels:
        return sum(lengths) - len(lengths)
    return None


# --- systems ----------------------------------------------------------------------------------------------------------


def _transformer(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    sizes = (config.d_model, config.d_model, config.d_model)
    inner = _feed_forward(config.d_model, config.ffn_dim)
    return _two_stacks(config, source, target, predicted, sizes, inner)


def _t5(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    sizes = (config.d_model, config.num_heads * config.d_kv, config.num_heads * config.d_kv)
    inner = _feed_forward(config.d_model, config.d_ff, 3 if config.gated else 2)
    return _two_stacks(config, source, target, predicted, sizes, inner)


def _two_stacks(
    config: Any, source: Lengths, target: Lengths, predicted: int | None, sizes: tuple[int, int, int], inner: int
) -> int:
    own = _attention(source, source, *sizes) + inner * sum(source)
    masked, cross = _attention(target, target, *sizes), _attention(target, source, *sizes)
    layers = config.encoder_layers * own + config.decoder_layers * (masked + cross + inner * sum(target))
    return int(layers + _words(config.d_model, config.vocab_size, target, predicted))


def _gpt(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    width = config.n_embd
    inner = _feed_forward(width, config.n_inner or 4 * width) * sum(source)
    layers = config.n_layer * (_attention(source, source, width, width, width) + inner)
    classes = 2 * width * len(config.labels) * len(source)
    return int(layers + classes + _words(width, config.vocab_size, source, predicted))


def _llama(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    width, heads = config.hidden_size, config.num_attention_heads
    sizes = (width, heads * config.head_width, config.key_value_heads * config.head_width)
    inner = _feed_forward(width, config.intermediate_size, 3) * sum(source)
    layers = config.num_hidden_layers * (_attention(source, source, *sizes) + inner)
    return int(layers + _words(width, config.vocab_size, source, predicted))


def _bert(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    """The heads `masked_words` at the places that are asked for, `next_sentence` and those for labels as they are."""
    width, tokens, narrow = config.hidden_size, sum(source), config.embedding_width
    inner = _feed_forward(width, config.intermediate_size) * tokens
    runs = config.num_hidden_layers * getattr(config, "inner_group_num", 1)
    total = runs * (_attention(source, source, width, width, width) + inner)
    if config.model_type == "albert":
        total += 2 * narrow * width * tokens  # embeddings are widened
    if {"next_sentence", "classification"} & set(config.heads):
        total += 2 * width * width * len(source)  # the pooler
    if "masked_words" in config.heads:
        places = tokens if predicted is None else predicted
        total += 2 * places * narrow * (width + config.vocab_size)
    outputs = {"next_sentence": 2 * len(source), "spans": 2 * tokens}
    outputs |= {"classification": len(config.labels) * len(source), "token_labels": len(config.labels) * tokens}
    return int(total + sum(2 * width * outputs.get(head, 0) for head in config.heads))


def _seq2seq(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    outer, width, depth = config.embedding_size, config.hidden_size, config.num_hidden_layers
    stack = _recurrent(4, outer, width) + (depth - 1) * _recurrent(4, width, width)
    words = _words(width, config.target_vocab_size or config.vocab_size, target, predicted)
    return int(stack * (sum(source) + sum(target)) + words)


def _rnnsearch(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    outer, width, fits = config.embedding_size, config.hidden_size, config.attention_size
    readers = 2 * _recurrent(3, outer, width) * sum(source)
    keys = 2 * (2 * width) * fits * sum(source) + 2 * width * width * len(source)
    looks = 2 * (fits + 2 * width) * _pairs(target, source)  # scores, and the mean of the memory
    seen = width + outer + 2 * width
    word = 2 * width * fits + _recurrent(3, outer + 2 * width, width) + 2 * seen * 2 * config.maxout_size
    words = _words(config.maxout_size, config.target_vocab_size or config.vocab_size, target, predicted)
    return int(readers + keys + looks + word * sum(target) + words)


def _awd_lstm(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    return _awd_layers(config) * sum(source) + _words(config.embedding_size, config.vocab_size, source, predicted)


def _ulmfit(config: Any, source: Lengths, target: Lengths, predicted: int | None) -> int:
    head = 2 * config.classifier_size * (3 * config.embedding_size + len(config.labels))
    return int(_awd_layers(config) * sum(source) + head * len(source))


_COUNTS: dict[str, Callable[[Any, Lengths, Lengths, int | None], int]] = {
    "transformer": _transformer,
    "t5": _t5,
    "gpt": _gpt,
    "llama": _llama,
    "bert": _bert,
    "albert": _bert,
    "seq2seq": _seq2seq,
    "rnnsearch": _rnnsearch,
    "awd_lstm": _awd_lstm,
    "ulmfit": _ulmfit,
}


# --- parts ------------------------------------------------------------------------------------------------------------


def _attention(queries: Lengths, keys: Lengths, width: int, query_width: int, key_width: int) -> int:
    """Projections to queries, keys, values and back; scores and what they mix."""
    asking = 2 * 2 * width * query_width * sum(queries)
    looked_at = 2 * width * 2 * key_width * sum(keys)
    return asking + looked_at + 2 * 2 * query_width * _pairs(queries, keys)


def _pairs(queries: Lengths, keys: Lengths) -> int:
    """Pairs of positions that see each other; none between texts."""
    return sum(query * key for query, key in zip(queries, keys, strict=True))


def _feed_forward(width: int, inner: int, matrices: int = 2) -> int:
    """A token."""
    return 2 * matrices * width * inner


def _recurrent(gates: int, entering: int, width: int) -> int:
    """A token: its gates see the input and the last hidden state."""
    return 2 * gates * width * (entering + width)


def _awd_layers(config: Any) -> int:
    """A token through the AWD-LSTM's layers."""
    depth, outer, inner = config.num_hidden_layers, config.embedding_size, config.hidden_size
    widths = [outer, *[inner] * (depth - 1), outer]
    return sum(_recurrent(4, widths[number], widths[number + 1]) for number in range(depth))


def _words(width: int, vocabulary: int, lengths: Lengths, predicted: int | None) -> int:
    """Scores of the vocabulary."""
    return 2 * width * vocabulary * (sum(lengths) if predicted is None else predicted)
