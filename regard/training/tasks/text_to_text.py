"""Text to text: translation, spelling to phonemes, and whatever else an encoder-decoder learns from pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from regard.data.batches import Batch, Examples
from regard.data.sources import Pair, read_cmudict, read_pairs
from regard.errors import RegardError
from regard.modalities.text import Codec, symbol_codec, train_bpe
from regard.models.base import Model
from regard.training.guided import Guide, Noted
from regard.training.objectives import smoothed_cross_entropy
from regard.training.recipe import Recipe
from regard.training.scoring import Result, evaluate, search_of
from regard.training.tasks import begin_from, check_parts


@dataclass(frozen=True)
class TextToTextTask:
    """Teacher forcing on pairs; scores from real decoding."""

    recipe: Recipe
    codec: Codec
    train: Examples
    valid: Examples
    valid_pairs: list[Pair]
    test_pairs: list[Pair]
    counts: dict[str, int]
    guide: Guide | None = None
    """Word links that one head learns."""

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> TextToTextTask:
        """Read the three parts, train the tokenizers (or take those of a run that was begun), and tokenise."""
        parts = read_parts(recipe)
        check_parts(parts)
        codec = _codec(recipe, begun, parts["train"])
        train = tokenise(codec, parts["train"], recipe.data.max_tokens)
        if not len(train):
            raise RegardError(f"no training pair is within data.max_tokens = {recipe.data.max_tokens}")
        counts = {f"{name}_pairs": len(pairs) for name, pairs in parts.items()}
        valid = tokenise(codec, parts["valid"], recipe.model.fields["max_position_embeddings"])
        guide = Guide(recipe.guided, codec, parts["train"]) if recipe.guided.links else None
        return cls(recipe, codec, train, valid, parts["valid"], parts["test"], counts, guide)

    def make_model(self) -> Model:
        target = self.codec.target
        special = {"pad_token_id": target.pad, "bos_token_id": target.bos, "eos_token_id": target.eos}
        return begin_from(self.recipe.model.make(vocab_size=target.vocab_size, **special), self.recipe.start)

    def loss(self, model: Model, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        if self.guide is None or not model.training:
            return smoothed_cross_entropy(model(batch.source, batch.target), batch.answers, smoothing)
        with Noted(model, self.recipe.guided) as noted:
            loss, plain = smoothed_cross_entropy(model(batch.source, batch.target), batch.answers, smoothing)
        return loss + self.recipe.guided.weight * self.guide.loss(model, batch, noted.x, noted.memory), plain

    def predictions(self, batch: Batch) -> int:
        return len(batch.answers)

    def valid_score(self, model: Model) -> Result:
        """Greedy answers to the first validation examples, scored."""
        score = self.recipe.score
        how = search_of(model.config, score, beams=1)
        return evaluate(model, self.codec, self.valid_pairs[: score.valid_examples], score.metric, how)[0]

    def test_score(self, model: Model) -> Result:
        """The recipe's search on the test part."""
        score = self.recipe.score
        how = search_of(model.config, score)
        return evaluate(model, self.codec, self.test_pairs[: score.test_examples], score.metric, how)[0]


def read_parts(recipe: Recipe) -> dict[str, list[Pair]]:
    """`train`, `valid` and `test` pairs."""
    data = recipe.data
    if data.source == "cmudict":
        return read_cmudict()
    return {
        part: [
            pair
            for pair in read_pairs(getattr(data, part), data.source_field, data.target_field)
            if pair.source.strip() and pair.target.strip()
        ]
        for part in ("train", "valid", "test")
    }


def tokenise(codec: Codec, pairs: Iterable[Pair], longest: int) -> Examples:
    """Every (source, target) of the pairs whose sides have at most `longest` tokens."""
    flat = [(pair.source, target) for pair in pairs for target in pair.targets]
    sources = codec.source.encode_many([source for source, _ in flat])
    targets = codec.target.encode_many([target for _, target in flat])
    kept = [both for both in zip(sources, targets, strict=True) if max(map(len, both)) <= longest]
    return Examples([source for source, _ in kept], [target for _, target in kept], codec.target.bos)


def _codec(recipe: Recipe, begun: Path | None, pairs: list[Pair]) -> Codec:
    """The tokenizers of a run that was begun, or of the model that training starts from; else new ones."""
    if begun or recipe.start:
        return Codec.load(begun or Path(recipe.start))
    if recipe.tokenizer.kind == "symbols":
        return symbol_codec((pair.source for pair in pairs), (target for pair in pairs for target in pair.targets))
    texts = (text for pair in pairs for text in (pair.source, pair.target))
    return train_bpe(texts, recipe.tokenizer.vocab_size)
