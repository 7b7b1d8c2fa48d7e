"""Build a parallel corpus, English to French or German, from public Debian packages.

    python scripts/build_corpus.py fr --out corpus/

writes `en-fr.train.tsv`, `en-fr.valid.tsv`, `en-fr.test.tsv` (columns: source, target, origin, document) and
`en-fr.json`, which names every package used with its version and digest, the licences, the counts and the split rule.

Four origins: `ddtp` translated package descriptions, `lohelp` LibreOffice help, `manpages` manual pages, `gettext`
message catalogs; `corpus_origins.py` aligns each of them. Here is the way around that: fetch, clean, split, write.
Cleaning prefers losing a good pair to keeping a bad one. The split is by document (source package, help file, manual
page, catalog), never by line: neighbours in one text are near-duplicates.

Packages come through the machine's own apt client, with its state in a private folder (`--work`), so nothing gets
installed and root is not needed; what was fetched once is not fetched again. The same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from corpus_origins import PLACEHOLDER, Pair, catalog_pairs, description_pairs, help_pairs, manual_pairs

LANGUAGES = ("de", "fr")
PACKAGES = """
libreoffice-help-en-us libreoffice-help-{0} libreoffice-l10n-{0} manpages manpages-dev manpages-{0} manpages-{0}-dev
adduser apt aptitude-common audacity-data backintime-common bash binutils-common bison bsdutils cinnamon-l10n
claws-mail-i18n coreutils cups darktable debconf debconf-doc debhelper deluge-common devscripts diffutils dpkg dpkg-dev
evolution-common evolution-data-server-common filezilla-common findutils freeciv-data gajim gcc-12-locales gedit-common
geeqie-common gettext gimp-data git gnome-builder gnome-control-center-data gnome-software-common gnucash-common
gnumeric-common gnupg-l10n gramps grisbi-common grub-common hexchat-common homebank-data hugin-data inkscape kate5-data
kdenlive-data kmymoney-common krita-l10n libgimp2.0 libglib2.0-data libgtk-3-common libpq5 libsvn1 lyx-common make
mc-data mercurial-common minetest-data mount nano nautilus-data passwd phpmyadmin pidgin-data po4a postgresql-15
postgresql-client-15 procps rhythmbox-data rpm-common sed shotwell-common sudo sylpheed-i18n synaptic systemd tar
texinfo udev util-linux util-linux-locales virt-manager vlc-l10n wget wordpress-l10n
"""
LICENCES = {
    "ddtp": "licences of the described packages and of their translators (Debian Description Translation Project)",
    "lohelp": "MPL-2.0",
    "manpages": "GPL-3.0-or-later for the translations; the licence of each page for its text",
    "gettext": "the licence of each program, mostly GPL-2.0-or-later or LGPL; some BSD, MIT, MPL-2.0, AGPL",
}
SPLITS = ("train", "valid", "test")
SALT, TEST_SHARE, VALID_SHARE = "regard", 0.016, 0.010  # shares of the documents, not of the pairs
MOST_WORDS, HELD_OUT_WORDS = 60, 4
MOST_HELD_OUT = 200  # pairs of one document: a few large ones would be most of a score
SPLIT_RULE = (
    f"by document: the first 4 bytes of sha256('{SALT}:' + document) as a fraction of 2**32; test below {TEST_SHARE}, "
    f"valid below {TEST_SHARE + VALID_SHARE}, else train. Held out are pairs of {HELD_OUT_WORDS} or more English "
    f"words, at most {MOST_HELD_OUT} of a document. A pair is dropped from train when its English or its translation "
    "(case folded, digits masked, punctuation removed) occurs in valid or test, from valid when it occurs in test."
)


class CorpusError(Exception):
    """What stops the build, told in one line."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build a parallel corpus from public Debian packages.")
    parser.add_argument("language", help=f"the language to translate into: {' or '.join(LANGUAGES)}")
    parser.add_argument("--out", type=Path, default=Path("corpus"), help="folder for the corpus")
    parser.add_argument("--work", type=Path, help="folder for what apt fetches (OUT/packages)")
    options = parser.parse_args(arguments)
    try:
        build(options.language, options.out, options.work or options.out / "packages")
    except CorpusError as error:
        print(f"build_corpus: {error}", file=sys.stderr)
    except OSError as error:
        print(f"build_corpus: {error.filename or 'cannot go on'}: {error.strerror or error}", file=sys.stderr)
    else:
        return 0
    return 1


def build(language: str, out: Path, work: Path) -> None:
    if language not in LANGUAGES:
        raise CorpusError(f"unknown language {language!r}; known are {', '.join(LANGUAGES)}")
    out.mkdir(parents=True, exist_ok=True)
    apt = Apt(work)
    indexes = apt.update()
    packages = apt.download(PACKAGES.format(language).split())
    files = read_packages([package.file for package in packages], language)
    pairs = itertools.chain(
        description_pairs(indexes, language),
        help_pairs(files.help["en"], files.help[language]),
        manual_pairs(files.manual["en"], files.manual[language]),
        catalog_pairs(files.catalogs),
    )
    splits = split(one_translation_each(clean_pairs(pairs, language)))
    counts = {name: dict(Counter(pair.origin for pair in splits[name])) for name in SPLITS}
    manifest = {
        "languages": ["en", language],
        "counts": counts,
        "licences": LICENCES,
        "split": SPLIT_RULE,
        "packages": {package.name: {"version": package.version, "sha256": package.sha256} for package in packages},
        "indexes": {index.name.split("_dists_")[-1]: digest(index) for index in indexes},
    }
    for name in SPLITS:
        lines = ["\t".join(pair) for pair in [Pair._fields, *splits[name]]]
        write_aside(out / f"en-{language}.{name}.tsv", "\n".join(lines) + "\n")
        print(f"en-{language}.{name}.tsv: {len(splits[name])} pairs, {counts[name]}")
    write_aside(out / f"en-{language}.json", json.dumps(manifest, indent=2, sort_keys=True) + "\n")


# ---------------------------------------------------------------- packages


class Package(NamedTuple):
    name: str
    version: str
    sha256: str
    file: Path


