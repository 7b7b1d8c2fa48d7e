"""Llama: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models"; what most LLMs of today are.

A GPT with four changes (section 2.2), each from a paper of its own. The norm comes before each sublayer and only
divides by the root mean square (RMSNorm, Zhang & Sennrich 2019). The feed-forward network is gated (SwiGLU, Shazeer
2020). Nothing is added for positions: queries and keys are turned by them (RoFormer, Su et al. 2021). And in its later
versions several heads of queries share one of keys and values (Ainslie et al. 2023), which makes the cache smaller.

Mistral and Qwen2 are the same with other sizes; Qwen2 has biases on queries, keys and values.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from regard.attention import MultiHeadAttention, make_mask
from regard.layers.blocks import EncoderLayer, PreNorm
from regard.layers.dropout import Dropout
from regard.layers.feed_forward import GatedFeedForward
from regard.layers.positions import RotaryPositions, RotaryScaling
from regard.models.base import Config
from regard.models.decoder import DecoderModel
from regard.native.products import Linear
from regard.sequences import Sequences


class RopeScaling(BaseModel):
    """How the rotation was stretched for longer texts (see regard.layers.positions.RotaryScaling)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_type: Literal["linear", "llama3"]
    factor: float = Field(gt=0)
    low_freq_factor: float | None = Field(None, gt=0)
    high_freq_factor: float | None = Field(None, gt=0)
    original_max_position_embeddings: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> RopeScaling:
        bounds = (self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings)
        if self.rope_type == "llama3" and None in bounds:
            raise ValueError("llama3 needs low_freq_factor, high_freq_factor and original_max_position_embeddings")
        if self.rope_type == "linear" and bounds != (None, None, None):
            raise ValueError("linear scaling has a factor alone")
        return self


class LlamaConfig(Config):
    """Sizes of a Llama; the defaults are those of the 7B model (table 2)."""

    model_type: Literal["llama"] = "llama"
    vocab_size: int = Field(32000, gt=0)
    hidden_size: int = Field(4096, gt=0)
    """D: the width of the residual stream."""
    intermediate_size: int = Field(11008, gt=0)
    """F: inner width of the gated feed-forward network."""
    num_hidden_layers: int = Field(32, gt=0)
    num_attention_heads: int = Field(32, gt=0)
    """H: heads of queries."""
    num_key_value_heads: int | None = Field(None, gt=0)
    """Heads of keys and values; None is as many as of queries."""
    head_dim: int | None = Field(None, gt=0)
    """K; None is D / H."""
    hidden_act: Literal["silu", "gelu", "gelu_new", "relu"] = "silu"
    max_position_embeddings: int = Field(2048, gt=0)
    """Longest text, in tokens."""
    rms_norm_eps: float = Field(1e-6, gt=0)
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotation's rates."""
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    """Of queries, keys and values."""
    attention_output_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the attention weights. The paper has none anywhere; this and the next are for small data."""
    resid_pdrop: float = Field(0.0, ge=0, lt=1)
    """Dropout on the output of each sublayer, and on the embeddings."""
    tie_word_embeddings: bool = False
    """One matrix for embedding and prediction."""
    initializer_range: float = Field(0.02, gt=0)
    bos_token_id: int | None = Field(None, ge=0)
    eos_token_id: int | None = Field(None, ge=0)
    """Ends a text."""

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _heads_fit(self) -> LlamaConfig:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be cut into {self.num_attention_heads} heads")
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(f"{self.num_attention_heads} heads cannot share {self.key_value_heads} heads of keys")
        if self.head_width % 2:
            raise ValueError(f"a rotation turns pairs of channels: the head width {self.head_width} is odd")
        return self


PRESETS = {
    "llama-7b": LlamaConfig(),
    "llama2-70b": LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8,
        max_position_embeddings=4096, rms_norm_eps=1e-5,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=100000.0,
        tie_word_embeddings=True,
    ),
}  # fmt: skip


class Llama(DecoderModel):
    """Tokens in, scores of every next token out."""

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = Dropout(config.resid_pdrop)
        self.decoder = Decoder(config)
        tied = config.tie_word_embeddings
        self.output = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Normal with deviation 0.02, biases zero."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=self.config.initializer_range)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


class Decoder(nn.Module):
    """N layers of masked self-attention and gated feed-forward, and a last norm."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        rotary = RotaryPositions(config.head_width, config.rope_theta, _scaling(config.rope_scaling))
        self.layers = nn.ModuleList(
            EncoderLayer(
                MultiHeadAttention(
                    config.hidden_size,
                    config.num_attention_heads,
                    config.attention_dropout,
                    head_width=config.head_width,
                    key_heads=config.key_value_heads,
                    bias=(config.attention_bias, config.attention_output_bias),
                    rotation=rotary,
                ),
                GatedFeedForward(config.hidden_size, config.intermediate_size, config.hidden_act, config.mlp_bias),
                lambda: PreNorm(config.hidden_size, config.resid_pdrop, config.rms_norm_eps, nn.RMSNorm),
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Sequences) -> Sequences:
        mask = make_mask(x.layout, x.layout, causal=True)
        for layer in self.layers:
            x = layer(x, mask)
        return x.with_values(self.norm(x.values))


def _scaling(scaling: RopeScaling | None) -> RotaryScaling | None:
    if scaling is None:
        return None
    return RotaryScaling(
        scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_max_position_embeddings
    )
