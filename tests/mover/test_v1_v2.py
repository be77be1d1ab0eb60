"""Instances of cells v1 get their cells of v2, on real servers: mappings, cell0, build requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from recell.errors import StepFailed
from recell.model.v1 import Importing, Settled
from recell.mover.v1 import CellsConversion
from recell_bench.schemas import STEIN
from tests.mover.cells import Servers
from tests.mover.cells import servers as servers
from tests.mover.test_v1 import API, handed_over, instance, made

CELL0 = "00000000-0000-0000-0000-000000000000"
API_DATABASE = (
    "CREATE TABLE cell_mappings (id INT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(36) NOT NULL UNIQUE)",
    "CREATE TABLE instance_mappings (created_at DATETIME, updated_at DATETIME,"
    " id INT AUTO_INCREMENT PRIMARY KEY, instance_uuid VARCHAR(36) NOT NULL UNIQUE, cell_id INT,"
    " project_id VARCHAR(255) NOT NULL, user_id VARCHAR(255), queued_for_delete TINYINT(1),"
    " FOREIGN KEY (cell_id) REFERENCES cell_mappings (id))",
    "CREATE TABLE build_requests (id INT AUTO_INCREMENT PRIMARY KEY, instance_uuid VARCHAR(36) UNIQUE)",
    f"INSERT INTO cell_mappings (id, uuid) VALUES (4, '{CELL0}'), (7, 'c1')",
)


@pytest.fixture
def tree(servers: Servers) -> Iterator[tuple[CellsConversion, Servers]]:
    """recell's own conversion, handed over; guests 1 to 5 in the child, failed-1 and failed-2 of cell0."""
    port = made(servers, STEIN)
    handed_over(port)
    port.conversion = replace(port.conversion, api_database="nova_api")
    servers["old"].sql("DROP DATABASE IF EXISTS nova_api")
    servers["old"].create("nova_api", list(API_DATABASE))
    for number in (1, 2):
        mapping(servers, f"guest-{number}", 7)
    for failed in ("failed-1", "failed-2"):
        mapping(servers, failed, 4)
    yield port, servers
    port.close()


def mapping(servers: Servers, uuid: str, cell: int | None) -> None:
    servers["old"].row("nova_api", "instance_mappings", instance_uuid=uuid, cell_id=cell, project_id="p1")


def mapped(servers: Servers) -> dict[str, Any]:
    rows = servers["old"].sql("SELECT instance_uuid, cell_id FROM instance_mappings", database="nova_api")
    return dict(rows)


def building(servers: Servers) -> set[str]:
    return {u for (u,) in servers["old"].sql("SELECT instance_uuid FROM build_requests", database="nova_api")}


def build_request(servers: Servers, uuid: str) -> None:
    servers["old"].row("nova_api", "build_requests", instance_uuid=uuid)


def test_what_has_no_mapping_gets_one_and_what_is_being_built_is_let_alone(
    tree: tuple[CellsConversion, Servers],
) -> None:
    port, servers = tree
    mapping(servers, "guest-3", None)  # its build has failed in the child
    mapping(servers, "guest-4", None)
    build_request(servers, "guest-4")
    assert port.unmapped() == ("guest-3", "guest-5")
    assert port.map_instances() == 2
    assert port.unmapped() == () and port.map_instances() == 0
    found = mapped(servers)
    assert [found[f"guest-{n}"] for n in range(1, 6)] == [7, 7, 7, None, 7]
    assert building(servers) == {"guest-4"}
    made_ = servers["old"].sql(
        "SELECT project_id, user_id, queued_for_delete FROM instance_mappings"
        " WHERE instance_uuid = 'guest-5'", database="nova_api",
    )  # fmt: skip
    assert list(made_) == [("p1", "u1", 0)]


