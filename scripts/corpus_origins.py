"""Aligned text, English and a translation, out of four formats: the first step of `build_corpus.py`.

* `description_pairs`: Debian package descriptions, by the digest of the English text, then paragraph;
* `help_pairs`: LibreOffice help, by the paragraph ids in its HTML;
* `manual_pairs`: manual pages, section by section, where both have the same sequence of roff macros;
* `catalog_pairs`: compiled gettext catalogs, which hold the English text beside the translation.

Paragraphs with equally many sentences are cut into sentences, the others stay whole. Nothing is cleaned here.
"""

from __future__ import annotations

import html
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Pair(NamedTuple):
    source: str
    target: str
    origin: str
    document: str


Block = tuple[str, str]  # what kind of paragraph, and its text


def description_pairs(indexes: list[Path], language: str) -> Iterator[Pair]:
    """Package descriptions by the digest of the English text; the document is a family of source packages."""
    sources: dict[str, str] = {}
    texts: dict[str, dict[str, tuple[str, str]]] = {"en": {}, language: {}}
    for index in indexes:
        for stanza in index.read_text(encoding="utf-8").split("\n\n"):
            fields = dict(re.findall(r"^([\w-]+):[ ]?(.*(?:\n .*)*)", stanza, flags=re.MULTILINE))
            package = str(fields.get("Package"))
            if index.name.endswith("_Packages"):
                sources[package] = str(fields.get("Source", package)).split(" ")[0]
            for code, known in texts.items():
                if text := fields.get(f"Description-{code}"):
                    known.setdefault(fields["Description-md5"], (package, text))
    for key in texts[language].keys() & texts["en"].keys():
        package, text = texts[language][key]
        document = family(sources.get(package, package))
        for pair in aligned_blocks(description_blocks(texts["en"][key][1]), description_blocks(text)):
            yield Pair(*pair, "ddtp", document)


def family(package: str) -> str:
    """`gcc-12-doc` and `gcc-defaults` are one document, because their descriptions repeat each other: `gcc`."""
    match = re.match(r"[a-z]{2,}|[a-z]-[a-z]+", package)
    return match[0] if match else package


def description_blocks(text: str) -> list[Block]:
    """The short description, then paragraphs and list items; lines set apart by spaces stay unaligned."""
    first, *lines = text.split("\n")
    blocks, going_on = [("title", first)], ""
    for line in lines:
        bullet = re.match("\\s+[-*+o·•\u2013]+\\s+", line)
        if line.strip() == ".":
            going_on = ""
        elif bullet:
            blocks.append(("item", line[bullet.end() :]))
            going_on = "item"
        elif line.startswith("  ") and going_on != "item":
            blocks.append(("verbatim", ""))
            going_on = ""
        elif not going_on:
            blocks.append(("paragraph", line))
            going_on = "paragraph"
        else:
            blocks[-1] = (blocks[-1][0], f"{blocks[-1][1]} {line.strip()}")
    return blocks


def help_pairs(english: dict[str, str], translated: dict[str, str]) -> Iterator[Pair]:
    for page in english.keys() & translated.keys():
        source, target = help_paragraphs(english[page]), help_paragraphs(translated[page])
        for key in source.keys() & target.keys():
            for pair in aligned_sentences(source[key], target[key]):
                yield Pair(*pair, "lohelp", page)


def help_paragraphs(page: str) -> dict[str, str]:
    """The text of each heading and paragraph that has an id; the other wording for macOS is left out."""
    paragraphs: dict[str, str] = {}
    for _, key, content in re.findall(r'<(p|h\d) id="([^"]+)"[^>]*>(.*?)</\1>', page, flags=re.DOTALL):
        content = re.sub(r'class="MAC">.*?(?=<span [^>]*id="default)', ">", content, flags=re.DOTALL)
        paragraphs.setdefault(key, html.unescape(re.sub(r"<[^>]*>", "", content.replace("<br>", " "))))
    return paragraphs


