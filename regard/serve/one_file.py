"""The explorer's page as one text: the same modules and styles, put one after the other. For notebooks.

A module becomes a function that returns what it exports; imports become what was returned. That is all the modules use
of each other, so nothing else of JavaScript has to be understood.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files

_IMPORT = re.compile(r'^import \{ (.+?) \} from "\./(\w+\.js)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|const) (\w+)", re.MULTILINE)
_START = """
const waiting = new Map();
modules["api.js"].use((path, body) => new Promise((done, fail) => {
  const regard = String(Math.random());
  waiting.set(regard, [done, fail]);
  parent.postMessage({ regard, path, body: body || null }, "*");
}));
addEventListener("message", ({ source, data }) => {
  if (source !== parent || !data || !waiting.has(data.regard)) return;
  const [done, fail] = waiting.get(data.regard);
  waiting.delete(data.regard);
  if (data.error) fail(new Error(data.error)); else done(data.answer);
});
modules["explorer.js"].explorer(document.getElementById("regard"));
"""


def one_file(state: str = "") -> str:
    """A page that asks whoever holds it by messages. `state` is what else would stand behind the # of its address."""
    page = files("regard.serve").joinpath("page")
    styles = "".join((page / name).read_text(encoding="utf-8") for name in ("style.css", "views.css"))
    texts = {one.name: one.read_text(encoding="utf-8") for one in page.iterdir() if one.name.endswith(".js")}
    parts: list[str] = []
    done: set[str] = {"main.js"}

    def add(name: str) -> None:
        if name in done:
            return
        done.add(name)
        for _, other in _IMPORT.findall(texts[name]):
            add(other)
        inner = _IMPORT.sub(lambda found: f'const {{ {found[1]} }} = modules["{found[2]}"];', texts[name])
        names = ", ".join(_EXPORT.findall(texts[name]))
        inner = re.sub(r"^export ", "", inner, flags=re.MULTILINE)
        parts.append(f'modules["{name}"] = (() => {{\n{inner}\nreturn {{ {names} }};\n}})();\n')

    add("explorer.js")
    given = json.dumps(state).replace("<", "\\u003c")
    # No module writes an end tag of scripts; tests/serve/test_notebook.py would notice.
    script = f"globalThis.REGARD_STATE = {given};\nconst modules = {{}};\n" + "".join(parts) + _START
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>regard</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{styles}</style></head><body><div id="regard"></div>'
        f'<script type="module">{script}</script></body></html>'
    )
