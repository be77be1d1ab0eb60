"""recell carries requests between two RabbitMQ clusters itself, before the bridge's shovels.

A process makes the queue for its answers with its first question, and a bridge learns of that queue seconds
later. By then an oslo.messaging that does not notice that an answer finds no queue (Stein's) has lost it. So
a queue of that name is made where the request goes, before the request is there, and what comes into it is
brought back.

A message is acknowledged when the other side has confirmed it, so what goes wrong in between puts it back,
and shovels have it. One at a time, so one at most comes twice: oslo.messaging drops the second.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from recell.adapters.amqp import Amqp, Message
from recell.adapters.amqp_taker import Taker
from recell.adapters.courier import BRIDGE_MS, inner
from recell.errors import Locked, RecellError, StepFailed, Unreachable
from recell.planning.bridge import FERRY, Lane, Shores, Side, other

__all__ = ["RabbitFerry", "ashore"]

A = TypeVar("A", bound=Amqp)
BEFORE, AFTER = 2, -1
"""Priorities of consumers; shovels have 1, and clients none. Answers are the shovels' as soon as they can."""
OF_ONE, OF_ALL = 10, 50
"""Messages in hand, of one host's queue or of one that several take from. What goes back to the former meets
a shovel that takes ten, and not a nova-compute that begins. More of the latter go by shovels, unseen."""
HEARTBEAT_S = 10
"""RabbitMQ gives up on recell's machine after twice that."""
PATIENCE_S = 10.0
"""For one answer of a broker: what is in hand waits so long."""
_AGAIN_S = 3.0
_POLL_S = 0.05


class Via(Protocol):
    """The host of a node, as far as a connection needs it."""

    def forward(self, host: str, port: int) -> Path: ...
    def unforward(self, local: Path, host: str, port: int) -> None: ...


class Connect(Protocol):
    def __call__(self, make: type[A], side: Side, vhost: str) -> A:
        """:raises RecellError: it can't be had."""
        ...


def ashore(host_of: Callable[[str], Via], shores: Shores, password: str) -> Connect:
    """Each node from its own host, and without proof of it where it speaks TLS alone: as shovels do."""

    def connect(make: type[A], side: Side, vhost: str) -> A:
        silent: RecellError = Unreachable("a side without a node", "See the plan")
        for name, end in shores.at(side):
            scheme, _, place = end.rpartition("://")
            at = urlsplit(f"//{place}")
            host, port = str(at.hostname), at.port or (5671 if scheme else 5672)
            tls = _unproven() if scheme else None
            beat = HEARTBEAT_S if issubclass(make, Taker) else 0
            try:
                via = host_of(name)
                door = via.forward(host, port)
                try:
                    return make(
                        door, FERRY, password, vhost, f"on {name}", PATIENCE_S, tls=tls, heartbeat_s=beat
                    )
                finally:
                    via.unforward(door, host, port)  # a connection that is made stays
            except RecellError as error:
                silent = error
        raise silent

    return connect


def _unproven() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class RabbitFerry:
    """:class:`~recell.adapters.bridge_port.Ferry` on real clusters. For one thread.

    :param permit: asked before each connection; raises Locked when another run goes on with this one's work.
    """

    def __init__(self, connect: Connect, vhosts: tuple[str, ...], permit: Callable[[], None]) -> None:
        self._ways: dict[tuple[str, Side], _Way] = {}
        for vhost in vhosts:
            there, back = (_Way(connect, permit, vhost, side) for side in ("keep", "new"))
            there.back, back.back = back, there
            self._ways[vhost, "keep"], self._ways[vhost, "new"] = there, back
        self._said: set[str] = set()

    def follow(self, lanes: Iterable[Lane]) -> None:
        wanted: dict[tuple[str, Side], set[str]] = {key: set() for key in self._ways}
        for lane in lanes:
            if lane.asks and (lane.vhost, lane.toward) in wanted:
                wanted[lane.vhost, lane.toward].add(lane.queue)
        for key, way in self._ways.items():
            way.follow(wanted[key])

    def made(self) -> tuple[tuple[Side, str, str], ...]:
        return tuple((s, v, q) for (v, s), way in self._ways.items() for q in sorted(way.made))

    def news(self) -> str:
        out = []
        carried, made = (sum(n) for n in zip(*(way.told() for way in self._ways.values()), strict=True))
        if carried:
            out.append(f"recell carried {carried} messages over itself and made {made} queues for answers")
        for trouble in dict.fromkeys(one for way in self._ways.values() for one in list(way.troubles)):
            if trouble not in self._said:
                self._said.add(trouble)
                out.append(f"recell leaves some requests to the shovels alone ({trouble})")
        return "; ".join(out)

    def close(self) -> None:
        for way in self._ways.values():
            way.close()


