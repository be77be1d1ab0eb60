"""Ending an RPC server: what is done in which order, against a host and a broker of our own making.

What real ones lose or keep can only be measured on real ones, which this does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from recell.adapters import firewall
from recell.adapters.ports import (
    ConnectionInfo,
    Consumer,
    Contained,
    Finished,
    ProcessInfo,
    QueueInfo,
    SocketInfo,
    UnitState,
)
from recell.adapters.rpc import runs, stop_rpc_server
from recell.errors import StepFailed, Unreachable, Unsupported

_FANOUT = "conductor_fanout_9adb71bab75e4927a7039b38448940d0"
_CLIENT = "nova-conductor:100:0284c4bb-394f-417d-bc54-dc04195c85f9"
_DELETE = 16 + len(_FANOUT)


@dataclass
class Scene:
    """ctl1 with a conductor (pid 100) whose listener is port 5001 and whose replies come by 5002."""

    active: str = "active"
    tools: tuple[str, ...] = ("nft", "iptables", "ss")
    # What the server does, by seconds since it was asked to stop.
    sends: Callable[[float], int] = lambda since: _DELETE if since > 1 else 0
    deletes: Callable[[float], bool] = lambda since: since > 1
    unread: list[int] = field(default_factory=list)
    peer: str = "10.77.0.11"
    name: str = "ctl1"
    now: float = 1000.0
    asked_at: float | None = None
    log: list[str] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    table: bool = False
    ended: list[str] = field(default_factory=list)
    broker_down: bool = False
    fanout: str = _FANOUT
    ends_by_itself: float = 1e9
    topic: str = "conductor"

    # The host

    def unit(self, name: str) -> UnitState:
        if self.asked_at is not None and self.now - self.asked_at > self.ends_by_itself:
            self.active = "inactive"
        return UnitState(name, True, self.active, True, 100, 0.0, "", (), (), False)

    def processes(self) -> tuple[ProcessInfo, ...]:
        return (
            ProcessInfo(100, 1, ("/usr/bin/python3", "/usr/bin/nova-conductor"), "nova", 0.0, 0,
                        "/system.slice/nova-conductor.service"),
            ProcessInfo(200, 1, ("/usr/bin/nova-scheduler",), "nova", 0.0, 0,
                        "/system.slice/nova-scheduler.service"),
        )

    def sockets(self, pids: Sequence[int]) -> tuple[SocketInfo, ...]:
        assert set(pids) <= {100}
        unread = self.unread.pop(0) if self.unread and self.held else 0
        remote = "10.77.0.41" if self.peer == "10.77.0.11" else self.peer
        return (SocketInfo(100, "10.77.0.11", 5001, remote, 5672, unread),
                SocketInfo(100, "10.77.0.11", 5002, remote, 5672))

    def query(self, argv: Sequence[str], **_: Any) -> Finished:
        if argv[0] not in self.tools:
            return Finished(127, b"", b"not found")
        if argv[0] == "ss":
            since = self.now - self.asked_at if self.asked_at is not None else -1.0
            sent = 5000 + (self.sends(since) if since >= 0 else 0)
            return Finished(0, (
                "State Recv-Q Send-Q Local Address:Port Peer Address:Port Process\n"
                "ESTAB 0 0 10.77.0.11:5001 10.77.0.41:5672 users:((x))\n"
                f"\t cubic rto:204 bytes_sent:{sent} bytes_acked:{sent}\n"
                "ESTAB 0 0 [::ffff:10.77.0.11]:5002 [::ffff:10.77.0.41]:5672\n"
                "\t cubic bytes_sent:77\n").encode(), b"")
        if "table" in argv:
            shown = "".join(f"elements = {{ {e} timeout 5m }}" for e in self.held)
            return Finished(0 if self.table else 1, shown.encode(), b"")
        if "-C" in argv:
            return Finished(0 if " ".join(argv[3:]) in self.held else 1, b"", b"")
        return Finished(0, b"", b"")

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", **_: Any) -> Finished:
        script = stdin.decode()
        for verb, element in re.findall(r"(add|delete) element inet recell held4 \{ (\S+ \. \d+ \. \d+)",
                                        script):
            if verb == "delete" and element not in self.held:
                return Finished(1, b"", b"Error: No such file or directory")
            (self.held.add if verb == "add" else self.held.discard)(element)
            self.log.append(f"{verb} {element}")
        self.table = (self.table or "add table" in script) and "delete table" not in script
        if argv[0] == "iptables":
            rule = " ".join(argv[3:])
            (self.held.add if argv[2] == "-I" else self.held.discard)(rule)
            self.log.append(f"{argv[2]} {argv[argv.index('--dport') + 1]}")
        return Finished(0, b"", b"")

    def systemctl(self, verb: str, unit: str = "", *, timeout: float = 180) -> None:
        self.log.append(verb)
        if verb == "stop-later":
            self.active, self.asked_at = "deactivating", self.now
        elif verb == "kill":
            self.active = "failed"
        elif verb == "reset-failed":
            self.active = "inactive"

    # The broker

    def _since(self) -> float:
        if self.broker_down:
            raise Unreachable("the broker mq1 does not answer")
        return self.now - self.asked_at if self.asked_at is not None else -1.0

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        assert vhost == "/"
        gone = self._since() >= 0 and self.deletes(self._since())
        listener = ("c1", self.peer, 5001 if self.peer == "10.77.0.11" else 7001, _CLIENT)
        queues = [self.topic, self.fanout] if not gone else [self.topic]
        if gone and self.fanout != _FANOUT:
            queues = []
        served = [Consumer(q, *listener) for q in queues if q]
        return (*served, Consumer("reply_1", "c2", self.peer, 5002, _CLIENT),
                Consumer("conductor", "c3", "10.77.0.12", 5001, _CLIENT.replace("100", "300")))

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        gone = self._since() >= 0 and self.deletes(self._since())
        names = [self.topic] + ([] if gone and self.fanout == _FANOUT else [self.fanout])
        return tuple(QueueInfo(n, 0, 0, 1, False) for n in names)

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return (ConnectionInfo("c1", "nova", "/", self.peer, 5001, "n", _CLIENT, "x", 100),)

    def end_connection(self, name: str) -> None:
        self.ended.append(name)
        self.log.append("end connection")

    # The course of things

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def end(self, limit: float = 30, **more: Any) -> None:
        everything: Any = self
        stop_rpc_server(everything, "nova-conductor.service", everything, "/", limit,
                        wait=self.wait, clock=lambda: self.now, **more)


_HELD = "10.77.0.41 . 5672 . 5001"


def test_held_then_stopped_then_killed_then_free() -> None:
    scene = Scene()
    scene.end()
    assert scene.log == [f"add {_HELD}", "stop-later", "kill", f"delete {_HELD}", "reset-failed"]
    assert scene.active == "inactive"
    assert not scene.table
    assert 1 < scene.now - (scene.asked_at or 0) < 2


def test_what_has_arrived_is_read_first() -> None:
    scene = Scene(unread=[900, 500, 0, 20, 0])
    scene.end()
    assert scene.unread == []
    assert (scene.asked_at or 0) >= 1000.6
    scene = Scene(unread=[1] * 1000)
    with pytest.raises(StepFailed, match="does not read what its broker sends"):
        scene.end()
    assert scene.log == [f"add {_HELD}", f"delete {_HELD}"]
    assert scene.active == "active"


def test_heartbeats_and_late_acknowledgements_prove_nothing() -> None:
    scene = Scene(sends=lambda since: 8 * int(since / 5) + 21, deletes=lambda _: False)
    with pytest.raises(StepFailed, match="has not finished what it had begun after 30 s"):
        scene.end()
    # Then the broker takes back what is on its way, before anything may pass again.
    assert scene.log == [f"add {_HELD}", "stop-later", "end connection", f"delete {_HELD}"]
    scene = Scene(sends=lambda since: 8 * int(since / 5) + (_DELETE if since > 12 else 0),
                  deletes=lambda _: False)
    scene.end()
    assert 12 < scene.now - (scene.asked_at or 0) < 13


def test_the_broker_is_asked_when_in_doubt() -> None:
    # Encrypted: lengths differ.
    scene = Scene(sends=lambda since: _DELETE + 29 if since > 2 else 0, deletes=lambda s: s > 2)
    scene.end()
    assert scene.now - (scene.asked_at or 0) < 3
    # No ss on the host.
    scene = Scene(tools=("nft",), deletes=lambda since: since > 4)
    scene.end()
    assert 4 < scene.now - (scene.asked_at or 0) < 5
    # A broker that doesn't tell is no proof.
    scene = Scene(tools=("nft",))

    def later() -> float:
        scene.broker_down = scene.asked_at is not None
        return scene.now

    everything: Any = scene
    with pytest.raises(StepFailed, match="its broker does not tell: the broker mq1 does not answer"):
        stop_rpc_server(everything, "nova-conductor", everything, "/", 5, wait=scene.wait,
                        clock=later)
    assert scene.held == set()


def test_a_fanout_queue_that_stays() -> None:
    # A stream or a queue with a fixed name: the channel's end shows it.
    scene = Scene(fanout="", sends=lambda since: 19 if since > 1 else 0)
    scene.end()
    assert "kill" in scene.log
    scene = Scene(fanout="conductor_fanout", tools=("nft",))
    scene.end()
    assert "kill" in scene.log


def test_a_server_that_ends_by_itself() -> None:
    scene = Scene(sends=lambda _: 0, deletes=lambda _: False, ends_by_itself=3)
    scene.end()
    assert scene.log == [f"add {_HELD}", "stop-later", f"delete {_HELD}"]


def test_a_unit_that_does_not_run() -> None:
    for state in ("inactive", "failed"):
        scene = Scene(active=state)
        scene.end()
        assert scene.log == []


def test_a_unit_that_nothing_is_delivered_to() -> None:
    scene = Scene(peer="192.0.2.1")
    scene.consumers = lambda vhost: ()  # type: ignore[method-assign]
    scene.end()
    assert scene.log == ["stop-later", "kill", "reset-failed"]
    # One that was stopping already may still be at work: it is not killed.
    scene = Scene(active="deactivating")
    scene.consumers = lambda vhost: ()  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match="is stopping and has not ended after 30 s"):
        scene.end()
    assert scene.log == []


def test_a_run_that_was_killed_goes_on() -> None:
    # It had finished before ...
    scene = Scene(active="deactivating", held={_HELD}, table=True, asked_at=990.0)
    scene.end()
    assert scene.active == "inactive"
    assert scene.held == set()
    assert scene.now < 1002
    # ... or does now.
    scene = Scene(active="deactivating", asked_at=999.0, deletes=lambda since: since > 5,
                  sends=lambda since: _DELETE if since > 5 else 0)
    scene.end()
    assert scene.active == "inactive"


def test_no_firewall() -> None:
    scene = Scene(tools=("ss",))
    with pytest.raises(Unsupported, match="ctl1 has neither nftables nor iptables"):
        scene.end()
    assert scene.log == []


def test_iptables() -> None:
    scene = Scene(tools=("iptables", "ss"))
    scene.end()
    assert scene.log == ["-I 5001", "-I 5001", "stop-later", "kill", "-D 5001", "-D 5001",
                         "reset-failed"]
    assert scene.held == set()


def test_a_proxy_between() -> None:
    scene = Scene(peer="10.77.0.5")
    with pytest.raises(Unsupported, match="which of its 2 connections"):
        scene.end()
    assert scene.log == []


class _Contained(Scene):
    """The same conductor in a container: below its first process, and number 7 in its own namespace."""

    def unit(self, name: str) -> UnitState:
        inner = Contained("docker", "nova_conductor", "1")
        return replace(super().unit(name), main_pid=99, container=inner)

    def processes(self) -> tuple[ProcessInfo, ...]:
        inside, other = super().processes()
        where = "/system.slice/docker-1.scope"
        first = ProcessInfo(99, 1, ("dumb-init", "--", "kolla_start"), "root", 0.0, 0, where, 1)
        return (first, replace(inside, ppid=99, inner_pid=7, cgroup=where), other)

    def sockets(self, pids: Sequence[int]) -> tuple[SocketInfo, ...]:
        assert set(pids) in ({99, 100}, {100})
        return super().sockets([p for p in pids if p == 100])

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        found = super().consumers(vhost)
        return tuple(replace(c, client_name=c.client_name.replace(":100:", ":7:")) for c in found)


def test_a_container() -> None:
    scene = _Contained()
    scene.end()
    assert scene.log == [f"add {_HELD}", "stop-later", "kill", f"delete {_HELD}", "reset-failed"]
    # Behind a proxy only the number that it tells the broker shows that it is this one's.
    scene = _Contained(peer="10.77.0.5")
    with pytest.raises(Unsupported, match="which of its 2 connections"):
        scene.end()
    assert scene.log == []


def test_an_alternative_server() -> None:
    scene = Scene(topic="compute-alt")
    with pytest.raises(Unsupported, match="serves compute-alt while it stops"):
        scene.end()
    assert scene.log == []
    answers = ["building x", "", "building y", "", ""]
    scene = Scene(topic="compute-alt", sends=lambda _: 0, deletes=lambda _: False)
    scene.end(idle=lambda: answers.pop(0))
    assert answers == []
    assert scene.log == [f"add {_HELD}", "stop-later", "kill", f"delete {_HELD}", "reset-failed"]


def test_addresses_of_both_kinds() -> None:
    assert firewall.Flow("fd00::1", 5672, 1).version == 6
    assert firewall.Flow("10.0.0.1", 5672, 1).version == 4


@pytest.mark.parametrize(("argv", "program", "is_it"), [
    (("/usr/bin/python3", "/usr/bin/nova-scheduler"), "nova-scheduler", True),
    (("nova-scheduler: ServiceWrapper worker(0)",), "nova-scheduler", True),
    (("neutron-server: rpc worker (/usr/bin/python3 /usr/bin/neutron-server)",), "neutron-server", True),
    (("/usr/bin/python3", "/usr/bin/nova-conductor"), "nova-scheduler", False),
    (("nova-scheduler-of-ours: x",), "nova-scheduler", False),
])  # fmt: skip
def test_a_process_is_known_by_its_command_line_or_its_title(
    argv: tuple[str, ...], program: str, is_it: bool
) -> None:
    assert runs(program, ProcessInfo(7, 1, argv, "nova", 0.0, 0, "/")) is is_it
