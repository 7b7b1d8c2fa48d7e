"""Llama as Hugging Face writes it: model types `llama`, `mistral` (without its sliding window) and `qwen2`."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from regard.hub.names import Names, activation, from_theirs, refuse, same, to_theirs, validated
from regard.models.base import Model
from regard.models.llama import Llama, LlamaConfig

MODEL_TYPES: dict[str, type[Model]] = {"llama": Llama, "mistral": Llama, "qwen2": Llama}

_SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "attention_dropout",
    "tie_word_embeddings", "initializer_range", "bos_token_id", "eos_token_id",
)  # fmt: skip
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "use_sliding_window": (False,),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1.0, None),
    "architectures": ([], None, *([name] for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"))),
}
_OF_MISTRAL = {"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8}
_OF_MISTRAL |= {"max_position_embeddings": 4096 * 32}
_OF_QWEN = {"vocab_size": 151936, "intermediate_size": 22016, "num_key_value_heads": 32}
_OF_QWEN |= {"max_position_embeddings": 32768}
_DEFAULTS: dict[str, dict[str, Any]] = {"llama": {}, "mistral": _OF_MISTRAL, "qwen2": _OF_QWEN}
_BUFFERS = re.compile(r"rotary_emb\.inv_freq$")


def read_config(fields: dict[str, Any]) -> LlamaConfig:
    """From the fields of a `config.json`; RegardError names a switch that we do not compute."""
    kind = str(fields.get("model_type"))
    refuse(fields, _SUPPORTED)
    if kind == "mistral":
        refuse({"sliding_window": fields.get("sliding_window", 4096)}, {"sliding_window": (None,)})
    found = _DEFAULTS[kind] | {name: fields[name] for name in _SAME if name in fields}
    if isinstance(found.get("eos_token_id"), list):
        found["eos_token_id"] = found["eos_token_id"][0]
    found["hidden_act"] = activation(fields.get("hidden_act", "silu"))
    biased = bool(fields.get("attention_bias", False))
    found |= {"attention_bias": biased or kind == "qwen2", "attention_output_bias": biased and kind != "qwen2"}
    found["mlp_bias"] = bool(fields.get("mlp_bias", False))
    return validated(LlamaConfig, found | _read_rotation(fields))


def write_config(config: LlamaConfig) -> dict[str, Any]:
    """The fields of a `config.json`; RegardError if the format cannot say what this model computes."""
    qwen = config.attention_bias and not config.attention_output_bias
    fields: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    fields |= {"model_type": "qwen2" if qwen else "llama", "rope_theta": config.rope_theta}
    fields |= {"architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"], "hidden_act": config.hidden_act}
    fields["num_key_value_heads"] = config.key_value_heads
    if config.head_dim is None:
        del fields["head_dim"]
    if not qwen:
        fields |= {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
    if config.rope_scaling is not None:
        fields["rope_scaling"] = config.rope_scaling.model_dump(exclude_none=True)
    same(config, read_config(fields), except_for=("resid_pdrop", "num_key_value_heads"))
    return fields


def read_weights(config: LlamaConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what we do not know keeps its name, for the check of the model to tell."""
    known = {name: value for name, value in weights.items() if not _BUFFERS.search(name)}
    if config.tie_word_embeddings:
        known.pop("lm_head.weight", None)
    found, left = from_theirs(_names(config), known)
    return found | left


def write_weights(config: LlamaConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    heads = (config.num_attention_heads, config.key_value_heads, config.key_value_heads)
    widths = [number * config.head_width for number in heads]
    sizes = {name: widths for name in weights if ".projection." in name}
    return to_theirs(_names(config), weights, sizes)


def _read_rotation(fields: dict[str, Any]) -> dict[str, Any]:
    """Base and scaling of the rotation: in `rope_parameters`, or as older folders have them."""
    told = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    base = told.pop("rope_theta", fields.get("rope_theta", 10000.0))
    kind = told.pop("type", told.pop("rope_type", "default"))
    refuse({"rope_type": kind}, {"rope_type": ("default", "linear", "llama3")})
    if kind == "default":
        return {"rope_theta": base, "rope_scaling": None}
    known = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    chosen = {name: told[name] for name in (known if kind == "llama3" else known[:1]) if told.get(name) is not None}
    return {"rope_theta": base, "rope_scaling": {"rope_type": kind, **chosen}}


def _names(config: LlamaConfig) -> Names:
    table: Names = {"embedding.weight": ("model.embed_tokens.weight",), "decoder.norm.weight": ("model.norm.weight",)}
    if not config.tie_word_embeddings:
        table["output.weight"] = ("lm_head.weight",)
    for number in range(config.num_hidden_layers):
        ours, theirs = f"decoder.layers.{number}", f"model.layers.{number}"
        table[f"{ours}.self_attention_residual.norm.weight"] = (f"{theirs}.input_layernorm.weight",)
        table[f"{ours}.feed_forward_residual.norm.weight"] = (f"{theirs}.post_attention_layernorm.weight",)
        table |= _linear(f"{ours}.self_attention.projection", config.attention_bias,
                         *(f"{theirs}.self_attn.{letter}_proj" for letter in "qkv"))  # fmt: skip
        table |= _linear(f"{ours}.self_attention.output", config.attention_output_bias, f"{theirs}.self_attn.o_proj")
        for name, their_name in (("gate", "gate_proj"), ("inner", "up_proj"), ("output", "down_proj")):
            table |= _linear(f"{ours}.feed_forward.{name}", config.mlp_bias, f"{theirs}.mlp.{their_name}")
    return table


def _linear(ours: str, bias: bool, *theirs: str) -> Names:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs) for kind in kinds}
