"""Whisper models as CTranslate2 keeps them (faster-whisper's folders): `model.bin`, `config.json`, `tokenizer.json`.

    model, tokenizer = read_folder(Path("faster-whisper-tiny.en"))

`model.bin`, all numbers with the smallest byte first: version (6), the name of the kind of model, its revision; then,
counted, each tensor as name, number of axes, their lengths, a number for the kind of its values, its size in bytes, the
values; then, counted, pairs of names that mean one tensor. A name has two bytes for its length and ends in a zero.
Whole numbers of 8 and 16 bits are values times a scale, `<name>_scale`, one for each row or for all. Everything is read
into float32. The file holds numbers only, so that nothing can run from it.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.hub.names import Names, from_theirs, refuse, validated, with_suffixes
from regard.hub.whisper import check_positions
from regard.modalities.subwords import Special, Subwords
from regard.modalities.text import SOURCE_FILE
from regard.models.base import CONFIG, Model, check_weights, read_json
from regard.models.whisper import Whisper, WhisperConfig

FILE = "model.bin"
_VERSION, _KIND = 6, "WhisperSpec"
_TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
"""By their numbers in the file."""
_ACTIVATIONS = {0: "relu", 1: "gelu_new", 2: "silu", 3: "gelu"}
_SWITCHES: dict[str, tuple[int, ...]] = {
    "decoder/alibi": (0,),
    "decoder/pre_norm": (1,),
    "decoder/scale_embeddings": (0,),
    "decoder/start_from_zero_embedding": (0,),
    "decoder/alignment_heads": (0, 1),
    "decoder/alignment_layer": (-1,),
}
_PLACES = "encoder/position_encodings/encodings"


def is_folder(folder: Path, fields: dict[str, Any]) -> bool:
    """Whether a folder is of this kind: its `config.json` does not say what the model is, `model.bin` does."""
    return "model_type" not in fields and (folder / FILE).is_file()


def read_folder(folder: Path) -> tuple[Model, Subwords]:
    """Model, in float32 and ready to answer, and tokenizer. Raises RegardError; nothing is left half loaded."""
    fields = read_json(folder / CONFIG)
    tensors = read_tensors(folder / FILE)
    if not (folder / SOURCE_FILE).is_file():
        raise RegardError(f"{folder} has no {SOURCE_FILE}")
    tokenizer = Subwords.from_file(folder / SOURCE_FILE, Special())
    config = read_config(fields, tensors, tokenizer)
    model, weights = Whisper(config), read_weights(config, tensors)
    check_weights(model, weights, folder / FILE)
    model.load_state_dict(weights)
    end = config.eos_token_id
    return model.eval(), Subwords(tokenizer.inner, Special(config.prompt[0], end, end))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `model.bin`, whole numbers as what they stand for; settings are tensors without axes.

    Raises RegardError for a file that is damaged, or of another version or kind.
    """
    try:
        data = _Reader(path)
    except OSError as error:
        raise RegardError(f"{path} cannot be read: {error.strerror}") from error
    refuse({"version": data.number(4)}, {"version": (_VERSION,)})
    refuse({"kind of model": data.text()}, {"kind of model": (_KIND,)})
    data.number(4)
    found: dict[str, Tensor] = {}
    for _ in range(data.number(4)):
        name = data.text()
        found[name] = data.tensor(name)
    for _ in range(data.number(4)):
        alias, name = data.text(), data.text()
        if name not in found:
            raise RegardError(f"{path} is damaged: {alias} stands for {name}, which is not there")
        found[alias] = found[name]
    if data.left:
        raise RegardError(f"{path} is damaged: {data.left} bytes follow its end")
    return {name: _scaled(name, value, found) for name, value in found.items() if not name.endswith("_scale")}


def read_config(fields: dict[str, Any], tensors: dict[str, Tensor], tokenizer: Subwords) -> WhisperConfig:
    """Sizes from the tensors; what an answer begins with and never has from `config.json` and the tokenizer's names."""
    settings = {name: int(value) for name, value in tensors.items() if not value.dim() and name in _SWITCHES}
    refuse(settings, _SWITCHES)
    heads = [int(_needed(tensors, f"{side}/num_heads")) for side in ("encoder", "decoder")]
    refuse({"decoder/num_heads": heads[1]}, {"decoder/num_heads": (heads[0],)})
    vocabulary, width = _needed(tensors, "decoder/embeddings/weight", 2).shape
    return validated(
        WhisperConfig,
        {
            "vocab_size": vocabulary,
            "d_model": width,
            "attention_heads": heads[0],
            "num_mel_bins": _needed(tensors, "encoder/conv1/weight", 3).shape[1],
            "encoder_layers": _layers(tensors, "encoder"),
            "decoder_layers": _layers(tensors, "decoder"),
            "ffn_dim": len(_needed(tensors, "decoder/layer_0/ffn/linear_0/weight", 2)),
            "max_source_positions": len(_needed(tensors, _PLACES, 2)),
            "max_position_embeddings": len(_needed(tensors, "decoder/position_encodings/encodings", 2)),
            "activation_function": _ACTIVATIONS.get(int(tensors.get("decoder/activation", torch.tensor(3)))),
            "prompt": _prompt(tokenizer, vocabulary),
            "forbidden": tuple(fields.get("suppress_ids") or ()),
            "forbidden_first": tuple(fields.get("suppress_ids_begin") or ()),
            "eos_token_id": _token(tokenizer, "<|endoftext|>"),
            "pad_token_id": _token(tokenizer, "<|endoftext|>"),
        },
    )


