"""Every question by its name: what it asks, which options it takes, and how it is asked of a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from regard.errors import RegardError, unknown
from regard.explain.alignment import align
from regard.explain.attribution import attribution
from regard.explain.context import compare
from regard.explain.contribution import contribution
from regard.explain.edits import Edit, KnockOut, Patch, SetWeights
from regard.explain.generation import generation
from regard.explain.head_kinds import head_kinds
from regard.explain.intervention import Progress, intervene, sweep_heads, sweep_patches
from regard.explain.lens import lens
from regard.explain.recurrence import read
from regard.explain.result import Result, Results
from regard.explain.similarity import similarity
from regard.explain.trace import Kind, Trace
from regard.explain.walkthrough import walk, walked_layers
from regard.generation.search import Going


@dataclass(frozen=True)
class Options:
    """What can be chosen. None: as the view thinks best."""

    query: str | int | None = None
    """A word, or the position of a token."""
    layer: int | None = None
    head: int | None = None
    kind: Kind | None = None
    """Which attention: `encoder`, `decoder` or `cross`."""
    method: str | None = None
    answer: str | None = None
    """The word or class whose score is followed."""
    count: int | None = None
    """How many words are listed."""
    edits: tuple[str, ...] = ()
    """Changes as text, see `edit_of`."""
    sweep: str | None = None
    """`heads` or `patches`."""
    seen: Sequence[Going] = ()
    """The beams of a watched search."""
    progress: Progress | None = field(default=None, compare=False)

    def given(self) -> set[str]:
        """The options that somebody chose."""
        inner = {"seen", "progress"}
        return {one.name for one in fields(self) if one.name not in inner and getattr(self, one.name) not in (None, ())}


@dataclass(frozen=True)
class View:
    """One question."""

    asks: str
    models: str
    """Which models can answer."""
    options: tuple[str, ...]
    ask: Callable[[Trace, Options], list[Result]]


def options_of(chosen: dict[str, Any], **more: Any) -> Options:
    """Options by name; RegardError for one that this model's views do not have."""
    known = {one.name for one in fields(Options)}
    for name in chosen:
        if name not in known:
            where = "beams are for translators, tokens for language models"
            raise RegardError(f"{name} is no option of this model's views: {where}")
    return Options(**chosen, **more)


def ask(trace: Trace, names: Sequence[str], options: Options) -> Results:
    """Ask one view after the other.

    Raises RegardError for a view that is not known, an option that none of these views takes, and what views raise.
    """
    for name in names:
        if name not in VIEWS:
            raise unknown("view", name, VIEWS)
    if trace.source.values.is_floating_point():
        _check_heard(names, options)
    for option in sorted(options.given()):
        takers = [name for name, view in VIEWS.items() if option in view.options]
        if not set(takers) & set(names):
            raise RegardError(f"{' and '.join(names)} takes no {option}: that is for {', '.join(takers)}")
    return Results(result for name in names for result in VIEWS[name].ask(trace, options))


_OF_WORDS = ("similarity", "context", "contribution", "attribution")


def _check_heard(names: Sequence[str], options: Options) -> None:
    """RegardError for what is asked about words that are read, of a model that hears."""
    others = ", ".join(name for name in VIEWS if name not in _OF_WORDS)
    for name in names:
        if name in _OF_WORDS:
            raise RegardError(f"{name} is about words that a model reads, and this one hears: ask {others}")
    if options.sweep == "patches":
        raise RegardError("patches are taken from texts of as many tokens, and this model hears: sweep heads")


def answer_number(trace: Trace, name: str) -> int:
    """The number of a class by its label, or of a token of the vocabulary by how it reads."""
    labels = () if trace.target is not None else getattr(trace.model.config, "labels", ())
    if labels:
        if name not in labels:
            raise unknown("class", name, labels)
        return int(labels.index(name))
    for token in range(int(trace.model.config.vocab_size)):
        if trace.spell(token) == name:
            return token
    raise RegardError(f"no token of the vocabulary reads {name!r}: give a word or piece as the model writes it")


def edit_of(trace: Trace, text: str) -> Edit:
    """A change from text: a place, then what is changed there.

    `encoder.layers.0.self_attention head=3`: the head is knocked out; with `query=` and `key=` an edge or a position;
    with `query=0 weights=0.4,0.4,0.2` the row is set; `encoder.layers.1 position=2 from=2`: what enters the layer there
    is taken from text 2. Positions may be given as words of the first text.
    """
    place, *pairs = text.split()
    known = ("head", "query", "key", "weights", "position", "from")
    given: dict[str, str] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or name not in known:
            raise RegardError(f"{pair!r} is no part of an edit: give {', '.join(f'{one}=...' for one in known)}")
        given[name] = value
    head = None if "head" not in given else _whole(given["head"])
    if "from" in given or "position" in given:
        if "from" not in given or "position" not in given:
            raise RegardError("taking a vector from another text needs both: position=2 from=2")
        position, other = _position(trace, given["position"]), _whole(given["from"]) - 1
        vectors = trace.entering(place, other)
        if not 0 <= position < len(vectors):
            raise RegardError(f"text {other + 1} has no position {position}: it has 0 to {len(vectors) - 1}")
        return Patch(place, position, vectors[position])
    query = None if "query" not in given else _position(trace, given["query"])
    if "weights" in given:
        if query is None:
            raise RegardError("weights are set for one query: add query=0")
        return SetWeights(place, query, tuple(_number(one) for one in given["weights"].split(",")), head)
    return KnockOut(place, head, query, None if "key" not in given else _position(trace, given["key"]))


