"""What stands at two database servers, as a dry run pretends it: read for real, made in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from recell.adapters.dry_record import Record
from recell.model.moving import Thing
from recell.model.relay import Side

__all__ = ["DryThings"]

_NAMES: dict[Thing, str] = {
    "recell": "recell's account",
    "database": "the empty database",
    "nova": "Nova's account",
}


class _Real(Protocol):
    def there(self, side: Side) -> frozenset[str]: ...
    def close(self) -> None: ...


class DryThings:
    """Shared by the dry movers of databases and of hosts.

    :param place: how the record calls a side.
    """

    def __init__(self, real: _Real, record: Record, place: Callable[[Side], str]) -> None:
        self._there = real
        self._record = record
        self._place = place
        self._made: dict[tuple[Side, Thing], bool] = {}

    def _note(self, side: Side, what: str) -> None:
        self._record.add(self._place(side), what)

    def there(self, side: Side) -> frozenset[str]:
        found = set(self._there.there(side))
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

    def close(self) -> None:
        self._there.close()
