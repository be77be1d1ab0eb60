"""Requests that wait, carried between queues of a real RabbitMQ."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.cells_rpc import CellsClient
from recell.adapters.courier import ASIDE, Courier
from recell.errors import Denied, StepFailed
from recell.model.hosts import Carried
from tests.private_broker import PrivateBroker

PROPERTIES = b"\x90\x00" + b"\x10application/json" + b"\x02"  # content type, delivery mode
HOST = "cmp2"
QUEUE = f"compute.{HOST}"


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    made = PrivateBroker()
    yield made
    made.stop()


@pytest.fixture
def connect(broker: PrivateBroker) -> Iterator[Callable[[], Amqp]]:
    made: list[Amqp] = []

    def open_() -> Amqp:
        made.append(broker.connect())
        return made[-1]

    yield open_
    cleaner = broker.connect()
    for queue in (QUEUE, ASIDE + QUEUE, "there", "reply_1"):
        cleaner.delete(queue)
    cleaner.close()
    for one in made:
        one.close()


def request(number: int, **more: Any) -> bytes:
    inner = {"method": "reboot_instance", "_unique_id": f"u{number}", "args": {"n": number}, **more}
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


def taken(amqp: Amqp, queue: str) -> list[bytes]:
    found = []
    while (message := amqp.get(queue)) is not None:
        assert message.properties == PROPERTIES
        amqp.ack(message)
        found.append(message.body)
    return found


class Renamed(Amqp):
    """The other broker: the same node, where the host's queue has another name."""

    def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bool:
        return super().publish(exchange, "there" if routing_key == QUEUE else routing_key, properties, body)


@pytest.fixture
def other(broker: PrivateBroker) -> Iterator[Amqp]:
    made = Renamed(("127.0.0.1", broker.port), "guest", "guest", "/", "the other one")
    yield made
    made.close()


def test_what_must_come_before_a_request_does(connect: Callable[[], Amqp], other: Amqp) -> None:
    here, watching = connect(), connect()
    here.declare(QUEUE)
    other.declare("there")
    for number in range(2):
        assert here.publish("", QUEUE, PROPERTIES, request(number))
    seen: list[int] = []

    def before() -> None:
        found = watching.look("there")
        assert found is not None
        seen.append(found.messages)

    Courier(here, other).carry([HOST], 30, before)
    assert seen == [0, 1]


def test_each_once_in_order_byte_for_byte(connect: Callable[[], Amqp], other: Amqp) -> None:
    here = connect()
    here.declare(QUEUE)
    other.declare("there")
    bodies = [request(n) for n in range(50)] + [b"not JSON", b"", b"[" * 300_000]
    for body in bodies:
        assert here.publish("", QUEUE, PROPERTIES, body)
    assert Courier(here, other, wait=lambda s: None).carry([HOST], 60) == Carried(len(bodies))
    assert taken(other, "there") == bodies
    look = here.look(QUEUE)
    assert look is not None and look.messages == 0
    assert Courier(here, other, wait=lambda s: None).carry([HOST], 60) == Carried()


def test_what_nobody_would_take_stays(
    connect: Callable[[], Amqp], other: Amqp, broker: PrivateBroker
) -> None:
    here = connect()
    here.declare(QUEUE)
    here.publish("", QUEUE, PROPERTIES, request(1))
    with pytest.raises(StepFailed, match="nobody takes"):
        Courier(here, other, wait=lambda s: None).carry([HOST], 60)
    here.close()
    assert taken(connect(), QUEUE) == [request(1)]


