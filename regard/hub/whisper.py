"""Whisper as Hugging Face writes it: `whisper`.

What an answer begins with and which tokens it never has stand in `generation_config.json`. Of a model of several
languages the prompt is that for English transcripts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.hub.names import Names, activation, from_theirs, refuse, same, to_theirs, validated, with_suffixes
from regard.layers.positions import sinusoids
from regard.models.base import Model
from regard.models.whisper import Whisper, WhisperConfig

MODEL_TYPES: dict[str, type[Model]] = {"whisper": Whisper}

_ARCHITECTURE = "WhisperForConditionalGeneration"
_SAME = (
    "vocab_size", "num_mel_bins", "d_model", "encoder_layers", "decoder_layers", "dropout", "max_source_positions",
    "activation_function", "pad_token_id",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {"vocab_size": 51865, "decoder_start_token_id": 50257, "pad_token_id": 50256}
_DEFAULTS |= {"eos_token_id": 50256}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "architectures": ([], None, [_ARCHITECTURE]),
    "scale_embedding": (False,),
    "tie_word_embeddings": (True,),
    "is_encoder_decoder": (True,),
    "activation_dropout": (0, 0.0),
    "attention_dropout": (0, 0.0),
}
_POSITIONS = "model.encoder.embed_positions.weight"
_OUTPUT = "proj_out.weight"  # the embedding, once more


def read_config(fields: dict[str, Any]) -> WhisperConfig:
    """From the fields of `config.json` and `generation_config.json`; RegardError names a switch not computed here."""
    refuse(fields, _SUPPORTED)
    given = {**_DEFAULTS, **{name: value for name, value in fields.items() if value is not None}}
    found = {name: given[name] for name in _SAME if name in given}
    found["activation_function"] = activation(str(found.get("activation_function", "gelu")))
    for ours, theirs, default in (("attention_heads", "attention_heads", 6), ("ffn_dim", "ffn_dim", 1536)):
        of_encoder = given.get(f"encoder_{theirs}", default)
        refuse({f"decoder_{theirs}": given.get(f"decoder_{theirs}", default)}, {f"decoder_{theirs}": (of_encoder,)})
        found[ours] = of_encoder
    end = given["eos_token_id"]
    found |= {"eos_token_id": end[0] if isinstance(end, list) else end, "prompt": _prompt(given)}
    found["max_position_embeddings"] = given.get("max_target_positions", 448)
    found |= {"forbidden": given.get("suppress_tokens", ()), "forbidden_first": given.get("begin_suppress_tokens", ())}
    return validated(WhisperConfig, found)


def write_config(config: WhisperConfig) -> dict[str, Any]:
    """The fields of a `config.json`, and those of the `generation_config.json` beside it."""
    fields: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    fields |= {"model_type": "whisper", "architectures": [_ARCHITECTURE], "is_encoder_decoder": True}
    fields |= {"max_target_positions": config.max_position_embeddings, "eos_token_id": config.eos_token_id}
    fields |= {"bos_token_id": config.eos_token_id, "decoder_start_token_id": config.prompt[0]}
    fields["forced_decoder_ids"] = [[place, token] for place, token in enumerate(config.prompt) if place]
    for side in ("encoder", "decoder"):
        fields |= {f"{side}_attention_heads": config.attention_heads, f"{side}_ffn_dim": config.ffn_dim}
    fields |= {"suppress_tokens": list(config.forbidden), "begin_suppress_tokens": list(config.forbidden_first)}
    same(config, read_config(fields))
    return fields


def read_weights(config: WhisperConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what we do not know keeps its name, for the check of the model to tell."""
    known = {name: value for name, value in weights.items() if name != _OUTPUT}
    check_positions(known.pop(_POSITIONS, None), config)
    for name in [name for name in known if name.endswith("_attn.k_proj.weight")]:
        known.setdefault(name.replace("weight", "bias"), torch.zeros(config.d_model))
    found, left = from_theirs(_names(config), known)
    return found | left


def write_weights(config: WhisperConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names; RegardError where keys have a bias, for which there is no place."""
    found = to_theirs(_names(config), weights)
    for name in [name for name in found if name.endswith("k_proj.bias")]:
        if bool(found.pop(name).any()):
            raise RegardError(f"this format has no bias of keys: {name} is not zero")
    places = sinusoids(config.max_source_positions, config.d_model, in_turn=False, to_the_end=True)
    return found | {_POSITIONS: places}


def check_positions(table: Tensor | None, config: WhisperConfig) -> None:
    """RegardError for positions of the encoder that are not the sinusoids computed here."""
    if table is None:
        return
    expected = sinusoids(config.max_source_positions, config.d_model, in_turn=False, to_the_end=True)
    if table.shape != expected.shape or not torch.allclose(table, expected, atol=2e-3, rtol=0):
        raise RegardError("the encoder's positions are not Whisper's sinusoids: others are not supported")


def _prompt(given: dict[str, Any]) -> list[int]:
    """Start of transcript, then English, transcribe, no timestamps, as far as they have names; else what is forced."""
    begin = [int(given["decoder_start_token_id"])]
    end = given.get("no_timestamps_token_id")
    if end is None:
        return begin + [token for _, token in given.get("forced_decoder_ids") or () if token is not None]
    language, task = (given.get("lang_to_id") or {}).get("<|en|>"), (given.get("task_to_id") or {}).get("transcribe")
    return begin + [token for token in (language, task, end) if token is not None]


def _names(config: WhisperConfig) -> Names:
    modules: dict[str, tuple[str, ...]] = {
        "hearing.first": ("model.encoder.conv1",),
        "hearing.second": ("model.encoder.conv2",),
    }
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        modules[f"{side}.norm"] = (f"model.{side}.layer_norm",)
        for number in range(count):
            modules |= _layer(side, f"{side}.layers.{number}", f"model.{side}.layers.{number}")
    whole: Names = {
        "embedding.weight": ("model.decoder.embed_tokens.weight",),
        "target_positions.table.weight": ("model.decoder.embed_positions.weight",),
    }
    return whole | with_suffixes(modules)


def _layer(side: str, ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    attentions = {"self_attention": "self_attn"} | ({"cross_attention": "encoder_attn"} if side == "decoder" else {})
    modules: dict[str, tuple[str, ...]] = {}
    for name, their_name in attentions.items():
        modules[f"{ours}.{name}.projection"] = tuple(f"{theirs}.{their_name}.{letter}_proj" for letter in "qkv")
        modules[f"{ours}.{name}.output"] = (f"{theirs}.{their_name}.out_proj",)
        modules[f"{ours}.{name}_residual.norm"] = (f"{theirs}.{their_name}_layer_norm",)
    return modules | {
        f"{ours}.feed_forward.inner": (f"{theirs}.fc1",),
        f"{ours}.feed_forward.output": (f"{theirs}.fc2",),
        f"{ours}.feed_forward_residual.norm": (f"{theirs}.final_layer_norm",),
    }