def manual_pairs(english: dict[str, str], translated: dict[str, str]) -> Iterator[Pair]:
    """Section by section, because a translation ends with one about the translators."""
    for page in english.keys() & translated.keys():
        for sections in zip(manual_sections(english[page]), manual_sections(translated[page]), strict=False):
            for pair in aligned_blocks(*sections):
                yield Pair(*pair, "manpages", page)


def manual_sections(page: str) -> list[list[Block]]:
    """The sections of a page in the man macros as (macro, title) and (kind, text) blocks; of other pages nothing."""
    sections: list[list[Block]] = []
    if re.search(r"^\.(Dd|Sh)\b", page, flags=re.MULTILINE):
        return sections
    for line in ROFF_SKIPPED.sub(".skipped", page).splitlines():
        is_macro = line[:1] in (".", "'")
        macro, _, rest = line[1:].strip().partition(" ") if is_macro else ("", "", line)
        if macro == "SH":
            sections.append([])
        if not sections or (is_macro and (not macro or macro.startswith('\\"'))):
            continue
        blocks = sections[-1]
        if macro in ROFF_FONTS or not is_macro:
            text = roff_text(roff_arguments(rest, ROFF_FONTS[macro]) if is_macro else rest)
            kind, before = blocks[-1]
            if kind == "text" or (kind, before) in UNTITLED:
                blocks[-1] = (kind, f"{before} {text}".strip())
            elif text.strip():
                blocks.append(("text", text))
        else:
            blocks.append((macro, roff_text(roff_arguments(rest, " ")) if macro in ("SH", "SS") else ""))
    return sections


UNTITLED = [("TP", ""), ("TQ", ""), ("SH", ""), ("SS", "")]  # the title or tag of these is on the next line
ROFF_FONTS = {"B": " ", "I": " ", "SM": " ", "SB": " ", "BR": "", "BI": "", "IB": "", "IR": "", "RB": "", "RI": ""}
ROFF_SKIPPED = re.compile(  # code, tables, definitions
    "|".join(
        rf"^[.'] *{opening}\b.*?(?:^\. *{closing}[^\n]*|\Z)"
        for opening, closing in zip("nf EX TS de ig EQ SY".split(), r"fi EE TE \. \. EN YS".split(), strict=True)  # noqa: SIM905
    ),
    flags=re.MULTILINE | re.DOTALL,
)
ROFF_CHARACTERS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "\u2018", "cq": "\u2019", "Fo": "«", "Fc": "»", "em": "—",
    "en": "\u2013", "hy": "-", "bu": "•", "co": "©", "rg": "®", "ti": "~", "ha": "^", "ga": "`", "mu": "\u00d7",
    "de": "°", "->": "→", "<-": "←", "ss": "ß", "Eu": "€", "<=": "≤", ">=": "≥", "!=": "≠", "+-": "±", "sl": "/",
    "at": "@", "-": "-", " ": " ", "~": "\u00a0", "0": " ", "'": "\u00b4", "`": "`",
}  # fmt: skip


def roff_arguments(text: str, joint: str) -> str:
    arguments = re.findall(r'"((?:[^"]|"")*)"?(?:\s+|$)|((?:\\ |\S)+)', text)
    return joint.join(quoted.replace('""', '"') or plain for quoted, plain in arguments)


def roff_text(text: str) -> str:
    """Plain text; an escape not known here stays a backslash, and that gets the pair dropped."""
    text = re.sub(r'\s*\\".*|\\f(?:\[\w*\]|\(..|.)|\\[&/,|^:%c]|\\s[-+]?\d', "", text)
    text = re.sub(r"\\\[u([0-9A-F]{4})\]", lambda match: chr(int(match[1], 16)), text)
    return re.sub(r"\\(?:\((..)|\[(..)\]|([- ~0'`]))", lambda m: ROFF_CHARACTERS.get(m[1] or m[2] or m[3], "\\"), text)


