"""Answers that are spans of a text: BERT, section 4.2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from regard.data.blocks import Labelled, LabelledTexts
from regard.data.spans import Question, answer_scores, find_answer, read_questions, span_in, windows
from regard.errors import RegardError
from regard.modalities.subwords import Subwords
from regard.models.base import Model
from regard.models.bert import Bert, span_loss
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks.language_model import encoder_of, subwords_of
from regard.training.tasks.reading import PARTS, Parts, blocks, counts_of


@dataclass(frozen=True)
class SpansTask:
    """Exact match and F1 of the answers' words."""

    recipe: Recipe
    codec: Subwords
    parts: Parts[Question]
    train: LabelledTexts
    valid: LabelledTexts
    counts: dict[str, int]

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> SpansTask:
        data = recipe.data
        if not data.second_field:
            raise RegardError("spans need data.second_field: the field that holds the question")

        def read(part: str) -> Iterator[Question]:
            return read_questions(getattr(data, part), data.second_field, data.text_field, data.label_field)

        parts = Parts(recipe, read, lambda one: (one.question, one.context), "questions")
        codec = subwords_of(recipe, parts, begun)

        def rows(questions: list[Question]) -> Iterator[tuple[Sequence[int], ...]]:
            for one in questions:
                for window in windows(codec, one.question, one.context, data.max_tokens):
                    yield window.ids, window.segments, span_in(window, one)

        tables = [parts.table(part, rows, 3, codec.inner.to_str()) for part in PARTS]
        train, valid, _ = (LabelledTexts(*table.columns) for table in tables)
        return cls(recipe, codec, parts, train, valid, counts_of(*tables))

    def make_model(self) -> Model:
        return encoder_of(self.recipe, self.codec, ["spans"], pooler=None)

    def loss(self, model: Bert, batch: Labelled, smoothing: float) -> tuple[Tensor, Tensor]:
        """Of the first and the last token; labels are not smoothed."""
        segments = batch.segments.values if model.config.type_vocab_size > 1 else None
        scores = model(batch.inputs, segments)["spans"]
        first, last = batch.labels.view(-1, 2).unbind(dim=1)
        loss = span_loss(scores, batch.inputs.layout, first, last)
        return loss, loss.detach()

    def predictions(self, batch: Labelled) -> int:
        return len(batch.inputs)

    def valid_score(self, model: Bert) -> Result:
        return self._score(model, "valid")

    def test_score(self, model: Bert) -> Result:
        return self._score(model, "test")

    def _score(self, model: Bert, part: str) -> Result:
        model.eval()
        exact = f1 = 0.0
        count = 0
        for block in blocks(self.parts(part)):
            answers = []
            for one in block:
                cut = windows(self.codec, one.question, one.context, self.recipe.data.max_tokens)
                found = find_answer(model, cut)
                answers.append("" if found is None else one.context[found.begin : found.end])
            share = answer_scores(answers, block)
            exact, f1, count = exact + share[0] * len(block), f1 + share[1] * len(block), count + len(block)
        model.train()
        return Result({"exact_match": exact / count, "word_f1": f1 / count}, f1 / count)
