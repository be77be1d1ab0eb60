"""What requests write to a cell after its hosts have left it, on real servers."""

from __future__ import annotations

from typing import Any

from recell.model.hosts import Late
from recell.model.relay import Side
from recell.mover.hosts import FENCE, CellHosts
from tests.mover.cells import NOVA, OURS, hosts_of, no_broker
from tests.mover.cells import servers as servers
from tests.mover.test_hosts import MOVE, begin_task, instances, moment
from tests.mover.test_hosts import cells as cells
from tests.private_server import PrivateServer

Cells = tuple[CellHosts, dict[Side, PrivateServer]]
OLD, NEW = "nova", "nova_cell2"
EARLY, LATER = "2026-01-01 10:00:00", "2026-01-01 11:00:00"


def pair(server: PrivateServer, database: str, number: int, key: str, value: str, **more: Any) -> None:
    said = {"instance_uuid": "cmp2-0", "deleted": 0, "created_at": EARLY} | more
    server.row(database, "instance_metadata", id=number, key=key, value=value, **said)


def pairs(server: PrivateServer, database: str) -> dict[str, str]:
    found = server.sql(
        "SELECT `key`, value FROM instance_metadata WHERE deleted = 0 ORDER BY id", database=database
    )
    return {str(k): str(v) for k, v in found}


def moved(port: CellHosts) -> None:
    port.follow("new", lambda figures: None)
    port.bring_hosts("new")
    moment(port, "old", "new")


def again(servers: dict[Side, PrivateServer]) -> CellHosts:
    """Another run of recell's."""
    return CellHosts(hosts_of(servers), MOVE, OURS, NOVA, no_broker)


def test_what_requests_write_comes_along_once(cells: Cells) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    pair(old, OLD, 1, "colour", "red")
    pair(old, OLD, 2, "size", "small")
    old.row(OLD, "tags", resource_id="cmp2-0", tag="here")
    assert port.late("old") == Late(), "nothing has moved yet"
    moved(port)
    assert port.late("old") == Late(), "what recell itself writes in the moment is nobody's late write"
    pair(old, OLD, 3, "born", "late naïve 'quoted'")
    pair(old, OLD, 4, "elsewhere", "x", instance_uuid="cmp1-0")
    old.sql(
        f"UPDATE instance_metadata SET value = 'blue', updated_at = '{LATER}' WHERE id = 1",
        f"UPDATE instance_metadata SET deleted = 2, deleted_at = '{LATER}' WHERE id = 2",
        "DELETE FROM tags",
        "INSERT INTO tags VALUES ('cmp2-0', 'there')",
        "UPDATE instances SET display_name = 'renamed', locked = 1, locked_by = 'owner'"
        " WHERE uuid = 'cmp2-1'",
        "UPDATE instances SET display_name = 'not ours' WHERE uuid = 'cmp1-1'",
        database=OLD,
    )
    old.row(OLD, "instance_actions", id=99, instance_uuid="cmp2-2", action="delete", deleted=0)
    old.row(OLD, "instance_actions_events", id=99, event="compute_y", action_id=99, deleted=0)
    assert port.late("old") == Late(carried=10)
    assert pairs(new, NEW) == {"colour": "blue", "born": "late naïve 'quoted'"}
    assert new.sql("SELECT * FROM tags", database=NEW) == [("cmp2-0", "there")]
    found = new.sql("SELECT display_name, locked, locked_by, task_state, hidden FROM instances"
                    " WHERE uuid = 'cmp2-1'", database=NEW)  # fmt: skip
    assert found == [("renamed", 1, "owner", None, 0)]
    assert new.sql("SELECT action_id FROM instance_actions_events WHERE id = 99", database=NEW) == [(99,)]
    assert port.late("old") == Late()

    # Users go on in the new cell; another run of recell's takes nothing of it back.
    new.sql(
        f"UPDATE instance_metadata SET value = 'green', updated_at = '{LATER}' WHERE id = 1",
        "DELETE FROM tags",
        "UPDATE instances SET display_name = 'once more' WHERE uuid = 'cmp2-1'",
        database=NEW,
    )
    port.close()
    other = again(servers)
    assert other.late("old") == Late()
    old.sql("UPDATE instances SET display_description = 'd' WHERE uuid = 'cmp2-1'", database=OLD)
    assert other.late("old") == Late(carried=1)
    assert pairs(new, NEW)["colour"] == "green" and not new.sql("SELECT * FROM tags", database=NEW)
    found = new.sql("SELECT display_name, display_description FROM instances WHERE uuid = 'cmp2-1'",
                    database=NEW)  # fmt: skip
    assert found == [("once more", "d")]
    other.forget()
    other.clear("old")
    assert not [t for (t,) in old.sql("SHOW TABLES", database=OLD) if t.startswith("recell_")]
    other.close()


