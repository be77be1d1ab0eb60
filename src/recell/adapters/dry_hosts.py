"""Hosts that would move: both cells are read for real, and nothing is written to them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from recell.adapters.dry_record import Record
from recell.adapters.dry_things import DryThings
from recell.adapters.hosts_port import HostsPort
from recell.model.hosts import Carried, Following, HostsMove, Late
from recell.model.relay import Side, other
from recell.model.violation import Violation


class DryHosts(DryThings):
    """:class:`~recell.adapters.hosts_port.HostsPort` that copies, holds, carries and deletes nothing.

    Where recell would make a cell or an account first, nothing is asked that needs it.
    """

    def __init__(self, real: HostsPort, move: HostsMove, record: Record, new: bool) -> None:
        """``new``: the new cell is one that would be made."""
        super().__init__(real, record, lambda side: move.at(side).name)
        self._real = real
        self._move = move
        self._new = new
        self._following: Following | None = None
        self._closed: dict[tuple[Side, str], bool] = {}
        self._cleared: set[Side] = set()
        self._carried = False

    def _asks(self, side: Side) -> bool:
        """Whether there is something to be asked with what is there really."""
        return not (self._new and side == "new")

    @property
    def _names(self) -> str:
        return ", ".join(self._move.hosts)

    def differences(self) -> tuple[str, ...]:
        return () if self._new else self._real.differences()

    def part(self, toward: Side) -> None:
        self._note(toward, "raise the numbers of new rows")

    def troubles(self) -> tuple[Violation, ...]:
        return self._real.troubles()

    def busy(self, side: Side) -> dict[str, str]:
        return self._real.busy(side) if self._asks(side) else {}

    def closed(self, side: Side) -> frozenset[str]:
        known = set(self._real.closed(side)) if self._asks(side) else set()
        for (where, host), shut in self._closed.items():
            if where == side:
                known = known | {host} if shut else known - {host}
        return frozenset(known)

    def shut_out(self, side: Side, hosts: Collection[str]) -> None:
        self._note(side, f"let no new builds go to {', '.join(sorted(hosts))}")
        self._closed |= {(side, h): True for h in hosts}

    def let_in(self, side: Side, hosts: Collection[str]) -> None:
        self._note(side, f"let builds go to {', '.join(sorted(hosts))} again")
        self._closed |= {(side, h): False for h in hosts}

    def following(self) -> Following:
        return self._following or Following("none")

    def follow(self, toward: Side, tell: Callable[[dict[str, float]], None]) -> str:
        self._note(toward, f"copy the rows of {self._names} and follow their changes")
        self._following = Following("following", toward, True)
        return "nothing was copied"

    def bring_hosts(self, toward: Side) -> None:
        self._note(toward, f"copy the service and node of {self._names}")

    def alive(self, side: Side) -> None:
        return None

    def catch_up(self, toward: Side, limit_s: float) -> float:
        return 0.0

    def instances(self, side: Side) -> tuple[str, ...]:
        return self._real.instances("old")

    def forget(self) -> None:
        self._note("new", "remove recell's bookkeeping")
        self._following = Following("none")

    def clear(self, side: Side) -> str:
        self._note(side, f"delete the rows of {self._names}")
        self._cleared.add(side)
        return "nothing was deleted"

    def left(self, side: Side) -> int:
        return 0 if side in self._cleared or not self._asks(side) else self._real.left(side)

    def reveal(self, side: Side) -> None:
        self._note(side, f"show the instances of {self._names}")

    def hide(self, side: Side) -> int:
        self._note(side, f"hide the instances of {self._names}")
        return 0

    def set_aside(self, side: Side) -> None:
        self._note(side, "set requests that wait aside")

    def put_back(self, side: Side) -> int:
        self._note(side, "put requests back that were set aside")
        return 0

    def served(self, side: Side) -> frozenset[str]:
        return self._real.served(side) if self._asks(side) else frozenset()

    def waiting(self, side: Side) -> int:
        return 0

    def carry(self, toward: Side, limit_s: float) -> Carried:
        if not self._carried:
            self._note(other(toward), f"carry requests that wait to {self._move.at(toward).name}")
            self._carried = True
        return Carried()

    def late(self, side: Side) -> Late:
        return Late()
