"""Language modelling: the next token of running text, all texts laid end to end (GPT-1, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from regard.data.blocks import Block, Blocks
from regard.data.texts import Text, read_texts
from regard.modalities.subwords import Subwords, train_subwords
from regard.models.base import Model
from regard.training.objectives import smoothed_cross_entropy
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import begin_from, check_parts, valid_loss


@dataclass(frozen=True)
class LanguageModelTask:
    """Perplexity, and bits a byte: the score that does not depend on the tokenizer."""

    recipe: Recipe
    codec: Subwords
    train: Blocks
    valid: Blocks
    test: Blocks
    bytes_a_token: dict[str, float]
    """UTF-8 bytes of text over tokens, of valid and test."""
    counts: dict[str, int]

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> LanguageModelTask:
        parts = read_text_parts(recipe)
        codec = subwords_of(recipe, parts["train"], begun)
        ids = {name: codec.encode_many([text.text for text in texts]) for name, texts in parts.items()}
        blocks = {name: Blocks(rows, recipe.data.max_tokens) for name, rows in ids.items()}
        sizes = {
            name: sum(len(text.text.encode()) for text in texts) / max(1, blocks[name].tokens)
            for name, texts in parts.items()
        }
        counts = {f"{name}_texts": len(texts) for name, texts in parts.items()}
        return cls(recipe, codec, blocks["train"], blocks["valid"], blocks["test"], sizes, counts)

    def make_model(self) -> Model:
        fields = vocabulary_of(self.codec)
        if self.recipe.model.type == "gpt":
            del fields["pad_token_id"]  # a batch is ragged: nothing is padded
        return begin_from(self.recipe.model.make(**fields), self.recipe.start)

    def loss(self, model: Model, batch: Block, smoothing: float) -> tuple[Tensor, Tensor]:
        answer = model(batch.inputs)
        logits = answer[0] if isinstance(answer, tuple) else answer  # a recurrent one gives its state as well
        return smoothed_cross_entropy(logits, batch.answers, smoothing)

    def predictions(self, batch: Block) -> int:
        return batch.tokens

    def valid_score(self, model: Model) -> Result:
        return self.score(model, self.valid, "valid")

    def test_score(self, model: Model) -> Result:
        return self.score(model, self.test, "test")

    def score(self, model: Model, blocks: Blocks, part: str) -> Result:
        """Perplexity a token and bits a byte of a part of the data."""
        nats = valid_loss(self, model, self.recipe.training.batch_tokens, blocks)
        bits = nats / math.log(2) / self.bytes_a_token[part]
        return Result({"perplexity": math.exp(min(nats, 100.0)), "bits_per_byte": bits}, -nats)


def read_text_parts(recipe: Recipe, label: str = "") -> dict[str, list[Text]]:
    """`train`, `valid` and `test` texts of a recipe."""
    data = recipe.data
    parts = {
        name: list(read_texts(getattr(data, name), data.text_field, data.second_field, label))
        for name in ("train", "valid", "test")
    }
    check_parts(parts)
    return parts


def subwords_of(recipe: Recipe, texts: list[Text], begun: Path | None) -> Subwords:
    """The tokenizer of a run that was begun, of the model that this one starts from, or a new one."""
    if begun or recipe.start:
        folder = begun or Path(recipe.start)
        return Subwords.load(folder / "model" if not begun and (folder / "model").is_dir() else folder)
    both = (one for text in texts for one in (text.text, text.second) if one)
    return train_subwords(recipe.tokenizer.kind, both, recipe.tokenizer.vocab_size)


def vocabulary_of(codec: Subwords) -> dict[str, int | None]:
    """What a tokenizer says about a model's configuration."""
    special = codec.special
    return {
        "vocab_size": codec.vocab_size,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }
