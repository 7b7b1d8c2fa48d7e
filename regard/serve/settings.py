"""What a service may be asked and what it spends: where it listens, who may ask, how much, and how long."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from regard.errors import RegardError


@dataclass(frozen=True)
class Settings:
    """Everything that is chosen at start. Beyond this machine a token and the allowed origins are required."""

    models: tuple[str, ...]
    """Names or folders; the only ones that are ever opened."""
    host: str = "127.0.0.1"
    port: int = 8700
    token: str | None = None
    """What a client must send (`Authorization: Bearer ...`)."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may ask, such as https://example.org; `none` for no other."""
    body: int = 1 << 20
    """Most bytes of a request."""
    length: int = 20_000
    """Most characters of a text."""
    seconds: float = 60.0
    """Longest wait for an answer."""
    memory: int = 1 << 30
    """Bytes of traces that are kept for the next question."""
    waiting: int = 512
    """Most requests that wait; one more is told to come back (503)."""
    a_client: int = 256
    """Most requests of one client at a time; one more is told to slow down (429)."""
    batch: int = 64
    """Most texts that are answered together."""

    def __post_init__(self) -> None:
        if not self.models:
            raise RegardError("name at least one model to serve")
        if self.beyond and not (self.token and self.origins):
            raise RegardError(
                f"listening on {self.host}, beyond this machine, needs a token (REGARD_TOKEN or --token-file) and "
                "--origin (the sites whose pages may ask, or none)"
            )
        if self.token is not None and (len(self.token) < 16 or not self.token.isascii()):
            raise RegardError("a token has 16 ASCII characters or more")
        for name in ("body", "length", "seconds", "memory", "waiting", "a_client", "batch"):
            if getattr(self, name) <= 0:
                raise RegardError(f"{name} is more than 0")

    @property
    def beyond(self) -> bool:
        """Whether others than this machine can reach it."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True
