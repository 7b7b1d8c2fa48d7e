"""Running a program over rows: the memory it works in, and the one native call."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from regard.generation.program import MEMORY, Program
from regard.native import CallStruct, library
from regard.sequences import Layout


class Code:
    """A program as it is run: its operations, and what they need."""

    def __init__(self, program: Program, operations: Any = None) -> None:
        self.operations = program.sealed() if operations is None else operations
        self.widths, self.rounded, self.caches = dict(program.widths), program.rounded, list(program.caches)
        self._kept = program


class Room:
    """The memory of one search: buffers, caches, and rounded rows. It grows and is used again."""

    def __init__(self, cache_widths: Sequence[int]) -> None:
        self.cache_widths = cache_widths
        self.buffers: dict[str, Tensor] = {}
        self.rounded, self.row_scales = torch.empty(0, dtype=torch.int8), torch.empty(0)
        self.caches: list[Tensor] = []
        self.slots = self.length = 0
        self.used = 0
        """Positions of the caches that the search has written."""
        self.cache_pointers = (ctypes.c_void_p * max(1, len(cache_widths)))()
        self._pointers: Any = None

    def grow(self, code: Code, rows: int) -> None:
        """Make every buffer of a program long enough for so many rows."""
        for name, width in code.widths.items():
            if name.startswith(MEMORY):
                continue
            if name not in self.buffers or self.buffers[name].numel() < rows * width:
                self.buffers[name] = torch.empty(rows * width)
        padded = -(-rows // 16) * 16
        if self.rounded.numel() < padded * code.rounded:
            self.rounded = torch.zeros(padded * code.rounded, dtype=torch.int8)
        if self.row_scales.numel() < padded:
            self.row_scales = torch.zeros(padded)

    def pointers(self, code: Code, memories: Mapping[str, Tensor]) -> int:
        """The address of the list of buffers, in the order of the program."""
        found = [memories[name] if name in memories else self.buffers[name] for name in code.widths]
        self._pointers = (ctypes.c_void_p * len(found))(*(tensor.data_ptr() for tensor in found))
        return ctypes.addressof(self._pointers)

    def make_caches(self, slots: int, length: int) -> list[Tensor]:
        """New caches of (slots, length, keys and values), the old ones given back; no copy."""
        old = self.caches
        self.caches = [torch.empty(slots, length, width) for width in self.cache_widths]
        self.slots, self.length = slots, length
        for number, cache in enumerate(self.caches):
            self.cache_pointers[number] = cache.data_ptr()
        return old


def run(
    code: Code,
    room: Room,
    positions: Int[np.ndarray, "rows"],
    threads: int | None = None,
    memories: Mapping[str, Tensor] | None = None,
    **call: int,
) -> None:
    """Run a program over rows at these positions of their texts. `call`: fields of `CallStruct`."""
    native, rows = library(), len(positions)
    assert native is not None
    room.grow(code, rows)
    struct = CallStruct(
        rows=rows,
        threads=threads or torch.get_num_threads(),
        buffers=room.pointers(code, memories or {}),
        positions=positions.ctypes.data,
        caches=ctypes.addressof(room.cache_pointers),
        room=room.length,
        rounded=room.rounded.data_ptr(),
        row_scales=room.row_scales.data_ptr(),
        **call,
    )
    native.regard_run(code.operations, len(code.operations), ctypes.byref(struct))


def run_over_texts(
    code: Code,
    room: Room,
    x: Float[Tensor, "tokens width"],
    layout: Layout,
    threads: int | None = None,
    memories: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, "tokens width"]:
    """Run an encoder's program over texts that lie end to end; what it leaves in x, which the next run writes over."""
    offsets, lengths = layout.offsets.numpy().astype(np.int32), np.asarray(layout.lengths)
    begins, ends = np.repeat(offsets[:-1], lengths), np.repeat(offsets[1:], lengths)
    places = np.arange(layout.tokens, dtype=np.int32) - begins
    room.grow(code, layout.tokens)
    room.buffers["x"][: x.numel()] = x.flatten()
    run(code, room, places, threads, memories, begins=begins.ctypes.data, ends=ends.ctypes.data)
    return room.buffers["x"][: x.numel()].view(x.shape)
