"""A standard Nova's rows come to an API cell on real servers: with their path, followed, undone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from recell.adapters.mysql.endpoint import Endpoint
from recell.errors import Denied, StalePlan, StepFailed, Unsupported
from recell.model.hosts import CellEnd
from recell.model.v1 import Conversion, Importing, Neighbour
from recell.mover.feed import ForeignWriter
from recell.mover.v1 import CellsConversion
from recell.planning.heal_v1 import overtaken
from recell_bench.schemas import JUNO, STEIN, ddl, indexes, load
from tests.mover.cells import NOVA, OURS, Servers, before_recell, hosts_of, no_broker
from tests.mover.cells import servers as servers
from tests.private_server import PrivateServer

API = "nova_api_cell"
PATH = "api!cell1"
URL = "rabbit://nova:s'%25cret@mq4:5672,nova:s'%25cret@mq5:5672//"


def instance(server: PrivateServer, database: str, number: int, uuid: str, **more: Any) -> None:
    values: dict[str, Any] = {
        "id": number, "uuid": uuid, "project_id": "p1", "user_id": "u1", "host": "cmp1", "deleted": 0,
        "vm_state": "active", "power_state": 1, "vcpus": 2, "memory_mb": 512, "display_name": f"naïve {uuid}",
    }  # fmt: skip
    server.row(database, "instances", **{**values, **more})
    children: dict[str, dict[str, Any]] = {
        "instance_extra": {},
        "instance_metadata": {"key": "k", "value": "v"},
        "instance_actions": {"action": "create"},
        "block_device_mapping": {},
    }
    for table, own in children.items():
        server.row(database, table, id=number, instance_uuid=uuid, deleted=0, **own)
    server.row(database, "instance_actions_events", id=number, event="compute_x", action_id=number, deleted=0)


def fill(server: PrivateServer, release: str) -> None:
    server.create("nova", ddl(load(release), indexes(release)))
    for number in range(1, 6):
        instance(server, "nova", number, f"guest-{number}")
    server.row("nova", "instances", id=9, uuid="gone", deleted=9, vm_state="deleted", project_id="p1")
    server.row("nova", "services", id=1, host="cmp1", binary="nova-compute", topic="compute", deleted=0)
    if release == JUNO:
        server.row("nova", "instance_types", id=7, name="m1.mine", flavorid="7", deleted=0, memory_mb=512,
                   vcpus=2)  # fmt: skip
        for number, (user, resource, used) in enumerate(
            (("u1", "instances", 5), ("u1", "cores", 10), ("u1", "ram", 2560), (None, "fixed_ips", 3)), 1
        ):
            server.row("nova", "quota_usages", id=number, project_id="p1", user_id=user, resource=resource,
                       in_use=used, reserved=0, deleted=0)  # fmt: skip
        return
    server.create("nova_cell0", ddl(load(release), indexes(release)))
    instance(server, "nova_cell0", 1, "failed-1", host=None, vm_state="error")
    instance(server, "nova_cell0", 2, "failed-2", host=None, vm_state="error")
    server.row("nova_cell0", "instance_faults", id=1, instance_uuid="failed-1", deleted=0, code=500, host="x")


def conversion_of(release: str, api_server: str = "db2") -> Conversion:
    old = CellEnd("c1", "cell1", "db1", "db1", 3306, "nova", "mq1", "mq1", "/", ("10.0.0.1",))
    new = CellEnd("", "api", api_server, api_server, 3306, API, "mq4", "mq4", "/", ("10.0.0.2",))
    return Conversion(
        old, new, PATH, ("ctl1", "/etc/nova/nova.conf"), (("mq1", 5672),), (("mq4", 5672),),
        "nova_cell0" if release == STEIN else "", release == JUNO,
    )  # fmt: skip


def port_to(servers: Servers, release: str) -> CellsConversion:
    where = "db2" if servers["old"] is not servers["new"] else "db1"
    return CellsConversion(hosts_of(servers), conversion_of(release, where), OURS, NOVA, no_broker)


def made(servers: Servers, release: str) -> CellsConversion:
    """The child with rows, and the API cell as db sync leaves it, with rows of its own."""
    before_recell(servers, API, lambda old: fill(old, release))
    new = servers["new"]
    port = port_to(servers, release)
    port.make("old", "recell")
    assert port.there("old") == {"recell", "nova", "database", "tables"}
    assert port.importing() == Importing("none")
    for thing in ("recell", "database", "nova"):
        port.make("new", thing)
        port.make("new", thing)
    assert port.there("new") == {"recell", "nova", "database"}
    new.sql("SET foreign_key_checks = 0", *ddl(load(release), indexes(release)), database=API)
    if release == JUNO:
        for number in range(1, 6):
            new.row(API, "instance_types", id=number, name=f"m1.{number}", flavorid=f"{number}", deleted=0)
    assert port.clear_seeded() == (5 if release == JUNO else 0)
    return port


@pytest.fixture(params=[STEIN, JUNO])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cells(servers: Servers, release: str) -> Iterator[tuple[CellsConversion, Servers]]:
    port = made(servers, release)
    yield port, servers
    port.close()


def names(server: PrivateServer, where: str = "deleted = 0") -> dict[str, str | None]:
    return {
        str(u): c
        for u, c in server.sql(f"SELECT uuid, cell_name FROM instances WHERE {where}", database=API)
    }


def quiet(figures: dict[str, float]) -> None:
    return None


def handed_over(port: CellsConversion) -> int:
    port.follow(quiet)
    port.catch_up(60)
    port.drain(30)
    return port.hand_over()


def test_rows_come_with_their_path_and_are_kept_up_until_they_are_handed_over(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    with pytest.raises(StepFailed, match="not proven equal"):
        port.hand_over()
    assert "none differs" in port.follow(quiet)
    assert port.importing() == Importing("following", True)
    assert names(new) == {f"guest-{n}": PATH for n in range(1, 6)}
    assert names(new, "deleted <> 0") == {"gone": None}
    instance(old, "nova", 20, "newcomer")
    old.sql("UPDATE instances SET deleted = id, vm_state = 'deleted' WHERE uuid = 'guest-1'", database="nova")
    old.sql("UPDATE instances SET task_state = 'rebooting' WHERE uuid = 'guest-2'", database="nova")
    assert port.catch_up(60) < 60
    assert "proven equal" in port.drain(30)
    assert port.drain(30), "a hold that was lost is tried again"
    failed = port.hand_over()
    assert failed == (2 if release == STEIN else 0)
    assert port.importing() == Importing("live", True)
    assert port.hand_over() == 0 and port.follow(quiet) == "Nova keeps both sides"
    found = names(new)
    # Nobody has it any more: Nova gives a row that left its path back only when it was live.
    assert {u: c for u, c in found.items() if not u.startswith("failed")} == dict.fromkeys(
        ["guest-2", "guest-3", "guest-4", "guest-5", "newcomer"], PATH
    )
    agreement = port.agreement()
    assert (agreement.rows, agreement.wrong, agreement.alone) == (5, (), ())
    if release == JUNO:
        flavors = new.sql("SELECT id, flavorid FROM instance_types", database=API)
        assert list(flavors) == [(7, "7")], "and none that db sync had put there"


def test_failed_builds_get_numbers_of_their_own(servers: Servers) -> None:
    with closing(made(servers, STEIN)) as port:
        handed_over(port)
        new = servers["new"]
        rows = dict(new.sql("SELECT uuid, id FROM instances WHERE deleted = 0", database=API))
        assert rows["guest-1"] == 1 and rows["failed-1"] > 9
        assert names(new)["failed-1"] is None, "no cell has it"
        joined = new.sql(
            "SELECT a.instance_uuid, e.event FROM instance_actions a JOIN instance_actions_events e"
            " ON e.action_id = a.id ORDER BY 1",
            database=API,
        )
        assert len(joined) == 7 and ("failed-2", "compute_x") in joined
        assert new.sql("SELECT code FROM instance_faults WHERE instance_uuid = 'failed-1'", database=API)
        assert port.agreement().alone == ()


def test_failed_builds_come_from_a_server_of_their_own_as_nova_reads_them(servers: Servers) -> None:
    made(servers, STEIN).close()
    # The one server that there is besides the child's stands for it, and Nova's account there for Nova.
    zero = servers["new"]
    servers["old"].sql("DROP DATABASE nova_cell0")
    zero.create("nova_cell0", ddl(load(STEIN), indexes(STEIN)))
    instance(zero, "nova_cell0", 1, "failed-1", host=None, vm_state="error")
    asked: list[str] = []

    def cell0() -> Endpoint:
        asked.append("cell0")
        return Endpoint("db3", "zero", "pw", "nova_cell0", 3306, unix_socket=str(zero.socket))

    conversion = replace(conversion_of(STEIN), cell0_at=("db3", 3306))
    port = CellsConversion(hosts_of(servers), conversion, OURS, NOVA, no_broker, cell0=cell0)
    try:
        port.make("old", "recell")
        said = {v.id: v.what for v in port.troubles()}
        assert "Access denied" in said["v1:cell0"] or "refuses" in said["v1:cell0"], said
        port.follow(quiet)
        with pytest.raises(Denied):
            port.catch_up(60)
        zero.sql("CREATE USER zero@localhost IDENTIFIED BY 'pw'",
                 "GRANT SELECT ON nova_cell0.* TO zero@localhost")  # fmt: skip
        assert "v1:cell0" not in {v.id for v in port.troubles()}
        port.catch_up(60)
        assert asked, "it is entered before users wait"
        port.drain(30)
        assert port.hand_over() == 1
        assert port.agreement().alone == () and names(servers["new"])["failed-1"] is None
    finally:
        port.close()
        zero.sql("DROP DATABASE nova_cell0", "DROP USER IF EXISTS zero@localhost")


def test_both_databases_may_be_on_one_server(servers: Servers) -> None:
    alone: Servers = {"old": servers["old"], "new": servers["old"]}
    port = made(alone, STEIN)
    try:
        port.follow(quiet)
        instance(alone["old"], "nova", 21, "later")
        port.catch_up(60)
        port.drain(30)
        assert port.hand_over() == 2
        assert names(alone["old"])["later"] == PATH
        assert port.agreement().wrong == ()
    finally:
        port.drop("new", "database")
        port.close()


def test_another_process_goes_on_where_one_was_killed(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    port.follow(quiet)
    port._kept.leave()  # a killed process says nothing either
    instance(servers["old"], "nova", 30, "meanwhile")
    with closing(port_to(servers, release)) as other:
        assert other.importing() == Importing("following", True)
        other.catch_up(60)
        assert names(servers["new"])["meanwhile"] == PATH
        other.drain(30)
        assert other.importing().phase == "drained"


def test_a_hand_over_that_was_taken_back_is_copied_anew(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    handed_over(port)
    # As Nova does: the API cell's row has a number of its own.
    instance(servers["new"], API, 100, "made-here", cell_name=PATH)
    instance(servers["old"], "nova", 31, "made-here")
    port.take_back()
    port.take_back()
    assert port.importing() == Importing("stale")
    instance(servers["old"], "nova", 32, "after")
    port.catch_up(60)
    port.drain(30)
    port.hand_over()
    rows = dict(servers["new"].sql("SELECT uuid, id FROM instances WHERE deleted = 0", database=API))
    assert rows["made-here"] == 31 and rows["after"] == 32
    assert port.agreement().wrong == ()


def test_writers_go_on_and_nothing_is_lost(cells: tuple[CellsConversion, Servers]) -> None:
    port, servers = cells
    stop = threading.Event()
    count = 0

    def write() -> None:
        nonlocal count
        with servers["old"].connect("nova") as session, session.cursor() as cursor:
            while not stop.is_set():
                count += 1
                cursor.execute(
                    "UPDATE instances SET task_state = %s, updated_at = UTC_TIMESTAMP() WHERE uuid = %s",
                    (f"t{count}", f"guest-{count % 5 + 1}"),
                )
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        port.follow(quiet)
        port.catch_up(60)
        while not count:
            time.sleep(0.01)
    finally:
        stop.set()
        writer.join()
    port.drain(30)
    port.hand_over()
    assert count and port.agreement().wrong == ()


def hears(server: PrivateServer) -> None:
    """What nova-cells writes when the child's updates come up: with numbers of the API cell's own."""
    server.sql(
        "UPDATE instances SET vm_state = 'odd', cell_name = 'api!cell1' WHERE uuid = 'guest-3'",
        "UPDATE instances SET deleted = id, vm_state = 'deleted' WHERE uuid = 'guest-4'",
        "UPDATE instance_extra SET deleted = id WHERE instance_uuid = 'guest-4'",
        "UPDATE migrations SET deleted = id WHERE instance_uuid = 'guest-4'", database=API,
    )  # fmt: skip
    server.row(API, "instance_faults", id=900, instance_uuid="guest-3", deleted=0, code=500, host="x")
    server.row(API, "instance_metadata", id=901, instance_uuid="guest-4", deleted=0, key="odd", value="v")


def proven(port: CellsConversion) -> str:
    """As the switch does it: whatever still changes is waited for."""
    until = time.monotonic() + 30
    while True:
        try:
            return port.drain(30)
        except StepFailed:
            if time.monotonic() > until:
                raise


def test_what_nova_cells_hears_too_early_is_put_right(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    old.row("nova", "migrations", id=1, instance_uuid="guest-4", deleted=0, status="confirmed")
    port.follow(quiet)
    hears(new)
    assert port.catch_up(60) < 60
    # A newcomer that it hears of before its row was copied gets a number that another may get below.
    move = port._kept.move
    assert move is not None and move._flow is not None
    move._flow.follower.stop()
    instance(old, "nova", 60, "another")
    instance(old, "nova", 61, "newcomer")
    new.row(API, "instances", id=60, uuid="newcomer", deleted=0, vm_state="building", cell_name=PATH)
    new.row(API, "instance_extra", id=60, instance_uuid="newcomer", deleted=0)
    port.catch_up(60)
    assert "times a row that nova-cells had written was put right" in proven(port)
    assert port.importing() == Importing("drained", True)
    hears(new)
    assert "proven equal" in proven(port)
    port.hand_over()
    rows = dict(new.sql("SELECT uuid, id FROM instances WHERE deleted = 0", database=API))
    assert (rows["newcomer"], rows["another"], rows["guest-4"]) == (61, 60, 4)
    assert port.agreement().wrong == ()
    assert not new.sql("SELECT id FROM instance_faults WHERE instance_uuid = 'guest-3'", database=API)
    assert not new.sql("SELECT id FROM instance_metadata WHERE id = 901", database=API)
    (extra,) = new.sql("SELECT deleted FROM instance_extra WHERE instance_uuid = 'guest-4'", database=API)
    assert extra == (0,)
    assert list(new.sql("SELECT deleted FROM migrations", database=API)) == [(0,)]


def test_what_it_heard_while_recell_was_away_is_put_right_too(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    port.follow(quiet)
    port._kept.leave()
    hears(servers["new"])
    with closing(port_to(servers, release)) as other:
        other.catch_up(60)
        proven(other)
        other.hand_over()
        assert other.agreement().wrong == ()


def test_killed_between_hearing_of_it_and_putting_it_right(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    port.follow(quiet)
    move = port._kept.move
    assert move is not None and move._flow is not None and move._flow.sentry is not None
    move._flow.follower.stop()
    hears(servers["new"])
    # What it has seen is noted down with the rows, and it is killed before it has written these.
    assert move._flow.sentry.reach(move._pair.end_of(move.target), 30)
    move._flow.follower._note_down(move._flow.follower._applying())
    port._kept.leave()
    with closing(port_to(servers, release)) as other:
        other.catch_up(60)
        proven(other)
        other.hand_over()
        assert other.agreement().wrong == ()


def test_what_only_the_api_cell_has_is_never_taken_for_something_heard(servers: Servers) -> None:
    new = servers["new"]
    with closing(made(servers, JUNO)) as port:
        port.follow(quiet)
        instance(new, API, 70, "made-by-hand")
        with pytest.raises(ForeignWriter, match="another writer than recell changed instances id=70"):
            port.catch_up(60)
            proven(port)
        assert new.sql("SELECT id FROM instances WHERE uuid = 'made-by-hand'", database=API)
    with closing(made(servers, JUNO)) as port:
        port.follow(quiet)
        new.sql("UPDATE instance_types SET vcpus = 9 WHERE id = 7", database=API)
        with pytest.raises(ForeignWriter, match="another writer than recell changed instance_types id=7"):
            port.catch_up(60)
            proven(port)


def test_records_are_written_once_and_fit(cells: tuple[CellsConversion, Servers]) -> None:
    port, servers = cells
    parent = Neighbour("api", True, URL, 1.0, 1.0)
    port.add_neighbour("old", parent)
    port.add_neighbour("old", parent)
    assert port.neighbours("old") == (parent,)
    row = servers["old"].sql("SELECT name, is_parent, transport_url, deleted FROM cells", database="nova")
    assert list(row) == [("api", 1, URL, 0)]
    with pytest.raises(StalePlan, match="another record of api"):
        port.add_neighbour("old", Neighbour("api", True, URL.replace("mq4", "mq9"), 1.0, 1.0))
    with pytest.raises(Unsupported, match="takes 255"):
        port.add_neighbour("new", Neighbour("cell1", False, "rabbit://" + "x" * 300, 1.0, 1.0))
    port.remove_neighbour("old", "api")
    port.remove_neighbour("old", "api")
    assert port.neighbours("old") == ()


def test_what_differs_is_named_and_what_only_one_side_has(cells: tuple[CellsConversion, Servers]) -> None:
    port, servers = cells
    handed_over(port)
    new = servers["new"]
    new.sql("UPDATE instances SET cell_name = 'cell1' WHERE uuid = 'guest-1'", database=API)
    new.sql("UPDATE instances SET vm_state = 'stopped' WHERE uuid = 'guest-2'", database=API)
    new.sql("SET foreign_key_checks = 0", "DELETE FROM instances WHERE uuid = 'guest-3'", database=API)
    new.row(API, "instances", id=200, uuid="no-room", deleted=0, vm_state="error", project_id="p1")
    new.row(API, "instances", id=201, uuid="lost", deleted=0, vm_state="active", host="cmp9", cell_name=PATH)
    found = port.agreement()
    assert found.alone == ("no-room",)
    assert [w.split()[0] for w in found.wrong] == ["guest-1", "guest-2", "guest-3", "lost"]
    assert "cell_name cell1" in found.wrong[0] and "vm_state stopped, and active" in found.wrong[1]
    assert "child alone" in found.wrong[2] and "API cell alone" in found.wrong[3]


def test_an_end_that_was_overtaken_is_mended_where_both_rows_stand_still(
    cells: tuple[CellsConversion, Servers],
) -> None:
    port, servers = cells
    handed_over(port)
    old, new = servers["old"], servers["new"]
    # All were written long ago; since then nova-cells wrote the API cell's rows in the wrong order.
    old.sql("UPDATE instances SET updated_at = '2019-01-01', task_state = NULL, created_at = '2018-01-01',"
            " launched_at = '2019-01-01'", database="nova")  # fmt: skip
    new.sql("UPDATE instances SET updated_at = UTC_TIMESTAMP(), created_at = '2018-01-01',"
            " task_state = 'reboot_started', launched_at = '2019-01-01' WHERE uuid LIKE 'guest-%'",
            "UPDATE instances SET task_state = 'rebooting' WHERE uuid = 'guest-2'",
            "UPDATE instances SET power_state = 4, task_state = NULL WHERE uuid = 'guest-3'",
            database=API)  # fmt: skip
    old.sql("UPDATE instances SET task_state = 'reboot_started' WHERE uuid = 'guest-4'", database="nova")
    old.sql("UPDATE instances SET updated_at = UTC_TIMESTAMP() WHERE uuid = 'guest-5'", database="nova")
    seen = port.both_sides()
    assert seen.child["guest-1"].quiet_s > 1000 and seen.api["guest-1"].updated > 0
    found = overtaken("api", PATH, seen, port.both_sides())
    assert {(c.label, tuple((c.after or {}).items())) for c in found} == {
        ("guest-1", (("task_state", None),)),
        ("guest-3", (("power_state", 1),)),
    }, "not what nova-api may have begun, the child is at, or has just written"
    # A user's next operation and a late update come before it is written.
    new.sql("UPDATE instances SET updated_at = '2019-02-02' WHERE uuid = 'guest-1'", database=API)
    assert [c.label for c in port.mend(found, seen)] == ["guest-3"]
    rows = {u: (t, p) for u, t, p in new.sql(
        "SELECT uuid, task_state, power_state FROM instances WHERE deleted = 0", database=API)}  # fmt: skip
    assert rows["guest-1"] == ("reboot_started", 1) and rows["guest-3"] == (None, 1)
    assert port.mend(found, seen) == (), "nothing is written twice"
    seen = port.both_sides()
    assert [c.label for c in port.mend(overtaken("api", PATH, seen, port.both_sides()), seen)] == ["guest-1"]
    new.sql("UPDATE instances SET task_state = 'reboot_started', deleted = id WHERE uuid = 'guest-1'",
            database=API)  # fmt: skip
    assert port.mend(found[:1], seen) == ()


def test_a_further_child_is_asked_whether_it_is_empty_and_gets_flavors_and_weights(
    cells: tuple[CellsConversion, Servers], release: str
) -> None:
    port, servers = cells
    old, new = servers["old"], servers["new"]
    assert port.live("old") == tuple(f"guest-{n}" for n in range(1, 6)) and port.live("new") == ()
    new.row(API, "instance_types", id=40, name="m1.api", flavorid="forty", deleted=0, memory_mb=64, vcpus=1,
            created_at="2019-01-01 00:00:01")  # fmt: skip
    new.row(API, "instance_type_extra_specs", id=3, instance_type_id=40, key="k", value="naïve", deleted=0)
    before, wanted = port.flavors("old"), port.flavors("new")
    assert json.loads(json.dumps(wanted)) == wanted
    assert [r["flavorid"] for r in wanted["instance_types"]] == ["forty"]
    with pytest.raises(StepFailed, match="has instances"):
        port.set_flavors(wanted)
    assert port.flavors("old") == before
    assert [v.id for v in port.child_troubles()] == ["v1-child:instances"]
    old.sql("UPDATE instances SET deleted = id", database="nova")
    assert port.child_troubles() == ()
    for _ in range(2):
        port.set_flavors(wanted)
        assert port.flavors("old") == wanted
    spec = old.sql("SELECT instance_type_id, value FROM instance_type_extra_specs", database="nova")
    assert list(spec) == [(40, "naïve")]
    port.set_flavors(before)
    assert port.flavors("old") == before
    for name, deleted in (("cell1", 0), ("cell1", 9), ("cell2", 0)):
        new.row(API, "cells", name=name, is_parent=0, transport_url="rabbit://", weight_offset=1,
                weight_scale=1, deleted=deleted)  # fmt: skip
    old.row("nova", "cells", name="stranger", is_parent=1, transport_url="rabbit://", deleted=0)
    new.sql("ALTER TABLE services ADD COLUMN odd INT", database=API)
    assert [v.id for v in port.child_troubles()] == [
        "v1-child:records:cell1", "v1-child:records:api", "v1-child:schema",
    ]  # fmt: skip
    port.set_weights("cell1", {"weight_offset": -2.5})
    rows = new.sql("SELECT name, deleted, weight_offset, weight_scale FROM cells ORDER BY id", database=API)
    assert list(rows) == [("cell1", 0, -2.5, 1), ("cell1", 9, 1, 1), ("cell2", 0, 1, 1)]


def test_undo_is_told_what_it_would_lose_counts_quotas_and_leaves_no_trace(servers: Servers) -> None:
    with closing(made(servers, JUNO)) as port:
        old, new = servers["old"], servers["new"]
        before = port.picture()
        handed_over(port)
        assert port.stranded() == ()
        new.row(API, "key_pairs", id=50, user_id="u1", name="mine", fingerprint="f", deleted=0)
        new.row(API, "instance_types", id=50, name="m1.new", flavorid="new", deleted=0)
        assert port.stranded() == ("flavor new", "key pair u1 mine")
        # Nova itself makes one with a project's first boot, also where Neutron filters.
        new.row(API, "security_groups", id=60, project_id="p9", name="default", deleted=0)
        assert port.stranded() == ("flavor new", "key pair u1 mine")
        new.row(API, "security_group_rules", id=60, parent_group_id=60, deleted=0)
        assert port.stranded()[-1] == "security group p9 default"
        for number in (40, 41):
            instance(old, "nova", number, f"made-{number}")
        instance(old, "nova", 42, "kept-a-while", vm_state="soft-delete")
        assert port.recount("old") == 3
        used = dict(old.sql("SELECT resource, in_use FROM quota_usages", database="nova"))
        assert used == {"instances": 7, "cores": 14, "ram": 3584, "fixed_ips": 3}
        assert port.recount("old") == 0
        old.row("nova", "services", id=70, host="ctl1", binary="nova-cells", topic="cells", deleted=0)
        assert port.tidy_services(before["services"]) == 1
        assert port.tidy_services(before["services"]) == 0
        port.take_back()
        port.forget()
        port.forget()
        assert port.importing() == Importing("none")
        assert port.picture() == before
        for thing in ("nova", "database", "recell"):
            port.drop("new", thing)
            port.drop("new", thing)
        port.drop("old", "recell")
        assert port.there("new") == set() and "recell" not in port.there("old")
        assert not new.sql(f"SHOW DATABASES LIKE '{API}'")
        assert "nova" in port.there("old"), "Nova's own account is nobody's to remove"


def test_an_api_cell_of_another_release_is_refused_before_rows_come(
    cells: tuple[CellsConversion, Servers],
) -> None:
    port, servers = cells
    servers["new"].sql("ALTER TABLE instances DROP COLUMN progress", database=API)
    with pytest.raises(Unsupported, match=r"no column instances\.progress"):
        port.clear_seeded()


def test_check_asks_both_servers_before_anything_is_made(servers: Servers) -> None:
    made(servers, STEIN).close()
    old, new = servers["old"], servers["new"]
    new.sql(f"DROP DATABASE {API}")
    # What `nova-manage db online_data_migrations` would have done.
    for table in ("services", "compute_nodes", "block_device_mapping", "migrations", "virtual_interfaces"):
        old.sql(f"UPDATE {table} SET uuid = UUID() WHERE uuid IS NULL", database="nova")
    port = port_to(servers, STEIN)
    try:
        assert [v.id for v in port.troubles() if v.severity == "stop"] == []
        old.row("nova", "cells", id=1, name="somebody", is_parent=1, transport_url="rabbit://", deleted=0)
        new.sql(f"CREATE DATABASE {API}", f"CREATE TABLE {API}.theirs (id INT PRIMARY KEY)")
        with old.connect() as root, root.cursor() as cursor:
            cursor.execute("REVOKE ALL ON nova.* FROM nova@'%'")
            cursor.execute("GRANT ALL ON `nov%%`.* TO nova@'%%'", ())
        found = {v.id.rsplit(":", 2)[0] if "db1" in v.id else v.id for v in port.troubles()
                 if v.severity == "stop"}  # fmt: skip
        assert found == {f"v1:in-the-way:{API}", "v1:records", "v1:rights"}
        old.sql("CREATE TABLE strange (id INT PRIMARY KEY)", database="nova")
        assert [v.id for v in port.troubles()] == ["v1:schema:nova on db1:3306"]
    finally:
        new.sql(f"DROP DATABASE IF EXISTS {API}")
        port.close()
