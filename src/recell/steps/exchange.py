"""Keep an exchange that only a departing service's queues hold alive."""

from __future__ import annotations

from typing import ClassVar

from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep


class KeepExchange(BaseStep):
    """Bind a spare queue of one message to a fanout exchange.

    oslo.messaging's fanout exchanges delete themselves with their last queue, and a publisher that
    has declared one does not declare it again: its next cast fails with 404. nova-compute casts to
    ``scheduler_fanout`` at every build and delete, and fails them when that cast fails; so when the
    last scheduler leaves the cell's broker, the exchange has to stay.
    """

    kind: ClassVar[str] = "keep-exchange"

    def look(self, toward: Direction) -> Finding:
        broker = self.world.broker(str(self.param("broker")))
        exchange, queue = str(self.param("exchange")), str(self.param("queue"))
        bound = broker.bindings(str(self.param("vhost")))
        there = (exchange, queue) in bound
        if toward == "backward":
            left = there or any(name == queue for _, name in bound)
            return Finding.not_done(f"{queue} is there") if left else Finding.done(f"no {queue}")
        if there:
            return Finding.done(f"{queue} is bound to {exchange}")
        if not any(name == exchange for name, _ in bound):
            return Finding.done(f"there is no {exchange}")
        return Finding.not_done()

    def act(self, toward: Direction) -> None:
        broker = self.world.broker(str(self.param("broker")))
        vhost, queue = str(self.param("vhost")), str(self.param("queue"))
        if toward == "forward":
            broker.bind_spare(vhost, str(self.param("exchange")), queue)
        else:
            broker.delete_queue(vhost, queue)
