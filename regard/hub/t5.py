"""T5 as Hugging Face writes it: model type `t5`, both versions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regard.hub.names import Names, activation, from_theirs, refuse, same, to_theirs, validated
from regard.models.base import Model
from regard.models.t5 import T5, T5Config

MODEL_TYPES: dict[str, type[Model]] = {"t5": T5}

_SAME = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "dropout_rate", "layer_norm_epsilon", "tie_word_embeddings", "pad_token_id",
    "eos_token_id",
)  # fmt: skip
_ARCHITECTURES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "architectures": ([], None, *([name] for name in _ARCHITECTURES)),
    "scalable_attention": (False,),
}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_NEVER_USED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def read_config(fields: dict[str, Any]) -> T5Config:
    """From the fields of a `config.json`; RegardError names a switch that we do not compute."""
    refuse(fields, _SUPPORTED)
    found = {name: fields[name] for name in _SAME if name in fields}
    layers = fields.get("num_layers", 6)
    named = str(fields.get("feed_forward_proj", "relu"))
    gated = named.startswith("gated-")
    # Of that name, "gated-gelu" has the form with tanh, as in the paper's own code.
    act = "gelu_new" if named == "gated-gelu" else activation(named.removeprefix("gated-"))
    pad = fields.get("pad_token_id", 0)
    return validated(
        T5Config,
        found
        | {
            "encoder_layers": layers,
            "decoder_layers": fields.get("num_decoder_layers") or layers,
            "gated": gated,
            "activation_function": act,
            "bos_token_id": fields.get("decoder_start_token_id", pad),
            "max_position_embeddings": fields.get("n_positions", 512),
            # transformers 5 writes only whether scores are scaled, which they are where weights are tied.
            "tie_word_embeddings": fields.get("scale_decoder_outputs", fields.get("tie_word_embeddings", True)),
        },
    )


def write_config(config: T5Config) -> dict[str, Any]:
    """The fields of a `config.json`; RegardError if the format cannot say what this model computes."""
    act = "gelu" if config.gated and config.activation_function == "gelu_new" else config.activation_function
    fields: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    fields |= {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "feed_forward_proj": f"gated-{act}" if config.gated else act,
        "decoder_start_token_id": config.bos_token_id,
        "n_positions": config.max_position_embeddings,
    }
    same(config, read_config(fields))
    return fields


def read_weights(config: T5Config, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what we do not know keeps its name, for the check of the model to tell."""
    if not config.tie_word_embeddings and "shared.weight" in weights:
        weights = {"lm_head.weight": weights["shared.weight"], **weights}
    left_out = (*_COPIES, _NEVER_USED, *(("lm_head.weight",) if config.tie_word_embeddings else ()))
    found, left = from_theirs(_names(config), {name: one for name, one in weights.items() if name not in left_out})
    return found | left


def write_weights(config: T5Config, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    return to_theirs(_names(config), weights)


def _names(config: T5Config) -> Names:
    table: Names = {"embedding.weight": ("shared.weight",)}
    if not config.tie_word_embeddings:
        table["output.weight"] = ("lm_head.weight",)
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[f"{side}.norm.weight"] = (f"{side}.final_layer_norm.weight",)
        table[f"{side}.positions.table.weight"] = (first,)
        for number in range(layers):
            table |= _layer(config, side, f"{side}.layers.{number}", f"{side}.block.{number}.layer")
    return table


def _layer(config: T5Config, side: str, ours: str, theirs: str) -> Names:
    table: Names = {}
    attentions = [("self_attention", "SelfAttention")]
    if side == "decoder":
        attentions.append(("cross_attention", "EncDecAttention"))
    for place, (name, their_name) in enumerate(attentions):
        prefix = f"{theirs}.{place}.{their_name}"
        table[f"{ours}.{name}.projection.weight"] = tuple(f"{prefix}.{letter}.weight" for letter in "qkv")
        table[f"{ours}.{name}.output.weight"] = (f"{prefix}.o.weight",)
        table[f"{ours}.{name}_residual.norm.weight"] = (f"{theirs}.{place}.layer_norm.weight",)
    last = f"{theirs}.{len(attentions)}"
    inner = {"gate": "wi_0", "inner": "wi_1"} if config.gated else {"inner": "wi"}
    for name, their_name in (inner | {"output": "wo"}).items():
        table[f"{ours}.feed_forward.{name}.weight"] = (f"{last}.DenseReluDense.{their_name}.weight",)
    return table | {f"{ours}.feed_forward_residual.norm.weight": (f"{last}.layer_norm.weight",)}
