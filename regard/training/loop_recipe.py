"""What a recipe says of the loop and its cost: the parts `[training]` and `[cost]`."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Training(Part):
    """The loop."""

    seed: int = 1
    batch_tokens: int = Field(8192, gt=0)
    """Source and target tokens of one step."""
    max_steps: int = Field(100_000, gt=0)
    micro_batches: int = Field(1, gt=0)
    """Gradient accumulation: each step's batch is computed in so many parts, one after the other, in as much less
    memory. Losses are those of the whole batch; in the task `embeddings` a text is compared with those of its part."""
    activation_checkpointing: bool = False
    """Keep what enters each layer only, and compute the rest anew for the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the feed-forward networks (torch.compile; needs a C++ compiler on a CPU)."""
    schedule: Literal["inverse_sqrt", "linear", "cosine", "slanted", "halving", "constant"] = "inverse_sqrt"
    """After the warm-up: fall with 1 / sqrt(step) as in the paper, in a straight line or as a cosine (Loshchilov &
    Hutter 2017, equation 5) to zero at max_steps, or not at all. `slanted` is ULMFiT's triangle (Howard & Ruder 2018,
    equation 3), which has a rise of its own; `halving` is seq2seq's: after `halve_after` steps halved at once and every
    `halve_every` steps again (Sutskever et al. 2014, section 3.4)."""
    halve_after: int = Field(0, ge=0)
    halve_every: int = Field(0, ge=0)
    restarts: tuple[int, ...] = ()
    """Steps after which the schedule begins anew (Loshchilov & Hutter 2017, "SGDR")."""
    learning_rate: float = Field(0.0, ge=0)
    """Peak, reached at the end of the warm-up. 0: the paper's, 1 / sqrt(d_model x warmup_steps)."""
    warmup_steps: int = Field(4000, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    optimizer: Literal["adam", "muon", "sgd", "asgd", "adadelta"] = "adam"
    """The paper's; Muon for the matrices and Adam for the rest; SGD (seq2seq), averaged SGD (AWD-LSTM) or Adadelta
    (RNNsearch): name a learning_rate for these, 0.7, 30 and 1 in their papers (see regard.training.optimizers)."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """The model that is validated and kept is the exponential mean of the weights, with this decay; 0: none."""
    averaging_patience: int = Field(5, gt=0)
    """asgd: averaging begins when the validation loss is worse than the best of those this many validations ago."""
    rate_factor: float = Field(1.0, ge=1)
    """Each layer learns this much more slowly than the one above it; 2.6 in ULMFiT (section 3.2)."""
    unfreeze_every: int = Field(0, ge=0)
    """The last layer learns first, after so many steps the next one too, and so on (section 3.3); 0: all at once."""
    carry_state: bool = False
    """Text in parallel streams: a recurrent model goes on from the state it had at the end of the last batch."""
    activation_penalty: float = Field(0.0, ge=0)
    """AWD-LSTM's AR: how much large hidden states cost (Merity et al. 2018, section 4.6; 2 there)."""
    change_penalty: float = Field(0.0, ge=0)
    """Its TAR: how much a hidden state that changes fast costs (1 there)."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled, of matrices only."""
    adam_betas: tuple[float, float] = (0.9, 0.98)
    adam_epsilon: float = 1e-9
    language_model_weight: float = Field(0.5, ge=0)
    """lambda of GPT-1's equation 5: the language model's share of the loss while a GPT learns classes."""
    clip_norm: float = Field(0.0, ge=0)
    """Longest gradient allowed; 0: no limit, as in the paper."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (weights, norms, residuals and, on a CPU, attention stay in float32)."""
    validate_every: int = Field(1000, gt=0)
    """Steps between validations; each leaves a checkpoint."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints besides those; 0: none."""
    log_every: int = Field(50, gt=0)
    """Steps between two measurements of loss, speed and cost in the log; each validation has one too."""
    patience: int = Field(10, gt=0)
    """Validations without a better score after which training stops."""
    average: int = Field(5, gt=0)
    """The model is the average of the weights at so many last validations (section 6.1), if that scores better."""

    @model_validator(mode="after")
    def _restarts_in_order(self) -> Training:
        ends = (0, *self.restarts, self.max_steps)
        if any(later <= earlier for earlier, later in pairwise(ends)):
            raise ValueError(f"restarts rise and end before max_steps ({self.max_steps}), not {list(self.restarts)}")
        return self

    @model_validator(mode="after")
    def _fields_go_together(self) -> Training:
        if self.schedule == "halving" and not self.halve_every:
            raise ValueError("schedule halving needs halve_every, the steps after which the rate is halved again")
        if self.optimizer in ("sgd", "adadelta") and not self.learning_rate:
            raise ValueError(f"optimizer {self.optimizer} needs a learning_rate")
        if self.carry_state and self.micro_batches > 1:
            raise ValueError("carry_state reads streams side by side: it goes with micro_batches 1 only")
        if self.ema_decay and self.optimizer == "asgd":
            raise ValueError("asgd averages the weights itself: it goes with ema_decay 0 only")
        return self


class Cost(Part):
    """What the meter reckons with (see regard.training.meter)."""

    energy: bool = True
    """Count energy, where `codecarbon` is installed."""
    country: str = Field("", pattern="^([A-Z]{3})?$")
    """For CO2: three letters (ISO 3166), such as FRA; empty: the world's mean."""
    price_per_hour: float = Field(0.0, ge=0)
    """Of all machines together; 0: money is not told."""
    currency: str = "EUR"
