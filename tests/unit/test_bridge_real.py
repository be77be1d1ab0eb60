"""A cluster as an end of a bridge, on a real RabbitMQ."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.bridge_end import RabbitEnd
from recell.adapters.ports import Finished, UnitState
from recell.planning.bridge import Lane, Side, shovels
from tests.private_broker import PrivateBroker

PROPERTIES = b"\x90\x00" + b"\x10application/json" + b"\x02"
SOURCE, TARGET = "there", "here"


class Host:
    """The broker's host."""

    name = "mq1"

    def __init__(self, broker: PrivateBroker) -> None:
        self.broker = broker

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        return self.broker.do(argv, timeout, stdin)

    run = query

    def unit(self, name: str) -> UnitState:
        return UnitState(name, False, "inactive", False, 0, 0.0, "", (), (), False)


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    made = PrivateBroker("rabbitmq_shovel")
    yield made
    made.stop()


@pytest.fixture
def end(broker: PrivateBroker) -> RabbitEnd:
    one: Any = Host(broker)
    return RabbitEnd([one])


class Publisher(threading.Thread):
    """Numbered messages, one after the other, each confirmed."""

    def __init__(self, amqp: Amqp) -> None:
        super().__init__(daemon=True)
        self.amqp, self.sent, self.enough = amqp, 0, threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            self.amqp.publish("", SOURCE, PROPERTIES, str(self.sent).encode())
            self.sent += 1
            time.sleep(0.001)


def number(amqp: Amqp, queue: str) -> int:
    found = amqp.look(queue)
    assert found is not None
    return found.messages


def until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.05)


def brought(amqp: Amqp, enough: int) -> None:
    until(lambda: number(amqp, TARGET) > enough)


def test_a_shovel_that_goes_sends_nothing_twice(broker: PrivateBroker, end: RabbitEnd) -> None:
    here = broker.connect()
    for queue in (SOURCE, TARGET):
        here.declare(queue)
    at = {"/": [f"amqp://guest:guest@127.0.0.1:{broker.port}/%2F"]}
    uris: dict[Side, dict[str, list[str]]] = {"keep": at, "new": at}
    lane = Lane("/", TARGET, "keep", SOURCE)
    publishers = [Publisher(broker.connect()) for _ in range(2)]
    for one in publishers:
        one.start()
    for _ in range(3):
        end.load({"parameters": shovels([lane], uris)})
        until(lambda: end.shovels()[("/", lane.name)])
        brought(here, number(here, TARGET) + 100)
        end.clear_shovels([("/", lane.name)])
        assert end.shovels() == {}
    for one in publishers:
        one.enough.set()
        one.join()
    sent = sum(one.sent for one in publishers)
    until(lambda: number(here, SOURCE) + number(here, TARGET) >= sent)
    assert number(here, SOURCE) + number(here, TARGET) == sent