class Apt:
    """The machine's apt client with its state in `folder`: reads the configured sources, changes nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        for name in ("state/lists/partial", "cache/archives/partial", "files"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        self.settings = (
            f"Dir::State={self.folder}/state",
            f"Dir::State::status={self.folder}/status",
            f"Dir::Cache={self.folder}/cache",
            f"Acquire::Languages=en,{','.join(LANGUAGES)}",
            "Acquire::GzipIndexes=false",
            "APT::Sandbox::User=root",
            "APT::Update::Error-Mode=any",
        )

    def update(self) -> list[Path]:
        self._run("apt-get", "update")
        indexes = (self.folder / "state" / "lists").iterdir()
        wanted = sorted(path for path in indexes if re.search(r"_(Packages|Translation-\w+)$", path.name))
        if not wanted:
            raise CorpusError("apt has no package index: is a Debian source configured?")
        return wanted

    def download(self, names: Iterable[str]) -> list[Package]:
        """Fetch the packages that this release of Debian has and that are not here yet."""
        known = set(self._run("apt-cache", "pkgnames").split())
        if unknown := sorted(set(names) - known):
            print(f"build_corpus: not in this release, left out: {', '.join(unknown)}", file=sys.stderr)
        uris = self._run("apt-get", "download", "--print-uris", *sorted(known.intersection(names)))
        packages = []
        for file, sha256 in re.findall(r"^'[^']*' (\S+) \d+ SHA256:(\w+)", uris, flags=re.MULTILINE):
            name, version, _ = file.replace("%3a", ":").split("_")
            packages.append(Package(name, version, sha256, self.folder / "files" / file))
        absent = [p.name for p in packages if not p.file.exists() or digest(p.file) != p.sha256]
        if absent:
            self._run("apt-get", "download", *absent, into="files")
        return sorted(packages)

    def _run(self, program: str, *arguments: str, into: str = ".") -> str:
        settings = [part for setting in self.settings for part in ("-o", setting)]
        command = [program, "-q", *settings, *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder / into, env=environment)
        except FileNotFoundError:
            raise CorpusError(f"{program} not found: this script needs a Debian system") from None
        if done.returncode:
            reasons = re.findall(r"^E: (.*)", done.stderr, flags=re.MULTILINE)
            raise CorpusError(f"{program} {arguments[0]} failed: {reasons[0] if reasons else 'no reason given'}")
        return done.stdout


class Files(NamedTuple):
    """Help files and manual pages by language and name; message catalogs with their domain."""

    help: dict[str, dict[str, str]]
    manual: dict[str, dict[str, str]]
    catalogs: list[tuple[str, bytes]]


def read_packages(paths: Iterable[Path], language: str) -> Files:
    regional = rf"{language}(?:_{language.upper()})?"
    wanted = re.compile(
        rf"/libreoffice/help/(?P<help_in>en|{language})(?:-US)?/text/(?P<help>.+)\.html$"
        rf"|/share/man/(?:(?P<manual_in>{language})(?:\.UTF-8)?/)?(?P<manual>man\d/.+)\.gz$"
        rf"|/{regional}/LC_MESSAGES/(?P<catalog>[^/]+)\.mo$|/(?P<other_catalog>[\w-]*?)-?{regional}\.mo$"
    )
    files = Files({"en": {}, language: {}}, {"en": {}, language: {}}, [])
    for path in paths:
        for match, content in package_files(path, wanted):
            if match["help"]:
                files.help[match["help_in"]].setdefault(match["help"], content.decode())
            elif match["manual"]:
                page = gzip.decompress(content).decode(errors="replace")
                files.manual[match["manual_in"] or "en"].setdefault(match["manual"], page)
            else:
                domain = match["catalog"] or match["other_catalog"] or path.name.split("_")[0]
                files.catalogs.append((re.sub(r"-[\d.]+$", "", domain), content))
    return files


def package_files(package: Path, wanted: re.Pattern[str]) -> Iterator[tuple[re.Match[str], bytes]]:
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for member in archive:
                match = wanted.search(member.name)
                content = archive.extractfile(member) if match and member.isfile() else None
                if match and content:
                    yield match, content.read()
    except FileNotFoundError:
        raise CorpusError("dpkg-deb not found: this script needs a Debian system") from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise CorpusError(f"{package.name} is damaged: {error}") from None


# ---------------------------------------------------------------- cleaning


UNWANTED = re.compile("\\\\|</\\w|\ufffd|\\w{60}| {2}|^[^\\w\"'“\u2018«„(\\[/.~<-]")
WORDS = {
    "en": "the of and to is this for with that are be from not by",
    "fr": "le la les de des du et un une est pour dans que sur avec ce cette ne pas par en au aux ou",
    "de": "der die das des dem den und ein eine ist für mit von zu nicht auf werden wird kann im in",
}


def clean_pairs(pairs: Iterable[Pair], language: str) -> Iterator[Pair]:
    for pair in pairs:
        source, target = cleaned(pair.source), cleaned(pair.target)
        if target.endswith(";") and not source.endswith(";"):  # a list item, in French typography
            target = target.rstrip("; \u00a0")
        if is_sound(source, target) and is_translated(source, target, language):
            yield pair._replace(source=source, target=target)


def cleaned(text: str) -> str:
    """One line of composed characters, single spaces, one kind of no-break space (some texts use U+22C5 for it)."""
    text = re.sub("[\u22c5\u202f]", "\u00a0", unicodedata.normalize("NFC", text))
    text = re.sub("[ \t\r\n\v\f\u2000-\u200a]+", " ", text)
    text = "".join(character for character in text if unicodedata.category(character) not in ("Cc", "Cf"))
    return re.sub(" +", " ", text).strip(" \u00a0")


def is_sound(source: str, target: str) -> bool:
    """Both texts are readable, and nothing countable says that they are not each other's translation."""
    lengths = [len(text.split()) for text in (source, target)]
    letters = [sum(map(str.isalpha, text)) for text in (source, target)]
    return (
        min(lengths) >= 1
        and max(lengths) <= MOST_WORDS
        and min(letters) >= 2
        and all(2 * count >= len(text) for count, text in zip(letters, (source, target), strict=True))
        and 0.5 <= (letters[0] + 6) / (letters[1] + 6) <= 2
        and (max(lengths) <= 4 or 0.5 <= lengths[0] / lengths[1] <= 2)
        and sorted(re.findall(r"\d", source)) == sorted(re.findall(r"\d", target))
        and sorted(PLACEHOLDER.findall(source)) == sorted(PLACEHOLDER.findall(target))
        and source.endswith(":") == target.endswith(":")
        and all(ord(character) < 0x250 for character in source + target if character.isalpha())
        and not UNWANTED.search(source)
        and not UNWANTED.search(target)
    )


