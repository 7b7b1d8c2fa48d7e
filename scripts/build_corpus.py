"""Build a parallel corpus, English to French or German, from public Debian packages.

    python scripts/build_corpus.py fr --out corpus/

writes `en-fr.train.tsv`, `en-fr.valid.tsv`, `en-fr.test.tsv` (columns: source, target, origin, document) and
`en-fr.json`, which names every package used with its version and digest, the licences, the counts and the split rule.

Four origins, each aligned by what its format offers:

* `ddtp`: translated package descriptions from apt's Translation-* indexes, paired by description digest, then
  paragraph;
* `lohelp`: LibreOffice help, paired by the paragraph ids in its HTML;
* `manpages`: translated manual pages, paired where both pages have the same sequence of roff macros;
* `gettext`: compiled message catalogs, which hold the English text beside the translation.

Paragraphs with equally many sentences are cut into sentences; the others stay whole. Cleaning prefers losing a good
pair to keeping a bad one (`cleaned`, `acceptable`). The split is by document, never by line: neighbours in one text
are near-duplicates.

Packages come through the machine's own apt client, with its state kept in a private folder (`--work`), so that
neither root nor an installed package is needed; what was fetched once is not fetched again. The same packages give
the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import html
import itertools
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple, cast

LANGUAGES = ("de", "fr")
LICENCES = {
    "ddtp": "licences of the described packages and of their translators (Debian Description Translation Project)",
    "lohelp": "MPL-2.0",
    "manpages": "GPL-3.0-or-later for the translations; the licence of each page for its text",
    "gettext": "the licence of each program, mostly GPL-2.0-or-later or LGPL; some BSD, MIT, MPL-2.0, AGPL",
}
COMMON_PACKAGES = """
    libreoffice-help-en-us manpages manpages-dev
    adduser apt aptitude-common audacity-data backintime-common bash binutils-common bison bsdutils cinnamon-l10n
    claws-mail-i18n coreutils cups darktable debconf debconf-doc debhelper deluge-common devscripts diffutils dpkg
    dpkg-dev evolution-common evolution-data-server-common filezilla-common findutils freeciv-data gajim
    gcc-12-locales gedit-common geeqie-common gettext gimp-data git gnome-builder gnome-control-center-data
    gnome-software-common gnucash-common gnumeric-common gnupg-l10n gramps grisbi-common grub-common hexchat-common
    homebank-data hugin-data inkscape kate5-data kdenlive-data kmymoney-common krita-l10n libgimp2.0
    libglib2.0-data libgtk-3-common libpq5 libsvn1 lyx-common make mc-data mercurial-common minetest-data mount nano
    nautilus-data passwd phpmyadmin pidgin-data po4a postgresql-15 postgresql-client-15 procps rhythmbox-data
    rpm-common sed shotwell-common sudo sylpheed-i18n synaptic systemd tar texinfo udev util-linux
    util-linux-locales virt-manager vlc-l10n wget wordpress-l10n
