"""A nova-api's first requests are recell's own: with its own account, reads only, no secret on the way."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recell.adapters.ports import Finished
from recell.adapters.warming import first_words

CONF = """
[DEFAULT]
debug = false
debug = true
[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:{port}/identity
username = nova
password = pa%%ss $word
project_name = service
user_domain_name = Default
project_domain_name = Default
"""


class Here:
    """This machine, as a host; what was on a command line is kept."""

    def __init__(self) -> None:
        self.argv: list[str] = []

    def query(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60) -> Finished:
        self.argv += argv
        done = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout)
        return Finished(done.returncode, done.stdout, done.stderr)


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[dict[str, object]] = []
        self.refuses = False
        super().__init__(("127.0.0.1", 0), Answers)


class Answers(BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(401 if self.server.refuses else 201)
        self.send_header("X-Subject-Token", "tok")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["X-Auth-Token"]))
        self.send_response(200 if "servers" in self.path else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _conf(tmp_path: Path, web: Web) -> str:
    path = tmp_path / "nova.conf"
    path.write_text(CONF.format(port=web.server_port).replace("%%", "%"))
    return str(path)


def test_the_first_requests_are_recells_own(web: Web, tmp_path: Path) -> None:
    here = Here()
    said = first_words(here, f"http://127.0.0.1:{web.server_port}/", [_conf(tmp_path, web)], 15)
    assert said.startswith(f"{len(web.asked)} requests of recell's own came first")
    assert len(web.asked) >= 16 and {token for _, token in web.asked} == {"tok"}
    assert any(path.startswith("/v2.1/servers/detail") for path, _ in web.asked)
    user = web.bodies[0]["auth"]["identity"]["password"]["user"]  # type: ignore[index]
    assert user == {"name": "nova", "password": "pa%ss $word", "domain": {"name": "Default"}}
    assert "pa%ss" not in " ".join(here.argv) and "tok" not in said


def test_without_a_token_nothing_is_asked(web: Web, tmp_path: Path) -> None:
    web.refuses = True
    said = first_words(Here(), f"http://127.0.0.1:{web.server_port}/", [_conf(tmp_path, web)], 15)
    assert said == "Keystone gives no token (HTTPError)" and not web.asked


def test_without_an_account_nothing_is_asked(web: Web, tmp_path: Path) -> None:
    said = first_words(Here(), f"http://127.0.0.1:{web.server_port}/", [str(tmp_path / "none.conf")], 15)
    assert said == "no account in [keystone_authtoken] to ask with" and not web.bodies


def test_a_nova_api_that_hangs_up_is_no_failure(tmp_path: Path, web: Web) -> None:
    with Web() as other:
        port = other.server_port
    said = first_words(Here(), f"http://127.0.0.1:{port}/", [_conf(tmp_path, web)], 5)
    assert "requests of recell's own" in said
