"""A few words of AMQP 0-9-1: take messages, give them to another broker, be sure of it.

What rabbitmqctl can't do and a shovel does too well (it declares queues of its own): a message goes on
byte for byte, and is taken away only when the other side has said that it has it.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recell.errors import Denied, StepFailed, Unreachable

__all__ = ["Amqp", "Message"]

_END = 0xCE
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_NOT_FOUND = 404


@dataclass(frozen=True)
class Message:
    """``properties``: flags and values as they came. ``tag``: by which it is acknowledged."""

    tag: int
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    redelivered: bool = False


@dataclass(frozen=True)
class Declared:
    messages: int
    consumers: int


class Amqp:
    """One connection with one channel, in confirm mode. Not for two threads at once.

    :param door: a unix socket that leads to the broker, or (host, port). where: for errors. tls: or None.
        heartbeat_s: 0, or the broker ends the connection after twice so long without :meth:`attend`.
    :raises Denied: account or vhost is refused. :raises Unreachable: it doesn't answer (from every method).
    """

    _able = b""
    """What it tells the broker of itself: a table."""

    def __init__(
        self,
        door: Path | tuple[str, int],
        user: str,
        password: str,
        vhost: str,
        where: str,
        timeout: float = 30,
        tls: ssl.SSLContext | None = None,
        heartbeat_s: int = 0,
    ) -> None:
        self.where = where
        self._timeout = timeout
        self._heartbeat_s, self._beaten = heartbeat_s, time.monotonic()
        self._buffer = b""
        self._published = 0
        self._frame_max = 131072
        try:
            if isinstance(door, Path):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.settimeout(timeout)
                self._socket.connect(str(door))
            else:
                self._socket = socket.create_connection(door, timeout)
            self._socket.settimeout(timeout)
            if tls is not None:
                self._socket = _wrapped(tls, self._socket)
        except OSError as error:
            raise self._lost(error) from None
        try:
            self._log_in(user, password, vhost)
        except BaseException:
            self._socket.close()
            raise

    def _log_in(self, user: str, password: str, vhost: str) -> None:
        self._write(b"AMQP\x00\x00\x09\x01")
        self._expect(0, (10, 10))
        answer = f"\0{user}\0{password}".encode()
        try:
            self._send(0, (10, 11), _long(self._able) + _short("PLAIN") + _long(answer) + _short("en_US"))
            tune = self._expect(0, (10, 30))
            channels, frame_max, _ = struct.unpack(">HIH", tune)
            self._frame_max = min(frame_max or self._frame_max, self._frame_max)
            self._send(0, (10, 31), struct.pack(">HIH", channels, self._frame_max, self._heartbeat_s))
            self._send(0, (10, 40), _short(vhost) + _short("") + b"\0")
            self._expect(0, (10, 41))
        except Unreachable as error:
            # It closes the connection without a word when it doesn't know the account.
            raise Denied(
                f"the broker {self.where} refuses the account {user} or its vhost {vhost}",
                f"See its log ({error.sentence})",
            ) from None
        self._open_channel()

    def _open_channel(self) -> None:
        self._send(1, (20, 10), _short(""))
        self._expect(1, (20, 11))
        self._send(1, (85, 10), b"\0")
        self._expect(1, (85, 11))
        self._published = 0

    # -- queues ------------------------------------------------------------------------------------

    def look(self, queue: str) -> Declared | None:
        """How much is in it; None: there is no such queue."""
        return self._declare(queue, 1, b"")

    def declare(self, queue: str, expires_ms: int = 0) -> None:
        """Not durable, as oslo.messaging makes its own; it is removed when unused for ``expires_ms``."""
        table = _short("x-expires") + b"I" + struct.pack(">i", expires_ms) if expires_ms else b""
        self._declare(queue, 0, table)

    def declare_direct(self, queue: str, expires_ms: int) -> None:
        """A queue for answers, and an exchange of its name: releases before Train answer through that one.
        Both go when they are unused."""
        head = b"\0\0" + _short(queue)
        self._send(1, (40, 10), head + _short("direct") + bytes([0b0100]) + _long(b""))
        self._expect(1, (40, 11))
        self.declare(queue, expires_ms)
        self.bind(queue, queue, queue)

    def _declare(self, queue: str, bits: int, table: bytes) -> Declared | None:
        self._send(1, (50, 10), b"\0\0" + _short(queue) + bytes([bits]) + _long(table))
        try:
            answer = self._expect(1, (50, 11))
        except _Closed as closed:
            self._open_channel()
            if closed.code == _NOT_FOUND:
                return None
            raise StepFailed(
                f"the broker {self.where} refuses the queue {queue} ({closed.text})", "See its log"
            ) from None
        at = 1 + answer[0]
        return Declared(*struct.unpack(">II", answer[at : at + 8]))

    def delete(self, queue: str) -> None:
        """Nothing when it isn't there."""
        self._send(1, (50, 40), b"\0\0" + _short(queue) + b"\0")
        try:
            self._expect(1, (50, 41))
        except _Closed:
            self._open_channel()

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """What comes to the exchange by this key goes into the queue from now on. Can be repeated.

        :raises StepFailed: there is no such queue or exchange.
        """
        self._binding((50, 20), _names(queue, exchange, key) + b"\0" + _long(b""))

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        """Undoes :meth:`bind`, whoever has done it. Can be repeated."""
        self._binding((50, 50), _names(queue, exchange, key) + _long(b""))

    def _binding(self, method: tuple[int, int], arguments: bytes) -> None:
        self._send(1, method, arguments)
        try:
            self._expect(1, (method[0], method[1] + 1))
        except _Closed as closed:
            self._open_channel()
            if method == (50, 50) and closed.code == _NOT_FOUND:
                return  # RabbitMQ before 3.2
            raise StepFailed(
                f"the broker {self.where} refuses to bind a queue ({closed.text})", "See its log"
            ) from None

    # -- messages ----------------------------------------------------------------------------------

    def get(self, queue: str) -> Message | None:
        """The first one, to be acknowledged; None: it is empty, or not there."""
        self._send(1, (60, 70), b"\0\0" + _short(queue) + b"\0")
        try:
            method, arguments = self._method(1)
        except _Closed:
            self._open_channel()
            return None
        if method == (60, 72):
            return None
        if method != (60, 71):
            raise self._odd(method)
        tag, again = struct.unpack(">QB", arguments[:9])
        exchange, rest = _cut(arguments[9:])
        key, _ = _cut(rest)
        properties, body = self._content()
        return Message(tag, exchange, key, properties, body, bool(again))

    def publish(self, exchange: str, routing_key: str, properties: bytes, body: bytes) -> bool:
        """Whether the broker has it now; False: no queue wanted it.

        :raises StepFailed: it refuses the message.
        """
        head = b"\0\0" + _short(exchange) + _short(routing_key) + b"\1"
        frames = [
            _frame(_METHOD, 1, struct.pack(">HH", 60, 40) + head),
            _frame(_HEADER, 1, struct.pack(">HHQ", 60, 0, len(body)) + properties),
        ]
        size = self._frame_max - 8
        frames += [_frame(_BODY, 1, body[at : at + size]) for at in range(0, len(body), size)]
        self._write(b"".join(frames))
        self._published += 1
        try:
            return self._confirmed()
        except _Closed as closed:
            self._open_channel()
            raise StepFailed(
                f"the broker {self.where} refuses a message for {routing_key} ({closed.text})", "See its log"
            ) from None

    def _confirmed(self) -> bool:
        wanted = True
        while True:
            method, arguments = self._method(1)
            if method == (60, 50):
                self._content()
                wanted = False
            elif method == (60, 80) and struct.unpack(">Q", arguments[:8])[0] >= self._published:
                return wanted
            elif method == (60, 120):
                return False
            elif method != (60, 80):
                raise self._odd(method)

    def ack(self, message: Message) -> None:
        self._send(1, (60, 80), struct.pack(">QB", message.tag, 0))

    def withhold(self, queue: str, priority: int) -> None:
        """What is in the queue and what comes there is sent here from now on, before all takers of less
        priority, and is never acknowledged: when this connection ends, however it does, it goes back to its
        place in the queue. Then only :meth:`attend`, :meth:`close` and more of this may be called.

        :raises StepFailed: there is no such queue, or somebody else alone may take from it.
        """
        self._consume(queue, "", priority)
        try:
            while (method := self._method(1)[0]) == (60, 60):
                self._content()  # of a queue that is withheld already
        except _Closed as closed:
            raise StepFailed(
                f"the broker {self.where} lets recell not take from {queue} ({closed.text})", "See its log"
            ) from None
        if method != (60, 21):
            raise self._odd(method)

    def _consume(self, queue: str, tag: str, priority: int) -> None:
        """Ask for what comes there; the answer is not awaited."""
        table = _short("x-priority") + b"I" + struct.pack(">i", priority)
        self._send(1, (60, 20), b"\0\0" + _short(queue) + _short(tag) + b"\0" + _long(table))

    def attend(self, seconds: float) -> None:
        """Be there for so long, at most: what is sent here is read and let go, and the broker hears from us.

        :raises Unreachable: the connection has ended.
        """
        self._hear(seconds)
        while (frame := self._arrived()) is not None:
            kind, _, payload = frame
            if kind == _METHOD and struct.unpack(">HH", payload[:4]) in ((10, 50), (20, 40)):
                raise self._lost("it ended the connection")

    def _hear(self, seconds: float) -> None:
        """Read what comes within so long, if anything does; the broker hears from us."""
        if self._heartbeat_s and time.monotonic() - self._beaten > self._heartbeat_s / 3:
            self._beaten = time.monotonic()
            self._write(_frame(_HEARTBEAT, 0, b""))
        self._socket.settimeout(seconds)
        try:
            self._receive()
        except TimeoutError:
            return
        finally:
            self._socket.settimeout(self._timeout)

    def close(self) -> None:
        """What was not acknowledged goes back to its queue. Never raises."""
        try:
            self._send(0, (10, 50), struct.pack(">H", 200) + _short("") + struct.pack(">HH", 0, 0))
            self._expect(0, (10, 51))
        except (Unreachable, StepFailed):
            pass
        finally:
            self._socket.close()

    # -- frames ------------------------------------------------------------------------------------

    def _content(self) -> tuple[bytes, bytes]:
        """Properties and body behind a method that carries a message."""
        kind, _, payload = self._next()
        if kind != _HEADER:
            raise self._odd((kind, 0))
        size = struct.unpack(">Q", payload[4:12])[0]
        body = b""
        while len(body) < size:
            kind, _, part = self._next()
            if kind != _BODY:
                raise self._odd((kind, 0))
            body += part
        return payload[12:], body

    def _expect(self, channel: int, wanted: tuple[int, int]) -> bytes:
        method, arguments = self._method(channel)
        if method != wanted:
            raise self._odd(method)
        return arguments

    def _method(self, channel: int) -> tuple[tuple[int, int], bytes]:
        kind, _, payload = self._next()
        return self._said(channel, kind, payload)

    def _said(self, channel: int, kind: int, payload: bytes) -> tuple[tuple[int, int], bytes]:
        if kind != _METHOD:
            raise self._odd((kind, 0))
        one, other = struct.unpack(">HH", payload[:4])
        arguments = payload[4:]
        if (one, other) in ((10, 50), (20, 40)):
            code = struct.unpack(">H", arguments[:2])[0]
            text, _ = _cut(arguments[2:])
            if (one, other) == (20, 40):
                self._send(channel, (20, 41), b"")
                raise _Closed(code, text)
            raise Unreachable(f"the broker {self.where} ended the connection ({code} {text})", "See its log")
        return (one, other), arguments

    def _next(self) -> tuple[int, int, bytes]:
        while True:
            while (frame := self._arrived()) is None:
                try:
                    self._receive()
                except TimeoutError as error:
                    raise self._lost(error) from None
            if frame[0] != _HEARTBEAT:
                return frame

    def _arrived(self) -> tuple[int, int, bytes] | None:
        """(kind, channel, payload) of the next frame; None: not all of it is here yet."""
        if len(self._buffer) < 7:
            return None
        kind, channel, size = struct.unpack(">BHI", self._buffer[:7])
        if len(self._buffer) < size + 8:
            return None
        payload, end = self._buffer[7 : size + 7], self._buffer[size + 7]
        self._buffer = self._buffer[size + 8 :]
        if end != _END:
            raise self._lost("a frame without an end")
        return kind, channel, payload

    def _receive(self) -> None:
        """:raises TimeoutError: nothing came in time."""
        try:
            more = self._socket.recv(65536)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._lost(error) from None
        if not more:
            raise self._lost("it hung up")
        self._buffer += more

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self._write(_frame(_METHOD, channel, struct.pack(">HH", *method) + arguments))

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, why: object) -> Unreachable:
        return Unreachable(
            f"the broker {self.where} does not answer ({why})",
            "Check that RabbitMQ runs there, then: recell resume",
        )

    def _odd(self, method: tuple[int, int]) -> Unreachable:
        return self._lost(f"an unexpected answer {method[0]}.{method[1]}")


class _Closed(Exception):
    """The broker closed the channel over what was asked."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def _wrapped(tls: ssl.SSLContext, plain: socket.socket) -> socket.socket:
    try:
        return tls.wrap_socket(plain)
    except OSError:
        plain.close()
        raise


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _names(queue: str, exchange: str, key: str) -> bytes:
    return b"\0\0" + _short(queue) + _short(exchange) + _short(key)


def _cut(data: bytes) -> tuple[str, bytes]:
    end = 1 + data[0]
    return data[1:end].decode(), data[end:]


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([_END])


Connect = Callable[[], Amqp]
