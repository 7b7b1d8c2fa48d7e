"""A loaded model that turns text into text: translation, spelling to phonemes, and their explanation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.alignment import Alignment, align
from regard.explain.result import Result
from regard.explain.trace import Side, Trace
from regard.explain.views import ask, options_of
from regard.explain.words import join_keys, join_rows, words_of
from regard.generation.answers import answer
from regard.generation.looking import Head, attention_of
from regard.generation.search import Going, Hypothesis, Search, search
from regard.generation.second_opinion import SecondOpinion
from regard.modalities.subwords import SubwordCodec
from regard.modalities.text import Codec, Piece
from regard.models.base import Model
from regard.models.seq2seq import Seq2Seq
from regard.pipelines.bulk import FileRunner
from regard.pipelines.explanation import Explanation, explain_traced
from regard.pipelines.prepared import Prepared
from regard.pipelines.searching import drafting, in_tokens
from regard.sequences import Sequences


class TextToText(Prepared, FileRunner):
    """A model with its tokenizers."""

    def __init__(self, name: str, model: Model, codec: Codec | SubwordCodec, folder: Path | None = None) -> None:
        """`folder`: the model's, where its second opinion is if it has one."""
        self.name, self.codec, self.folder = name, codec, folder
        self.model: Any = model

    def translate(self, texts: Sequence[str], beams: int = 1, length_penalty: float = 0.6, **options: Any) -> list[str]:
        """The best answer to each text; the other options are those of `hypotheses`."""
        answers = self.hypotheses(texts, beams, length_penalty, **options)
        return [self.codec.target.decode(found[0].tokens) for found in answers]

    def hypotheses(
        self, texts: Sequence[str], beams: int = 1, length_penalty: float = 0.6, **options: Any
    ) -> list[list[Hypothesis]]:
        """All answers found to each text, the best first, with their scores.

        `options`: those of `regard.generation.settings.Search` by name, with `prefix`, `must` and `must_not` as text;
        `draft`, a smaller model or "source"; `numbers` of the texts (by default from 0), on which samples depend.
        """
        found: list[list[Hypothesis]] = [[] for _ in texts]
        for number, answers in self.stream(texts, beams, length_penalty, **options):
            found[number] = answers
        return found

    def stream(
        self,
        texts: Sequence[str],
        beams: int = 1,
        length_penalty: float = 0.6,
        draft: Any = None,
        numbers: Sequence[int] | None = None,
        **options: Any,
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Answers as they are found, each with the number of its text; alike lengths come together."""
        how = self.search(beams, length_penalty, **options)
        drafts = drafting(draft, self)
        for text in texts:
            self.check(text)
        generator, device = self.generator(), self.model.device
        opinion = self.opinion if how.beams > 1 else None
        given = {"device": device, "draft": drafts, "numbers": numbers, "opinion": opinion}
        yield from answer(generator, self.codec, texts, how, **given)

    @cached_property
    def opinion(self) -> SecondOpinion | None:
        """What ranks the answers of a beam search, read when first asked for. Explanations are of the model alone."""
        return SecondOpinion.load(self.folder) if self.folder else None

    kind = "hypotheses"

    def rows(
        self,
        texts: Sequence[str],
        numbers: Sequence[int] | None = None,
        alignment: bool = False,
        heads: Sequence[Head] = (),
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        """For each text what `regard run --jsonl` prints: source, answer, hypotheses, and `alignment` if wished.

        With `heads` alignment is theirs, and `attention` tells where they looked; the rest is for `hypotheses`.
        """
        for text, found in zip(texts, self.hypotheses(texts, numbers=numbers, **options), strict=True):
            listed = [
                {"text": self.codec.target.decode(one.tokens), "score": one.score, "log_p": one.log_probability}
                for one in found
            ]
            row: dict[str, Any] = {"source": text, "answer": listed[0]["text"], "hypotheses": listed}
            if alignment and self.aligns:
                row["alignment"] = self.align(text, found[0].tokens, heads).pharaoh()
            if heads:
                row["attention"] = self.attention(text, found[0].tokens, heads).tolist()
            yield row

    def search(self, beams: int, length_penalty: float, **options: Any) -> Search:
        config, target = self.model.config, self.codec.target
        special = {config.bos_token_id, config.eos_token_id, config.pad_token_id}
        special |= {getattr(config, "forced_bos_token_id", None)}
        given = in_tokens(options, target.encode, target.decode, special)
        return Search.of_translator(config, beams, length_penalty, **given)

    def vocabulary(self) -> dict[str, int]:
        """Number of each token that it writes."""
        return dict(self.codec.target.inner.get_vocab())

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

    def answers(self, texts: Sequence[str]) -> list[str]:
        """What stands beside each text in an explanation: its translation."""
        return self.translate(texts)

    def ask(self, views: Sequence[str], *texts: str, **options: Any) -> list[Result]:
        """Ask views by name (`regard explain --list`), each with the options that it takes.

        With `beams` the generation view shows the beam as a tree.
        """
        beams = options.pop("beams", 1)
        seen: list[Going] = []
        if beams > 1:
            source = Sequences.of_ids([self.check(text) for text in texts], self.model.device)
            found = search(self.generator(), source, self.search(beams, 0.6), seen)
            return ask(self.trace(texts, [one[0].tokens for one in found]), views, options_of(options, seen=seen))
        return ask(self.trace(texts), views, options_of(options))

    def trace(self, texts: Sequence[str], answers: Sequence[Sequence[int]] | None = None) -> Trace:
        """A trace over source texts and what the model answers to them (or other target ids, without the end)."""
        sources = [self.check(text) for text in texts]
        if answers is None:
            answers = [found[0].tokens for found in self.hypotheses(texts)]
        begun = [[self.model.config.bos_token_id, *ids] for ids in answers]
        pieces: dict[Side, list[list[Piece]]] = {
            "source": [self.codec.source.pieces(text) for text in texts],
            "target": [self.codec.target.pieces_of(ids) for ids in begun],
            "produced": [self.produced(ids) for ids in answers],
        }
        device = self.model.device
        given = Sequences.of_ids(sources, device), Sequences.of_ids(begun, device)
        trace = Trace(self.model, *given, pieces=pieces)
        trace.texts = list(texts)
        trace.spell, trace.spell_source = self.codec.target.spell, self.codec.source.spell
        return trace

    def explain(
        self, *texts: str, query: str | int | None = None, layer: int = 0, head: int | None = None
    ) -> Explanation:
        """The complete process for one query of the first text; with several texts also a word's context in each.

        `query`: a word of the texts, by default the first that all of them have; layers and heads count from 0.
        """
        if not texts:
            raise RegardError("give at least one text to explain")
        answers = [found[0].tokens for found in self.hypotheses(texts)]
        trace = self.trace(texts, answers)
        decoded = [self.codec.target.decode(ids) for ids in answers]
        explanation = explain_traced(self.name, trace, texts, decoded, query, layer, head)
        if not self.aligns:
            return explanation
        alignments = [align(trace, row=row) for row in range(len(texts))]
        return replace(explanation, alignments=alignments)

    @property
    def aligns(self) -> bool:
        """Whether it has attention between source and target to align by."""
        return not isinstance(self.model, Seq2Seq)

    def align(self, text: str, answer: Sequence[int], heads: Sequence[Head] = ()) -> Alignment:
        """Word alignment between a text and an answer to it, by chunks between blanks (Pharaoh's way of counting).

        From the mean of the named heads, (layer, head) from 0, which costs less; without names by a trace.
        """
        if not heads:
            return align(self.trace([text], [answer]), by_chunk=True)
        weights = self.attention(text, answer, heads).mean(dim=0)
        source = words_of(self.codec.source.pieces(text), by_chunk=True)
        target = words_of(self.produced(answer), by_chunk=True)
        layer, head = heads[0]
        joined = join_rows(join_keys(weights, source), target)
        return Alignment(source, target, joined, layer, head if len(heads) == 1 else None)

    def attention(
        self, text: str, answer: Sequence[int], heads: Sequence[Head]
    ) -> Float[Tensor, "heads produced source"]:
        """Where each token of an answer looked, the end token last: cross-attention of the named (layer, head)."""
        source = Sequences.of_ids([self.check(text)], self.model.device)
        return attention_of(self.model, source, [answer], heads, self.search(1, 0.0))[0]

    def produced(self, ids: Sequence[int]) -> list[Piece]:
        """Pieces of an answer, the end token last."""
        return self.codec.target.pieces_of([*ids, self.model.config.eos_token_id])
