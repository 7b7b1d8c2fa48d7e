"""The API's reference as one plain page, from its OpenAPI description; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any


def reference(api: dict[str, Any]) -> str:
    """Every path with what it takes and answers."""
    parts = []
    for path, methods in api["paths"].items():
        for method, one in methods.items():
            parts.append(_operation(path, method, one, api))
    title = f"{escape(api['info']['title'])} {escape(api['info']['version'])}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title}: reference</title>
<link rel="stylesheet" href="/page/style.css"></head>
<body class="reference"><main><h1>{title}</h1><p>{escape(api["info"]["description"])}</p>
<p><a href="/openapi.json">openapi.json</a> · <a href="/">the explorer</a></p>{"".join(parts)}</main></body></html>"""


def _operation(path: str, method: str, one: dict[str, Any], api: dict[str, Any]) -> str:
    content = one.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    fields = api["components"]["schemas"].get(name, {})
    needed = fields.get("required", [])
    rows = "".join(
        f"<tr><th scope=row><code>{escape(field)}</code>{'' if field not in needed else ' *'}</th>"
        f"<td><code>{escape(_kind(about))}</code></td><td>{escape(about.get('description', ''))}</td></tr>"
        for field, about in fields.get("properties", {}).items()
    )
    table = f"<table><thead><tr><th>field</th><th>kind</th><th></th></tr></thead><tbody>{rows}</tbody></table>"
    codes = ", ".join(sorted(one.get("responses", {})))
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(one.get('description', ''))}</p>"
        f"{table if rows else ''}<p class=muted>Answers: {codes}</p></section>"
    )


def _kind(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(_kind(one) for one in about["anyOf"])
    if "enum" in about or "const" in about:
        return " | ".join(json.dumps(one) for one in about.get("enum", [about.get("const")]))
    inner = f" of {_kind(about['items'])}" if about.get("type") == "array" and "items" in about else ""
    return f"{about.get('type', 'any')}{inner}"
