"""A gate in a real HAProxy: requests wait there, through reloads, and go where they are led."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from recell.adapters import agent
from recell.adapters.gate import Gate, _Record, record_text
from recell.adapters.ports import FileStat, Finished, ProcessInfo
from recell.adapters.proxy import HaproxySocket
from recell.errors import StepFailed, Unsupported
from recell.model.gate import GateServer
from recell.planning.gate_text import action_of, concluded, is_taught, taught, untaught
from tests.private_server import free_ports
from tests.unit.test_adapters_proxy import Host

LONG = 60.0


def program() -> str:
    return str(shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin"))


class ProxyHost(Host):
    """This machine, with what a gate needs of its host."""

    process: subprocess.Popen[bytes]
    reloads = 0

    def unit(self, name: str) -> Any:
        return replace(super().unit(name), exec_start=(program(), "-f", str(self.config)))

    def hello(self) -> dict[str, Any]:
        return agent.do_hello({})

    def stat(self, path: str) -> FileStat | None:
        found = agent.do_stat({"path": path})
        return None if found is None else FileStat(**found)

    def query(self, argv: Any, *, timeout: float = 60, stdin: bytes = b"") -> Finished:
        done = agent.do_exec({"argv": list(argv), "timeout": timeout, "stdin": agent.pack(stdin)})
        return Finished(done["returncode"], agent.unpack(done["stdout"]), agent.unpack(done["stderr"]))

    def run(self, argv: Any, *, stdin: bytes = b"", timeout: float = 60) -> Finished:
        return self.query(argv, stdin=stdin, timeout=timeout)

    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None
    ) -> None:
        me = {"owner": str(os.getuid()), "group": str(os.getgid())}
        agent.do_write({"path": path, "content": agent.pack(content), "mode": mode, "expect": expect, **me})

    def remove(self, path: str, *, expect: str) -> None:
        agent.do_remove({"path": path, "expect": expect})

    def processes(self) -> tuple[ProcessInfo, ...]:
        return tuple(ProcessInfo(**{**p, "argv": tuple(p["argv"])}) for p in agent.do_processes({}))

    def systemctl(self, verb: str, unit: str = "") -> None:
        assert (verb, unit) == ("reload", "haproxy.service")
        self.reloads += 1
        self.process.send_signal(signal.SIGUSR2)


class Side:
    """A nova-api that says who it is, and can be slow; ``close`` is what a fence does to those who come."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.slow = threading.Event()
        self.slow.set()
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mine.slow.wait(LONG)
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Stand:
    """A HAProxy with its master, two sides, and users."""

    def __init__(self, directory: Path, front: str) -> None:
        self.old, self.new = Side("old"), Side("new")
        (self.port,) = free_ports(1)
        config = directory / "haproxy.cfg"
        self.before = f"""\
global
  stats socket {directory}/admin.sock mode 660 level admin
  hard-stop-after 60s
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout http-request 1s
  timeout server 60s
{front.format(port=self.port, old=self.old.port)}"""
        config.write_text(self.before)
        self.host = ProxyHost(config)
        self.log = (directory / "log").open("wb")
        self.host.process = subprocess.Popen([program(), "-W", "-db", "-f", config], stderr=self.log)
        self.gate = self.another_gate()
        self.servers = [GateServer("api1", "127.0.0.1", self.new.port)]
        self._pool = ThreadPoolExecutor(16)
        self.until(lambda: (directory / "admin.sock").exists() and self.get() == (200, "old"))

    def another_gate(self, *, dies: bool = False) -> Gate:
        """``dies``: of a recell that is killed as soon as it holds."""
        return Gate(self.host, HaproxySocket(self.host), "nova-api", time.sleep, renews=not dies)

    def get(self, path: str = "/") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    def asked(self, count: int = 1, path: str = "/") -> list[Future[tuple[int, str]]]:
        return [self._pool.submit(self.get, path) for _ in range(count)]

    def until(self, reached: Callable[[], bool]) -> None:
        for _ in range(600):
            if reached():
                return
            time.sleep(0.05)
        pytest.fail("it never came to that: " + Path(self.log.name).read_text()[-2000:])

    def waiting(self, count: int) -> None:
        self.until(lambda: (s := self.gate.state()) is not None and s.waiting == count)

    def close(self) -> None:
        self.host.process.kill()
        self.host.process.wait()
        for child in self.host.processes():
            if str(self.host.config) in child.argv and child.argv[0].endswith("haproxy"):
                os.kill(child.pid, signal.SIGKILL)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for side in (self.old, self.new):
            side.slow.set()
            side.close()
        self.log.close()