def test_at_rest_builds_that_no_cell_took_go_to_cell0_with_all_that_is_theirs(
    tree: tuple[CellsConversion, Servers],
) -> None:
    port, servers = tree
    port.map_instances()
    old, new = servers["old"], servers["new"]
    # The number is one that cell0 has as well.
    instance(new, API, 501, "no-room", host=None, vm_state="error", cell_name=None)
    new.row(API, "instance_faults", id=77, instance_uuid="no-room", deleted=0, code=500, host="api1")
    instance(old, "nova", 60, "failed-there", host=None, vm_state="error")
    for uuid in ("no-room", "failed-there", "of-nobody"):
        mapping(servers, uuid, None)
        build_request(servers, uuid)
    assert port.settle() == Settled(1, 1)
    found = mapped(servers)
    assert (found["failed-there"], found["no-room"], found["of-nobody"]) == (7, 4, None)
    assert building(servers) == {"of-nobody"}, "nobody knows what it was"
    rows = dict(old.sql("SELECT uuid, id FROM instances WHERE deleted = 0", database="nova_cell0"))
    assert set(rows) == {"failed-1", "failed-2", "no-room"}
    for table in ("instance_extra", "instance_metadata", "instance_faults", "block_device_mapping"):
        assert old.sql(f"SELECT 1 FROM {table} WHERE instance_uuid = 'no-room'", database="nova_cell0"), table
    events = old.sql(
        "SELECT e.event FROM instance_actions a JOIN instance_actions_events e ON e.action_id = a.id"
        " WHERE a.instance_uuid = 'no-room'", database="nova_cell0",
    )  # fmt: skip
    assert list(events) == [("compute_x",)]
    assert port.settle() == Settled(0, 0), "once"


def test_a_kill_between_cell0_and_the_mapping_is_made_good(
    tree: tuple[CellsConversion, Servers], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, servers = tree
    instance(servers["new"], API, 501, "no-room", host=None, vm_state="error", cell_name=None)
    mapping(servers, "no-room", None)
    build_request(servers, "no-room")

    def dies(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recell.mover.v1_mapped._name_cell", dies)
        with pytest.raises(KeyboardInterrupt):
            port.settle()
    assert mapped(servers)["no-room"] is None and building(servers) == {"no-room"}
    assert port.settle() == Settled(0, 1)
    rows = servers["old"].sql("SELECT uuid FROM instances WHERE uuid = 'no-room'", database="nova_cell0")
    assert len(rows) == 1 and mapped(servers)["no-room"] == 4 and not building(servers)


def test_what_users_deleted_in_the_api_cell_does_not_come_back_out_of_cell0(
    tree: tuple[CellsConversion, Servers],
) -> None:
    port, servers = tree
    servers["new"].sql("UPDATE instances SET deleted = id WHERE uuid = 'failed-1'", database=API)
    port.settle()
    live = servers["old"].sql("SELECT uuid FROM instances WHERE deleted = 0", database="nova_cell0")
    assert list(live) == [("failed-2",)]
    gone = servers["old"].sql("SELECT deleted = id, vm_state FROM instances WHERE uuid = 'failed-1'",
                              database="nova_cell0")  # fmt: skip
    assert list(gone) == [(1, "deleted")]


def test_a_tree_of_somebody_else_is_adopted_once_and_undone_by_a_new_copy(
    tree: tuple[CellsConversion, Servers],
) -> None:
    port, servers = tree
    port.forget()  # as finish does
    assert port.importing() == Importing("none")
    port.adopt()
    port.adopt()
    assert port.importing() == Importing("live", True)
    port.take_back()
    instance(servers["old"], "nova", 70, "made-in-v2")
    handed_over(port)
    assert port.importing() == Importing("live", True) and port.agreement().wrong == ()
    port.forget()
    assert port.importing() == Importing("none")


def test_a_cell_without_its_mapping_is_refused(tree: tuple[CellsConversion, Servers]) -> None:
    port, servers = tree
    forget = ("SET foreign_key_checks = 0", "DELETE FROM cell_mappings WHERE id = 7")
    servers["old"].sql(*forget, database="nova_api")
    with pytest.raises(StepFailed, match="c1 has no cell mapping in nova_api"):
        port.settle()
