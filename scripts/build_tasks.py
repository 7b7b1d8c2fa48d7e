"""Make data for tasks that labels are rarely free for: labels of words, spans, pairs, and texts that belong together.

    python scripts/build_texts.py --out corpus     # first: the halves are made from its Reuters texts
    python scripts/build_tasks.py --out corpus

writes, each as `NAME.train`, `NAME.valid`, `NAME.test`:

- `greek` (TSV: `text`, `label`): verses of the New Testament in Greek (SBLGNT) and the part of speech of each word,
  from bible-alignments. Mark is the test part, every 40th verse of the other books the valid part.
- `dates` (JSONL: `question`, `text`, `label`): what Babel writes in 28 languages, a date, a time of day and a sum of
  money in any order, and a question for one part of it, whose answer is a span. Made, not collected: dates are drawn.
- `rhymes` (TSV: `text`, `other`, `label`): two words, letter by letter, and whether they rhyme by CMUdict: alike from
  the stressed vowel on, and not before it. Half of those that do not rhyme end in the same two letters. Words of one
  part of CMUdict's fixed split make no pair of another part.
- `halves` (TSV: `text`, `second`): first and second half of a Reuters text.

and `tasks.json` with packages, digests, licences and counts. Versions and digests are pinned; what is drawn follows
from a fixed seed.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import build_bible
from build_texts import SPLITS, fetch

from regard.data.sources import Pair, read_cmudict

BABEL = "babel==2.17.0"
BABEL_DIGEST = "4d0b53093fdfb4b21c92b5213dba5a1b23885afa8383709427046b21c366e5f2"
LICENCES = {
    "greek": "SBLGNT: CC BY 4.0; labels: CC BY 4.0; see the package bible-alignments",
    "dates": "written by Babel (BSD-3-Clause) from Unicode's CLDR",
    "rhymes": "CMUdict: BSD-2-Clause",
    "halves": "Reuters-21578, for research only",
}
LANGUAGES = "bg ca cs da de el en es et fi fr hr hu id it lt lv nb nl pl pt ro ru sk sl sv tr uk"
DATES = {"train": 20_000, "valid": 500, "test": 2_000}
RHYMES = {"train": 60_000, "valid": 1_000, "test": 4_000}
FIELDS = {"greek": ("text", "label"), "rhymes": ("text", "other", "label"), "halves": ("text", "second")}

Row = tuple[str, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make data for labels of words, spans, pairs and embeddings.")
    parser.add_argument("--out", type=Path, default=Path("corpus"), help="folder for the texts")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    words = read_cmudict()
    with tempfile.TemporaryDirectory() as work:
        bible = fetch(build_bible.PACKAGE, build_bible.DIGEST, Path(work))
        made: dict[str, dict[str, list[Any]]] = {
            "greek": greek(bible),
            "dates": dates(fetch(BABEL, BABEL_DIGEST, Path(work)), Path(work)),
            "rhymes": {name: list(rhymes(words[name], RHYMES[name], name)) for name in SPLITS},
            "halves": {name: list(halves(options.out / f"reuters.{name}.tsv")) for name in SPLITS},
        }
    for name, parts in made.items():
        for split, rows in parts.items():
            write(options.out, name, split, rows)
        print(f"{name}: { {split: len(rows) for split, rows in parts.items()} }")
    packages = {build_bible.PACKAGE: build_bible.DIGEST, BABEL: BABEL_DIGEST}
    counts = {name: {split: len(rows) for split, rows in parts.items()} for name, parts in made.items()}
    facts = {"packages": packages, "licences": LICENCES, "counts": counts}
    (options.out / "tasks.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0


def write(folder: Path, name: str, split: str, rows: list[Any]) -> None:
    ending = "tsv" if name in FIELDS else "jsonl"
    lines = ["\t".join(row) for row in [FIELDS[name], *rows]] if name in FIELDS else [json.dumps(row) for row in rows]
    (folder / f"{name}.{split}.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def greek(package: Path) -> dict[str, list[Row]]:
    """Words and their parts of speech, verse by verse."""
    with zipfile.ZipFile(package) as archive:
        table = archive.read(build_bible.GREEK).decode("utf-8-sig")
    verses: dict[str, list[tuple[str, str]]] = {}
    for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["pos"] and row["text"].strip() and " " not in row["text"].strip():
            verses.setdefault(row["id"][1:9], []).append((row["text"].strip(), row["pos"].strip().replace(" ", "-")))
    found: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for number, (verse, words) in enumerate(verses.items()):
        text, labels = (" ".join(side) for side in zip(*words, strict=True))
        split = "test" if verse.startswith(build_bible.MARK) else "train" if number % 40 else "valid"
        found[split].append((text, labels))
    return found


def dates(package: Path, folder: Path) -> dict[str, list[dict[str, str]]]:
    """Questions about what Babel writes; the same sentence stands in one part only."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder / "babel")
    sys.path.insert(0, str(folder / "babel"))
    from babel import dates as written
    from babel import numbers

    chance, seen, parts = random.Random(1), set(), {}
    for name in SPLITS[::-1]:
        rows: list[dict[str, str]] = []
        while len(rows) < DATES[name]:
            row = question(chance, written, numbers)
            if row["text"] not in seen and row["text"].count(row["label"]) == 1:
                seen.add(row["text"])
                rows.append(row)
        parts[name] = rows
    return {name: parts[name] for name in SPLITS}


