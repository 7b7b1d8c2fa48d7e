"""BERT's pretraining: hidden words, and whether one text follows another (Devlin et al. 2018, section 3.1)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.data.blocks import Labelled, LabelledTexts
from regard.data.masked_words import MaskedWords, each_sentence_pair, mask_words
from regard.data.packed import Packed, Table, packed_table
from regard.data.texts import Text
from regard.errors import RegardError
from regard.modalities.subwords import Subwords
from regard.models.base import Model
from regard.models.bert import Bert
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import scoring_batches, valid_loss
from regard.training.tasks.language_model import encoder_of, subwords_of, text_parts
from regard.training.tasks.reading import PARTS, Parts, counts_of

_SENTENCE = 24
"""Running text without sentence marks is cut into pieces of so many tokens."""


@dataclass(frozen=True)
class Shown:
    """A batch, and what of it a model gets to see."""

    batch: Labelled
    masked: MaskedWords


@dataclass(frozen=True)
class MaskedWordsTask:
    """Each text is a document; its neighbours in a pair are neighbouring pieces of it."""

    recipe: Recipe
    codec: Subwords
    train: LabelledTexts
    valid: LabelledTexts
    test: LabelledTexts
    counts: dict[str, int]

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> MaskedWordsTask:
        parts = text_parts(recipe)
        codec = subwords_of(recipe, parts, begun)
        special = codec.special
        if special.mask is None or special.bos is None or special.eos is None:
            raise RegardError("hidden words need a tokenizer with [MASK], [CLS] and [SEP]: tokenizer.kind wordpiece")
        tables = [_pairs(recipe, codec, parts, name) for name in PARTS]
        train, valid, test = made = [LabelledTexts(*table.columns) for table in tables]
        counts = counts_of(*tables) | {f"{name}_pairs": len(one) for name, one in zip(PARTS, made, strict=True)}
        return cls(recipe, codec, train, valid, test, counts)

    def make_model(self) -> Model:
        return encoder_of(self.recipe, self.codec, ["masked_words", "next_sentence"])

    def loss(self, model: Bert, batch: Labelled | Shown, smoothing: float) -> tuple[Tensor, Tensor]:
        """Both objectives added; the plain loss is that of the hidden words."""
        words, pairs, _, _ = self._answers(model, batch, smoothing)
        return words + pairs, words.detach()

    def predictions(self, batch: Labelled) -> int:
        return len(batch.labels)

    def valid_score(self, model: Bert) -> Result:
        return self._score(model, self.valid)

    def test_score(self, model: Bert) -> Result:
        return self._score(model, self.test)

    @torch.no_grad()
    def _score(self, model: Bert, examples: LabelledTexts) -> Result:
        """Share of hidden words found, and of pairs judged rightly, in percent."""
        right = asked = judged = 0
        for batch in scoring_batches(model, examples, self.recipe.training.batch_tokens):
            _, _, words, pairs = self._answers(model, batch, 0.0)
            right, asked, judged = right + int(words.sum()), asked + len(words), judged + int(pairs.sum())
        nats = valid_loss(self, model, self.recipe.training.batch_tokens, examples)
        scores = {"masked_words": 100 * right / max(1, asked), "next_sentence": 100 * judged / max(1, len(examples))}
        return Result(scores, -nats)

    def prepared(self, batch: Labelled, model: Bert) -> Shown:
        """The batch with some words hidden."""
        special = self.codec.special
        assert special.mask is not None
        known = {token for token in (special.bos, special.eos, special.pad) if token is not None}
        # While training, chance is the run's own (and comes back with it); while scoring, always the same.
        generator = torch.Generator(batch.labels.device)
        generator.manual_seed(int(torch.randint(1 << 62, ())) if model.training else batch.tokens)
        masked = mask_words(batch.inputs, self.codec.vocab_size, special.mask, known, generator)
        return Shown(batch, masked)

    def _answers(self, model: Bert, batch: Labelled | Shown, smoothing: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses of words and pairs, and which of each the model gets right."""
        shown = batch if isinstance(batch, Shown) else self.prepared(batch, model)
        masked, batch = shown.masked, shown.batch
        hidden = model.hidden(masked.tokens, batch.segments.values)
        words = model.words(hidden.values[masked.places])
        pairs = model.answer("next_sentence", hidden)
        return (
            F.cross_entropy(words, masked.answers, label_smoothing=smoothing),
            F.cross_entropy(pairs, batch.labels),
            words.argmax(dim=-1) == masked.answers,
            pairs.argmax(dim=-1) == batch.labels,
        )


class _Documents(Sequence[list[list[int]]]):
    """Packed texts, each cut into sentences when it is asked for."""

    def __init__(self, texts: Packed) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: Any) -> Any:
        ids = self.texts[number].tolist()
        return [ids[begin : begin + _SENTENCE] for begin in range(0, len(ids), _SENTENCE)]


def _pairs(recipe: Recipe, codec: Subwords, parts: Parts[Text], name: str) -> Table:
    """The texts of a part, tokenised, and then its pairs of texts."""
    special = codec.special
    assert special.bos is not None
    assert special.eos is not None
    bos, eos, seed = special.bos, special.eos, recipe.training.seed

    def documents(texts: list[Text]) -> Iterator[tuple[Sequence[int]]]:
        for encoding in codec.inner.encode_batch([text.text for text in texts], add_special_tokens=False):
            yield (encoding.ids,)

    texts = parts.table(name, documents, 1, codec.inner.to_str())

    def pairs(counts: dict[str, int]) -> Iterator[tuple[Sequence[int], ...]]:
        counts.update(texts.counts)
        packed = _Documents(texts.columns[0])
        if len(packed) < 2:
            raise RegardError(f"the {name} part of the data has one text: pairs of unrelated texts need two at least")
        for pair in each_sentence_pair(packed, bos, eos, recipe.data.max_tokens, random.Random(seed)):
            yield pair.tokens, pair.segments, [int(pair.unrelated)]

    return packed_table(pairs, 3, parts.cache(name, "pairs", codec.inner.to_str(), seed))
