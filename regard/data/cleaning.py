"""Data cleaning: what is left out of training (never of validation or test), and what is counted.

- texts whose lengths do not go together (Koehn et al. 2007's `clean-corpus-n`: the ratio of words),
- texts that were there before, byte for byte after folding case and blanks,
- texts in another language (langid's model of 97 languages, Lui & Baldwin 2012, in the package `py3langid`),
- texts of the validation or test part that stand in the training part: always counted, left out where asked for.

What is known of each text is 8 bytes of its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar

from regard.errors import RegardError

T = TypeVar("T")
Sides = Callable[[T], Sequence[str]]
"""The texts of an example: one, or the two of a pair."""


def cleaned(
    examples: Iterator[T],
    sides: Sides[T],
    counts: dict[str, int],
    *,
    length_ratio: float = 0.0,
    duplicates: bool = False,
    languages: Sequence[str] = (),
    held_out: Mapping[str, set[int]] | None = None,
    overlap: bool = True,
) -> Iterator[T]:
    """Training examples that pass; how many did not, and why, is counted in `counts`.

    `length_ratio`: most words of the longer side for one of the shorter (0: any). `duplicates`: leave out what was
    there before. `languages`: of each side, as `en`. `held_out`: hashes (`text_hash`) of other parts by name; how many
    of each stand here as well is counted, and with `overlap` false such examples are left out.
    """
    seen: set[int] = set()
    shared: dict[str, set[int]] = {name: set() for name in held_out or {}}
    tell = languages_told(tuple(languages)) if languages else None
    for example in examples:
        texts = sides(example)
        mark = text_hash(texts)
        reason = ""
        for name, marks in (held_out or {}).items():
            if mark in marks:
                shared[name].add(mark)
                reason = "" if overlap else "left_out_as_held_out"
        if length_ratio and _ratio(texts) > length_ratio:
            reason = "left_out_by_length_ratio"
        elif duplicates and mark in seen:
            reason = "left_out_as_duplicates"
        elif tell and not all(tell(text) == wanted for text, wanted in zip(texts, languages, strict=False)):
            reason = "left_out_by_language"
        if duplicates:
            seen.add(mark)
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
        else:
            yield example
    counts.update({f"{name}_examples_also_in_training": len(marks) for name, marks in shared.items()})


def text_hash(texts: Sequence[str]) -> int:
    """The same for texts that differ in case and blanks only."""
    folded = "\0".join(" ".join(text.casefold().split()) for text in texts)
    return int.from_bytes(blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@cache
def languages_told(wanted: tuple[str, ...]) -> Callable[[str], str]:
    """A function that tells a text's language; RegardError where a wanted one is not known to it."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise RegardError("telling languages needs the package py3langid: pip install py3langid") from error
    identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE)
    unknown = sorted(set(wanted) - set(map(str, identifier.labels)))
    if unknown:
        raise RegardError(f"data.clean.languages: {unknown[0]!r} is not a language that can be told (such as en, fr)")
    return lambda text: str(identifier.classify(text)[0])


def _ratio(texts: Sequence[str]) -> float:
    """Words of the longest side for one of the shortest; 1 for a single text."""
    words = [len(text.split()) for text in texts]
    return max(words) / max(1, min(words)) if len(words) > 1 else 1.0
