"""Nova's databases, simulated: cell mappings and service records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recell.adapters.ports import RawMapping, ServiceRow
from recell.errors import Locked, StalePlan
from recell.model.hosts import Flipped
from recell.model.urls import Url, parse_url

if TYPE_CHECKING:
    from tests.sim.world import SimWorld

CELL0 = "00000000-0000-0000-0000-000000000000"
CELL1 = "11111111-1111-4111-8111-111111111111"


class SimNova:
    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.rows: tuple[RawMapping, ...] = ()
        self.records: dict[str, list[ServiceRow]] = {CELL0: [], CELL1: []}
        self.retired: dict[int, tuple[str, ServiceRow]] = {}
        self.cell1_truth = ""
        self._id = 0

    def is_cell1(self, believed: str) -> bool:
        """Whether somebody believes cell1 to be where it is, whatever its database's address may be."""

        def without_address(text: str) -> tuple[str, Url]:
            transport, _, database = text.partition("|")
            return transport, replace(parse_url(database), endpoints=())

        return without_address(believed) == without_address(self.cell1_truth)

    def mappings(self) -> tuple[RawMapping, ...]:
        return self.rows

    def set_mapping(self, old: RawMapping, new: RawMapping) -> None:
        self.world.point("before the mapping is set")
        if old not in self.rows:
            raise StalePlan("the mapping is not what it was")
        self.world.changes.append(f"mapping {new.name}")
        self.rows = tuple(new if m == old else m for m in self.rows)
        self.world.point("the mapping is set")

    def add_mapping(self, new: RawMapping) -> None:
        raise AssertionError("no cell is made here")

    def remove_mapping(self, old: RawMapping) -> None:
        raise AssertionError("no cell is made here")

    def host_cells(self, hosts: Sequence[str]) -> dict[str, str]:
        raise AssertionError("no hosts move here")

    def hold_mappings(self, limit_s: float, settle_s: float) -> float:
        raise AssertionError("no hosts move here")

    def flip(
        self, hosts: Sequence[str], instances: Sequence[str], source: str, target: str
    ) -> Flipped:
        raise AssertionError("no hosts move here")

    def let_mappings_go(self) -> None:
        raise AssertionError("no hosts move here")

    def report(self, cell: str, host: str, binary: str) -> None:
        if not any((r.host, r.binary) == (host, binary) for r in self.records[cell]):
            self._id += 1
            self.records[cell].append(ServiceRow(self._id, f"u{self._id}", host, binary, 70, False, 1.0))

    def services(self, cell: str) -> tuple[ServiceRow, ...]:
        return tuple(self.records[cell])

    def keep_up(self, cell: str, hosts: Sequence[str], down_s: float) -> None:
        raise AssertionError("no nova-compute is away here")

    def retire_service(self, cell: str, row: ServiceRow) -> None:
        self.world.changes.append(f"retire {row.host} {row.binary}")
        self.records[cell].remove(row)
        self.retired[row.id] = (cell, row)
        self.world.point(f"retired {row.host} {row.binary}")

    def restore_service(self, cell: str, row_id: int) -> None:
        _, row = self.retired.pop(row_id)
        if any((r.host, r.binary) == (row.host, row.binary) for r in self.records[cell]):
            raise Locked("duplicate key: a new record stands where the old one goes")
        self.world.changes.append(f"restore {row.host} {row.binary}")
        self.records[cell].append(row)
        self.world.point(f"restored {row.host} {row.binary}")

    def swap_task(self, cell: str, uuid: str, old: str, new: str | None) -> bool:
        raise AssertionError("no nova-compute waits here")

    def busy(self, cell: str, before: float, since: float) -> tuple[str, ...]:
        return tuple(
            f"boot of {t.born:.1f}" for t in self.world.tasks if since <= t.born <= before and not t.scheduled
        )

    def now(self) -> float:
        return self.world.time

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        return ()
