"""What the explorer's page is told of a trace: plain numbers and texts, no HTTP. A notebook asks the same."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.edited_answer import answer_under
from regard.explain.generation import answer_places, generation
from regard.explain.intervention import answer_name, answer_of, intervene
from regard.explain.render.page_numbers import detailed, numbers_of
from regard.explain.result import Block, Result
from regard.explain.trace import Kind, Trace, check_range
from regard.explain.views import VIEWS, Options, ask, edit_of
from regard.explain.walkthrough import Walkthrough
from regard.explain.words import Word, join_keys, join_rows
from regard.serve.shelf import Volume

LARGEST_AT_ONCE = 96
"""Tokens up to which all heads are given weight by weight; longer texts are maps."""
LARGEST_AT_A_GLANCE = 2048
"""Tokens up to which every head gets a small map at once, and up to which a model is asked for its answer on the way:
both take time that grows with the square of their number."""
_THUMBNAIL = 32
_NOT_DRAWN = ("products", "exponentials", "sums", "mean_weights", "share_lengths", "share_parts", "bias_part")
"""Numbers of the walkthrough's page that the explorer's picture has no place for."""


def described(volume: Volume, trace: Trace) -> dict[str, Any]:
    """The words of each text and of its answer, and which attentions can be looked at."""
    model: Any = trace.model
    kinds: dict[str, dict[str, Any]] = {}
    for place in trace.attention_places:
        side = "cross" if place.endswith("cross_attention") else place.split(".")[0]
        found = kinds.setdefault(side, {"places": [], "heads": model.get_submodule(place).heads})
        found["places"].append(place)
    rows = []
    for row in range(len(trace.source)):
        of: dict[str, Any] = {"text": trace.text(row), "words": _words(trace.words(row)), "tokens": _tokens(trace, row)}
        if trace.target is not None:
            of |= {"target": _words(trace.words(row, "target")), "produced": _words(trace.words(row, "produced"))}
        rows.append(of | {"answer": _answer(volume, trace, row)})
    return {"model": volume.name, "kind": volume.kind, "kinds": kinds, "layers": trace.layers, "rows": rows}


def asked(trace: Trace, view: str, options: Options) -> dict[str, Any]:
    """One view by its name: what it shows block by block, and its own numbers."""
    results = ask(trace, [view], options)
    return {"view": view, "asks": VIEWS[view].asks, "results": [shown(result) for result in results]}


def process(trace: Trace, options: Options) -> dict[str, Any]:
    """The complete process for one query, all heads; a recurrent layer's gates as blocks."""
    (found,) = VIEWS["walkthrough"].ask(trace, options)
    if not isinstance(found, Walkthrough):
        return {"title": found.title, "results": [shown(found)]}
    before, after = found.embedding_formula
    a = found.attention
    drawn = {f"{a}.{name}" for name in ("queries", "keys", "values", "mixed", "output")}
    drawn |= {f"{name}_residual.{part}" for name in (a, "feed_forward") for part in ("added", "output")}
    numbers = numbers_of(found)
    numbers["steps"] = {
        name: value
        for name, value in numbers["steps"].items()
        if name in drawn | {"feed_forward.activated", "feed_forward.output"}
    }
    for name in _NOT_DRAWN:
        del numbers[name]
    tokens = [
        {"text": piece, "word": number, "token": place}
        for number in detailed(found)
        for piece, place in zip(found.words[number].pieces, found.words[number].places, strict=True)
    ]
    return {
        "title": found.title,
        "text": found.text,
        **numbers,
        "attention": found.attention,
        "asking": {"word": found.query, "token": found.piece, "text": found.asking},
        "tokens": tokens,
        "detailed": detailed(found),
        "labels": found.embedding_rows,
        "formulas": {
            "embedding": f"{before}{found.asking}{after}",
            "score": found.score(),
            "read": found.read,
            "norm": found.norm,
            "norm_first": found.norm_first,
            "activation": found.activation,
            "gated": found.gated,
            "before_feed_forward": found.before_feed_forward,
            "positions": found.positions,
            "biases": found.biases,
        },
    }


def heads(trace: Trace, kind: Kind, row: int = 0, layer: int | None = None) -> dict[str, Any]:
    """Every head of one kind: weights between words, or, of a long text, small maps of the largest weights.

    Of a very long text small maps are made of one layer, when it is asked for, from sampled queries.
    """
    check_range("text", row, len(trace.source))
    places = [trace.attention_place(number, kind) for number in range(len(trace.asking(kind)))]
    of = trace.source if trace.target is None or kind == "encoder" else trace.target
    sizes = len(of[row]), len(trace.source[row]) if kind == "cross" else len(of[row])
    long, far = max(sizes) > LARGEST_AT_ONCE, max(sizes) > LARGEST_AT_A_GLANCE
    found: dict[str, Any] = {"kind": kind, "places": places, "long": long, "tokens": sizes, "row": row}
    if layer is not None:
        check_range("layer", layer, len(places))
        return found | {"layer": layer, "weights": packed(_small(trace, places[layer], row, sampled=far))}
    if far:
        return found | {"weights": None, "heads": trace.attention(places[0], 0, row).attention.heads}
    asking = trace.words(row, "target" if trace.target is not None and kind != "encoder" else "source")
    looked_at = trace.words(row) if kind == "cross" or kind == "encoder" or trace.target is None else asking
    found |= {"queries": _words(asking), "keys": _words(looked_at)}
    if long:
        return found | {"weights": packed(torch.stack([_small(trace, place, row) for place in places]))}
    maps = []
    for place in places:
        count = trace.attention(place, 0, row).attention.heads
        every = torch.stack([trace.weights(place, head, row=row) for head in range(count)])
        maps.append(join_rows(join_keys(every, looked_at), asking))
    return found | {"weights": packed(torch.stack(maps))}


