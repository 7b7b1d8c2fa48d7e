"""How to search, checked: every option with its range, and which of them contradict each other.

Names are those of Hugging Face's `generate` where it has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.errors import RegardError, unknown
from regard.sequences import Sequences

Phrase = tuple[int, ...]


class State(Protocol):
    def select(self, rows: Int[Tensor, "chosen"]) -> Any: ...


@runtime_checkable
class Generator(Protocol):
    """What search knows of a model."""

    def start(self, source: Sequences) -> Any: ...

    def step(self, tokens: Int[Tensor, "rows"], state: Any) -> tuple[Float[Tensor, "rows vocabulary"], Any]: ...


@runtime_checkable
class BestGenerator(Protocol):
    """What an engine offers besides."""

    def best(
        self, tokens: Int[Tensor, "rows"], state: Any, count: int, forbidden: Sequence[int]
    ) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"], Any]: ...


@runtime_checkable
class Joinable(Protocol):
    """And: `join` begins texts in the memory of a search that is under way, `state.beside` makes one state of two."""

    def join(self, source: Sequences, state: Any) -> Any: ...


@dataclass(frozen=True)
class Hypothesis:
    """One answer: its tokens without the end token, log P(Y), and the score it was ranked by.

    What is given (a prefix) counts as certain. In a beam log P is taken after a repetition penalty.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool = True
    """False where the length limit cut it off."""


