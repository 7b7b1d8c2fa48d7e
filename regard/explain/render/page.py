"""An explanation as one HTML page that needs nothing else: no network, no library, light or dark, wide or narrow.

Every number that depends on the head stands in a slot that names its place in the page's data, such as `weights/#/2`
(# is the head). So the page reads without any script, and page.js shows another head by filling the same slots anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from regard.explain.recurrence import Reading
from regard.explain.render.page_numbers import numbers_of
from regard.explain.render.page_parts import Slots, compact, table, word_label
from regard.explain.render.page_steps import sections
from regard.explain.render.result_page import section
from regard.explain.result import Result
from regard.explain.walkthrough import Walkthrough


def page(title: str, texts: Sequence[str], answers: Sequence[str], results: Sequence[Result]) -> str:
    """One page of several results. `title` is the model's name.

    The complete process for one query (one of them at most) can be played with; a recurrent layer shows its gates at
    each word and every value at one of them; all other results are drawn block by block.
    """
    data, kind, parts = None, " · ".join(dict.fromkeys(result.view for result in results)), []
    for result in results:
        if data is None and isinstance(result, Reading):
            data, kind = _numbers_of_reading(result), "Gates"
            parts.append(_reading(Slots(data, 0), result, result.text))
        elif data is None and isinstance(result, Walkthrough):
            data, kind = numbers_of(result), "Attention" if result.looking else "Self-attention"
            parts.append(sections(Slots(data, result.head), result, result.text))
        else:
            parts.append(section(result))
    style, script = _file("page.css"), _file("page.js")
    # The page may load nothing and run its own script only, whatever a text contains.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    packed = json.dumps(data or {}, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(texts[0])} · {escape(title)} · regard</title>
<style>{style}</style>
</head>
<body>
{_header(kind, title, texts, answers)}
<main>{"".join(parts)}</main>
<output id="tip" hidden></output>
<script type="application/json" id="data">{packed}</script>
<script>{script}</script>
</body>
</html>
"""


def _header(kind: str, title: str, texts: Sequence[str], answers: Sequence[str]) -> str:
    pairs = "".join(
        f"<div><dt><bdi>{escape(text)}</bdi></dt>"
        + (f"<dd>→ <bdi>{escape(answer)}</bdi></dd>" if answer else "<dd></dd>")  # an encoder alone answers nothing
        + "</div>"
        for text, answer in zip(texts, answers, strict=True)
    )
    return f"""<header>
<p class="eyebrow">{kind}, number by number · model <b>{escape(title)}</b></p>
<h1>What the model computes on <q><bdi>{escape(texts[0])}</bdi></q></h1>
<dl class="answers">{pairs}</dl>
<p class="legend"><span class="key signed" aria-hidden="true"></span> values: orange below zero, blue above
<span class="key share" aria-hidden="true"></span> weights: from 0 to 1
<span class="scripted">Point at a cell, or reach its strip with Tab and walk along it with the arrow keys, to read its
number. Point at a word to see it everywhere.</span></p>
</header>"""


def _reading(slots: Slots, reading: Reading, text: str) -> str:
    """A recurrent layer: how far each gate stands open at each word, and every value at the chosen one."""
    rows = [
        [word_label(reading.words, number), *(slots.cell(f"gates/{gate}/{number}") for gate in reading.gates)]
        for number in range(len(reading.words))
    ]
    gates = [name for name in reading.steps if name.endswith("_gate")]
    others = [name for name in reading.steps if name not in gates]
    close = reading.difference < 1e-4
    name = word_label(reading.words, reading.query)
    return f"""<section class="wide"><h2>How {reading.place} reads the text, word by word</h2>
<p class="lead">In <q><bdi>{escape(text)}</bdi></q>. A gate lets through a share of what comes: 0 shut, 1 open. Here the
mean of each gate over its units.</p>
{table(["word", *(gate.replace("_", " ") for gate in reading.gates)], rows, "Mean of each gate at each word", "heat")}
<h3>Every value at {name}</h3>
{slots.strips([(gate.replace("_", " "), f"steps/{gate}") for gate in gates], "Gates", 1.0)}
{"".join(slots.strips([(other.replace("_", " "), f"steps/{other}")]) for other in others)}
<p class="proof {"holds" if close else "fails"}"><b>{"✓" if close else "✗"} The proof.</b>
These steps and the model's own fast run differ by at most <b>{reading.difference:.1e}</b>.</p></section>"""


def _numbers_of_reading(reading: Reading) -> dict[str, Any]:
    """What the slots show; one head, as page.js expects."""
    found = reading.to_dict()
    steps = {name: value.flatten().tolist() for name, value in reading.steps.items()}
    numbers = {"gates": compact(found["gates"], 4), "steps": compact(steps, 4)}
    return {"view": found["view"], "head": 0, "weights": [[1]], **numbers}


def _file(name: str) -> str:
    return (files("regard.explain.render") / name).read_text(encoding="utf-8")
