"""A real HAProxy on loopback, spoken to by its admin socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recell.adapters import agent
from recell.adapters.dry import DryProxy
from recell.adapters.dry_record import Record
from recell.adapters.proxy import HaproxySocket, admin_socket
from recell.adapters.ssh import parse_unit
from recell.errors import BadInput, StepFailed, Unreachable, Unsupported
from tests.private_server import free_ports


@dataclass
class Host:
    """This machine, in the way of a host, without SSH."""

    config: Path
    name: str = "lb1"
    environment: str = ""
    asked: list[str] = field(default_factory=list)

    def read(self, path: str) -> bytes | None:
        found = agent.do_read({"path": path})["content"]
        return None if found is None else agent.unpack(found)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return tuple(agent.do_glob({"pattern": pattern}))

    def unit(self, name: str) -> Any:
        start = "ExecStart={ path=x ; argv[]=/usr/sbin/haproxy -Ws -f $CONFIG -p $PID ; ignore_e"
        shown = f'{start}\nEnvironment="CONFIG={self.config}" PID=/x\n'
        return parse_unit(name, {"show": shown, "now": 0.0, "monotonic": 0.0})

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        try:
            return agent.unpack(agent.do_unix(
                {"path": path, "data": agent.pack(data), "timeout": timeout})["answer"])
        except OSError as error:
            raise Unreachable(str(error)) from None

    def unix_run(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        self.asked.append(data.decode().strip())
        return self.unix_query(path, data, timeout)


BACKENDS = """\
backend nova-api
  server ctl1 127.0.0.1:1 check
  server ctl2 127.0.0.1:2
backend nova-metadata
  server ctl1 [::1]:8775
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running(tmp_path, BACKENDS) as made:
        yield made


@contextmanager
def running(tmp_path: Path, backends: str) -> Iterator[Host]:
    """A private HAProxy with these backends behind it."""
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.fail("HAProxy is missing: apt-get install haproxy")
    (port,) = free_ports(1)
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"""\
global
  # stats socket /commented level admin
  stats socket {tmp_path}/admin.sock mode 660 level admin
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
frontend api
  bind 127.0.0.1:{port}
  bind unix@{tmp_path}/front.sock
  default_backend nova-api
{backends}""")
    process = subprocess.Popen([program, "-db", "-f", config], stderr=subprocess.DEVNULL)
    for _ in range(5000):
        if (tmp_path / "admin.sock").exists():
            break
        time.sleep(0.02)
    else:
        pytest.fail("HAProxy does not start")
    try:
        yield Host(config)
    finally:
        process.kill()
        process.wait()


def test_servers_and_their_states(host: Host) -> None:
    proxy = HaproxySocket(host)
    found = {(s.backend, s.server): s for s in proxy.servers()}
    assert set(found) == {("nova-api", "ctl1"), ("nova-api", "ctl2"), ("nova-metadata", "ctl1")}
    assert found["nova-api", "ctl2"].state == "no check"
    assert found["nova-api", "ctl2"].address == "127.0.0.1:2"
    assert found["nova-metadata", "ctl1"].address == "[::1]:8775"
    assert found["nova-api", "ctl2"].sessions == 0
    for state, shown in (("drain", "DRAIN"), ("maint", "MAINT"), ("ready", "no check")):
        proxy.set_state("nova-api", "ctl2", state)  # type: ignore[arg-type]
        now = {(s.backend, s.server): s.state for s in proxy.servers()}
        assert now["nova-api", "ctl2"] == shown
    assert host.asked[0] == "set server nova-api/ctl2 state drain"


def test_errors_are_counted(host: Host) -> None:
    proxy = HaproxySocket(host)
    assert proxy.errors() == {"nova-api": 0, "nova-metadata": 0}
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as user:
            user.connect(str(host.config.parent / "front.sock"))
            user.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert b" 503 " in user.recv(100)
    assert proxy.errors() == {"nova-api": 2, "nova-metadata": 0}
    assert DryProxy(proxy, Record()).errors() == proxy.errors()


def test_what_is_not_there(host: Host) -> None:
    proxy = HaproxySocket(host)
    with pytest.raises(StepFailed, match="does not set nova-api/ctl9 to drain"):
        proxy.set_state("nova-api", "ctl9", "drain")
    with pytest.raises(BadInput):
        proxy.set_state("nova-api", "ctl1; shutdown sessions", "drain")
    host.config.write_text("global\n  stats socket /x level operator\n")
    with pytest.raises(Unsupported, match="lb1 has no admin socket"):
        HaproxySocket(host).servers()
    host.config.unlink()
    with pytest.raises(Unsupported, match="no HAProxy configuration on lb1"):
        HaproxySocket(host).servers()


def test_a_proxy_that_is_down(host: Host, tmp_path: Path) -> None:
    host.config.write_text(f"global\n  stats socket {tmp_path}/none.sock level admin\n")
    with pytest.raises(Unreachable, match="HAProxy on lb1 does not answer"):
        HaproxySocket(host).servers()


def test_a_directory_of_configurations(host: Host, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "a.cfg").write_text("defaults\n")
    shutil.copy(host.config, parts / "b.cfg")
    host.config = parts
    assert len(HaproxySocket(host).servers()) == 3


def test_dry(host: Host) -> None:
    record = Record()
    dry = DryProxy(HaproxySocket(host), record)
    dry.set_state("nova-api", "ctl1", "drain")
    assert {s.server: s.state for s in dry.servers() if s.backend == "nova-api"}["ctl1"] == "DRAIN"
    assert host.asked == []
    assert record.changes == [("lb1", "set server nova-api/ctl1 state drain")]


def test_admin_socket() -> None:
    assert admin_socket("stats socket unix@/run/a.sock mode 600 level admin") == "/run/a.sock"
    assert admin_socket("stats socket /run/a.sock") == ""
    assert admin_socket("stats socket ipv4@127.0.0.1:9999 level admin") == ""
    assert admin_socket("stats timeout 1m\nlog 'unclosed") == ""
