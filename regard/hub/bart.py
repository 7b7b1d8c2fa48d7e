"""Encoder-decoders of the Transformer's kind as Hugging Face writes them: `marian`, `pegasus` and `bart`.

All three are our Transformer with other switches. Marian is the paper's model, but for the order of its sinusoids: all
sines, then all cosines, where the paper has them in turn. A Transformer of ours is written with its channels in that
order, as a Marian (post-norm) or a Pegasus (pre-norm).
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from regard.hub.names import Names, activation, from_theirs, refuse, same, to_theirs, validated, with_suffixes
from regard.models.base import Model
from regard.models.transformer import Transformer, TransformerConfig

MODEL_TYPES: dict[str, type[Model]] = {"marian": Transformer, "pegasus": Transformer, "bart": Transformer}

_HALVES: dict[str, Any] = {"positions": "sinusoids-in-halves"}
_SWITCHES: dict[str, dict[str, Any]] = {
    "marian": _HALVES,
    "pegasus": _HALVES | {"normalize_before": True},
    "bart": {"positions": "learned", "first_position": 2, "normalize_embedding": True},
}
_ARCHITECTURES = {
    "marian": "MarianMTModel",
    "pegasus": "PegasusForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
}
_SAME = (
    "vocab_size", "d_model", "encoder_layers", "decoder_layers", "dropout", "attention_dropout", "activation_function",
    "scale_embedding", "max_position_embeddings", "pad_token_id", "eos_token_id",
)  # fmt: skip
_DEFAULTS: dict[str, dict[str, Any]] = {
    "marian": {"vocab_size": 58101, "pad_token_id": 58100, "eos_token_id": 0},
    "pegasus": {"vocab_size": 50265, "pad_token_id": 0, "eos_token_id": 1},
    "bart": {"vocab_size": 50265, "pad_token_id": 1, "eos_token_id": 2},
}
_SIZES = {"d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "activation_function": "gelu"}
_SIZES |= {"scale_embedding": False, "dropout": 0.1, "attention_dropout": 0.0, "max_position_embeddings": 1024}
_START = {"marian": 58100, "pegasus": 0, "bart": 2}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "share_encoder_decoder_embeddings": (True,),
    "tie_word_embeddings": (True,),
    "is_encoder_decoder": (True,),
    "normalize_before": (False,),
    "normalize_embedding": (False, True),
}
_LEFT_OUT = re.compile(r"^(lm_head\.weight|model\.(encoder|decoder)\.embed_tokens\.weight)$")
_SINUSOIDS = re.compile(r"^model\.(encoder|decoder)\.embed_positions\.weight$")


def read_config(fields: dict[str, Any]) -> TransformerConfig:
    """From the fields of a `config.json`; RegardError names a switch that we do not compute."""
    kind = str(fields.get("model_type"))
    refuse(fields, _SUPPORTED | {"architectures": ([], None, [_ARCHITECTURES[kind]])})
    found = {**_SIZES, **_DEFAULTS[kind], **{name: fields[name] for name in _SAME if name in fields}}
    if isinstance(found["eos_token_id"], list):
        found["eos_token_id"] = found["eos_token_id"][0]
    found["activation_function"] = activation(found["activation_function"])
    for ours, theirs, default in (("attention_heads", "attention_heads", 16), ("ffn_dim", "ffn_dim", 4096)):
        of_encoder = fields.get(f"encoder_{theirs}", default)
        refuse({f"decoder_{theirs}": fields.get(f"decoder_{theirs}", default)}, {f"decoder_{theirs}": (of_encoder,)})
        found[ours] = of_encoder
    found["bos_token_id"] = fields.get("decoder_start_token_id", _START[kind])
    found["forced_bos_token_id"] = fields.get("forced_bos_token_id")
    return validated(TransformerConfig, {**found, **_SWITCHES[kind], "logits_bias": True})


def write_config(config: TransformerConfig) -> dict[str, Any]:
    """The fields of a `config.json`; RegardError if no format can say what this model computes."""
    kind = _kind(config)
    fields: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    fields |= {"model_type": kind, "architectures": [_ARCHITECTURES[kind]], "is_encoder_decoder": True}
    for side in ("encoder", "decoder"):
        fields |= {f"{side}_attention_heads": config.attention_heads, f"{side}_ffn_dim": config.ffn_dim}
    fields |= {"decoder_start_token_id": config.bos_token_id, "forced_bos_token_id": config.forced_bos_token_id}
    fields |= {"bos_token_id": config.bos_token_id, "forced_eos_token_id": None}
    # The order of sinusoids is mended in the weights, and a bias of zero adds nothing.
    same(config, read_config(fields), except_for=("positions", "logits_bias"))
    return fields


def read_weights(config: TransformerConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what we do not know keeps its name, for the check of the model to tell."""
    known = {name: value for name, value in weights.items() if not _LEFT_OUT.match(name)}
    if config.positions != "learned":
        known = {name: value for name, value in known.items() if not _SINUSOIDS.match(name)}
    found, left = from_theirs(_names(config), known)
    bias = left.pop("final_logits_bias", None)
    found["output_bias"] = torch.zeros(config.vocab_size) if bias is None else bias.flatten()
    return found | left


def write_weights(config: TransformerConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    ours = dict(weights)
    bias = ours.pop("output_bias", torch.zeros(config.vocab_size))
    if config.positions == "sinusoids":
        ours = _in_halves(ours, config.d_model)
    return to_theirs(_names(config), ours) | {"final_logits_bias": bias[None].clone()}


def _kind(config: TransformerConfig) -> str:
    if config.positions == "learned":
        return "bart"
    return "pegasus" if config.normalize_before else "marian"


_FROM_STREAM = re.compile(r"(projection|inner)\.weight$")  # what reads the residual stream: its columns are channels
_TO_STREAM = re.compile(r"(output\.(weight|bias)|norm\.(weight|bias))$")  # what writes it: its rows are


def _in_halves(weights: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The channels of the residual stream in another order: the even ones first, in every weight that touches it."""
    order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
    found = {}
    for name, value in weights.items():
        if name == "embedding.weight" or _FROM_STREAM.search(name):
            found[name] = value[:, order]
        elif _TO_STREAM.search(name):
            found[name] = value[order]
        else:
            found[name] = value
    return found


def _names(config: TransformerConfig) -> Names:
    table: Names = {"embedding.weight": ("model.shared.weight",)}
    modules: dict[str, tuple[str, ...]] = {}
    sides = {"encoder": ("positions", "embedding_norm"), "decoder": ("target_positions", "target_embedding_norm")}
    for side, (positions, norm) in sides.items():
        if config.positions == "learned":
            table[f"{positions}.table.weight"] = (f"model.{side}.embed_positions.weight",)
        if config.normalize_embedding:
            modules[norm] = (f"model.{side}.layernorm_embedding",)
        if config.normalize_before:
            modules[f"{side}.norm"] = (f"model.{side}.layer_norm",)
        for number in range(config.encoder_layers if side == "encoder" else config.decoder_layers):
            modules |= _layer(side, f"{side}.layers.{number}", f"model.{side}.layers.{number}")
    return table | with_suffixes(modules)


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
