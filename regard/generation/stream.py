"""One answer token by token, as it is written; it may begin as one likes, and be drawn instead of chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from regard.errors import RegardError
from regard.generation.candidates import choose
from regard.generation.sampling import chances
from regard.generation.settings import Generator, Search
from regard.sequences import Sequences


@torch.inference_mode()
def stream(model: Generator, source: Sequences, how: Search, begin: Sequence[int] = ()) -> Iterator[int]:
    """The tokens of the answer to one source, without the end token; those of `begin` come first and as they are.

    What `search` gives without beams, by the same settings. Raises RegardError for more than one source.
    """
    if len(source) != 1:
        raise RegardError(f"one text is answered token by token, not {len(source)}")
    drawn = [chances(how, 0)] if how.samples else []
    state, tokens, text = model.start(source), how.begin(source), how.before(source)[0]
    for length in range(1, how.longest(source.lengths[0]) + 1):
        logits, state = model.step(tokens, state)
        token = begin[length - 1] if length <= len(begin) else int(choose(logits, how, length, [text], drawn)[1])
        if token == how.eos:
            return
        yield token
        text.append(token)
        tokens = torch.tensor([token], device=logits.device)
