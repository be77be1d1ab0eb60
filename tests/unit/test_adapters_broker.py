"""RabbitMQ as its rabbitmqctl speaks: 3.10's own words, and 3.6's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from recell.adapters.broker import RabbitCluster
from recell.adapters.ports import Finished
from recell.errors import BadInput, StepFailed, Unreachable, Unsupported

_UUID = "0284c4bb-394f-417d-bc54-dc04195c85f9"
_CONNECTIONS = (
    "pid\tname\tuser\tvhost\tpeer_host\tpeer_port\tclient_properties\n"
    "<rabbit@mq1.1795.866.0>\t10.77.0.11:49262 -> 10.77.0.41:5672\tnova\t/\t10.77.0.11\t49262\t"
    '[{"product","py-amqp"},{"capabilities",[{"connection.blocked",true}]},'
    f'{{"connection_name","nova-conductor:18030:{_UUID}"}}]\n'
    "<'rabbit@mq-2'.1795.887.0>\tb\tnova\tcell1\t::ffff:10.77.0.12\t49268\t[]\n"
    "<rabbit@mq1.1795.9.0>\tclosing\t\t\t\t\n"
)
_ANSWERS = {
    "eval rabbit_misc:version().": '"3.10.8"\n',
    "eval node().": "rabbit@mq1\n",
    "eval {rabbit_misc:version(), rabbit_alarm:get_alarms()}.":
        "{\"3.10.8\",[{{resource_limit,memory,rabbit@mq1},[]},{{resource_limit,disk,'rabbit@mq-2'},[]}]}\n",
    "--formatter json cluster_status": '{"running_nodes":["rabbit@mq2","rabbit@mq1"]}',
    "list_vhosts name": "name\n/\ncell1\n",
    "list_users": "user\ttags\nguest\t[administrator]\nnova\t[]\n",
    "list_queues -p / name messages_ready messages_unacknowledged consumers durable":
        "name\tmessages_ready\tmessages_unacknowledged\tconsumers\tdurable\n"
        "conductor\t3\t1\t2\tfalse\ndown\t\t\t\ttrue\n",
    "list_consumers -p /":
        "queue_name\tchannel_pid\tconsumer_tag\tack_required\tprefetch_count\tactive\targuments\n"
        "conductor\t<rabbit@mq1.1795.875.0>\t1\ttrue\t0\ttrue\t[]\n"
        "gone\t<rabbit@mq1.1795.1.0>\t1\ttrue\t0\ttrue\t[]\n",
    "list_channels pid connection":
        "pid\tconnection\n<rabbit@mq1.1795.875.0>\t<rabbit@mq1.1795.866.0>\n",
    "list_connections pid name user vhost peer_host peer_port client_properties": _CONNECTIONS,
    "list_permissions -p /": "user\tconfigure\twrite\tread\nnova\t.*\t.*\t.*\n",
    "add_vhost cell9": "",
    "add_user recell": "",
    "close_connection <rabbit@mq1.1795.866.0> recell": "",
}


@dataclass
class Host:
    """A host on which RabbitMQ gives canned answers."""

    name: str = "mq1"
    answers: dict[str, str] = field(default_factory=lambda: dict(_ANSWERS))
    down: bool = False
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60,
        user: str | None = None,
    ) -> Finished:
        assert argv[0] == "env" and list(argv[2:4]) == ["rabbitmqctl", "-q"]
        assert user == "rabbitmq"
        words = " ".join(argv[4:])
        self.asked.append((words, stdin))
        if self.down:
            return Finished(69, b"", b"Error: unable to perform an operation on node 'rabbit@mq1'.")
        if words.startswith("authenticate_user"):
            if stdin == b"right\n":
                return Finished(0, b"Success", b"")
            return Finished(65, b"", b"Error:\nError: failed to authenticate user \"nova\"\n")
        if words not in self.answers:
            return Finished(70, b"", b'Error:\nUser "nova" already exists\n')
        return Finished(0, self.answers[words].encode(), b"")

    run = query


def _cluster(*hosts: Host) -> RabbitCluster:
    made: Any = hosts or (Host(),)
    return RabbitCluster("mq1", made)


def test_questions() -> None:
    cluster = _cluster()
    assert cluster.version() == "3.10.8"
    assert cluster.running_nodes() == ("rabbit@mq1", "rabbit@mq2")
    assert cluster.vhosts() == ("/", "cell1")
    assert cluster.users() == ("guest", "nova")
    assert cluster.alarms() == ("disk on rabbit@mq-2", "memory on rabbit@mq1")
    assert cluster.permissions("/") == {"nova": (".*", ".*", ".*")}
    conductor, down = cluster.queues("/")
    assert (conductor.messages_ready, conductor.messages_unacknowledged) == (3, 1)
    assert (conductor.consumers, conductor.durable) == (2, False)
    assert (down.messages_ready, down.durable) == (0, True)


def test_connections_and_consumers() -> None:
    cluster = _cluster()
    first, second = cluster.connections()
    assert (first.program, first.pid, first.node) == ("nova-conductor", 18030, "rabbit@mq1")
    assert (second.peer_host, second.node) == ("10.77.0.12", "rabbit@mq-2")
    assert (second.program, second.pid) == ("", 0)
    (consumer,) = cluster.consumers("/")
    assert (consumer.queue, consumer.peer_host, consumer.peer_port) == (
        "conductor", "10.77.0.11", 49262)
    assert consumer.client_name == f"nova-conductor:18030:{_UUID}"


def test_an_old_broker_without_headers() -> None:
    host = Host()
    host.answers |= {
        "eval rabbit_misc:version().": '"3.6.16"\n',
        "list_vhosts name": "/\n",
        "cluster_status": "Cluster status of node\n[{nodes,[{disc,[a@x]}]},\n"
                          " {running_nodes,['rabbit@mq-2',rabbit@mq1]},\n {partitions,[]}]\n",
    }
    cluster = _cluster(host)
    assert cluster.vhosts() == ("/",)
    assert cluster.running_nodes() == ("rabbit@mq-2", "rabbit@mq1")
    with pytest.raises(Unsupported, match="takes passwords on its command line only"):
        cluster.add_user("nova", "s3cret")
    assert all("s3cret" not in words and b"s3cret" not in given for words, given in host.asked)


def test_passwords_go_by_standard_input() -> None:
    host = Host()
    cluster = _cluster(host)
    assert cluster.password_works("nova", "right")
    assert not cluster.password_works("nova", "wrong")
    cluster.add_user("recell", 's3"$cret')
    assert ("add_user recell", b's3"$cret\n') in host.asked
    assert all("cret" not in words for words, _ in host.asked)


def test_changes() -> None:
    host = Host()
    cluster = _cluster(host)
    cluster.add_vhost("cell9")
    cluster.end_connection("10.77.0.11:49262 -> 10.77.0.41:5672")
    assert host.asked[-1][0] == "close_connection <rabbit@mq1.1795.866.0> recell"
    with pytest.raises(StepFailed, match='broker mq1 \\(User "nova" already exists\\)'):
        cluster.add_user("nova", "x")
    for name in ("", "-p"):
        with pytest.raises(BadInput):
            cluster.add_vhost(name)


def test_the_first_host_that_answers_speaks() -> None:
    dead, alive = Host("mq1", down=True), Host("mq2")
    cluster = _cluster(dead, alive)
    assert cluster.vhosts() == ("/", "cell1")
    cluster.users()
    assert len(dead.asked) == 1  # not asked again
    dead, alive = Host("mq1", down=True), Host("mq2")
    _cluster(dead, alive).add_vhost("cell9")
    # A change is tried on a node that was seen to run.
    assert [words for words, _ in dead.asked] == ["eval node()."]
    with pytest.raises(Unreachable, match="does not answer on mq1, mq2"):
        _cluster(Host("mq1", down=True), Host("mq2", down=True)).users()
