"""A console's way: the stand-in for a VNC server, and the client behind a websocket proxy."""

from __future__ import annotations

import base64
import hashlib
import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from recell_lab import console
from recell_lab.cloud import layout, topology
from recell_lab.cloud.inside import vnc_stand_in
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.console import ConsoleError

CLIENT = vnc_stand_in.VERSION + b"\1" + b"\1"


def _serve(said: bytes) -> tuple[bool, bytes]:
    out = io.BytesIO()
    return vnc_stand_in.serve(io.BytesIO(said), out, "cmp7"), out.getvalue()


def test_the_stand_in_lets_a_client_in_and_names_the_host() -> None:
    let_in, said = _serve(CLIENT)
    assert let_in
    assert said.startswith(b"RFB 003.008\n\x01\x01\x00\x00\x00\x00")
    init = said[12 + 2 + 4 :]
    width, height, bits = struct.unpack(">HHB", init[:5])
    assert (width, height, bits) == (640, 400, 32)
    assert struct.unpack(">I", init[20:24]) == (4,) and init[24:] == b"cmp7"


@pytest.mark.parametrize(("said", "ends"), [
    (b"", vnc_stand_in.VERSION), (b"RFB 003.003\n\1\1", vnc_stand_in.VERSION),
    (vnc_stand_in.VERSION, b"\1\1"), (vnc_stand_in.VERSION + b"\2\1", b"is spoken here"),
    (vnc_stand_in.VERSION + b"\1", bytes(4)),
])  # fmt: skip
def test_the_stand_in_goes_no_further_than_a_client_does(said: bytes, ends: bytes) -> None:
    let_in, answer = _serve(said)
    assert not let_in and answer.endswith(ends) and b"cmp7" not in answer


def test_each_compute_host_has_one_at_the_port_that_its_driver_names() -> None:
    passwords = Passwords.random()
    for cloud in (Cloud.of("19.3.2", 2, 3), Cloud.of("33.0.2", 2, 3)):
        for host in cloud.computes:
            part = layout.part_of(host, cloud, passwords)
            files = {file.path: file.content or b"" for file in part.files}
            assert "vnc-stand-in.socket" in part.units
            driver = next(text for path, text in files.items() if path.endswith("virt/guests.py"))
            assert b"VNC_PORT = 5900" in driver
            assert b":5900\n" in files["/etc/systemd/system/vnc-stand-in.socket"]
            unit = files["/etc/systemd/system/vnc-stand-in@.service"].decode()
            command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
            assert files[command.split()[-1]] == files["/usr/lib/cloud/vnc_stand_in.py"] != b""
        control = layout.part_of(cloud.controllers[0], cloud, passwords)
        assert "vnc-stand-in.socket" not in control.units
    assert topology.PORTS["nova-novncproxy"] == 6080


@pytest.mark.parametrize(("url", "wanted"), [
    ("http://lb:6080/vnc_lite.html?path=%3Ftoken%3Dabc", ("lb", 6080, "/?token=abc")),
    ("http://lb:6080/vnc_auto.html?token=a%26b", ("lb", 6080, "/?token=a%26b")),
    ("http://lb/vnc.html?path=%2Fx%3Ftoken%3Dabc", ("lb", 80, "/x?token=abc")),
])  # fmt: skip
def test_the_websocket_is_where_novnc_would_open_it(url: str, wanted: tuple[str, int, str]) -> None:
    assert console.address(url) == wanted


def test_a_url_without_a_token_is_refused_without_repeating_it_all() -> None:
    with pytest.raises(ConsoleError, match=r"no token is in the URL: http://lb:6080/vnc\.html$"):
        console.address("http://lb:6080/vnc.html?x=y")


# -- a proxy in the middle ----------------------------------------------------------------------------

Frames = Callable[[bytes], bytes]


def _plain(data: bytes) -> bytes:
    return bytes((0x82, len(data))) + data


def _odd(data: bytes) -> bytes:
    """In two frames with a ping between them, the second with a longer length than it needs."""
    return (bytes((0x02, 1)) + data[:1] + b"\x89\x02hi"
            + b"\x80\x7e" + struct.pack(">H", len(data) - 1) + data[1:])  # fmt: skip


class Proxy:
    """One connection: a websocket on this side, the stand-in's RFB behind it."""

    def __init__(self, frames: Frames, accept: str = "", status: str = "101 Switching Protocols",
                 closes_after: int = 99) -> None:  # fmt: skip
        self.frames, self.accept, self.status, self.closes_after = frames, accept, status, closes_after
        self.path = ""
        self.pongs: list[bytes] = []
        self.protocol = ""

    def read(self, count: int) -> bytes:
        """What the client sent, unmasked: RFB's side of it."""
        while True:
            head = self._file.read(2)
            if len(head) < 2:
                return b""
            assert head[1] & 0x80, "a client masks"
            mask, body = self._file.read(4), self._file.read(head[1] & 0x7F)
            clear = bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))
            if head[0] == 0x8A:
                self.pongs.append(clear)
                continue
            assert head[0] == 0x82 and len(clear) == count
            return clear

    def write(self, data: bytes) -> int:
        self.closes_after -= 1
        if self.closes_after < 0:
            self._socket.sendall(b"\x88\x07\x03\xe8token")
            raise ConnectionError
        self._socket.sendall(self.frames(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def run(self, listener: socket.socket) -> None:
        self._socket, _ = listener.accept()
        with self._socket, suppress(OSError):
            self._file = self._socket.makefile("rb")
            self.path = self._file.readline().decode().split(" ")[1]
            headers = {}
            while line := self._file.readline().strip():
                name, _, value = line.decode().partition(": ")
                headers[name.lower()] = value
            self.protocol = headers["sec-websocket-protocol"]
            key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            right = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324
            answer = f"HTTP/1.1 {self.status}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            answer += f"Sec-WebSocket-Accept: {self.accept or right}\r\n\r\n"
            self._socket.sendall(answer.encode())
            vnc_stand_in.serve(self, self, "cmp7")  # type: ignore[arg-type]


@contextmanager
def _behind(proxy: Proxy) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=proxy.run, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/vnc_lite.html?path=%3Ftoken%3Dt0k"
        thread.join()


@pytest.mark.parametrize("frames", [_plain, _odd])
def test_a_client_comes_to_the_desktop_through_a_proxy(frames: Frames) -> None:
    proxy = Proxy(frames)
    with _behind(proxy) as url:
        assert console.desktop(url) == "cmp7"
    assert proxy.path == "/?token=t0k" and proxy.protocol == "binary"
    assert set(proxy.pongs) == ({b"hi"} if frames is _odd else set())


@pytest.mark.parametrize(("proxy", "said"), [
    (Proxy(_plain, closes_after=0), "at the version: the websocket was closed: token"),
    (Proxy(_plain, closes_after=2), "at the security result: the websocket was closed: token"),
    (Proxy(_plain, status="503 Service Unavailable"), "at the connection: no websocket is opened: .* 503"),
    (Proxy(_plain, accept="somebody else's"), "at the connection: the answer to the handshake is another's"),
    (Proxy(lambda data: b"\x82\x0cRFB 003.003\n"), "at the version: RFB begins with"),
])  # fmt: skip
def test_where_a_console_ends_is_said(proxy: Proxy, said: str) -> None:
    with _behind(proxy) as url, pytest.raises(ConsoleError, match=said):
        console.desktop(url)


def test_a_proxy_that_is_away_is_said_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConsoleError, match="at the connection: "):
        console.desktop(f"http://127.0.0.1:{port}/?token=x")
