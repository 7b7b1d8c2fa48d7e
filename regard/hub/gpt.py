"""GPT and GPT-2 as Hugging Face writes them: model types `openai-gpt` and `gpt2`, with their three heads.

Their layers keep matrices as (inputs, outputs), ours as (outputs, inputs).
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from regard.errors import RegardError
from regard.hub.names import (
    Names,
    activation,
    from_theirs,
    label_fields,
    label_names,
    refuse,
    same,
    to_theirs,
    validated,
    with_suffixes,
)
from regard.models.base import Model
from regard.models.gpt import GPT, GPTConfig

MODEL_TYPES: dict[str, type[Model]] = {"openai-gpt": GPT, "gpt2": GPT}

_SAME = (
    "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "layer_norm_epsilon", "initializer_range", "tie_word_embeddings", "bos_token_id", "eos_token_id",
)  # fmt: skip
_ONLY_GPT2 = ("n_inner", "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
_GENERAL_NAMES = {"n_positions": "max_position_embeddings", "n_embd": "hidden_size"} | {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
}
_SUPPORTED_OF_A_CHOICE: dict[str, tuple[Any, ...]] = {
    "summary_type": ("cls_index", "last"),
    "summary_use_proj": (True,),
    "summary_activation": (None,),
    "summary_proj_to_labels": (True,),
}
_BUFFERS = re.compile(r"(\.attn\.(masked_)?bias|position_ids)$")
_HEADS = ("lm_head.", "score.", "multiple_choice_head.")
_TURNED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")


def read_config(fields: dict[str, Any]) -> GPTConfig:
    """From the fields of a `config.json`; RegardError names a switch that we do not compute."""
    second = fields.get("model_type") == "gpt2"
    refuse(fields, _SUPPORTED)
    found = {name: fields[theirs] for name, theirs in _GENERAL_NAMES.items() if theirs in fields}
    found |= {name: fields[name] for name in (*_SAME, *(_ONLY_GPT2 if second else ())) if name in fields}
    if isinstance(found.get("eos_token_id"), list):
        found["eos_token_id"] = found["eos_token_id"][0]
    defaults = {"vocab_size": 50257, "n_positions": 1024} if second else {}
    named = fields.get("activation_function", "gelu_new") if second else fields.get("afn", "gelu")
    # In the first GPT's own code that name means the form with tanh.
    found["activation_function"] = "gelu_new" if not second and named == "gelu" else activation(named)
    return validated(GPTConfig, {**defaults, **found, **_read_head(fields), "normalize_before": second})


def write_config(config: GPTConfig) -> dict[str, Any]:
    """The fields of a `config.json`; RegardError if the format cannot say what this model computes."""
    second = config.normalize_before
    fields: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    fields["model_type"] = "gpt2" if second else "openai-gpt"
    if second:
        fields |= {name: getattr(config, name) for name in _ONLY_GPT2}
        fields["activation_function"] = config.activation_function
    else:
        fields["afn"] = "gelu" if config.activation_function == "gelu_new" else config.activation_function
    fields["architectures"] = [("GPT2" if second else "OpenAIGPT") + _architecture(config)]
    if config.labels:
        fields |= label_fields(config.labels) | {"summary_first_dropout": config.classifier_dropout}
    same(config, read_config(fields), except_for=("classifier_dropout",))
    return fields


def read_weights(config: GPTConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names; what we do not know keeps its name, for the check of the model to tell."""
    prefixed = {
        name if name.startswith(("transformer.", *_HEADS)) else f"transformer.{name}": value
        for name, value in _turned(weights).items()
        if not _BUFFERS.search(name)
    }
    embedding = _names(config)["embedding.weight"][0]
    if config.tie_word_embeddings and "lm_head.weight" in prefixed:
        prefixed.setdefault(embedding, prefixed.pop("lm_head.weight"))
    found, left = from_theirs(_names(config), prefixed)
    return found | {name: value for name, value in left.items() if not name.startswith(_HEADS)}


def write_weights(config: GPTConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    return _turned(to_theirs(_names(config), weights))


def _turned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.T.contiguous() if _TURNED.search(name) else value for name, value in weights.items()}


def _read_head(fields: dict[str, Any]) -> dict[str, Any]:
    """What the class that wrote the folder had on top."""
    architecture = next(iter(fields.get("architectures") or ()), "LMHeadModel")
    if architecture.endswith("DoubleHeadsModel"):
        refuse(fields, _SUPPORTED_OF_A_CHOICE)
        return {"labels": label_names(fields)[:1], "classifier_dropout": fields.get("summary_first_dropout", 0.1)}
    if architecture.endswith("ForSequenceClassification"):
        return {"labels": label_names(fields), "classifier_dropout": 0.0, "classifier_bias": False}
    if architecture.endswith(("LMHeadModel", "OpenAIGPTModel", "GPT2Model")):
        return {}
    raise RegardError(f"{architecture} is not supported, only the language model, DoubleHeadsModel and "
                      "ForSequenceClassification")  # fmt: skip


def _architecture(config: GPTConfig) -> str:
    if not config.labels:
        return "LMHeadModel"
    return "DoubleHeadsModel" if config.classifier_bias else "ForSequenceClassification"


def _names(config: GPTConfig) -> Names:
    second = config.normalize_before
    table = {
        "embedding.weight": ("transformer.wte.weight" if second else "transformer.tokens_embed.weight",),
        "positions.table.weight": ("transformer.wpe.weight" if second else "transformer.positions_embed.weight",),
    }
    modules: dict[str, tuple[str, ...]] = {}
    for number in range(config.n_layer):
        ours, theirs = f"decoder.layers.{number}", f"transformer.h.{number}"
        modules |= {
            f"{ours}.self_attention.projection": (f"{theirs}.attn.c_attn",),
            f"{ours}.self_attention.output": (f"{theirs}.attn.c_proj",),
            f"{ours}.self_attention_residual.norm": (f"{theirs}.ln_1",),
            f"{ours}.feed_forward.inner": (f"{theirs}.mlp.c_fc",),
            f"{ours}.feed_forward.output": (f"{theirs}.mlp.c_proj",),
            f"{ours}.feed_forward_residual.norm": (f"{theirs}.ln_2",),
        }
    if second:
        modules["decoder.norm"] = ("transformer.ln_f",)
    if not config.tie_word_embeddings:
        table["output.weight"] = ("lm_head.weight",)
    if config.labels and config.classifier_bias:
        modules["classifier.output"] = ("multiple_choice_head.summary",)
    elif config.labels:
        table["classifier.output.weight"] = ("score.weight",)
    return table | with_suffixes(modules)
