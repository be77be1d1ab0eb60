"""Wait until what users began through the old path has come to its end."""

from __future__ import annotations

from typing import ClassVar

from recell.errors import StepFailed
from recell.model.step import Direction
from recell.steps.base import Anew

POLL_S = 1.0


class Quiet(Anew):
    """Builds and conductor tasks that began before this step and after the conductors did.

    What users begin meanwhile goes another way (a drained API server stands before this step), so
    this ends, however busy the cloud is. A task left by a crashed conductor is older and not waited
    for.
    """

    kind: ClassVar[str] = "quiet"
    anew: ClassVar[str] = "a wait is taken anew each time"

    def act(self, toward: Direction) -> None:
        if self.context.lost:
            return  # what went through a lost broker does not come to an end
        nova = self.world.nova()
        before = nova.now()
        started = [
            self.world.host(c["host"]).unit(c["unit"]).started_at
            for c in self.param("conductors")
            if c["acts"] in ("both", toward)
        ]
        since = min((s for s in started if s), default=0.0)
        limit = self.limit("quiet_s")
        began = self.world.clock()
        while True:
            busy = [text for cell in self.param("cells") for text in nova.busy(cell, before, since)]
            if not busy:
                return
            if self.world.clock() - began > limit:
                raise StepFailed(
                    f"{len(busy)} tasks begun before are still under way after {limit:.0f} s:"
                    f" {'; '.join(busy[:5])}",
                    "See what holds them up, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)

    def prove(self, toward: Direction) -> str:
        if self.context.lost:
            return f"not waited for: {', '.join(sorted(self.context.lost))} is lost"
        return "nothing begun before is under way"
