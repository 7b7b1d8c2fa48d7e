"""What a request may say. Unknown fields are refused where they stand; numbers are finite and have bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from regard.explain.trace import Kind
from regard.explain.views import Options
from regard.serve.traces import Subject

Text = Annotated[str, StringConstraints(min_length=1, max_length=1_000_000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=64)]
Position = Annotated[int, Field(ge=0, le=1 << 20)]
Count = Annotated[int, Field(ge=1, le=50)]
TokenId = Annotated[int, Field(ge=0, le=1 << 30)]


class Asked(BaseModel):
    """Base of all requests of this service's own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: Name = Field(description="A model that was named at start: see /api/models.")


class Problem(BaseModel):
    """What every answer other than 2xx says."""

    class Error(BaseModel):
        message: str
        type: str
        code: int

    error: Error


class Translate(Asked):
    texts: Texts
    beams: int = Field(1, ge=1, le=16, description="1 is greedy.")
    length_penalty: float = Field(0.6, ge=0, le=10)


class Generate(Asked):
    texts: Texts
    tokens: int = Field(50, ge=1, le=1024, description="Most new tokens.")
    beams: int = Field(1, ge=1, le=16)
    stream: bool = Field(False, description="Server-sent events, one a piece of text; one text, one beam.")
    temperature: float = Field(
        0.0, ge=0, le=10, description="0 is greedy. Others: one text at a time, streamed or not."
    )
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=1 << 31)


class Classify(Asked):
    texts: Texts


class Fill(Asked):
    texts: Texts
    count: Count = 5


class Embed(Asked):
    texts: Texts
    pooling: Literal["mean", "first"] = "mean"


class Traced(Asked):
    """What a trace is taken of; the same subject asked again is not run again while it is kept."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=8)]
    begin: list[TokenId] = Field([], max_length=256, description="Tokens the answer to the first text begins with.")
    tokens: int = Field(0, ge=0, le=200, description="Language models: how far to go on.")

    def subject(self) -> Subject:
        return Subject(self.model, tuple(self.texts), tuple(self.begin), self.tokens)


class Viewed(Traced):
    """A view's options; which of them a view takes stands in /api/views."""

    query: Annotated[str, StringConstraints(max_length=200)] | Position | None = Field(
        None, description="A word, or the number of a token."
    )
    layer: Position | None = None
    head: Position | None = None
    kind: Kind | None = None
    method: Name | None = None
    answer: Name | None = None
    count: Count | None = None
    sweep: Literal["heads", "patches"] | None = None
    edits: list[Annotated[str, StringConstraints(min_length=1, max_length=20_000)]] = Field([], max_length=128)
    beams: int = Field(1, ge=1, le=8, description="Translators: show the beam as a tree.")

    def options(self, **more: Any) -> Options:
        named = ("query", "layer", "head", "kind", "method", "answer", "count", "sweep")
        return Options(**{name: getattr(self, name) for name in named}, edits=tuple(self.edits), **more)


class Heads(Traced):
    kind: Kind
    row: Position = 0
    layer: Position | None = Field(None, description="Long texts: the small maps of this layer, from sampled queries.")


class Tile(Traced):
    place: Name = Field(description="An attention, such as encoder.layers.0.self_attention.")
    head: Position
    row: Position = 0
    queries: tuple[Position, Position] = Field(description="First token and the one after the last.")
    keys: tuple[Position, Position]
    resolution: tuple[Annotated[int, Field(ge=1, le=256)], Annotated[int, Field(ge=1, le=256)]] = (64, 64)
    sampled: bool = Field(False, description="Of each row of cells only the query in its middle: a first sight.")


class Completion(BaseModel):
    """OpenAI's text completion; what it has more is accepted and without effect, unless it would change the answer."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    model: Name
    prompt: Text | Texts
    max_tokens: int | None = Field(None, ge=1, le=1024, description="16; translators: until the answer ends.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 or none: greedy.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, le=1 << 31)
    stream: bool | None = False
    echo: bool | None = False
    n: Literal[1] | None = 1
    best_of: Literal[1] | None = 1
    logprobs: None = None
    suffix: None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None


class Embeddings(BaseModel):
    """OpenAI's embeddings of texts."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    model: Name
    input: Text | Texts
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: None = None
