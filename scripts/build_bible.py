"""Make a Greek-English corpus with manual word links from a public package; nothing is installed.

    python scripts/build_bible.py --out corpus/

writes `bible.train.tsv`, `bible.valid.tsv` and `bible.test.tsv` (columns `source`, Greek, and `target`, English: the
New Testament in the editions SBLGNT and BSB) and beside each its links, `bible.test.links` and so on: a line a verse,
`0-0 1-2`, words of the source and of the target counted from 0 between blanks. Mark is the test part, every 40th verse
of the other books the valid part; verses without a link are left out. A word is a token with a letter in it:
punctuation is dropped on both sides. `bible.json` names package, digest and counts. Version and digest are pinned.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from build_texts import fetch

PACKAGE = "bible-alignments==0.4.2"
DIGEST = "84f6b15e706657777824aac811567cb5cb2b38ad2b94497209f5f3c3f67b0984"
GREEK, ENGLISH = "data/sources/SBLGNT.tsv", "data/eng/targets/BSB/nt_BSB.tsv"
LINKS = "data/eng/alignments/BSB/SBLGNT-BSB-manual.json"
MARK = "41"
_VALID_EVERY = 40


class Verse(NamedTuple):
    number: str
    """Book, chapter and verse: 41001001."""
    source: list[str]
    target: list[str]
    links: list[tuple[int, int]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make a Greek-English corpus with manual word links.")
    parser.add_argument("--out", type=Path, default=Path("corpus"), help="folder for the texts")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        package = fetch(PACKAGE, DIGEST, Path(work))
        with zipfile.ZipFile(package) as archive:
            greek, english, links = (archive.read(name).decode("utf-8-sig") for name in (GREEK, ENGLISH, LINKS))
    parts = split(list(verses(greek, english, links)))
    for name, part in parts.items():
        write(part, options.out, name)
        print(f"{name}: {len(part)} verses, {sum(len(verse.links) for verse in part)} links")
    facts = {"package": {PACKAGE: DIGEST}, "counts": {name: len(part) for name, part in parts.items()}}
    (options.out / "bible.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0


def verses(greek: str, english: str, links: str) -> Iterator[Verse]:
    """The verses that have links, in order."""
    sources = _words(greek, lambda row: row["id"][1:9])
    targets = _words(english, lambda row: row["source_verse"])
    linked: dict[str, set[tuple[int, int]]] = {}
    for record in json.loads(links)["records"]:
        verse = record["source"][0][1:9] if record["source"] else ""
        places = [sources.get(verse, {}).get(one) for one in record["source"]]
        others = [targets.get(verse, {}).get(one) for one in record["target"]]
        pairs = {(a, b) for a in places for b in others if a is not None and b is not None}
        linked.setdefault(verse, set()).update((a[0], b[0]) for a, b in pairs)
    for verse in sorted(linked):
        if linked[verse]:
            words = [text for _, text in sources[verse].values()], [text for _, text in targets[verse].values()]
            yield Verse(verse, *words, sorted(linked[verse]))


def split(found: list[Verse]) -> dict[str, list[Verse]]:
    """Mark apart, and every so many verses of the others."""
    others = [verse for verse in found if not verse.number.startswith(MARK)]
    return {
        "train": [verse for number, verse in enumerate(others) if number % _VALID_EVERY],
        "valid": others[::_VALID_EVERY],
        "test": [verse for verse in found if verse.number.startswith(MARK)],
    }


def write(part: list[Verse], folder: Path, name: str) -> None:
    lines = ["source\ttarget", *(" ".join(verse.source) + "\t" + " ".join(verse.target) for verse in part)]
    (folder / f"bible.{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    links = [" ".join(f"{a}-{b}" for a, b in verse.links) for verse in part]
    (folder / f"bible.{name}.links").write_text("\n".join(links) + "\n", encoding="utf-8")


def _words(table: str, verse_of: Callable[[dict[str, str]], str]) -> dict[str, dict[str, tuple[int, str]]]:
    """By verse, for each token its number among the words and its text; punctuation has none."""
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for row in csv.DictReader(table.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        text = unicodedata.normalize("NFC", row["text"]).strip().strip("[]⸀⸁⸂⸃⸄⸅()")
        words = found.setdefault(verse_of(row), {})
        if any(letter.isalnum() for letter in text) and " " not in text:
            words[row["id"]] = len(words), text
    return found


if __name__ == "__main__":
    raise SystemExit(main())
