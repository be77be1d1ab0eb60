"""What a wave of hosts asks before it goes on: the time of day, nova-api's errors, the queues' depth."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from recell.errors import StepFailed
from recell.model.step import Direction, Finding
from recell.model.window import Window
from recell.steps.hosts import HostsStep

LOOK_S = 30.0
"""How often the clock is looked at while a wave waits for its time."""
DEEP_LOOKS = 3
DEEP_PAUSE_S = 5.0


class WaveGate(HostsStep):
    """``at``: ``begin`` waits for the window and counts nova-api's errors; ``judge`` waits for the window
    and judges, before any nova-compute is touched; ``end`` judges, before the next wave begins.

    A judgement is about what came since the wave began, or since the last one that stopped the run: who
    resumes has read it.
    """

    kind: ClassVar[str] = "wave-gate"

    @property
    def lasting(self) -> bool:
        return False

    def look(self, toward: Direction) -> Finding:
        passed = bool(self.recall("passed"))
        if toward == "backward":
            return Finding.not_done() if passed else Finding.done()
        if passed:
            return Finding.done(str(self.recall("said", "")))
        return Finding.not_done(self._waits_for())

    def act(self, toward: Direction) -> None:
        if toward == "backward":
            self.remember("passed", False)
            return
        while (left := self._left()) > 0:
            self.world.wait(min(left, LOOK_S))
        if self.param("at") == "begin":
            self._count()
        said = self._judge()
        self.remember("said", said)
        self.remember("passed", True)

    # -- the time of day ---------------------------------------------------------------------------

    def _window(self) -> Window | None:
        text = str(self.wanted("window", ""))
        return Window.parse(text) if text and self.param("at") != "end" else None

    def _left(self) -> float:
        window = self._window()
        return window.waits(self.world.clock(), float(self.param("takes_s"))) if window else 0.0

    def _waits_for(self) -> str:
        window, left = self._window(), self._left()
        if window is None or not left:
            return ""
        when = time.strftime("%H:%M UTC on %d %b", time.gmtime(self.world.clock() + left))
        hours, minutes = divmod(round(left / 60), 60)
        return f"waits for its window, {window}: goes on at {when}, in {hours} h {minutes:02} min"

    # -- what users and queues say -----------------------------------------------------------------

    def _errors(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for proxy, backend in self.param("watched"):
            found[f"{backend} of {proxy}"] = self.world.proxy(proxy).errors().get(backend, 0)
        return found

    def _count(self) -> None:
        if self._limit("api_errors") is not None:
            self.context.journal.remember(self.group, "errors", self._errors())

    def _limit(self, name: str) -> int | None:
        found: Any = self.wanted(name, self.param("abort").get(name))
        return None if found is None else int(found)

    def _judge(self) -> str:
        """:raises StepFailed: more errors than allowed, or a queue that stays deep."""
        said = []
        limit = self._limit("api_errors")
        if limit is not None:
            before: dict[str, int] = self.context.journal.recall(self.group, "errors", {})
            now = self._errors()
            # A proxy that was loaded again has begun to count anew.
            new = {k: n - b if n >= (b := before.get(k, 0)) else n for k, n in now.items()}
            if sum(new.values()) > limit:
                self.context.journal.remember(self.group, "errors", now)
                told = ", ".join(f"{k}: {n}" for k, n in sorted(new.items()) if n)
                raise StepFailed(
                    f"nova-api has answered {sum(new.values())} requests with errors (5xx) since {self.group}"
                    f" began, and {limit} are allowed ({told})",
                    "See nova-api's log, then: recell resume counts anew, recell undo goes back",
                )
            said.append(f"{sum(new.values())} errors of nova-api")
        depth = self._limit("queue_depth")
        if depth is not None:
            for look in range(DEEP_LOOKS):
                if look:
                    self.world.wait(DEEP_PAUSE_S)
                deep = self._deep(depth)
                if not deep:
                    break
            else:
                raise StepFailed(
                    f"more than {depth} messages wait for {(DEEP_LOOKS - 1) * DEEP_PAUSE_S:.0f} s now in"
                    f" {', '.join(deep)}",
                    "See who takes from these queues, then: recell resume, or recell undo",
                )
            said.append(f"no queue deeper than {depth}")
        return "; ".join(said)

    def _deep(self, limit: int) -> list[str]:
        """Queues that somebody takes from; what nobody takes is no sign of haste."""
        return [
            f"{q.name} on {broker} ({q.messages_ready})"
            for broker, vhost in self.param("brokers")
            for q in self.world.broker(broker).queues(vhost)
            if q.consumers and q.messages_ready > limit
        ]
