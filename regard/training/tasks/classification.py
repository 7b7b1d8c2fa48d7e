"""Classes of texts or of pairs: fine-tuning BERT (section 4), GPT (section 3.2) and ULMFiT (section 3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.data.blocks import Labelled, LabelledTexts
from regard.data.texts import Text
from regard.errors import RegardError
from regard.modalities.subwords import Subwords
from regard.models.base import Model
from regard.models.bert import Bert
from regard.models.decoder import language_model_loss, last_of_each
from regard.models.gpt import GPT
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import begin_from, scoring_batches
from regard.training.tasks.language_model import encoder_of, subwords_of, text_parts, vocabulary_of
from regard.training.tasks.reading import PARTS, counts_of, labels_of

Row = tuple[Sequence[int], Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class ClassificationTask:
    """Accuracy and the mean F1 over the classes (macro)."""

    recipe: Recipe
    codec: Subwords
    labels: tuple[str, ...]
    train: LabelledTexts
    valid: LabelledTexts
    test: LabelledTexts
    counts: dict[str, int]

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> ClassificationTask:
        parts = text_parts(recipe, recipe.data.label_field)
        labels = labels_of(parts, lambda text: [text.label])
        if len(labels) < 2:
            raise RegardError(f"classes need two labels or more; the training data has only {labels[0]!r}")
        codec = subwords_of(recipe, parts, begun)
        rows = partial(_tokenised, codec, labels, recipe.data.max_tokens)
        tables = [parts.table(name, rows, 3, codec.inner.to_str(), labels) for name in PARTS]
        train, valid, test = (LabelledTexts(*table.columns) for table in tables)
        return cls(recipe, codec, labels, train, valid, test, counts_of(*tables))

    def make_model(self) -> Model:
        kind = self.recipe.model.type
        if kind in ("bert", "albert"):
            return encoder_of(self.recipe, self.codec, ["classification"], labels=self.labels)
        if kind == "gpt":
            special = {"bos_token_id": self.codec.special.bos, "eos_token_id": self.codec.special.eos}
            model = self.recipe.model.make(vocab_size=self.codec.vocab_size, **special, labels=self.labels)
        else:
            model = self.recipe.model.make(**vocabulary_of(self.codec), labels=self.labels)
        return begin_from(model, self.recipe.start)

    def loss(self, model: Model, batch: Labelled, smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the class; a GPT goes on as a language model beside it (L3, equation 5)."""
        if isinstance(model, GPT):
            hidden = model.hidden(batch.inputs)
            scores = model.score(last_of_each(hidden))
        else:
            scores = self.scores(model, batch)
        plain = F.cross_entropy(scores, batch.labels)
        loss = F.cross_entropy(scores, batch.labels, label_smoothing=smoothing) if smoothing else plain
        weight = self.recipe.training.language_model_weight
        if isinstance(model, GPT) and weight and model.training:
            loss = loss + weight * language_model_loss(model, hidden, batch.inputs)
        return loss, plain.detach()

    def scores(self, model: Model, batch: Labelled) -> Tensor:
        """Logits of the classes: (texts, labels)."""
        if isinstance(model, Bert):
            segments = batch.segments.values if model.config.type_vocab_size > 1 else None
            scores: Tensor = model(batch.inputs, segments)["classification"]
        else:
            scores = model.classify(batch.inputs) if isinstance(model, GPT) else model(batch.inputs)
        return scores

    def predictions(self, batch: Labelled) -> int:
        return len(batch.labels)

    def valid_score(self, model: Model) -> Result:
        return self._score(model, self.valid)

    def test_score(self, model: Model) -> Result:
        return self._score(model, self.test)

    @torch.no_grad()
    def _score(self, model: Model, examples: LabelledTexts) -> Result:
        table = torch.zeros(len(self.labels), len(self.labels))  # right label, answered label
        for batch in scoring_batches(model, examples, self.recipe.training.batch_tokens):
            answered = self.scores(model, batch).argmax(dim=-1)
            table.index_put_((batch.labels.cpu(), answered.cpu()), torch.ones(len(answered)), accumulate=True)
        hits = table.diagonal()
        accuracy = 100 * float(hits.sum() / table.sum())
        f1 = 100 * float((2 * hits / (table.sum(dim=0) + table.sum(dim=1)).clamp_min(1)).mean())
        return Result({"accuracy": accuracy, "f1": f1}, accuracy)


def _tokenised(codec: Subwords, labels: tuple[str, ...], longest: int, texts: list[Text]) -> Iterator[Row]:
    """Texts longer than `longest` lose their middle's end: the first tokens and the last one are kept."""
    numbers = {label: number for number, label in enumerate(labels)}
    encodings = codec.inner.encode_batch(
        [text.text if text.second is None else (text.text, text.second) for text in texts]
    )
    for text, encoding in zip(texts, encodings, strict=True):
        ids, segments = (
            row if len(row) <= longest else [*row[: longest - 1], row[-1]] for row in (encoding.ids, encoding.type_ids)
        )
        yield ids, segments, [numbers[text.label]]