def _position(trace: Trace, text: str) -> int:
    if text.isdigit():
        return int(text)
    words = [word for word in trace.words() if word.text == text]
    if not words:
        raise unknown("word", text, [word.text for word in trace.words()])
    return words[0].places[0]


def _whole(text: str) -> int:
    if not text.isdigit():
        raise RegardError(f"{text!r} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RegardError(f"{text!r} is not a number") from error


def _walkthrough(trace: Trace, options: Options) -> list[Result]:
    layer = options.layer or 0
    recurrent = not walked_layers(trace)
    if recurrent and options.kind != "cross":
        side = None if options.kind is None else options.kind
        return [read(trace, options.query, layer, side=cast(Any, side))]
    return [walk(trace, options.query, layer, options.head, kind=options.kind)]


def _context(trace: Trace, options: Options) -> list[Result]:
    texts = [trace.text(row) for row in range(len(trace.source))]
    word = None if options.query is None else str(options.query)
    return [compare(trace, texts, word, options.layer or 0, options.head)]


def _similarity(trace: Trace, options: Options) -> list[Result]:
    word = None if options.query is None else str(options.query)
    return [similarity(trace, word, options.layer, options.count or 8)]


def _contribution(trace: Trace, options: Options) -> list[Result]:
    word = None if options.query is None else str(options.query)
    return [contribution(trace, word, options.layer, options.method or "alti")]


def _attribution(trace: Trace, options: Options) -> list[Result]:
    answer = None if options.answer is None else answer_number(trace, options.answer)
    return [attribution(trace, options.query, answer, options.method or "integrated_gradients")]


def _alignment(trace: Trace, options: Options) -> list[Result]:
    rule, rows = options.method or "target", range(len(trace.source))
    return [align(trace, options.layer, options.head, row=row, rule=rule) for row in rows]


def _lens(trace: Trace, options: Options) -> list[Result]:
    answer = None if options.answer is None else answer_number(trace, options.answer)
    return [lens(trace, options.query, answer, count=options.count or 5)]


def _heads(trace: Trace, options: Options) -> list[Result]:
    return [head_kinds(trace, options.kind)]


def _generation(trace: Trace, options: Options) -> list[Result]:
    rows = range(len(trace.source))
    return [generation(trace, options.seen, row, options.count or 5) for row in rows]


def _intervention(trace: Trace, options: Options) -> list[Result]:
    if options.sweep not in (None, "heads", "patches"):
        raise unknown("sweep", str(options.sweep), ["heads", "patches"])
    if options.sweep == "patches":
        if len(trace.source) < 2:
            raise RegardError("patches are taken from a second text: give two of equally many tokens")
        return [sweep_patches(trace, 1, options.query, progress=options.progress)]
    if options.edits:
        edits = [edit_of(trace, text) for text in options.edits]
        return [intervene(trace, edits, options.query, count=options.count or 8)]
    return [sweep_heads(trace, options.query, options.kind, progress=options.progress)]


_ATTENTION = "models with multi-head attention"
VIEWS: dict[str, View] = {
    "walkthrough": View(
        "the complete process for one query, number by number; gates of a recurrent layer",
        "all",
        ("query", "layer", "head", "kind"),
        _walkthrough,
    ),
    "similarity": View(
        "which words are close, in the table and in context", "all", ("query", "layer", "count"), _similarity
    ),
    "context": View(
        "one word in several texts, and which words pushed it", _ATTENTION, ("query", "layer", "head"), _context
    ),
    "contribution": View(
        "what each word really adds: norm, alti, rollout, flow", _ATTENTION, ("query", "layer", "method"), _contribution
    ),
    "attribution": View(
        "which words an answer hangs on: integrated_gradients, gradient_x_input, occlusion",
        "models with attention, and recurrent translators",
        ("query", "answer", "method"),
        _attribution,
    ),
    "alignment": View(
        "where each produced word looked in the source; --method is the rule for links",
        "translators with attention",
        ("layer", "head", "method"),
        _alignment,
    ),
    "lens": View(
        "what each layer would answer, and which parts speak for it",
        "models that answer words",
        ("query", "answer", "count"),
        _lens,
    ),
    "heads": View("where every head looks, by named scores", _ATTENTION, ("kind",), _heads),
    "generation": View(
        "alternatives at each token, the beam, source and target shares",
        "translators and language models",
        ("count", "beams", "tokens"),
        _generation,
    ),
    "intervention": View(
        "what it would answer if something inside were otherwise",
        _ATTENTION,
        ("query", "kind", "edits", "sweep", "count"),
        _intervention,
    ),
}