def question(chance: random.Random, written: Any, numbers: Any) -> dict[str, str]:
    """One of five questions. A form of a word that the sentence has not is sorted out by `dates`."""
    language = chance.choice(LANGUAGES.split())
    day = datetime.date.fromordinal(chance.randrange(693_596, 767_010))  # 1900 to 2100
    clock = written.format_time(datetime.time(chance.randrange(24), chance.randrange(60)), "HH:mm", locale=language)
    currency, sum_of = (
        chance.choice(("EUR", "USD", "JPY", "GBP")),
        chance.randrange(1, 100_000) / chance.choice((1, 100)),
    )
    money = numbers.format_currency(sum_of, currency, locale=language)
    told = [written.format_date(day, "full", locale=language), clock, money]
    chance.shuffle(told)
    asked: dict[str, Callable[[], str]] = {
        "year": lambda: str(day.year),
        "month": lambda: str(written.format_date(day, "MMMM", locale=language)),
        "weekday": lambda: str(written.format_date(day, "EEEE", locale=language)),
        "time": lambda: str(clock),
        "sum": lambda: str(money),
    }
    kind = chance.choice(list(asked))
    return {"question": f"which {kind}?", "text": " · ".join(told), "label": asked[kind]()}


def rhymes(pairs: list[Pair], count: int, seed: str) -> Iterator[Row]:
    """Pairs of words, as many that rhyme as do not."""
    chance = random.Random(seed)
    words = {one.source: one.targets[0].split() for one in pairs if one.source.isalpha() and 3 <= len(one.source) <= 9}
    ends: dict[tuple[str, ...], list[str]] = {}
    spelled: dict[str, list[str]] = {}
    for word, sounds in words.items():
        ends.setdefault(rhyme(sounds), []).append(word)
        spelled.setdefault(word[-2:], []).append(word)
    together = [group for group in ends.values() if len(group) > 1]
    weights, every = [len(group) for group in together], list(words)
    made = 0
    while made < count:
        wanted = made % 2 == 0
        if wanted:
            one, other = chance.sample(chance.choices(together, weights)[0], 2)
        else:
            one = chance.choice(every)
            other = chance.choice(spelled[one[-2:]] if made % 4 == 1 else every)
        if (rhyme(words[one]) == rhyme(words[other])) == wanted and before(words[one]) != before(words[other]):
            made += 1
            yield " ".join(one), " ".join(other), "rhyme" if wanted else "none"


def rhyme(sounds: list[str]) -> tuple[str, ...]:
    """The sounds from the vowel with the main stress on, stress not counted."""
    return tuple(sound.rstrip("012") for sound in sounds[stressed(sounds) :])


def before(sounds: list[str]) -> str:
    """The sound before that vowel."""
    place = stressed(sounds)
    return sounds[place - 1] if place else ""


def stressed(sounds: list[str]) -> int:
    vowels = [place for place, sound in enumerate(sounds) if sound[-1].isdigit()]
    return next((place for place in vowels[::-1] if sounds[place][-1] == "1"), vowels[-1] if vowels else 0)


def halves(path: Path) -> Iterator[Row]:
    """First and second half, of texts of 20 words or more."""
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        words = line.split("\t")[0].split()
        if len(words) >= 20:
            middle = len(words) // 2
            yield " ".join(words[:middle]), " ".join(words[middle:])


if __name__ == "__main__":
    raise SystemExit(main())
