"""The library of native kernels: found, checked against the processor, loaded; or absent, and nothing here needs it.

`program.cpp` is compiled when the package is installed, if there is a C++ compiler (`hatch_build.py`). It shares
PyTorch's own pool of threads: two pools in one process wait for each other.
"""

from __future__ import annotations

import ctypes
import platform
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path

FILE = "kernels.so"


class MatrixStruct(Structure):
    """`Matrix` of matrix.h."""

    _fields_ = (
        ("kind", c_int32),
        ("inputs", c_int32),
        ("outputs", c_int32),
        ("padded_inputs", c_int32),
        ("blocks", c_void_p),
        ("scales", c_void_p),
        ("sums", c_void_p),
        ("bias", c_void_p),
    )


class OperationStruct(Structure):
    """`Operation` of program.cpp."""

    _fields_ = (
        *((name, c_int32) for name in ("code", "source", "target", "a", "b", "c", "d", "e")),
        ("f", c_float),
        ("g", c_float),
        *((name, c_void_p) for name in ("p", "q", "r")),
    )


class CallStruct(Structure):
    """`Call` of program.cpp."""

    _fields_ = (
        ("rows", c_int32),
        ("threads", c_int32),
        *((name, c_void_p) for name in ("buffers", "tokens", "positions", "caches", "slots", "table")),
        ("table_stride", c_int32),
        ("room", c_int32),
        *((name, c_void_p) for name in ("families", "sources", "begins", "ends", "rounded", "row_scales", "forbidden")),
        ("forbidden_count", c_int32),
        ("top", c_int32),
        *((name, c_void_p) for name in ("top_values", "top_tokens", "normalisers", "rows_at")),
        ("times", c_int32),
        ("states", c_int32),
    )


class LstmStruct(Structure):
    """`Lstm` of lstm.h."""

    _fields_ = (
        *((name, c_int32) for name in ("width", "times", "rows", "threads")),
        *((name, c_void_p) for name in ("rows_at", "matrix", "inputs", "gates", "hiddens", "cells", "hidden", "cell")),
        *((name, c_void_p) for name in ("sums", "rounded", "d_hiddens", "d_cells", "d_gates", "d_hidden", "d_cell")),
    )


class LookStruct(Structure):
    """`Look` of additive.h."""

    _fields_ = (
        *((name, c_int32) for name in ("kind", "rows", "threads", "width", "value_width", "longest")),
        *((name, c_void_p) for name in ("begins", "ends", "queries", "keys", "values", "vector", "weights", "mixed")),
        *((name, c_void_p) for name in ("d_mixed", "d_queries", "d_keys", "d_vectors", "rows_at")),
        ("times", c_int32),
        ("d_values", c_void_p),
    )


class AttentionStruct(Structure):
    """`Attention` of attention.h."""

    _fields_ = (
        *((name, c_int32) for name in ("kind", "threads", "sequences", "heads", "key_heads", "width", "causal")),
        ("scale", c_float),
        ("dropped", c_uint32),
        ("seed", c_int64),
        *((name, c_void_p) for name in ("query_begins", "key_begins", "queries", "keys", "values")),
        ("query_row", c_int64),
        ("key_row", c_int64),
        *((name, c_void_p) for name in ("mixed", "normalisers", "d_mixed", "d_queries", "d_keys", "d_values")),
    )


class ObjectiveStruct(Structure):
    """`Objective` of objective.h."""

    _fields_ = (
        ("kind", c_int32),
        ("threads", c_int32),
        ("tokens", c_int64),
        ("vocabulary", c_int64),
        *((name, c_void_p) for name in ("logits", "answers", "gradient")),
        ("smoothing", c_float),
        ("right", c_void_p),
        ("spread", c_void_p),
    )


class GeluStruct(Structure):
    """`Gelu` of gelu.h."""

    _fields_ = (
        *((name, c_int32) for name in ("kind", "threads")),
        ("count", c_int64),
        *((name, c_void_p) for name in ("x", "d_y", "found")),
    )


class ProductStruct(Structure):
    """`Product` of product.h."""

    _fields_ = (
        *((name, c_int32) for name in ("rows", "columns", "depth", "threads", "a_kind", "b_kind", "c_kind")),
        ("a", c_void_p),
        ("a_row", c_int64),
        ("a_depth", c_int64),
        ("b", c_void_p),
        ("b_depth", c_int64),
        ("b_column", c_int64),
        *((name, c_void_p) for name in ("bias", "c", "strips")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; None where they were not built, or were built for another processor."""
    file = Path(__file__).with_name(FILE)
    if not file.is_file() or not _share_threads():
        return None
    try:
        found = ctypes.CDLL(str(file))
    except OSError:
        return None
    found.regard_needs.restype = c_char_p
    if not set(found.regard_needs().decode().split()) <= processor() or not found.regard_begin():
        return None
    found.regard_run.argtypes = (POINTER(OperationStruct), c_int32, POINTER(CallStruct))
    found.regard_run.restype = None
    found.regard_lstm.argtypes, found.regard_lstm.restype = (POINTER(LstmStruct), c_int32), None
    found.regard_look.argtypes, found.regard_look.restype = (POINTER(LookStruct), c_int32), None
    found.regard_attention.argtypes, found.regard_attention.restype = (POINTER(AttentionStruct),), None
    found.regard_objective.argtypes, found.regard_objective.restype = (POINTER(ObjectiveStruct),), None
    found.regard_gelu.argtypes, found.regard_gelu.restype = (POINTER(GeluStruct),), None
    found.regard_product.argtypes, found.regard_product.restype = (POINTER(ProductStruct),), None
    found.regard_pack_int8.argtypes, found.regard_pack_int8.restype = (
        (c_void_p, *(c_int32,) * 3, *(c_void_p,) * 2),
        None,
    )
    found.regard_pack.argtypes, found.regard_pack.restype = (c_void_p, c_int64, c_int64, c_void_p), None
    return found


@cache
def has_wide_vectors() -> bool:
    """Whether there are kernels, built for AVX-512: some are only worth taking with it."""
    return is_built_for("avx512f")


def is_built_for(ability: str) -> bool:
    """Whether there are kernels that use what the processor can do, in the words of Linux."""
    native = library()
    return native is not None and ability in native.regard_needs().decode().split()


def _share_threads() -> bool:
    """Make the OpenMP that PyTorch brings known to libraries that are loaded later."""
    import torch

    beside = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    beside += sorted(Path(torch.__file__).parent.parent.glob("torch.libs/libgomp*"))
    for name in (*map(str, beside), "libgomp.so.1"):
        try:
            ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


@cache
def processor() -> set[str]:
    """What the processor can do, and who made it, in the words of Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith("flags")), "")
    vendor = next((line for line in lines if line.startswith("vendor_id")), "")
    return set(flags.split()) | set(vendor.split()[-1:]) | {platform.machine()}
