"""`regard serve` and `regard explore`: models over HTTP, and the page on which one looks into them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def serve(
    models: Annotated[list[str], typer.Argument(help="Models of the package, of the hub, or folders.")],
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine needs a token and --origin.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8700,
    token_file: Annotated[
        Optional[Path], typer.Option(help="A file with the token that clients must send. Or set REGARD_TOKEN.")  # noqa: UP045
    ] = None,
    origin: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A site whose pages may ask, such as https://example.org, or none; can be given again."),
    ] = None,
    body: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 1 << 20,
    length: Annotated[int, typer.Option(min=1, help="Most characters of a text.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Longest wait for an answer.")] = 60.0,
    memory: Annotated[int, typer.Option(min=1, help="MiB of traces that are kept.")] = 1024,
    waiting: Annotated[int, typer.Option(min=1, help="Most requests that wait.")] = 512,
    a_client: Annotated[int, typer.Option(min=1, help="Most requests of one client at a time.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Most texts answered together.")] = 64,
) -> None:
    """Answer over HTTP: run, trace and look, OpenAI's completions and embeddings, and the explorer's page.

    Example: regard serve en-fr g2p --port 8700
    """
    from regard.serve.server import run
    from regard.serve.settings import Settings

    settings = Settings(
        models=tuple(models),
        host=host,
        port=port,
        token=_token(token_file),
        origins=tuple(origin or ()),
        body=body,
        length=length,
        seconds=seconds,
        memory=memory << 20,
        waiting=waiting,
        a_client=a_client,
        batch=batch,
    )
    run(settings, lambda address: print(f"listening on {address} (stop with Ctrl+C)", file=sys.stderr))


def explore(
    models: Annotated[Optional[list[str]], typer.Argument(metavar="[MODEL...]", help="Default: en-fr.")] = None,  # noqa: UP045
    text: Annotated[Optional[list[str]], typer.Option(help="A text to begin with; can be given again.")] = None,  # noqa: UP045
    port: Annotated[int, typer.Option(min=0, max=65535, help="Default: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look into a model in the browser: self-attention that one can touch.

    Example: regard explore en-fr --text "Python executes quickly"
    """
    from urllib.parse import urlencode

    from regard.cli.console import valid_text
    from regard.pretrained import DEFAULT
    from regard.serve.server import run
    from regard.serve.settings import Settings

    chosen = urlencode([("text", valid_text(one)) for one in text or []])

    def began(address: str) -> None:
        page = f"{address}/#{chosen}" if chosen else f"{address}/"
        print(f"the explorer is at {page} (stop with Ctrl+C)", file=sys.stderr)
        if browser:
            import threading
            import webbrowser

            threading.Timer(0.5, webbrowser.open, [page]).start()

    run(Settings(models=tuple(models or [DEFAULT]), port=port), began)


def _token(path: Path | None) -> str | None:
    """The token of a file, or of the environment."""
    from regard.errors import RegardError

    if path is None:
        return os.environ.get("REGARD_TOKEN") or None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RegardError(f"{path} cannot be read: give a file with a token") from error
