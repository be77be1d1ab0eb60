"""The server of the live page: one process, one address, until it is told to stop."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import uvicorn

from recell.errors import BadInput
from recell.web.app import make_app


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. :raises BadInput: the address is taken, or not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _no(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise _no(host, port, error) from None
    return listener


def _no(host: str, port: int, error: OSError) -> BadInput:
    return BadInput(
        f"can't listen on {host}:{port}: {error.strerror or error}", "Choose another with --listen HOST:PORT"
    )


def serve(
    directory: Path, requests: Path | None, listener: socket.socket, host: str, *, every: float = 1.0
) -> None:
    """Serve until SIGINT or SIGTERM."""
    hosts = ("127.0.0.1", "localhost", "[::1]", host) if is_local(host) else ()
    app = make_app(directory, requests, every=every, hosts=hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        limit_concurrency=200,
    )
    uvicorn.Server(config).run(sockets=[listener])
