"""The rest of a model: from the embeddings of one text to the scores of its answer, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from regard.errors import RegardError
from regard.explain.lens import answering_position
from regard.explain.trace import Trace, scores_of_words
from regard.models.bert import Encoder
from regard.models.decoder import last_of_each
from regard.models.seq2seq import Memory
from regard.models.ulmfit import AwdLstm, Ulmfit
from regard.sequences import Layout, Sequences

Rest = Callable[[Float[Tensor, "rows tokens width"]], Float[Tensor, "rows answers"]]


def after_embedding(
    trace: Trace, query: str | int | None = None, row: int = 0
) -> tuple[Float[Tensor, "1 tokens width"], Rest]:
    """What enters the first layer, and the map from there to the logits of the answer.

    The answer is a class where the model tells classes, else the word at one position (see `lens`): of translators the
    produced word `query`. Raises RegardError for models that read word by word (AWD-LSTM).
    """
    model: Any = trace.model
    if isinstance(model, AwdLstm | Ulmfit):
        raise RegardError(f"a {model.config.model_type} drops and ties weights as it reads: ask a model with attention")
    first = trace.stack()[0]
    stack = _layers_of(model.get_submodule(first.split(".")[0]))
    embedded = trace.entering(first, row)[None]
    if trace.target is not None:
        return embedded, _translating(trace, stack, query, row)
    if "classification" in getattr(model.config, "heads", ()):
        return embedded, lambda x: model.answer("classification", stack(_laid(x)))
    if getattr(model, "classifier", None) is not None:
        return embedded, lambda x: model.score(last_of_each(stack(_laid(x))))
    score, (position, _) = scores_of_words(model), answering_position(trace, query, row)
    return embedded, lambda x: score(stack(_laid(x)).pad()[:, position])


def _translating(trace: Trace, encoder: Any, query: str | int | None, row: int) -> Rest:
    """The produced word at one place, the words before it given."""
    model, (position, _) = trace.model, answering_position(trace, query, row)
    assert trace.target is not None
    target = trace.target[row]

    def rest(x: Tensor) -> Tensor:
        found = encoder(_laid(x))
        memory = found if isinstance(found, Sequences) else Memory(*found)
        hidden = model.decode(Sequences.of([target] * len(x)), memory)
        logits: Tensor = model.logits(hidden.pad()[:, position])
        return logits

    return rest


def _layers_of(stack: Any) -> Any:
    """What runs the layers of a stack; ALBERT's does more before, which has happened already."""
    return partial(Encoder.forward, stack) if isinstance(stack, Encoder) else stack


def _laid(x: Float[Tensor, "rows tokens width"]) -> Sequences:
    return Sequences(x.flatten(0, 1), Layout((x.shape[1],) * len(x), x.device))
