"""cell1's database moves, in the simulated world: with the split, after it, killed everywhere, undone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recell.adapters.ports import Finished
from recell.cli.desk import Desk
from recell.cli.main import main
from recell.errors import BadInput, StepFailed, Unsupported, VerifyFailed
from recell.journal import Journal
from recell.model.moving import Retention
from recell.model.plan import Plan, dump_plan, load_plan
from recell.model.violation import Violation
from recell.planning.export import export
from recell.planning.split import make_plan, plan_split
from recell.preflight import check, live
from tests.sim import kolla
from tests.sim.cloud import DB_URL, LAYOUT, MOVE, build, layout, scan
from tests.sim.desk import desks as desks
from tests.sim.killing import WAYS, killed_everywhere, whole
from tests.sim.moving import SimMover
from tests.sim.rehearsing import by_hand, observed
from tests.sim.world import SimHost, SimWorld


def moves(world: SimWorld) -> Plan:
    return make_plan(scan(world), layout(MOVE), 0.0)


def both() -> tuple[SimWorld, Plan]:
    """A collapsed Nova, and the plan of the split and the move."""
    world = build()
    return world, moves(world)


def was_split(desks: Any) -> SimWorld:
    world = build()
    desks(world, plan_split(scan(world), layout(LAYOUT), 0.0)).go("forward")
    return world


def alone(desks: Any) -> tuple[SimWorld, Plan]:
    """A Nova that was split before, and the plan of the move."""
    world = was_split(desks)
    return world, moves(world)


def test_the_plan_says_where_and_holds_no_secret() -> None:
    _, plan = both()
    data = dump_plan(plan)
    assert load_plan(data, "plan.json") == plan
    assert b"s3cret" not in data and b"dbpw" not in data
    titles = [s.title for s in plan.steps]
    assert any("hold writers" in t and "db2:3306" in t for t in titles)
    assert any("db1:3307" in t for t in titles)
    assert any("purges" in r for r in plan.remarks)
    assert set(plan.databases) == {"api", "cell0", "cell1"}
    groups = {g["name"]: g["database"] for g in plan.topology_after["groups"]}
    assert "@db2:3306/" in groups["cell1"]


def test_there_and_back_and_there_again(desks: Any) -> None:
    world, plan = both()
    before = world.picture()
    desk = desks(world, plan)
    desk.go("forward")
    assert world.complaints == [] and world.databases.lost() == set()
    after = world.picture()
    assert {a for _, _, a in world.databases.users()} == {("db2", 3306)}
    assert after["databases"]["old"][2] is False, "Nova can't write to the old one any more"
    conductor = world.hosts["ctl2"].units_["nova-conductor"].config
    assert conductor["connection"] == DB_URL.replace("@db1/", "@db2:3306/")
    changes = list(world.changes)
    desk.go("forward")
    assert world.changes == changes, "applied twice it changes nothing"
    world.wait(5)
    desk.go("backward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert world.picture() == before
    desk.go("forward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert world.picture() == after


def test_cells_that_take_no_part_are_told_of(desks: Any) -> None:
    world = was_split(desks)
    found = scan(world)
    cell1 = next(m for m in found.mappings if m.name == "cell1")
    other = replace(
        cell1, uuid="c9", name="cell9", transport_resolved="rabbit://nova:***@far1/",
        database_resolved="mysql://nova:***@far2/nova_cell9",
    )  # fmt: skip
    conductor = found.role("conductor")[0]
    far = replace(
        conductor, host="ctl9", transport_url=other.transport_resolved, database=other.database_resolved
    )
    found = replace(
        found,
        hosts=(*found.hosts, replace(found.host("ctl1"), name="ctl9", hostname="ctl9", ips=(), aliases=())),
        services=(*found.services, far),
        mappings=(*found.mappings, other),
        remarks=(*found.remarks, "cell-unread|cell8|its database is PostgreSQL's"),
    )
    plan = make_plan(found, layout(MOVE), 0.0)
    said = "\n".join(plan.remarks)
    assert f"{conductor.unit} on ctl9 is another cell's and goes on as it is" in said
    assert "cell8 takes no part: its database is PostgreSQL's." in said
    assert "ctl9" not in {s.where for s in plan.steps}
    unread = replace(scan(build()), remarks=("cell-unread|cell1|recell can't read its database, pg1",))
    with pytest.raises(Unsupported, match="cell1 can't be split: recell can't read its database, pg1"):
        plan_split(unread, layout(LAYOUT), 0.0)
    stranger = replace(far, database=cell1.database_resolved)
    with pytest.raises(Unsupported, match="no host of the broker of nova-conductor on ctl9"):
        make_plan(replace(found, services=(*found.services, stranger)), layout(MOVE), 0.0)


def test_a_nova_that_was_split_before(desks: Any) -> None:
    world, plan = alone(desks)
    before = world.picture()
    assert plan.kind == "move-cell-database"
    groups = {g["name"]: g for g in plan.topology_after["groups"]}
    assert "@db2:3306/" in groups["cell1"]["database"]
    assert "super-conductor" in groups["API level"]["services"]
    desk = desks(world, plan)
    desk.go("forward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert {a for _, _, a in world.databases.users()} == {("db2", 3306)}
    desk.go("backward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert world.picture() == before


def test_in_kollas_containers(desks: Any) -> None:
    world = kolla.build()
    before = world.picture()
    desk = desks(world, make_plan(kolla.scan(world), layout(MOVE), 0.0))
    desk.go("forward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert {a for _, _, a in world.databases.users()} == {("db2", 3306)}
    desk.go("backward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert world.picture() == before


def test_the_moments_length_is_in_the_journal(desks: Any) -> None:
    world, plan = alone(desks)
    desk = desks(world, plan)
    world.databases.relay.busy = 2  # two attempts find a transaction open, and let it go
    desk.go("forward")
    desk.go("backward")
    journal = Journal.open(desk.path, read_only=True)
    assert 0 < journal.recall("cell1-db/switch", "held-forward") < 1.5
    assert 0 < journal.recall("cell1-db/switch", "held-backward") < 1.5
    assert journal.recall("cell1-db/switch", "way-back")["kept_s"] == 3 * 86400
    journal.close()
    assert world.changes.count("hold") == 4


def test_a_cloud_that_never_rests_is_left_as_it_was(desks: Any) -> None:
    world, plan = alone(desks)
    before = world.picture()
    desk = desks(world, plan)
    world.databases.relay.busy = 99
    with pytest.raises(StepFailed, match="did not come to rest"):
        desk.go("forward")
    assert world.databases.relay.side == "old" and not world.databases.relay.held
    world.databases.relay.busy = 0
    desk.go("backward")
    assert world.complaints == [] and world.databases.lost() == set()
    assert world.picture() == before


def test_somebody_past_the_relay_stops_it(desks: Any) -> None:
    world, plan = alone(desks)
    desk = desks(world, plan)
    stray = world.hosts["ctl1"].units_["nova-novncproxy"]


    fixed = dict(stray.config)
    begin = type(world.hosts["ctl1"]).begin

    def never(host: Any, unit: Any) -> None:
        begin(host, unit)
        if unit is stray:
            unit.config = dict(fixed)

    world.hosts["ctl1"].begin = never.__get__(world.hosts["ctl1"])  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match=r"nova from ctl1 .*don't come through the relay|don't come"):
        desk.go("forward")
    assert world.databases.relay.side == "old" and world.complaints == []


def _killed(desks: Any, first: list[str], then: str, start: int) -> None:
    killed_everywhere(
        lambda: was_split(desks),
        lambda world: desks(world, moves(world)),
        whole,
        first,
        then,
        13,
        start,
        wrong=lambda world: [*world.complaints, *world.databases.lost()],
    )


@pytest.mark.parametrize(("first", "then"), WAYS)
def test_killed_here_and_there(desks: Any, first: list[str], then: str) -> None:
    _killed(desks, first, then, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), WAYS)
@pytest.mark.parametrize("start", range(13))
def test_killed_anywhere(desks: Any, first: list[str], then: str, start: int) -> None:
    _killed(desks, first, then, start)


def test_what_tools_must_learn_is_the_new_servers_address(desks: Any) -> None:
    for world, plan in (both(), alone(desks)):
        files = export(plan, scan(world), "puppet")
        conductors = [text for name, text in files.items() if "database/connection" in text]
        assert not any(":3307" in text for text in files.values()), "the relay is gone by then"
        assert plan.kind != "move-cell-database" or any("@db2:3306/nova" in text for text in conductors)


def test_it_can_be_done_by_hand_and_rehearsed(desks: Any, tmp_path: Path) -> None:
    world, plan = alone(desks)
    by_hand(plan)
    would = observed(world, plan, tmp_path)
    assert {"put a relay on port 3307", "switch the relay to its new side"} <= set(would)


def test_a_split_done_before_does_not_stand_in_the_way(desks: Any) -> None:
    """The cell's conductors go on as they were begun, and their files are younger: the plan restarts them."""
    world, _ = alone(desks)
    remarks = ("stale-process|ctl1|nova-conductor|/etc/nova/nova-cell1.conf",)
    found = check(replace(scan(world), remarks=remarks), layout(MOVE))
    stale = next(v for v in found if v.id == "stale:ctl1:nova-conductor")
    assert stale.severity == "warning" and "the plan restarts it" in stale.remedy


