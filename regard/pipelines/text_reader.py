"""A loaded encoder or classifier: it embeds texts, fills in hidden words, tells classes, and explains itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.data.labelled_words import cut_words
from regard.data.spans import find_answer, windows
from regard.errors import RegardError
from regard.explain.result import Result
from regard.explain.trace import Side, Trace
from regard.explain.views import ask, options_of
from regard.generation.encoding import prepare_encoder
from regard.layers.packed import packed
from regard.modalities.subwords import Subwords
from regard.modalities.text import Piece
from regard.models.base import Model
from regard.models.bert import Bert, sentence_embeddings
from regard.models.gpt import GPT
from regard.models.ulmfit import Ulmfit, class_probabilities
from regard.native.matrices import Precision, checked_precision
from regard.pipelines.bulk import FileRunner
from regard.pipelines.encoding import by_length
from regard.pipelines.explanation import Explanation, explain_traced
from regard.pipelines.prepared import made_of
from regard.sequences import Sequences

_CLASSES = "classification"
_WORTH_PACKING = 64


@dataclass(frozen=True)
class Choice:
    """One of several answers and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class LabelledWord:
    """A word, its label, and that one's probability."""

    word: str
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """A span of a text, where it begins and ends in it, and its probability."""

    text: str
    begin: int
    end: int
    probability: float


def parts_of(text: str) -> tuple[str, str]:
    """The two texts of a pair, a tab between them."""
    first, _, second = text.partition("\t")
    return first, second