@dataclass(frozen=True)
class Search:
    """How to search: `beams` 1 is greedy. Raises RegardError for an option out of its range, and for contradictions."""

    bos: int | None
    """The first token of every answer; None where an answer continues its source (models without an encoder)."""
    eos: int
    beams: int = 1
    length_penalty: float = 0.6
    """alpha: 0 ranks by log P alone, larger values favour longer answers."""
    extra_length: int = 50
    """An answer has at most this many tokens more than its source."""
    limit: int = 1 << 30
    """And at most this many in all. Where it continues its source, that counts as a part of it in both."""
    forbidden: tuple[int, ...] = ()
    """Tokens that are never produced."""
    first: int | None = None
    """The first token of every answer, where it is given (BART)."""
    forbidden_first: tuple[int, ...] = ()
    """Tokens that no answer begins with (Whisper)."""
    n_best: int | None = None
    """How many answers to each text: the best of the beams (all of them by default), or so many samples (1)."""
    min_tokens: int = 0
    """No answer ends before it has so many tokens."""
    length_rule: str = "wu"
    """What log P is divided by. wu: ((5 + length) / 6)^alpha (Wu et al. 2016). power: length^alpha, and answers that
    the limit cuts off are ranked among those that ended (Hugging Face)."""
    early_stopping: bool | str = "never"
    """When a beam search ends: with as many answers as beams (True), when none that goes on would be better if it ended
    now (False), or when none can become better ("never": the only one that misses nothing)."""
    coverage_penalty: float = 0.0
    """beta: the best answers are those that also looked at all of the source (Wu et al. 2016, equation 14)."""
    groups: int = 1
    """Groups of beams, each of which avoids what the groups before it say (Vijayakumar et al. 2016)."""
    diversity_penalty: float | None = None
    """What a token costs in a group for each time an earlier group has just taken it; 0.5 where there are groups."""
    repetition_penalty: float = 1.0
    """What the scores of tokens that were there before are divided by (multiplied, if below 0)."""
    no_repeat_ngram_size: int = 0
    """No so many tokens in a row occur twice; 0: they may."""
    prefix: Phrase = ()
    """What every answer begins with."""
    must: tuple[Phrase, ...] = ()
    """What every answer contains (needs beams)."""
    must_not: tuple[Phrase, ...] = ()
    """What no answer contains."""
    sample: bool | None = None
    """Draw each token by its probability; None: if temperature, top_k, top_p, min_p or seed are given."""
    temperature: float | None = None
    """What scores are divided by before a token is drawn: below 1 bolder, above 1 more various."""
    top_k: int | None = None
    """Only the k most probable tokens are drawn; with `penalty_alpha` the candidates of contrastive search."""
    top_p: float | None = None
    """Only the most probable tokens that have this probability together are drawn (Holtzman et al. 2020)."""
    min_p: float | None = None
    """Only tokens at least so probable as this share of the most probable one are drawn (Nguyen et al. 2024)."""
    seed: int | None = None
    """The same seed draws the same answer to the text of the same number, whatever is answered beside it."""
    penalty_alpha: float | None = None
    """Contrastive search (Su et al. 2022): how much likeness to what was said before counts against probability."""
    draft_tokens: int = 5
    """How many tokens a draft proposes at once (speculative decoding)."""

    def __post_init__(self) -> None:
        for name, (said, right) in _RANGES.items():
            value = getattr(self, name)
            if not right(value):
                raise RegardError(f"{name} must be {said}, not {value!r}")
        for wrong, message in _contradictions(self):
            if wrong:
                raise RegardError(message)

    @classmethod
    def of_translator(cls, config: Any, beams: int, length_penalty: float, **options: Any) -> Search:
        """How answers of an encoder-decoder are searched: its special tokens, and its limit on their length."""
        check_names(options)
        return cls(
            config.bos_token_id,
            config.eos_token_id,
            beams,
            length_penalty,
            limit=config.max_position_embeddings - 1,  # what begins the answer takes a place as well
            forbidden=tuple({config.pad_token_id, config.bos_token_id} - {config.eos_token_id}),
            first=getattr(config, "forced_bos_token_id", None),
            **options,
        )

    @property
    def samples(self) -> bool:
        if self.sample is not None:
            return self.sample
        drawn = (self.temperature, self.top_p, self.min_p, self.seed, None if self.contrasts else self.top_k)
        return any(value is not None for value in drawn)

    @property
    def contrasts(self) -> bool:
        return self.penalty_alpha is not None

    @property
    def given(self) -> Phrase:
        """The tokens that every answer begins with."""
        return (*(() if self.first is None else (self.first,)), *self.prefix)

    @property
    def looks_back(self) -> bool:
        """Whether the scores of the next token depend on what was written, beside what the model makes of it."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram_size > 0 or bool(self.must_not)

    @property
    def reads_all(self) -> bool:
        """Whether the scores of all tokens are needed, and not those of the best alone."""
        return self.looks_back or self.samples or bool(self.must) or self.groups > 1

    @property
    def settled(self) -> int:
        """After so many tokens every further one is chosen by the same rules."""
        return max(len(self.given), self.min_tokens, 1 if self.forbidden_first else 0)

    @property
    def answers(self) -> int:
        """How many answers each text gets at most."""
        return self.n_best or (1 if self.samples else self.beams)

    def longest(self, source_length: int) -> int:
        """Most tokens of an answer to a source of this length, not counting the source if it goes on from there."""
        if self.bos is not None:
            return min(source_length + self.extra_length, self.limit)
        if source_length >= self.limit:
            raise RegardError(f"a text of {source_length} tokens leaves no room to go on: {self.limit} are the limit")
        return min(self.extra_length, self.limit - source_length)

    def hypothesis(self, tokens: Sequence[int], log_probability: float, finished: bool) -> Hypothesis:
        """An answer with its score."""
        divisor = length_penalty(len(tokens) + finished, self.length_penalty, self.length_rule)
        return Hypothesis(tuple(tokens), log_probability, log_probability / divisor, finished)

    def banned(self, length: int) -> tuple[int, ...]:
        """Tokens that cannot be the one that makes an answer so long, whatever was written."""
        ending = (self.eos,) if length <= self.min_tokens and self.eos >= 0 else ()
        return (*self.forbidden, *(self.forbidden_first if length == 1 else ()), *ending)

    def begin(self, source: Sequences) -> Int[Tensor, "rows"]:
        """The token that each source's first step takes."""
        if self.bos is not None:
            return torch.full((len(source),), self.bos, device=source.values.device)
        return source.values[source.layout.offsets[1:] - 1]

    def before(self, source: Sequences) -> list[list[int]]:
        """What stands before each answer: the token that begins it, or the text that it goes on from."""
        return [[self.bos] if self.bos is not None else row.tolist() for row in source]


OPTIONS = {field.name for field in fields(Search)} - {
    "bos", "eos", "beams", "length_penalty", "limit", "extra_length", "forbidden", "first",
    "forbidden_first",
}  # fmt: skip
"""Names that a pipeline takes beside beams and length penalty."""


def check_names(options: Sequence[str] | dict[str, Any]) -> None:
    """RegardError for an option that there is not."""
    for name in options:
        if name not in OPTIONS:
            raise unknown("search option", name, OPTIONS)


def length_penalty(length: int, alpha: float, rule: str = "wu") -> float:
    """((5 + length) / 6)^alpha, or length^alpha; the end token counts."""
    return float(((5 + length) / 6 if rule == "wu" else max(1, length)) ** alpha)


# --- what is allowed --------------------------------------------------------------------------------------------------

_Rule = tuple[str, Callable[[Any], bool]]


def _whole(least: int) -> _Rule:
    return f"a whole number of {least} or more", lambda value: _is_whole(value) and value >= least


def _number(said: str, right: Callable[[float], bool]) -> _Rule:
    return said, lambda value: _is_number(value) and right(value)