""".split()
LANGUAGE_PACKAGES = ("libreoffice-help-{}", "libreoffice-l10n-{}", "manpages-{}", "manpages-{}-dev")
TEST_SHARE, VALID_SHARE = 0.016, 0.010
"""Shares of the documents, not of the pairs: a document is held out when its digest falls in that range."""
SPLIT_SALT = "regard"
SPLITS = ("train", "valid", "test")
HELD_OUT_WORDS = 4
HELD_OUT_MOST = 250
"""Pairs held out of one document: more of it would be scoring that document alone; the others are left out."""
MOST_WORDS = 60


class CorpusError(Exception):
    """What stops the build, told in one line."""


class Pair(NamedTuple):
    source: str
    target: str
    origin: str
    document: str


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
        print(f"build_corpus: {error.filename or 'cannot write'}: {error.strerror}", file=sys.stderr)
    else:
        return 0
    return 1


def build(language: str, out: Path, work: Path) -> None:
    if language not in LANGUAGES:
        raise CorpusError(f"unknown language {language!r}; there are {', '.join(LANGUAGES)}")
    out.mkdir(parents=True, exist_ok=True)
    apt = Apt(work)
    indexes = apt.update()
    packages = apt.download([*COMMON_PACKAGES, *(name.format(language) for name in LANGUAGE_PACKAGES)])
    files = PackageFiles(language)
    for package in packages.values():
        files.add(package["file"])
    pairs = itertools.chain(
        description_pairs(indexes, language),
        help_pairs(files.help["en"], files.help[language]),
        manual_pairs(files.manual["en"], files.manual[language]),
        catalog_pairs(files.catalogs),
    )
    splits = split(one_translation_each(clean_pairs(pairs, language)))
    manifest = {
        "languages": ["en", language],
        "counts": {name: dict(Counter(pair.origin for pair in splits[name])) for name in SPLITS},
        "licences": LICENCES,
        "split": f"by document: the first 4 bytes of sha256('{SPLIT_SALT}:' + document) as a fraction of 2**32; "
        f"test below {TEST_SHARE}, valid below {TEST_SHARE + VALID_SHARE}, else train. Held out: "
        f"{HELD_OUT_WORDS} or more words in English. A pair is dropped from train when its English or its "
        "translation (case folded, digits masked, punctuation removed) occurs in valid or test, and from valid "
        "when it occurs in test.",
        "packages": {name: {key: package[key] for key in ("version", "sha256")} for name, package in packages.items()},
        "indexes": {index.name.split("_dists_")[-1]: digest(index) for index in indexes},
    }
    for name in SPLITS:
        lines = ["\t".join(Pair._fields), *("\t".join(pair) for pair in splits[name])]
        write_aside(out / f"en-{language}.{name}.tsv", "\n".join(lines) + "\n")
    write_aside(out / f"en-{language}.json", json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    for name in SPLITS:
        print(f"en-{language}.{name}.tsv: {len(splits[name])} pairs {manifest['counts'][name]}")


# ---------------------------------------------------------------- packages


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
            "Acquire::Languages=en,fr,de",
            "Acquire::GzipIndexes=false",
            "APT::Sandbox::User=root",
        )

    def update(self) -> list[Path]:
        self._run("apt-get", "update")
        lists = self.folder / "state" / "lists"
        indexes = [path for path in lists.iterdir() if re.search(r"_(Packages|Translation-\w+)$", path.name)]
        return sorted(indexes, key=lambda path: path.name)

    def download(self, names: Iterable[str]) -> dict[str, dict]:
        """Fetch the packages that this release of Debian has; version, sha256 and file of each."""
        known = set(self._run("apt-cache", "pkgnames").split())
        wanted = sorted(set(names))
        for name in (name for name in wanted if name not in known):
            print(f"build_corpus: no package {name} in this release, going on without it", file=sys.stderr)
        found = {}
        files = self.folder / "files"
        for line in self._run("apt-get", "download", "--print-uris", *(n for n in wanted if n in known)).splitlines():
            match = re.match(r"'[^']*' (\S+) \d+ SHA256:(\w+)", line)
            if match:
                name, version = html.unescape(match[1]).replace("%3a", ":").split("_")[:2]
                found[name] = {"version": version, "sha256": match[2], "file": files / match[1]}
        missing = [name for name, package in found.items() if not _is_intact(package)]
        if missing:
            self._run("apt-get", "download", *missing, folder=files)
        return found

    def _run(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        settings = itertools.chain.from_iterable(("-o", setting) for setting in self.settings)
        try:
            done = subprocess.run(
                [program, "-q", *settings, *arguments],
                capture_output=True,
                text=True,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        except FileNotFoundError:
            raise CorpusError(f"{program} not found: this script needs a Debian system with apt") from None
        if done.returncode:
            reason = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
            raise CorpusError(f"{program} {arguments[0]} failed: {reason[0].removeprefix('E: ')}")
        return done.stdout


def _is_intact(package: dict) -> bool:
    return package["file"].exists() and digest(package["file"]) == package["sha256"]


class PackageFiles:
    """The help files, manual pages and message catalogs out of packages, by language and name."""

    def __init__(self, language: str) -> None:
        self.help: dict[str, dict[str, str]] = {"en": {}, language: {}}
        self.manual: dict[str, dict[str, str]] = {"en": {}, language: {}}
        self.catalogs: list[tuple[str, bytes]] = []
        self._help = re.compile(rf"/libreoffice/help/(en|{language})(?:-US)?/text/(.+)\.html$")
        self._manual = re.compile(rf"/share/man/(?:({language})(?:\.UTF-8)?/)?(man\d/.+)\.gz$")
        regional = rf"{language}(?:_{language.upper()})?"
        self._catalog = re.compile(rf"/{regional}/LC_MESSAGES/([^/]+)\.mo$|/([\w-]*?)-?{regional}\.mo$")

    def add(self, package: Path) -> None:
        try:
            command = ["dpkg-deb", "--fsys-tarfile", str(package)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except FileNotFoundError:
            raise CorpusError("dpkg-deb not found: this script needs a Debian system with dpkg") from None
        try:
            with process, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile():
                        self._add_file(package.name.split("_")[0], member.name, archive.extractfile(member))
        except (tarfile.TarError, EOFError) as error:
            raise CorpusError(f"{package.name} is damaged: {error}") from None

    def _add_file(self, package: str, path: str, content) -> None:
        if match := self._help.search(path):
            self.help[match[1]].setdefault(match[2], content.read().decode())
        elif match := self._manual.search(path):
            page = gzip.decompress(content.read()).decode("utf-8", errors="replace")
            self.manual[match[1] or "en"].setdefault(match[2], page)
        elif match := self._catalog.search(path):
            domain = re.sub(r"-[\d.]+$", "", match[1] or match[2] or package)
            self.catalogs.append((domain, content.read()))


# ---------------------------------------------------------------- origins


def description_pairs(indexes: list[Path], language: str) -> Iterator[Pair]:
    """Package descriptions, by the digest of the English text; the document is a family of source packages."""
    sources: dict[str, str] = {}
    texts: dict[str, dict[str, tuple[str, str]]] = {"en": {}, language: {}}
    for index in indexes:
        for fields in stanzas(index.read_text(encoding="utf-8")):
            package = fields["Package"]
            if index.name.endswith("_Packages"):
                sources[package] = fields.get("Source", package).split()[0]
            for code, known in texts.items():
                if text := fields.get(f"Description-{code}"):
                    known.setdefault(fields["Description-md5"], (package, text))
    for key, (package, text) in texts[language].items():
        if key in texts["en"]:
            document = family(sources.get(package, package))
            for source, target in aligned(description_blocks(texts["en"][key][1]), description_blocks(text)):
                yield Pair(source, target, "ddtp", document)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each stanza in Debian's control format."""
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+):[ ]?(.*(?:\n .*)*)", stanza, flags=re.MULTILINE))
        if "Package" in fields:
            yield fields