def read_weights(config: WhisperConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what we do not know keeps its name, for the check of the model to tell."""
    known = {name: value for name, value in tensors.items() if value.dim() and name != "decoder/projection/weight"}
    check_positions(known.pop(_PLACES, None), config)
    found, left = from_theirs(_names(config), known)
    return found | left


def _prompt(tokenizer: Subwords, vocabulary: int) -> list[int]:
    """Start of transcript, in models of several languages English and transcribe, and no timestamps.

    Their vocabulary is larger (51865 and more; the English ones have 51864), though both name all languages.
    """
    several = ["<|en|>", "<|transcribe|>"] if vocabulary >= 51865 else []
    return [_token(tokenizer, name) for name in ("<|startoftranscript|>", *several, "<|notimestamps|>")]


def _token(tokenizer: Subwords, name: str) -> int:
    found = tokenizer.inner.token_to_id(name)
    if found is None:
        raise RegardError(f"the tokenizer has no token {name}: it is not that of a Whisper")
    return int(found)


def _needed(tensors: dict[str, Tensor], name: str, axes: int = 0) -> Tensor:
    if name not in tensors or tensors[name].dim() != axes:
        raise RegardError(f"{FILE} has no {name} of {axes} axes, from which the size of the model is known")
    return tensors[name]


def _layers(tensors: dict[str, Tensor], side: str) -> int:
    return len({found[0] for name in tensors if (found := re.match(rf"{side}/layer_\d+/", name))})


def _scaled(name: str, value: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """In float32; whole numbers of a row divided by the scale of the row."""
    if not value.dim():
        return value
    scale = tensors.get(f"{name}_scale")
    if scale is None:
        return value.float()
    return value.float() / scale.float().view(-1, *[1] * (value.dim() - 1))


def _names(config: WhisperConfig) -> Names:
    maps: dict[str, tuple[str, ...]] = {"hearing.first": ("encoder/conv1",), "hearing.second": ("encoder/conv2",)}
    norms = {f"{side}.norm": f"{side}/layer_norm" for side in ("encoder", "decoder")}
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for number in range(count):
            ours, theirs = f"{side}.layers.{number}", f"{side}/layer_{number}"
            maps[f"{ours}.self_attention.projection"] = (f"{theirs}/self_attention/linear_0",)
            maps[f"{ours}.self_attention.output"] = (f"{theirs}/self_attention/linear_1",)
            norms[f"{ours}.self_attention_residual.norm"] = f"{theirs}/self_attention/layer_norm"
            if side == "decoder":  # queries; keys and values
                halves = (f"{theirs}/attention/linear_0", f"{theirs}/attention/linear_1")
                maps[f"{ours}.cross_attention.projection"] = halves
                maps[f"{ours}.cross_attention.output"] = (f"{theirs}/attention/linear_2",)
                norms[f"{ours}.cross_attention_residual.norm"] = f"{theirs}/attention/layer_norm"
            maps[f"{ours}.feed_forward.inner"] = (f"{theirs}/ffn/linear_0",)
            maps[f"{ours}.feed_forward.output"] = (f"{theirs}/ffn/linear_1",)
            norms[f"{ours}.feed_forward_residual.norm"] = f"{theirs}/ffn/layer_norm"
    whole: Names = {
        "embedding.weight": ("decoder/embeddings/weight",),
        "target_positions.table.weight": ("decoder/position_encodings/encodings",),
    }
    gains = {f"{ours}.weight": (f"{theirs}/gamma",) for ours, theirs in norms.items()}
    shifts = {f"{ours}.bias": (f"{theirs}/beta",) for ours, theirs in norms.items()}
    slashed = {ours: tuple(_slashed(name) for name in theirs) for ours, theirs in with_suffixes(maps).items()}
    return whole | gains | shifts | slashed


def _slashed(name: str) -> str:
    """`encoder/conv1.weight` as it is written here."""
    return name.replace(".", "/")


class _Reader:
    """Bytes in order; RegardError where they end too early."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.place = path, memoryview(bytearray(path.read_bytes())), 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise RegardError(f"{self.path} is damaged: it ends {size - self.left} bytes too early")
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        raw = bytes(self.take(self.number(2)))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise RegardError(f"{self.path} is damaged, or no {FILE} of CTranslate2: byte {self.place} ends no name")
        return raw[:-1].decode()

    def tensor(self, name: str) -> Tensor:
        shape = [self.number(4) for _ in range(self.number(1))]
        kind, size = self.number(1), self.number(4)
        if kind >= len(_TYPES):
            raise RegardError(f"{self.path}: {name} has values of a kind that is not known ({kind})")
        if size != prod(shape) * _TYPES[kind].itemsize:
            raise RegardError(f"{self.path} is damaged: {name} has {size} bytes for the shape {shape}")
        values = self.take(size)
        return torch.frombuffer(values, dtype=_TYPES[kind]).view(shape) if size else torch.empty(shape)