def is_translated(source: str, target: str, language: str) -> bool:
    """The target is not copied from the source, nor English."""
    words = [re.findall(r"[^\W\d_]+", text.casefold()) for text in (source, target)]
    long_words = [word for word in words[1] if len(word) > 3]
    copied = sum(word in set(words[0]) for word in long_words)
    english, native = (sum(word in WORDS[code].split() for word in words[1]) for code in ("en", language))
    return (
        source.casefold() != target.casefold()
        and (len(long_words) < 3 or copied < 0.6 * len(long_words))
        and (english < 2 or english <= native)
    )


def one_translation_each(pairs: Iterable[Pair]) -> list[Pair]:
    """No English text twice: the translation that most places agree on stays, in the first of these places."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], Pair] = {}
    for pair in sorted(set(pairs)):
        votes[pair.source.casefold()][pair.target] += 1
        first.setdefault((pair.source.casefold(), pair.target), pair)
    return [first[source, min(count, key=lambda text: (-count[text], text))] for source, count in votes.items()]


# ---------------------------------------------------------------- split and files


def split(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Whole documents go to test, valid or train; then nothing held out is left in what is trained on."""
    splits: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    for pair in sorted(set(pairs)):
        name = split_of(pair.document)
        if name == "train" or len(pair.source.split()) >= HELD_OUT_WORDS:
            splits[name].append(pair)
    sources: set[str] = set()
    targets: set[str] = set()
    for name in reversed(SPLITS):
        kept = [p for p in splits[name] if masked(p.source) not in sources and masked(p.target) not in targets]
        sources.update(masked(pair.source) for pair in kept)
        targets.update(masked(pair.target) for pair in kept)
        splits[name] = kept if name == "train" else sampled(kept)
    return splits


def split_of(document: str) -> str:
    place = int.from_bytes(hashlib.sha256(f"{SALT}:{document}".encode()).digest()[:4]) / 2**32
    return "test" if place < TEST_SHARE else "valid" if place < TEST_SHARE + VALID_SHARE else "train"


def masked(text: str) -> str:
    return re.sub(r"[\W_]+", " ", re.sub(r"\d", "0", text.casefold())).strip()


def sampled(pairs: Iterable[Pair]) -> list[Pair]:
    """At most `MOST_HELD_OUT` pairs of each document, chosen by digest."""
    documents: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: hashlib.sha256(pair.source.encode()).digest()):
        documents[pair.document].append(pair)
    return sorted(pair for chosen in documents.values() for pair in chosen[:MOST_HELD_OUT])


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_aside(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
