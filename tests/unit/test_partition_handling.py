"""A real node's channels heed a partition handling that is set while they are open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.rabbit_node import RabbitNode
from recell.errors import Unreachable
from tests.private_broker import PrivateBroker, node_of

_PROPERTIES = b"\x00\x00"
_NODES = "['rabbit@gone']"


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    made = PrivateBroker()
    yield made
    made.stop()


@pytest.fixture
def node(broker: PrivateBroker) -> RabbitNode:
    return node_of(broker)


def in_channels(broker: PrivateBroker, code: str) -> None:
    """Run inside every channel, where what it keeps of the handling is."""
    words = f"[sys:replace_state(C, fun(S) -> {code}, S end) || C <- rabbit_channel:list_local()], ok."
    done = broker.do(["rabbitmqctl", "eval", words])
    assert done.returncode == 0, done.stdout


def publish(client: Amqp) -> bool:
    return client.publish("", "here", _PROPERTIES, b"1")


def test_channels_that_were_open_before_confirm_after_a_cut(broker: PrivateBroker, node: RabbitNode) -> None:
    client = broker.connect()
    client.declare("here")
    node.set_handling("pause_minority")
    assert publish(client) and node.view().unheeding == 0
    # What a channel keeps while other nodes are linked, and finds when they are not any more.
    in_channels(broker, f"put(pause_partition_guard, {{minority_mode, {_NODES}, pausing}})")
    in_channels(broker, "put(pause_partition_guard, {minority_mode, nodes(), pausing})")
    assert node.view().unheeding == 0, "it goes by the node's handling, and pauses"
    broker.do(["rabbitmqctl", "eval", "application:set_env(rabbit, cluster_partition_handling, ignore)."])
    assert node.view().unheeding == 1, "this is what setting it alone leaves behind"
    client._socket.settimeout(2)
    with pytest.raises(Unreachable):
        publish(client)
    again = broker.connect()
    in_channels(broker, "put(pause_partition_guard, {minority_mode, nodes(), pausing})")
    node.set_handling("ignore")
    assert publish(again) and node.view().unheeding == 0
    node.set_handling("pause_minority")
    assert node.view().unheeding == 0 and publish(again), "and the way back"
    again.close()
