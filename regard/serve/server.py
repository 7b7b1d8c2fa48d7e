"""The service under uvicorn: it stops when told to, after it has answered what it had begun."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from regard.errors import RegardError
from regard.serve.app import create_app
from regard.serve.settings import Settings

_LAST_ANSWERS = 10


def run(settings: Settings, began: Callable[[str], None] = lambda _: None) -> None:
    """Serve until the process is told to stop. `began` hears the address as soon as it is listened on.

    Raises RegardError for an address that cannot be had.
    """
    listening = _listen(settings.host, settings.port)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    config = uvicorn.Config(
        create_app(settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS,
        timeout_keep_alive=30,
    )
    began(f"http://{host}:{listening.getsockname()[1]}")
    with suppress(KeyboardInterrupt):  # uvicorn hands Ctrl+C on once all is answered: it is how one stops
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise RegardError(f"cannot listen on {host}:{port} ({error.strerror}): choose another --port") from error
    return listening
