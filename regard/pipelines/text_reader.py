"""A loaded encoder or classifier: it embeds texts, fills in hidden words, tells classes, and explains itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.result import Result
from regard.explain.trace import Side, Trace
from regard.explain.views import ask, options_of
from regard.layers.packed import packed
from regard.modalities.subwords import Subwords
from regard.modalities.text import Piece
from regard.models.base import Model
from regard.models.bert import Bert, sentence_embeddings
from regard.models.gpt import GPT
from regard.models.ulmfit import Ulmfit, class_probabilities
from regard.pipelines.bulk import FileRunner
from regard.pipelines.encoding import by_length
from regard.pipelines.explanation import Explanation, explain_traced
from regard.sequences import Sequences

_CLASSES = "classification"
_WORTH_PACKING = 64


@dataclass(frozen=True)
class Choice:
    """One of several answers and its probability."""

    text: str
    probability: float


class TextReader(FileRunner):
    """A model with its tokenizer."""

    def __init__(self, name: str, model: Model, tokenizer: Subwords) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.model: Any = model
        self._packed: tuple[tuple[Any, ...], Any] | None = None

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it can be asked: `classify`, `fill`, `embed`."""
        if not isinstance(self.model, Bert):
            return ("classify",)
        heads = self.model.config.heads
        named = {"classification": "classify", "masked_words": "fill"}
        return (*(named[head] for head in heads if head in named), "embed")

    def embed(
        self, texts: Sequence[str], pooling: str = "mean", precision: str = "fp32"
    ) -> Float[Tensor, "texts width"]:
        """One vector of length 1 a text: dot products are cosines. `pooling`: mean, or first (the [CLS] token).

        `precision`: bf16 multiplies matrices in bfloat16, a few times as fast where the processor can.
        """
        self._needs("embed")
        if pooling not in ("mean", "first"):
            raise RegardError(f"pooling is mean or first, not {pooling!r}")
        model = self._for(len(texts), precision)
        ids = self.check_many(texts)
        if not ids:
            return torch.empty(0, self.model.config.width)
        return by_length(ids, lambda batch: sentence_embeddings(model.hidden(batch), pooling), self.model.device)  # type: ignore[arg-type]

    def classify(self, texts: Sequence[str], precision: str = "fp32") -> list[list[Choice]]:
        """For each text the classes with their probabilities, the most probable first; `precision` see `embed`."""
        self._needs("classify")
        model = self._for(len(texts), precision)

        def probabilities(batch: Sequences) -> Tensor:
            if isinstance(model, Ulmfit):
                return class_probabilities([model], batch)
            scores = model.classify(batch) if isinstance(model, GPT) else model(batch)[_CLASSES]
            found: Tensor = scores.softmax(dim=-1)
            return found

        ids = self.check_many(texts)
        if not ids:
            return []
        return [_ranked(self.model.config.labels, row) for row in by_length(ids, probabilities, self.model.device)]

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
        """What `rows` tells of a text: `classes`, hidden `words`, or its `embedding`."""
        found = {"classify": "classes", "fill": "words", "embed": "embedding"}
        return next(kind for ability, kind in found.items() if ability in self.abilities)

    def rows(self, texts: Sequence[str], precision: str = "fp32") -> Iterator[dict[str, Any]]:
        """For each text what `regard run --jsonl` prints: classes, hidden words or a vector, whichever it is for."""
        if self.kind == "classes":
            for text, classes in zip(texts, self.classify(texts, precision), strict=True):
                best, listed = classes[0], [asdict(one) for one in classes]
                yield {"source": text, "answer": f"{best.text}\t{best.probability:.4f}", "classes": listed}
        elif self.kind == "words":
            if precision != "fp32":
                raise RegardError(f"hidden words are filled in with fp32, not {precision}")
            for text in texts:
                words = [[asdict(one) for one in choices] for choices in self.fill(text)]
                yield {"source": text, "answer": self.answers([text])[0], "words": words}
        else:
            for text, vector in zip(texts, self.embed(texts, precision=precision).tolist(), strict=True):
                yield {"source": text, "embedding": vector}

    def answers(self, texts: Sequence[str]) -> list[str]:
        """One line a text: the most probable class, the text with its hidden words filled in, or nothing."""
        if "classify" in self.abilities:
            return [f"{one[0].text} ({one[0].probability:.2f})" for one in self.classify(texts)]
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
        pieces: dict[Side, list[list[Piece]]] = {"source": [self.tokenizer.pieces(text) for text in texts]}
        trace = Trace(self.model, self._sequences(texts), pieces=pieces)
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
        ids = self.tokenizer.encode(text)
        if self.limit is not None and len(ids) > self.limit:
            shown = text[:30] + "..." if len(text) > 30 else text
            raise RegardError(f"{shown!r} has {len(ids)} tokens, more than the {self.limit} that {self.name} accepts")
        return ids

    def check_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The same for many texts, tokenised together."""
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

    def _for(self, texts: int, precision: str) -> Any:
        """The model that answers: a packed copy where it is asked for, or where so many texts are worth it."""
        if precision not in ("fp32", "bf16"):
            raise RegardError(f"precision is fp32 or bf16, not {precision!r}")
        if not isinstance(self.model, Bert):
            if precision != "fp32":
                raise RegardError(f"precision {precision} is for BERT and its kin, not for {self.name}")
            return self.model
        if precision == "fp32" and (texts < _WORTH_PACKING or self.model.device.type != "cpu"):
            return self.model
        # Whoever changed a weight since gets a new copy.
        state = (precision, *(parameter._version for parameter in self.model.parameters()))
        if self._packed is None or self._packed[0] != state:
            self._packed = (state, packed(self.model, "bf16" if precision == "bf16" else "fp32"))
        return self._packed[1]

    def _needs(self, ability: str) -> None:
        if ability not in self.abilities:
            raise RegardError(f"{self.name} cannot {ability}: it can {' and '.join(self.abilities)}")


def _ranked(labels: Sequence[str], probabilities: Tensor) -> list[Choice]:
    found = [Choice(label, value) for label, value in zip(labels, probabilities.tolist(), strict=True)]
    return sorted(found, key=lambda choice: -choice.probability)
