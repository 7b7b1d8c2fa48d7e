"""The numbers behind the walkthrough's page: those of `regard.explain.walkthrough`, and what follows from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.explain.render.page_parts import MINUS, compact, fixed
from regard.explain.walkthrough import Walkthrough

_VECTOR_DIGITS, _NUMBER_DIGITS = 4, 6
_ALL_IN_DETAIL, IN_DETAIL = 32, 8
"""Up to so many words all vectors are drawn; of a longer text those of so many, so that the page stays small."""
_UNUSED = (".scores", ".scaled_scores", ".masked_scores")


def numbers_of(walk: Walkthrough) -> dict[str, Any]:
    """What the slots show: the walkthrough's own numbers under their own names, and what follows from them."""
    found = walk.to_dict()
    other = {"self_attention": "cross_attention.", "cross_attention": "self_attention."}[walk.attention]
    steps = {
        name: value
        for name, value in found["steps"].items()
        if name != "output" and not name.endswith(_UNUSED) and not name.startswith(other)
    }
    queries, keys, values, weights, heads, output = (
        walk.steps[f"{walk.attention}.{name}"] for name in ("queries", "keys", "values", "weights", "heads", "output")
    )
    tokens = [place for number in detailed(walk) for place in walk.words[number].places]
    steps |= {
        f"{walk.attention}.{name}": part[:, tokens].tolist() for name, part in (("keys", keys), ("values", values))
    }
    exponentials = (walk.scaled_scores - walk.scaled_scores.amax(dim=-1, keepdim=True)).exp()
    mixed = [
        weights[:, :, list(word.places)] @ values[:, list(word.places)]
        for word in (walk.words[number] for number in detailed(walk))
    ]
    parts = heads[:, 0] @ output[0] / output.square().sum().clamp_min(1e-12)
    numbers = {
        "exponentials": exponentials,
        "sums": exponentials.sum(dim=-1),
        "weight_sums": walk.weights.sum(dim=-1),
        "mean_weights": walk.weights.mean(dim=0),
        "share_lengths": heads[:, 0].norm(dim=-1),
        "share_parts": 100 * parts,
        "bias_part": 100 * (1 - parts.sum()),
    }
    vectors = {
        "entering": (walk.steps[f"{walk.attention}_residual.added"] - output)[0],
        "products": queries * keys[:, tokens],
        "weighted_values": torch.cat(mixed, dim=1),
    }
    return {
        **{name: found[name] for name in ("view", "place", "query", "head", "words", "difference_from_fast_run")},
        **{name: compact(found[name], _NUMBER_DIGITS) for name in ("scores", "scaled_scores", "weights")},
        **{name: compact(value.tolist(), _NUMBER_DIGITS) for name, value in numbers.items()},
        "filled": [_filled(walk, head) for head in range(walk.heads)],
        "embedding": compact(found["embedding"], _VECTOR_DIGITS),
        "steps": compact(steps, _VECTOR_DIGITS),
        **{name: compact(value.tolist(), _VECTOR_DIGITS) for name, value in vectors.items()},
    }


def _filled(walk: Walkthrough, head: int) -> dict[str, str]:
    """The formulas of one head with its numbers in them, for the word it looks at most."""
    asked, keys = walk.steps[f"{walk.attention}.queries"][head, 0], walk.steps[f"{walk.attention}.keys"][head]
    values, mixed = walk.steps[f"{walk.attention}.values"][head], walk.steps[f"{walk.attention}.mixed"][head, 0]
    weights = walk.steps[f"{walk.attention}.weights"][head, 0]
    best = int(walk.weights[head].argmax())
    word = walk.words[best].text
    piece = max(walk.words[best].places, key=lambda place: float(weights[place]))
    terms = " + ".join(f"{signed(a)}·{signed(b)}" for a, b in zip(asked[:3], keys[piece, :3], strict=True))
    named = walk.words[best].pieces[walk.words[best].places.index(piece)]
    dots = [_scored(walk, head, place) for place in walk.words[best].places]
    scaled, total = float(walk.scaled_scores[head, best]), walk.scaled_scores[head]
    joined = dots[0] if len(dots) == 1 else "ln(" + " + ".join(f"e^({dot})" for dot in dots) + ")"
    share, top = float(walk.weights[head, best]), float(total.max())
    raised = f"e^({fixed(scaled)} {MINUS} {signed(top)})"
    order = weights.argsort(descending=True)[:3].tolist()
    mix = " + ".join(f"{fixed(float(weights[place]))}·{signed(values[place, 0])}" for place in order)
    return {
        "dot": f"q·k({named}) = {terms} + … = {fixed(float(walk.scores[head, piece]))}",
        "scale": f"s({word}) = {joined} = {fixed(scaled)}",
        "softmax": f"weight({word}) = {raised} / {fixed(float((total - top).exp().sum()), 3)} = {fixed(share, 3)}",
        "mixed": f"first value: {mix}{' + …' if len(weights) > 3 else ''} = {fixed(float(mixed[0]))}",
    }


def _scored(walk: Walkthrough, head: int, place: int) -> str:
    """The formula of one score with its numbers."""
    added = walk.steps.get(f"{walk.attention}.added_scores")
    distance = "" if added is None else fixed(float(added[head, 0, place]))
    return walk.score(fixed(float(walk.scores[head, place])), distance)


def detailed(walk: Walkthrough) -> list[int]:
    """The words whose vectors are drawn: all of a short text, else those with the largest weights in any head."""
    numbers = range(len(walk.words))
    if len(walk.words) <= _ALL_IN_DETAIL:
        return list(numbers)
    largest = walk.weights.amax(dim=0).tolist()
    best = sorted(numbers, key=lambda number: (number != walk.query, -largest[number]))
    return sorted(best[:IN_DETAIL])


def signed(value: Tensor | float) -> str:
    """A number as a factor: in brackets if negative."""
    shown = fixed(float(value))
    return f"({shown})" if shown.startswith(MINUS) else shown
