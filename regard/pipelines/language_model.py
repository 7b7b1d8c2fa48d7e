"""A loaded language model: it goes on from a text, says how likely a text is, and explains itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.result import Result
from regard.explain.trace import Side, Trace
from regard.explain.views import ask, options_of
from regard.generation.answers import searched
from regard.generation.looking import Head, attention_of
from regard.generation.search import Hypothesis, Search
from regard.modalities.subwords import Subwords
from regard.modalities.text import Piece
from regard.models.base import Model
from regard.models.ulmfit import AwdLstm
from regard.pipelines.bulk import FileRunner
from regard.pipelines.explanation import Explanation, explain_traced
from regard.pipelines.prepared import Prepared
from regard.pipelines.searching import drafting, in_tokens
from regard.sequences import Sequences

_TOGETHER = 32  # texts at a time: their caches are in memory together


class LanguageModel(Prepared, FileRunner):
    """A model with its tokenizer."""

    def __init__(self, name: str, model: Model, tokenizer: Subwords) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.model: Any = model

    def generate(self, texts: Sequence[str], tokens: int = 50, beams: int = 1, **options: Any) -> list[str]:
        """Each text with what the model writes after it: up to so many tokens, or until it ends the text.

        The other options are those of `hypotheses`.
        """
        found = self.hypotheses(texts, tokens, beams, **options)
        return [text + self.continuation(text, one[0].tokens) for text, one in zip(texts, found, strict=True)]

    def hypotheses(
        self,
        texts: Sequence[str],
        tokens: int = 50,
        beams: int = 1,
        draft: Any = None,
        numbers: Sequence[int] | None = None,
        **options: Any,
    ) -> list[list[Hypothesis]]:
        """All continuations found, the best first; `tokens` of each are those that are new.

        `options`: those of `regard.generation.settings.Search` by name, with `prefix`, `must` and `must_not` as text;
        `draft`, a smaller model or "source"; `numbers` of the texts (by default from 0), on which samples depend.
        """
        how = self.search(tokens, beams, **options)
        drafts = drafting(draft, self)
        begun = [self.prompt(text) for text in texts]
        some = {"device": self.model.device, "draft": drafts, "numbers": numbers}
        found = dict(searched(self.generator(), begun, how, most=_TOGETHER * max(how.beams, how.answers), **some))
        return [found[place] for place in range(len(texts))]

    def search(self, tokens: int, beams: int = 1, length_penalty: float = 0.0, **options: Any) -> Search:
        if tokens < 1:
            raise RegardError(f"tokens must be a whole number of 1 or more, not {tokens}")
        special = self.tokenizer.special
        end = -1 if special.eos is None else special.eos
        begun = self.tokenizer.encode("")  # what a tokenizer puts around every text
        given = in_tokens(options, self.tokenizer.encode, self.tokenizer.decode, {end, *begun})
        return Search(None, end, beams, length_penalty, extra_length=tokens, limit=self.limit or 1 << 30, **given)

    def vocabulary(self) -> dict[str, int]:
        """Number of each token."""
        return dict(self.tokenizer.inner.get_vocab())

    def attention(
        self, text: str, answer: Sequence[int], heads: Sequence[Head]
    ) -> Float[Tensor, "heads produced keys"]:
        """Where each new token, and what would follow the last, looked in the text so far: of named (layer, head)."""
        source = Sequences.of_ids([self.prompt(text)], self.model.device)
        return attention_of(self.model, source, [answer], heads, self.search(1))[0]

    kind = "hypotheses"

    def rows(
        self,
        texts: Sequence[str],
        numbers: Sequence[int] | None = None,
        heads: Sequence[Head] = (),
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        """For each text what `regard run --jsonl` prints: source, answer and hypotheses, the text before each.

        With `heads` also where they looked; the other options, and `numbers`, are those of `hypotheses`.
        """
        for text, answers in zip(texts, self.hypotheses(texts, numbers=numbers, **options), strict=True):
            listed = [
                {"text": text + self.continuation(text, one.tokens), "log_p": one.log_probability} for one in answers
            ]
            row: dict[str, Any] = {"source": text, "answer": listed[0]["text"], "hypotheses": listed}
            if heads:
                row["attention"] = self.attention(text, answers[0].tokens, heads).tolist()
            yield row

    def continuation(self, text: str, tokens: Sequence[int]) -> str:
        """The text of new tokens, with the blank before it where there is one."""
        begun = self.prompt(text)
        before, after = self.tokenizer.decode(begun), self.tokenizer.decode([*begun, *tokens])
        return after[len(before) :] if after.startswith(before) else " " + self.tokenizer.decode(tokens)

    @torch.no_grad()
    def log_probabilities(self, text: str) -> list[float]:
        """Natural log of the probability of each token of a text but the first, given those before it."""
        ids = torch.tensor(self.check(text), device=self.model.device)
        if len(ids) < 2:
            return []
        answer = self.model(Sequences.of([ids[:-1]]))
        logits = answer[0] if isinstance(answer, tuple) else answer
        found: list[float] = logits.float().log_softmax(dim=-1).gather(1, ids[1:, None])[:, 0].tolist()
        return found

    def perplexity(self, text: str) -> float:
        """exp of the mean negative log-probability a token."""
        found = self.log_probabilities(text)
        if not found:
            raise RegardError("perplexity needs a text of two tokens or more")
        return math.exp(-sum(found) / len(found))

    def answers(self, texts: Sequence[str]) -> list[str]:
        """What stands beside each text in an explanation: how the model goes on."""
        found = self.hypotheses(texts, tokens=12)
        return [self.continuation(text, one[0].tokens) for text, one in zip(texts, found, strict=True)]

    def ask(self, views: Sequence[str], *texts: str, **options: Any) -> list[Result]:
        """Ask views by name (`regard explain --list`), each with the options that it takes.

        The generation view goes on from the texts, by `tokens` (20).
        """
        tokens = options.pop("tokens", 20 if "generation" in views else 0)
        return ask(self.trace(texts, tokens), views, options_of(options))

    def trace(self, texts: Sequence[str], tokens: int = 0) -> Trace:
        """A trace over texts as they are or, with `tokens`, over them and what the model writes after them."""
        ids = [self.check(text) for text in texts]
        read, prompts = [self.tokenizer.pieces(text) for text in texts], None
        if tokens:
            begun = [self.prompt(text) for text in texts]
            found = self.hypotheses(texts, tokens)
            ids = [[*first, *one[0].tokens] for first, one in zip(begun, found, strict=True)]
            read, prompts = [self.tokenizer.pieces_of(row) for row in ids], [len(first) for first in begun]
        pieces: dict[Side, list[list[Piece]]] = {"source": read}
        trace = Trace(self.model, Sequences.of_ids(ids, self.model.device), pieces=pieces)
        trace.texts = list(texts)
        trace.spell = trace.spell_source = self.tokenizer.spell
        trace.prompts = prompts
        return trace

    def explain(
        self, *texts: str, query: str | int | None = None, layer: int = 0, head: int | None = None
    ) -> Explanation:
        """The complete process for one word of the first text; with several texts also a word's context in each.

        What the model would write next stands beside the texts as their answers.
        """
        if not texts:
            raise RegardError("give at least one text to explain")
        trace = self.trace(texts)
        return explain_traced(self.name, trace, texts, self.answers(texts), query, layer, head)

    @property
    def limit(self) -> int | None:
        """Longest text, in tokens; None where there is no limit (recurrent models)."""
        config = self.model.config
        if isinstance(self.model, AwdLstm):
            return None
        return int(getattr(config, "n_positions", 0) or config.max_position_embeddings)

    def prompt(self, text: str) -> list[int]:
        """Token ids to go on from: those of the text, without the end token that some tokenizers add."""
        ids = self.check(text)
        end = self.tokenizer.special.eos
        return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids

    def check(self, text: str) -> list[int]:
        """Token ids of a text; RegardError if it is empty or longer than the model's limit."""
        ids = self.tokenizer.encode(text)
        if not text.strip() or not ids:
            raise RegardError("the text is empty: give at least one word")
        if self.limit is not None and len(ids) > self.limit:
            shown = text[:30] + "..." if len(text) > 30 else text
            raise RegardError(f"{shown!r} has {len(ids)} tokens, more than the {self.limit} that {self.name} accepts")
        return ids
