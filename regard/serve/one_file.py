"""The explorer's page as one text: the same modules and styles, put one after the other. For notebooks,
and for files that keep their answers.

A module becomes a function that returns what it exports; imports become what was returned. That is all the modules use
of each other, so nothing else of JavaScript has to be understood.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
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
    return bundled(("explorer.js",), _START, state)


def bundled(modules: Sequence[str], start: str, state: str, title: str = "regard", body: str = "") -> str:
    """A page of these modules and what they import, run by `start`; it may load nothing and run nothing else.

    `title` and `body` are HTML.
    """
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

    for name in modules:
        add(name)
    given = json.dumps(state).replace("<", "\\u003c")
    # No module writes an end tag of scripts; tests/serve/test_notebook.py would notice.
    script = f"globalThis.REGARD_STATE = {given};\nconst modules = {{}};\n" + "".join(parts) + start
    allowed = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src 'sha256-{allowed}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><style>{styles}</style></head>'
        f'<body><div id="regard"></div>{body}<script type="module">{script}</script></body></html>\n'
    )