def family(package: str) -> str:
    """`gcc-12-doc` and `gcc-defaults` are one document, because their descriptions repeat each other: `gcc`."""
    match = re.match(r"[a-z]{2,}|[a-z]-[a-z]+", package)
    return match[0] if match else package


def description_blocks(text: str) -> list[tuple[str, str]]:
    """The short description, then paragraphs and list items; lines set apart by spaces stay unaligned."""
    first, *lines = text.split("\n")
    blocks = [("title", first)]
    kind = "paragraph"
    for line in lines:
        bullet = re.match(r"\s+[*+o·•–-]+\s+", line)
        if line.strip() == ".":
            kind = "paragraph"
        elif bullet:
            kind = "continued item"
            blocks.append(("item", line[bullet.end() :]))
        elif line.startswith("  ") and kind != "continued item":
            blocks.append(("verbatim", ""))
            kind = "paragraph"
        elif kind == "paragraph":
            kind = "continued"
            blocks.append(("paragraph", line))
        else:
            blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]} {line.strip()}")
    return blocks


def help_pairs(english: dict[str, str], translated: dict[str, str]) -> Iterator[Pair]:
    for page in sorted(english.keys() & translated.keys()):
        source, target = (HelpParagraphs.of(pages[page]) for pages in (english, translated))
        for key in source.keys() & target.keys():
            for pair in aligned([("paragraph", source[key])], [("paragraph", target[key])]):
                yield Pair(*pair, "lohelp", page)


class HelpParagraphs(HTMLParser):
    """The text of each heading and paragraph that has an id; alternatives for macOS are left out."""

    @classmethod
    def of(cls, page: str) -> dict[str, str]:
        parser = cls()
        parser.feed(page)
        parser.close()
        return {key: "".join(parts) for key, parts in parser.paragraphs.items()}

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: dict[str, list[str]] = {}
        self._key = ""
        self._spans: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "p" or re.fullmatch(r"h\d", tag):
            self._key = attributes.get("id") or ""
            self._spans = []
            if self._key in self.paragraphs:  # the same text embedded once more
                self._key = ""
        elif tag == "span":
            self._spans.append(attributes.get("class") == "MAC")
        elif tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" or re.fullmatch(r"h\d", tag):
            self._key = ""
        elif tag == "span" and self._spans:
            self._spans.pop()

    def handle_data(self, data: str) -> None:
        if self._key and not any(self._spans):
            self.paragraphs.setdefault(self._key, []).append(data)


