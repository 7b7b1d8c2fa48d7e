"""Where an answer looked: attention weights of named heads, read once for the answers one wants them of.

The answer is read by the decoder all at once (teacher forcing), without predictions, up to the last layer that is
named, and only the named heads' weights are computed. For a model with a source these are its cross-attention; else the
self-attention over the text so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from regard.attention import MultiHeadAttention
from regard.errors import RegardError
from regard.generation.settings import Hypothesis, Search
from regard.layers.blocks import DecoderLayer, EncoderLayer
from regard.sequences import Sequences

Head = tuple[int, int]
"""Layer and head, from 0."""


class _EnoughError(Exception):
    """Every named layer has been reached."""


@torch.inference_mode()
def attention_of(
    model: Any, source: Sequences, answers: Sequence[Sequence[int]], heads: Sequence[Head], how: Search
) -> list[Float[Tensor, "heads produced keys"]]:
    """For each answer the weights with which each of its tokens was chosen, the end token last: one map a head.

    Raises RegardError for a model without such heads, and for a layer or head that there is not.
    """
    attentions = _attentions(model)
    for layer, head in heads:
        if not 0 <= layer < len(attentions):
            raise RegardError(f"no layer {layer}: there are layers 0 to {len(attentions) - 1}")
        if not 0 <= head < attentions[layer].heads:
            raise RegardError(f"no head {head}: there are heads 0 to {attentions[layer].heads - 1}")
    with_source = how.bos is not None
    begun = how.before(source)
    texts = Sequences.of_ids([[*first, *answer] for first, answer in zip(begun, answers, strict=True)], model.device)
    entered = _entered(model, source if with_source else None, texts, [attentions[layer] for layer, _ in heads])
    found = []
    for row, first in enumerate(begun):
        produced = range(len(first) - 1, texts.lengths[row])
        maps = []
        for layer, head in heads:
            asking, memory = (part[row] for part in entered[attentions[layer]])
            maps.append(_weights(attentions[layer], asking, memory, head, produced, causal=not with_source))
        found.append(torch.stack(maps))
    return found


def _attentions(model: Any) -> list[MultiHeadAttention]:
    """The attention of each layer of the decoder that answers may be aligned by."""
    layers = list(getattr(getattr(model, "decoder", None), "layers", ()))
    if layers and all(isinstance(layer, DecoderLayer) for layer in layers):
        return [layer.cross_attention for layer in layers]
    if layers and all(isinstance(layer, EncoderLayer) for layer in layers):
        return [layer.self_attention for layer in layers]
    raise RegardError(f"a {type(model).__name__} has no attention heads to name")


def _entered(
    model: Any, source: Sequences | None, texts: Sequences, wanted: Sequence[MultiHeadAttention]
) -> dict[MultiHeadAttention, tuple[Sequences, Sequences]]:
    """What enters each of the attentions: what asks, and what is looked at."""
    found: dict[MultiHeadAttention, tuple[Sequences, Sequences]] = {}

    def keep(attention: MultiHeadAttention, given: tuple[Any, ...]) -> None:
        asking, memory = given[0], given[1]
        found[attention] = (asking, asking if memory is None else memory)
        if len(found) == len(set(wanted)):
            raise _EnoughError

    hooks = [attention.register_forward_pre_hook(keep) for attention in set(wanted)]
    try:
        if source is None:
            model.hidden(texts)
        else:
            model.decode(texts, model.encode(source))
    except _EnoughError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _weights(
    attention: MultiHeadAttention,
    asking: Float[Tensor, "texts width"],
    memory: Float[Tensor, "keys width"],
    head: int,
    produced: range,
    causal: bool,
) -> Float[Tensor, "produced keys"]:
    """softmax(q k / sqrt(d_k)) of one head, for the positions at which the answer's tokens were chosen."""
    chosen = slice(produced.start, produced.stop)
    places = torch.arange(len(asking), device=asking.device)
    width = attention.head_width
    shared = head // (attention.heads // attention.key_heads)
    weight, bias = attention.projection.weight, attention.projection.bias
    rows = slice(head * width, (head + 1) * width)
    keys_from = attention.query_width + shared * width
    key_rows = slice(keys_from, keys_from + width)
    queries = torch.nn.functional.linear(asking[chosen], weight[rows], None if bias is None else bias[rows])
    keys = torch.nn.functional.linear(memory, weight[key_rows], None if bias is None else bias[key_rows])
    queries, keys = attention.turned(queries, places[chosen]), attention.turned(keys)
    scores = queries @ keys.T * (width**-0.5 if attention.scale is None else attention.scale)
    if causal:
        scores = scores.masked_fill(places > places[chosen][:, None], -torch.inf)
    return scores.softmax(dim=-1)


# --- coverage ---------------------------------------------------------------------------------------------------------


def with_coverage(
    model: Any, source: Shaped[Tensor, "tokens *rest"], how: Search, answers: Sequence[Hypothesis]
) -> list[Hypothesis]:
    """The answers to one source with coverage in their scores, by the mean of the heads of the layer before the last.

    They have all ended, as in Wu et al. 2016, section 7: scores by equation 14 are "only available when a hypothesis
    ends", and what goes on is compared by log P. OpenNMT-py and CTranslate2 do the same, the former unless told else.
    """
    attentions = _attentions(model)
    layer = max(0, len(attentions) - 2)
    heads = [(layer, head) for head in range(attentions[layer].heads)]
    maps = attention_of(model, Sequences.of([source] * len(answers)), [one.tokens for one in answers], heads, how)
    return [
        replace(answer, score=answer.score + coverage(weights.mean(dim=0), how.coverage_penalty))
        for answer, weights in zip(answers, maps, strict=True)
    ]


def coverage(weights: Float[Tensor, "produced source"], beta: float) -> float:
    """Equation 14 of Wu et al. 2016: beta times the sum, over the source, of log(min(what looked at it in all, 1))."""
    return beta * float(weights.sum(dim=0).clamp(1e-30, 1.0).log().sum())
