"""What the layers above may ask of an HAProxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class ProxyServer:
    """A server line of HAProxy's. ``sessions``: requests in it now. ``state``: as ``show stat`` says.
    ``draining``: it was told to drain, by the socket or its own page; while its check fails the state doesn't
    say so.
    """

    backend: str
    server: str
    address: str
    state: str  # UP, DOWN, DRAIN, MAINT, "no check"
    sessions: int
    queued: int = 0
    draining: bool = False


class ProxyPort(Protocol):
    """One HAProxy, through its admin socket. Runtime states end with its next reload or restart."""

    host: str

    def servers(self) -> tuple[ProxyServer, ...]: ...
    def errors(self) -> dict[str, int]:
        """By backend: answers with a 5xx status since it began to count, its own 503 included; without HTTP,
        connections that failed."""
        ...

    def set_state(self, backend: str, server: str, state: Literal["ready", "drain", "maint"]) -> None: ...