def manual_pairs(english: dict[str, str], translated: dict[str, str]) -> Iterator[Pair]:
    """Section by section, because the translation ends with one about the translators."""
    for page in sorted(english.keys() & translated.keys()):
        for source, target in zip(manual_sections(english[page]), manual_sections(translated[page]), strict=False):
            for pair in aligned(source, target):
                yield Pair(*pair, "manpages", page)


def manual_sections(page: str) -> list[list[tuple[str, str]]]:
    """Sections of (macro, text) blocks of a page in the man macros; pages in other macros give none."""
    sections: list[list[tuple[str, str]]] = []
    skipping_to: str | None = None
    pending = ""
    for line in page.splitlines():
        macro, _, rest = line[1:].strip().partition(" ") if line[:1] in (".", "'") else ("", "", line)
        if skipping_to is not None:
            if re.fullmatch(skipping_to, macro if line[:1] == "." else ""):
                skipping_to = None
        elif macro in ("Dd", "Sh"):
            return []
        elif macro in ROFF_SKIPPED:
            skipping_to = ROFF_SKIPPED[macro]
            if sections:
                sections[-1].append((macro, ""))
                pending = "after"
        elif macro in ("SH", "SS"):
            if macro == "SH":
                sections.append([])
            if sections:
                sections[-1].append((macro, roff_text(roff_arguments(rest, " "))))
                pending = "title" if not rest.strip() else "after"
        elif not sections or line.startswith(('.\\"', "'\\\"")) or line == ".":
            continue
        elif not macro or macro in ROFF_FONTS:
            text = roff_text(roff_arguments(rest, ROFF_FONTS[macro]) if macro else rest)
            if pending == "after":
                sections[-1].append(("text", text))
            else:
                kind, before = sections[-1][-1]
                sections[-1][-1] = (kind, f"{before} {text}")
            pending = {"tag": "after", "title": "after"}.get(pending, "") if text.strip() else pending
        else:
            sections[-1].append((macro, ""))
            pending = "tag" if macro in ("TP", "TQ") else "" if macro in ("PP", "P", "LP", "IP", "HP") else "after"
    return sections


ROFF_SKIPPED = {"nf": "fi", "EX": "EE", "TS": "TE", "de": r"\.", "ig": r"\.", "EQ": "EN", "SY": "YS"}
"""Code, tables, definitions: the macro that opens each, and the one that closes it."""
ROFF_FONTS = dict.fromkeys(("B", "I", "SM", "SB"), " ") | dict.fromkeys(("BR", "BI", "IB", "IR", "RB", "RI"), "")
ROFF_CHARACTERS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "Fo": "«", "Fc": "»", "em": "—", "en": "–",
    "hy": "-", "bu": "•", "co": "©", "rg": "®", "ti": "~", "ha": "^", "ga": "`", "rs": "\0", "mu": "×", "de": "°",
    "->": "→", "<-": "←", "ss": "ß", "Eu": "€", "<=": "≤", ">=": "≥", "!=": "≠", "+-": "±", "sl": "/", "at": "@",
}  # fmt: skip


def roff_arguments(text: str, joint: str) -> str:
    return joint.join(quoted.replace('""', '"') or plain for quoted, plain in ROFF_ARGUMENT.findall(text))


ROFF_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?(?:\s+|$)|((?:\\ |\S)+)')


def roff_text(text: str) -> str:
    """Plain text; a backslash is left in it only by an escape not known here, which gets the pair dropped."""
    text = re.sub(r'\s*\\".*', "", text)
    text = re.sub(r"\\f(?:\[\w*\]|\(..|.)|\\[&/,|^:%c]|\\s[-+]?\d", "", text)
    text = text.replace("\\-", "-").replace("\\ ", " ").replace("\\~", "\u00a0").replace("\\0", " ")
    text = text.replace("\\(aq", "'").replace("\\'", "´").replace("\\`", "`")
    text = re.sub(r"\\(?:\((..)|\[(..)\])", lambda m: ROFF_CHARACTERS.get(m[1] or m[2], "\\?"), text)
    text = re.sub(r"\\\[u([0-9A-F]{4})\]", lambda m: chr(int(m[1], 16)), text)
    return text.replace("\\e", "\0").replace("\\\\", "\0")


