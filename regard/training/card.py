"""Write a model folder: configuration, weights, tokenizers, and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from regard.modalities.text import Codec
from regard.models.base import Model
from regard.training.files import written_aside


def write_model(
    folder: Path, model: Model, codec: Codec, facts: dict[str, Any], dtype: torch.dtype | None = None
) -> None:
    """The whole folder at once: it is either as it was before, or complete."""
    with written_aside(folder) as aside:
        aside.mkdir()
        model.save(aside, dtype)
        codec.save(aside)
        (aside / "README.md").write_text(model_card(facts), encoding="utf-8")


def model_card(facts: dict[str, Any]) -> str:
    return "card\n"
