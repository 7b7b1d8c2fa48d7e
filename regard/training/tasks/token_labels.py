"""A label for each word, such as the names in a text: BERT, section 5.3. BIO labels are scored by whole entities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.data.blocks import Labelled, LabelledTexts
from regard.data.labelled_words import NONE, Sentence, cut_words, read_sentences
from regard.errors import RegardError
from regard.modalities.subwords import Subwords
from regard.models.base import Model
from regard.models.bert import Bert
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import scoring_batches
from regard.training.tasks.language_model import encoder_of, subwords_of
from regard.training.tasks.reading import PARTS, Parts, counts_of, labels_of


@dataclass(frozen=True)
class TokenLabelsTask:
    """Accuracy over words; precision, recall and F1 of entities (Tjong Kim Sang & De Meulder 2003)."""

    recipe: Recipe
    codec: Subwords
    labels: tuple[str, ...]
    train: LabelledTexts
    valid: LabelledTexts
    test: LabelledTexts
    counts: dict[str, int]

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> TokenLabelsTask:
        data = recipe.data
        parts = Parts(
            recipe,
            lambda part: read_sentences(getattr(data, part), data.text_field, data.label_field),
            lambda sentence: (" ".join(sentence.words),),
            "sentences",
        )
        labels = labels_of(parts, lambda sentence: sentence.labels)
        codec, numbers = subwords_of(recipe, parts, begun), {label: number for number, label in enumerate(labels)}

        def rows(sentences: list[Sentence]) -> Iterator[tuple[Sequence[int], ...]]:
            for one in sentences:
                for piece in cut_words(codec, one.words, data.max_tokens):
                    answers = [NONE if word < 0 else numbers[one.labels[word]] for word in piece.places]
                    yield piece.ids, [0] * len(piece.ids), answers

        tables = [parts.table(part, rows, 3, codec.inner.to_str(), labels) for part in PARTS]
        train, valid, test = (LabelledTexts(*table.columns) for table in tables)
        return cls(recipe, codec, labels, train, valid, test, counts_of(*tables))

    def make_model(self) -> Model:
        return encoder_of(self.recipe, self.codec, ["token_labels"], pooler=None, labels=self.labels)

    def loss(self, model: Bert, batch: Labelled, smoothing: float) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the labels of words."""
        scores = model(batch.inputs)["token_labels"]
        plain = F.cross_entropy(scores, batch.labels)
        loss = F.cross_entropy(scores, batch.labels, label_smoothing=smoothing) if smoothing else plain
        return loss, plain.detach()

    def predictions(self, batch: Labelled) -> int:
        return int((batch.labels != NONE).sum())

    def valid_score(self, model: Bert) -> Result:
        return self._score(model, self.valid)

    def test_score(self, model: Bert) -> Result:
        return self._score(model, self.test)

    @torch.no_grad()
    def _score(self, model: Bert, examples: LabelledTexts) -> Result:
        right: list[list[str]] = []
        answered: list[list[str]] = []
        for batch in scoring_batches(model, examples, self.recipe.training.batch_tokens):
            found = model(batch.inputs)["token_labels"].argmax(dim=-1)
            lengths = list(batch.inputs.lengths)
            for wanted, got in zip(batch.labels.split(lengths), found.split(lengths), strict=True):
                words = wanted != NONE
                right.append([self.labels[number] for number in wanted[words].tolist()])
                answered.append([self.labels[number] for number in got[words].tolist()])
        return label_scores(right, answered)


def label_scores(right: Sequence[Sequence[str]], answered: Sequence[Sequence[str]]) -> Result:
    """Accuracy of words; where the labels are `O`, `B-...` and `I-...` also of entities, by the package seqeval."""
    words = sum(len(row) for row in right)
    hits = sum(
        one == other for row, got in zip(right, answered, strict=True) for one, other in zip(row, got, strict=True)
    )
    accuracy = 100 * hits / max(1, words)
    if not all(label == "O" or label[:2] in ("B-", "I-") for row in right for label in row):
        return Result({"accuracy": accuracy}, accuracy)
    try:
        from seqeval.metrics import f1_score, precision_score, recall_score
    except ImportError as error:
        raise RegardError("scores of entities need the package seqeval: pip install seqeval") from error
    both = [list(row) for row in right], [list(row) for row in answered]
    measures = {"entity_f1": f1_score, "precision": precision_score, "recall": recall_score}
    scores = {name: 100 * float(measure(*both, zero_division=0)) for name, measure in measures.items()}
    return Result({**scores, "accuracy": accuracy}, scores["entity_f1"])