def test_what_check_finds_in_the_world(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world, plan = alone(desks)

    def found() -> set[str]:
        return {v.id for v in live.check(world, scan(world), layout(MOVE), plan) if v.severity == "stop"}

    assert found() == set()
    line = b"   0: 00000000:0CEB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n"
    assert int("0CEB", 16) == 3307
    said = {"cat": line, "df": b"Avail\n99999999999\n"}
    monkeypatch.setattr(SimHost, "query", lambda self, argv, **_: Finished(0, said[argv[0]], b""))
    assert found() == {"port:db1:3307"}
    monkeypatch.undo()
    conf = world.hosts["ctl1"].files["/etc/nova/nova-cell1.conf"]
    conf.content += b"\n[database]\nslave_connection = mysql+pymysql://nova:dbpw@db7/nova\n"
    assert "replica:ctl1:/etc/nova/nova-cell1.conf" in found()
    why = (Violation("mover:binlog-off:db1", "stop", "db1", "it has no binary log", "Switch it on"),)
    monkeypatch.setattr(SimMover, "troubles", lambda self, open_s: why)
    assert "mover:binlog-off:db1" in found()


def test_where_it_stands_says_until_when_undo_works(desks: Any) -> None:
    world, plan = alone(desks)
    desk = desks(world, plan)
    desk.go("forward")
    (desk.path.parent / "plan.json").write_bytes(dump_plan(plan))
    said = CliRunner().invoke(main, ["status", "--dir", str(desk.path.parent)])
    assert said.exit_code == 0 and "way back: db2:3306" in said.stdout and "binary log" in said.stdout
    desk.go("backward")
    assert "way back" not in CliRunner().invoke(main, ["status", "--dir", str(desk.path.parent)]).stdout


def test_rows_are_watched_paced_and_compared(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world, plan = alone(desks)
    desk = desks(world, plan)
    directory = desk.path.parent

    def rows(*words: str) -> tuple[int, str]:
        said = CliRunner().invoke(main, ["rows", "--dir", str(directory), *words])
        return said.exit_code, said.stdout + said.stderr

    @contextmanager
    def simulated(deployment: object) -> Iterator[SimWorld]:
        world.reborn()
        yield world

    monkeypatch.setattr(sys.modules["recell.cli.rows"], "world_of", simulated)
    monkeypatch.setattr(SimWorld, "claim", lambda *_: None, raising=False)
    monkeypatch.setattr(Desk, "deployment", lambda self: None)
    (directory / "plan.json").write_bytes(dump_plan(plan))
    Journal.create(desk.path, plan.digest).close()
    assert rows()[0] == 9 and "nothing was applied yet. Begin with: recell apply" in rows()[1]
    desk.go("forward")
    assert rows()[1].splitlines() == [
        "nova: all rows are there, and changes follow (db2:3306 -> db1:3306)",
        "  pace: as fast as the servers bear"]
    assert "at most 500 rows/s" in rows("--rate", "500")[1]
    assert "paused (then: at most 500 rows/s)" in rows("--pause")[1]
    said = json.loads(rows("--go-on", "--json")[1])
    assert said[0]["pace"] == {"rate": 500.0, "paused": False, "words": "at most 500 rows/s"}
    assert "all compared" in rows("--compare")[1]
    runs = Journal.open(desk.path, read_only=True).runs()
    assert (runs[-1].verb, runs[-1].direction) == ("rows", "forward")
    # A server that was put back to before the moment remembers that rows flow to it.
    assert world.databases.journal is not None
    world.databases.journal.backward = False
    code, text = rows("--compare")
    assert code == 11 and "Nova writes to db2:3306, which remembers that rows flow to it from db1:" in text
    world, plan = both()
    (directory / "plan.json").write_bytes(dump_plan(plan_split(scan(world), layout(LAYOUT), 0.0)))
    assert rows()[0] == 3 and "moves no database" in rows()[1]


def test_a_purged_binlog_is_said(desks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world, plan = alone(desks)
    desk = desks(world, plan)
    desk.go("forward")
    monkeypatch.setattr(SimMover, "retention", lambda self, side: Retention(1.0, "binlog.000001", False))
    with pytest.raises(VerifyFailed, match=r"purged binlog\.000001"):
        desk.go("forward")


def test_finish_takes_away_what_served_the_way_back(desks: Any) -> None:
    world, plan = alone(desks)
    desk = desks(world, plan)
    desk.go("forward")
    desk.finish()
    assert world.databases.journal is None
    assert {side: s.accounts for side, s in world.databases.servers.items()} == {
        "old": {"nova"}, "new": {"nova"},
    }  # fmt: skip
    assert world.databases.servers["old"].open is False and world.databases.lost() == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{host: db1}", "where it is today"),
        ("{host: db9}", "not a host of this deployment"),
        ("{host: db2, relay_port: 3306}", "relay_port"),
    ],
)
def test_layouts_that_do_not_fit(text: str, said: str) -> None:
    world = build()
    with pytest.raises(BadInput, match=said):
        make_plan(scan(world), layout(LAYOUT.replace("cell1: {}", f"cell1: {{database: {text}}}")), 0.0)


def test_tls_can_not_be_relayed() -> None:
    deployment = scan(build())
    mappings = tuple(
        replace(m, database_resolved=m.database_resolved + "&ssl_ca=/etc/ca.pem") for m in deployment.mappings
    )
    with pytest.raises(Unsupported, match="TLS"):
        make_plan(replace(deployment, mappings=mappings), layout(MOVE), 0.0)
