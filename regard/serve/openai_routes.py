"""OpenAI's completions, embeddings and models, so that existing clients work."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import torch
from fastapi import APIRouter, Request
from fastapi.responses import Response

from regard.errors import RegardError
from regard.serve.answering import Service, said, service_of
from regard.serve.looks import packed
from regard.serve.run_routes import continuations, draw_of, events, vectors, written
from regard.serve.schemas import Completion, Embeddings
from regard.serve.shelf import Volume

router = APIRouter(prefix="/v1", tags=["OpenAI"])
_NEW_TOKENS, _MOST_TOKENS = 16, 1024


@router.get("/models")
async def models(request: Request) -> Response:
    """The models that can be asked."""
    volumes = service_of(request).shelf.volumes.values()
    listed = [{"id": one.name, "object": "model", "created": 0, "owned_by": "regard"} for one in volumes]
    return said({"object": "list", "data": [one for one, volume in zip(listed, volumes, strict=True)
                                            if volume.state == "ready"]})  # fmt: skip


@router.post("/completions")
async def completions(asked: Completion, request: Request) -> Response:
    """What a language model writes after a prompt, or a translator's translation of it. Greedy unless drawn."""
    service = service_of(request)
    volume = service.find(asked.model)
    if volume.kind == "reader":
        raise RegardError(f"{volume.name} writes nothing: it can {' and '.join(volume.abilities)}")
    texts = service.check([asked.prompt] if isinstance(asked.prompt, str) else list(asked.prompt))
    about = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    about |= {"model": volume.name}
    if asked.stream:
        if len(texts) > 1:
            raise RegardError("a stream takes one prompt")
        shape = lambda text: {**about, "choices": [_choice(0, text, None)]}  # noqa: E731
        return await events(_until(asked, texts[0], _written(service, volume, asked, texts[0])), shape)
    found = await _answered(service, volume, asked, texts)
    choices = []
    for number, (text, (answer, _, finished)) in enumerate(zip(texts, found, strict=True)):
        cut, stopped = _cut(answer, _stops(asked))
        whole = text + cut if asked.echo else cut
        choices.append(_choice(number, whole, "stop" if finished or stopped else "length"))
    read = sum(len(volume.pipeline.check(text)) for text in texts)
    wrote = sum(count for _, count, _ in found)
    usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
    return said({**about, "choices": choices, "usage": usage})


@router.post("/embeddings")
async def embeddings(asked: Embeddings, request: Request) -> Response:
    """One vector of length 1 a text."""
    service = service_of(request)
    texts = [asked.input] if isinstance(asked.input, str) else list(asked.input)
    found = await vectors(service, asked.model, texts)
    shown: list[Any] = list(found)
    if asked.encoding_format == "base64":
        shown = [packed(torch.tensor(vector))["float32"] for vector in found]
    data = [{"object": "embedding", "index": number, "embedding": one} for number, one in enumerate(shown)]
    pipeline = service.find(asked.model).pipeline
    read = sum(len(pipeline.check(text)) for text in texts)
    usage = {"prompt_tokens": read, "total_tokens": read}
    return said({"object": "list", "model": asked.model, "data": data, "usage": usage})


async def _answered(
    service: Service, volume: Volume, asked: Completion, texts: list[str]
) -> list[tuple[str, int, bool]]:
    """Each answer, its tokens, and whether it ended by itself."""
    if asked.temperature or (volume.kind == "translator" and asked.max_tokens is not None):
        found = []
        for text in texts:
            pieces = [piece async for piece in _written(service, volume, asked, text)]
            found.append(("".join(pieces), len(pieces), len(pieces) < _tokens(volume, asked)))
        return found
    if volume.kind == "translator":

        def work(texts: list[str]) -> list[Any]:
            best = [answers[0] for answers in volume.pipeline.hypotheses(texts)]
            decode = volume.pipeline.codec.target.decode
            return [(decode(one.tokens), len(one.tokens), one.finished) for one in best]

        return await service.engine.together(("complete", volume.name), work, texts)
    tokens = _tokens(volume, asked)
    key = ("complete", volume.name, tokens)
    return await service.engine.together(key, lambda texts: continuations(volume, texts, tokens, 1), texts)


def _written(service: Service, volume: Volume, asked: Completion, text: str) -> AsyncIterator[str]:
    return written(service, volume, text, _tokens(volume, asked), draw_of(asked.temperature, asked.top_p, asked.seed))


def _tokens(volume: Volume, asked: Completion) -> int:
    return asked.max_tokens or (_MOST_TOKENS if volume.kind == "translator" else _NEW_TOKENS)


async def _until(asked: Completion, text: str, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    """The pieces up to a stop; what may be the beginning of one waits."""
    if asked.echo:
        yield text
    stops, held = _stops(asked), ""
    wait = max((len(stop) for stop in stops), default=1) - 1
    async for piece in pieces:
        held, stopped = _cut(held + piece, stops)
        if stopped:
            break
        ready, held = (held[: len(held) - wait], held[len(held) - wait :]) if len(held) > wait else ("", held)
        if ready:
            yield ready
    if held:
        yield held


def _stops(asked: Completion) -> list[str]:
    return [] if asked.stop is None else [asked.stop] if isinstance(asked.stop, str) else list(asked.stop)


def _cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the first of the stops, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _choice(number: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": reason}
