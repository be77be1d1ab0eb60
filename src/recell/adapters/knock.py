"""Whether something answers at an address, seen from a controller."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Protocol

from recell.errors import RecellError

AMQP = b"AMQP\x00\x00\x09\x01"
"""The greeting of AMQP 0-9-1; a broker answers with Connection.Start."""


class Gateway(Protocol):
    """The controller that knocks: :class:`recell.adapters.ssh.SshHost`."""

    def forward(self, host: str, port: int) -> Path: ...
    def unforward(self, local: Path, host: str, port: int) -> None: ...


def knock(via: Gateway, host: str, port: int, greeting: bytes, timeout: float = 5.0) -> str:
    """Whether something at ``host:port`` answers a greeting; "" or what is wrong, in a few words."""
    try:
        door = via.forward(host, port)
    except RecellError as error:
        return error.sentence
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout)
        client.connect(str(door))
        client.sendall(greeting)
        return "" if client.recv(8) else "the connection is refused or closed at once"
    except TimeoutError:
        return "it is silent"
    except OSError as error:
        return error.strerror or type(error).__name__
    finally:
        client.close()
        via.unforward(door, host, port)
