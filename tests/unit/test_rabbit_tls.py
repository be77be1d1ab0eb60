"""TLS to RabbitMQ: what a configuration says, and a broker behind a TLS socket."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.conf import parse_config
from recell.adapters.rabbit_tls import rabbit_tls
from recell.errors import BadInput, StalePlan, Unreachable


def frame(payload: bytes, channel: int = 0) -> bytes:
    return b"\x01" + channel.to_bytes(2, "big") + len(payload).to_bytes(4, "big") + payload + b"\xce"


def method(one: int, other: int, arguments: bytes = b"") -> bytes:
    return one.to_bytes(2, "big") + other.to_bytes(2, "big") + arguments


class Door(threading.Thread):
    """As much of a broker as lets somebody in, behind TLS; ``seen``: the certificates that came."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(daemon=True)
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.seen: list[bytes | None] = []

    def run(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            with suppress(OSError), self.context.wrap_socket(plain, server_side=True) as door:
                self.seen.append(door.getpeercert(True))
                self.serve(door)

    @staticmethod
    def serve(door: ssl.SSLSocket) -> None:
        stream = door.makefile("rb")
        assert stream.read(8) == b"AMQP\x00\x00\x09\x01"
        door.sendall(frame(method(10, 10)))
        answers = {
            (10, 11): frame(method(10, 30, b"\0\0" + (131072).to_bytes(4, "big") + b"\0\0")),
            (10, 40): frame(method(10, 41)),
            (20, 10): frame(method(20, 11), 1),
            (85, 10): frame(method(85, 11), 1),
            (10, 50): frame(method(10, 51)),
        }
        while len(head := stream.read(7)) == 7:
            payload = stream.read(int.from_bytes(head[3:7], "big"))
            stream.read(1)
            asked = (int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big"))
            door.sendall(answers.get(asked, b""))

    def end(self) -> None:
        # A thread that waits in accept() notices only a shutdown.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``broker`` and ``other``: each an authority of its own."""
    program = shutil.which("openssl")
    if program is None:
        pytest.fail("openssl is missing: apt-get install openssl")
    top = tmp_path_factory.mktemp("tls")
    for name in ("broker", "other"):
        files = ["-keyout", str(top / f"{name}.key"), "-out", str(top / f"{name}.pem")]
        argv = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-nodes", "-subj", f"/CN={name}", *files]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True)
    return top


@pytest.fixture
def door(certificates: Path) -> Iterator[Door]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "broker.pem", certificates / "broker.key")
    context.load_verify_locations(certificates / "other.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    made = Door(context)
    made.start()
    yield made
    made.end()


def context_of(text: str, certificates: Path, query: str = "") -> ssl.SSLContext | None:
    config = parse_config([("nova.conf", f"[oslo_messaging_rabbit]\n{text}\n".encode())])

    def read(path: str) -> bytes | None:
        file = certificates / path
        return file.read_bytes() if file.exists() else None

    return rabbit_tls(config, query, read, "nova-api on ctl1")


def enter(door: Door, tls: ssl.SSLContext | None) -> None:
    Amqp(("127.0.0.1", door.port), "guest", "guest", "/", "mq1", 30, tls).close()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("ssl = true", ""),
        ("ssl = true\nssl_ca_file = broker.pem", ""),
        ("ssl_ca_file = other.pem", "ssl=1&ssl_ca_file=broker.pem"),
    ],
)
def test_a_broker_with_tls_lets_in(door: Door, certificates: Path, text: str, query: str) -> None:
    enter(door, context_of(text, certificates, query))
    assert door.seen == [None]


def test_a_client_shows_its_certificate(door: Door, certificates: Path) -> None:
    text = "ssl = 1\nssl_ca_file = broker.pem\nssl_cert_file = other.pem\nssl_key_file = other.key"
    enter(door, context_of(text, certificates))
    shown = ssl.PEM_cert_to_DER_cert((certificates / "other.pem").read_text())
    assert door.seen == [shown]


def test_another_authority_and_no_tls_are_refused(door: Door, certificates: Path) -> None:
    with pytest.raises(Unreachable, match="certificate verify failed"):
        enter(door, context_of("ssl = true\nssl_ca_file = other.pem", certificates))
    with pytest.raises(Unreachable, match="mq1"):
        enter(door, context_of("ssl = false", certificates))


def test_what_a_configuration_says(certificates: Path) -> None:
    assert context_of("", certificates) is None
    assert context_of("ssl = true", certificates, "ssl=0") is None
    with pytest.raises(StalePlan, match=r"gone.pem of nova-api on ctl1 is not there"):
        context_of("ssl = true\nssl_ca_file = gone.pem", certificates)
    with pytest.raises(BadInput, match="can't be used"):
        context_of("ssl = true\nssl_ca_file = broker.key", certificates)
