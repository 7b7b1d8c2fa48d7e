"""The explorer in one file that asks nobody: the page, and the answers to all that it may be asked, computed before.

    >>> Path("python.html").write_text(kept_page(regard.load("en-fr"), ["Python executes quickly"], results))

What is kept is bounded: all heads and the process of the word and layer that were asked for come first, the process of
other words last, as long as there is room. The page says what it does not have. Weights of a long text are kept with
fewer digits, and it says so.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

import numpy as np

from regard.errors import RegardError
from regard.explain.render.result_page import section
from regard.explain.result import Result
from regard.explain.walkthrough import Walkthrough
from regard.pipelines.language_model import LanguageModel
from regard.pipelines.text_reader import TextReader
from regard.pipelines.text_to_text import TextToText
from regard.serve.direct import answer
from regard.serve.looks import plain, shown
from regard.serve.one_file import bundled
from regard.serve.shelf import Shelf
from regard.serve.traces import Traces

ROOM = 780_000
"""Most bytes of all that is kept: with the page, and what reads without a script, a file stays below 1 MB."""
_PLAIN = 60_000
"""Bytes of results that read without a script; the rest is in the page alone."""
_EXACT, _FINE = 30_000, 120_000
"""Weights that are kept as they are; and as 16 bits; more than that are kept as 8."""
_LONGEST_MAP = 256
"""Tokens up to which a map is kept weight by weight."""
_MOST_CONTEXTS = 400
"""Contexts up to which each head's are kept too: there is one a layer, head and word."""
_GOES_ON = 12
"""How far a language model's answer is followed, as on the page."""
_START = """
const { answering, opened } = modules["kept.js"];
opened(document.getElementById("kept").textContent).then((kept) => {
  modules["api.js"].use(answering(kept));
  modules["api.js"].page.kept = kept.told;
  modules["explorer.js"].explorer(document.getElementById("regard"));
});
"""


def can_keep(pipeline: Any) -> bool:
    """Whether the explorer has views of this model that a file can keep: it reads texts, with heads."""
    known = isinstance(pipeline, TextToText | LanguageModel | TextReader)
    return known and any("attention" in name for name, part in pipeline.model.named_modules() if hasattr(part, "heads"))


def kept_page(pipeline: Any, texts: Sequence[str], results: Sequence[Result] = ()) -> str:
    """The explorer of these texts as one file; `results` are what was asked of them, and what reads without script."""
    kept = _Kept(pipeline, texts, results)
    title = f"{texts[0]} · {pipeline.name} · regard"
    packed = base64.b64encode(zlib.compress(_json(kept.all()).encode("utf-8", "replace"), 9)).decode()
    style = files("regard.explain.render").joinpath("page.css").read_text(encoding="utf-8")
    parts, plain = [section(result) for result in results], f"<style>{style}</style>"
    for part in parts:
        plain += part if len(plain) + len(part) < _PLAIN else "<p>More of it needs JavaScript.</p>"
    body = f'<noscript>{plain}</noscript><script type="text/plain" id="kept">{packed}</script>'
    return bundled(("explorer.js", "kept.js"), _START, kept.state(), escape(title), body)


