"""BERT, DistilBERT, RoBERTa and ALBERT as Hugging Face writes them, with the heads that they share.

A family is its names: for the fields of the configuration, for the tensors of a layer, and for those of the heads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from regard.errors import RegardError, unknown
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
from regard.models.albert import Albert, AlbertConfig
from regard.models.base import Model
from regard.models.bert import Bert, BertConfig

MODEL_TYPES: dict[str, type[Model]] = {"bert": Bert, "distilbert": Bert, "roberta": Bert, "albert": Albert}


@dataclass(frozen=True)
class Family:
    """What one model type calls things."""

    classes: str
    """How the names of its classes begin."""
    layer: dict[str, tuple[str, ...]]
    """The modules of a layer."""
    layers: str
    """Where the layers are, `{}` for their number."""
    words: dict[str, str]
    """The modules of the head for hidden words: dense, norm, output; and the vector `bias`."""
    next_sentence: str = ""
    pooler: str = "pooler.dense"
    """In the bare model."""
    fields: dict[str, str] = field(default_factory=dict)
    """Fields of the configuration that have a name of their own."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """What an absent field means, where that is not what it means in a BERT; None for fields that do not exist."""
    tasks: tuple[str, ...] = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification",
                              "ForQuestionAnswering")  # fmt: skip


_BERT_LAYER = {
    "self_attention.projection": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "self_attention.output": ("attention.output.dense",),
    "self_attention_residual.norm": ("attention.output.LayerNorm",),
    "feed_forward.inner": ("intermediate.dense",),
    "feed_forward.output": ("output.dense",),
    "feed_forward_residual.norm": ("output.LayerNorm",),
}
_DISTILBERT_LAYER = {
    "self_attention.projection": ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "self_attention.output": ("attention.out_lin",),
    "self_attention_residual.norm": ("sa_layer_norm",),
    "feed_forward.inner": ("ffn.lin1",),
    "feed_forward.output": ("ffn.lin2",),
    "feed_forward_residual.norm": ("output_layer_norm",),
}
_ALBERT_LAYER = {
    "self_attention.projection": ("attention.query", "attention.key", "attention.value"),
    "self_attention.output": ("attention.dense",),
    "self_attention_residual.norm": ("attention.LayerNorm",),
    "feed_forward.inner": ("ffn",),
    "feed_forward.output": ("ffn_output",),
    "feed_forward_residual.norm": ("full_layer_layer_norm",),
}
_FAMILIES = {
    "bert": Family(
        classes="Bert",
        layer=_BERT_LAYER,
        layers="encoder.layer.{}",
        words={
            "dense": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
            "output": "cls.predictions.decoder",
            "bias": "cls.predictions.bias",
        },
        next_sentence="cls.seq_relationship",
        tasks=(*Family.tasks, "ForPreTraining", "ForNextSentencePrediction"),
    ),
    "distilbert": Family(
        classes="DistilBert",
        layer=_DISTILBERT_LAYER,
        layers="transformer.layer.{}",
        words={
            "dense": "vocab_transform",
            "norm": "vocab_layer_norm",
            "output": "vocab_projector",
            "bias": "vocab_projector.bias",
        },
        fields={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        defaults={"num_hidden_layers": 6, "type_vocab_size": 0, "layer_norm_eps": 1e-12},
    ),
    "roberta": Family(
        classes="Roberta",
        layer=_BERT_LAYER,
        layers="encoder.layer.{}",
        words={"dense": "lm_head.dense", "norm": "lm_head.layer_norm"}
        | {"output": "lm_head.decoder", "bias": "lm_head.bias"},
        defaults={"vocab_size": 50265, "pad_token_id": 1},
    ),
    "albert": Family(
        classes="Albert",
        layer=_ALBERT_LAYER,
        layers="encoder.albert_layer_groups.{}.albert_layers.{}",
        words={"dense": "predictions.dense", "norm": "predictions.LayerNorm"}
        | {"output": "predictions.decoder", "bias": "predictions.bias"},
        next_sentence="sop_classifier.classifier",
        pooler="pooler",
        fields={"classifier_dropout": "classifier_dropout_prob"},
        defaults={"hidden_size": 4096, "num_attention_heads": 64, "intermediate_size": 16384},
        tasks=(*Family.tasks, "ForPreTraining"),
    ),
}

_HEADS: dict[str, tuple[str, ...]] = {
    "Model": (),
    "ForPreTraining": ("masked_words", "next_sentence"),
    "ForMaskedLM": ("masked_words",),
    "ForNextSentencePrediction": ("next_sentence",),
    "ForSequenceClassification": ("classification",),
    "ForTokenClassification": ("token_labels",),
    "ForQuestionAnswering": ("spans",),
}
_SAME = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size",
    "layer_norm_eps", "initializer_range", "pad_token_id", "classifier_dropout", "tie_word_embeddings", "problem_type",
)  # fmt: skip
_ONLY_ALBERT = ("embedding_size", "num_hidden_groups", "inner_group_num")
_ABSENT_IN_DISTILBERT = ("type_vocab_size", "layer_norm_eps", "classifier_dropout")
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
}
_ONLY_TRAINING = ("classifier_dropout", "pooler_dropout", "qa_dropout")
_BUFFERS = re.compile(r"(position_ids|token_type_ids)$")
_TOP = ("cls.", "lm_head.", "predictions.", "sop_classifier.", "classifier.", "pre_classifier.", "qa_outputs.",
        "vocab_transform.", "vocab_layer_norm.", "vocab_projector.")  # fmt: skip


def read_config(fields: dict[str, Any]) -> BertConfig:
    """From the fields of a `config.json`; RegardError names a switch that we do not compute."""
    name = fields.get("model_type", "bert")
    if name not in _FAMILIES:
        raise unknown("model type of this family", name, _FAMILIES)
    family = _FAMILIES[name]
    refuse(fields, _SUPPORTED)
    known = _SAME if name != "distilbert" else tuple(one for one in _SAME if one not in _ABSENT_IN_DISTILBERT)
    theirs = {ours: family.fields.get(ours, ours) for ours in (*known, *(_ONLY_ALBERT if name == "albert" else ()))}
    found = family.defaults | {ours: fields[other] for ours, other in theirs.items() if other in fields}
    if "hidden_act" in found:
        found["hidden_act"] = activation(found["hidden_act"])
    if name == "roberta":
        if found["pad_token_id"] is None:
            raise RegardError("a roberta needs a pad_token_id: its positions are counted from there")
        found["first_position"] = found["pad_token_id"] + 1
    found |= _read_task(name, _task(family, fields), fields)
    if name == "roberta" and "masked_words" in found["heads"] and found.get("hidden_act", "gelu") != "gelu":
        raise RegardError(f"hidden_act {found['hidden_act']!r} is not supported with lm_head, whose own is 'gelu'")
    return validated(AlbertConfig if name == "albert" else BertConfig, found)


def write_config(config: BertConfig) -> dict[str, Any]:
    """The fields of a `config.json`; RegardError if the format cannot say what this model computes."""
    name = family_of(config)
    family = _FAMILIES[name]
    task = next((task for task in family.tasks if _HEADS[task] == config.heads), None)
    if task is None:
        heads = ", ".join(config.heads)
        raise RegardError(f"{family.classes} has no class with these heads together: {heads}")
    fields: dict[str, Any] = {
        family.fields.get(ours, ours): getattr(config, ours)
        for ours in (*_SAME, *(_ONLY_ALBERT if name == "albert" else ()))
        if not (name == "distilbert" and ours in _ABSENT_IN_DISTILBERT)
    }
    if name == "albert":  # there it must be a number
        fields["classifier_dropout_prob"] = config.next_sentence_dropout
    fields |= {"model_type": name, "architectures": [family.classes + task]}
    if name == "distilbert":
        fields["qa_dropout"] = config.qa_dropout
        if config.classifier_dropout is not None:
            fields["seq_classif_dropout"] = config.classifier_dropout
    if config.labels:
        fields |= label_fields(config.labels)
    same(config, read_config(fields), except_for=_ONLY_TRAINING)
    return fields


def read_weights(config: BertConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names. Left out: buffers, and heads that the configuration does not ask for.

    What we do not know keeps its name, for the check of the model to tell.
    """
    name = family_of(config)
    family, prefix = _FAMILIES[name], f"{name}."
    prefixed = {
        other if other.startswith((prefix, *_TOP)) else prefix + other: value
        for other, value in ((_modern(other), value) for other, value in weights.items())
        if not _BUFFERS.search(other)
    }
    output, bias = (family.words[part] for part in ("output", "bias"))
    if f"{output}.bias" in prefixed:  # tied to `bias`, or the one that counts
        prefixed[bias] = prefixed.pop(f"{output}.bias")
    if config.tie_word_embeddings and f"{output}.weight" in prefixed:
        prefixed.setdefault(f"{prefix}embeddings.word_embeddings.weight", prefixed[f"{output}.weight"])
    found, left = from_theirs(_names(config), prefixed)
    not_asked_for = (*_TOP, f"{prefix}pooler.")
    return found | {other: value for other, value in left.items() if not other.startswith(not_asked_for)}


