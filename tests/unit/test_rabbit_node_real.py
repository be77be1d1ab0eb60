"""What a real RabbitMQ node tells of itself to a scan."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator

import pytest

from recell.adapters.rabbit_node import RabbitNode
from recell.adapters.rabbit_settings import settings_of
from recell.model.rabbit import EPMD
from recell.planning.rabbit_reasons import END_COORDINATOR
from tests.private_broker import PrivateBroker, node_of


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    made = PrivateBroker()
    yield made
    made.stop()


@pytest.fixture
def node(broker: PrivateBroker) -> RabbitNode:
    return node_of(broker)


def declare(
    broker: PrivateBroker, name: str, *, durable: bool = True, ends: bool = False, **more: str
) -> None:
    arguments = {f"x-{key.replace('_', '-')}": value for key, value in more.items()}
    queue = {"vhost": "/", "name": name, "durable": durable, "auto_delete": ends, "arguments": arguments}
    done = broker.do(["rabbitmqctl", "import_definitions"], 600, json.dumps({"queues": [queue]}).encode())
    assert done.returncode == 0, done.stdout


def test_a_coordinator_of_streams_outlives_them_and_ends_as_operators_are_told(
    broker: PrivateBroker, node: RabbitNode
) -> None:
    def do(*words: str) -> None:
        done = broker.do(words, 600)
        assert done.returncode == 0, done.stdout

    def declared() -> bool:
        declare(broker, "s", queue_type="stream")
        while not (kinds := [q.kind for q in node.queues() if q.name == "s"]):
            time.sleep(0.1)
        return kinds == ["stream"]

    assert not node.view().coordinator and declared() and node.view().coordinator
    do("rabbitmqctl", "delete_queue", "s")
    assert node.view().coordinator, "without a stream, too"
    do(*shlex.split(END_COORDINATOR))
    while node.view().coordinator:
        time.sleep(0.1)
    do("rabbitmqctl", "stop_app")
    do("rabbitmqctl", "start_app")
    assert not node.view().coordinator, "it does not come back"
    assert declared() and node.view().coordinator, "but for the next stream"
    do("rabbitmqctl", "delete_queue", "s")


def test_where_a_node_asks_epmd(broker: PrivateBroker, node: RabbitNode) -> None:
    """Every broker of tests has one of its own."""
    told = settings_of(node.settings(), "any")
    assert told.epmd_port == int(broker.environment["ERL_EPMD_PORT"]) != EPMD


def test_queues_that_end_with_their_last_taker(broker: PrivateBroker, node: RabbitNode) -> None:
    declare(broker, "lasts", durable=False)
    declare(broker, "ends", durable=False, ends=True)
    told = {q.name: q.auto_delete for q in node.queues()}
    assert told == {"lasts": False, "ends": True}
