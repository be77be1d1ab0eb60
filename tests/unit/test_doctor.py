"""Each fault, planted in the facts of a healthy cloud, is found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.doctor import examine
from recell.errors import RecellError, Unreachable
from recell.model.health import (
    ComputeNode,
    Diagnosis,
    Endpoint,
    Facts,
    Guest,
    Homes,
    MappingTimes,
    Provider,
    Unknown,
)
from tests.sim.world import CELL0, CELL1
from tests.unit.doctor_plants import (
    CELL2,
    CELL_ALONE,
    NO_API_DB,
    TEMPLATE,
    Plant,
    both,
    database,
    deployment,
    each_host,
    each_record,
    found,
    healthy,
    homes,
    mapping,
    providers,
    queue,
    record,
    records,
    role,
    second_cell,
    server,
    services,
    then,
    writers,
)

FAULTS: list[tuple[str, Plant, set[str]]] = [
    ("unmapped instance", homes({"x": {CELL1}}), {"instances:unmapped:cell1"}),
    ("mapping without a cell", homes({"x": {CELL1}}, {"x": ""}), {"instances:unassigned"}),
    ("in two cells", homes({"x": {CELL0, CELL1}}, {"x": CELL1}), {"instances:doubled:x"}),
    ("mapped elsewhere", homes({"x": {CELL1}}, {"x": CELL0}), {"instances:elsewhere:x"}),
    ("no row", homes({}, {"x": CELL1}), {"instances:missing"}),
    ("no cell, no row", homes({}, {"x": ""}), {"instances:nowhere"}),
    (
        "on an unknown host",
        then(
            both(guests=(Guest("a", CELL1, "cmp9"), Guest("b", CELL1, "cmp2"))),
        ),
        {"instances:hostless:cmp9"},
    ),
    ("unmapped host", lambda f: replace(f, host_mappings={"cmp1": (CELL1,)}), {"hosts:unmapped:cmp2"}),
    (
        "host mapped elsewhere",
        lambda f: replace(f, host_mappings={"cmp1": (CELL1,), "cmp2": (CELL0,)}),
        {"hosts:elsewhere:cmp2"},
    ),
    (
        "host in two cells",
        records(record("cmp1", "nova-compute", CELL0)),
        {"hosts:doubled:cmp1"},
    ),
    (
        "mapping of a host that is gone",
        lambda f: replace(f, host_mappings={**(f.host_mappings or {}), "old": (CELL1,)}),
        {"hosts:gone:old"},
    ),
    (
        "node without a service",
        then(
            lambda f: both(nodes=(*(f.first.nodes or ()), ComputeNode(CELL1, "node-x", "x", "x")))(f),
            providers(lambda ps: (*ps, Provider("node-x", "x", False))),
        ),
        {"hosts:node:x"},
    ),
    (
        "no cell0",
        then(
            lambda f: replace(
                f,
                deployment=replace(
                    f.deployment, mappings=tuple(m for m in f.deployment.mappings if m.uuid != CELL0)
                ),
            ),
        ),
        {"mapping:no-cell0"},
    ),
    (
        "broker unreachable",
        lambda f: replace(f, endpoints=(Endpoint(CELL1, "broker", "mq9:5672", "silent"),)),
        {"mapping:unreachable:cell1:broker:mq9:5672"},
    ),
    (
        "the API level's broker unreachable",
        lambda f: replace(f, endpoints=(Endpoint("", "broker", "mq4:5672", "silent"),)),
        {"broker:unreachable:mq4:5672"},
    ),
    (
        "database unreachable",
        lambda f: replace(f, endpoints=(Endpoint(CELL1, "database", "db9:3306", "silent"),)),
        {"mapping:unreachable:cell1:database:db9:3306"},
    ),
    (
        "two mappings, one database",
        mapping(database_resolved="mysql+pymysql://other:***@db1:3306/nova_cell0"),
        {"mapping:duplicate:cell0:cell1"},
    ),
    (
        "two cells in one vhost",
        second_cell("rabbit://nova:***@mq2/", "mysql+pymysql://nova:***@db2/nova"),
        {"broker:one-vhost:cell1:cell2", "broker:collapsed:cell1", "broker:collapsed:cell2"},
    ),
    (
        "two cells on one broker",
        second_cell("rabbit://nova:***@mq2/two", "mysql+pymysql://nova:***@db2/nova"),
        {"broker:shared:cell1:cell2", "broker:collapsed:cell1"},
    ),
    (
        "a template filled in two ways",
        then(
            TEMPLATE,
            services(
                lambda s: (s.host, s.role) == ("ctl2", "api"), database="mysql+pymysql://nova:***@db2/nova"
            ),
        ),
        {"mapping:ambiguous:cell1:database_connection"},
    ),
    (
        "a template that can't be filled",
        mapping(transport_resolved="rabbit://nova:***@{hostname3}/"),
        {"template:cell1:transport_url"},
    ),
    (
        "a mapping younger than a process",
        lambda f: replace(
            f,
            mapping_times=(
                MappingTimes(
                    CELL1,
                    max(
                        s.started_at
                        for s in f.deployment.services
                        if (s.host, s.role) == ("ctl1", "scheduler")
                    )
                    + 60,
                ),
            ),
            deployment=replace(
                f.deployment,
                services=tuple(
                    s
                    if (s.host, s.role) == ("ctl1", "scheduler")
                    else replace(s, started_at=s.started_at + 1000)
                    for s in f.deployment.services
                ),
            ),
        ),
        {"mapping:cached:ctl1:nova-scheduler"},
    ),
    (
        "group policy upcall",
        then(
            CELL_ALONE,
            NO_API_DB,
            services(
                lambda s: s.host == "cmp1",
                options={
                    "workarounds/disable_group_policy_check_upcall": "true",
                    "filter_scheduler/track_instance_changes": "false",
                },
            ),
            services(
                lambda s: s.host == "cmp2", options={"filter_scheduler/track_instance_changes": "false"}
            ),
        ),
        {"upcall:group-policy:cmp2"},
    ),
    (
        "cross_az_attach upcall",
        then(
            CELL_ALONE,
            NO_API_DB,
            role(
                "compute",
                options={
                    "workarounds/disable_group_policy_check_upcall": "true",
                    "filter_scheduler/track_instance_changes": "false",
                },
            ),
            services(lambda s: s.host == "cmp2", options={"cinder/cross_az_attach": "False"}),
        ),
        {"upcall:cross-az-attach:cmp2"},
    ),
    (
        "instance tracking into the void",
        CELL_ALONE,
        {"upcall:instance-tracking:mq1"},
    ),
    (
        "[api_database] on a compute",
        services(lambda s: s.host == "cmp1", api_database="mysql+pymysql://nova:***@db1/nova_api"),
        {"compute-api-database:cmp1"},
    ),
    (
        "[database] on a compute",
        services(lambda s: s.host == "cmp1", database="mysql+pymysql://nova:***@db1/nova"),
        {"compute-database:cmp1"},
    ),
    (
        "a conductor that the API reaches and that has no API database",
        then(
            services(lambda s: (s.host, s.role) == ("ctl2", "conductor"), api_database=""),
            role("compute", options={"workarounds/disable_group_policy_check_upcall": "true"}),
        ),
        {"upcall:ctl2:nova-conductor"},
    ),
    ("discover_hosts twice by cron", writers("ctl1", "ctl2"), {"discover-hosts:race"}),
    (
        "discover_hosts on two schedulers",
        role("scheduler", options={"scheduler/discover_hosts_in_cells_interval": "300"}),
        {"discover-hosts:race"},
    ),
    (
        "an older service",
        each_record("cmp2", version=69),
        {"versions:services"},
    ),
    (
        "an older package",
        lambda f: replace(f, packages={**f.packages, "cmp2": "33.0.1"}),
        {"versions:packages"},
    ),
    (
        "nova-status says no",
        lambda f: replace(f, upgrade_check={"Cells v2": ("failure", "no cells")}),
        {"upgrade-check:cells-v2"},
    ),
    ("schemas apart", database("cell0", schema="older"), {"database:schemas"}),
    (
        "unfinished online migration",
        database("cell1", unmigrated={"populate_instance_compute_id": 3}),
        {"database:unmigrated:cell1:populate_instance_compute_id"},
    ),
    ("no binary log", server(log_bin="OFF"), {"database:binlog-off:db1:3306"}),
    ("full of connections", server(Max_used_connections="500"), {"database:connections:db1:3306"}),
    ("read-only", server(read_only="ON"), {"database:read-only:db1:3306"}),
    (
        "a process older than its file",
        deployment(remarks=("stale-process|ctl1|nova-api|/etc/nova/nova.conf",)),
        {"stale:ctl1:nova-api"},
    ),
    ("unread", queue(5, 5), {"queue:unread:mq1:notifications.error"}),
    ("growing unread", queue(5, 50), {"queue:unread:mq1:notifications.error"}),
    ("behind", queue(500, 700, 1, "conductor.x"), {"queue:behind:mq1:conductor.x"}),
    (
        "provider without a host",
        providers(lambda ps: (*ps, Provider("ghost", "ghost", False))),
        {"placement:provider:ghost"},
    ),
    (
        "a provider of the same name and another uuid",
        providers(lambda ps: tuple(replace(p, uuid="old") if p.uuid == "node-cmp2" else p for p in ps)),
        {"placement:name:cmp2.example"},
    ),
    (
        "host without a provider",
        then(
            providers(lambda ps: tuple(p for p in ps if p.uuid != "node-cmp2")),
            both(guests=(Guest("a", CELL1, "cmp1"),)),
        ),
        {"placement:no-provider:cmp2.example"},
    ),
    (
        "orphaned allocation",
        providers(
            lambda ps: tuple(
                replace(p, consumers=p.consumers | {"x"}) if p.uuid == "node-cmp1" else p for p in ps
            )
        ),
        {"placement:orphans:cmp1.example"},
    ),
    (
        "instance without an allocation",
        providers(
            lambda ps: tuple(replace(p, consumers=frozenset()) if p.uuid == "node-cmp2" else p for p in ps)
        ),
        {"placement:unallocated"},
    ),
    (
        "a service that is down",
        services(lambda s: (s.host, s.role) == ("ctl2", "novncproxy"), active=False),
        {"down:ctl2:nova-novncproxy"},
    ),
    (
        "a silent record",
        records(record("cmp9", "nova-compute", seconds_since_report=500.0)),
        {"hosts:unmapped:cmp9", "record:nova-compute:cmp9"},
    ),
    (
        "an alarm",
        lambda f: replace(
            f,
            deployment=replace(
                f.deployment,
                brokers=tuple(
                    replace(b, alarms=("memory on mq1",)) if b.name == "mq1" else b
                    for b in f.deployment.brokers
                ),
            ),
        ),
        {"alarm:mq1:memory on mq1"},
    ),
    (
        "a clock",
        each_host("cmp1", clock_offset_s=40.0),
        {"clock:cmp1"},
    ),
    (
        "something that could not be asked",
        lambda f: replace(f, unknown=(Unknown("placement", "it is silent", ""),)),
        {"unknown:placement"},
    ),
]


def test_a_healthy_cloud_has_no_finding_but_notes() -> None:
    assert found(healthy()) == set()
    assert found(healthy(), "note") == {"broker:collapsed:cell1"}


@pytest.mark.parametrize(("plant", "want"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(plant: Plant, want: set[str]) -> None:
    facts = plant(healthy())
    assert found(facts) == want
    for d in examine(facts):
        assert d.what and d.why and d.mend and d.where and "\n" not in d.what + d.why + d.mend, d
        assert not d.what.endswith(".") and "***" not in d.id, d


def by_id(facts: Facts, name: str) -> Diagnosis:
    return next(d for d in examine(facts) if d.id == name)


def test_a_template_that_all_fill_alike_is_a_note() -> None:
    facts = TEMPLATE(healthy())
    assert found(facts) == set()
    assert {"mapping:template:cell1:transport_url", "mapping:template:cell1:database_connection"} < found(
        facts, "note"
    )


def two_cells(f: Facts) -> Facts:
    """The API level on mq4, cell1 on mq1, and a second cell with a broker and a database of its own, as well
    as a host of the inventory that runs nothing of Nova."""
    url, db = "rabbit://nova:***@mq7/", "mysql+pymysql://nova:***@db7/nova"
    compute = next(s for s in f.deployment.services if s.role == "compute")
    conductor = next(s for s in f.deployment.services if s.role == "conductor")
    more = (replace(compute, host="cmp7", nova_host="cmp7", transport_url=url),
            replace(conductor, host="ctl7", nova_host="ctl7", transport_url=url, database=db))
    own = (record("cmp7", "nova-compute", CELL2), record("ctl7", "nova-conductor", CELL2))
    web = replace(f.deployment.hosts[0], name="web", hostname="web", ips=("10.9.9.9",))
    assert f.first.nodes and f.first.placement
    return then(
        CELL_ALONE,
        second_cell(url, db),
        deployment_more(services=more, records=own, hosts=(web,)),
        homes({"z": {CELL2}}, {"z": CELL2}),
        both(nodes=(*f.first.nodes, ComputeNode(CELL2, "node-cmp7", "cmp7", "cmp7.example"))),
        providers(lambda ps: (*ps, Provider("node-cmp7", "cmp7.example", False, frozenset({"z"})))),
        lambda g: replace(g, host_mappings={**(g.host_mappings or {}), "cmp7": (CELL2,)},
                          bound={"mq1": frozenset({"scheduler_fanout"})},
                          endpoints=(*g.endpoints, Endpoint(CELL2, "broker", "mq7:5672"))),
    )(f)  # fmt: skip


def deployment_more(**more: tuple[Any, ...]) -> Plant:
    """A deployment with these behind those that it has."""
    return lambda f: deployment(**{k: (*getattr(f.deployment, k), *v) for k, v in more.items()})(f)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lambda f: f, set()),
        (homes({"x": {CELL2}}, {"x": CELL1}), {"instances:elsewhere:x"}),
        (homes({"x": {CELL1, CELL2}}, {"x": CELL2}), {"instances:doubled:x"}),
        (homes({"x": {CELL2}}), {"instances:unmapped:cell2"}),
        (records(record("cmp1", "nova-compute", CELL2)), {"hosts:doubled:cmp1"}),
        (
            lambda f: replace(f, endpoints=(Endpoint(CELL2, "database", "db7:3306", "silent"),)),
            {"mapping:unreachable:cell2:database:db7:3306"},
        ),
        (lambda f: replace(f, mapping_times=(*f.mapping_times, MappingTimes(CELL2, 9e9))),
         {f"mapping:cached:{h}:nova-{r}" for h in ("ctl1", "ctl2") for r in ("api", "scheduler")}),
    ],
)  # fmt: skip
def test_two_cells_and_a_host_without_nova(plant: Plant, expected: set[str]) -> None:
    assert found(plant(two_cells(healthy()))) == expected


def test_the_spare_queue_makes_instance_tracking_harmless() -> None:
    facts = CELL_ALONE(healthy())
    assert found(replace(facts, bound={"mq1": frozenset({"scheduler_fanout"})})) == set()
    assert found(replace(facts, bound={})) == set()


def test_a_compute_whose_conductor_is_blind_does_not_start_again() -> None:
    off = {"workarounds/disable_group_policy_check_upcall": "true",
           "filter_scheduler/track_instance_changes": "false"}  # fmt: skip
    facts = then(CELL_ALONE, NO_API_DB, role("compute", options=off, api_database="mysql://a/b"))(healthy())
    assert by_id(facts, "compute-api-database:cmp1").severity == "error"


def test_a_growing_queue_is_worse_than_a_still_one() -> None:
    assert by_id(queue(5, 5)(healthy()), "queue:unread:mq1:notifications.error").severity == "warning"
    assert by_id(queue(5, 6)(healthy()), "queue:unread:mq1:notifications.error").severity == "error"


@pytest.mark.parametrize("name", ["reply_abc", "scheduler_fanout_0123", "scheduler_fanout_recell"])
def test_queues_that_expire_or_are_meant_to_wait(name: str) -> None:
    assert found(queue(5, 6, name=name)(healthy())) == set()


def test_a_prepared_restart_is_told_from_a_forgotten_one() -> None:
    facts = deployment(remarks=("stale-process|ctl1|nova-conductor|/etc/nova/nova-cell1.conf",))(healthy())
    argv = ("/usr/bin/nova-conductor", "--config-file=/etc/nova/nova-cell1.conf")
    facts = services(lambda s: (s.host, s.role) == ("ctl1", "conductor"), argv=argv)(facts)
    assert found(facts) == set() and "prepared:ctl1:nova-conductor" in found(facts, "note")


def test_what_only_one_look_saw_is_a_boot_or_a_delete_under_way() -> None:
    facts = healthy()
    planted = homes({"x": {CELL1}})(facts)
    assert found(replace(facts, first=planted.first)) == set()
    assert found(replace(facts, second=planted.second)) == set()


def test_a_silent_cell_makes_no_orphans_and_no_gone_hosts() -> None:
    """What can't be read is unknown, not absent."""
    facts = healthy()
    empty = Homes({}, {}, frozenset())
    silent = replace(
        facts,
        first=replace(facts.first, homes=empty, guests=(), nodes=()),
        second=replace(facts.second, homes=empty, guests=(), nodes=()),
        deployment=replace(facts.deployment, records=()),
        endpoints=(Endpoint(CELL1, "database", "db1:3306", "silent"),),
        unknown=(Unknown("instances of cell1", "it is silent", ""),),
    )
    assert found(silent) == {"mapping:unreachable:cell1:database:db1:3306", "unknown:instances of cell1"}