class _Way:
    """One vhost, one direction, and a thread for it."""

    back: _Way

    def __init__(self, connect: Connect, permit: Callable[[], None], vhost: str, toward: Side) -> None:
        self._connect, self._permit = connect, permit
        self._vhost, self._toward = vhost, toward
        self._turn = Condition()
        self._requests: set[str] = set()
        self._answers: set[str] = set()
        self._refused: set[str] = set()
        self._known: set[str] = set()
        self._held: set[str] = set()
        self._enough = Event()
        self._thread: Thread | None = None
        self._carried = self._before = 0
        self.made: set[str] = set()
        self.troubles: dict[str, None] = {}
        self._in_trouble = False

    # -- asked by the run's own threads ------------------------------------------------------------

    def follow(self, queues: set[str]) -> None:
        with self._turn:
            self._requests = queues
            # They may have come, or gone with a node, since the last look.
            self._refused, self._known = set(), set()
            if self._thread is None:
                self._enough.clear()
                self._thread = Thread(target=self._go, daemon=True)
                self._thread.start()
            self._turn.wait_for(lambda: self._held <= self._wanted().keys())
            self._turn.wait_for(
                lambda: self._in_trouble or self._requests <= self._held | self._refused, PATIENCE_S
            )

    def told(self) -> tuple[int, int]:
        with self._turn:
            found, self._carried, self._before = (self._carried, self._before), 0, 0
        return found

    def close(self) -> None:
        self._enough.set()
        if self._thread is not None:
            self._thread.join()
        with self._turn:
            self._thread, self._requests, self._answers = None, set(), set()

    # -- its thread --------------------------------------------------------------------------------

    def _wanted(self) -> dict[str, int]:
        return dict.fromkeys(self._answers, AFTER) | dict.fromkeys(self._requests, BEFORE)

    def _go(self) -> None:
        while not self._enough.is_set():
            try:
                self._permit()
                self._sail()
            except RecellError as error:
                with self._turn:
                    self.troubles[error.sentence] = None
                    self._in_trouble = True
                    self._turn.notify_all()
                if isinstance(error, Locked):
                    return
            self._enough.wait(_AGAIN_S)

    def _sail(self) -> None:
        """:raises RecellError: something is wrong; all that was in hand is in its queue again."""
        taker = self._connect(Taker, other(self._toward), self._vhost)
        try:
            giver = self._connect(Amqp, self._toward, self._vhost)
            try:
                self._in_trouble, heard = False, time.monotonic()
                while not self._enough.is_set():
                    self._turn_to(taker)
                    if (found := taker.next(_POLL_S)) is not None:
                        if time.monotonic() - heard > HEARTBEAT_S:
                            raise Unreachable("recell was away from RabbitMQ for too long", "")
                        self._carry(taker, giver, *found)
                    heard = time.monotonic()
            finally:
                giver.close()
        finally:
            taker.close()
            self._let_go(*self._held)

    def _turn_to(self, taker: Taker) -> None:
        """Take from what is wanted now, and from nothing else."""
        with self._turn:
            ended = taker.ended()
            self._refuse(*ended)
            wanted = self._wanted()
            gone, come = (self._held - wanted.keys()) | ended, wanted.keys() - self._held - self._refused
        for queue in gone:
            taker.leave(queue)
            self._let_go(queue)
        for queue in come:
            with self._turn:
                if queue not in self._wanted():
                    continue
                try:
                    taker.take(queue, wanted[queue], OF_ONE if "." in queue else OF_ALL)
                except RecellError:
                    self._refuse(queue)
                    raise
                self._held.add(queue)
                self._turn.notify_all()

    def _refuse(self, *queues: str) -> None:
        """They are not there, or not for us: the shovels' until the bridge is looked at again."""
        self._refused |= set(queues)
        self._answers -= set(queues)  # its asker's next question makes it again

    def _let_go(self, *queues: str) -> None:
        with self._turn:
            self._held -= set(queues)
            self._turn.notify_all()

    def _carry(self, taker: Taker, giver: Amqp, queue: str, message: Message) -> None:
        try:
            made = self._await_answer(giver, message.body)
            over = giver.publish("", queue, message.properties, message.body)
        except StepFailed as error:
            self.troubles[error.sentence], over = None, False
        if over:
            taker.ack(message)
            with self._turn:
                self._carried, self._before = self._carried + 1, self._before + made
            return
        with self._turn:
            self._refuse(queue)
        taker.leave(queue)
        taker.put_back(message)
        self._let_go(queue)

    def _await_answer(self, giver: Amqp, body: bytes) -> bool:
        """See that the answer, if one is wanted, finds a queue. Whether one was made."""
        queue = str(inner(body).get("_reply_q") or "")
        if not queue.startswith("reply_") or queue in self._known:
            return False
        made = False
        if giver.look(queue) is None:
            try:
                giver.declare(queue, BRIDGE_MS)
                made = True
            except StepFailed:
                if giver.look(queue) is None:  # else the bridge has made it meanwhile, otherwise
                    raise
        with self._turn:
            self._known.add(queue)
        if made:
            self.made.add(queue)
            self.back.bring_back(queue)
        return made

    def bring_back(self, queue: str) -> None:
        """What comes there is carried as well, from now until the end."""
        with self._turn:
            self._answers.add(queue)
