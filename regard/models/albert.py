"""ALBERT: Lan et al. 2019, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations".

A BERT of a tenth of the size. What is notable in it: all layers have the same weights (section 3.1); embeddings are
narrow, and widened once; and instead of whether one text follows another it learns which of two came first.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from regard.layers.blocks import EncoderLayer
from regard.models.bert import Bert, BertConfig, Encoder, encoder_layer
from regard.native.products import Linear
from regard.sequences import Sequences


class AlbertConfig(BertConfig):
    """Sizes of an ALBERT; the defaults are the paper's base model."""

    model_type: Literal["albert"] = "albert"  # type: ignore[assignment]
    vocab_size: int = Field(30000, gt=0)
    embedding_size: int = Field(128, gt=0)
    """E: the width of the embeddings."""
    num_hidden_groups: int = Field(1, gt=0)
    """Layers of one group have the same weights."""
    inner_group_num: int = Field(1, gt=0)
    """How many layers, each with its own weights, make a group; all of them run each time."""
    hidden_act: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu_new"
    hidden_dropout_prob: float = Field(0.0, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(0.0, ge=0, lt=1)
    classifier_dropout: float | None = Field(0.1, ge=0, lt=1)

    @property
    def embedding_width(self) -> int:
        return self.embedding_size

    @property
    def next_sentence_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def weights_of(self) -> list[int]:
        """For each layer that runs, the first one that has the same weights."""
        kinds = []
        for number in range(self.num_hidden_layers):
            group = int(number / (self.num_hidden_layers / self.num_hidden_groups))
            kinds += [(group, inner) for inner in range(self.inner_group_num)]
        return [kinds.index(kind) for kind in kinds]

    @model_validator(mode="after")
    def _groups_fit(self) -> AlbertConfig:
        if self.num_hidden_groups > self.num_hidden_layers:
            raise ValueError(f"{self.num_hidden_groups} groups are more than {self.num_hidden_layers} layers")
        return self


PRESETS = {"albert-base": AlbertConfig()}


class Albert(Bert):
    """Tokens in, hidden states out. The head `next_sentence` tells whether two texts stand in order (0) or not (1)."""

    config_class = AlbertConfig

    @staticmethod
    def build_encoder(config: BertConfig) -> Encoder:
        assert isinstance(config, AlbertConfig)
        return SharedEncoder(config)


class SharedEncoder(Encoder):
    """Widens the embeddings, then runs layers that share weights.

    Each layer is a module of its own, made of the same parts, so that a trace can tell them apart; the weights are
    counted, trained and saved once, under the name of the first layer that has them.
    """

    def __init__(self, config: AlbertConfig) -> None:
        nn.Module.__init__(self)
        self.weights_of = config.weights_of
        self.widen = Linear(config.embedding_size, config.hidden_size)
        layers: list[EncoderLayer] = []
        for number, first in enumerate(self.weights_of):
            layers.append(encoder_layer(config) if first == number else _again(layers[first]))
        self.layers = nn.ModuleList(layers)
        self.register_state_dict_post_hook(_leave_out_copies)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_fill_in_copies)  # type: ignore[no-untyped-call]

    def forward(self, x: Sequences) -> Sequences:
        return super().forward(x.with_values(self.widen(x.values)))


def _again(layer: EncoderLayer) -> EncoderLayer:
    """Another layer of the same parts."""
    residuals = iter([layer.self_attention_residual, layer.feed_forward_residual])
    return EncoderLayer(layer.self_attention, layer.feed_forward, lambda: next(residuals))


def _leave_out_copies(encoder: SharedEncoder, weights: dict[str, Tensor], prefix: str, _: Any) -> None:
    copies = [number for number, first in enumerate(encoder.weights_of) if first != number]
    for name in [name for name in weights if name.startswith(tuple(f"{prefix}layers.{copy}." for copy in copies))]:
        del weights[name]


def _fill_in_copies(encoder: SharedEncoder, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for number, first in enumerate(encoder.weights_of):
        source = f"{prefix}layers.{first}."
        for name in [name for name in weights if name.startswith(source)]:
            weights[f"{prefix}layers.{number}.{name.removeprefix(source)}"] = weights[name]
