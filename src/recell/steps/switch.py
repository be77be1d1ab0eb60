"""The moment: Nova's writers wait at the relay, the last rows are proven equal, the relay changes sides."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from recell.errors import RecellError, StepFailed, Unknowable, VerifyFailed
from recell.model.relay import Side, other
from recell.model.step import Direction, Finding
from recell.steps.database import DatabaseStep

LIMIT_S = 1.5
"""How long users may wait for one attempt, in seconds."""
REST_S = 0.8
"""Of it: for transactions to come to their end."""
ATTEMPTS = 8
PAUSE_S = 5.0
CATCH_UP_S = 1800.0
LEASE_S = 10.0


class SwitchDatabase(DatabaseStep):
    """Hold, drain, prove, switch, release; then the database that was left is shut.

    Two fences stand one in the other: at the relay Nova's connections wait, at the server itself whoever
    comes past it. The relay is switched before the old database is shut: a recell that dies in between
    leaves users served, and the tables' locks have kept strangers out until then. Once writers are on the
    other side, changes flow the other way, from the position at which both were proven equal.
    """

    kind: ClassVar[str] = "switch-database"

    def look(self, toward: Direction) -> Finding:
        side, standing = self.relay_side(), self.mover().standing()
        goal: Side = "new" if toward == "forward" else "old"
        if side == "new" and not standing.backward and standing.phase in ("copying", "following"):
            # Both were proven equal before the relay was switched, and the new server was told so.
            return Finding.unknown(
                f"the relay leads to {self.ends.new.where}, which doesn't know any more that both sides were"
                " proven equal: it has lost its last rows when it died. Compare it with"
                f" {self.ends.old.where} by hand"
            )
        if side is None:
            # Not yet installed, or taken away again: then the rows' direction tells.
            moved = standing.backward
            if moved == (toward == "forward"):
                return self._left(toward, "")
            return Finding.unknown(f"there is no relay, and the database is on the {other(goal)} server")
        if side != goal:
            if side == "old" and standing.backward and standing.phase != "drained":
                return Finding.unknown("the relay leads to the old server, and the rows to the new one")
            return Finding.not_done(f"the relay leads to the {side} server")
        if toward == "forward" and not standing.backward:
            return Finding.partial("the relay leads to the new server; changes don't flow back yet")
        if toward == "backward" and not standing.backward:
            return Finding.done("it never moved")
        return self._left(toward, f"the relay leads to the {side} server; ")

    def _left(self, toward: Direction, why: str) -> Finding:
        left: Side = "old" if toward == "forward" else "new"
        rights: dict[str, Any] | None = self.recall(f"rights-{left}")
        if rights is None or not self.mover().is_shut(left, rights):
            return Finding.partial(f"{why}the {left} server's database is not shut yet")
        if toward == "forward" and not (kept := self.mover().retention("new")).there:
            return Finding.unknown(
                f"{why}the new server has purged {kept.needed_from} of its binary log, so undo would lose"
                " what was written since"
            )
        return Finding.done(f"{why}the {left} server's database is shut")

    def act(self, toward: Direction) -> None:
        goal: Side = "new" if toward == "forward" else "old"
        left = other(goal)
        mover = self.mover()
        try:
            state = self.relay().state()
            if state is not None and state.held:
                self.relay().release()  # a run that died held it: there is one writer of this journal
            if state is not None and state.side == left:
                self._prepare(left)
                self._attempts(toward, goal)
            self._settle(toward, left)
        finally:
            mover.let_go()

    def _prepare(self, left: Side) -> None:
        """What takes long, while nobody waits."""
        mover = self.mover()
        if left == "new" and not mover.standing().backward:
            self._turn()  # the way forward died between the switch and this
        if self.recall(f"rights-{left}") is None or not mover.is_shut(left, self.recall(f"rights-{left}")):
            self.remember(f"rights-{left}", mover.rights(left))
        mover.catch_up(CATCH_UP_S)
        if left == "new" and (rights := self.recall("rights-old")) is not None:
            mover.reopen("old", rights)

    def _attempts(self, toward: Direction, goal: Side) -> None:
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self.world.wait(PAUSE_S)
                self.mover().catch_up(CATCH_UP_S)
            try:
                self._switch(toward, goal)
                return
            except (StepFailed, VerifyFailed) as error:
                why = error.sentence
        raise StepFailed(
            f"the database did not come to rest in {ATTEMPTS} attempts of {LIMIT_S} s: {why}",
            "Try at a calmer hour, or see what writes for so long, then: recell resume, or recell undo",
        )

    def _switch(self, toward: Direction, goal: Side) -> None:
        """One attempt. Whatever stops it, everybody goes on where they were."""
        relay, mover = self.relay(), self.mover()
        mover.prepare_hold(other(goal), REST_S)
        held = relay.hold(REST_S, LEASE_S)
        if not held.quiet:
            raise StepFailed("; ".join(str(c) for c in held.busy[:3]), "They were let go")
        began = self.world.clock() - held.waited_s
        try:
            mover.hold(other(goal))
            said = mover.drain(LIMIT_S - (self.world.clock() - began))
            mover.prove_held()
            if self.world.clock() - began > LIMIT_S:
                raise StepFailed(f"it took more than {LIMIT_S} s to prove both sides equal", "Try again")
            relay.switch(goal)
        except BaseException:
            with contextlib.suppress(RecellError):
                # It may be switched and only the answer be lost: then look() finds it there.
                relay.release()
            mover.let_go()
            raise
        relay.release()
        state = relay.state()
        self.held(toward, state.last_hold_s if state and state.last_hold_s else self.world.clock() - began)
        self.remember(f"proof-{toward}", said)

    def _turn(self) -> None:
        """Users are on the new server by then: nothing can be begun anew."""
        try:
            self.mover().turn()
        except Unknowable as error:
            old, new = self.ends.old.where, self.ends.new.where
            raise type(error)(
                f"{error.sentence}; users are served by {new} meanwhile",
                f"Let them go on there, keep {old} as it is, and compare the two by hand: nothing flows back"
                " to it, and recell leads nobody there",
            ) from None

    def _settle(self, toward: Direction, left: Side) -> None:
        """The side that was left: nobody writes there any more but recell."""
        mover = self.mover()
        if toward == "forward" and not mover.standing().backward:
            self._turn()
        rights: dict[str, Any] | None = self.recall(f"rights-{left}")
        if rights is None:
            rights = mover.rights(left)
            self.remember(f"rights-{left}", rights)
        mover.shut(left, rights)
        if toward == "forward" and not mover.standing().verified:
            mover.catch_up(CATCH_UP_S)  # a server died meanwhile: compared once more, while users go on
        if toward == "forward":
            keeps = mover.retention("new").seconds
            self.remember("way-back", {"at": self.world.clock(), "kept_s": keeps})

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        proof = self.recall(f"proof-{toward}")
        return f"{said}; {proof}" if proof else said
