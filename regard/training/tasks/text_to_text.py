"""Text to text: translation, spelling to phonemes, and whatever else an encoder-decoder learns from pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from regard.data.batches import Batch, Examples
from regard.data.sources import Pair, read_cmudict, read_pairs
from regard.errors import RegardError
from regard.generation.second_opinion import SecondOpinion
from regard.modalities.text import Codec, symbol_codec, train_bpe, train_unigram
from regard.models.base import Model
from regard.training.guided import Guide, Noted
from regard.training.objectives import smoothed_cross_entropy
from regard.training.recipe import Recipe
from regard.training.scoring import Result, evaluate, search_of
from regard.training.tasks import begin_from
from regard.training.tasks.reading import PARTS, Parts, counts_of


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
        parts = pair_parts(recipe)
        codec = _codec(recipe, begun, parts)
        longest = {"train": recipe.data.max_tokens, "valid": recipe.model.fields["max_position_embeddings"]}
        tables = [
            parts.table(part, partial(_tokenised, codec, length), 2, *_told(codec), length)
            for part, length in longest.items()
        ]
        train, valid = (Examples(table.columns[0], table.columns[1], codec.target.bos) for table in tables)
        if not len(train):
            raise RegardError(f"no training pair is within data.max_tokens = {recipe.data.max_tokens}")
        held_out = {part: list(parts(part)) for part in PARTS[1:]}
        counts = counts_of(*tables) | {"test_pairs": len(held_out["test"])}
        guide = Guide(recipe.guided, codec, list(parts("train"))) if recipe.guided.links else None
        return cls(recipe, codec, train, valid, held_out["valid"], held_out["test"], counts, guide)

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
        how, pairs = search_of(model.config, score), self.test_pairs[: score.test_examples]
        return evaluate(model, self.codec, pairs, score.metric, how, opinion=self.opinion)[0]

    @cached_property
    def opinion(self) -> SecondOpinion | None:
        """What ranks the model's answers, learnt from the training pairs when first asked for."""
        return learnt_opinion(self.recipe, self.codec)


def learnt_opinion(recipe: Recipe, codec: Codec) -> SecondOpinion | None:
    """A joint model of the training part, if the recipe wishes for one."""
    wished = recipe.second_opinion
    if not wished.order:
        return None
    pairs = [(pair.source, target) for pair in pair_parts(recipe)("train") for target in pair.targets]
    return SecondOpinion.learn(pairs, codec, wished.order, wished.share)


def read_parts(recipe: Recipe) -> dict[str, list[Pair]]:
    """`train`, `valid` and `test` pairs."""
    parts = pair_parts(recipe)
    return {part: list(parts(part)) for part in PARTS}


def pair_parts(recipe: Recipe) -> Parts[Pair]:
    """The same, one pair at a time, training pairs cleaned."""
    data = recipe.data
    words = read_cmudict() if data.source == "cmudict" else {}

    def read(part: str) -> Iterator[Pair]:
        if words:
            return iter(words[part])
        pairs = read_pairs(getattr(data, part), data.source_field, data.target_field)
        return (pair for pair in pairs if pair.source.strip() and pair.target.strip())

    return Parts(recipe, read, lambda pair: (pair.source, pair.target), "pairs")


def _tokenised(codec: Codec, longest: int, pairs: list[Pair]) -> Iterator[tuple[list[int], list[int]]]:
    """Every (source, target) of the pairs whose sides have at most `longest` tokens."""
    flat = [(pair.source, target) for pair in pairs for target in pair.targets]
    sources = codec.source.encode_many([source for source, _ in flat])
    targets = codec.target.encode_many([target for _, target in flat])
    return (both for both in zip(sources, targets, strict=True) if max(map(len, both)) <= longest)


def _told(codec: Codec) -> tuple[str, str]:
    return codec.source.to_json(), codec.target.to_json()


def _codec(recipe: Recipe, begun: Path | None, pairs: Parts[Pair]) -> Codec:
    """The tokenizers of a run that was begun, or of the model that training starts from; else new ones."""
    if begun:
        return Codec.load(begun)
    if start := recipe.start or recipe.distillation.teacher:
        folder = Path(start)
        return Codec.load(folder / "model" if (folder / "model").is_dir() else folder)
    kind = recipe.tokenizer.kind
    if kind == "symbols":
        targets = (target for pair in pairs("train") for target in pair.targets)
        return symbol_codec((pair.source for pair in pairs("train")), targets)
    texts = (text for pair in pairs("train") for text in (pair.source, pair.target))
    return (train_unigram if kind == "unigram" else train_bpe)(texts, recipe.tokenizer.vocab_size)
