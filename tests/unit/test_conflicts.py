"""A populated target: each row in the way is named, a row that is only equal or only near is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from recell.mover.conflicts import Conflict, find_conflicts
from recell.planning.tables import cell_scope, hosts_scope
from recell_bench.schemas import TODAY, ddl, load
from tests.private_server import PrivateServer

SCHEMA = load(TODAY, "old")
HOSTS = ["cmp1"]
USED = ("instances", "services", "compute_nodes", "s3_images", "virtual_interfaces", "instance_metadata",
        "tags", "instance_actions", "instance_actions_events", "task_log", "alembic_version")


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    made = PrivateServer()
    for database in ("old", "new"):
        made.create(database, ddl(SCHEMA))
    yield made
    made.stop()


@pytest.fixture
def cells(server: PrivateServer) -> Iterator[PrivateServer]:
    yield server
    for database in ("old", "new"):
        server.sql(f"USE {database}", "SET foreign_key_checks = 0",
                   *(f"DELETE FROM `{table}`" for table in USED))


def find(server: PrivateServer, hosts: list[str] | None = HOSTS, named: int = 20) -> list[Conflict]:
    scope = hosts_scope(SCHEMA, hosts) if hosts else cell_scope(SCHEMA)
    found = find_conflicts(server.endpoint("old"), server.endpoint("new"), scope, named)
    assert found.total >= len(found.named)
    return list(found.named)


def instance(
    server: PrivateServer, database: str, number: int, host: str | None = "cmp1", **more: Any
) -> str:
    uuid = more.pop("uuid", f"0000000{number}-0000-4000-8000-000000000000")
    server.row(database, "instances", id=number, uuid=uuid, host=host, deleted=0, **more)
    return str(uuid)


def test_nothing_in_the_way(cells: PrivateServer) -> None:
    instance(cells, "old", 1)
    instance(cells, "new", 7, "cmp9")
    cells.row("old", "services", id=1, host="cmp1", binary="nova-compute", topic="compute", deleted=0)
    cells.row("new", "services", id=1, host="con1", binary="nova-conductor", topic="conductor", deleted=0)
    cells.row("old", "services", id=4, host="con1", binary="nova-conductor", topic="conductor", deleted=0)
    (only,) = find(cells)
    assert only == Conflict("services", (1,), (1,), (("id",),))


def test_ids_of_rows_that_stay_are_not_in_the_way(cells: PrivateServer) -> None:
    instance(cells, "old", 1, "cmp2")
    instance(cells, "new", 1, "cmp9", uuid="another")
    assert find(cells) == []


def test_an_equal_row_is_not_in_the_way(cells: PrivateServer) -> None:
    for database in ("old", "new"):
        instance(cells, database, 1, display_name="größe")
        cells.row(database, "s3_images", id=1, uuid="x")
    cells.row("new", "s3_images", id=2, uuid="y")
    assert find(cells) == []


def test_unique_keys_ids_and_uuids(cells: PrivateServer) -> None:
    uuid = instance(cells, "old", 1)
    service = {"host": "cmp1", "binary": "nova-compute", "topic": "compute", "deleted": 0}
    cells.row("old", "services", id=3, uuid="s", **service)
    # Started too early in the new cell, it has made itself a record.
    cells.row("new", "services", id=9, uuid="t", **service)
    cells.row("old", "compute_nodes", id=5, host="cmp1", hypervisor_hostname="n", deleted=0, uuid="cn")
    cells.row("new", "compute_nodes", id=5, host="cmp9", hypervisor_hostname="m", deleted=0, uuid="other")
    cells.row("old", "virtual_interfaces", id=1, uuid="v", address="fa:1", instance_uuid=uuid, deleted=0)
    cells.row("new", "virtual_interfaces", id=8, uuid="V", address="FA:1", instance_uuid="z", deleted=0)
    # Left from an earlier move: no key of its own collides, its instance does.
    cells.row("new", "instance_metadata", id=77, key="a", value="b", instance_uuid=uuid, deleted=0)
    cells.row("old", "instance_metadata", id=1, key="a", value="b", instance_uuid=uuid, deleted=0)
    cells.row("old", "tags", resource_id=uuid, tag="t")
    cells.row("new", "tags", resource_id=uuid, tag="u")
    found = {c.table: c for c in find(cells)}
    services = found.pop("services")
    assert (services.target, services.source) == ((9,), (3,))
    assert set(services.by) == {("host", "topic", "deleted"), ("host", "binary", "deleted")}
    assert found.pop("compute_nodes") == Conflict("compute_nodes", (5,), (5,), (("id",),))
    assert found.pop("virtual_interfaces") == Conflict(
        "virtual_interfaces", (8,), (1,), (("address", "deleted"), ("uuid",)))
    assert found.pop("instance_metadata") == Conflict(
        "instance_metadata", (77,), (1,), (("instance_uuid",),))
    assert found.pop("tags") == Conflict("tags", (uuid, "u"), (uuid, "t"), (("resource_id",),))
    assert found == {}


def test_null_collides_with_nothing(cells: PrivateServer) -> None:
    uuid = instance(cells, "old", 1)
    for database, number in (("old", 1), ("new", 2)):
        cells.row(database, "virtual_interfaces", id=number, uuid=None, address=None,
                  instance_uuid=uuid if database == "old" else "z", deleted=0)
    assert find(cells) == []


def test_children_of_children(cells: PrivateServer) -> None:
    uuid = instance(cells, "old", 1)
    cells.row("old", "instance_actions", id=5, instance_uuid=uuid, deleted=0)
    cells.row("old", "instance_actions_events", id=6, action_id=5, deleted=0)
    cells.row("new", "instance_actions_events", id=6, action_id=1, deleted=0, event="another's")
    assert find(cells) == [Conflict("instance_actions_events", (6,), (6,), (("id",),))]
    assert str(find(cells)[0]) == (
        "instance_actions_events: row 6 of the source and row 6 of the target share (id)")


def test_an_instance_that_is_at_both_sides(cells: PrivateServer) -> None:
    uuid = instance(cells, "old", 1)
    instance(cells, "new", 4, "cmp9", uuid=uuid)
    (found,) = find(cells)
    assert (found.target, found.source, ("uuid",) in found.by) == ((4,), (1,), True)


def test_a_whole_cell_finds_every_other_row(cells: PrivateServer) -> None:
    instance(cells, "old", 1)
    instance(cells, "old", 2)
    instance(cells, "new", 2)
    instance(cells, "new", 3)
    instance(cells, "new", 1, display_name="another")
    cells.row("new", "alembic_version", version_num="abc")
    cells.row("old", "alembic_version", version_num="abc")
    found = find(cells, None)
    assert [(c.target, c.source) for c in found] == [((1,), (1,)), ((3,), None)]
    assert str(found[1]) == "instances of the target has the row 3, which the source doesn't have"


def test_many(cells: PrivateServer) -> None:
    cells.sql("USE old", "INSERT INTO task_log (id, task_name, state, host, period_beginning, period_ending,"
                         " message) SELECT seq, seq, 'x', 'cmp1', NOW(), NOW(), 'm' FROM seq_1_to_3000")
    cells.sql("USE new", "INSERT INTO task_log (id, task_name, state, host, period_beginning, period_ending,"
                         " message) SELECT seq, -seq, 'x', 'cmp7', NOW(), NOW(), 'm' FROM seq_2501_to_4000")
    found = find_conflicts(cells.endpoint("old"), cells.endpoint("new"), hosts_scope(SCHEMA, HOSTS), named=3)
    assert (found.counts, len(found.named)) == ((("task_log", 500),), 3)
