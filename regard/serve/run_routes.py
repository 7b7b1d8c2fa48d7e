"""Answers: translations, continuations, classes, hidden words, vectors; alike requests are answered together."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from regard.errors import RegardError
from regard.generation.stream import stream
from regard.sequences import Sequences
from regard.serve.answering import Service, problem_of, said, service_of
from regard.serve.schemas import Classify, Embed, Fill, Generate, Translate
from regard.serve.shelf import Volume
from regard.serve.traces import going_on

router = APIRouter(prefix="/api/run", tags=["run"])


@router.post("/translate")
async def translate(asked: Translate, request: Request) -> Response:
    """The best answers to each text, with their log-probabilities and scores."""
    service = service_of(request)
    volume = service.find(asked.model, "translate")
    beams, penalty = asked.beams, asked.length_penalty

    def work(texts: list[str]) -> list[Any]:
        decode = volume.pipeline.codec.target.decode
        return [
            [{"text": decode(one.tokens), "log_probability": one.log_probability, "score": one.score} for one in found]
            for found in volume.pipeline.hypotheses(texts, beams, penalty)
        ]

    found = await service.engine.together(("translate", volume.name, beams, penalty), work, service.check(asked.texts))
    return said({"model": volume.name, "answers": [one[0]["text"] for one in found], "hypotheses": found})


@router.post("/generate")
async def generate(asked: Generate, request: Request) -> Response:
    """What the model writes after each text; with `stream` as events, a piece of text each."""
    service = service_of(request)
    volume = service.find(asked.model, "generate")
    texts = service.check(asked.texts)
    if asked.stream or asked.temperature:
        if len(texts) > 1 or asked.beams > 1:
            raise RegardError("streams and draws take one text and one beam")
        pieces = written(service, volume, texts[0], asked.tokens, draw_of(asked.temperature, asked.top_p, asked.seed))
        if asked.stream:
            return await events(pieces, lambda text: {"text": text})
        return said({"model": volume.name, "answers": ["".join([piece async for piece in pieces])]})
    found = await service.engine.together(
        ("generate", volume.name, asked.tokens, asked.beams),
        lambda texts: continuations(volume, texts, asked.tokens, asked.beams),
        texts,
    )
    return said({"model": volume.name, "answers": [text for text, _, _ in found]})


@router.post("/classify")
async def classify(asked: Classify, request: Request) -> Response:
    """The classes of each text, the most probable first."""
    service = service_of(request)
    volume = service.find(asked.model, "classify")

    def work(texts: list[str]) -> list[Any]:
        return [[asdict(one) for one in choices] for choices in volume.pipeline.classify(texts)]

    found = await service.engine.together(("classify", volume.name), work, service.check(asked.texts))
    return said({"model": volume.name, "answers": [one[0]["text"] for one in found], "classes": found})


@router.post("/fill")
async def fill(asked: Fill, request: Request) -> Response:
    """For each hidden word of each text the most probable words."""
    service = service_of(request)
    volume = service.find(asked.model, "fill")

    def work(texts: list[str]) -> list[Any]:
        return [
            [[asdict(one) for one in choices] for choices in volume.pipeline.fill(text, asked.count)] for text in texts
        ]

    found = await service.engine.together(("fill", volume.name, asked.count), work, service.check(asked.texts))
    return said({"model": volume.name, "words": found})


@router.post("/embed")
async def embed(asked: Embed, request: Request) -> Response:
    """One vector of length 1 a text."""
    service = service_of(request)
    found = await vectors(service, asked.model, asked.texts, asked.pooling)
    return said({"model": asked.model, "embeddings": found})


async def vectors(service: Service, model: str, texts: list[str], pooling: str = "mean") -> list[list[float]]:
    """Vectors of texts, answered together with other requests'."""
    volume = service.find(model, "embed")

    def work(texts: list[str]) -> list[Any]:
        return volume.pipeline.embed(texts, pooling).tolist()  # type: ignore[no-any-return]

    return await service.engine.together(("embed", model, pooling), work, service.check(texts))


def continuations(volume: Volume, texts: list[str], tokens: int, beams: int) -> list[tuple[str, int, bool]]:
    """What is written after each text, in how many tokens, and whether it came to an end."""
    pipeline = volume.pipeline
    best = [found[0] for found in pipeline.hypotheses(texts, tokens, beams)]
    return [
        (pipeline.continuation(text, one.tokens), len(one.tokens), one.finished)
        for text, one in zip(texts, best, strict=True)
    ]


def draw_of(temperature: float | None, top_p: float | None, seed: int | None) -> dict[str, Any]:
    """Search options: temperature 0 is greedy."""
    return {"temperature": temperature, "top_p": top_p, "seed": seed} if temperature else {}


async def written(service: Service, volume: Volume, text: str, tokens: int, draw: dict[str, Any]) -> AsyncIterator[str]:
    """The answer as it is written, in pieces of text; every token waits for its turn like any other request."""
    pieces = _pieces(volume, text, tokens, draw)
    while (piece := await service.engine.run(lambda: next(pieces, None), patient=False)) is not None:
        if piece:
            yield piece


def _pieces(volume: Volume, text: str, tokens: int, draw: dict[str, Any]) -> Iterator[str]:
    """A piece a token; where a token is only a part of a letter, an empty one, and the letter with its last part."""
    pipeline = volume.pipeline
    if volume.kind == "translator":
        source, how = pipeline.check(text), pipeline.search(1, 0.6, **draw)
    else:
        source, how = pipeline.prompt(text), going_on(pipeline, tokens, **draw)
    found: list[int] = []
    shown = ""
    for token in stream(pipeline.model, Sequences.of_ids([source], pipeline.model.device), how):
        found.append(token)
        whole = (
            pipeline.codec.target.decode(found) if volume.kind == "translator" else pipeline.continuation(text, found)
        )
        if whole.startswith(shown) and not whole.endswith("\ufffd"):
            yield whole[len(shown) :]
            shown = whole
        else:
            yield ""
        if len(found) >= tokens:
            return


async def events(pieces: AsyncIterator[str], shape: Any) -> Response:
    """Server-sent events. The first piece is waited for, so that an error is an answer and no broken stream."""
    first = await anext(pieces, None)

    async def lines() -> AsyncIterator[str]:
        try:
            if first is not None:
                yield _event(shape(first))
                async for piece in pieces:
                    yield _event(shape(piece))
        except Exception as error:
            found = problem_of(error)
            if found is None:
                raise
            yield f"data: {bytes(found.body).decode()}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