LISTEN = """\
listen nova-api
  bind 127.0.0.1:{port}
  option httplog # of a frontend
  balance roundrobin
  http-request set-header X-Seen yes
  server ctl1 127.0.0.1:{old} check inter 100ms fall 1 rise 1 cookie a
  server ctl9 127.0.0.1:9 disabled
"""

SAME_NAMES = """\
frontend nova-api
  bind 127.0.0.1:{port}
  default_backend nova-api

backend nova-api
  balance leastconn
  option httpchk GET /
  http-check expect rstatus ^[23]
  server ctl1 127.0.0.1:{old} check inter 500ms fall 4 rise 1
"""


@pytest.fixture
def stands(tmp_path: Path) -> Iterator[Callable[[str], Stand]]:
    made: list[Stand] = []

    def make(front: str = LISTEN) -> Stand:
        made.append(Stand(tmp_path, front))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("front", [LISTEN, SAME_NAMES])
def test_requests_wait_and_then_go_where_they_are_led(stands: Any, front: str) -> None:
    stand: Stand = stands(front)
    assert stand.gate.trouble() == ""
    assert stand.gate.state() is None
    stand.gate.install(stand.servers)
    state = stand.gate.state()
    assert state is not None and (state.side, state.held, state.toward) == ("old", False, None)
    assert stand.get() == (200, "old")
    stand.gate.hold(LONG, LONG)
    users = stand.asked(3)
    stand.waiting(3)
    time.sleep(1.2)  # longer than HAProxy's own limit for clients
    stand.gate.renew()
    stand.gate.commit("new")
    assert not any(u.done() for u in users)
    stand.gate.release()
    assert [u.result(LONG) for u in users] == [(200, "new")] * 3
    state = stand.gate.state()
    assert state is not None and (state.side, state.held, state.waiting, state.waited) == ("new", False, 0, 3)
    assert state.longest_s > 1.0
    stand.gate.hold(LONG, LONG)
    users = stand.asked()
    stand.waiting(1)
    stand.gate.release()
    assert users[0].result(LONG) == (200, "new"), "a hold that ends without a commit leads back"