def test_what_the_new_cell_changed_later_stays(cells: Cells) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    pair(old, OLD, 1, "colour", "red")
    moved(port)
    old.sql(f"UPDATE instance_metadata SET value = 'blue', updated_at = '{EARLY}' WHERE id = 1", database=OLD)
    pair(old, OLD, 2, "size", "small")
    old.sql("UPDATE instances SET display_name = 'late' WHERE uuid = 'cmp2-0'", database=OLD)
    new.sql(f"UPDATE instance_metadata SET value = 'green', updated_at = '{LATER}'", database=NEW)
    pair(new, NEW, 200_000_001, "size", "large", created_at=LATER)
    new.sql("UPDATE instances SET display_name = 'newer' WHERE uuid = 'cmp2-0'", database=NEW)
    assert port.late("old") == Late(stale=3)
    assert pairs(new, NEW) == {"colour": "green", "size": "large"}
    assert new.sql("SELECT display_name FROM instances WHERE uuid = 'cmp2-0'", database=NEW) == [("newer",)]
    port.forget()


def test_what_can_not_be_brought_over_is_named(cells: Cells) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    moved(port)
    old.sql(
        "UPDATE instances SET deleted = id, vm_state = 'deleted' WHERE uuid = 'cmp2-0'",
        "UPDATE instance_extra SET flavor = 'other' WHERE instance_uuid = 'cmp2-1'",
        "DELETE FROM instance_extra WHERE instance_uuid = 'cmp2-2'",
        database=OLD,
    )
    old.row(OLD, "instances", id=77, uuid="forced", host="cmp2", deleted=0)
    found = port.late("old")
    assert (found.carried, found.stale) == (0, 0)
    assert sorted(found.lost) == [
        "instance cmp2-0: deleted, vm_state changed in cell1 after it had moved",
        "instance forced was born in cell1 after the move",
        "instance_extra 21: changed in cell1 after it had moved",
        "instance_extra 22: deleted in cell1 after it had moved",
    ]
    assert port.late("old") == Late()
    assert new.sql("SELECT COUNT(*) FROM instances WHERE deleted = 0", database=NEW) == [(3,)]
    assert new.sql("SELECT COUNT(*) FROM instance_extra", database=NEW) == [(3,)]
    port.forget()


def test_tasks_begun_after_a_run_has_died_in_the_moment(cells: Cells) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    port.follow("new", lambda figures: None)
    assert begin_task(old, OLD, "cmp2-0", "rebooting") == 1
    port.catch_up("new", 300)
    port.prepare_hold("old", 20)
    port.hold("old")
    port.drain(120)
    port.reveal("new")
    port.close()  # the mappings have changed, and nothing is hidden
    assert begin_task(old, OLD, "cmp2-1", "powering-off") == 1
    assert begin_task(old, OLD, "cmp2-2", "powering-off") == 1
    assert begin_task(new, NEW, "cmp2-2", "rebooting") == 1
    other = again(servers)
    other.hide("old")
    tasks = {u: t for u, (t, _, _) in instances(new, NEW).items()}
    assert tasks == {"cmp2-0": "rebooting", "cmp2-1": "powering-off", "cmp2-2": "rebooting"}
    assert {t for u, (t, _, _) in instances(old, OLD).items() if u.startswith("cmp2")} == {FENCE}
    new.sql("UPDATE instances SET task_state = NULL", database=NEW)
    other.hide("old")
    assert {t for t, _, _ in instances(new, NEW).values()} == {None}
    assert other.late("old") == Late()
    other.forget()
    other.close()


def test_nobody_meets_a_host_without_a_service(cells: Cells) -> None:
    """nova-api would take a late deleted instance of such a host off its rows, with the guest still there."""
    port, servers = cells
    moved(port)
    old = servers["old"]
    found = old.sql(
        "SELECT deleted, TIMESTAMPDIFF(SECOND, last_seen_up, UTC_TIMESTAMP()) < 60 FROM services"
        " WHERE host = 'cmp2' AND `binary` = 'nova-compute'",
        database=OLD,
    )
    assert found == [(0, 1)]
    assert old.sql("SELECT deleted FROM compute_nodes WHERE host = 'cmp2'", database=OLD) == [(2,)]
    port.forget()


def test_a_binary_log_that_is_gone_is_said(cells: Cells) -> None:
    port, servers = cells
    moved(port)
    port.close()
    servers["old"].purge()
    other = again(servers)
    found = other.late("old")
    assert len(found.lost) == 1 and "what was written late to cell1 can't be known" in found.lost[0]
    other.forget()
    other.clear("old")
    other.close()