def test_services_of_a_host_that_was_not_reached_are_no_strangers() -> None:
    facts = records(record("ctl3", "nova-conductor"))(healthy())
    assert "unseen:nova-conductor:ctl3" in found(facts)
    facts = replace(facts, unknown=(Unknown("host ctl3", "it is silent", ""),))
    assert found(facts) == {"unknown:host ctl3"}


CELLS = st.sampled_from([CELL0, CELL1, CELL2])


@given(
    rows=st.dictionaries(st.sampled_from("abcdef"), st.frozensets(CELLS, min_size=1)),
    mapped=st.dictionaries(st.sampled_from("abcdef"), CELLS | st.just("")),
    building=st.frozensets(st.sampled_from("abcdef")),
)
def test_every_instance_is_well_or_in_one_class(
    rows: dict[str, frozenset[str]], mapped: dict[str, str], building: frozenset[str]
) -> None:
    h = Homes(rows, mapped, building)
    classes = [h.unmapped, h.unassigned, h.doubled, h.elsewhere, h.missing, h.nowhere]
    for uuid in {*rows, *mapped}:
        times = sum(uuid in c for c in classes)
        well = uuid in building or rows.get(uuid) == frozenset({mapped.get(uuid)})
        assert (times == 0) == well, uuid
        # A doubled one may lack its mapping too: each is to be mended.
        assert times <= (2 if uuid in h.doubled else 1)
    assert not h.wrong & building


def test_what_is_said_when_something_does_not_answer() -> None:
    from recell.discovery.looking import Notes

    notes = Notes()

    def refuse() -> str:
        raise Unreachable("it is silent", "wake it")

    assert notes.ask("a", refuse) is None and notes.ask("b", str, 5) == "5"
    notes.add("a", RecellError("again"))
    assert notes.found == (Unknown("a", "it is silent", "wake it"),)
