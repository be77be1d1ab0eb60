"""What is sent to a client stays with recell while it starts, by RabbitMQ's consumer priorities.

A taker of higher priority is given every message, also when another one takes from the same queue. One that
acknowledges nothing takes none away: when its channel ends, the queue puts them back where they were, and
gives them to whoever takes there then. It is not cancelled before that, or what comes in between would
overtake what is held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread

from recell.adapters.amqp import Amqp
from recell.errors import RecellError

__all__ = ["RabbitRoom"]

PRIORITY = 1000
"""recell's own shovels have 1."""
HEARTBEAT_S = 10
"""RabbitMQ gives up on recell's machine after twice that."""
_ATTEND_S = 0.1
_AGAIN_S = 0.5


class RabbitRoom:
    """:class:`~recell.adapters.waiting_room_port.WaitingRoom` for queues of one vhost. For one thread; has
    one of its own meanwhile.

    :param connect: a connection of the client's own account, with this heartbeat (seconds, 0 for none).
    """

    def __init__(self, connect: Callable[[int], Amqp], queues: Sequence[str]) -> None:
        self._connect = connect
        self._queues = tuple(queues)
        self._looker: Amqp | None = None
        self._enough = Event()
        self._counts = False
        self._holder: Thread | None = None

    def __enter__(self) -> RabbitRoom:
        self._look()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
        self._forget_looker()

    def hold(self) -> None:
        if self._holder is None:
            self._enough.clear()
            self._holder = Thread(target=self._stay, args=(self._taken(),), daemon=True)
            self._counts = True
            self._holder.start()

    def others(self) -> bool:
        try:
            return self._counts and any(takers > 1 for takers in self._look().values())
        except RecellError:
            self._forget_looker()
            return False

    def release(self) -> None:
        self._enough.set()
        if self._holder is not None:
            self._holder.join()
            self._holder = None

    def _look(self) -> dict[str, int]:
        """How many take from each of the queues that are there."""
        if self._looker is None:
            self._looker = self._connect(0)
        found = {queue: self._looker.look(queue) for queue in self._queues}
        return {queue: one.consumers for queue, one in found.items() if one is not None}

    def _forget_looker(self) -> None:
        looker, self._looker = self._looker, None
        if looker is not None:
            looker.close()

    def _taken(self) -> Amqp:
        """A new connection that all of it comes to."""
        amqp = self._connect(HEARTBEAT_S)
        try:
            for queue in [q for q in self._queues if amqp.look(q) is not None]:
                amqp.withhold(queue, PRIORITY)
        except BaseException:
            amqp.close()
            raise
        return amqp

    def _stay(self, amqp: Amqp) -> None:
        """Until it is enough. A node may end meanwhile: then by another one, as soon as that can be had."""
        try:
            while not self._enough.is_set():
                try:
                    amqp.attend(_ATTEND_S)
                except RecellError:
                    self._counts = False  # the broker may take the lost connection for somebody else
                    amqp.close()
                    time.sleep(_AGAIN_S)
                    with suppress(RecellError):
                        amqp = self._taken()
        finally:
            self._counts = False
            amqp.close()
