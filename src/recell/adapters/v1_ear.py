"""The API cell's ear: the binding by which the child's updates come into the queue of its nova-cells.

nova-cells sends updates of instances up as broadcasts, which no release sends to a fanout or to one host.
Capacities, capabilities, answers and whatever else comes up go to other keys. So one binding decides whether
nova-cells writes to the API cell's database.

Bound and unbound over AMQP as nova-cells itself does it, with the same account: it takes milliseconds, where
rabbitmqctl takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from recell.adapters.amqp import Amqp
from recell.adapters.broker_port import BrokerPort
from recell.errors import StepFailed

__all__ = ["Ear"]

BASE = "cells.intercell"
"""nova-cells' own default."""
_Line = tuple[Amqp, frozenset[str]]


class Ear:
    """:class:`~recell.adapters.v1_hold_port.EarPort`. Not for two threads at once.

    :param base: ``[cells] rpc_driver_queue_base``, "" where it isn't set. connect: to the API cell's broker,
        as Nova does. permit: asked before every change.
    """

    def __init__(
        self,
        broker: Callable[[], BrokerPort],
        vhost: str,
        base: str,
        connect: Callable[[], Amqp],
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self.base = base or BASE
        self._queue = f"{self.base}.broadcast"
        self._broker, self._vhost = broker, vhost
        self._connect, self._permit = connect, permit
        self._line: _Line | None = None

    def _bound(self, queue: str) -> frozenset[str]:
        # Every queue is bound to the exchange without a name, where nobody sends updates to.
        return frozenset(e for e, q in self._broker().bindings(self._vhost) if q == queue and e)

    def state(self) -> Literal["open", "shut", "none"]:
        if self._bound(self._queue):
            return "open"
        return "shut" if self._exchanges() else "none"

    def _exchanges(self) -> frozenset[str]:
        """Those that nova-cells binds its queues to: one that is never unbound tells."""
        return self._bound(f"{self.base}.targeted")

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        with self._ready() as line:
            self._line = line
            try:
                yield
            finally:
                self._line = None

    @contextmanager
    def _ready(self) -> Iterator[_Line]:
        """A connection, and what the queue is bound to."""
        if self._line is not None:
            yield self._line
            return
        exchanges = self._exchanges()
        if not exchanges:
            raise StepFailed(
                f"no nova-cells has queues {self.base}.* in the vhost {self._vhost} of {self._broker().name}",
                "See that nova-cells of the API cell runs, and [cells] rpc_driver_queue_base on both sides;"
                " then: recell resume",
            )
        amqp = self._connect()
        try:
            yield amqp, exchanges
        finally:
            amqp.close()

    def shut(self) -> None:
        self._each(Amqp.unbind)
        if self._line is None and self._bound(self._queue):
            raise StepFailed(
                f"{self._queue} on {self._broker().name} is bound again as soon as it is unbound",
                "See nova-cells.log of the API cell: does it lose its connection? Then: recell resume",
            )

    def open(self) -> None:
        self._each(Amqp.bind)

    def _each(self, act: Callable[[Amqp, str, str, str], None]) -> None:
        self._permit()
        with self._ready() as (amqp, exchanges):
            for exchange in sorted(exchanges):
                act(amqp, self._queue, exchange, self._queue)
