"""SQuAD's own files: articles, in them paragraphs, in them questions with their answers (Rajpurkar et al. 2016, 2018).

    {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": [...]}]}]}]}

One article at a time is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from regard.data.tables import Row
from regard.errors import RegardError

_CHUNK = 1 << 16


def read_squad(path: Path, question: str, context: str, answers: str) -> Iterator[Row]:
    """A row a question, with these three fields; `answers` as `{"text": [...], "answer_start": [...]}`.

    RegardError names the question, or the number of the article, that is not as it should be.
    """
    for number, article in enumerate(read_articles(path), start=1):
        place = f"{path}, article {number}"
        for paragraph in _list(article, "paragraphs", place):
            for asked in _list(paragraph, "qas", place):
                here = f"{place}, question {asked.get('id', asked.get('question'))!r}"
                given = [] if asked.get("is_impossible") else _list(asked, "answers", here)
                texts, begins = ([one.get(name) for one in given] for name in ("text", "answer_start"))
                if not all(isinstance(begin, int) for begin in begins):
                    raise RegardError(f"{here}: an answer needs its place in the text, answer_start")
                found = {"text": texts, "answer_start": begins}
                yield Row(here, {question: asked.get("question"), context: paragraph.get("context"), answers: found})


def read_articles(path: Path) -> Iterator[Any]:
    """The members of the list `data`, one at a time; RegardError where there is none, or the JSON is broken."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _members(file, path)
    except UnicodeDecodeError as error:
        raise RegardError(f"{path}: not valid UTF-8 ({error.reason})") from error
    except OSError as error:
        raise RegardError(f"{path} cannot be read: {error.strerror}") from error


def _members(file: IO[str], path: Path) -> Iterator[Any]:
    decoder, number = json.JSONDecoder(), 0
    text = _until(file, "", "[")
    head, bracket, text = text.partition("[")
    if not bracket or '"data"' not in head:
        raise RegardError(f'{path} is not in SQuAD\'s format: it begins with {{"data": [')
    while True:
        text = text.lstrip(" \t\r\n,")
        if text.startswith("]"):
            return
        try:
            member, end = decoder.raw_decode(text)
        except ValueError as error:
            more = file.read(max(_CHUNK, len(text)))  # as much again, so that long articles are not tried too often
            if not more:
                raise RegardError(f"{path}, after article {number}: not valid JSON ({error})") from error
            text += more
            continue
        number, text = number + 1, text[end:]
        yield member


def _until(file: IO[str], text: str, sign: str) -> str:
    while sign not in text and (more := file.read(_CHUNK)):
        text += more
    return text


def _list(given: Any, name: str, place: str) -> list[dict[str, Any]]:
    found = given.get(name) if isinstance(given, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise RegardError(f"{place}: {name!r} is not a list of objects")
    return found
