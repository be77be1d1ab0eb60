"""A database that would move: its servers are read for real, and nothing is written to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recell.adapters.dry_record import Record
from recell.adapters.dry_things import DryThings
from recell.adapters.mover_port import MoverPort
from recell.model.moving import Ends, Pace, Retention, Session, Standing
from recell.model.relay import Side
from recell.model.violation import Violation


class DryMover(DryThings):
    """:class:`~recell.adapters.mover_port.MoverPort` that copies, holds and shuts nothing."""

    def __init__(self, real: MoverPort, ends: Ends, record: Record) -> None:
        super().__init__(real, record, lambda side: ends.at(side).where)
        self._real = real
        self._ends = ends
        self._standing: Standing | None = None
        self._shut: dict[Side, bool] = {}

    def troubles(self, open_s: float) -> tuple[Violation, ...]:
        return self._real.troubles(open_s)

    def standing(self) -> Standing:
        return self._standing or self._real.standing()

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        self._note("new", f"copy {self._ends.database} and follow its changes")
        self._standing = Standing("following", verified=True)
        return "nothing was copied"

    def compare(self, tell: Callable[[dict[str, float]], None]) -> str:
        return "nothing was compared"

    def pace(self) -> Pace | None:
        return None

    def set_pace(self, pace: Pace) -> None:
        self._note("new", f"read rows {pace}")

    def catch_up(self, limit_s: float) -> float:
        return 0.0

    def turn(self) -> None:
        self._note("old", "write back what changes at the new server")
        self._standing = Standing("following", not self.standing().backward, True)

    def forget(self) -> None:
        self._note("new", "remove recell's bookkeeping")
        self._standing = Standing("none")

    def retention(self, side: Side) -> Retention:
        return Retention(0.0)

    def sessions(self, side: Side) -> tuple[Session, ...]:
        entered = (side, "recell") not in self._made and "recell" in self._real.there(side)
        return self._real.sessions(side) if entered else ()

    def rights(self, side: Side) -> dict[str, Any]:
        return {}

    def shut(self, side: Side, rights: Mapping[str, Any]) -> None:
        self._note(side, f"take {self._ends.database} away from Nova's account")
        self._shut[side] = True

    def is_shut(self, side: Side, rights: Mapping[str, Any]) -> bool:
        known = self._shut.get(side)
        return self._real.is_shut(side, rights) if known is None and rights else bool(known)

    def reopen(self, side: Side, rights: Mapping[str, Any]) -> None:
        self._note(side, f"give {self._ends.database} back to Nova's account")
        self._shut[side] = False