class TextReader(FileRunner):
    """A model with its tokenizer."""

    precision: Precision = "fp32"
    """Of the weights; explanations are always fp32."""

    def __init__(self, name: str, model: Model, tokenizer: Subwords) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.model: Any = model
        self._packed: tuple[tuple[Any, ...], Any] | None = None

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it can be asked: `classify`, `label`, `find`, `fill`, `embed`."""
        if not isinstance(self.model, Bert):
            return ("classify",)
        heads = self.model.config.heads
        named = {"classification": "classify", "token_labels": "label", "spans": "find", "masked_words": "fill"}
        return (*(named[head] for head in heads if head in named), "embed")

    def embed(
        self, texts: Sequence[str], pooling: str = "mean", precision: str | None = None
    ) -> Float[Tensor, "texts width"]:
        """One vector of length 1 a text: dot products are cosines. `pooling`: mean, or first (the [CLS] token).

        `precision`: fp32, bf16 or int8 matrices, by default that of `regard.load`; the smaller ones are a few times as
        fast where the processor can.
        """
        self._needs("embed")
        if pooling not in ("mean", "first"):
            raise RegardError(f"pooling is mean or first, not {pooling!r}")
        ready = self._ready(len(texts), precision)
        ids = self.check_many(texts)
        if not ids:
            return torch.empty(0, self.model.config.width)
        return by_length(ids, lambda batch: sentence_embeddings(ready.hidden(batch), pooling), self.model.device)  # type: ignore[arg-type]

    def classify(self, texts: Sequence[str], precision: str | None = None) -> list[list[Choice]]:
        """For each text, or pair with a tab between, the classes with their probabilities, the most probable first.

        `precision` see `embed`; pairs are read in fp32.
        """
        self._needs("classify")
        ready, model = self._ready(len(texts), precision), self.model

        def probabilities(batch: Sequences) -> Tensor:
            if isinstance(model, Ulmfit):
                return class_probabilities([model], batch)
            scores = model.classify(batch) if isinstance(model, GPT) else model.answer(_CLASSES, ready.hidden(batch))
            found: Tensor = scores.softmax(dim=-1)
            return found

        if self._segments(texts) is not None:
            with torch.no_grad():
                found: Tensor = model.answer(_CLASSES, self._hidden(texts)).softmax(dim=-1)
        elif ids := self.check_many(texts):
            found = by_length(ids, probabilities, model.device)
        else:
            return []
        return [_ranked(model.config.labels, row) for row in found]

    @torch.no_grad()
    def label(self, texts: Sequence[str]) -> list[list[LabelledWord]]:
        """For each text its words (what stands between blanks), each with its most probable label.

        A word's label is that of its first token; texts of any length are read in pieces.
        """
        self._needs("label")
        return [self._labelled(text) for text in texts]

    def _labelled(self, text: str) -> list[LabelledWord]:
        words = text.split()
        if not words:
            raise RegardError("the text is empty: give at least one word")
        labels = self.model.config.labels
        found = [LabelledWord(word, "O" if "O" in labels else labels[0], 0.0) for word in words]  # a word of no token
        for piece in cut_words(self.tokenizer, words, self.limit or 512):
            hidden = self.model.hidden(Sequences.of_ids([piece.ids], self.model.device))
            best = self.model.answer("token_labels", hidden).softmax(dim=-1).max(dim=-1)
            for place, word in enumerate(piece.places):
                if word >= 0:
                    chosen = labels[int(best.indices[place])]
                    found[word] = LabelledWord(words[word], chosen, float(best.values[place]))
        return found

    def find(self, question: str, text: str) -> Answer | None:
        """The span of a text that answers a question, and its place (signs, from 0); None where it holds none.

        Texts of any length are read in windows that overlap.
        """
        self._needs("find")
        if not question.strip() or not text.strip():
            raise RegardError("a question and a text are needed, a tab between them: QUESTION<tab>TEXT")
        found = find_answer(self.model, windows(self.tokenizer, question, text, self.limit or 512))
        return None if found is None else Answer(text[found.begin : found.end], *found)

    @torch.no_grad()
    def fill(self, text: str, count: int = 5) -> list[list[Choice]]:
        """For each hidden word of a text (written as the tokenizer's mask token) the most probable words."""
        self._needs("fill")
        mask = self.tokenizer.special.mask
        ids = self.check(text)
        places = [place for place, token in enumerate(ids) if token == mask]
        if mask is None or not places:
            name = None if mask is None else self.tokenizer.inner.id_to_token(mask)
            raise RegardError(f"there is no hidden word to fill in: write {name} for it")
        hidden = self.model.hidden(Sequences.of_ids([ids], self.model.device)).values
        scores = self.model.words(hidden[places]).softmax(dim=-1)
        best = scores.topk(min(count, scores.shape[1]), dim=-1)
        return [
            [Choice(self.tokenizer.decode([token]), value) for token, value in zip(tokens, values, strict=True)]
            for tokens, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @property
    def kind(self) -> str:
        """What `rows` tells of a text: `classes`, labelled or hidden `words`, a `span`, or its `embedding`."""
        found = {"classify": "classes", "label": "words", "find": "span", "fill": "words", "embed": "embedding"}
        return next(kind for ability, kind in found.items() if ability in self.abilities)

    def rows(
        self, texts: Sequence[str], numbers: Sequence[int] | None = None, precision: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """For each text what `regard run --jsonl` prints, one kind of answer (`kind`) beside its source."""
        chosen = precision or self.precision
        if self.kind in ("words", "span") and chosen != "fp32":
            raise RegardError(f"{self.name} answers word by word, which is done in fp32, not in {chosen}")
        if self.kind == "classes":
            for text, classes in zip(texts, self.classify(texts, precision), strict=True):
                best, listed = classes[0], [asdict(one) for one in classes]
                yield {"source": text, "answer": f"{best.text}\t{best.probability:.4f}", "classes": listed}
        elif self.kind == "embedding":
            for text, vector in zip(texts, self.embed(texts, precision=precision).tolist(), strict=True):
                yield {"source": text, "embedding": vector}
        else:
            yield from (self._word_row(text) for text in texts)

    def _word_row(self, text: str) -> dict[str, Any]:
        """Labelled words, a span, or hidden words."""
        if "label" in self.abilities:
            [labelled] = self.label([text])
            shown = " ".join(f"{one.word}/{one.label}" for one in labelled)
            return {"source": text, "answer": shown, "words": [asdict(one) for one in labelled]}
        if self.kind == "span":
            span = self.find(*parts_of(text))
            shown = "" if span is None else f"{span.text}\t{span.begin}\t{span.end}\t{span.probability:.4f}"
            return {"source": text, "answer": shown, "span": None if span is None else asdict(span)}
        words = [[asdict(one) for one in choices] for choices in self.fill(text)]
        return {"source": text, "answer": self.answers([text])[0], "words": words}

    def answers(self, texts: Sequence[str]) -> list[str]:
        """One line a text: the most probable class, words and labels, a span, hidden words filled in, or nothing."""
        if "classify" in self.abilities:
            return [f"{one[0].text} ({one[0].probability:.2f})" for one in self.classify(texts)]
        if "label" in self.abilities:
            return [" ".join(f"{one.word}/{one.label}" for one in row) for row in self.label(texts)]
        if "find" in self.abilities:
            found = [self.find(*parts_of(text)) if "\t" in text else None for text in texts]
            return ["" if one is None else f"{one.text} ({one.begin}-{one.end})" for one in found]
        mask = self.tokenizer.special.mask
        name = None if mask is None else self.tokenizer.inner.id_to_token(mask)
        if "fill" not in self.abilities or name is None:
            return ["" for _ in texts]
        return [self._filled(text, name) if name in text else "" for text in texts]

    def ask(self, views: Sequence[str], *texts: str, **options: Any) -> list[Result]:
        """Ask views by name (`regard explain --list`), each with the options that it takes."""
        return ask(self.trace(texts), views, options_of(options))

    def trace(self, texts: Sequence[str]) -> Trace:
        """A trace over texts."""
        read = [self.tokenizer.pieces(text, second) for text, second in map(self._pair, texts)]
        pieces: dict[Side, list[list[Piece]]] = {"source": read}
        trace = Trace(self.model, self._sequences(texts), segments=self._segments(texts), pieces=pieces)
        trace.texts = list(texts)
        trace.spell = trace.spell_source = self.tokenizer.spell
        return trace

    def explain(
        self, *texts: str, query: str | int | None = None, layer: int = 0, head: int | None = None
    ) -> Explanation:
        """The complete process for one word of the first text; with several texts also a word's context in each."""
        if not texts:
            raise RegardError("give at least one text to explain")
        trace = self.trace(texts)
        if query is None and len(texts) == 1:  # the first token is [CLS]: begin with a word
            query = next((piece.text for piece in trace.pieces["source"][0] if piece.word is not None), None)
        return explain_traced(self.name, trace, texts, self.answers(texts), query, layer, head)

    def check(self, text: str) -> list[int]:
        """Token ids of a text; RegardError if it is empty or longer than the model's limit."""
        if not text.strip():
            raise RegardError("the text is empty: give at least one word")
        ids = self.tokenizer.encode(*self._pair(text))
        if self.limit is not None and len(ids) > self.limit:
            shown = text[:30] + "..." if len(text) > 30 else text
            raise RegardError(f"{shown!r} has {len(ids)} tokens, more than the {self.limit} that {self.name} accepts")
        return ids

    def check_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for many texts, tokenised together."""
        if any("\t" in text for text in texts):  # perhaps pairs
            return [self.check(text) for text in texts]
        ids = self.tokenizer.encode_many(texts)
        for text, found in zip(texts, ids, strict=True):
            if not text.strip() or (self.limit is not None and len(found) > self.limit):
                self.check(text)
        return ids

    @property
    def limit(self) -> int | None:
        """Longest text, in tokens; None where there is no limit (ULMFiT)."""
        config = self.model.config
        if isinstance(self.model, Bert):
            return int(config.max_position_embeddings - config.first_position)
        return int(config.n_positions) if isinstance(self.model, GPT) else None

    def _filled(self, text: str, mask: str) -> str:
        for choices in self.fill(text, count=1):
            text = text.replace(mask, choices[0].text, 1)
        return text

    def _sequences(self, texts: Sequence[str]) -> Sequences:
        return Sequences.of_ids([self.check(text) for text in texts], self.model.device)

    def _ready(self, texts: int, precision: str | None) -> Any:
        """What gives hidden states: the model; or packed weights, if one asks for them or many texts pay for it."""
        chosen = checked_precision(precision or self.precision)
        if not isinstance(self.model, Bert):
            if chosen != "fp32":
                raise RegardError(f"precision {chosen} is for BERT and its kin, not for {self.name}")
            return self.model
        if chosen == "fp32" and (texts < _WORTH_PACKING or self.model.device.type != "cpu"):
            return self.model
        state = made_of(self.model, chosen)
        if self._packed is None or self._packed[0] != state:
            # oneDNN's matrices are the fastest in fp32, the native ones in what is smaller (docs/log.md).
            made = None if chosen == "fp32" else prepare_encoder(self.model, chosen)
            if made is None and chosen == "int8":
                raise RegardError("int8 needs the native kernels, which were not built here: choose bf16 or fp32")
            self._packed = (state, made or packed(self.model, "fp32" if chosen == "fp32" else "bf16"))
        return self._packed[1]

    def _pair(self, text: str) -> tuple[str, str | None]:
        """The two texts of a pair, where the model judges pairs and a tab stands between them."""
        judging = {"classify", "find"} & set(self.abilities) and not isinstance(self.model, Ulmfit)
        return parts_of(text) if judging and "\t" in text.strip() else (text, None)

    def _segments(self, texts: Sequence[str]) -> Tensor | None:
        """Which of the two texts each token is of; None where no text is a pair, or the model knows no segments."""
        pairs = [self._pair(text) for text in texts]
        if (
            not isinstance(self.model, Bert)
            or self.model.config.type_vocab_size < 2
            or not any(two for _, two in pairs)
        ):
            return None
        numbers = [number for pair in pairs for number in self.tokenizer.encode_pair(*pair)[1]]
        return torch.tensor(numbers, device=self.model.device)

    def _hidden(self, texts: Sequence[str]) -> Sequences:
        segments = self._segments(texts)
        hidden: Sequences = self.model.hidden(self._sequences(texts), *(() if segments is None else (segments,)))
        return hidden

    def _needs(self, ability: str) -> None:
        if ability not in self.abilities:
            raise RegardError(f"{self.name} cannot {ability}: it can {' and '.join(self.abilities)}")


def _ranked(labels: Sequence[str], probabilities: Tensor) -> list[Choice]:
    found = [Choice(label, value) for label, value in zip(labels, probabilities.tolist(), strict=True)]
    return sorted(found, key=lambda choice: -choice.probability)
