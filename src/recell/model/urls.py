"""Broker and database URLs as Nova writes them, and how to show them without their secrets.

oslo.messaging: ``rabbit://user:pw@host:port,user:pw@host2:port2/vhost?query``; SQLAlchemy:
``mysql+pymysql://user:pw@host:port/database?query``. One parser serves both: a database URL is a
transport URL with one host.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from recell.errors import BadInput

HIDDEN = "***"
_TEMPLATE = re.compile(r"\{[a-z_]+\d*\}")


@dataclass(frozen=True)
class Endpoint:
    """One ``user:password@host:port`` of a URL. ``port`` 0 means that none was written."""

    host: str
    port: int = 0
    user: str = ""
    password: str = ""

    @property
    def place(self) -> str:
        """``host:port``, a broker's port where none is written."""
        return f"{self.host}:{self.port or 5672}"

    def text(self) -> str:
        auth = ""
        if self.user or self.password:
            auth = quote(self.user, safe="")
            if self.password:
                auth += ":" + (HIDDEN if self.password == HIDDEN else quote(self.password, safe=""))
            auth += "@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{auth}{host}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True)
class Url:
    """A parsed URL; ``text()`` gives it back, ``shown()`` gives it without passwords."""

    scheme: str
    endpoints: tuple[Endpoint, ...]
    path: str = ""
    query: str = ""

    def text(self) -> str:
        hosts = ",".join(e.text() for e in self.endpoints)
        return f"{self.scheme}://{hosts}/{self.path}{f'?{self.query}' if self.query else ''}"

    def shown(self) -> str:
        """The URL with every password replaced, fit for files and screens."""
        hidden = tuple(replace(e, password=HIDDEN if e.password else "") for e in self.endpoints)
        return replace(self, endpoints=hidden).text()

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(e.host for e in self.endpoints)

    @property
    def vhost(self) -> str:
        """Of a transport URL, as RabbitMQ spells it: all behind one slash. ``//nova`` leads to ``/nova``."""
        return unquote(self.path) or "/"

    def with_vhost(self, vhost: str) -> Url:
        """The same transport URL with another vhost; "" is ``/``."""
        return replace(self, path="" if vhost == "/" else quote(vhost, safe="/"))

    def with_nodes(self, nodes: tuple[tuple[str, int], ...]) -> Url:
        """The same account, path and query on other nodes (the first endpoint's account)."""
        first = self.endpoints[0]
        port = first.port
        return replace(self, endpoints=tuple(replace(first, host=h, port=p or port) for h, p in nodes))


def is_address(host: str) -> bool:
    """Whether a URL's host is an IP address, of either family, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_template(raw: str) -> bool:
    """Whether a cell mapping's URL holds ``{placeholders}`` that each process fills by itself."""
    return bool(_TEMPLATE.search(raw))


def parse_url(text: str) -> Url:
    """Parse a broker or database URL.

    :raises BadInput: the text is not a URL (the text itself is not repeated: it may hold a secret).
    """
    scheme, sep, rest = text.strip().partition("://")
    if not sep or not scheme:
        raise BadInput("a broker or database URL has no scheme", "Write it as scheme://user:password@host/")
    rest, _, query = rest.partition("?")
    netloc, _, path = rest.partition("/")
    endpoints = tuple(_endpoint(part) for part in netloc.split(",")) if netloc else ()
    return Url(scheme, endpoints, path, query)


def _endpoint(part: str) -> Endpoint:
    auth, at, hostport = part.rpartition("@")
    user, _, password = auth.partition(":") if at else ("", "", "")
    if hostport.startswith("["):
        host, _, tail = hostport[1:].partition("]")
        port_text = tail.removeprefix(":")
    else:
        host, _, port_text = hostport.partition(":")
    if port_text and not port_text.isdigit():
        raise BadInput(f"the port of {host} in a URL is not a number", "Correct the URL")
    return Endpoint(host, int(port_text or 0), unquote(user), unquote(password))
