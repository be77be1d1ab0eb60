"""A real queue's leader goes to another node while messages are taken from it, and none comes twice."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from recell.adapters.rabbit_node import RabbitNode
from recell.model.rabbit import Policy, QueueHome
from tests.private_broker import PrivateBroker, node_of

_PROPERTIES = b"\x00\x00"
_QUEUE = "work"
_TURNS = 4
_AHEAD = 3
"""Messages at most that wait to be taken."""
_EMPTY = 100
"""Looks in a row that find nothing: all has been taken."""
_PAUSE_S = 0.003
_WORK_S = 0.05
"""Until a message is acknowledged: at most moments one is not."""


Pair = tuple[PrivateBroker, PrivateBroker]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    first = PrivateBroker()
    try:
        second = PrivateBroker(mate=first)
        try:
            yield first, second
        finally:
            second.stop()
    finally:
        first.stop()


def on_both(pair: Pair) -> RabbitNode:
    """The queue, empty, on both nodes."""
    client = pair[0].connect()
    client.declare(_QUEUE)
    while (message := client.get(_QUEUE)) is not None:
        client.ack(message)
    client.close()
    node = node_of(pair[0])
    on(node, [broker.name for broker in pair])
    return node


def on(node: RabbitNode, names: Sequence[str]) -> QueueHome:
    """On these nodes and no other, whole."""
    told = {"ha-mode": "nodes", "ha-params": list(names), "ha-sync-mode": "automatic"}
    node.set_policy(Policy("/", "homes", f"^{_QUEUE}$", "queues", 1, json.dumps(told)))
    until(lambda: set(queue(node).members) == set(queue(node).synced) == set(names))
    return queue(node)


def queue(node: RabbitNode) -> QueueHome:
    (found,) = [q for q in node.queues() if q.name == _QUEUE]
    return found


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


class Load:
    """Numbered messages by way of one node, taken by way of both; each acknowledged at once."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.sent, self.taken = pair, 0, Counter[bytes]()
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._send)]
        self._threads += [threading.Thread(target=self._take, args=(broker,)) for broker in pair]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        client = self.pair[0].connect()
        while not self._enough.is_set():
            if self.sent - self.taken.total() < _AHEAD and client.publish(
                "", _QUEUE, _PROPERTIES, str(self.sent).encode()
            ):
                self.sent += 1
            time.sleep(_PAUSE_S)

    def _take(self, broker: PrivateBroker) -> None:
        client = broker.connect()
        empty = 0
        while not self._enough.is_set() or empty < _EMPTY:
            message = client.get(_QUEUE)
            if message is None:
                empty += 1
                time.sleep(_PAUSE_S)
                continue
            empty = 0
            self.taken[message.body] += 1
            time.sleep(_WORK_S)
            client.ack(message)


def test_nothing_comes_twice(pair: Pair) -> None:
    node = on_both(pair)
    nodes = [broker.name for broker in pair]
    ends = dict(zip(nodes, pair, strict=True))
    with Load(pair) as load:
        for _ in range(_TURNS):
            before = load.sent
            until(lambda before=before: load.sent > before + 50)  # type: ignore[misc]
            found = on(node, nodes)
            (heir,) = [n for n in nodes if n != found.leader]
            assert node_of(ends[found.leader]).hand_over([(found, [heir])], 60) == ()
            assert on(node, [heir]).leader == heir
    assert load.taken == Counter({str(number).encode(): 1 for number in range(load.sent)})


def test_one_that_is_never_at_rest_stays_and_is_named(pair: Pair) -> None:
    node = on_both(pair)
    client = pair[1].connect()
    client.publish("", _QUEUE, _PROPERTIES, b"x")
    message = client.get(_QUEUE)
    found = queue(node)
    leader = node_of(dict(zip([b.name for b in pair], pair, strict=True))[found.leader])
    (heir,) = {broker.name for broker in pair} - {found.leader}
    assert leader.hand_over([(found, [heir])], 0.5) == (found,)
    assert queue(node).leader == found.leader
    assert leader.hand_over([(found, [heir, "rabbit@gone"])], 0.5) == (found,), "nor to who lacks something"
    assert message is not None
    client.ack(message)
    assert leader.hand_over([(found, [heir])], 60) == ()
    until(lambda: queue(node).leader == heir)
