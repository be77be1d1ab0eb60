"""A VNC console as its user opens it: the URL that Nova gave, a websocket, and RFB up to the desktop's name.

The websocket is our own: of RFC 6455 a client needs here a handshake and frames, and no library of it is
among what the lab is installed with.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from urllib.parse import parse_qs, urlencode, urlsplit

TIMEOUT_S = 60.0
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455
PROTOCOL = "binary"  # websockify's name of what VNC speaks
VERSION = b"RFB 003.008\n"
NO_SECURITY = 1
LONGEST = 1 << 20  # bytes of a frame or a name: more is no console's
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class ConsoleError(Exception):
    """There was no desktop, in words."""


def address(url: str) -> tuple[str, int, str]:
    """(host, port, path and query) of the websocket that a browser would open for this URL.

    noVNC's page takes them from its own address; ``path`` in the query is where, on the same host.
    """
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    if path := asked.get("path", [""])[0]:
        where = path if path.startswith("/") else f"/{path}"
    elif token := asked.get("token", [""])[0]:  # before Rocky
        where = "/?" + urlencode({"token": token})
    else:
        raise ConsoleError(f"no token is in the URL: {parts.scheme}://{parts.netloc}{parts.path}")
    return parts.hostname or "", parts.port or 80, where


class WebSocket:
    """A client's end. All of it raises OSError, or ConsoleError in words."""

    def __init__(self, host: str, port: int, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._left = b""
        self._data = bytearray()
        try:
            self._shake_hands(f"{host}:{port}", path)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _shake_hands(self, host: str, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {PROTOCOL}",
        )  # fmt: skip
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._left:
            self._more()
            if len(self._left) > LONGEST:
                raise ConsoleError("the answer has no end of its headers")
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        status, *rest = head.decode("latin-1").split("\r\n")
        if status.split(" ")[1:2] != ["101"]:
            raise ConsoleError(f"no websocket is opened: {status}")
        named = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in rest)}
        right = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest()).decode()  # noqa: S324
        if named.get("sec-websocket-accept") != right:
            raise ConsoleError("the answer to the handshake is another's")

    def _more(self) -> None:
        read = self._socket.recv(65536)
        if not read:
            raise ConsoleError("the connection was closed")
        self._left += read

    def _take(self, count: int) -> bytes:
        while len(self._left) < count:
            self._more()
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def send(self, data: bytes, kind: int = BINARY) -> None:
        """One frame, masked as a client's has to be (data: up to 125 bytes)."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self._socket.sendall(bytes((0x80 | kind, 0x80 | len(data))) + mask + masked)

    def receive(self, count: int) -> bytes:
        """So many bytes, whatever the frames they come in."""
        while len(self._data) < count:
            self._frame()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def _frame(self) -> None:
        first, second = self._take(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._take(8))
        if second & 0x80 or length > LONGEST:
            raise ConsoleError("a frame is not a server's")
        body, kind = self._take(length), first & 0x0F
        if kind == CLOSE:
            raise ConsoleError(f"the websocket was closed: {body[2:].decode(errors='replace') or 'no word'}")
        if kind == PING:
            self.send(body[:125], PONG)
        elif kind != PONG:
            self._data += body


def desktop(url: str, timeout_s: float = TIMEOUT_S) -> str:
    """The name of the desktop behind a console's URL. Raises ConsoleError in words, whatever went wrong."""
    at = "the connection"
    try:
        with WebSocket(*address(url), timeout_s) as ws:
            at = "the version"
            if (version := ws.receive(len(VERSION))) != VERSION:
                raise ConsoleError(f"RFB begins with {version!r}")
            ws.send(VERSION)
            at = "the security types"
            types = ws.receive(ws.receive(1)[0])
            if NO_SECURITY not in types:
                raise ConsoleError(f"of the security types {list(types)} none is None")
            ws.send(bytes((NO_SECURITY,)))
            at = "the security result"
            if ws.receive(4) != bytes(4):
                raise ConsoleError("the VNC server lets nobody in")
            ws.send(b"\1")
            at = "the desktop"
            (length,) = struct.unpack(">20xI", ws.receive(24))
            if length > LONGEST:
                raise ConsoleError("the desktop's name has no end")
            return ws.receive(length).decode(errors="replace")
    except (OSError, ConsoleError) as error:
        raise ConsoleError(f"at {at}: {error}") from error