def test_a_hold_survives_reloads_and_so_does_the_side(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    stand.gate.hold(LONG, LONG)
    early = stand.asked(2)
    stand.waiting(2)
    before = stand.gate.state()
    assert before is not None and before.leaving == 0
    stand.host.systemctl("reload", "haproxy.service")
    stand.until(lambda: (s := stand.gate.state()) is not None and s.worker != before.worker)
    after = stand.gate.state()
    assert after is not None and after.held and after.leaving == 1
    late = stand.asked(2)
    stand.waiting(2)
    another = stand.another_gate()  # of a recell that was begun anew
    another.arm("new")
    another.release("new")
    assert [u.result(LONG) for u in (*early, *late)] == [(200, "new")] * 4, "the old process's too"
    stand.host.systemctl("reload", "haproxy.service")
    stand.until(lambda: (s := another.state()) is not None and s.worker != after.worker)
    assert stand.get() == (200, "new")


def test_a_lease_ends_by_itself_on_the_side_last_committed(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    dead = stand.another_gate(dies=True)
    for side in ("old", "new"):
        dead.commit(side)
        dead.hold(0.3, LONG)
        assert stand.asked()[0].result(LONG) == (200, side)
        with pytest.raises(StepFailed, match="ended by itself"):
            dead.renew()
        with pytest.raises(StepFailed, match="ended by itself"):
            dead.arm("new")
    stand.gate.hold(4, LONG)
    users = stand.asked()
    stand.waiting(1)
    time.sleep(6)
    assert not users[0].done(), "while recell lives its lease is renewed"
    stand.gate.release()
    assert users[0].result(LONG) == (200, "new")
    stand.gate.hold(LONG, 0.2)
    assert stand.asked()[0].result(LONG) == (200, "new"), "nobody waits for longer than the longest"


def test_a_switch_that_was_left_half_done_is_decided_by_the_fence(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    dead = stand.another_gate(dies=True)
    dead.hold(5, LONG)
    dead.arm("new")
    assert stand.asked()[0].result(LONG) == (200, "old"), "no fence stands: the old side goes on"
    dead.hold(5, LONG)
    dead.arm("new")
    stand.old.close()
    assert [u.result(LONG) for u in stand.asked(8)] == [(200, "new")] * 8
    stand.old = Side("old", stand.old.port)
    assert stand.get() == (200, "new"), "who was led over once is not led back"


def test_what_is_inside_is_seen_and_what_waits_is_not_counted(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    stand.old.slow.clear()
    slow = stand.asked(2)
    stand.until(lambda: (s := stand.gate.state()) is not None and s.inside == 2)
    stand.gate.hold(LONG, LONG)
    held = stand.asked(2)
    stand.waiting(2)
    state = stand.gate.state()
    assert state is not None and state.inside == 2
    assert stand.gate.glance() == replace(state, leaving=0)
    stand.old.slow.set()
    assert [u.result(LONG) for u in slow] == [(200, "old")] * 2
    stand.until(lambda: (s := stand.gate.state()) is not None and s.inside == 0)
    assert not any(u.done() for u in held)
    stand.gate.release()
    assert [u.result(LONG)[0] for u in held] == [200, 200]


def test_a_damaged_lease_keeps_the_word_before_it(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    stand.gate.commit("new")
    lease = next(stand.host.config.parent.glob("*.lease"))
    whole = lease.read_bytes()
    assert len(whole) == 128
    with lease.open("r+b") as file:
        file.write(record_text(_Record(side="old"))[:20])
    assert stand.get() == (200, "new")
    lease.unlink()
    lease.write_bytes(record_text(_Record()))
    with pytest.raises(StepFailed, match="does not follow"):
        stand.gate.hold(LONG, LONG)


def test_it_is_taken_away_and_nothing_is_left(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    stand.gate.install(stand.servers)
    assert stand.host.reloads == 1, "twice is once"
    stand.gate.commit("new")
    with pytest.raises(StepFailed, match="go to the new side"):
        stand.gate.remove()
    stand.gate.commit("old")
    text = stand.host.config.read_text()
    stand.host.config.write_text(text + "# somebody else's line\n")
    stand.gate.remove()
    stand.gate.remove()
    assert stand.host.config.read_text() == stand.before + "# somebody else's line\n"
    assert stand.gate.state() is None and stand.get() == (200, "old")
    assert sorted(p.name for p in stand.host.config.parent.iterdir()) == ["admin.sock", "haproxy.cfg", "log"]


def test_concluded_the_new_servers_are_the_backends_own(stands: Any) -> None:
    stand: Stand = stands()
    stand.gate.install(stand.servers)
    with pytest.raises(StepFailed, match="don't go to the new side"):
        stand.gate.conclude()
    stand.gate.commit("new")
    for _ in range(2):
        stand.gate.conclude()
        assert stand.get() == (200, "new") and stand.gate.state() is None
    text = stand.host.config.read_text()
    assert "recell" not in text and f"server api1 127.0.0.1:{stand.new.port} check inter 100ms" in text
    assert "ctl1" not in text and "cookie api1" in text


def test_what_haproxy_refuses_is_not_written(stands: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stand: Stand = stands()
    monkeypatch.setattr("recell.adapters.gate.Gate._lua", lambda self, path: str(stand.host.config) + ".lua")
    monkeypatch.setattr("recell.adapters.gate.Gate._program", lambda self, path: b"this is no Lua")
    with pytest.raises(StepFailed, match="refuses the configuration"):
        stand.gate.install(stand.servers)
    assert stand.host.config.read_text() == stand.before and stand.host.reloads == 0
    assert not list(stand.host.config.parent.glob("*.recell"))
    HaproxySocket(stand.host).set_state("nova-api", "ctl1", "drain")
    monkeypatch.undo()
    with pytest.raises(StepFailed, match="would forget at a reload that nova-api/ctl1"):
        stand.gate.install(stand.servers)


def test_an_install_that_was_killed_anywhere_is_gone_on_with(
    stands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand: Stand = stands()

    class Dead(BaseException):
        pass

    changes = 0

    def dying(at: int) -> Callable[[str], None]:
        def count(name: str) -> None:
            nonlocal changes
            changes += 1
            if changes == at:
                raise Dead(name)

        return count

    points = 0
    for verb, undone in (("install", True), ("install", False), ("remove", False)):
        for at in range(1, 12):
            points += 1
            changes, die = 0, dying(at)
            with monkeypatch.context() as patch:
                for name in ("write", "remove", "systemctl"):
                    real = getattr(ProxyHost, name)
                    patch.setattr(
                        ProxyHost, name,
                        lambda self, *a, _n=name, _r=real, _d=die, **k: (_d(_n), _r(self, *a, **k))[1])
                try:
                    if verb == "install":
                        stand.another_gate().install(stand.servers)
                    else:
                        stand.another_gate().remove()
                except Dead:
                    assert stand.get() == (200, "old")
                else:
                    break
            if undone:
                stand.another_gate().remove()
                assert not stand.gate.left() and stand.host.config.read_text() == stand.before
        else:
            pytest.fail("it never came to its end")
        if undone:
            stand.another_gate().remove()
    assert points > 12
    assert not stand.gate.left() and stand.host.config.read_text() == stand.before
    with pytest.raises(agent.Refusal):
        stand.host.write(str(stand.host.config), b"", mode=0o600, owner="", group="", expect="0" * 64)


FRONTENDS = """\
frontend public
  bind 127.0.0.1:{port}
  acl compute path_beg /compute # /v2.1
  acl admin hdr(X-Admin) -m found
  use_backend nova-api if compute !admin or {{ path_beg /nova }}
  default_backend others
frontend inside
  bind 127.0.0.1:0
  use_backend others if {{ path_beg /others }}
  default_backend nova-api
backend others
  http-request return status 204
backend nova-api
  http-request set-header X-Seen yes
  server ctl1 127.0.0.1:{old}
"""


def test_only_requests_to_this_backend_wait(stands: Any, tmp_path: Path) -> None:
    front = FRONTENDS.replace("127.0.0.1:0", f"unix@{tmp_path}/inside.sock")
    front = front.replace("default_backend others", "default_backend others\n  use_backend nova-api if "
                          "{{ path / }}", 1)
    stand: Stand = stands(front)
    stand.gate.install(stand.servers)
    stand.gate.hold(LONG, LONG)
    assert stand.get("/identity") == (204, "")
    held = [*stand.asked(1, "/compute/x"), *stand.asked(1, "/nova"), *stand.asked(1, "/")]
    stand.waiting(3)
    stand.gate.commit("new")
    stand.gate.release()
    assert [u.result(LONG) for u in held] == [(200, "new")] * 3
    stand.gate.commit("old")
    stand.gate.remove()
    assert stand.host.config.read_text() == stand.before


def text_of(front: str) -> str:
    return "defaults\n  mode http\n" + front.format(port=1, old=2)


def test_the_text() -> None:
    before = text_of(FRONTENDS)
    after = taught(before, "nova-api", [GateServer("api1", "10.1.0.4", 8774)], "/etc/haproxy/x.lua")
    assert untaught(after, "nova-api") == before and is_taught(after, "nova-api")
    assert taught(after, "nova-api", [GateServer("api1", "10.1.0.4", 8774)], "/etc/haproxy/x.lua") == after
    action = action_of("nova-api")
    lines = [line.strip() for line in after.splitlines()]
    new = f"{{ var(txn.{action}) -m str new }}"
    mark = " # recell nova-api"
    assert f"http-request lua.{action} if compute !admin or {{ path_beg /nova }}{mark}" in lines
    assert f"use_backend nova-api-recell if compute !admin {new}{mark}" in lines
    assert f"use_backend nova-api-recell if {{ path_beg /nova }} {new}{mark}" in lines
    assert f"http-request lua.{action} unless {{ path_beg /others }}{mark}" in lines
    assert lines.index("server api1 10.1.0.4:8774") > lines.index("backend nova-api-recell")
    done = concluded(after, "nova-api")
    assert "server api1 10.1.0.4:8774" in done and "ctl1" not in done and "recell" not in done
    assert concluded(before, "nova-api") == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("mode http", "mode tcp"), "passes TCP on"),
        (("default_backend nova-api", "use_backend %[path,map(/x)]"), "by an expression"),
        (("use_backend others if", "use_backend others unless"), "without an if"),
        (("server ctl1 127.0.0.1:2", "server-template ctl 1-3 x:1"), "by a template"),
        (("server ctl1 127.0.0.1:2", ""), "has no server"),
        (("backend nova-api\n", "backend nova\n"), "has no backend nova-api"),
    ],
)
def test_what_can_not_be_held_is_said(change: tuple[str, str], said: str) -> None:
    text = text_of(FRONTENDS)
    assert change[0] in text
    if "backend nova-api\n" in change[0]:
        text = text.replace("\nbackend nova-api\n", "\nbackend nova\n")
    else:
        text = text.replace(*change)
    with pytest.raises(Unsupported, match=said):
        taught(text, "nova-api", [GateServer("api1", "10.1.0.4", 8774)], "/x.lua")


def test_a_haproxy_without_lua_or_in_several_files_says_so(
    stands: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand: Stand = stands()
    monkeypatch.setattr(ProxyHost, "query", lambda self, argv, **_: Finished(0, b"-LUA", b""))
    assert "built without Lua" in stand.gate.trouble()
    monkeypatch.undo()
    monkeypatch.setattr(HaproxySocket, "files", lambda self: [str(stand.host.config)] * 2)
    assert "in 2 files" in stand.gate.trouble()


CONSOLES = """\
frontend consoles
  bind 127.0.0.1:{port}
  mode tcp
  tcp-request inspect-delay 100ms
  default_backend nova-api

backend nova-api
  mode tcp
  balance source
  server ctl1 127.0.0.1:{old} check inter 500ms fall 4 rise 1
"""


def test_the_second_backend_is_in_its_home_s_mode_whatever_other_defaults_say() -> None:
    front = CONSOLES.replace("  mode tcp\n", "")
    text = f"defaults\n  mode tcp\n{front.format(port=1, old=2)}\ndefaults\n  mode http\n"
    made = taught(text, "nova-api", [GateServer("api1", "127.0.0.1", 3)], "/x.lua", holds=False)
    assert made.split("backend nova-api-recell\n")[1].splitlines()[0].strip() == "mode tcp"
    assert untaught(made, "nova-api") == text


def test_what_nobody_has_to_wait_for_is_led_where_tcp_passes_too(stands: Any) -> None:
    stand: Stand = stands(CONSOLES)
    assert "passes TCP on" in stand.gate.trouble()
    with pytest.raises(Unsupported, match="passes TCP on"):
        stand.gate.install(stand.servers)
    assert stand.gate.trouble(holds=False) == ""
    stand.gate.install(stand.servers, holds=False)
    assert stand.get() == (200, "old")
    stand.old.slow.clear()
    early = stand.asked()  # as a console that is open
    stand.until(lambda: (s := stand.gate.state()) is not None and s.inside == 1)
    stand.gate.release("new")
    assert stand.get() == (200, "new") and not early[0].done()
    stand.old.slow.set()
    assert early[0].result(LONG) == (200, "old")
    with pytest.raises(StepFailed, match="new side"):
        stand.gate.remove()
    stand.gate.release("old")
    assert stand.get() == (200, "old")
    stand.gate.remove()
    assert Path(stand.host.config).read_text() == stand.before and not stand.gate.left()
    stand.gate.install(stand.servers, holds=False)
    stand.gate.release("new")
    stand.gate.conclude()
    assert stand.get() == (200, "new") and not stand.gate.left()
