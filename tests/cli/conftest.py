"""A tiny model folder, and commands called in this process as the shell would."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from regard.cli import main
from regard.modalities.text import train_bpe
from regard.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: random weights, real tokenizer, at most 12 tokens a text."""
    texts = ["Python executes quickly", "Python crawls quickly", "le serpent rampe vite"] * 4
    codec = train_bpe(texts, vocab_size=400)
    torch.manual_seed(3)
    config = TransformerConfig(
        vocab_size=codec.source.vocab_size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        attention_heads=2,
        ffn_dim=24,
        max_position_embeddings=12,
    )
    path = tmp_path_factory.mktemp("models") / "tiny"
    path.mkdir()
    Transformer(config).save(path)
    codec.save(path)
    return path


@pytest.fixture
def regard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """`regard("run", folder, "text")` -> exit code, standard output, standard error."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["regard", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ended(code, *capfd.readouterr())

    return call
