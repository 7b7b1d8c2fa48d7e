"""Language modelling: the next token of running text, all texts laid end to end (GPT-1, section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from regard.data.blocks import Block, Blocks
from regard.data.texts import Text, read_texts
from regard.errors import RegardError
from regard.layers.recurrence import LSTMState
from regard.modalities.subwords import Subwords, train_subwords
from regard.models.base import Model
from regard.models.catalog import load_model
from regard.models.ulmfit import AwdLstm, AwdLstmState, activation_regularisation
from regard.training.objectives import smoothed_cross_entropy
from regard.training.recipe import Recipe
from regard.training.scoring import Result
from regard.training.tasks import begin_from, valid_loss
from regard.training.tasks.reading import PARTS, Parts, counts_of


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
    carried: dict[str, Tensor] = field(default_factory=dict)
    """The state that the last batch ended with, by layer, where it is carried on to the next; a part of checkpoints."""

    @classmethod
    def prepare(cls, recipe: Recipe, begun: Path | None) -> LanguageModelTask:
        parts = text_parts(recipe)
        codec = subwords_of(recipe, parts, begun)
        backward = bool(recipe.model.fields.get("backward"))

        def rows(texts: list[Text]) -> Iterator[tuple[Sequence[int]]]:
            for ids in codec.encode_many([text.text for text in texts]):
                yield (ids[::-1] if backward else ids,)

        tables = {name: parts.table(name, rows, 1, codec.inner.to_str(), backward) for name in PARTS}
        streams = {name: recipe.training.carry_state and name == "train" for name in PARTS}
        blocks = {
            name: Blocks(table.columns[0], recipe.data.max_tokens, streams[name]) for name, table in tables.items()
        }
        sizes = {
            name: sum(len(text.text.encode()) for text in parts(name)) / max(1, blocks[name].tokens)
            for name in PARTS[1:]
        }
        return cls(recipe, codec, blocks["train"], blocks["valid"], blocks["test"], sizes, counts_of(*tables.values()))

    def make_model(self) -> Model:
        fields = vocabulary_of(self.codec)
        if self.recipe.model.type in ("gpt", "llama"):
            del fields["pad_token_id"]  # a batch is ragged: nothing is padded
        model = self.recipe.model.make(**fields)
        if self.recipe.tokenizer.renew and isinstance(model, AwdLstm):
            return _with_new_words(model, self.codec, Path(self.recipe.start))
        return begin_from(model, self.recipe.start)

    def loss(self, model: Model, batch: Block, smoothing: float) -> tuple[Tensor, Tensor]:
        if not isinstance(model, AwdLstm):
            return smoothed_cross_entropy(model(batch.inputs), batch.answers, smoothing)
        training, learning = self.recipe.training, model.training
        carries = training.carry_state and learning
        reading = model.read(batch.inputs, None if batch.first or not carries else _state_of(self.carried))
        if carries:
            self.carried.update(_tensors_of(reading.state))
        loss, plain = smoothed_cross_entropy(model.logits(reading.dropped.values), batch.answers, smoothing)
        if learning and (training.activation_penalty or training.change_penalty):
            loss = loss + activation_regularisation(reading, training.activation_penalty, training.change_penalty)
        return loss, plain

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


def _with_new_words(model: AwdLstm, codec: Subwords, start: Path) -> AwdLstm:
    """The weights of an earlier model; words that it knows keep their vectors, new ones begin as the mean of all."""
    folder = start / "model" if (start / "model").is_dir() else start
    earlier, known = load_model(folder), Subwords.load(folder)
    if not isinstance(earlier, AwdLstm):
        raise RegardError(f"{start} is a {earlier.config.model_type}, and tokenizer.renew needs an awd_lstm")
    places = [known.inner.token_to_id(codec.inner.id_to_token(token) or "") for token in range(codec.vocab_size)]
    weights, own = earlier.with_vocabulary(places).state_dict(), model.state_dict()
    for name, value in own.items():
        if name not in weights or weights[name].shape != value.shape:
            raise RegardError(f"{start} does not fit [model]: {name} is missing there or has another shape")
    model.load_state_dict({name: weights[name] for name in own})
    return model


def _tensors_of(state: AwdLstmState) -> dict[str, Tensor]:
    parts = {f"{number}": layer for number, layer in enumerate(state.layers)}
    return {f"{number}.{name}": value for number, layer in parts.items() for name, value in layer._asdict().items()}


def _state_of(tensors: dict[str, Tensor]) -> AwdLstmState:
    """The inverse of `_tensors_of`."""
    count = len(tensors) // len(LSTMState._fields)
    layers = [LSTMState(*(tensors[f"{number}.{name}"] for name in LSTMState._fields)) for number in range(count)]
    return AwdLstmState(tuple(layers))


def text_parts(recipe: Recipe, label: str = "") -> Parts[Text]:
    """`train`, `valid` and `test` texts of a recipe."""
    data = recipe.data

    def read(part: str) -> Iterator[Text]:
        return read_texts(getattr(data, part), data.text_field, data.second_field, label)

    return Parts(recipe, read, lambda text: (text.text,) if text.second is None else (text.text, text.second))


def subwords_of(recipe: Recipe, parts: Parts[Any], begun: Path | None) -> Subwords:
    """The tokenizer of a run that was begun, of the model that this one starts from, or a new one."""
    start = recipe.start or recipe.distillation.teacher
    if begun or (start and not recipe.tokenizer.renew):
        folder = begun or Path(start)
        return Subwords.load(folder / "model" if not begun and (folder / "model").is_dir() else folder)
    texts = (side for example in parts("train") for side in parts.sides(example))
    return train_subwords(recipe.tokenizer.kind, texts, recipe.tokenizer.vocab_size)


def encoder_of(recipe: Recipe, codec: Subwords, heads: Sequence[str], **more: Any) -> Model:
    """A BERT with these heads, new or begun from an earlier one."""
    special = {"vocab_size": codec.vocab_size, "pad_token_id": codec.special.pad}
    return begin_from(recipe.model.make(**special, heads=tuple(heads), **more), recipe.start)


def vocabulary_of(codec: Subwords) -> dict[str, int | None]:
    """What a tokenizer says about a model's configuration."""
    special = codec.special
    return {
        "vocab_size": codec.vocab_size,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }
