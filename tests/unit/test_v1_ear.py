"""The API cell's ear against a real RabbitMQ: what is bound, what is dropped, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.broker import RabbitCluster
from recell.adapters.v1_ear import Ear
from recell.adapters.world import RealWorld
from recell.errors import Denied, StepFailed, Unreachable
from recell.model.v1 import Conversion
from recell.planning.v1 import SWITCH, plan_v1
from tests.private_broker import PrivateBroker
from tests.unit.stein_cloud import layout_v1, stein
from tests.unit.test_queue_door import PROPERTIES, Node, broker

__all__ = ["broker"]

NOVA = "amq.topic"
"""Stands for nova-cells' exchange."""
HOST = "api1"


class Cells:
    """nova-cells of the API cell, and what comes up to it."""

    def __init__(self, amqp: Amqp, base: str) -> None:
        self.amqp, self.base = amqp, base
        self.queues = [f"{base}.{kind}" for kind in ("targeted", "broadcast", "response")]

    def connects(self) -> None:
        for queue in self.queues:
            for topic in (queue, f"{queue}.{HOST}"):
                self.amqp.declare(topic)
                self.amqp.bind(topic, NOVA, topic)

    def arrives(self, kind: str) -> bool:
        """Whether a message from the child gets into the queue."""
        self.amqp.publish(NOVA, f"{self.base}.{kind}", PROPERTIES, b"news")
        found = self.amqp.get(f"{self.base}.{kind}")
        if found is not None:
            self.amqp.ack(found)
        return found is not None


@pytest.fixture
def amqp(broker: PrivateBroker) -> Iterator[Amqp]:
    made = broker.connect()
    yield made
    made.close()


@pytest.fixture
def cells(amqp: Amqp, request: pytest.FixtureRequest) -> Iterator[Cells]:
    made = Cells(amqp, getattr(request, "param", "cells.intercell"))
    made.connects()
    yield made
    for queue in made.queues:
        amqp.delete(queue)
        amqp.delete(f"{queue}.{HOST}")


def ear_of(broker: PrivateBroker, node: Node, base: str = "") -> Ear:
    cluster = RabbitCluster("mq4", [node])
    return Ear(lambda: cluster, "/", base, broker.connect)


@pytest.mark.parametrize(("cells", "base"), [("cells.intercell", ""), ("tree.words", "tree.words")],
                         indirect=["cells"])  # fmt: skip
def test_shut_it_hears_no_update_and_all_else(broker: PrivateBroker, cells: Cells, base: str) -> None:
    ear = ear_of(broker, Node(broker), base)
    assert ear.state() == "open" and cells.arrives("broadcast")
    for _ in range(2):
        ear.shut()
        assert ear.state() == "shut" and not cells.arrives("broadcast")
        assert cells.arrives("targeted") and cells.arrives("response")
    for _ in range(2):
        ear.open()
        assert ear.state() == "open" and cells.arrives("broadcast")


def test_what_was_in_the_queue_stays_and_a_new_connection_opens_it(
    broker: PrivateBroker, amqp: Amqp, cells: Cells
) -> None:
    ear = ear_of(broker, Node(broker))
    amqp.publish(NOVA, "cells.intercell.broadcast", PROPERTIES, b"before")
    ear.shut()
    amqp.publish(NOVA, "cells.intercell.broadcast", PROPERTIES, b"meanwhile")
    ear.open()
    amqp.publish(NOVA, "cells.intercell.broadcast", PROPERTIES, b"after")
    found = []
    while (message := amqp.get("cells.intercell.broadcast")) is not None:
        found.append(message.body)
        amqp.ack(message)
    assert found == [b"before", b"after"]
    ear.shut()
    cells.connects()
    assert ear.state() == "open" and cells.arrives("broadcast")


def test_at_hand_it_asks_no_command(broker: PrivateBroker, cells: Cells) -> None:
    node = Node(broker)
    ear = ear_of(broker, node)
    with ear.at_hand():
        asked = len(node.asked)
        ear.shut()
        assert not cells.arrives("broadcast")
        cells.connects()
        ear.shut()
        assert not cells.arrives("broadcast")
        ear.open()
        assert cells.arrives("broadcast")
        assert len(node.asked) == asked
    ear.shut()
    assert ear.state() == "shut" and len(node.asked) > asked


def test_it_is_asked_whether_the_run_is_still_ours(broker: PrivateBroker, cells: Cells) -> None:
    def taken_over() -> None:
        raise Denied("another machine took the journal over", "")

    cluster = RabbitCluster("mq4", [Node(broker)])
    ear = Ear(lambda: cluster, "/", "", broker.connect, taken_over)
    for change in (ear.shut, ear.open):
        with pytest.raises(Denied):
            change()
    assert ear.state() == "open"


def test_where_no_nova_cells_has_queues_it_says_so(broker: PrivateBroker, amqp: Amqp, cells: Cells) -> None:
    ear = ear_of(broker, Node(broker), "somebody.else")
    assert ear.state() == "none"
    for change in (ear.shut, ear.open):
        with pytest.raises(StepFailed, match=r"no nova-cells has queues somebody\.else\.\* in the vhost /"):
            change()
    amqp.delete("cells.intercell.broadcast")
    mine = ear_of(broker, Node(broker))
    assert mine.state() == "shut"
    mine.shut()
    with pytest.raises(StepFailed, match="refuses to bind a queue"):
        mine.open()


def test_a_broker_that_is_gone_is_told(broker: PrivateBroker, cells: Cells) -> None:
    cluster = RabbitCluster("mq4", [Node(broker)])

    def gone() -> Amqp:
        line = broker.connect()
        line._socket.close()
        return line

    ear = Ear(lambda: cluster, "/", "", gone)
    with pytest.raises(Unreachable, match="does not answer"), ear.at_hand():
        ear.shut()
    assert ear.state() == "open"


@pytest.mark.parametrize("cells", ["tree.words"], indirect=True)
def test_it_is_found_by_novas_own_configuration(
    broker: PrivateBroker, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = next(s for s in plan_v1(stein(), layout_v1(), 0.0).steps if s.id == SWITCH)
    conversion = Conversion.from_json(spec.params["conversion"])
    asked: list[object] = []

    class Host:
        def read(self, path: str) -> bytes:
            asked.append(path)
            url = "transport_url = rabbit://guest:guest@mq1:5672/"
            return f"[DEFAULT]\n{url}\n[cells]\nrpc_driver_queue_base = tree.words\n".encode()

        def forward(self, host: str, port: int) -> tuple[str, int]:
            asked.append(host)
            return ("127.0.0.1", broker.port)

    cluster = RabbitCluster("mq4", [Node(broker)])
    monkeypatch.setattr(RealWorld, "host", lambda self, name: Host())
    monkeypatch.setattr(RealWorld, "broker", lambda self, name: cluster if name == "mq4" else None)
    world = RealWorld(stein())
    ear = world.ear(conversion)
    assert ear is world.ear(conversion) and ear.base == "tree.words"
    ear.shut()
    assert not cells.arrives("broadcast") and cells.arrives("targeted")
    ear.open()
    assert cells.arrives("broadcast")
    assert asked == [conversion.config[1], *[conversion.new_nodes[0][0]] * 2]
