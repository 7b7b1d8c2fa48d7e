"""Sentence embeddings, learnt by contrast: Gao et al. 2021, "SimCSE: Simple Contrastive Learning of Sentence
Embeddings".

The vector of a text (the mean over its tokens, of length 1) should be nearest to that of its own second text among
those of the whole batch (InfoNCE: van den Oord et al. 2018, equation 4). With `same_text` a text is read twice
instead, with other dropout (section 3). Equal second texts of a batch are no negatives of each other. With several
workers the negatives of a text are those of its worker's share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from regard.data.batches import Batch, ragged
from regard.data.packed import Packed
from regard.data.texts import Text, read_texts
from regard.errors import RegardError
from regard.modalities.subwords import Subwords
from regard.models.base import Model
from regard.models.bert import Bert, sentence_embeddings
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import scoring_batches
from regard.training.tasks.language_model import encoder_of, subwords_of
from regard.training.tasks.reading import PARTS, Parts, counts_of


class TextPairs:
    """Texts and their second ones, in random batches: length tells nothing about what belongs together."""

    def __init__(self, first: Packed, second: Packed, alike: Packed) -> None:
        self.first, self.second, self.alike = first, second, alike

    def __len__(self) -> int:
        return len(self.first)

    @property
    def tokens(self) -> int:
        return int(self.first.lengths.sum() + self.second.lengths.sum())

    def plan(self, batch_tokens: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Two pairs at least make a batch: one alone has nothing to be told from."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        sizes = (self.first.lengths + self.second.lengths)[order]
        cuts, filled, begun = [], 0, 0
        for place, size in enumerate(sizes.tolist()):
            if filled + size > batch_tokens and place - begun >= 2 and len(order) - place >= 2:
                cuts.append(place)
                filled, begun = 0, place
            filled += size
        return list(np.split(order, cuts))

    def batch(self, chosen: np.ndarray) -> Batch:
        first, second = ragged(*self.first.take(chosen)), ragged(*self.second.take(chosen))
        return Batch(first, second, torch.from_numpy(self.alike.take(chosen)[0]))


@dataclass(frozen=True)
class EmbeddingsTask:
    """Spearman's correlation with given similarities, or how often the nearest second text is the right one."""

    recipe: Recipe
    codec: Subwords
    train: TextPairs
    valid: TextPairs
    test: TextPairs
    counts: dict[str, int]

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> EmbeddingsTask:
        data, similarity = recipe.data, recipe.contrastive.similarity_field
        if not data.second_field:
            raise RegardError("embeddings need data.second_field: the text that belongs to the first, to score by")

        def read(part: str) -> Iterator[Text]:
            path, scored = getattr(data, part), part != "train"
            second = data.second_field if scored or not recipe.contrastive.same_text else ""
            return read_texts(path, data.text_field, second, similarity if scored else "")

        parts = Parts(recipe, read, lambda text: (text.text,) if text.second is None else (text.text, text.second))
        codec, longest = subwords_of(recipe, parts, begun), data.max_tokens

        def rows(texts: list[Text]) -> Iterator[tuple[Sequence[int], ...]]:
            firsts = codec.encode_many([text.text for text in texts])
            seconds = codec.encode_many([text.text if text.second is None else text.second for text in texts])
            for text, first, second in zip(texts, firsts, seconds, strict=True):
                yield _cut(first, longest), _cut(second, longest), [_similarity(text.label)]

        tables = [parts.table(part, rows, 3, codec.inner.to_str(), similarity) for part in PARTS]
        train, valid, test = (TextPairs(*table.columns) for table in tables)
        return cls(recipe, codec, train, valid, test, counts_of(*tables))

    def make_model(self) -> Model:
        return encoder_of(self.recipe, self.codec, [], pooler=None)

    def loss(self, model: Bert, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy of a text's own second text among all of the batch (equation 1)."""
        first, second = (sentence_embeddings(model.hidden(side)) for side in (batch.source, batch.target))
        loss = contrastive_loss(first, second, _numbers(batch), self.recipe.contrastive.temperature)
        return loss, loss.detach()

    def predictions(self, batch: Batch) -> int:
        return len(batch.source)

    def valid_score(self, model: Bert) -> Result:
        return self._score(model, self.valid)

    def test_score(self, model: Bert) -> Result:
        return self._score(model, self.test)

    @torch.no_grad()
    def _score(self, model: Bert, pairs: TextPairs) -> Result:
        first, second, texts, alike = [], [], [], []
        for batch in scoring_batches(model, pairs, self.recipe.training.batch_tokens):
            first.append(sentence_embeddings(model.hidden(batch.source)).float().cpu())
            second.append(sentence_embeddings(model.hidden(batch.target)).float().cpu())
            texts += [tuple(row.tolist()) for row in batch.target]
            alike.append(batch.answers.cpu())
        one, other = torch.cat(first), torch.cat(second)
        if self.recipe.contrastive.similarity_field:
            rank = 100 * spearman((one * other).sum(dim=1), torch.cat(alike))
            return Result({"spearman": rank}, rank)
        hits = sum(texts[int((vector @ other.T).argmax())] == own for vector, own in zip(one, texts, strict=True))
        accuracy = 100 * hits / len(texts)
        return Result({"retrieval_accuracy": accuracy}, accuracy)


def contrastive_loss(
    first: Float[Tensor, "rows width"],
    second: Float[Tensor, "rows width"],
    numbers: Int[Tensor, "rows"],
    temperature: float,
) -> Float[Tensor, ""]:
    """InfoNCE over a batch; rows whose second text has the same number are no negatives of each other."""
    scores = (first @ second.T).float() / temperature
    own = torch.eye(len(first), dtype=torch.bool, device=first.device)
    same = (numbers[:, None] == numbers) & ~own
    return F.cross_entropy(scores.masked_fill(same, -torch.inf), torch.arange(len(first), device=first.device))


def spearman(found: Float[Tensor, "pairs"], given: Tensor) -> float:
    """Correlation of ranks; equal values share the mean of their ranks. 0 where one side is constant."""
    ranks = torch.stack([_ranks(found.double()), _ranks(given.double())])
    value = float(torch.corrcoef(ranks)[0, 1])
    return 0.0 if value != value else value


def _ranks(values: Float[Tensor, "pairs"]) -> Float[Tensor, "pairs"]:
    _, kinds, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks: Tensor = (ends - (counts - 1) / 2)[kinds]
    return ranks


def _numbers(batch: Batch) -> Int[Tensor, "rows"]:
    """The same number for second texts that are equal."""
    known: dict[tuple[int, ...], int] = {}
    rows = [known.setdefault(tuple(row.tolist()), len(known)) for row in batch.target]
    return torch.tensor(rows, device=batch.target.values.device)


def _cut(ids: list[int], longest: int) -> list[int]:
    return ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def _similarity(text: str) -> int:
    """In thousandths: only the order counts."""
    try:
        return round(1000 * float(text)) if text else 0
    except ValueError as error:
        raise RegardError(f"a similarity is a number, not {text!r}") from error
