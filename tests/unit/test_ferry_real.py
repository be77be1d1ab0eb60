"""recell carries requests over a bridge itself, between two real RabbitMQs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.amqp_taker import Taker
from recell.adapters.bridge_end import RabbitEnd
from recell.adapters.ferry import RabbitFerry, ashore
from recell.errors import StepFailed
from recell.planning.bridge import ANSWERS, FERRY, PREFIX, Lane, Shores, Side, shovels
from tests.private_broker import PrivateBroker
from tests.unit.test_bridge_real import Host, number, until

PROPERTIES = b"\x90\x00" + b"\x10application/json" + b"\x02"
A = TypeVar("A", bound=Amqp)
TOPIC, REPLY = "scheduler", "reply_1"
ASKS = Lane("/", TOPIC, "keep", TOPIC)
ANSWERED = Lane("/", REPLY, "new", REPLY)
WORD = "s3cret"


class Pair:
    """Two clusters, and a way to each."""

    def __init__(self) -> None:
        self.made: dict[tuple[Side, type[Amqp]], Amqp] = {}
        self.keep = PrivateBroker()
        self.new = PrivateBroker("rabbitmq_shovel")
        self.ends = {side: self._end(self.of(side)) for side in ("keep", "new")}
        for end in self.ends.values():
            end.set_account(PREFIX, WORD, ["/"])
            end.set_account(FERRY, WORD, ["/"], ANSWERS)

    def of(self, side: str) -> PrivateBroker:
        return self.keep if side == "keep" else self.new

    def _end(self, broker: PrivateBroker) -> RabbitEnd:
        host: Any = Host(broker)
        return RabbitEnd([host])

    def forward(self, host: str, port: int) -> Any:
        return host, port

    def unforward(self, local: object, host: str, port: int) -> None:
        return

    def ferry(self) -> RabbitFerry:
        keep, new = (((side, f"127.0.0.1:{self.of(side).port}"),) for side in ("keep", "new"))
        shores = Shores(keep, new, ("/",))
        reach = ashore(lambda name: self, shores, WORD)

        def connect(make: type[A], side: Side, vhost: str) -> A:
            self.made[side, make] = made = reach(make, side, vhost)
            return made

        return RabbitFerry(connect, shores.vhosts, lambda: None)

    def shovel(self, lane: Lane) -> None:
        uris: dict[Side, dict[str, list[str]]] = {
            side: {"/": [f"amqp://{PREFIX}:{WORD}@127.0.0.1:{self.of(side).port}/%2F"]}
            for side in ("keep", "new")
        }
        self.ends["new"].load({"parameters": shovels([lane], uris, self.ends["new"].version())})
        until(lambda: self.ends["new"].shovels()["/", lane.name])

    def stop(self) -> None:
        self.new.stop()
        self.keep.stop()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.stop()


@pytest.fixture
def here(pair: Pair) -> Iterator[dict[str, Amqp]]:
    """A client on each; of the queues there is the topic on both."""
    clients = {side: pair.of(side).connect() for side in ("keep", "new")}
    pair.ends["new"].clear_shovels(list(pair.ends["new"].shovels()))
    for client in clients.values():
        client.delete(REPLY)
        client.delete(TOPIC)
        client.declare(TOPIC)
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture
def ferry(pair: Pair) -> Iterator[RabbitFerry]:
    made = pair.ferry()
    yield made
    made.close()


def carried(ferry: RabbitFerry, *lanes: Lane) -> None:
    """Along these from now on, also on a machine on which it takes long to connect."""
    ferry.follow(lanes)
    until(lambda: TOPIC in ferry._ways["/", "keep"]._held)


def wrapped(**inner: Any) -> bytes:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)}).encode()


def got(amqp: Amqp, queue: str) -> list[bytes]:
    out = []
    while (message := amqp.get(queue)) is not None:
        assert message.properties == PROPERTIES
        amqp.ack(message)
        out.append(message.body)
    return out


def awaited(amqp: Amqp, queue: str, enough: int) -> list[bytes]:
    out: list[bytes] = []

    def has_come() -> bool:
        out.extend(got(amqp, queue))
        return len(out) >= enough

    until(has_come)
    return out


class Scheduler(threading.Thread):
    """Answers each question once, as soon as it comes; whether a queue was there it doesn't notice."""

    def __init__(self, broker: PrivateBroker, questions: int) -> None:
        super().__init__(daemon=True)
        self.found: list[bool] = []
        self._amqp, self._questions = broker.connect(), questions
        self.start()

    def run(self) -> None:
        while len(self.found) < self._questions:
            if (message := self._amqp.get(TOPIC)) is None:
                continue
            self._amqp.ack(message)
            asked = json.loads(json.loads(message.body)["oslo.message"])
            answer = wrapped(result=asked["args"], _msg_id=asked["_msg_id"], ending=True)
            self.found.append(self._amqp.publish("", asked["_reply_q"], PROPERTIES, answer))
        self._amqp.close()


