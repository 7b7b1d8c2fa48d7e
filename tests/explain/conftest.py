"""A small random model over real words, the same for all tests of explanations."""

import pytest
import torch

from regard.modalities.text import train_bpe
from regard.models.transformer import Transformer, TransformerConfig
from regard.pipelines.text_to_text import TextToText

TEXTS = ["Python executes quickly", "Python crawls quickly", "the snake crawls", "le serpent rampe vite"] * 4


def tiny(normalize_before: bool = False, seed: int = 0) -> TextToText:
    codec = train_bpe(TEXTS, vocab_size=400)
    torch.manual_seed(seed)
    config = TransformerConfig(
        vocab_size=codec.source.vocab_size,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        attention_heads=4,
        ffn_dim=24,
        normalize_before=normalize_before,
        max_position_embeddings=40,
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, so that none of them can be forgotten unnoticed
            parameter.add_(0.3 * torch.randn_like(parameter))
    return TextToText("tiny", model, codec)


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def model(request: pytest.FixtureRequest) -> TextToText:
    return tiny(request.param)
