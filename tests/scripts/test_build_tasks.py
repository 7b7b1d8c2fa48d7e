# ruff: noqa: RUF001 (Greek is Greek)
"""The data of the recipes: what is made has the labels it should have, by hand-made small inputs."""

import random
import sys
import zipfile
from pathlib import Path

import pytest

from regard.data.sources import Pair

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import build_bible
import build_tasks as build


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("K AE1 T", "HH AE1 T", True),
        ("IH0 N S IH1 S T", "P ER0 S IH1 S T", True),
        ("K AO1 F", "DH OW1", False),
        ("R EH1 K ER0 D", "R IH0 K AO1 R D", False),
    ],
)
def test_a_rhyme_is_all_from_the_stressed_vowel_on(one, other, alike):
    assert (build.rhyme(one.split()) == build.rhyme(other.split())) == alike


def test_half_of_the_pairs_rhyme_and_none_of_them_begins_its_rhyme_alike():
    sounds = {
        "cat": "K AE1 T",
        "hat": "HH AE1 T",
        "dog": "D AO1 G",
        "fog": "F AO1 G",
        "what": "W AH1 T",
        "nut": "N AH1 T",
    }
    pairs = [Pair(word, (spoken,)) for word, spoken in sounds.items()]
    rows = list(build.rhymes(pairs, 40, "train"))
    assert rows == list(build.rhymes(pairs, 40, "train"))
    for one, other, label in rows:
        first, second = (sounds[word.replace(" ", "")].split() for word in (one, other))
        assert (build.rhyme(first) == build.rhyme(second)) == (label == "rhyme")
        assert build.before(first) != build.before(second)
    assert [label for _, _, label in rows].count("rhyme") == 20


def test_each_greek_word_has_its_part_of_speech(tmp_path):
    rows = ["id\ttext\tpos", "n40001001001\tΒίβλος\tnoun", "n40001001002\tκαὶ\tconj", "n41001001001\tἈρχὴ\tnoun"]
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr(build_bible.GREEK, "\n".join([*rows, "n41001001002\t\tnoun"]))
    parts = build.greek(tmp_path / "x.whl")
    assert parts == {"train": [], "valid": [("Βίβλος καὶ", "noun conj")], "test": [("Ἀρχὴ", "noun")]}


def test_halves_are_of_one_text_and_short_ones_are_left_out(tmp_path):
    words = [f"w{number}" for number in range(21)]
    (tmp_path / "x.tsv").write_text(f"text\tlabel\n{' '.join(words)}\ta\ntoo short\tb\n")
    assert list(build.halves(tmp_path / "x.tsv")) == [(" ".join(words[:10]), " ".join(words[10:]))]


def test_the_answers_of_dates_are_what_babel_writes():
    dates, numbers = pytest.importorskip("babel.dates"), pytest.importorskip("babel.numbers")
    chance = random.Random(1)
    rows = [build.question(chance, dates, numbers) for _ in range(200)]
    assert {row["question"] for row in rows} == {f"which {one}?" for one in ("year", "month", "weekday", "time", "sum")}
    assert sum(row["text"].count(row["label"]) == 1 for row in rows) > 150
