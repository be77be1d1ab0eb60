"""What is sent to a client stays with recell while it starts, on a real RabbitMQ."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from recell.adapters.amqp import Amqp, _short
from recell.adapters.waiting_room import RabbitRoom
from recell.errors import Denied, RecellError, Unreachable
from tests.private_broker import PrivateBroker

PROPERTIES = b"\x90\x00" + b"\x10application/json" + b"\x02"
OTHER = "compute-alt.cmp1"
KINDS = ("classic", "mirrored", "quorum")
DURABLE = 0b10
HOLDER = """
import sys, time
from recell.adapters.amqp import Amqp
from recell.adapters.waiting_room import RabbitRoom
port, queue = int(sys.argv[1]), sys.argv[2]
login = "guest", "guest", "/", "mq"
with RabbitRoom(lambda beat: Amqp(("127.0.0.1", port), *login, heartbeat_s=beat), [queue]) as room:
    room.hold()
    print("holds", flush=True)
    time.sleep(3600)
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    made = PrivateBroker()
    mate = None
    try:
        mate = PrivateBroker(mate=made)
        everywhere = ["set_policy", "all", "^mirrored", '{"ha-mode":"all"}']
        assert made.do(["rabbitmqctl", "-q", *everywhere]).returncode == 0
        yield made
    finally:
        if mate is not None:
            mate.stop()
        made.stop()


@pytest.fixture(params=KINDS)
def queue(broker: PrivateBroker, request: pytest.FixtureRequest) -> str:
    """An empty one of each kind."""
    name = f"{request.param}.cmp1"
    table = _short("x-queue-type") + b"S" + struct.pack(">I", 6) + b"quorum"
    arguments = table if request.param == "quorum" else b""
    until = time.monotonic() + 120
    while True:
        amqp = broker.connect()
        try:
            amqp.delete(name)
            amqp._declare(name, DURABLE, arguments)
            break
        except Unreachable:
            # On a busy machine the members of a quorum queue may not find each other in RabbitMQ's own time.
            assert time.monotonic() < until
        finally:
            amqp.close()
    return name


def room_of(broker: PrivateBroker, *queues: str) -> RabbitRoom:
    door = ("127.0.0.1", broker.port)
    return RabbitRoom(lambda beat: Amqp(door, "guest", "guest", "/", "mq-test", heartbeat_s=beat), queues)


class Compute(threading.Thread):
    """Takes what it is given, and acknowledges it."""

    def __init__(self, broker: PrivateBroker, queue: str) -> None:
        super().__init__(daemon=True)
        self.taken: list[int] = []
        self._amqp = Amqp(("127.0.0.1", broker.port), "guest", "guest", "/", "mq-test", timeout=3600)
        self._amqp.withhold(queue, 0)
        self.start()

    def run(self) -> None:
        try:
            while True:
                method, arguments = self._amqp._method(1)
                assert method == (60, 60)
                tag = struct.unpack(">Q", arguments[1 + arguments[0] :][:8])[0]
                _, body = self._amqp._content()
                self.taken.append(int(body))
                self._amqp._send(1, (60, 80), struct.pack(">QB", tag, 0))
        except Unreachable:
            return

    def end(self) -> None:
        self._amqp._socket.shutdown(2)
        self.join()


class Api(threading.Thread):
    """Numbered messages, one after the other, each confirmed."""

    def __init__(self, broker: PrivateBroker, queue: str) -> None:
        super().__init__(daemon=True)
        self.amqp, self.queue, self.sent, self.enough = broker.connect(), queue, 0, threading.Event()

    def send(self) -> None:
        assert self.amqp.publish("", self.queue, PROPERTIES, str(self.sent).encode())
        self.sent += 1

    def run(self) -> None:
        while not self.enough.is_set():
            self.send()
            time.sleep(0.001)


def until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.02)


def takers(amqp: Amqp, queue: str) -> int:
    found = amqp.look(queue)
    return found.consumers if found else 0


def test_nobody_else_is_given_what_is_held_and_then_all_of_it_in_order(
    broker: PrivateBroker, queue: str
) -> None:
    api = Api(broker, queue)
    for _ in range(3):
        api.send()  # asked while the old process was ended
    with room_of(broker, queue, "compute-alt.nobody") as room:
        assert not room.others()
        room.hold()
        room.hold()
        api.send()
        compute = Compute(broker, queue)
        until(room.others)
        for _ in range(300):
            api.send()
        assert compute.taken == []
        api.start()
        until(lambda: api.sent > 400)
        assert compute.taken == []
        room.release()
        until(lambda: len(compute.taken) > 600)
        room.hold()  # again, while it takes
        until(lambda: api.sent > 900)
    until(lambda: len(compute.taken) > 1200)
    api.enough.set()
    api.join()
    until(lambda: len(compute.taken) == api.sent)
    assert compute.taken == list(range(api.sent))
    compute.end()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_of_a_recell_that_dies_or_hangs_all_goes_back(
    broker: PrivateBroker, queue: str, how: signal.Signals
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(broker.port), queue],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"holds\n"
        compute, api = Compute(broker, queue), Api(broker, queue)
        for _ in range(20):
            api.send()
        assert compute.taken == []
        holder.send_signal(how)
        until(lambda: len(compute.taken) == 20)
        api.send()
        until(lambda: len(compute.taken) == 21)
        assert compute.taken == list(range(21))
        compute.end()
    finally:
        holder.kill()
        holder.communicate()


def test_a_connection_that_is_cut_is_made_again(broker: PrivateBroker, queue: str) -> None:
    made: list[int] = []

    def connect(beat: int) -> Amqp:
        amqp = Amqp(("127.0.0.1", broker.port), "guest", "guest", "/", "mq-test", heartbeat_s=beat)
        made.append(beat)
        return amqp

    with RabbitRoom(connect, [queue]) as room:
        room.hold()
        compute, api = Compute(broker, queue), Api(broker, queue)
        until(room.others)
        ended = broker.do(["rabbitmqctl", "-q", "eval", _END_THOSE_WITH_HEARTBEATS])
        assert ended.returncode == 0, ended.stderr
        until(lambda: len([beat for beat in made if beat]) == 2)
        assert not room.others(), "who the others are can't be told any more"
        looks = broker.connect()
        until(lambda: takers(looks, queue) == 2)
        api.send()
        assert compute.taken == []
    until(lambda: compute.taken == [0])
    compute.end()


_END_THOSE_WITH_HEARTBEATS = (
    '[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections(),'
    " rabbit_reader:info(P, [timeout]) =:= [{timeout, 10}]]."
)


def test_a_room_that_can_not_be_had_is_said_before_anything_is_touched(broker: PrivateBroker) -> None:
    door = ("127.0.0.1", broker.port)
    room = RabbitRoom(lambda beat: Amqp(door, "guest", "wrong", "/", "mq", heartbeat_s=beat), [OTHER])
    with pytest.raises(Denied), room:
        pytest.fail("it was entered")


def test_queues_that_are_not_there_are_not_made(broker: PrivateBroker) -> None:
    amqp = broker.connect()
    with room_of(broker, OTHER) as room:
        room.hold()
        assert not room.others()
        assert amqp.look(OTHER) is None
    assert amqp.look(OTHER) is None
    with pytest.raises(RecellError, match=OTHER):
        amqp.withhold(OTHER, 1)