def catalog_pairs(catalogs: Iterable[tuple[str, bytes]]) -> Iterator[Pair]:
    for domain, content in catalogs:
        for message, translation in catalog_messages(content):
            for source, target in zip(message.split("\0"), translation.split("\0"), strict=False):
                if PLACEHOLDER.search(source + target) or "|" in source or source.startswith("/_"):
                    continue
                parts = [[("", part) for part in re.split(r"\n\s*\n", text)] for text in (source, target)]
                for pair in aligned(*parts):
                    yield Pair(*(without_markup(text) for text in pair), "gettext", domain)


def catalog_messages(content: bytes) -> list[tuple[str, str]]:
    """English and translation from a compiled message catalog (.mo), contexts removed."""
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(content[:4])
    if order is None:
        return []
    count, *tables = struct.unpack_from(order + "3I", content, 8)
    entries = []
    for row in range(count):
        places = (struct.unpack_from(order + "2I", content, table + 8 * row) for table in tables)
        entries.append([content[start : start + length] for length, start in places])
    header = next((text for key, text in entries if not key), b"")
    charset = re.search(rb"charset=([\w-]+)", header)
    try:
        encoding = charset[1].decode() if charset else "utf-8"
        return [(key.decode().split("\4")[-1], text.decode(encoding)) for key, text in entries if key]
    except (UnicodeDecodeError, LookupError):
        return []


def without_markup(text: str) -> str:
    """Tags, entities, accelerator keys (`_File`, `&File`, `~File`) and list marks removed."""
    text = re.sub(r"</?[A-Za-z][^<>]*>", "", text)
    text = re.sub(r"&(?=\w)(?!\w+;)", "", html.unescape(text) if re.search(r"&#?\w+;", text) else text)
    if len(re.findall(r"(?<!\w)_(?=\w)|(?<=\w)_(?=\w)", text)) == 1 and len(text.split()) <= 8:
        text = re.sub(r"_(?=\w)", "", text)
    text = re.sub(r"~(?=\w)", "", text)
    return re.sub(r"^\s*[-*•]\s+", "", text)


# ---------------------------------------------------------------- alignment and cleaning