class _Kept:
    """Answers by what is asked, until there is no more room."""

    def __init__(self, pipeline: Any, texts: Sequence[str], results: Sequence[Result]) -> None:
        self.pipeline, self.texts, self.results = pipeline, list(texts), results
        self.shelf = Shelf((str(pipeline.name),), lambda _: pipeline)
        (self.name,) = self.shelf.volumes
        self.shelf.open(self.name)
        self.traces, self.answers, self.size = Traces(1 << 30), dict[str, Any](), 0
        self.processes: dict[str, list[str]] = {}
        self.bits = 32
        self.trace = self.keep("/api/trace")
        self.walk = next((one for one in results if isinstance(one, Walkthrough)), None)

    def all(self) -> dict[str, Any]:
        """Everything the page may ask, the most wanted first."""
        self.answers["/api/models{}"] = answer(self.shelf, self.traces, "/api/models", None)
        order = self._processes()
        found = self._heads()
        for one in order[:1]:
            self._process(*one)
        asked = [{name: shown(result)[name] for name in ("title", "blocks")} for result in self.results]
        self._take("/api/asked{}", _rounded(plain({"results": asked})))
        self._answers()
        for body in self._contexts():
            self.keep("/api/view/context", body, 0.6)
        self._maps(found)
        for one in order[1:]:
            if not self._process(*one):
                break
        command = f"regard explore {self.name}"
        processes = "; ".join(f"{where} ({' '.join(words)})" for where, words in self.processes.items())
        fine = {32: "", 16: " Weights are kept to 1/65,535.", 8: " Weights of this long text are kept to about 0.004.",
                4: " Weights of this long text in so many heads are kept to about 0.03."}  # fmt: skip
        told = {
            "": f"This page keeps what was computed and has no model in it: {command} has one.",
            "/api/process": "The process of this word in this layer is not in this page. It keeps that of "
            f"{processes}. {command} has all of them.",
            "/api/map": f"This head's map is not in this page: {command} has it.",
            "foot": "This page keeps what was computed, and asks nobody." + fine[self.bits],
        }
        return {"answers": self.answers, "told": told}

    def keep(self, path: str, body: dict[str, Any] | None = None, share: float = 1.0) -> Any:
        """Ask and keep the answer, or what is wrong; None where it would not fit into this share of the room."""
        name = f"{path}{_json(dict(sorted((body or {}).items())))}"
        if name in self.answers:
            return self.answers[name]
        try:
            found = answer(self.shelf, self.traces, path, {"model": self.name, "texts": self.texts, **(body or {})})
        except RegardError as error:
            found = {"error": str(error)}
        return self._take(name, _rounded(found), share)

    def _take(self, name: str, found: Any, share: float = 1.0) -> Any:
        size = _size(found)
        if self.size + size > share * ROOM:
            return None
        self.size += size
        self.answers[name] = found
        return found

    def state(self) -> str:
        """What the page begins with: what was asked for."""
        walk, chosen = self.walk, [("view", "questions")]
        if walk is not None:
            kind = {"cross_attention": "cross"}.get(walk.attention, walk.place.split(".")[0])
            first = self.trace["rows"][0]
            words = first["words"] if kind == "encoder" or "target" not in first else first["target"]
            word = next((number for number, word in enumerate(words) if walk.piece in word["places"]), 0)
            chosen = [
                ("layer", walk.place.split(".")[2]),
                ("head", str(walk.head)),
                ("kind", kind),
                ("word", str(word)),
            ]
        return urlencode([("model", self.name), *(("text", text) for text in self.texts), *chosen])

    def _heads(self) -> dict[str, Any]:
        """All heads at a glance, of every kind of attention."""
        kinds = self.trace["kinds"]
        found = {kind: answer(self.shelf, self.traces, "/api/heads", self._asking(kind=kind)) for kind in kinds}
        count = sum(int(np.prod(one["weights"]["shape"])) for one in found.values() if one["weights"])
        long = any(one["long"] for one in found.values())
        self.bits = 8 if long or count > _FINE else 16 if count > _EXACT else 32

        def coded(bits: int) -> dict[str, Any]:
            return {
                kind: _rounded(one | {"weights": one["weights"] and _coded(one["weights"], bits)})
                for kind, one in found.items()
            }

        kept = coded(self.bits)
        if _size(kept) > 0.6 * ROOM:
            self.bits, kept = 4, coded(4)
        for kind, one in kept.items():
            self._take(f'/api/heads{{"kind":{json.dumps(kind)}}}', one)
        return found

    def _maps(self, found: dict[str, Any]) -> None:
        """Of a text that is a map on the page every weight of a head, as long as there is room."""
        for kind in sorted(found, key=lambda kind: kind != self._processes()[0][0]):
            one = found[kind]
            if not one["long"] or max(one["tokens"]) > _LONGEST_MAP:
                continue
            for place in one["places"]:
                for head in range(self.trace["kinds"][kind]["heads"]):
                    body = self._asking(place=place, head=head, queries=(0, 1 << 20), keys=(0, 1 << 20))
                    whole = answer(self.shelf, self.traces, "/api/map", body | {"resolution": (256, 256)})
                    self._take(f"map/{place}/{head}", _coded(whole["mean"], 8), 0.9)

    def _asking(self, **more: Any) -> dict[str, Any]:
        return {"model": self.name, "texts": self.texts, **more}

    def _processes(self) -> list[tuple[str, int, int, str]]:
        """Kind, layer, token and word of every process: that which was asked for, its neighbours, then the rest."""
        row, every = self.trace["rows"][0], list[tuple[str, int, int, str]]()
        for kind, of in self.trace["kinds"].items():
            words = row["words"] if kind == "encoder" or "target" not in row else row["target"]
            for layer in range(len(of["places"])):
                every += [(kind, layer, w["places"][0 if kind == "encoder" else -1], w["text"]) for w in words]
        walk = self.walk
        if walk is None:
            return every
        kind = {"cross_attention": "cross"}.get(walk.attention, walk.place.split(".")[0])
        layer, piece = int(walk.place.split(".")[2]), walk.piece
        return sorted(every, key=lambda one: (one[0] != kind, (one[1] != layer) + (one[2] != piece), one[1] != layer))

    def _process(self, kind: str, layer: int, token: int, word: str) -> bool:
        found = self.keep("/api/process", {"layer": layer, "kind": kind, "query": token}) is not None
        if found:
            self.processes.setdefault(f"{kind} layer {layer}", []).append(word)
        return found

    def _answers(self) -> None:
        """How the answer came about, token by token, and what each layer would have said."""
        writes = {"tokens": _GOES_ON} if self.trace["kind"] == "language model" else {}
        found = self.keep("/api/answers", writes)
        if self.trace["kind"] == "translator":
            self.keep("/api/view/alignment")
        for at in range(len((found or {}).get("produced", ()))):
            if self.keep("/api/view/lens", {**writes, "query": found["first"] + at}, 0.5) is None:
                break

    def _contexts(self) -> Iterator[dict[str, Any]]:
        """Of every word that all texts share, each layer: the mean of all heads, then each head."""
        rows = [row["words"] for row in self.trace["rows"]]
        if len(rows) < 2:
            return
        names = [{word["text"].lower() for word in row} for row in rows]
        queries = [{"query": word["text"]} if word["number"] is not None and all(word["text"].lower() in name
                   for name in names) else {} for word in rows[0]]  # fmt: skip
        kinds = self.trace["kinds"].values()
        layers, heads = max(len(one["places"]) for one in kinds), max(one["heads"] for one in kinds)
        every = range(heads if layers * heads * len(queries) <= _MOST_CONTEXTS else 0)
        for head in ({}, *({"head": number} for number in every)):
            for layer in range(layers):
                yield from ({"layer": layer, **head, **query} for query in queries)


def _coded(packed: dict[str, Any], bits: int) -> dict[str, Any]:
    """Weights with fewer digits: 16 bits evenly, 8 and 4 finer near zero (their square roots evenly, in bytes)."""
    if bits == 32:
        return packed
    values = np.frombuffer(base64.b64decode(packed["float32"]), "<f4").clip(0, 1)
    steps = 2**bits - 1
    coded = np.rint(values * steps) if bits == 16 else np.rint(np.sqrt(values) * steps) * (255 // steps)
    name, kind = ("uint16", "<u2") if bits == 16 else ("uint8", "u1")
    return {"shape": packed["shape"], name: base64.b64encode(coded.astype(kind).tobytes()).decode()}


def _size(value: Any) -> int:
    """Bytes that an answer takes in the file."""
    return 4 * len(zlib.compress(_json(value).encode("utf-8", "replace"))) // 3


def _rounded(value: Any) -> Any:
    """The same with five digits a number."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
