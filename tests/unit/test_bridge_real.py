"""A cluster as an end of a bridge, on a real RabbitMQ."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.bridge_end import RabbitEnd
from recell.adapters.ports import Finished, UnitState
from recell.errors import Unreachable
from recell.planning.bridge import Lane, Side, copied, lacking, shovels
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
        return self.broker.do(argv, 600, stdin)

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


def _at_least(amqp: Amqp, queues: Sequence[str], enough: int) -> bool:
    return sum(number(amqp, queue) for queue in queues) >= enough


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


def test_a_shovel_goes_before_other_takers_of_its_queue(broker: PrivateBroker, end: RabbitEnd) -> None:
    """A server that begins on this side; here another shovel stands in for it."""
    here, rival = broker.connect(), "rival"
    for queue in (SOURCE, TARGET, rival):
        here.delete(queue)
        here.declare(queue)
    at = {"/": [f"amqp://guest:guest@127.0.0.1:{broker.port}/%2F"]}
    uris: dict[Side, dict[str, list[str]]] = {"keep": at, "new": at}
    mine, other = (Lane("/", queue, "keep", SOURCE) for queue in (TARGET, rival))
    end.load({"parameters": [*shovels([other], uris), *shovels([mine], uris, end.version())]})
    until(lambda: list(end.shovels().values()) == [True, True])
    for sent in range(20):
        here.publish("", SOURCE, PROPERTIES, str(sent).encode())
        until(partial(_at_least, here, (TARGET, rival), sent + 1))
    end.clear_shovels([("/", mine.name)])
    here.publish("", SOURCE, PROPERTIES, b"last")
    until(lambda: number(here, rival) > 0)
    end.clear_shovels([("/", other.name)])
    assert (number(here, TARGET), number(here, rival)) == (20, 1)


@pytest.mark.parametrize("gone", [SOURCE, TARGET])
def test_a_queue_that_went_with_its_node_is_not_made_by_a_shovel(
    broker: PrivateBroker, end: RabbitEnd, gone: str
) -> None:
    end.set_account("recell-bridge", "s3cret", ["/"])
    here = broker.connect()
    for queue in (SOURCE, TARGET):
        here.delete(queue)
        here.declare(queue)
    at = {"/": [f"amqp://recell-bridge:s3cret@127.0.0.1:{broker.port}/%2F"]}
    uris: dict[Side, dict[str, list[str]]] = {"keep": at, "new": at}
    lane = Lane("/", TARGET, "keep", SOURCE)
    end.load({"parameters": shovels([lane], uris)})
    until(lambda: end.shovels()[("/", lane.name)])
    here.delete(gone)
    restart = "[exit(P, kill) || {_, S, _, _} <- mirrored_supervisor:which_children(SUP),"
    restart += " {_, P, _, _} <- supervisor2:which_children(S), is_pid(P)]."
    restart = restart.replace("SUP", "rabbit_shovel_dyn_worker_sup_sup")
    assert broker.do(["rabbitmqctl", "eval", restart], 600).returncode == 0
    until(lambda: here.look(gone) is not None or not end.shovels()[("/", lane.name)])
    assert here.look(gone) is None, "its client would be refused this one"
    here.declare(gone)
    until(lambda: end.shovels()[("/", lane.name)])
    assert here.publish("", SOURCE, PROPERTIES, b"one")
    until(lambda: number(here, TARGET) == 1)
    end.clear_shovels([("/", lane.name)])


def test_a_quorum_queue_that_does_not_answer_is_not_empty(broker: PrivateBroker, end: RabbitEnd) -> None:
    arguments = {"x-queue-type": "quorum"}
    queue = {"vhost": "/", "name": "q", "durable": True, "auto_delete": False, "arguments": arguments}
    end.load({"queues": [queue]})
    here = broker.connect()
    assert here.publish("", "q", PROPERTIES, b"one")
    find = (
        '{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"q">>)), P = amqqueue:get_pid(Q),'
    )
    assert broker.do(["rabbitmqctl", "eval", f"{find} sys:suspend(P)."], 600).returncode == 0
    end.drop_queues([("/", "q")])
    assert broker.do(["rabbitmqctl", "eval", f"{find} sys:resume(P)."], 600).returncode == 0
    assert number(here, "q") == 1
    end.drop_queues([("/", "q")])
    assert number(here, "q") == 1, "there is a message in it"
    end.drop_queues([("/", "q")], full=True)
    assert here.look("q") is None


def test_operator_policies_are_told_and_taken(broker: PrivateBroker, end: RabbitEnd) -> None:
    said = broker.do(["rabbitmqctl", "set_operator_policy", "top", ".*", '{"max-length": 5}'], 600)
    assert said.returncode == 0
    told = copied(end.definitions(), "3.10.8")
    assert broker.do(["rabbitmqctl", "clear_operator_policy", "top"], 600).returncode == 0
    assert lacking(told, copied(end.definitions(), "3.10.8")) == ("operator policy top",)
    end.load(told.definitions())
    assert lacking(told, copied(end.definitions(), "3.10.8")) == ()
    broker.do(["rabbitmqctl", "clear_operator_policy", "top"], 600)


def test_rabbitmqctl_keeps_what_its_host_gives_it(broker: PrivateBroker, tmp_path: Path) -> None:
    class Configured(Host):
        def query(self, argv: Sequence[str], **more: Any) -> Finished:
            assert argv[0] == "env"
            return super().query(["env", f"RABBITMQ_CONF_ENV_FILE={conf}", *argv[1:]], **more)

    conf = tmp_path / "rabbitmq-env.conf"
    one: Any = Configured(broker)
    conf.write_text("")
    assert RabbitEnd([one]).version().startswith("3.")
    conf.write_text('CTL_ERL_ARGS="-setcookie another"\n')
    with pytest.raises(Unreachable):
        RabbitEnd([one]).version()