def aligned(source: list[tuple[str, str]], target: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Texts of two equal sequences of (kind, text) blocks, sentence by sentence where the counts agree."""
    if [kind for kind, _ in source] != [kind for kind, _ in target]:
        return
    for (_, one), (_, other) in zip(source, target, strict=True):
        pieces = sentences(one), sentences(other)
        if len(pieces[0]) == len(pieces[1]):
            yield from zip(*pieces, strict=True)
        else:
            yield one, other


SENTENCE_END = re.compile(r"""(?<=[.!?…])(["'”’)\]]|[\s\u00a0]?»)?\s+(?=["'“‘«„(\[]?[\s\u00a0]?[A-ZÀ-Þ0-9])""")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|resp|approx|z\.\s?B|d\.\s?h|u\.\s?a|o\.\s?ä|usw|bzw|ca|vgl|Nr|p\.\s?ex|ex|par ex|"
    r"c\.-à-d|Dr|Mr|Mrs|St|no|fig|Abb|evtl|ggf|sog|inkl|max|min|incl)|\b\w)\.$"
)


def sentences(text: str) -> list[str]:
    text = " ".join(re.split(r"[ \t\r\n]+", text.strip()))
    pieces, start = [], 0
    for end in SENTENCE_END.finditer(text):
        before = text[start : end.end()].rstrip()
        if not ABBREVIATION.search(before):
            pieces.append(before)
            start = end.end()
    return [*pieces, text[start:]]


PLACEHOLDER = re.compile(
    r"%\d*\$?[-+#0]*\d*(?:\.\d+)?(?:hh?|ll?|z|j|I64)?[A-Za-z](?![A-Za-z]{2})|%\(\w*\)|%[<{\[]|%\d|%%|\$[({]?\w|\{\w*\}|\{\{|"
    r"@\w+@|#\w+#|\$\$|\[%|%\.\*|~%|%[A-Z]{2}|\[/?[a-z]+\]|PRODUCTNAME"
)
ENGLISH_WORDS = frozenset("the of and to is this for with that are be from not by".split())
NATIVE_WORDS = {
    "fr": frozenset("le la les de des du et un une est pour dans que sur avec ce cette ne pas par en au aux ou".split()),
    "de": frozenset("der die das des dem den und ein eine ist für mit von zu nicht auf werden wird kann im in".split()),
}


def clean_pairs(pairs: Iterable[Pair], language: str) -> Iterator[Pair]:
    for pair in pairs:
        source, target = cleaned(pair.source), cleaned(pair.target)
        if target.endswith(";") and not source.endswith(";"):  # a list item, in French typography
            target = target.rstrip("; \u00a0")
        if acceptable(source, target, language):
            yield pair._replace(source=source, target=target)


def cleaned(text: str) -> str:
    """One line of composed characters, single spaces, one kind of no-break space."""
    text = re.sub("[\u22c5\u202f]", "\u00a0", unicodedata.normalize("NFC", text)).replace("\0", "\\")
    text = "".join(" " if c in "\t\r\n\v\f" else c for c in text if unicodedata.category(c) not in ("Cc", "Cf") or c in "\t\r\n\v\f")
    return re.sub(r"[ \u2000-\u200a]+", " ", text).strip(" \u00a0")


def acceptable(source: str, target: str, language: str) -> bool:
    lengths = [len(text.split()) for text in (source, target)]
    words = [re.findall(r"[^\W\d_]+", text.casefold()) for text in (source, target)]
    letters = [sum(map(str.isalpha, text)) for text in (source, target)]
    english, native = (sum(word in known for word in words[1]) for known in (ENGLISH_WORDS, NATIVE_WORDS[language]))
    long_words = [word for word in words[1] if len(word) > 3]
    shared = sum(word in set(words[0]) for word in long_words)
    return (
        1 <= min(lengths)
        and max(lengths) <= MOST_WORDS
        and all(2 * count >= len(text) and count >= 2 for count, text in zip(letters, (source, target), strict=True))
        and sorted(re.findall(r"\d", source)) == sorted(re.findall(r"\d", target))
        and 0.5 <= (letters[0] + 6) / (letters[1] + 6) <= 2
        and (max(lengths) <= 4 or 0.5 <= lengths[0] / lengths[1] <= 2)
        and source.casefold() != target.casefold()
        and (len(long_words) < 3 or shared < 0.6 * len(long_words))
        and (english < 2 or english <= native)
        and all(ord(character) < 0x250 for character in source + target if character.isalpha())
        and sorted(PLACEHOLDER.findall(source)) == sorted(PLACEHOLDER.findall(target))
        and not re.search(r"\\|</\w|\ufffd|\w{60}| {2}|^[^\w\"'“‘«„(\[/.~<-]", source + target)
        and (source[-1] == ":") == (target[-1] == ":")
    )


def one_translation_each(pairs: Iterable[Pair]) -> list[Pair]:
    """No English text twice: the translation that most places agree on stays, in the first of these places."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], Pair] = {}
    for pair in sorted(set(pairs)):
        votes[pair.source.casefold()][pair.target] += 1
        first.setdefault((pair.source.casefold(), pair.target), pair)
    return [first[source, min(count, key=lambda text: (-count[text], text))] for source, count in votes.items()]


# ---------------------------------------------------------------- split


def split(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Whole documents go to test, valid or train; then nothing held out is left in what is trained on."""
    splits: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    for pair in sorted(set(pairs)):
        name = split_of(pair.document)
        if name == "train" or len(pair.source.split()) >= HELD_OUT_WORDS:
            splits[name].append(pair)
    held_out: tuple[set[str], set[str]] = set(), set()
    for name in reversed(SPLITS):
        splits[name] = [p for p in splits[name] if masked(p.source) not in held_out[0] and masked(p.target) not in held_out[1]]
        held_out[0].update(masked(pair.source) for pair in splits[name])
        held_out[1].update(masked(pair.target) for pair in splits[name])
    return splits | {name: sampled(splits[name]) for name in ("valid", "test")}


def sampled(pairs: list[Pair]) -> list[Pair]:
    """At most `HELD_OUT_MOST` pairs of a document, chosen by digest."""
    documents: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: hashlib.sha256(pair.source.encode()).digest()):
        documents[pair.document].append(pair)
    return sorted(pair for chosen in documents.values() for pair in chosen[:HELD_OUT_MOST])


def split_of(document: str) -> str:
    place = int.from_bytes(hashlib.sha256(f"{SPLIT_SALT}:{document}".encode()).digest()[:4]) / 2**32
    return "test" if place < TEST_SHARE else "valid" if place < TEST_SHARE + VALID_SHARE else "train"


def masked(text: str) -> str:
    return re.sub(r"[\W_]+", " ", re.sub(r"\d", "0", text.casefold())).strip()


# ---------------------------------------------------------------- files


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_aside(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


if __name__ == "__main__":
    sys.exit(main())
