"""Nova's databases, read for real and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recell.adapters.dry_record import Record
from recell.adapters.ports import NovaPort, RawMapping, ServiceRow
from recell.errors import StalePlan
from recell.model.hosts import Flipped


class DryNova:
    """:class:`~recell.adapters.nova_port.NovaPort` that changes nothing."""

    def __init__(self, real: NovaPort, record: Record) -> None:
        self._real = real
        self._record = record
        self._mappings: dict[str, RawMapping] = {}
        self._retired: dict[tuple[str, int], bool] = {}
        self._unmapped: set[str] = set()
        self._flipped: dict[str, str] = {}

    def mappings(self) -> tuple[RawMapping, ...]:
        found = {m.uuid: m for m in self._real.mappings()} | self._mappings
        return tuple(m for m in found.values() if m.uuid not in self._unmapped)

    def add_mapping(self, new: RawMapping) -> None:
        self._record.add("nova_api", f"map the cell {new.name}")
        self._mappings[new.uuid] = new
        self._unmapped.discard(new.uuid)

    def remove_mapping(self, old: RawMapping) -> None:
        self._record.add("nova_api", f"unmap the cell {old.name}")
        self._unmapped.add(old.uuid)

    def host_cells(self, hosts: Sequence[str]) -> dict[str, str]:
        return self._real.host_cells(hosts) | {h: c for h, c in self._flipped.items() if h in hosts}

    def hold_mappings(self, limit_s: float, settle_s: float) -> float:
        self._record.add("nova_api", "let lookups of mappings wait")
        return settle_s

    def flip(
        self, hosts: Sequence[str], instances: Sequence[str], source: str, target: str
    ) -> Flipped:
        self._record.add("nova_api", f"map {', '.join(hosts)} and {len(instances)} instances to {target}")
        self._flipped |= dict.fromkeys(hosts, target)
        return Flipped(len(hosts), len(instances))

    def let_mappings_go(self) -> None:
        return None

    def set_mapping(self, old: RawMapping, new: RawMapping) -> None:
        if old not in self.mappings():
            raise StalePlan(f"the cell mapping {old.name} is not what the plan was made for",
                            "Make the plan again: recell scan, recell plan")
        self._record.add("nova_api", f"change the cell mapping {old.name}")
        self._mappings[old.uuid] = new

    def services(self, cell: str) -> tuple[ServiceRow, ...]:
        return tuple(r for r in self._real.services(cell) if not self._retired.get((cell, r.id)))

    def retire_service(self, cell: str, row: ServiceRow) -> None:
        self._record.add(f"cell {cell}", f"retire the service record {row.binary} of {row.host}")
        self._retired[cell, row.id] = True

    def restore_service(self, cell: str, row_id: int) -> None:
        self._record.add(f"cell {cell}", f"restore the service record {row_id}")
        self._retired[cell, row_id] = False

    def keep_up(self, cell: str, hosts: Sequence[str], down_s: float) -> None:
        self._record.add(f"cell {cell}", f"say that nova-compute is up on {', '.join(hosts)}")

    def swap_task(self, cell: str, uuid: str, old: str, new: str | None) -> bool:
        self._record.add(f"cell {cell}", f"change the task of {uuid} from {old} to {new}")
        return True

    def busy(self, cell: str, before: float, since: float) -> tuple[str, ...]:
        return self._real.busy(cell, before, since)

    def now(self) -> float:
        return self._real.now()

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        return self._real.query(cell, sql, args)