def ask(amqp: Amqp, number: int) -> None:
    body = wrapped(method="select", args=number, _msg_id=f"m{number}", _reply_q=REPLY)
    assert amqp.publish("", TOPIC, PROPERTIES, body)


def answers(bodies: list[bytes]) -> list[int]:
    return [json.loads(json.loads(body)["oslo.message"])["result"] for body in bodies]


@pytest.mark.parametrize("ferried", [True, False])
def test_a_first_question_is_answered_with_recell_and_lost_without(
    pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry, ferried: bool
) -> None:
    pair.shovel(ASKS)
    if ferried:
        carried(ferry, ASKS)
    here["new"].declare(REPLY)
    scheduler = Scheduler(pair.keep, 1)
    ask(here["new"], 7)
    scheduler.join()
    assert scheduler.found == [ferried]
    if not ferried:
        assert got(here["new"], REPLY) == []
        return
    assert answers(awaited(here["new"], REPLY, 1)) == [7]
    assert ferry.made() == (("keep", "/", REPLY),)
    assert ferry.news() == "recell carried 2 messages over itself and made 1 queues for answers"
    assert ferry.news() == ""


def test_recell_is_no_taker(pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry) -> None:
    carried(ferry, ASKS)
    here["new"].declare(REPLY)
    ask(here["new"], 1)
    scheduler = Scheduler(pair.keep, 1)
    until(lambda: number(here["new"], REPLY) == 1)
    scheduler.join()
    for end in pair.ends.values():
        until(lambda end=end: any(t.takers for t in end.taken(["/"], "nobody")))  # type: ignore[misc]
        assert not any(t.takers for t in end.taken(["/"], PREFIX))


def test_the_bridge_takes_over_and_each_answer_comes_once(
    pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry
) -> None:
    """What the bridge makes by then is not what recell has made, and neither minds."""
    pair.shovel(ASKS)
    carried(ferry, ASKS)
    here["new"].declare(REPLY)
    scheduler = Scheduler(pair.keep, 40)
    for question in range(20):
        ask(here["new"], question)
    until(lambda: ferry.made() != ())
    model = {"vhost": "/", "name": REPLY, "durable": False, "auto_delete": False}
    pair.ends["keep"].load({"queues": [{**model, "arguments": {"x-expires": 1_800_000}}]})
    carried(ferry, ASKS, ANSWERED)
    pair.shovel(ANSWERED)
    for question in range(20, 40):
        ask(here["new"], question)
    scheduler.join()
    assert all(scheduler.found)
    assert sorted(answers(awaited(here["new"], REPLY, 40))) == list(range(40))
    assert got(here["new"], REPLY) == [] and got(here["keep"], REPLY) == []


def test_a_queue_that_is_there_is_left_as_it_is(
    pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry
) -> None:
    here["keep"].declare(REPLY, 1_800_000)
    carried(ferry, ASKS)
    ask(here["new"], 1)
    until(lambda: "made 0" in ferry.news())  # told when the request is acknowledged, after it has arrived
    assert number(here["keep"], TOPIC) == 1 and ferry.made() == ()


def test_a_queue_for_answers_that_goes_with_its_node_is_made_again(
    pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry
) -> None:
    here["new"].declare(REPLY)
    for question in range(2):
        carried(ferry, ASKS)
        scheduler = Scheduler(pair.keep, 1)
        ask(here["new"], question)
        scheduler.join()
        assert answers(awaited(here["new"], REPLY, 1)) == [question]
        here["keep"].delete(REPLY)
        until(lambda: REPLY not in ferry._ways["/", "new"]._held)
    assert not any(way.troubles for way in ferry._ways.values())


