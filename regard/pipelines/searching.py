"""From search options as a person gives them, in words, to those of `regard.generation`, in tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from regard.errors import RegardError
from regard.generation.settings import Phrase, check_names
from regard.generation.speculative import Draft, ModelDraft, SourceDraft

FROM_SOURCE = "source"


def in_tokens(
    options: dict[str, Any],
    encode: Callable[[str], Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    special: Collection[int | None],
) -> dict[str, Any]:
    """The same options, with `prefix`, `must` and `must_not` as the tokens of their texts."""
    check_names(options)

    def tokens(text: str) -> Phrase:
        return tuple(token for token in encode(text) if token not in special)

    found = dict(options)
    if "prefix" in found:
        found["prefix"] = tokens(_text("prefix", found["prefix"]))
    for name in ("must", "must_not"):
        if name in found:
            given = [found[name]] if isinstance(found[name], str) else found[name]
            found[name] = tuple(_phrases(name, given, tokens, decode))
    return found


def drafting(draft: Any, loaded: Any) -> Draft | None:
    """A draft from a loaded model or "source". RegardError where its vocabulary is another."""
    if draft is None:
        return None
    if isinstance(draft, str):
        if draft != FROM_SOURCE:
            raise RegardError(f"draft is a loaded model or 'source', not {draft!r}")
        return SourceDraft()
    if not hasattr(draft, "vocabulary"):
        raise RegardError(f"{draft.name} cannot be a draft: it writes no text")
    if draft.vocabulary() != loaded.vocabulary():
        raise RegardError(f"{draft.name} cannot be a draft of {loaded.name}: their tokenizers differ")
    return ModelDraft(draft.model.to(loaded.model.device), loaded.model)


def _phrases(
    name: str, given: Sequence[str], tokens: Callable[[str], Phrase], decode: Callable[[Sequence[int]], str]
) -> list[Phrase]:
    """Words that a tokenizer cuts otherwise at a text's beginning: both ways are excluded, the usual one asked for."""
    found = []
    for text in given:
        alone, within = tokens(_text(name, text)), tokens(" " + text)
        if not decode(within).startswith(" "):
            within = alone
        found += [within] if name == "must" else list(dict.fromkeys([alone, within]))
    return found


def _text(name: str, text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise RegardError(f"{name} must be a text of one word or more, not {text!r}")
    return text
