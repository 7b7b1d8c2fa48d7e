"""Words with a label each, as entities are marked: fields of a table, or CoNLL columns (Tjong Kim Sang 2003).

A word may be cut into several tokens: the first one carries its label, the others have none (Devlin et al. 2018,
section 5.3). Texts too long for the model are cut between words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from regard.data.tables import read_lines, read_rows
from regard.errors import RegardError
from regard.modalities.subwords import Subwords

NONE = -100
"""The label of tokens that have none: what `cross_entropy` leaves out."""


@dataclass(frozen=True)
class Sentence:
    """Words, and the label of each."""

    words: tuple[str, ...]
    labels: tuple[str, ...]


class Piece(NamedTuple):
    """Part of a sentence, no longer than a model can read."""

    ids: list[int]
    places: list[int]
    """For each token the number of the word that begins with it; -1 for all others."""


def read_sentences(path: str, words: str = "text", labels: str = "label") -> Iterator[Sentence]:
    """Sentences of a table (`regard.data.tables`), or of `x.conll`; one at a time.

    In a table both fields are lists or have blanks between; in a CoNLL file each line is a word, its label last, and an
    empty line ends a sentence. RegardError with file and line where there is not one label a word.
    """
    if path.endswith((".conll", ".bio")):
        yield from _read_columns(Path(path))
        return
    for row in read_rows(path, (words, labels)):
        sentence = Sentence(tuple(row.texts(words)), tuple(row.texts(labels)))
        if len(sentence.words) != len(sentence.labels):
            raise RegardError(f"{row.place}: {len(sentence.words)} words, but {len(sentence.labels)} labels")
        if sentence.words:
            yield sentence


def cut_words(codec: Subwords, words: Sequence[str], longest: int) -> list[Piece]:
    """Token ids of a sentence with special tokens around them, in pieces of at most `longest` tokens.

    A single word that is longer loses its end.
    """
    encoding = codec.inner.encode(list(words), is_pretokenized=True, add_special_tokens=False)
    around = codec.encode("")  # as [CLS] [SEP]
    head, tail = around[:1], around[1:]
    room = longest - len(around)
    firsts = [
        place for place, word in enumerate(encoding.word_ids) if place == 0 or word != encoding.word_ids[place - 1]
    ]
    words_of = [-1 if word is None else word for word in encoding.word_ids]
    ends = [*firsts[1:], len(encoding.ids)]
    pieces, begin = [], 0
    while begin < len(firsts):
        end = begin + 1
        while end < len(firsts) and ends[end] - firsts[begin] <= room:
            end += 1
        cut = slice(firsts[begin], min(ends[end - 1], firsts[begin] + room))
        known = {place: words_of[place] for place in firsts[begin:end]}
        places = [known.get(place, -1) for place in range(cut.start, cut.stop)]
        pieces.append(Piece([*head, *encoding.ids[cut], *tail], [-1] * len(head) + places + [-1] * len(tail)))
        begin = end
    return pieces


def _read_columns(path: Path) -> Iterator[Sentence]:
    words: list[str] = []
    labels: list[str] = []
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t") if "\t" in line else line.split()
        if line.startswith("-DOCSTART-") or not line.strip():
            if words:
                yield Sentence(tuple(words), tuple(labels))
            words, labels = [], []
        elif len(columns) < 2:
            raise RegardError(f"{path}, line {number}: a word without a label ({line!r})")
        else:
            words.append(columns[0])
            labels.append(columns[-1].strip())
    if words:
        yield Sentence(tuple(words), tuple(labels))
