"""Requests that wait for a host go to another broker, or aside, each once, and their answers come back.

oslo.messaging's part: a request is JSON in JSON; one that wants an answer names its sender's queue
(``_reply_q``). Whoever serves it in the other cell answers there, to a queue of this name; so one is made
there first, and what comes in is brought back. A recell that dies between giving and taking gives a request
twice: its ``_unique_id`` makes oslo.messaging drop the second one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from recell.adapters.amqp import Amqp, Message
from recell.errors import StepFailed
from recell.model.hosts import Carried

__all__ = ["ASIDE", "Courier", "queues_of"]

ASIDE = "recell.aside."
TOPICS = ("compute", "compute-alt")
BRIDGE_MS = 300_000
_POLL_S = 0.1
_QUIET = 10
"""Looks without anything new, after which nobody is taken to be on the way any more."""


def queues_of(hosts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{topic}.{host}" for host in hosts for topic in TOPICS)


class Courier:
    """Between two brokers, or two queues of one. Both connections stay the caller's.

    :param wait: how to wait; clock: seconds.
    """

    def __init__(
        self,
        source: Amqp,
        target: Amqp,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._target = source, target
        self._wait, self._clock = wait, clock
        self._awaited: dict[str, set[str]] = {}
        self._requests = self._calls = self._answers = 0

    def carry(
        self, hosts: Sequence[str], limit_s: float, before: Callable[[], None] | None = None
    ) -> Carried:
        """From queue to queue of the same name at the other broker, where nova-compute takes them.

        :param before: called when a request has come, before it goes on.
        :raises StepFailed: nobody takes them there; the request stays where it was.
        """
        began = self._clock()
        quiet = 0
        while True:
            moved = sum(self._drain(queue, queue, bridge=True, before=before) for queue in queues_of(hosts))
            moved += self._answered()
            quiet = 0 if moved else quiet + 1
            if (quiet >= _QUIET and not any(self._awaited.values())) or self._clock() - began > limit_s:
                break
            self._wait(_POLL_S)
        for queue in self._awaited:
            self._target.delete(queue)
        self._awaited = {}
        return Carried(self._requests, self._calls, self._answers)

    def set_aside(self, hosts: Sequence[str]) -> int:
        """Within one broker: away from nova-compute."""
        count = 0
        for queue in queues_of(hosts):
            if self._source.look(queue) is not None:
                self._target.declare(ASIDE + queue)
                count += self._drain(queue, ASIDE + queue, bridge=False)
        return count

    def put_back(self, hosts: Sequence[str]) -> int:
        count = 0
        for queue in queues_of(hosts):
            if self._source.look(ASIDE + queue) is not None:
                count += self._drain(ASIDE + queue, queue, bridge=False)
                self._source.delete(ASIDE + queue)
        return count

    def _drain(
        self, queue: str, to: str, *, bridge: bool, before: Callable[[], None] | None = None
    ) -> int:
        count = 0
        while (message := self._source.get(queue)) is not None:
            if before is not None:
                before()
            if bridge:
                self._expect_answer(message)
            if not self._target.publish("", to, message.properties, message.body):
                raise StepFailed(
                    f"nobody takes from {to} on the broker {self._target.where}",
                    "See that nova-compute runs there, then: recell resume",
                )
            self._source.ack(message)
            count += 1
        self._requests += count
        return count

    def _expect_answer(self, message: Message) -> None:
        content = inner(message.body)
        queue, number = str(content.get("_reply_q") or ""), str(content.get("_msg_id") or "")
        if not queue or not number:
            return
        if queue not in self._awaited:
            self._target.declare(queue, BRIDGE_MS)
        self._awaited.setdefault(queue, set()).add(number)
        self._calls += 1

    def _answered(self) -> int:
        """Bring back the answers that are there."""
        count = 0
        for queue, numbers in self._awaited.items():
            while numbers and (message := self._target.get(queue)) is not None:
                # A sender that waits no more has taken its queue away: then nobody misses the answer.
                self._source.publish("", queue, message.properties, message.body)
                self._target.ack(message)
                count += 1
                content = inner(message.body)
                if content.get("ending", True):
                    numbers.discard(str(content.get("_msg_id")))
                    self._answers += 1
        return count


def inner(body: bytes) -> dict[str, Any]:
    """What oslo.messaging has put in; empty when it is somebody else's."""
    try:
        outer = json.loads(body)
        text = outer.get("oslo.message") if isinstance(outer, dict) else None
        found = json.loads(text) if isinstance(text, str) else outer
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
