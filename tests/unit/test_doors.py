"""Brokers that a plan leads services to are asked from there, before anything is changed."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from recell.adapters.ports import Finished
from recell.model.violation import Violation
from recell.planning.split import make_plan, plan_split
from recell.planning.v1 import plan_v1
from recell.preflight import doors
from tests.private_server import free_ports
from tests.sim import cloud
from tests.sim.hosts import LAYOUT, split
from tests.sim.hosts import scan as scan_hosts
from tests.sim.world import SimFile, SimHost, SimWorld
from tests.unit.stein_cloud import layout_v1, stein

Answer = Callable[[str, int, bool], str]


class Knocking(SimHost):
    """A host that knocks: ``answers`` says what is wrong at an address."""

    answers: Answer = staticmethod(lambda host, port, tls: "")

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        if "-c" not in argv:
            return super().query(argv, stdin=stdin, timeout=timeout, user=user)
        said = [type(self).answers(h, p, t) for h, p, t in json.loads(argv[-1])]
        return Finished(0, json.dumps(said).encode(), b"")


def checked(world: SimWorld) -> tuple[Violation, ...]:
    return tuple(doors.check(world, plan_split(cloud.scan(world), cloud.layout(), 0.0)))


def test_a_broker_that_is_not_reached_is_told_by_the_host_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    world = cloud.build(host_of=Knocking)
    assert checked(world) == ()
    monkeypatch.setattr(Knocking, "answers", staticmethod(lambda host, port, tls: "Connection refused"))
    found = checked(world)
    assert [v.id for v in found] == ["unreached:ctl1:mq4:5672", "unreached:ctl2:mq4:5672"]
    assert found[0].what == "RabbitMQ does not answer ctl1 at mq4:5672 (Connection refused)"


def test_tls_is_asked_for_where_nova_speaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Knocking, "answers", staticmethod(lambda h, p, tls: "no TLS" if tls else ""))
    for line in ("", "[oslo_messaging_rabbit]\nssl = True\n"):
        world = cloud.build(host_of=Knocking)
        for name in ("ctl1", "ctl2"):
            file = world.hosts[name].files["/etc/nova/nova.conf"]
            world.hosts[name].files["/etc/nova/nova.conf"] = SimFile(
                file.content + line.encode(), file.mode, file.owner, file.group, file.mtime
            )
        assert len(checked(world)) == (2 if line else 0)


@pytest.mark.parametrize(("conf", "tls"), [
    (b"[DEFAULT]\ntransport_url = rabbit://nova:p@mq1/\n", False),
    (b"[DEFAULT]\nrabbit_hosts = mq1:5671\nrabbit_use_ssl = True\n", True),  # Juno's
])  # fmt: skip
def test_each_sides_nova_cells_has_to_reach_the_other_ones_broker(conf: bytes, tls: bool) -> None:
    asked: dict[str, list[Any]] = {}

    def host(name: str) -> Any:
        def query(argv: Sequence[str], timeout: float = 60) -> Finished:
            asked[name] = json.loads(argv[-1])
            said = ["No route to host" if name == "api2" and h == "mq2" else "" for h, _, _ in asked[name]]
            return Finished(0, json.dumps(said).encode(), b"")

        return SimpleNamespace(query=query, read=lambda path: conf)

    world: Any = SimpleNamespace(host=host)
    (found,) = doors.check(world, plan_v1(stein(), layout_v1(), 0.0))
    assert found.id == "unreached:api2:mq2:5672" and found.severity == "stop"
    old, new = ([[f"mq{n}", 5672, tls] for n in some] for some in ((1, 2, 3), (4, 5, 6)))
    assert asked == {"api1": new + old, "api2": new + old, "ctl1": new, "ctl2": new}


def test_a_computes_account_has_to_be_known_where_it_goes() -> None:
    world = split()
    plan = make_plan(scan_hosts(world), cloud.layout(LAYOUT), 0.0)
    assert not tuple(doors.check(world, plan)), "the new cell's account is made by the plan"
    file = world.hosts["cmp2"].files["/etc/nova/nova.conf"]
    world.hosts["cmp2"].files["/etc/nova/nova.conf"] = SimFile(
        file.content.replace(b"nova:s3cret@", b"other:word@"), file.mode, file.owner, file.group, file.mtime
    )
    (found,) = doors.check(world, plan)
    assert found.id == "account:cmp2:mq5"
    assert "the RabbitMQ account other of nova-compute on cmp2 can't log in on mq5" in found.what
    broker = world.brokers["mq5"]
    broker.user_map["other"] = "word"
    (found,) = doors.check(world, plan)
    assert "may not use the vhost /" in found.what
    broker.permits["/", "other"] = (".*", ".*", ".*")
    assert not tuple(doors.check(world, plan))


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """Says so to whoever has said something."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(1000)
                client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def _knocked(*wanted: Any) -> list[str]:
    argv = [*doors._PYTHON, doors._KNOCK, json.dumps(wanted)]
    done = subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return [str(said) for said in json.loads(done.stdout)]


@pytest.mark.parametrize(("answer", "tls", "says"), [
    (b"\x01\x00\x00\x00\x00\x01", False, ""),
    (b"AMQP\x00\x00\x09\x01", False, ""),
    (b"\x15\x03\x03\x00\x02\x02\x28", False, "it does not speak AMQP in the clear"),
    (b"", False, "it does not speak AMQP in the clear"),
    (b"\x15\x03\x03\x00\x02\x02\x28", True, ""),
    (b"AMQP\x00\x00\x09\x01", True, "it speaks no TLS"),
])  # fmt: skip
def test_what_the_host_makes_of_an_answer(answer: bytes, tls: bool, says: str) -> None:
    with server(answer) as port:
        assert _knocked(["127.0.0.1", port, tls]) == [says]


def test_nobody_there_and_no_such_name() -> None:
    (port,) = free_ports(1)
    refused, unknown = _knocked(["127.0.0.1", port, False], ["no-such-name.invalid", 5672, True])
    assert refused == "Connection refused" and unknown