def write_weights(config: BertConfig, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names."""
    found = to_theirs(_names(config), weights)
    family = _FAMILIES[family_of(config)]
    output, bias = (family.words[part] for part in ("output", "bias"))
    if bias in found and not config.tie_word_embeddings:
        found[f"{output}.bias"] = found[bias].clone()
    return found


def family_of(config: BertConfig) -> str:
    """The model type that a configuration is an example of."""
    if isinstance(config, AlbertConfig):
        return "albert"
    if config.type_vocab_size == 0:
        return "distilbert"
    return "roberta" if config.first_position else "bert"


def _task(family: Family, fields: dict[str, Any]) -> str:
    """Which class wrote the folder, without the name of the family."""
    architecture = next(iter(fields.get("architectures") or ()), family.classes + "Model")
    task: str = architecture.removeprefix(family.classes)
    if task not in family.tasks:
        known = ", ".join(family.classes + one for one in family.tasks)
        raise RegardError(f"{architecture} is not supported, only {known}")
    return task


def _read_task(name: str, task: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Heads, labels and pooler of a class."""
    found: dict[str, Any] = {"heads": _HEADS[task]}
    classifying = task == "ForSequenceClassification"
    if classifying or task == "ForTokenClassification":
        found["labels"] = label_names(fields)
    pooled = {"Model", "ForPreTraining", "ForNextSentencePrediction"} if name != "distilbert" else set()
    found["pooler"] = "tanh" if task in pooled or classifying else None
    if name == "distilbert":
        found["qa_dropout"] = fields.get("qa_dropout", 0.1)
        if classifying:  # its map of the first token belongs to the head
            found |= {"pooler": "relu", "classifier_dropout": fields.get("seq_classif_dropout", 0.2)}
    if name == "roberta" and classifying:
        dropout = fields.get("classifier_dropout")
        found["pooler_dropout"] = fields.get("hidden_dropout_prob", 0.1) if dropout is None else dropout
    return found


def _modern(name: str) -> str:
    """The first checkpoints call the weights of a norm gamma and beta."""
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name))


