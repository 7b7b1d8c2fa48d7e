# ruff: noqa: RUF001 (Greek is Greek)
"""The Greek-English corpus from made-up files of the same formats."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from build_bible import split, verses, write

GREEK = """id\taltId\ttext\tstrongs
n40001001001\tx\tΛόγος\tG1
n40001001002\tx\t,\t
n40001001003\tx\tἦν⸃\tG2
n41001001001\tx\tἈρχὴ\tG3
n41001002001\tx\tκαὶ\tG4
"""
ENGLISH = """id\tsource_verse\ttext\tskip_space_after\texclude
40001001001\t40001001\tthere\t\t
40001001002\t40001001\twas\t\t
40001001003\t40001001\t,\t\ty
40001001004\t40001001\tword\t\t
41001001001\t41001001\tBeginning\t\t
41001002001\t41001002\tand\t\t
"""
RECORDS = [
    {"source": ["n40001001001"], "target": ["40001001004"]},
    {"source": ["n40001001003"], "target": ["40001001001", "40001001002", "40001001003"]},
    {"source": ["n41001001001"], "target": ["41001001001"]},
    {"source": [], "target": ["41001002001"]},
]


@pytest.fixture
def found():
    return list(verses(GREEK, ENGLISH, json.dumps({"records": RECORDS})))


def test_words_are_counted_without_punctuation(found):
    first, second = found  # the verse without a link is left out
    assert first.source == ["Λόγος", "ἦν"]
    assert first.target == ["there", "was", "word"]
    assert first.links == [(0, 2), (1, 0), (1, 1)]
    assert second == ("41001001", ["Ἀρχὴ"], ["Beginning"], [(0, 0)])


def test_mark_is_the_test_part(found, tmp_path):
    parts = split(found)
    assert [verse.number for verse in parts["test"]] == ["41001001"]
    assert [verse.number for verse in parts["valid"]] == ["40001001"]
    assert parts["train"] == []
    write(parts["valid"], tmp_path, "valid")
    assert (tmp_path / "bible.valid.tsv").read_text(encoding="utf-8") == "source\ttarget\nΛόγος ἦν\tthere was word\n"
    assert (tmp_path / "bible.valid.links").read_text(encoding="utf-8") == "0-2 1-0 1-1\n"
