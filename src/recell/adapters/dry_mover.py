"""A database that would move: its servers are read for real, and nothing is written to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recell.adapters.dry import Record
from recell.adapters.mover_port import MoverPort
from recell.model.moving import Ends, Pace, Retention, Session, Standing, Thing
from recell.model.relay import Side
from recell.model.violation import Violation


class DryMover:
    """:class:`~recell.adapters.mover_port.MoverPort` that copies, holds and shuts nothing."""

    def __init__(self, real: MoverPort, ends: Ends, record: Record) -> None:
        self._real = real
        self._ends = ends
        self._record = record
        self._made: dict[tuple[Side, Thing], bool] = {}
        self._standing: Standing | None = None
        self._shut: dict[Side, bool] = {}

    def _note(self, side: Side, what: str) -> None:
        self._record.add(self._ends.at(side).where, what)

    def there(self, side: Side) -> frozenset[str]:
        found = set(self._real.there(side))
        for (where, thing), made in self._made.items():
            if where == side:
                found = found | {thing} if made else found - {thing}
        return frozenset(found)

    def make(self, side: Side, thing: Thing) -> None:
        self._note(side, f"make {_NAMES[thing]}")
        self._made[side, thing] = True

    def drop(self, side: Side, thing: Thing) -> None:
        self._note(side, f"drop {_NAMES[thing]}")
        self._made[side, thing] = False

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

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        return None

    def hold(self, side: Side) -> float:
        self._note(side, "let writers wait")
        return 0.0

    def drain(self, limit_s: float) -> str:
        return "nothing was compared"

    def prove_held(self) -> None:
        return None

    def let_go(self) -> None:
        return None

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

    def close(self) -> None:
        self._real.close()


_NAMES: dict[Thing, str] = {
    "recell": "recell's account", "database": "the empty database", "nova": "Nova's account",
}
