"""A standard Nova becomes the child of an API cell: the link, the rows, and what proves it."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from recell.adapters.ports import UnitState
from recell.errors import StepFailed, VerifyFailed
from recell.model.relay import other
from recell.model.step import Direction, Finding
from recell.model.v1 import Agreement
from recell.steps.units import POLL_S, at_rest
from recell.steps.v1 import BEGUN_AT, SIDES, V1Step
from recell.steps.v1_mend import ANSWER_S, MENDED, Mender, told

LOOK_S = 2.0
PROOF_S = 30.0
"""How long a proof waits for what may be on its way."""
BEFORE_S = 600.0
"""Clocks of Nova's hosts and of recell's may differ: well more than they do."""
TOPIC = "cells"
_NAMED = 5


class V1Link(V1Step):
    """nova-cells of both sides run together once, which declares the queues that casts would be lost
    without, and a message goes down and up; then the API cell's stop. Undo ends both sides', all at once.

    ``api``, ``child``: host, unit, and the host's name in Nova, of each.
    """

    kind: ClassVar[str] = "v1-link"

    def _units(self, which: str) -> list[tuple[str, str, str]]:
        return [(str(h), str(u), str(n)) for h, u, n in self.param(which)]

    def _unit(self, host: str, unit: str) -> UnitState:
        return self.world.host(host).unit(unit)

    def _up(self, *sides: str) -> list[tuple[str, str, str]]:
        """Side, host and unit of each that runs."""
        return [
            (side, h, u)
            for side in sides
            for h, u, _ in self._units(side)
            if self._unit(h, u).active not in ("inactive", "failed")
        ]

    @property
    def lasting(self) -> bool:
        return False

    def look(self, toward: Direction) -> Finding:
        up = self._up("api", "child") if toward == "backward" else self._up("api")
        running = [f"{unit} on {host}" for _, host, unit in up]
        if not running and toward == "backward":
            return Finding.done("it is off")
        if not running and self.recall("proven"):
            return Finding.done(str(self.recall("proven")))
        return Finding.partial(f"{', '.join(running)} run") if running else Finding.not_done()

    def act(self, toward: Direction) -> None:
        if toward == "backward":
            self.remember("proven", "")
        elif not self.recall("proven"):
            # The child's, too: an undo that went no further than here has ended them.
            for host, unit, _ in (*self._units("api"), *self._units("child")):
                if not self._unit(host, unit).running:
                    self.start_unit(unit, self.world.host(host))
            self._await_queues()
            self.remember("proven", self._answered())
        sides = ("api", "child") if toward == "backward" else ("api",)
        self.world.together([partial(self._end, *one) for one in self._up(*sides)])

    def _end(self, side: str, host: str, unit: str) -> None:
        end = self.conversion.new if side == "api" else self.conversion.old
        self.world.stop_rpc_server(
            host, unit, end.broker, end.vhost, self.limit("stop_s"),
            idle=at_rest, lost=self.is_lost(end.broker),
        )  # fmt: skip

    def _missing(self) -> list[str]:
        out = []
        for which, end in (("api", self.conversion.new), ("child", self.conversion.old)):
            served = {q.name for q in self.world.broker(end.broker).queues(end.vhost) if q.consumers}
            out += [
                f"{unit} on {host}"
                for host, unit, name in self._units(which)
                if f"{TOPIC}.{name}" not in served
            ]
        return out

    def _await_queues(self) -> None:
        began = self.world.clock()
        while missing := self._missing():
            failed = [
                f"{u} on {h}" for h, u, _ in self._units("api") if self._unit(h, u).active == "failed"
            ]
            if failed or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{', '.join(failed or missing)} does not serve its cell",
                    "See journalctl -u there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)

    def _answered(self) -> str:
        path, began = self.conversion.path, self.world.clock()
        while True:
            answered = self.port().answering(ANSWER_S)
            if path in answered:
                return f"a message went down to {path} and one came back"
            if self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{path} does not answer the API cell's nova-cells"
                    f" ({', '.join(sorted(answered)) or 'nobody'} did)",
                    "See nova-cells.log of both sides: each must reach the other's RabbitMQ; then: recell"
                    " resume",
                )
            self.world.wait(POLL_S)


class V1Follow(V1Step):
    """What an API cell reads is copied and kept up, with the child's full path on live instances; all rows
    are compared once. It ends when users are led to the API cell: from then on Nova keeps both sides."""

    kind: ClassVar[str] = "v1-follow"

    def look(self, toward: Direction) -> Finding:
        now = self.port().importing()
        if toward == "backward":
            return Finding.done("nothing is copied") if now.phase == "none" else Finding.not_done(now.phase)
        if now.phase == "live":
            return Finding.done("Nova keeps both sides")
        if now.verified and now.phase in ("following", "drained"):
            return Finding.done("copied, compared, and followed")
        return Finding.not_done() if now.phase == "none" else Finding.partial(now.phase)

    def act(self, toward: Direction) -> None:
        if toward == "forward":
            self.remember("said", self.port().follow(lambda figures: self.remember("progress", figures)))
        else:
            self.port().forget()

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        return str(self.recall("said", said)) if toward == "forward" else said

    def finish(self) -> None:
        self.port().forget()


class V1Sync(V1Step):
    """Forward: the child sends what changed around ``switch``, what its updates left wrong is mended where
    that can be proven, and both sides agree. Backward: nothing would be lost that only the API cell has."""

    kind: ClassVar[str] = "v1-sync"

    @property
    def lasting(self) -> bool:
        return False

    def look(self, toward: Direction) -> Finding:
        live = self.port().importing().phase == "live"
        if toward == "backward" and not live:
            return Finding.done("users were not led there")
        if toward == "forward" and self.recall("agreed"):
            return Finding.done(str(self.recall("agreed")))
        return Finding.not_done()

    def act(self, toward: Direction) -> None:
        port = self.port()
        if toward == "backward":
            self.remember("agreed", "")
            if lost := port.stranded():
                raise StepFailed(
                    f"undo would lose what only {self.conversion.new.name} has: {'; '.join(lost[:_NAMED])}"
                    + (f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""),
                    "Bring it to the child (recell sync), or delete it, then: recell undo",
                )
            return
        # Rows from before were copied and proven equal. What is asked for comes at once, and of thousands
        # nova-cells' connections to its database run out: nothing of users' would get through meanwhile.
        begun = self.context.journal.recall(str(self.param("switch", "")), BEGUN_AT)
        since = (self.world.clock() if begun is None else float(begun)) - BEFORE_S
        projects = port.ask_for_instances(since)
        found = agreed(self, Mender(self))
        # What the child's conductors committed since they count no quota is in nobody's usage.
        port.recount("new")
        mended = told(self.recall(MENDED, []))
        self.remember(
            "agreed",
            f"{projects} projects asked for what changed lately; {found.rows} instances on both sides agree"
            + (f"; {mended}" if mended else ""),
        )

    def prove(self, toward: Direction) -> str:
        if toward == "backward":
            return "nothing would be lost"
        return str(self.recall("agreed"))


def agreed(step: V1Step, mender: Mender | None = None, limit_s: float | None = None) -> Agreement:
    """Two looks with nothing wrong in both: what is on its way stands in one of them only. With a mender,
    what can be proven is mended meanwhile.

    :raises VerifyFailed: something stays wrong.
    """
    port, began = step.port(), step.world.clock()
    limit_s = step.limit("quiet_s") if limit_s is None else limit_s
    before = port.agreement()
    while True:
        if not before.wrong:
            return before
        step.world.wait(LOOK_S)
        now = port.agreement()
        stays = sorted(set(before.wrong) & set(now.wrong))
        if not stays:
            return now
        if step.world.clock() - began > limit_s:
            raise VerifyFailed(
                f"both sides differ: {'; '.join(stays[:_NAMED])}"
                + (f" and {len(stays) - _NAMED} more" if len(stays) > _NAMED else ""),
                "recell audit says more, and with --heal mends what it can prove; a run that stopped here"
                " goes on with: recell resume",
            )
        if mender is not None:
            mender.look()
        before = now


class V1Prove(V1Step):
    """Of a step that acts both ways: what stands is remembered, and undo proves itself by it; usage of
    quotas, which nobody kept meanwhile, is counted anew. Of one that acts forward only: the conversion is
    proven."""

    kind: ClassVar[str] = "v1-prove"
    _mends = False

    @property
    def lasting(self) -> bool:
        return False

    @property
    def _remembers(self) -> bool:
        return self.spec.acts == "both"

    def _picture(self) -> dict[str, Any]:
        units = {
            f"{host}:{unit}": [state.active == "active", state.enabled]
            for host, unit in self.param("units", [])
            for state in [self.world.host(host).unit(unit)]
        }
        return {**self.port().picture(), "units": units}

    def look(self, toward: Direction) -> Finding:
        if self._remembers and toward == "forward" and self.recall("picture") and not self.recall("used"):
            return Finding.done("remembered")
        return Finding.not_done("a proof is taken anew each time")

    def act(self, toward: Direction) -> None:
        if not self._remembers:
            # Users have gone on since the step before, and do so while it is proven.
            agreed(self, Mender(self))
            self._mends = True
            return
        if toward == "forward":
            self.remember("picture", self._picture())
            self.remember("used", False)
            return
        port = self.port()
        port.tidy_services(self.recall("picture", {}).get("services", []))
        self.remember("recounted", port.recount("old"))

    def prove(self, toward: Direction) -> str:
        if not self._remembers:
            return self._proven()
        if toward == "forward":
            return "remembered"
        before, now = self.recall("picture", {}), self._picture()
        wrong = [key for key in before if key != "services" and before[key] != now.get(key)]
        if wrong:
            raise VerifyFailed(
                f"{self.conversion.old.name} is not as it was: {'; '.join(_differing(before, now, wrong))}",
                "Look there, then: recell undo",
            )
        self.remember("used", True)
        return f"as before; {self.recall('recounted', 0)} usages of quotas were wrong and are right"

    def _proven(self) -> str:
        port, conversion = self.port(), self.conversion
        # recell verify, which asks for a proof alone, writes nothing.
        found = agreed(self, Mender(self)) if self._mends else agreed(self, limit_s=PROOF_S)
        wrong = []
        if port.importing().phase != "live":
            wrong.append("rows are still copied, so Nova does not keep both sides yet")
        if str(self.param("records")) == "table":
            for side in SIDES:
                known = [n.name for n in port.neighbours(side)]
                if known != [conversion.at(other(side)).name]:
                    wrong.append(
                        f"the records of {conversion.at(side).name} name {', '.join(known) or 'nobody'}"
                    )
        answered, room = neighbour(self)
        if not answered:
            wrong.append(f"{conversion.path} does not answer")
        elif room < 0:
            wrong.append(f"{conversion.new.name} knows of no room in {conversion.old.name} for boots")
        if wrong:
            raise VerifyFailed(
                f"{self.id}: {'; '.join(wrong)}", "Look there, then: recell resume, or recell undo"
            )
        return (
            f"{found.rows} instances on both sides with {conversion.path}, {len(found.alone)} failed builds"
            f" in {conversion.new.name} alone; {conversion.path} answers and has {room} MiB free"
            + (f"; {mended}" if (mended := told(self.recall(MENDED, []))) else "")
        )


def neighbour(step: V1Step) -> tuple[bool, int]:
    """Whether the child answers the API cell, and the room that is known of there, MiB. It waits for both:
    records are read again and room is told of once a minute, and a nova-cells that is busy fails at times.

    :raises StepFailed: it answered with an error until the time was over.
    """
    port, began = step.port(), step.world.clock()
    while True:
        answered, room, failed = False, -1, None
        try:
            answered = step.conversion.path in port.answering(ANSWER_S)
            room = port.room(ANSWER_S) if answered else -1
        except StepFailed as error:
            failed = error
        if room >= 0:
            return True, room
        if step.world.clock() - began > step.limit("start_s"):
            if failed is not None:
                raise failed
            return answered, room
        step.world.wait(POLL_S)


def _differing(before: dict[str, Any], now: dict[str, Any], keys: list[str]) -> list[str]:
    out = []
    for key in keys:
        was, is_ = before[key], now.get(key)
        if isinstance(was, dict) and isinstance(is_, dict):
            out += [f"{k} was {was.get(k)} and is {is_.get(k)}" for k in was if was.get(k) != is_.get(k)]
        else:
            gone = [str(w) for w in was if w not in (is_ or [])]
            new = [str(w) for w in is_ or [] if w not in was]
            out.append(f"{key}: {', '.join(gone) or 'nothing'} gone, {', '.join(new) or 'nothing'} new")
    return out
