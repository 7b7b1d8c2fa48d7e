"""A loaded model that turns text into text: what `regard.load` gives, and what every command works with.

>>> translator = regard.load("en-fr")
>>> translator.translate(["Open the file."])
['Ouvrez le fichier.']
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from regard.errors import RegardError
from regard.explain.alignment import Alignment, align
from regard.explain.context import Context, compare
from regard.explain.trace import Trace
from regard.explain.walkthrough import Walkthrough, walk
from regard.generation.answers import answer
from regard.generation.search import Hypothesis, Search
from regard.modalities.text import Codec, Piece
from regard.models.transformer import Transformer
from regard.pretrained import DEFAULT, find
from regard.sequences import Sequences


def load(name_or_folder: str = DEFAULT) -> TextToText:
    """A model by its name in the package, or from a model folder or a training run's folder.

    Raises RegardError for an unknown name (with the nearest) and for a missing or damaged folder.
    """
    folder = find(name_or_folder)
    codec = Codec.load(folder)
    model = Transformer.load(folder)
    if max(codec.source.vocab_size, codec.target.vocab_size) > model.config.vocab_size:
        raise RegardError(
            f"{folder}: the tokenizer has {codec.source.vocab_size} tokens, the model {model.config.vocab_size}"
        )
    return TextToText(name_or_folder, model, codec)


@dataclass(frozen=True)
class Explanation:
    """What `regard explain` shows: one text's walkthrough, the comparison of several, answers and alignments."""

    model: str
    texts: list[str]
    answers: list[str]
    walkthrough: Walkthrough
    context: Context | None
    """None for a single text."""
    alignments: list[Alignment]

    def to_dict(self) -> dict[str, object]:
        return {
            "model": self.model,
            "texts": self.texts,
            "answers": self.answers,
            "walkthrough": self.walkthrough.to_dict(),
            "context": self.context.to_dict() if self.context else None,
            "alignments": [one.to_dict() for one in self.alignments],
        }


class TextToText:
    """A model with its tokenizers."""

    def __init__(self, name: str, model: Transformer, codec: Codec) -> None:
        self.name, self.model, self.codec = name, model, codec

    def translate(self, texts: Sequence[str], beams: int = 1, length_penalty: float = 0.6) -> list[str]:
        """The best answer to each text."""
        answers = self.hypotheses(texts, beams, length_penalty)
        return [self.codec.target.decode(found[0].tokens) for found in answers]

    def hypotheses(self, texts: Sequence[str], beams: int = 1, length_penalty: float = 0.6) -> list[list[Hypothesis]]:
        """All answers found to each text, the best first, with their scores."""
        found: list[list[Hypothesis]] = [[] for _ in texts]
        for number, answers in self.stream(texts, beams, length_penalty):
            found[number] = answers
        return found

    def stream(
        self, texts: Sequence[str], beams: int = 1, length_penalty: float = 0.6
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Answers as they are found, each with the number of its text; alike lengths come together."""
        if beams < 1:
            raise RegardError(f"beams must be 1 (greedy) or more, not {beams}")
        for text in texts:
            self.check(text)
        yield from answer(self.model, self.codec, texts, self.search(beams, length_penalty))

    def search(self, beams: int, length_penalty: float) -> Search:
        config = self.model.config
        forbidden = (config.pad_token_id, config.bos_token_id)
        room = config.max_position_embeddings
        return Search(config.bos_token_id, config.eos_token_id, beams, length_penalty, limit=room, forbidden=forbidden)

    def check(self, text: str) -> list[int]:
        """Token ids of a text; RegardError if it is empty or longer than the model's limit."""
        if not text.strip():
            raise RegardError("the text is empty: give at least one word")
        ids = self.codec.source.encode(text)
        limit = self.model.config.max_position_embeddings
        if len(ids) > limit:
            shown = text[:30] + "..." if len(text) > 30 else text
            raise RegardError(f"{shown!r} has {len(ids)} tokens, more than the {limit} that {self.name} accepts")
        return ids

    def trace(self, texts: Sequence[str], answers: Sequence[Sequence[int]] | None = None) -> Trace:
        """A trace over source texts and what the model answers to them (or other target ids, without the end)."""
        sources = [self.check(text) for text in texts]
        if answers is None:
            answers = [found[0].tokens for found in self.hypotheses(texts)]
        begun = [[self.codec.target.bos, *ids] for ids in answers]
        return Trace(self.model, Sequences.of_ids(sources), Sequences.of_ids(begun))

    def explain(self, *texts: str, query: str | None = None, layer: int = 0, head: int | None = None) -> Explanation:
        """The complete process for one query of the first text; with several texts also a word's context in each.

        `query`: a word of the texts, by default the first that all of them have; layers and heads count from 0.
        """
        if not texts:
            raise RegardError("give at least one text to explain")
        answers = [found[0].tokens for found in self.hypotheses(texts)]
        trace = self.trace(texts, answers)
        sources = [self.codec.source.pieces(text) for text in texts]
        context = None
        if len(texts) > 1:
            context = compare(trace, texts, sources, query, layer, head)
            query = context.word
        walkthrough = walk(trace, sources[0], query, layer, head)
        return Explanation(
            self.name,
            list(texts),
            [self.codec.target.decode(ids) for ids in answers],
            walkthrough,
            context,
            [align(trace, sources[row], self.produced(ids), row=row) for row, ids in enumerate(answers)],
        )

    def align(self, text: str, answer: Sequence[int]) -> Alignment:
        """Word alignment between a text and an answer to it, by chunks between blanks (Pharaoh's way of counting)."""
        trace = self.trace([text], [answer])
        return align(trace, self.codec.source.pieces(text), self.produced(answer), by_chunk=True)

    def produced(self, ids: Sequence[int]) -> list[Piece]:
        """Pieces of an answer, the end token last."""
        return self.codec.target.pieces_of([*ids, self.codec.target.eos])
