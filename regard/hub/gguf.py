"""Llama-family models in one GGUF file, as llama.cpp keeps them: weights of few bits, settings and tokenizer together.

    model, tokenizer = read_file(Path("SmolLM2-135M-Instruct.Q4_1.gguf"))

The weights are read into float32: every kind of quantisation that the `gguf` package knows (`pip install
'regard[hub]'`). Settings and tensors are given Hugging Face's names and go the same way as its folders from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from regard.errors import RegardError
from regard.hub import llama
from regard.hub.names import refuse
from regard.hub.sentencepiece import NORMAL, byte_pairs
from regard.modalities.subwords import Special, Subwords
from regard.models.base import Model, check_weights
from regard.models.llama import Llama, LlamaConfig

SUFFIX = ".gguf"
_ARCHITECTURES = ("llama", "qwen2")
_FIELDS = {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "rope.freq_base": "rope_theta",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {"llama-bpe": rf"{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS}", "qwen2": rf"{_LETTERS}|\p{{N}}|{_SIGNS}"}
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens


def read_file(path: Path) -> tuple[Model, Subwords]:
    """Model, in float32 and ready to answer, and tokenizer. Raises RegardError; nothing is left half loaded."""
    settings, tensors = _opened(path)
    config = read_config(settings, tied="output.weight" not in tensors)
    model = Llama(config)
    weights = llama.read_weights(config, read_weights(str(settings["general.architecture"]), config, tensors))
    check_weights(model, weights, path)
    model.load_state_dict(weights)
    return model.eval(), read_tokenizer(settings)


def read_config(settings: Mapping[str, Any], tied: bool) -> LlamaConfig:
    """Our configuration from the file's settings; RegardError names one that we do not compute."""
    kind = settings.get("general.architecture")
    refuse({"general.architecture": kind}, {"general.architecture": _ARCHITECTURES})
    refuse(settings, {f"{kind}.rope.scaling.type": ("none", "linear"), f"{kind}.expert_count": (0,)})
    fields = {name: settings[f"{kind}.{theirs}"] for theirs, name in _FIELDS.items() if f"{kind}.{theirs}" in settings}
    for name in ("rms_norm_eps", "rope_theta"):  # 1e-5 in single precision is 9.999999747e-06: meant is 1e-5
        if name in fields:
            fields[name] = float(f"{fields[name]:.7g}")
    if settings.get(f"{kind}.rope.scaling.type") == "linear":
        fields["rope_scaling"] = {"rope_type": "linear", "factor": settings[f"{kind}.rope.scaling.factor"]}
    for name in ("bos", "eos"):
        fields[f"{name}_token_id"] = settings.get(f"tokenizer.ggml.{name}_token_id")
    vocabulary = len(settings["tokenizer.ggml.tokens"])
    return llama.read_config({"model_type": kind, "vocab_size": vocabulary, "tie_word_embeddings": tied, **fields})


def read_weights(kind: str, config: LlamaConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under Hugging Face's names, queries and keys in its order of channels."""
    found = {}
    for name, value in tensors.items():
        if kind == "llama" and ".attn_q." in name:
            value = _in_halves(value, config.num_attention_heads)
        elif kind == "llama" and ".attn_k." in name:
            value = _in_halves(value, config.key_value_heads)
        found[_name(name)] = value
    return found


def read_tokenizer(settings: Mapping[str, Any]) -> Subwords:
    """The tokenizer that the settings hold: byte-level BPE (`gpt2`) or SentencePiece BPE (`llama`)."""
    kind = settings.get("tokenizer.ggml.model")
    refuse({"tokenizer.ggml.model": kind}, {"tokenizer.ggml.model": ("gpt2", "llama")})
    tokens: list[str] = settings["tokenizer.ggml.tokens"]
    kinds: list[int] = settings.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if kind == "llama":
        inner = byte_pairs(tokens, settings["tokenizer.ggml.scores"], kinds)
        begins = True
    else:
        inner = _byte_level(tokens, settings)
        begins = False
    inner.add_special_tokens([token for token, one in zip(tokens, kinds, strict=True) if one == _CONTROL])
    inner.add_tokens([token for token, one in zip(tokens, kinds, strict=True) if one == _USER_DEFINED])
    special = Special(
        settings.get("tokenizer.ggml.bos_token_id"),
        settings.get("tokenizer.ggml.eos_token_id"),
        settings.get("tokenizer.ggml.padding_token_id"),
    )
    if settings.get("tokenizer.ggml.add_bos_token", begins) and special.bos is not None:
        begin = tokens[special.bos]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, special.bos)]
        )
    return Subwords(inner, special)


def _byte_level(tokens: list[str], settings: Mapping[str, Any]) -> Tokenizer:
    """Byte-level BPE; how it cuts text before is known by a name."""
    way = settings.get("tokenizer.ggml.pre", "gpt-2")
    refuse({"tokenizer.ggml.pre": way}, {"tokenizer.ggml.pre": ("gpt-2", "smollm", *_SPLITS)})
    merges = [tuple(merge.split(" ")) for merge in settings["tokenizer.ggml.merges"]]
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    if way in _SPLITS:
        before: Any = pre_tokenizers.Split(Regex(_SPLITS[way]), "isolated")
        cut = [before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    else:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if way == "smollm" else []
        cut = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if way == "qwen2":
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(cut)
    inner.decoder = decoders.ByteLevel()
    return inner


def _opened(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a file; RegardError where it is missing or damaged, or cannot be read here."""
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        raise RegardError(f"{path}: to read GGUF files, pip install 'regard[hub]'") from error
    if not path.is_file():
        raise RegardError(f"there is no file {path}")
    try:
        reader = GGUFReader(path)
        settings = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {
            tensor.name: torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
            for tensor in reader.tensors
        }
    except (ValueError, IndexError, KeyError, OSError, NotImplementedError) as error:
        raise RegardError(f"{path} is damaged or not a GGUF file that can be read: {error}") from error
    for needed in ("general.architecture", "tokenizer.ggml.tokens"):
        if needed not in settings:
            raise RegardError(f"{path} does not say {needed}")
    return settings, {name: value.float() for name, value in tensors.items()}


def _name(theirs: str) -> str:
    """Hugging Face's name of a tensor; one that is not known keeps its own, for the check of the model to tell."""
    *place, name, kind = theirs.split(".")
    if not place and name in _WHOLE:
        return f"{_WHOLE[name]}.{kind}"
    if len(place) == 2 and place[0] == "blk" and name in _OF_LAYER:
        return f"model.layers.{place[1]}.{_OF_LAYER[name]}.{kind}"
    return theirs


def _in_halves(value: Tensor, heads: int) -> Tensor:
    """llama.cpp turns channels 2i and 2i + 1 together, Hugging Face i and i + K/2: rows go from the first order."""
    turned: Tensor = value.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(value.shape)
    return turned
