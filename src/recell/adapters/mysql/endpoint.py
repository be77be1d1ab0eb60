"""Where a database is, and as whom it is entered."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

__all__ = ["Endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """One database on one server.

    ``ca``: a file of certificates; with it the session is encrypted and the server's name checked.
    ``unix_socket``: used instead of host and port when given; ``host`` is then only a name. ``forwarded``: it
    leads to a TCP port of the server's, which doesn't take it for its own socket.
    ``server``: what told the server from others (:meth:`Session.identity`); no session is made with another
    one. Behind a virtual address or a proxy each connection may lead elsewhere.
    """

    host: str
    user: str
    password: str = field(repr=False)
    database: str
    port: int = 3306
    ca: str = ""
    unix_socket: str = ""
    server: tuple[tuple[str, str], ...] = ()
    forwarded: bool = False

    @property
    def where(self) -> str:
        what = f"the database {self.database}" if self.database else "the database server"
        return f"{what} on {self.host}:{self.port}"

    def tls(self) -> ssl.SSLContext | None:
        """:raises OSError: ``ca`` can't be read."""
        return ssl.create_default_context(cafile=self.ca) if self.ca else None