def test_the_answer_comes_back(connect: Callable[[], Amqp], other: Amqp) -> None:
    here, compute = connect(), connect()
    here.declare(QUEUE)
    here.declare("reply_1")  # of nova-api, which waits
    other.declare("there")
    call = request(7, _msg_id="m7", _reply_q="reply_1x")
    here.publish("", QUEUE, PROPERTIES, call)
    answer = json.dumps(
        {
            "oslo.version": "2.0",
            "oslo.message": json.dumps({"result": 42, "failure": None, "ending": True, "_msg_id": "m7"}),
        }
    ).encode()

    def serve() -> None:
        while (message := compute.get("there")) is None:
            pass
        compute.ack(message)
        assert compute.publish("", "reply_1x", PROPERTIES, answer), "nobody would bring it back"

    sent: list[tuple[str, bytes]] = []

    class Watched:
        """Both brokers have a queue of the sender's name; on one node the sender's own has another one."""

        def __getattr__(self, name: str) -> Any:
            return getattr(here, name)

        def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bool:
            sent.append((routing_key, body))
            return here.publish("", "reply_1", properties, body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    source: Any = Watched()
    done = Courier(source, other, wait=lambda s: None).carry([HOST], 120)
    thread.join(60)
    assert done == Carried(1, 1, 1)
    assert sent == [("reply_1x", answer)]
    assert taken(here, "reply_1") == [answer]
    assert other.look("reply_1x") is None, "the bridge is gone"


def test_set_aside_and_put_back(connect: Callable[[], Amqp]) -> None:
    here, same = connect(), connect()
    here.declare(QUEUE)
    bodies = [request(n) for n in range(3)]
    for body in bodies:
        here.publish("", QUEUE, PROPERTIES, body)
    assert Courier(here, same).set_aside([HOST, "nobody"]) == 3
    assert here.get(QUEUE) is None
    here.publish("", QUEUE, PROPERTIES, request(9))  # comes later, and is served first
    assert taken(here, QUEUE) == [request(9)]
    assert Courier(here, same).put_back([HOST, "nobody"]) == 3
    assert Courier(here, same).put_back([HOST, "nobody"]) == 0
    assert taken(here, QUEUE) == bodies and here.look(ASIDE + QUEUE) is None


def test_a_wrong_password_is_said(broker: PrivateBroker) -> None:
    with pytest.raises(Denied, match="guest"):
        broker.connect("wrong")
    with pytest.raises(Denied, match="vhost nothing"):
        broker.connect(vhost="nothing")


# -- nova-cells, asked the same way ------------------------------------------------------------------


def nova_cells(server: Amqp, answer: Callable[[dict[str, Any]], dict[str, Any]], exchange: bool) -> None:
    """Serves one request, answering through the queue itself, or the exchange of before Train."""
    message = None
    while message is None:
        message = server.get("cells")
    server.ack(message)
    content = json.loads(json.loads(message.body)["oslo.message"])
    if (queue := content.get("_reply_q")) is None:
        answer(content)
        return
    for inner in (answer(content), {"result": None, "ending": True}):
        body = {"_msg_id": content["_msg_id"], "failure": None, "ending": False, **inner}
        envelope = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(body)}).encode()
        server.publish(queue if exchange else "", queue, message.properties, envelope)


@pytest.mark.parametrize("exchange", [True, False])
def test_nova_cells_answers(connect: Callable[[], Amqp], exchange: bool) -> None:
    server, client = connect(), connect()
    server.declare("cells")
    asked: list[dict[str, Any]] = []

    def answered(result: Any) -> Any:
        def answer(content: dict[str, Any]) -> dict[str, Any]:
            asked.append(content)
            return {"result": result}

        thread = threading.Thread(target=nova_cells, args=(server, answer, exchange))
        thread.start()
        return thread

    # Dictionaries with marked names, as they were first; objects with the path beside them, as in Stein.
    plain = [{"id": f"{path}@{n}", "host": f"{path}@cmp"} for n, path in
             enumerate(("api!cell1", "api!mid!cell2"))]  # fmt: skip
    later = [
        {
            "nova_object.name": "Service",
            "nova_object.data": {"id": 1, "host": "cmp1"},
            "cell_proxy.class_name": "ServiceProxy",
            "cell_proxy.cell_path": path,
        }
        for path in ("api!cell1", "api")
    ]
    for services, paths in ((plain, {"api!cell1", "api!mid!cell2"}), (later, {"api!cell1", "api"})):
        thread = answered(services)
        assert CellsClient(client).services(30) == paths
        thread.join()
    assert asked[0]["method"] == "service_get_all" and asked[0]["_context_is_admin"] is True
    for result, free in (({"ram_free": {"total_mb": 4096}}, 4096), ({}, -1)):
        thread = answered(result)
        assert CellsClient(client).free_memory("cell1", 30) == free
        thread.join()
    assert asked[2]["args"] == {"cell_name": "cell1"}
    thread = answered(None)
    CellsClient(client).sync("p1", 1795372743.9)
    thread.join()
    since = "2026-11-22T18:39:03Z"
    assert asked[4]["args"] == {"project_id": "p1", "updated_since": since, "deleted": False}
    server.delete("cells")


def test_nova_cells_fails_is_silent_or_away(connect: Callable[[], Amqp]) -> None:
    server, client = connect(), connect()
    with pytest.raises(StepFailed, match="nobody serves cells"):
        CellsClient(client).services(1)
    server.declare("cells")
    assert CellsClient(client).services(0.3) == frozenset()
    assert server.get("cells") is not None
    failure = json.dumps({"class": "CellTimeout", "message": "no answer", "module": "nova.exception"})
    thread = threading.Thread(target=nova_cells, args=(server, lambda c: {"failure": failure}, False))
    thread.start()
    with pytest.raises(StepFailed, match="could not service_get_all: CellTimeout: no answer"):
        CellsClient(client).services(30)
    thread.join()
    for kind, known in (("CellNotFound", True), ("Unauthorized", False)):
        failure = json.dumps({"class": kind, "message": "no cell2.", "module": "nova.exception"})
        thread = threading.Thread(target=nova_cells, args=(server, lambda c: {"failure": failure}, False))  # noqa: B023
        thread.start()
        if known:
            assert CellsClient(client).free_memory("cell2", 30) == -1, "another one may have read its records"
        else:
            with pytest.raises(StepFailed, match=r"get_capacities: Unauthorized: no cell2\. See"):
                CellsClient(client).free_memory("cell2", 30)
        thread.join()
    server.delete("cells")
