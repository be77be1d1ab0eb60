"""A real RabbitMQ tells by its door what rabbitmqctl tells: unacknowledged messages above all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recell.adapters import agent
from recell.adapters.broker import RabbitCluster
from recell.adapters.containers import Inside
from recell.adapters.ports import Contained, Finished
from recell.adapters.rabbit_settings import SETTINGS, main_file, settings_of
from recell.errors import Unreachable
from tests.private_broker import PrivateBroker

IDLE_S = 60.0
PROPERTIES = b"\x90\x00" + b"\x10application/json" + b"\x02"


class Node:
    """The broker's host. ``asked``: commands of rabbitmqctl, by their first words."""

    name = "mq1"

    def __init__(self, broker: PrivateBroker) -> None:
        self.broker = broker
        self.asked: list[str] = []
        self.doors: list[str] = []
        self.shut = False

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None
    ) -> Finished:
        assert user == "rabbitmq"
        self.asked.append(argv[4])
        return self.broker.do(argv, timeout)

    run = query

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        if self.shut:
            raise Unreachable("nobody answers", "")
        self.doors.append(path)
        try:
            found = agent.do_unix({"path": path, "data": agent.pack(data), "timeout": timeout})
        except OSError as error:
            raise Unreachable(str(error), "") from None
        return agent.unpack(found["answer"])


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    made = PrivateBroker()
    yield made
    made.stop()


def counted(cluster: RabbitCluster) -> dict[str, tuple[int, int, int, bool]]:
    return {
        q.name: (q.messages_ready, q.messages_unacknowledged, q.consumers, q.durable)
        for q in cluster.queues("/")
    }


def test_it_tells_what_rabbitmqctl_tells_and_asks_no_command(broker: PrivateBroker) -> None:
    node, amqp = Node(broker), broker.connect()
    cluster = RabbitCluster("mq1", [node])
    for name in ("conductor", "compute.cmp1", "quiet \u00e9"):
        amqp.declare(name)
    for number in range(5):
        amqp.publish("", "conductor", PROPERTIES, b"%d" % number)
    first, second = amqp.get("conductor"), amqp.get("conductor")
    assert first is not None and second is not None
    want = {"conductor": (3, 2, 0, False), "compute.cmp1": (0, 0, 0, False), "quiet \u00e9": (0, 0, 0, False)}
    assert counted(cluster) == want
    node.asked.clear()
    with cluster.at_hand("/", IDLE_S):
        assert node.asked == ["eval"]
        assert counted(cluster) == want
        amqp.ack(first)
        until(lambda: counted(cluster)["conductor"] == (3, 1, 0, False))
        amqp.ack(second)
        until(lambda: counted(cluster)["conductor"] == (3, 0, 0, False))
        assert node.asked == ["eval"], "rabbitmqctl was started once"
        assert cluster.slow_because("/") == ""
        (path,) = set(node.doors)
        assert agent.do_glob({"pattern": path}) == [path]
    until(lambda: agent.do_glob({"pattern": path}) == [])
    assert counted(cluster)["conductor"] == (3, 0, 0, False) and node.asked == ["eval", "list_queues"]
    amqp.close()


def until(reached: Callable[[], bool]) -> None:
    """The broker takes a moment for what it was told."""
    for _ in range(1500):
        if reached():
            return
        time.sleep(0.02)
    pytest.fail("it never came to that")


def test_a_door_that_is_gone_costs_time_and_nothing_else(broker: PrivateBroker) -> None:
    node = Node(broker)
    cluster = RabbitCluster("mq1", [node])
    with cluster.at_hand("/", IDLE_S):
        node.shut = True
        known = counted(cluster)
        assert node.asked == ["eval", "list_queues"]
        node.shut = False
        assert counted(cluster) == known and node.asked == ["eval", "list_queues", "list_queues"]
    assert cluster.slow_because("/") == "nobody answers"


def test_a_queue_that_is_there_and_does_not_answer_is_not_taken_for_empty(broker: PrivateBroker) -> None:
    node, amqp = Node(broker), broker.connect()
    cluster = RabbitCluster("mq1", [node])
    amqp.declare("lost")
    words = (
        '{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"lost">>)),'
        " P = spawn(fun() -> ok end), mnesia:dirty_write(rabbit_queue, amqqueue:set_pid(Q, P))."
    )
    with cluster.at_hand("/", IDLE_S):
        counted(cluster)
        assert cluster.slow_because("/") == ""
        assert broker.do(["rabbitmqctl", "-q", "eval", words]).returncode == 0
        counted(cluster)
        assert "does not tell of its queues" in cluster.slow_because("/")
        assert node.asked[-1] == "list_queues"
    amqp.close()


def test_it_ends_by_itself_and_what_a_killed_broker_left_goes(broker: PrivateBroker) -> None:
    node = Node(broker)
    cluster = RabbitCluster("mq1", [node])
    with cluster.at_hand("/", 0.05):
        path = node.doors[0]
        until(lambda: agent.do_glob({"pattern": path}) == [])
        counted(cluster)
        assert node.asked == ["eval", "list_queues"]
    left = path.rpartition("-")[0] + "-left"
    Path(left).touch()
    with cluster.at_hand("/", IDLE_S):
        assert agent.do_glob({"pattern": left}) == []


def test_where_it_can_not_be_had_rabbitmqctl_answers() -> None:
    class Old(Node):
        def query(self, argv: Sequence[str], **_: Any) -> Finished:
            self.asked.append(argv[4])
            if argv[4] == "eval":
                return Finished(0, b"{error,badarg}\n", b"")
            return Finished(0, b"name\tmessages_ready\nq\t1\t2\t3\ttrue\n", b"")

        run = query

    node = Old(None)  # type: ignore[arg-type]
    cluster = RabbitCluster("mq1", [node])
    with cluster.at_hand("/", IDLE_S):
        assert counted(cluster) == {"q": (1, 2, 3, True)}
    assert node.asked == ["eval", "list_queues"]
    assert "opens no socket ({error,badarg})" in cluster.slow_because("/")


def test_in_a_container_the_socket_is_found_through_its_volume() -> None:
    asked: list[str] = []

    class Host:
        name = "ctl1"

        def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
            asked.append(path)
            return b"yes"

    inside = Inside(Host(), "kolla-rabbitmq-container")
    assert inside.unix_query("/a", b"?") == b"yes"
    inside._container = Contained(
        "docker", "rabbitmq", mounts=(("/var/lib/rabbitmq", "/var/lib/docker/volumes/rabbitmq/_data"),)
    )
    assert inside.unix_query("/var/lib/rabbitmq/mnesia/x", b"?") == b"yes"
    assert asked == ["/a", "/var/lib/docker/volumes/rabbitmq/_data/mnesia/x"]
    with pytest.raises(Unreachable, match="inside a container"):
        inside.unix_query("/tmp/x", b"?")


def test_a_node_tells_how_it_was_started(broker: PrivateBroker) -> None:
    done = broker.do(["rabbitmqctl", "-q", "eval", SETTINGS.strip() + "."], 300)
    told = json.loads(next(line for line in done.stdout.decode().splitlines() if line.startswith("{")))
    found = settings_of(told, "")
    assert found.speaks(broker.port) == ("amqp",), "and on its distribution's port nothing of AMQP"
    assert not found.cookie_given and found.joins == found.movers == found.node_policies == ()
    assert main_file(told) == f"{broker.directory}/none.conf"
