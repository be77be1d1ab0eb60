"""A conversion to cells v1 that would be: the child is read for real, and nothing is written anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recell.adapters.dry_record import Record
from recell.adapters.v1_port import FlavorRows, V1Port
from recell.model.moving import Thing
from recell.model.relay import Side
from recell.model.rowchange import RowChange
from recell.model.v1 import Agreement, BothSides, Conversion, Importing, Neighbour, Settled
from recell.model.violation import Violation


class DryV1:
    """:class:`~recell.adapters.v1_port.V1Port` that copies, writes and sends nothing.

    What needs an account of recell's, or the API cell's database, is asked only when they are there.
    """

    def __init__(self, real: V1Port, conversion: Conversion, record: Record) -> None:
        self._real = real
        self._conversion = conversion
        self._record = record
        self._made: dict[tuple[Side, Thing], bool] = {}
        self._neighbours: dict[Side, dict[str, Neighbour | None]] = {"old": {}, "new": {}}
        self._importing: Importing | None = None
        self._mapped = False
        self._flavors: FlavorRows | None = None

    def _note(self, side: Side, what: str) -> None:
        self._record.add(self._conversion.at(side).name, what)

    def _asks(self, side: Side) -> bool:
        """Whether recell's account is really there, and what it leads to."""
        needed = {"recell", "database", "tables"} if side == "new" else {"recell"}
        return needed <= self._real.there(side)

    def there(self, side: Side) -> frozenset[str]:
        found = set(self._real.there(side))
        for (where, thing), made in self._made.items():
            if where == side:
                found = found | {thing} if made else found - {thing}
        if self._made.get(("new", "database")) and side == "new":
            found |= {"tables"}
        return frozenset(found)

    def make(self, side: Side, thing: Thing) -> None:
        self._note(side, f"make {_NAMES[thing]}")
        self._made[side, thing] = True

    def drop(self, side: Side, thing: Thing) -> None:
        self._note(side, f"drop {_NAMES[thing]}")
        self._made[side, thing] = False

    def troubles(self) -> tuple[Violation, ...]:
        return self._real.troubles()

    def clear_seeded(self) -> int:
        self._note("new", "clear the rows that db sync puts there")
        return 0

    def neighbours(self, side: Side) -> tuple[Neighbour, ...]:
        known = {n.name: n for n in self._real.neighbours(side)} if self._asks(side) else {}
        for name, one in self._neighbours[side].items():
            if one is None:
                known.pop(name, None)
            else:
                known[name] = one
        return tuple(known.values())

    def add_neighbour(self, side: Side, neighbour: Neighbour) -> None:
        self._note(side, f"write the record of {neighbour.name}")
        self._neighbours[side][neighbour.name] = neighbour

    def remove_neighbour(self, side: Side, name: str) -> None:
        self._note(side, f"remove the record of {name}")
        self._neighbours[side][name] = None

    def child_troubles(self) -> tuple[Violation, ...]:
        return self._real.child_troubles()

    def _there_already(self) -> bool:
        """Whether recell's account is really on both, whose databases stand."""
        return self._asks("old") and "recell" in self._real.there("new")

    def live(self, side: Side) -> tuple[str, ...]:
        return self._real.live(side) if self._there_already() else ()

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        self._note("new", f"write what {name} weighs")

    def flavors(self, side: Side) -> FlavorRows:
        if self._flavors is not None and side == "old":
            return self._flavors
        return self._real.flavors(side) if self._there_already() else {}

    def set_flavors(self, rows: FlavorRows) -> None:
        self._note("old", "write the API cell's flavors")
        self._flavors = rows

    def importing(self) -> Importing:
        if self._importing is not None:
            return self._importing
        return self._real.importing() if self._asks("new") else Importing("none")

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        self._note("new", "copy what an API cell reads and follow its changes")
        self._importing = Importing("following", True)
        return "nothing was copied"

    def catch_up(self, limit_s: float) -> float:
        return 0.0

    def drain(self, limit_s: float) -> str:
        return "nothing was compared"

    def hand_over(self) -> int:
        self._note("new", "end the copying, and bring failed builds")
        self._importing = Importing("live", True)
        return 0

    def take_back(self) -> None:
        self._note("new", "mark the copy as stale")
        self._importing = Importing("stale")

    def forget(self) -> None:
        self._note("new", "remove recell's bookkeeping")
        self._importing = Importing("none")

    def adopt(self) -> None:
        self._note("new", "note that Nova keeps both sides")
        self._importing = Importing("live", True)

    def unmapped(self) -> tuple[str, ...]:
        return () if self._mapped else self._real.unmapped()

    def map_instances(self) -> int:
        count = len(self.unmapped())
        self._note("old", f"map {count} instances")
        self._mapped = True
        return count

    def settle(self) -> Settled:
        self._note("old", "give what failed to build a cell")
        return Settled()

    def agreement(self) -> Agreement:
        return self._real.agreement() if self._asks("old") and self._asks("new") else Agreement(0)

    def both_sides(self) -> BothSides:
        return self._real.both_sides() if self._asks("old") and self._asks("new") else BothSides({}, {})

    def mend(self, changes: Sequence[RowChange], seen: BothSides) -> tuple[RowChange, ...]:
        for change in changes:
            self._note("new", f"write {change}")
        return tuple(changes)

    def stranded(self) -> tuple[str, ...]:
        return self._real.stranded() if self._asks("old") and self._asks("new") else ()

    def recount(self, side: Side) -> int:
        self._note(side, "count anew how much of quotas is used")
        return 0

    def picture(self) -> dict[str, Any]:
        return self._real.picture() if self._asks("old") else {}

    def tidy_services(self, known: Sequence[int]) -> int:
        self._note("old", "delete the records of nova-cells")
        return 0

    def answering(self, limit_s: float) -> frozenset[str]:
        return frozenset({self._conversion.path})

    def ask_for_instances(self, since: float) -> int:
        self._note("new", "ask for every instance")
        return 0

    def room(self, limit_s: float) -> int:
        return 0

    def close(self) -> None:
        self._real.close()


_NAMES: dict[Thing, str] = {
    "recell": "recell's account",
    "database": "the empty database",
    "nova": "Nova's account",
}
