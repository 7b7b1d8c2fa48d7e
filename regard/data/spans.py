"""Questions about a text whose answer is a span of it, as in SQuAD (Rajpurkar et al. 2016); and the scores of answers.

A text longer than the model can read is cut into windows that overlap (Devlin et al. 2018's `doc_stride`); in windows
that do not hold the answer, and where there is none (SQuAD 2.0), the answer is the first token, [CLS].
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from regard.data.squad import read_squad
from regard.data.tables import Row, read_rows
from regard.errors import RegardError
from regard.modalities.subwords import Subwords
from regard.models.bert import Bert
from regard.sequences import Sequences


@dataclass(frozen=True)
class Question:
    """A question, the text that holds the answer, the answers that count as right, and where the first one begins."""

    question: str
    context: str
    answers: tuple[str, ...]
    begin: int


class Window(NamedTuple):
    """Part of a text with the question before it."""

    ids: list[int]
    segments: list[int]
    offsets: list[tuple[int, int] | None]
    """For each token where it stands in the text; None for those of the question and special ones."""


def read_questions(path: str, question: str, context: str, answers: str) -> Iterator[Question]:
    """Questions of a table (`regard.data.tables`) or of `x.json`, SQuAD's own format, one at a time.

    The field `answers` is SQuAD's `{"text": [...], "answer_start": [...]}` or one text, whose first place in the
    context counts; empty: the text does not say. RegardError with file and line where an answer does not stand there.
    """
    nested = path.endswith(".json")
    rows = (
        read_squad(Path(path), question, context, answers) if nested else read_rows(path, (question, context, answers))
    )
    for row in rows:
        text, given = row.text(context), row.fields[answers]
        found, begins = _answers(row, given, answers, text)
        if found and text[begins[0] : begins[0] + len(found[0])] != found[0]:
            raise RegardError(f"{row.place}: the answer {found[0][:40]!r} does not stand at {begins[0]} of {context!r}")
        yield Question(row.text(question), text, tuple(found), begins[0] if found else -1)


def _answers(row: Row, given: Any, name: str, context: str) -> tuple[list[str], list[int]]:
    if isinstance(given, dict):
        texts, begins = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(begins, list) or len(texts) != len(begins):
            raise RegardError(f"{row.place}: {name!r} needs as many numbers in answer_start as texts in text")
        return [str(one) for one in texts], [int(one) for one in begins]
    answer = row.text(name)
    if not answer:
        return [], []
    begin = context.find(answer)
    if begin < 0:
        raise RegardError(f"{row.place}: the answer {answer[:40]!r} does not stand in the text")
    return [answer], [begin]


def windows(codec: Subwords, question: str, context: str, longest: int) -> list[Window]:
    """Question and text as a pair, the text in windows that overlap by half; RegardError where no text fits."""
    encoding = codec.inner.encode(question, context)
    sides = encoding.sequence_ids
    if 1 not in sides:
        return [Window(encoding.ids, encoding.type_ids, [None] * len(sides))]
    begin = sides.index(1)
    end = len(sides) - sides[::-1].index(1)
    room = longest - begin - (len(sides) - end)
    if room < 2:
        raise RegardError(f"the question {question[:40]!r} leaves no room for a text in {longest} tokens")
    found = []
    for start in range(begin, end, max(1, room // 2)):
        stop = min(start + room, end)
        kept = [*range(begin), *range(start, stop), *range(end, len(sides))]
        offsets = [encoding.offsets[place] if sides[place] == 1 else None for place in kept]
        found.append(Window([encoding.ids[one] for one in kept], [encoding.type_ids[one] for one in kept], offsets))
        if stop == end:
            break
    return found


def span_in(window: Window, question: Question) -> tuple[int, int]:
    """First and last token of the answer in a window; (0, 0) where it is not wholly there."""
    if not question.answers:
        return 0, 0
    begin, end = question.begin, question.begin + len(question.answers[0])
    inside = [place for place, at in enumerate(window.offsets) if at and at[0] < end and at[1] > begin]
    if not inside:
        return 0, 0
    first, last = window.offsets[inside[0]], window.offsets[inside[-1]]
    whole = first is not None and last is not None and first[0] <= begin and last[1] >= end
    return (inside[0], inside[-1]) if whole else (0, 0)


class Found(NamedTuple):
    """Where an answer stands in the text, and how probable it is among all spans of its window."""

    begin: int
    end: int
    probability: float


@torch.no_grad()
def find_answer(model: Bert, cut: Sequence[Window], longest: int = 30) -> Found | None:
    """The most probable span of a text, of so many tokens at most; None where [CLS] is so in every window."""
    tokens = Sequences.of_ids([window.ids for window in cut], model.device)
    segments = torch.tensor([one for window in cut for one in window.segments], device=model.device)
    hidden = model.hidden(tokens, segments if model.config.type_vocab_size > 1 else None)
    best, best_score, none = None, -torch.inf, torch.inf
    for window, scores in zip(cut, model.answer("spans", hidden).split(list(tokens.lengths)), strict=True):
        none = min(none, float(scores[0].sum()))
        inside = torch.tensor([at is not None for at in window.offsets], device=scores.device)
        sums = scores[:, 0, None] + scores[:, 1]
        allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(longest - 1) & inside[:, None] & inside
        if not bool(allowed.any()):
            continue
        sums = sums.masked_fill(~allowed, -torch.inf)
        place = int(sums.argmax())
        if float(sums.flatten()[place]) > best_score:
            best_score = float(sums.flatten()[place])
            first, last = window.offsets[place // len(sums)], window.offsets[place % len(sums)]
            assert first is not None
            assert last is not None
            chance = scores.log_softmax(dim=0)
            log = float(chance[place // len(sums), 0] + chance[place % len(sums), 1])
            best = Found(first[0], last[1], math.exp(log))
    return None if none > best_score else best


def answer_scores(answers: Sequence[str], questions: Sequence[Question]) -> tuple[float, float]:
    """Mean exact match and F1 of the words, in percent, each against the nearest of the right answers.

    Case, signs and articles do not count (the evaluation of SQuAD).
    """
    exact = f1 = 0.0
    for answer, question in zip(answers, questions, strict=True):
        right = question.answers or ("",)
        exact += max(float(_plain(answer) == _plain(one)) for one in right)
        f1 += max(_f1(_plain(answer).split(), _plain(one).split()) for one in right)
    count = max(1, len(questions))
    return 100 * exact / count, 100 * f1 / count


def _plain(text: str) -> str:
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def _f1(answered: list[str], right: list[str]) -> float:
    if not answered or not right:
        return float(answered == right)
    shared = sum((Counter(answered) & Counter(right)).values())
    return 2 * shared / (len(answered) + len(right))
