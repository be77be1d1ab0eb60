"""The doctor's rows on a schema from before Train: no hidden instances, another table of versions."""

from __future__ import annotations

from typing import Any, cast

import pytest

from recell.adapters.ports import NovaPort, RawMapping
from recell.discovery import rows


class OldNova:
    """Answers by the words of a statement, and refuses columns that its schema doesn't have."""

    def __init__(self, *columns: str) -> None:
        self.columns = {*columns}
        self.asked: list[str] = []

    def mappings(self) -> tuple[RawMapping, ...]:
        return (RawMapping("c1", "cell1", "", "", False),)

    def query(self, cell: str, sql: str, args: Any = ()) -> tuple[dict[str, Any], ...]:
        self.asked.append(sql)
        if "information_schema" in sql:
            table = str(args[0]) if args else "instances"
            found = [c for c in self.columns if c.startswith(f"{table}.")]
            if len(args) == 2:
                found = [c for c in found if c == f"{table}.{args[1]}"]
            return tuple({"name": c} for c in found)
        if "hidden" in sql and "instances.hidden" not in self.columns:
            raise AssertionError(f"a column that is not there: {sql}")
        if "queued_for_delete" in sql and "instance_mappings.queued_for_delete" not in self.columns:
            raise AssertionError(f"a column that is not there: {sql}")
        if "deleted <> 0" in sql:
            return ({"uuid": "gone"},)
        if "FROM instance_mappings" in sql:
            rows = ({"instance_uuid": "u1", "cell": "c1"}, {"instance_uuid": "gone", "cell": "c1"},
                    {"instance_uuid": "lost", "cell": "c1"})  # fmt: skip
            return rows[:1] if "queued_for_delete" in sql else rows
        if "FROM migrations" in sql:
            return ({"id": 1, "uuid": "m1"} if "migrations.uuid" in self.columns else {"id": 1},)
        if "FROM instances" in sql:
            return ({"uuid": "u1", "host": "cmp1"},)
        if "migrate_version" in sql:
            return ({"n": 391},)
        return ()


@pytest.mark.parametrize("columns", [(), ("instances.hidden",)])
def test_instances_are_read_with_and_without_a_column_for_hidden_ones(columns: tuple[str, ...]) -> None:
    nova = OldNova(*columns)
    assert rows.read_homes(cast(NovaPort, nova)).rows == {"u1": frozenset({"c1"})}
    assert [(g.uuid, g.host) for g in rows.read_guests(cast(NovaPort, nova))] == [("u1", "cmp1")]
    instances = [sql for sql in nova.asked if "FROM instances WHERE deleted = 0" in sql]
    assert len(instances) == 2 and all(("(hidden, 0) = 0" in sql) == bool(columns) for sql in instances)


def test_a_schema_from_before_yoga_tells_its_version_too() -> None:
    old = OldNova("migrate_version.version", "migrate_version.repository_id")
    assert rows.read_database(cast(NovaPort, old), "c1", "cell1", "db1").schema == "391"


def test_a_deleted_instance_of_before_rocky_is_not_missed() -> None:
    homes = rows.read_homes(cast(NovaPort, OldNova()))
    assert (homes.mapped, homes.wrong) == ({"u1": "c1", "lost": "c1"}, frozenset({"lost"}))
    rocky = rows.read_homes(cast(NovaPort, OldNova("instance_mappings.queued_for_delete")))
    assert (rocky.mapped, rocky.wrong) == ({"u1": "c1"}, frozenset())


def test_migrations_of_before_queens_have_no_uuid() -> None:
    assert rows.read_moves(cast(NovaPort, OldNova())) == frozenset()
    assert rows.read_moves(cast(NovaPort, OldNova("migrations.uuid"))) == {"m1"}
