"""Guided attention: one head of the cross-attention learns to be a word alignment, beside the translation.

Chen et al. 2016, "Guided Alignment Training for Topic-Aware Neural Machine Translation"; Garg et al. 2019, "Jointly
Learning to Align and Translate with Transformer Models", section 4.2: the cross-entropy between the head's weights and
the given links is added to the loss. The head's weights are computed once more, from what enters its attention; the
fast run stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from regard.data.batches import Batch
from regard.data.sources import Pair
from regard.data.tables import read_lines
from regard.errors import RegardError
from regard.modalities.text import Codec, Piece
from regard.models.transformer import Transformer
from regard.training.recipe import Guided

Links = list[tuple[int, int]]


class Guide:
    """The links of the training pairs, as pieces, and the loss of one head against them."""

    def __init__(self, recipe: Guided, codec: Codec, pairs: Sequence[Pair]) -> None:
        self.recipe = recipe
        lines = list(read_lines(Path(recipe.links)))
        if len(lines) != len(pairs):
            raise RegardError(
                f"{recipe.links} has {len(lines)} lines for {len(pairs)} training pairs: one each is needed"
            )
        self._links: dict[tuple[tuple[int, ...], tuple[int, ...]], Links] = {}
        for number, (line, pair) in enumerate(zip(lines, pairs, strict=True), start=1):
            source, target = codec.source.pieces(pair.source), codec.target.pieces(pair.target)
            key = tuple(piece.token for piece in source), tuple(piece.token for piece in target)
            self._links[key] = _of_pieces(_read(line, f"{recipe.links}, line {number}"), source, target)

    def loss(self, model: Any, batch: Batch, x: Any, memory: Any) -> Float[Tensor, ""]:
        """Mean over the linked target tokens, from what entered the guided attention (see `Noted`)."""
        attention = model.decoder.layers[self.recipe.layer].cross_attention
        begin = self.recipe.head * attention.head_width
        rows = slice(begin, begin + attention.head_width)
        queries = attention.project_queries(x.values)[:, rows]
        keys = attention.project_memory(memory.values)[:, rows]
        scores = x.layout.pad(queries).float() @ memory.layout.pad(keys).float().transpose(1, 2)
        scores = scores * attention.head_width**-0.5
        scores = scores.masked_fill(~memory.layout.present[:, None, :], -math.inf)
        wanted = self._wanted(batch, scores)
        linked = wanted.sum()
        found: Tensor = -(wanted * F.log_softmax(scores, dim=-1).clamp_min(-1e4)).sum() / linked.clamp_min(1.0)
        return found

    def _wanted(self, batch: Batch, like: Tensor) -> Float[Tensor, "rows targets sources"]:
        """For each decoder position the share of each source token; nothing where no link is."""
        wanted = torch.zeros_like(like)
        answers = batch.target.with_values(batch.answers)
        for row, (source, target) in enumerate(zip(batch.source, answers, strict=True)):
            for a, b in self._links.get((tuple(source.tolist()), tuple(target.tolist())), []):
                if b + self.recipe.after < len(target):
                    wanted[row, b + self.recipe.after, a] = 1.0
        return wanted / wanted.sum(dim=-1, keepdim=True).clamp_min(1.0)


class Noted:
    """What enters the guided attention while the block runs."""

    def __init__(self, model: Any, recipe: Guided) -> None:
        if not isinstance(model, Transformer):
            raise RegardError(f"guided attention is for a transformer, not a {model.config.model_type}")
        layers, heads = model.config.decoder_layers, model.config.attention_heads
        if recipe.layer >= layers or recipe.head >= heads:
            raise RegardError(
                f"guided.layer {recipe.layer}, head {recipe.head}: there are layers 0 to {layers - 1}, "
                f"heads 0 to {heads - 1}"
            )
        self._attention: Any = model.decoder.layers[recipe.layer]
        self.x = self.memory = None

    def __enter__(self) -> Noted:
        attention = self._attention.cross_attention
        self._hook = attention.register_forward_pre_hook(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _note(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self.x, self.memory = inputs[0], inputs[1]


def _of_pieces(links: Links, source: Sequence[Piece], target: Sequence[Piece]) -> Links:
    """Links between words to links between all their pieces."""
    return [
        (a, b)
        for left, right in links
        for a, piece in enumerate(source)
        if piece.chunk == left
        for b, other in enumerate(target)
        if other.chunk == right
    ]


def _read(line: str, place: str) -> Links:
    try:
        return [(int(a), int(b)) for a, b in (pair.split("-") for pair in line.split())]
    except ValueError as error:
        raise RegardError(f"{place}: links read 0-0 1-2, not {line[:40]!r}") from error
