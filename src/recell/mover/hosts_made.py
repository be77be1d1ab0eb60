"""What two cells of hosts that move need at their database servers besides databases and accounts."""

from __future__ import annotations

from recell.adapters.mysql.session import Busy
from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.sql import name
from recell.adapters.schema import compare_schemas
from recell.errors import StepFailed
from recell.model.relay import Side, other
from recell.model.scope import Schema
from recell.mover.databases import Databases
from recell.mover.gap import part_counters, plan_gap, raise_counters, read_counters
from recell.planning.tables import SEEDED_BY_SYNC, with_hosts

__all__ = ["CellMaking"]


class CellMaking(Databases):
    """As :class:`~recell.mover.hosts.CellHosts`, whose part it is."""

    def differences(self) -> tuple[str, ...]:
        with self._root("old", self._database("old")) as old, self._root("new", self._database("new")) as new:
            both = (with_hosts(self._schema(old, "old")), with_hosts(self._schema(new, "new")))
            return compare_schemas(*both)

    def part(self, toward: Side) -> None:
        self._permit()
        with self._entered(toward) as mine, self._entered(other(toward)) as theirs:
            schema, source = self._schema(mine, toward), self._schema(theirs, other(toward))
            here, there = read_counters(mine, schema), read_counters(theirs, source)
            if all(number > there.get(table, 0) for table, number in here.items()):
                return
            tables = ("instances", "services", "compute_nodes")
            used = any(mine.query(f"SELECT 1 FROM {name(t)} LIMIT 1") for t in tables)
            mine.rollback()
            if used:
                self._apart(mine, theirs, with_hosts(schema))
            else:
                raise_counters(mine, schema, plan_gap(schema, [there]), SEEDED_BY_SYNC)

    def _apart(self, mine: Connection, theirs: Connection, schema: Schema) -> None:
        for attempt in range(10):
            try:
                part_counters(mine, theirs, schema)
                return
            except Busy as busy_:
                if attempt == 9:
                    raise StepFailed(
                        f"the counters of {mine.endpoint.where} could not be raised ({busy_})",
                        "A long transaction uses a table; try again at a calmer hour",
                    ) from None
