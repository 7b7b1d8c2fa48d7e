"""The whole answer of a model under edits, written anew token by token.

Every token is found from a run over all tokens so far, without a cache: an edit inside the decoder holds for what was
already written as well. A row of weights set by hand is as long as the text was; what is written later gets nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from regard.errors import RegardError
from regard.explain.edits import Edit, KnockOut, Patch, SetWeights, edited
from regard.explain.recording import evaluating
from regard.explain.trace import Trace
from regard.sequences import Sequences


@torch.no_grad()
def answer_under(trace: Trace, edits: Sequence[Edit], row: int = 0, tokens: int = 50) -> list[int]:
    """The greedy answer of a translator, or what a language model writes after its text, at most so many tokens.

    Raises RegardError for models that write nothing, and what edits raise.
    """
    model: Any = trace.model
    if trace.target is None and not hasattr(model, "logits"):
        raise RegardError(f"a {model.config.model_type} writes no answer: translators and language models do")
    end = getattr(model.config, "eos_token_id", None)
    source = Sequences.of([trace.source[row]])
    if trace.target is None:
        begun = source.values.tolist()[: None if trace.prompts is None else trace.prompts[row]]
        limit = int(
            getattr(model.config, "n_positions", 0) or getattr(model.config, "max_position_embeddings", 1 << 30)
        )
    else:
        begun, limit = [int(trace.target[row][0])], int(model.config.max_position_embeddings)
    forbidden = {getattr(model.config, name, None) for name in ("pad_token_id", "bos_token_id")} - {end, None}
    written: list[int] = []
    with evaluating(model):
        while len(written) < tokens and len(begun) + len(written) < limit:
            so_far = Sequences.of([torch.tensor([*begun, *written], device=source.values.device)])
            with edited(model, _fitting(edits, so_far.lengths[0])):
                hidden = model.hidden(so_far) if trace.target is None else model.decode(so_far, model.encode(source))
            scores = model.logits(hidden.values[-1:])[0].float()
            if trace.target is not None:
                scores[list(forbidden)] = -torch.inf
            token = int(scores.argmax())
            if token == end:
                break
            written.append(token)
    return written


def _fitting(edits: Sequence[Edit], length: int) -> list[Edit]:
    """The edits whose positions are there while the answer has this length, rows of weights as long as it is."""
    found: list[Edit] = []
    for edit in edits:
        grows = edit.place.startswith("decoder.")
        crossing = edit.place.endswith("cross_attention")
        asked = edit.position if isinstance(edit, Patch) else edit.query
        if grows and asked is not None and asked >= length:
            continue
        if grows and not crossing and isinstance(edit, KnockOut) and edit.key is not None and edit.key >= length:
            continue
        if grows and not crossing and isinstance(edit, SetWeights):
            weights = (*edit.weights, *(0.0 for _ in range(length - len(edit.weights))))
            found.append(SetWeights(edit.place, edit.query, weights[:length], edit.head))
            continue
        found.append(edit)
    return found
