"""What Nova is at, asked of real tables of Juno and Stein: everything under way shows, and rest is rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pymysql.cursors import DictCursor

from recell.adapters.ports import QueueInfo
from recell.adapters.v1_work import UnderWay, named
from recell.errors import Unreachable
from recell.steps.compute import BEGUN, SHOWS_NOWHERE_S, Compute
from recell_bench.schemas import JUNO, STEIN, ddl, load
from tests.private_server import PrivateServer

NOW = "UTC_TIMESTAMP()"
LONG_AGO = "UTC_TIMESTAMP() - INTERVAL 1 DAY"


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    made = PrivateServer("performance-schema=OFF")
    for release in (JUNO, STEIN):
        made.create(database_of(release), ddl(load(release)))
    made.create("nova_api", ["CREATE TABLE build_requests (id INT PRIMARY KEY AUTO_INCREMENT,"
                             " created_at DATETIME, instance_uuid VARCHAR(36))"])
    # Kilo's and Liberty's API database holds mappings alone; Mitaka's requests have no instance's uuid.
    made.create("nova_api_liberty", ["CREATE TABLE cell_mappings (id INT PRIMARY KEY)"])
    made.create("nova_api_mitaka", [
        "CREATE TABLE build_requests (id INT PRIMARY KEY AUTO_INCREMENT, created_at DATETIME,"
        " request_spec_id INT NOT NULL, project_id VARCHAR(255) NOT NULL)",
        f"INSERT INTO build_requests (created_at, request_spec_id, project_id) VALUES ({NOW}, 1, 'p')",
    ])
    yield made
    made.stop()


def database_of(release: str) -> str:
    return f"nova_{release.replace('.', '_')}"


@dataclass
class Tables:
    """A release's database. ``messages``: on its broker, queue -> (ready, unacknowledged, consumers)."""

    server: PrivateServer
    release: str
    messages: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    database: str = ""

    def read(self, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        with self.server.connect(self.database) as session, session.cursor(DictCursor) as cursor:
            cursor.execute(sql, tuple(args) or None)
            return tuple(cursor.fetchall())

    def add(self, table: str, when: str = NOW, **values: Any) -> None:
        names = ", ".join(f"`{n}`" for n in values)
        marks = ", ".join(f"'{v}'" if isinstance(v, str) else "NULL" if v is None else str(v)
                          for v in values.values())
        column = "start_time" if table == "instance_actions_events" else "created_at"
        self.server.sql(f"INSERT INTO {table} ({column}, {names}) VALUES ({when}, {marks})",
                        database=self.database)

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        assert vhost == "/nova"
        return tuple(QueueInfo(n, ready, unacked, consumers, False)
                     for n, (ready, unacked, consumers) in self.messages.items())

    def begun(self, host: str, since: float) -> list[str]:
        return [str(row["what"]) for row in self.read(BEGUN, [host, host, host, since])]

    def work(self) -> UnderWay:
        api = Tables(self.server, self.release, database="nova_api") if self.release == STEIN else None
        return UnderWay(self, api, lambda: self, "/nova")  # type: ignore[arg-type, return-value]


@pytest.fixture(params=[JUNO, STEIN])
def tables(server: PrivateServer, request: Any) -> Tables:
    made = Tables(server, request.param, database=database_of(request.param))
    for table in ("instances", "instance_actions", "instance_actions_events", "block_device_mapping",
                  "migrations"):
        server.sql("SET foreign_key_checks = 0", f"DELETE FROM {table}", database=made.database)
    server.sql("DELETE FROM build_requests", database="nova_api")
    for number, uuid in enumerate(("i1", "i2"), 1):
        made.add("instances", LONG_AGO, id=number, uuid=uuid, vm_state="active", deleted=0)
    made.add("block_device_mapping", id=1, instance_uuid="i1", volume_id="v", connection_info="{}", deleted=0)
    made.add("migrations", id=1, instance_uuid="i1", status="finished", deleted=0)
    made.add("instance_actions", id=1, instance_uuid="i1", action="reboot", deleted=0)
    made.add("instance_actions_events", id=1, event="x", action_id=1, finish_time="2020-01-01", deleted=0)
    made.messages["conductor"] = (0, 0, 2)
    assert made.work().in_flight() == () and made.work().stuck() == ()
    return made


def test_each_kind_of_work_shows(tables: Tables) -> None:
    tables.add("instances", id=3, uuid="i3", task_state="rebooting", vm_state="active", deleted=0)
    tables.add("instance_actions_events", id=2, event="compute_attach_volume", action_id=1, deleted=0)
    tables.add("block_device_mapping", id=2, instance_uuid="i2", volume_id="v2", deleted=0)
    tables.add("migrations", id=2, instance_uuid="i2", status="pre-migrating", deleted=0)
    expected = [
        "i3 is rebooting", "compute_attach_volume of i1", "a volume is being attached to i2",
        "i2 is being migrated", "3 messages in compute.cmp1",
    ]  # fmt: skip
    if tables.release == STEIN:
        tables.server.sql(f"INSERT INTO build_requests VALUES (1, {NOW}, 'i4')", database="nova_api")
        expected.insert(4, "i4 is being built")
    tables.messages["compute.cmp1"] = (1, 2, 1)
    assert list(tables.work().in_flight()) == expected
    prepared = tables.work()
    prepared.make_ready()
    assert list(prepared.in_flight()) == expected


@pytest.mark.parametrize("database", ["nova_api_liberty", "nova_api_mitaka"])
def test_before_newton_builds_show_as_tasks_alone(
    server: PrivateServer, tables: Tables, database: str
) -> None:
    """The API database may be there all the same, and has other columns."""
    api = Tables(server, tables.release, database=database)
    work = UnderWay(tables, api, lambda: tables, "/nova")  # type: ignore[arg-type, return-value]
    work.make_ready()
    assert work.in_flight() == ()
    tables.add("instances", id=3, uuid="i3", task_state="scheduling", vm_state="building", deleted=0)
    assert work.in_flight() == ("i3 is scheduling",)


def test_an_api_database_that_was_never_made_holds_nobody_up(tables: Tables) -> None:
    class Missing:
        sentence = "the database nova_api on db1 does not exist"

        def read(self, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
            raise Unreachable(self.sentence, "")

    work = UnderWay(tables, Missing(), lambda: tables, "/nova")  # type: ignore[arg-type, return-value]
    assert work.in_flight() == ()
    Missing.sentence = "the database nova_api on db1 port 3306 does not answer from ctl1"
    work = UnderWay(tables, Missing(), lambda: tables, "/nova")  # type: ignore[arg-type, return-value]
    with pytest.raises(Unreachable):
        work.in_flight()


def test_made_ready_it_looks_at_few_rows_and_misses_none_that_comes(tables: Tables) -> None:
    tables.server.sql(f"UPDATE block_device_mapping SET created_at = {LONG_AGO}", database=tables.database)
    for number in (4900, 5000):
        tables.add("instance_actions_events", LONG_AGO, id=number, event="old", action_id=1, deleted=0)
        tables.add("block_device_mapping", LONG_AGO, id=number, instance_uuid="i1", volume_id="v", deleted=0)
    work = tables.work()
    work.make_ready()
    assert work._from == {"instance_actions_events": 4000, "block_device_mapping": 4000}
    # A transaction that had begun earlier than others which ended has smaller numbers.
    for number in (4950, 5001):
        tables.add("instance_actions_events", id=number, event=f"event {number}", action_id=1, deleted=0)
        tables.add("block_device_mapping", id=number, instance_uuid="i2", volume_id="v", deleted=0)
    attached = "a volume is being attached to i2"
    assert work.in_flight() == ("event 4950 of i1", "event 5001 of i1", attached, attached)
    work.make_ready()
    assert work._from["instance_actions_events"] == 3950
    assert len(work.in_flight()) == 4


def test_what_died_long_ago_is_named_and_not_waited_for(tables: Tables) -> None:
    tables.add("instances", LONG_AGO, id=3, uuid="i3", task_state="deleting", vm_state="active", deleted=0)
    tables.add("instances", id=4, uuid="i4", task_state="deleting", vm_state="deleted", deleted=4)
    tables.add("instances", id=5, uuid="i5", vm_state="error", deleted=0)
    tables.add("block_device_mapping", id=2, instance_uuid="i5", volume_id="v2", deleted=0)
    tables.add("block_device_mapping", id=3, instance_uuid="i1", source_type="image", deleted=0)
    tables.add("instance_actions_events", LONG_AGO, id=2, event="compute_x", action_id=1, deleted=0)
    tables.add("migrations", LONG_AGO, id=2, instance_uuid="i2", status="migrating", deleted=0)
    tables.messages |= {
        "compute.gone": (7, 0, 0), "reply_ab12": (1, 0, 1), "q-plugin": (5, 0, 1), "cells.x": (9, 0, 1),
    }  # fmt: skip
    assert tables.work().in_flight() == ()
    assert tables.work().stuck() == ("i3 is deleting",)


def test_named() -> None:
    assert named(["a", "b"]) == "a; b"
    assert named([str(n) for n in range(7)]) == "0; 1; 2; 3; 4; and 2 more"


def test_a_build_that_nova_never_ends_on_paper_is_over_when_its_instance_is_deleted(tables: Tables) -> None:
    tables.add("instances", id=4, uuid="i4", vm_state="deleted", deleted=4)
    tables.add("instance_actions", id=4, instance_uuid="i4", action="create", deleted=0)
    events = {2: ("compute__do_build_and_run_instance", 4), 3: ("compute_terminate_instance", 4),
              4: ("compute_reboot_instance", 1)}  # fmt: skip
    for number, (event, action) in events.items():
        tables.add(
            "instance_actions_events", id=number, event=event, action_id=action, host="cmp1", deleted=0
        )
    assert tables.work().in_flight() == ("compute_terminate_instance of i4", "compute_reboot_instance of i1")
    assert tables.begun("cmp1", 0.0) == ["compute_terminate_instance", "compute_reboot_instance"]
    assert tables.begun("cmp2", 0.0) == []


def test_before_rocky_no_event_says_its_host(tables: Tables) -> None:
    """It is the instance's, or one that it moves to; not known yet while it is being built."""
    tables.server.sql("UPDATE instances SET host = 'cmp1' WHERE id = 1", database=tables.database)
    reboot: dict[str, Any] = {"event": "compute_reboot_instance", "action_id": 1, "deleted": 0}
    tables.add("instance_actions_events", id=2, **reboot)
    assert tables.begun("cmp1", 0.0) == ["compute_reboot_instance"] and tables.begun("cmp2", 0.0) == []
    tables.add("migrations", id=2, instance_uuid="i1", status="migrating", deleted=0, source_compute="cmp1",
               dest_compute="cmp2")  # fmt: skip
    assert tables.begun("cmp2", 0.0) == ["compute_reboot_instance"] and tables.begun("cmp3", 0.0) == []
    tables.server.sql("UPDATE migrations SET status = 'confirmed'", database=tables.database)
    assert tables.begun("cmp2", 0.0) == []
    tables.add("instance_actions", id=2, instance_uuid="i2", action="create", deleted=0)
    build: dict[str, Any] = {"event": "compute__do_build_and_run_instance", "action_id": 2, "deleted": 0}
    tables.add("instance_actions_events", LONG_AGO, id=3, **build)
    assert tables.begun("cmp3", 0.0) == [], "one that died is waited for by nobody"
    tables.add("instance_actions_events", id=4, **build)
    assert tables.begun("cmp3", 0.0) == ["compute__do_build_and_run_instance"]
    tables.server.sql("UPDATE instances SET host = 'cmp1' WHERE id = 2", database=tables.database)
    assert tables.begun("cmp3", 0.0) == []


def test_a_nova_compute_whose_work_shows_nowhere_gets_the_time_for_it(tables: Tables) -> None:
    """Until Mitaka attaching a volume has neither an event nor a task."""
    now = 0.0
    nova = SimpleNamespace(query=lambda cell, sql, args=(): tables.read(sql, args))
    world = SimpleNamespace(clock=lambda: now, nova=lambda: nova)
    step: Any = SimpleNamespace(world=world, limit=lambda name: 120.0)
    ask = Compute(step, "cmp1", "", "cmp1").at_work(0.0)
    assert ask() == "what shows nowhere"
    now = SHOWS_NOWHERE_S
    assert ask() == ""
    tables.add("instance_actions_events", id=2, event="compute_reboot_instance", action_id=1, host="cmp1",
               deleted=0)  # fmt: skip
    assert ask() == "compute_reboot_instance"
    tables.server.sql("UPDATE instance_actions_events SET finish_time = start_time", database=tables.database)
    assert Compute(step, "cmp1", "", "cmp1").at_work(0.0)() == "", "from Rocky on events tell it all"


def test_an_event_that_is_there_twice_ends_once(tables: Tables) -> None:
    """As a nova-compute leaves it that was restarted while messages waited for it."""
    later, last = "'2026-01-01 10:00:13'", "2026-01-01 10:00:17"
    start = {"event": "compute_start_instance", "action_id": 1, "host": "cmp1", "deleted": 0}
    tables.add("instance_actions_events", "'2026-01-01 10:00:00'", id=2, **start)
    tables.add("instance_actions_events", later, id=3, **start)
    assert tables.begun("cmp1", 0.0) == ["compute_start_instance"] * 2
    for ended, left in (("2026-01-01 10:00:12", 1), (last, 0)):
        tables.server.sql(f"UPDATE instance_actions_events SET finish_time = '{ended}' WHERE id = 2",
                          database=tables.database)
        assert tables.begun("cmp1", 0.0) == ["compute_start_instance"] * left
    # Another action of the same kind is nothing to it.
    tables.add("instance_actions", id=9, instance_uuid="i2", action="start", deleted=0)
    tables.add("instance_actions_events", later, id=4, **{**start, "action_id": 9})
    assert tables.begun("cmp1", 0.0) == ["compute_start_instance"]