def _perhaps(rule: _Rule) -> _Rule:
    said, right = rule
    return said, lambda value: value is None or right(value)


_RANGES: dict[str, _Rule] = {
    "beams": _whole(1),
    "length_penalty": _number("a finite number", lambda value: True),
    "extra_length": _whole(0),
    "limit": _whole(1),
    "n_best": _perhaps(_whole(1)),
    "min_tokens": _whole(0),
    "length_rule": ("wu or power", lambda value: value in ("wu", "power")),
    "early_stopping": ("True, False or 'never'", lambda value: value is True or value is False or value == "never"),
    "coverage_penalty": _number("0 or more", lambda value: value >= 0),
    "groups": _whole(1),
    "diversity_penalty": _perhaps(_number("above 0", lambda value: value > 0)),
    "repetition_penalty": _number("above 0", lambda value: value > 0),
    "no_repeat_ngram_size": _whole(0),
    "temperature": _perhaps(_number("above 0", lambda value: value > 0)),
    "top_k": _perhaps(_whole(1)),
    "top_p": _perhaps(_number("above 0 and at most 1", lambda value: 0 < value <= 1)),
    "min_p": _perhaps(_number("above 0 and at most 1", lambda value: 0 < value <= 1)),
    "seed": _perhaps(_whole(0)),
    "penalty_alpha": _perhaps(_number("from 0 to 1", lambda value: 0 <= value <= 1)),
    "draft_tokens": _whole(1),
}


def _contradictions(how: Search) -> list[tuple[bool, str]]:
    """(whether it is so, what is wrong and what would be right)."""
    drawing = [name for name in ("temperature", "top_p", "min_p", "seed") if getattr(how, name) is not None]
    drawn = drawing[0] if drawing else "top_k"
    samples, contrasts = how.samples, how.contrasts
    must_tokens, no = sum(map(len, how.must)), [phrase for phrase in how.must_not if phrase]
    return [
        (how.sample is False and bool(drawing), f"{drawn} is for sampling: leave it out, or sample"),
        (
            how.sample is False and how.top_k is not None and not contrasts,
            "top_k is for sampling or contrastive search (penalty_alpha)",
        ),
        (contrasts and bool(drawing), f"penalty_alpha (contrastive search) draws nothing: leave {drawn} out"),
        (contrasts and bool(how.sample), "penalty_alpha (contrastive search) draws nothing: do not sample"),
        (contrasts and how.top_k is None, "penalty_alpha (contrastive search) needs top_k, its number of candidates"),
        (samples and how.beams > 1, f"sampling ({drawn}) and beams exclude each other: beams must be 1"),
        (contrasts and how.beams > 1, "penalty_alpha (contrastive search) and beams exclude each other"),
        (how.min_p is not None and how.top_p is not None, "min_p and top_p exclude each other: give one"),
        (
            how.n_best is not None and not samples and how.n_best > how.beams,
            f"n_best must be at most beams, {how.beams} (or sample): not {how.n_best}",
        ),
        (how.beams % how.groups != 0, f"groups must divide beams: {how.beams} beams are not {how.groups} equal groups"),
        (how.diversity_penalty is not None and how.groups == 1, "diversity_penalty needs groups of 2 or more"),
        (how.early_stopping != "never" and how.beams == 1, "early_stopping needs beams of 2 or more"),
        (how.coverage_penalty > 0 and how.beams == 1, "coverage_penalty needs beams of 2 or more: it ranks answers"),
        (how.coverage_penalty > 0 and how.bos is None, "coverage_penalty needs a model with a source to look at"),
        (bool(how.must) and how.beams < 2, "must needs beams of 2 or more"),
        (bool(how.must) and how.groups > 1, "must and groups exclude each other"),
        (not all(how.must), "must has an empty phrase"),
        (not all(how.must_not), "must_not has an empty phrase"),
        (
            any(contains(phrase, other) for phrase in (*how.must, how.prefix) for other in no),
            "must_not forbids what must or prefix asks for",
        ),
        (how.eos in how.prefix or how.eos in sum(how.must, ()), "the end token cannot be asked for in must or prefix"),
        (bool(set(how.forbidden) & {*how.prefix, *sum(how.must, ())}), "must or prefix asks for a forbidden token"),
        (
            how.min_tokens > how.limit or must_tokens + len(how.given) > how.limit,
            f"min_tokens, must and prefix have to fit into the limit of {how.limit} tokens",
        ),
    ]


def contains(text: Sequence[int], phrase: Sequence[int]) -> bool:
    """Whether the phrase stands in the text, in a row."""
    return any(tuple(text[place : place + len(phrase)]) == tuple(phrase) for place in range(len(text)))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