def catalog_pairs(catalogs: Iterable[tuple[str, bytes]]) -> Iterator[Pair]:
    for domain, content in catalogs:
        for message, translation in catalog_messages(content):
            for source, target in zip(message.split("\0"), translation.split("\0"), strict=False):  # singular, plural
                if PLACEHOLDER.search(source + target) or "|" in source or source.startswith("/_"):
                    continue
                paragraphs = [[("", part) for part in re.split(r"\n\s*\n", text)] for text in (source, target)]
                for one, other in aligned_blocks(*paragraphs):
                    yield Pair(without_markup(one), without_markup(other), "gettext", domain)


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
    charset = re.search(rb"charset=([\w-]+)", next((text for key, text in entries if not key), b""))
    try:
        encoding = charset[1].decode() if charset else "utf-8"
        return [(key.decode().split("\4")[-1], text.decode(encoding)) for key, text in entries if key]
    except (UnicodeDecodeError, LookupError):
        return []


def without_markup(text: str) -> str:
    """Tags, entities, accelerator keys (`_File`, `&File`, `~File`) and list marks removed."""
    text = re.sub(r"</?[A-Za-z][^<>]*>", "", text)
    text = re.sub(r"&(?=\w)(?!\w+;)|~(?=\w)", "", html.unescape(text) if re.search(r"&#?\w+;", text) else text)
    if len(re.findall(r"_(?=\w)", text)) == 1 and len(text.split()) <= 8:
        text = re.sub(r"_(?=\w)", "", text)
    return re.sub(r"^\s*[-*•]\s+", "", text)


# ---------------------------------------------------------------- alignment


def aligned_blocks(source: list[Block], target: list[Block]) -> Iterator[tuple[str, str]]:
    """The sentences of two sequences of blocks, if they are of the same kinds."""
    if [kind for kind, _ in source] == [kind for kind, _ in target]:
        for (_, one), (_, other) in zip(source, target, strict=True):
            yield from aligned_sentences(one, other)


def aligned_sentences(one: str, other: str) -> Iterator[tuple[str, str]]:
    pieces = sentences(one), sentences(other)
    if len(pieces[0]) == len(pieces[1]):
        yield from zip(*pieces, strict=True)
    else:
        yield one, other


def sentences(text: str) -> list[str]:
    text = " ".join(re.split(r"[ \t\r\n]+", text.strip()))
    pieces, start = [], 0
    for end in SENTENCE_END.finditer(text):
        before = text[start : end.end()].rstrip()
        if not ABBREVIATION.search(before):
            pieces.append(before)
            start = end.end()
    return [*pieces, text[start:]]


SENTENCE_END = re.compile(
    "(?<=[.!?…])([\"'”\u2019)\\]]|[\\s\u00a0]?»)?\\s+(?=[\"'“\u2018«„(\\[]?[\\s\u00a0]?[A-ZÀ-Þ0-9])"
)
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|resp|approx|z\.\s?B|d\.\s?h|u\.\s?a|o\.\s?ä|usw|bzw|ca|vgl|Nr|p\.\s?ex|ex|par ex|"
    r"c\.-à-d|Dr|Mr|Mrs|St|no|fig|Abb|evtl|ggf|sog|inkl|max|min|incl)|\b\w)\.$"
)
PLACEHOLDER = re.compile(
    r"%\d*\$?[-+#0]*\d*(?:\.\d+)?(?:hh?|ll?|z|j|I64)?[A-Za-z](?![A-Za-z]{2})|%\(\w*\)|%[<{\[]|%\d|%%|\$[({]?\w|\{\w*\}|"
    r"\{\{|@\w+@|#\w+#|\$\$|\[%|%\.\*|~%|%[A-Z]{2}|\[/?[a-z]+\]|PRODUCTNAME"
)