class Publisher(threading.Thread):
    """Numbered messages, one after the other, each confirmed."""

    def __init__(self, broker: PrivateBroker) -> None:
        super().__init__(daemon=True)
        self.sent, self.enough = 0, threading.Event()
        self._amqp = broker.connect()
        self.start()

    def run(self) -> None:
        while not self.enough.is_set():
            assert self._amqp.publish("", TOPIC, PROPERTIES, str(self.sent).encode())
            self.sent += 1
            time.sleep(0.02)

    def end(self) -> None:
        self.enough.set()
        self.join()
        self._amqp.close()


def test_nothing_comes_by_a_way_that_was_left(pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry) -> None:
    publisher, seen = Publisher(pair.new), []
    for _ in range(5):
        before = number(here["keep"], TOPIC)
        carried(ferry, ASKS)
        until(lambda: number(here["keep"], TOPIC) > before + 20)  # noqa: B023 -- it is called here
        ferry.follow([])
        over, waiting = number(here["keep"], TOPIC), number(here["new"], TOPIC)
        until(lambda: number(here["new"], TOPIC) > waiting + 20)  # noqa: B023
        seen.append(number(here["keep"], TOPIC) - over)
    publisher.end()
    assert seen == [0] * 5
    came = got(here["keep"], TOPIC) + got(here["new"], TOPIC)
    assert sorted(map(int, came)) == list(range(publisher.sent)), "each once"


@pytest.mark.parametrize(("side", "kind"), [("new", Taker), ("keep", Amqp)], ids=["taking", "giving"])
def test_a_connection_that_is_cut_loses_nothing(
    pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry, side: Side, kind: type[Amqp]
) -> None:
    carried(ferry, ASKS)
    publisher = Publisher(pair.new)
    for _ in range(3):
        before = number(here["keep"], TOPIC)
        until(lambda: number(here["keep"], TOPIC) > before + 20)  # noqa: B023 -- it is called here
        pair.made[side, kind]._socket.shutdown(socket.SHUT_RDWR)
    until(lambda: "leaves some requests to the shovels" in ferry.news())
    carried(ferry, ASKS)
    before = number(here["keep"], TOPIC)
    until(lambda: number(here["keep"], TOPIC) > before + 20)
    publisher.end()
    until(lambda: number(here["new"], TOPIC) == 0)
    ferry.close()
    came = Counter(map(int, got(here["keep"], TOPIC) + got(here["new"], TOPIC)))
    assert sorted(came) == list(range(publisher.sent))
    assert sum(came.values()) - len(came) <= 3 * 16, "so many oslo.messaging knows as doubled"


def test_what_finds_nobody_is_left_to_the_shovel(
    pair: Pair, here: dict[str, Amqp], ferry: RabbitFerry
) -> None:
    here["keep"].delete(TOPIC)
    ferry.follow([ASKS])
    ask(here["new"], 1)

    def left() -> bool:
        found = here["new"].look(TOPIC)
        return found is not None and (found.messages, found.consumers) == (1, 0)

    until(left)
    here["keep"].declare(TOPIC)
    ferry.follow([ASKS])
    until(lambda: number(here["keep"], TOPIC) == 1)


def test_a_ferry_that_can_not_be_had_is_said_and_holds_nobody(pair: Pair, here: dict[str, Amqp]) -> None:
    shores = Shores((("keep", "127.0.0.1:1"),), (("new", f"127.0.0.1:{pair.new.port}"),), ("/",))
    ferry = RabbitFerry(ashore(lambda name: pair, shores, WORD), shores.vhosts, lambda: None)
    ferry.follow([ASKS])
    said: list[str] = []

    def says() -> bool:
        said.append(ferry.news())
        return "on keep does not answer" in said[-1]

    until(says)
    ferry.follow([])
    assert number(here["new"], TOPIC) == 0
    ferry.close()
    ferry.close()


def test_only_queues_for_answers_may_be_declared(pair: Pair) -> None:
    amqp = Amqp(("127.0.0.1", pair.keep.port), FERRY, WORD, "/", "mq")
    with pytest.raises(StepFailed, match="access"):
        amqp.declare("compute.cmp1")
    amqp.declare("reply_2", 5000)
    amqp.close()