def _names(config: BertConfig) -> Names:
    name = family_of(config)
    family, prefix = _FAMILIES[name], f"{name}."
    table = {
        "embeddings.words.weight": (f"{prefix}embeddings.word_embeddings.weight",),
        "embeddings.positions.table.weight": (f"{prefix}embeddings.position_embeddings.weight",),
    }
    if config.type_vocab_size:
        table["embeddings.segments.weight"] = (f"{prefix}embeddings.token_type_embeddings.weight",)
    modules: dict[str, tuple[str, ...]] = {"embeddings.norm": (f"{prefix}embeddings.LayerNorm",)}
    for number, place in _layers(config, prefix + family.layers):
        for ours, theirs in family.layer.items():
            modules[f"encoder.layers.{number}.{ours}"] = tuple(f"{place}.{one}" for one in theirs)
    if isinstance(config, AlbertConfig):
        modules["encoder.widen"] = (f"{prefix}encoder.embedding_hidden_mapping_in",)
    classifying = "classification" in config.heads
    if config.pooler:
        own = {"distilbert": "pre_classifier", "roberta": "classifier.dense"} if classifying else {}
        modules["pooler.dense"] = (own.get(name, prefix + family.pooler),)
    if "masked_words" in config.heads:
        modules |= {f"heads.masked_words.{part}": (family.words[part],) for part in ("dense", "norm")}
        table["heads.masked_words.bias"] = (family.words["bias"],)
        if not config.tie_word_embeddings:
            table["heads.masked_words.output.weight"] = (f"{family.words['output']}.weight",)
    linear = {
        "next_sentence": family.next_sentence,
        "classification": "classifier.out_proj" if name == "roberta" else "classifier",
        "token_labels": "classifier",
        "spans": "qa_outputs",
    }
    modules |= {f"heads.{head}.output": (linear[head],) for head in config.heads if head in linear}
    return table | with_suffixes(modules)


def _layers(config: BertConfig, place: str) -> list[tuple[int, str]]:
    """Number of each of our layers with weights of its own, and where theirs is."""
    if not isinstance(config, AlbertConfig):
        return [(number, place.format(number)) for number in range(config.num_hidden_layers)]
    own = sorted(set(config.weights_of))
    return [(number, place.format(*divmod(rank, config.inner_group_num))) for rank, number in enumerate(own)]
