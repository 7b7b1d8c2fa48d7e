"""An encoder prepared to read many texts: all its layers one native call, over real tokens only.

encode = prepare_encoder(model, "int8")      # BERT, RoBERTa, DistilBERT, ALBERT
encode(tokens)                               # what model.hidden(tokens) gives
"""

from __future__ import annotations

import torch
from torch import nn

from regard.generation.program import Program, UnsupportedPartError, write_encoder
from regard.generation.running import Code, Room, run_over_texts
from regard.models.bert import Bert
from regard.native import library
from regard.native.matrices import Precision
from regard.sequences import Sequences


class ReadyEncoder:
    """Hidden states of texts, from weights packed as fp32, bf16 or int8. One caller at a time."""

    def __init__(self, model: Bert, precision: Precision, threads: int | None = None) -> None:
        program = Program(precision, model.config.max_position_embeddings)
        program.buffer("x", model.config.width)
        write_encoder(program, model.encoder.layers)
        self.model, self.threads, self._code = model, threads, Code(program)
        self._rooms: list[Room] = []

    @torch.inference_mode()
    def hidden(self, tokens: Sequences) -> Sequences:
        """The last hidden state of every token, (tokens, width). Several threads may ask at once."""
        room = self._rooms.pop() if self._rooms else Room([])
        embedded = self.model.embeddings(tokens)
        widen: nn.Module = getattr(self.model.encoder, "widen", nn.Identity())
        hidden = run_over_texts(self._code, room, widen(embedded.values), tokens.layout, self.threads)
        found = tokens.with_values(hidden.clone())
        self._rooms.append(room)
        return found


def prepare_encoder(model: Bert, precision: Precision = "fp32", threads: int | None = None) -> ReadyEncoder | None:
    """A prepared encoder; None where there are no native kernels, or a part has no operations."""
    if library() is None or model.device.type != "cpu":
        return None
    try:
        with torch.no_grad():
            return ReadyEncoder(model, precision, threads)
    except UnsupportedPartError:
        return None