def _small(trace: Trace, place: str, row: int, sampled: bool = False) -> Float[Tensor, "heads rows columns"]:
    """A small map of the largest weights of each head of one attention."""
    count, size = trace.attention(place, 0, row).attention.heads, (_THUMBNAIL, _THUMBNAIL)
    every = [trace.map(place, head, resolution=size, row=row, sampled=sampled).largest for head in range(count)]
    return torch.stack(every)


def tile(
    trace: Trace,
    place: str,
    head: int,
    queries: slice,
    keys: slice,
    resolution: tuple[int, int],
    row: int = 0,
    sampled: bool = False,
) -> dict[str, Any]:
    """A region of one head's map, cell by cell."""
    found = trace.map(place, head, (queries, keys), resolution, row=row, sampled=sampled)
    region = [found.queries.start, found.queries.stop, found.keys.start, found.keys.stop]
    shape = trace.attention(place, head, row).shape
    both = {"largest": packed(found.largest), "mean": packed(found.mean), "sampled": sampled}
    return {"place": place, "head": head, "region": region, "cell": list(found.cell), "of": list(shape), **both}


def answers(volume: Volume, trace: Trace, options: Options, row: int = 0) -> dict[str, Any]:
    """How the answer came about: alternatives at each token, the beam; of readers the classes or hidden words."""
    if volume.kind == "reader":
        return {"kind": "reader", **_read(volume, trace.text(row), options.count or 5)}
    count = options.count or 5
    found = generation(trace, options.seen, row, count)
    places, tokens = answer_places(trace, row)
    best = trace.logits(slice(places.start, places.stop), row).float().softmax(dim=-1).topk(count, dim=-1)
    produced = []
    for one, token, others, values in zip(
        found.produced, tokens, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        listed = [
            {"token": other, "text": trace.spell(other), "probability": value}
            for other, value in zip(others, values, strict=True)
        ]
        produced.append({"token": token, "text": one.text, "probability": one.probability, "alternatives": listed})
    end = getattr(trace.model.config, "eos_token_id", None)
    return {"kind": volume.kind, **found.to_dict(), "produced": produced, "answer": _answer(volume, trace, row),
            "first": places.start, "end": end}  # fmt: skip


def what_if(volume: Volume, trace: Trace, edits: Sequence[str], options: Options, row: int = 0) -> dict[str, Any]:
    """The answer before and now: the probabilities at one place and, where the model writes, all of it."""
    changes = [edit_of(trace, text) for text in edits]
    compared = intervene(trace, changes, options.query, row, options.count or 8)
    found: dict[str, Any] = compared.to_dict()
    if volume.kind != "reader":
        before = answer_places(trace, row)[1] if trace.target is not None or trace.prompts is not None else []
        end = getattr(trace.model.config, "eos_token_id", None)
        room = max(12, 2 * len(before))
        now = answer_under(trace, changes, row, room)
        was = answer_under(trace, [], row, room) if not before else [token for token in before if token != end]
        found |= {"answer_before": _decoded(volume, trace, was, row), "answer_now": _decoded(volume, trace, now, row)}
    else:
        found |= {name: answer_name(trace, int(answer_of(trace, edits, options.query, row).argmax()))
                  for name, edits in (("answer_before", ()), ("answer_now", changes))}  # fmt: skip
    return found


def packed(values: Float[Tensor, "*any"]) -> dict[str, Any]:
    """Numbers as little-endian float32 in base64, with their shape."""
    numbers = values.detach().float().cpu().contiguous().numpy().astype("<f4")
    return {"shape": list(values.shape), "float32": base64.b64encode(numbers.tobytes()).decode()}


def plain(value: Any) -> Any:
    """The same without what JSON cannot say: infinite numbers and those that are none become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, Tensor):
        return plain(value.tolist())
    return value


def _words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [{"text": word.text, "places": word.places, "pieces": word.pieces, "number": word.number} for word in words]


def _tokens(trace: Trace, row: int) -> list[str]:
    return [trace.spell_source(token) for token in trace.source[row].tolist()]


def _answer(volume: Volume, trace: Trace, row: int) -> str:
    """What stands behind the arrow: the answer as one text; of a very long text only what was computed already."""
    if trace.target is not None:
        return _decoded(volume, trace, trace.target[row].tolist()[1:], row)
    if trace.prompts is not None:
        return _decoded(volume, trace, trace.source[row].tolist()[trace.prompts[row] :], row)
    if len(trace.source[row]) > LARGEST_AT_A_GLANCE:
        return ""
    return str(volume.pipeline.answers([trace.text(row)])[0])


def _decoded(volume: Volume, trace: Trace, tokens: Sequence[int], row: int) -> str:
    pipeline: Any = volume.pipeline
    if volume.kind == "translator":
        return str(pipeline.codec.target.decode(list(tokens)))
    return str(pipeline.continuation(trace.text(row), list(tokens)))


def _read(volume: Volume, text: str, count: int) -> dict[str, Any]:
    """Classes of a text, or what its hidden words may be."""
    pipeline: Any = volume.pipeline
    if "classify" in volume.abilities:
        return {"classes": [asdict(one) for one in pipeline.classify([text])[0]]}
    if "fill" not in volume.abilities:
        raise RegardError(f"{volume.name} embeds texts: it answers nothing that could be looked at here")
    return {"hidden": [[asdict(one) for one in choices] for choices in pipeline.fill(text, count)]}


def shown(result: Result) -> dict[str, Any]:
    blocks = [{"type": type(block).__name__.lower(), **_fields(block)} for block in result.blocks()]
    return {"title": result.title, "blocks": blocks, "data": result.to_dict()}


def _fields(block: Block) -> dict[str, Any]:
    return asdict(block)
