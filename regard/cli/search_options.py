"""The options of `regard run` that say how answers are searched: one place for all of them.

`with_search_options` adds them to a command, which gets those that were given as one dictionary, `search`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer

from regard.errors import RegardError

_DRAFT, _HEADS = "draft", "heads"


def _option(kind: Any, text: str, *names: str) -> Any:
    return Annotated[kind, typer.Option(*names, help=text, show_default=False)]


_NUMBER, _COUNT, _TEXT, _TEXTS = Optional[float], Optional[int], Optional[str], Optional[list[str]]  # noqa: UP045

OPTIONS: dict[str, Any] = {
    "n_best": _option(_COUNT, "Answers to each text: the best beams, or so many samples; shown with --jsonl."),
    "temperature": _option(_NUMBER, "Sample; above 0: below 1 bolder, above 1 more various."),
    "top_k": _option(_COUNT, "Sample from the k most probable tokens."),
    "top_p": _option(_NUMBER, "Sample from the most probable tokens with this probability together, up to 1."),
    "min_p": _option(_NUMBER, "Sample from tokens with at least this share of the best one's probability."),
    "seed": _option(_COUNT, "Sample the same again, whatever the other texts are."),
    "repetition_penalty": _option(_NUMBER, "Above 1: tokens that were there become less likely."),
    "no_repeat_ngram_size": _option(_COUNT, "No so many tokens in a row twice."),
    "min_tokens": _option(_COUNT, "No answer is shorter."),
    "must": _option(_TEXTS, "What each answer must contain; again for more. Needs --beams of 2 or more."),
    "must_not": _option(_TEXTS, "What no answer may contain; again for more."),
    "prefix": _option(_TEXT, "What each answer begins with."),
    "early_stopping": _option(_TEXT, "Beams stop: never (till nothing better can come), true (with enough), false."),
    "length_rule": _option(_TEXT, "What --length-penalty does: wu, ((5 + length) / 6)^alpha, or power, length^alpha."),
    "coverage_penalty": _option(_NUMBER, "Prefer answers that looked at all of the text; with --beams."),
    "groups": _option(_COUNT, "Groups of beams that avoid each other's words."),
    "diversity_penalty": _option(_NUMBER, "How much they avoid them; 0.5 if not given."),
    "penalty_alpha": _option(_NUMBER, "Contrastive search, from 0 to 1, with --top-k candidates."),
    "draft": _option(_TEXT, "A smaller model that drafts what this one checks, or `source` (much is copied)."),
    "draft_tokens": _option(_COUNT, "How many tokens a draft proposes at once; 5 if not given."),
    "heads": _option(_TEXTS, "A decoder head, LAYER.HEAD from 0, for --alignment and --jsonl; again for more."),
}  # fmt: skip


def with_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with all these options; they arrive as `search`, without those that were not given."""

    @functools.wraps(command)
    def extended(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in OPTIONS}
        command(**given, search={name: value for name, value in chosen.items() if value not in (None, [])})

    own = [one for name, one in inspect.signature(command, eval_str=True).parameters.items() if name != "search"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]
    extended.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    extended.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return extended


def prepared(search: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    """What a pipeline takes: options with their values, the draft loaded; and the heads one wants to see."""
    options = dict(search)
    heads = [_head(name) for name in options.pop(_HEADS, [])]
    stops = {"true": True, "false": False, "never": "never"}
    if "early_stopping" in options:
        options["early_stopping"] = stops.get(options["early_stopping"].lower(), options["early_stopping"])
    if options.get(_DRAFT) not in (None, "source"):
        from regard.pipelines import load

        options[_DRAFT] = load(options[_DRAFT])
    return options, heads


def _head(name: str) -> tuple[int, int]:
    layer, _, head = name.partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        raise RegardError(f"a head reads LAYER.HEAD, such as 2.5, not {name!r}")
    return int(layer), int(head)
