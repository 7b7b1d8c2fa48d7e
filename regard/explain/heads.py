"""What stands on top of a stack: poolers and classifying heads, step by step."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.models.bert import Bert
from regard.models.gpt import GPT
from regard.models.ulmfit import Ulmfit

_POOLED = ("heads.next_sentence", "heads.classification")


def head_places(model: Any) -> list[str]:
    """The heads of a model, by the names of their modules, in order."""
    if isinstance(model, Bert):
        return [*(["pooler"] if model.pooler is not None else []), *(f"heads.{name}" for name in model.config.heads)]
    if isinstance(model, Ulmfit):
        return ["pooling", *(f"head.{number}" for number in range(len(model.head)))]
    if isinstance(model, GPT) and model.classifier is not None:
        return ["classifier"]
    return []


def head_steps(model: Any, place: str, hidden: Float[Tensor, "tokens width"], queries: slice) -> dict[str, Tensor]:
    """The values of one head over the last hidden state of one text; of heads over tokens, those of the queries."""
    head: Any = model.get_submodule(place)
    if isinstance(model, Ulmfit):
        found: dict[str, Tensor] = model.pooling.steps(hidden)
        for number in range(len(model.head) if place.startswith("head.") else 0):
            block: Any = model.head[number]
            found = block.steps(found["output"])
            if place == f"head.{number}":
                break
        return found
    if place in ("pooler", "classifier"):
        found = head.steps(hidden)
    elif place in _POOLED:
        found = head.steps(model.pooler.steps(hidden)["output"])
    elif place == "heads.masked_words":
        found = head.steps(hidden[queries], model.embeddings.words.weight)
    else:
        found = head.steps(hidden[queries])
    return found
