"""recell's own way over a bridge in its parts: which lanes it takes, how it reaches nodes, who may go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.amqp_taker import Taker
from recell.adapters.ferry import HEARTBEAT_S, RabbitFerry, ashore
from recell.adapters.world import RealWorld
from recell.errors import Denied, Locked, Unreachable
from recell.planning.bridge import FERRY, Lane, Shores, helper
from tests.sim.cloud import build, scan

SHORES = Shores(
    (("mq1", "amqps://[fd00::1]:5671"), ("mq2", "10.0.0.2:5679")), (("mq4", "10.0.0.4:5672"),), ("/nova",)
)


@pytest.mark.parametrize(
    ("queue", "source", "asks"),
    [
        ("conductor", "conductor", True),
        ("compute.cmp1", "compute.cmp1", True),
        ("reply_1", "reply_1", False),
        ("compute_fanout_1", "compute_fanout_1", False),
        ("versioned_notifications.info", "versioned_notifications.info", False),
        ("log", helper("log"), False),
    ],
)
def test_requests_are_what_it_takes(queue: str, source: str, asks: bool) -> None:
    assert Lane("/", queue, "keep", source).asks is asks


class Hosts:
    """Each forwards to a door of its own; ``down`` are doors behind which nobody is."""

    def __init__(self, *down: str) -> None:
        self.down, self.seen = down, list[str]()
        self.open: set[Path] = set()

    def __call__(self, name: str) -> Any:
        self.seen.append(name)
        return self

    def forward(self, host: str, port: int) -> Path:
        if host in self.down:
            raise Denied("sshd on mq1 does not forward connections", "Let it")
        door = Path(f"{host}|{port}")
        self.open.add(door)
        return door

    def unforward(self, local: Path, host: str, port: int) -> None:
        self.open.remove(local)


def test_a_node_is_reached_from_its_own_host_as_shovels_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def opened(self: Amqp, door: Path, *login: str, tls: Any = None, heartbeat_s: int = 0) -> None:
        asked.append((str(door), *login[:4], tls is not None, heartbeat_s))

    monkeypatch.setattr(Amqp, "__init__", opened)
    monkeypatch.setattr(Taker, "__init__", opened)
    hosts = Hosts()
    connect = ashore(hosts, SHORES, "s3cret")
    assert isinstance(connect(Taker, "keep", "/nova"), Taker)
    account = (FERRY, "s3cret", "/nova")
    assert asked == [("fd00::1|5671", *account, "on mq1", True, HEARTBEAT_S)] and hosts.open == set()
    hosts.down = ("fd00::1",)
    connect(Amqp, "keep", "/nova")
    assert asked[1:] == [("10.0.0.2|5679", *account, "on mq2", False, 0)]
    hosts.down = ("10.0.0.4",)
    with pytest.raises(Denied, match="does not forward"):
        connect(Amqp, "new", "/nova")
    assert hosts.seen == ["mq1", "mq1", "mq2", "mq4"]


def test_another_run_that_goes_on_is_left_alone() -> None:
    def connect(*_: object) -> None:
        raise AssertionError("it connected")

    def permit() -> None:
        raise Locked("mq1 belongs to another run", "")

    never: Any = connect
    ferry = RabbitFerry(never, ("/nova",), permit)
    ferry.follow([Lane("/nova", "conductor", "keep", "conductor")])
    ferry.close()
    said = "recell leaves some requests to the shovels alone (mq1 belongs to another run)"
    assert (ferry.news(), ferry.news()) == (said, "")


def test_a_run_has_one_which_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> Path:
        raise Unreachable("mq1 is down", "")

    monkeypatch.setattr(RealWorld, "host", lambda self, name: type("Host", (), {"forward": forward}))
    world = RealWorld(scan(build()))
    ferry = world.ferry(SHORES, "s3cret")
    assert world.ferry(SHORES, "s3cret") is ferry
    ferry.follow([Lane("/nova", "conductor", "keep", "conductor")])
    threads = [way._thread for way in ferry._ways.values()]
    world.close()
    assert len(threads) == 2 and not any(t is None or t.is_alive() for t in threads)
