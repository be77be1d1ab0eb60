"""A consumer of RabbitMQ's queues, in as few words of AMQP 0-9-1 as :mod:`recell.adapters.amqp`."""

from __future__ import annotations

import struct
from collections import deque
from pathlib import Path
from ssl import SSLContext

from recell.adapters.amqp import _HEARTBEAT, Amqp, Message, _Closed, _cut, _long, _short
from recell.errors import Unreachable

__all__ = ["Taker"]

_ABLE = _short("consumer_cancel_notify") + b"t\1"


class Taker(Amqp):
    """Is sent what comes to some queues; each message is acknowledged or put back. Where its connection ends,
    however it does, what was neither is in its queue again."""

    _able = _short("capabilities") + b"F" + _long(_ABLE)

    def __init__(
        self,
        door: Path | tuple[str, int],
        user: str,
        password: str,
        vhost: str,
        where: str,
        timeout: float = 30,
        tls: SSLContext | None = None,
        heartbeat_s: int = 0,
    ) -> None:
        self._came: deque[tuple[str, Message]] = deque()
        self._ended: set[str] = set()
        super().__init__(door, user, password, vhost, where, timeout, tls, heartbeat_s)

    def take(self, queue: str, priority: int, at_once: int) -> None:
        """From now on, so many messages at once at most.

        :raises Unreachable: there is no such queue, too; then all that was taken goes back.
        """
        self._send(1, (60, 10), struct.pack(">IHB", 0, at_once, 0))
        self._expect(1, (60, 11))
        self._consume(queue, queue, priority)
        self._expect(1, (60, 21))

    def leave(self, queue: str) -> None:
        """Take no more from it; what is here of it and was not given out by :meth:`next` goes back."""
        self._send(1, (60, 30), _short(queue) + b"\0")
        self._expect(1, (60, 31))
        for message in [m for q, m in self._came if q == queue]:
            self.put_back(message)
        self._came = deque(one for one in self._came if one[0] != queue)

    def put_back(self, message: Message) -> None:
        """Where it was in its queue."""
        self._send(1, (60, 120), struct.pack(">QB", message.tag, 0b10))

    def next(self, seconds: float) -> tuple[str, Message] | None:
        """(queue, message); None: nothing has come within so long. Ask often enough for the heartbeat."""
        if not self._came:
            self._hear(seconds)
        while (frame := self._arrived()) is not None:
            if frame[0] != _HEARTBEAT:
                method, arguments = self._said(1, frame[0], frame[2])
                if not self._sent(method, arguments):
                    raise self._odd(method)
        return self._came.popleft() if self._came else None

    def ended(self) -> set[str]:
        """Queues that are taken from no longer, for they went or their node did; each is told once."""
        told, self._ended = self._ended, set()
        return told

    def _sent(self, method: tuple[int, int], arguments: bytes) -> bool:
        """Whether it was sent unasked."""
        if method not in ((60, 60), (60, 30)):
            return False
        queue, rest = _cut(arguments)
        if method == (60, 30):
            self._ended.add(queue)
            return True
        tag, again = struct.unpack(">QB", rest[:9])
        exchange, rest = _cut(rest[9:])
        key, _ = _cut(rest)
        properties, body = self._content()
        self._came.append((queue, Message(tag, exchange, key, properties, body, bool(again))))
        return True

    def _method(self, channel: int) -> tuple[tuple[int, int], bytes]:
        while self._sent(*(said := super()._method(channel))):
            pass
        return said

    def _said(self, channel: int, kind: int, payload: bytes) -> tuple[tuple[int, int], bytes]:
        try:
            return super()._said(channel, kind, payload)
        except _Closed as closed:
            told = f"the broker {self.where} ended the channel ({closed.text})"
            raise Unreachable(told, "See its log") from None
