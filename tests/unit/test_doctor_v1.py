"""Cells v1: each fault, planted in the facts of a healthy tree of cells, is found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recell.doctor import examine
from recell.doctor.rules.cells_v1 import NOOP, quotas
from recell.model.cells_v1 import CellRecord, CellV1, Flavor, InstanceRow, Link, Room, StandingV1, path_of
from recell.model.deployment import Address, Broker, Deployment, HostFacts, NovaService, Role, ServiceRecord
from recell.model.health import DatabaseFacts, Facts, Moving, QueueFacts, Unknown
from tests.unit.doctor_plants import VARIABLES, Plant, both, deployment, found, services, then

API_URL = "rabbit://api:***@mqa:5672//"
CHILD_URL = "rabbit://nova:***@mq1:5672,nova:***@mq2:5672//"
API_DB, CHILD_DB = "mysql://nova:***@dba/nova_top", "mysql://nova:***@db1/nova"
QUOTA = {"DEFAULT/quota_driver": "nova.quota.NoopQuotaDriver"}
VIF = {"DEFAULT/vif_plugging_is_fatal": "false", "DEFAULT/vif_plugging_timeout": "5"}
UNITS: dict[str, tuple[Role, ...]] = {
    "top1": ("api", "cells", "consoleauth"),
    "top2": ("api", "cells"),
    "ctl1": ("cells", "conductor", "scheduler"),
    "ctl2": ("cells", "conductor", "scheduler"),
    "cmp1": ("compute",),
    "cmp2": ("compute",),
}


def service(host: str, role: Role, **more: Any) -> NovaService:
    api = host.startswith("top")
    options = {"cells/enable": "true", "cells/name": "api" if api else "cell1",
               "cells/cell_type": "api" if api else "compute",
               **({} if api else QUOTA), **(VIF if role == "compute" else {})}  # fmt: skip
    made = NovaService(
        host=host, unit=f"nova-{role}", role=role, argv=(f"/usr/bin/nova-{role}",), user="nova",
        active=True, enabled=True, started_at=1.0, main_pid=7,
        config_files=("/etc/nova/nova.conf",), explicit_config=False,
        nova_host=host, transport_url=API_URL if api else CHILD_URL, notification_url="",
        database="" if role == "compute" else API_DB if api else CHILD_DB, api_database="", options=options,
    )  # fmt: skip
    return replace(made, **more)


def record(cell: str, host: str, binary: str, **more: Any) -> ServiceRecord:
    return replace(ServiceRecord(cell, 1, "", host, binary, 0, False, 5.0), **more)


def row(cell_name: str = "", **more: Any) -> InstanceRow:
    return replace(InstanceRow(cell_name, "cmp1", "active", False, 9000.0), **more)


FLAVORS = (Flavor(1, "1", "tiny", 512, 1, 1, 0, 0), Flavor(2, "2", "small", 2048, 1, 20, 0, 0))


def healthy() -> Facts:
    """An API cell and one child, two controllers each, the child's broker a cluster."""
    units = tuple(service(h, r) for h, roles in UNITS.items() for r in roles)
    cells = (
        CellV1("api", "api", "api", "top1", "nova-cells", "dba:3306/nova_top", API_URL,
               tuple((s.host, s.unit) for s in units if s.database == API_DB),
               (CellRecord("cell1", False, CHILD_URL), CellRecord("gone", False, "", "deleted"))),
        CellV1("cell1", "cell1", "compute", "ctl1", "nova-cells", "db1:3306/nova", CHILD_URL,
               tuple((s.host, s.unit) for s in units if s.database == CHILD_DB),
               (CellRecord("api", True, "rabbit://api:***@mqa:5672//"),)),
    )  # fmt: skip
    hosts = (*UNITS, "mqa", "mq1", "mq2", "web")  # the last runs nothing of Nova
    made = Deployment(
        format=1, generation="v1", made_at=0.0, nova_version="2014.2.4",
        hosts=tuple(HostFacts(h, Address(h), (f"10.0.0.{n}",), h, "centos", "iptables")
                    for n, h in enumerate(hosts)),
        services=units,
        brokers=(Broker("mqa", ("mqa",), ("rabbit@mqa",), "3.6", ("/",)),
                 Broker("mq1", ("mq1", "mq2"), ("rabbit@mq1", "rabbit@mq2"), "3.6", ("/",))),
        clients=(), mappings=(), proxies=(), writers=(),
        records=tuple(record("api" if s.host.startswith("top") else "cell1", s.host, f"nova-{s.role}")
                      for s in units if s.role != "api"),
        cells=cells,
    )  # fmt: skip
    look = Moving(
        at=0.0,
        queues=tuple(QueueFacts(b, "/", f"cells.intercell.{k}", 0, 2) for b in ("mqa", "mq1")
                     for k in ("targeted", "broadcast", "response")),
        cells={
            "api": {"a": row("api!cell1"), "b": row("api!cell1", vm_state="stopped"),
                    "new": row("", host="", vm_state="building", busy=True, age_s=5.0)},
            "cell1": {"a": row(), "b": row(vm_state="stopped"),
                      "newer": row(host="", vm_state="building", busy=True, age_s=2.0)},
        },
    )  # fmt: skip
    return Facts(
        deployment=made,
        first=look,
        second=replace(look, at=10.0),
        databases=(
            DatabaseFacts("cell api", "dba:3306/nova_top", "267", VARIABLES),
            DatabaseFacts("cell cell1", "db1:3306/nova", "267", VARIABLES),
        ),
        packages={"top1": "2014.2.4", "ctl1": "2014.2.4"},
        v1=StandingV1(
            {("api", "instance_types"): FLAVORS, ("cell1", "instance_types"): FLAVORS},
            {"api": (), "cell1": (Room("cmp1", 4096, 100), Room("cmp2", 1024, 50))},
            (Link("api", "cell1", "mq1:5672"), Link("cell1", "api", "mqa:5672")),
        ),
    )


def cell(key: str, **changes: Any) -> Plant:
    def plant(f: Facts) -> Facts:
        cells = (replace(c, **changes) if c.key == key else c for c in f.deployment.cells)
        return deployment(cells=tuple(cells))(f)

    return plant


def records(of: str, *rows: CellRecord) -> Plant:
    return cell(of, records=rows)


def instances(of: str, more: dict[str, InstanceRow | None], *, once: bool = False) -> Plant:
    """The rows of a cell with others in their place; None takes one away."""

    def one(look: Moving) -> Moving:
        rows = {**look.cells[of], **more}
        return replace(look, cells={**look.cells, of: {u: r for u, r in rows.items() if r is not None}})

    return lambda f: replace(f, first=one(f.first), second=f.second if once else one(f.second))


def v1(**changes: Any) -> Plant:
    return lambda f: replace(f, v1=replace(f.v1, **changes))


def on(host: str, role: str, **changes: Any) -> Plant:
    return services(lambda s: (s.host, s.role) == (host, role), **changes)


def old(match: str, **changes: Any) -> Plant:
    def plant(f: Facts) -> Facts:
        rows = (replace(r, **changes) if f"{r.cell} {r.binary} {r.host}".startswith(match) else r
                for r in f.deployment.records)  # fmt: skip
        return deployment(records=tuple(rows))(f)

    return plant


def queues(broker: str, **changes: Any) -> Plant:
    def one(look: Moving) -> Moving:
        listed = (replace(q, **changes) if q.broker == broker else q for q in look.queues)
        return replace(look, queues=tuple(listed))

    return lambda f: replace(f, first=one(f.first), second=one(f.second))


CHILD_API = service("ctl1", "api", unit="nova-api")


def with_child_api(f: Facts) -> Facts:
    return deployment(services=(*f.deployment.services, CHILD_API))(cell(
        "cell1", members=(*f.deployment.cells[1].members, ("ctl1", "nova-api")))(f))  # fmt: skip


def flavors(of: str, listed: tuple[Flavor, ...]) -> Plant:
    return lambda f: v1(flavors={**f.v1.flavors, (of, "instance_types"): listed})(f)


def move(to: str) -> Plant:
    """cell1 and all that is of it, on another broker or vhost."""
    return then(
        cell("cell1", transport_url=to),
        records("api", CellRecord("cell1", False, to)),
        services(lambda s: s.transport_url == CHILD_URL, transport_url=to),
    )


NO_PROXY = {"no-proxy:top1:nova-api", "no-proxy:top2:nova-api"}
"""The healthy tree has no HAProxy in its inventory; that is said, and is no fault of the cells."""
FAULTS: list[tuple[str, Plant, set[str]]] = [
    (
        "api not in cells",
        on("top2", "api", options={"cells/enable": "false"}),
        {"cells:not-enabled:top2:nova-api"},
    ),
    (
        "consoleauth not in cells",
        on("top1", "consoleauth", options={"cells/enable": "no"}),
        {"cells:not-enabled:api"},
    ),
    (
        "an api cell's type in the child",
        on("ctl2", "conductor", options={"cells/cell_type": "api"}),
        {"cells:contradictory:ctl2:nova-conductor"},
    ),
    (
        "a compute of another name",
        on("cmp1", "compute", options={"cells/name": "cell2"}),
        {"cells:contradictory:cmp1:nova-compute"},
    ),
    (
        "no API cell in the inventory",
        lambda f: deployment(
            cells=f.deployment.cells[1:],
            services=tuple(s for s in f.deployment.services if not s.host.startswith("top")),
            records=tuple(r for r in f.deployment.records if r.cell != "api"),
        )(f),
        {"cells:no-api-cell", "cells:stranger:cell1:api"} | {f"-{p}" for p in NO_PROXY},
    ),
    (
        "two of one name",
        lambda f: deployment(
            cells=(*f.deployment.cells, replace(f.deployment.cells[1], key="cell1 (db2)",
                                                server="db2:3306/nova", members=(), transport_url="rabbit://mq9//")),
            records=(*f.deployment.records, record("cell1 (db2)", "ctl1", "nova-cells")),
        )(f),
        {"cells:one-name:cell1:db2:3306/nova", "cells:url:api:cell1"},
    ),
    (
        "the parent does not know the child",
        records("api", CellRecord("gone", False, "", "deleted")),
        {"cells:alone:api", "cells:one-sided:cell1:api"},
    ),
    (
        "deleted is NULL",
        records("api", CellRecord("cell1", False, CHILD_URL, "null")),
        {"cells:alone:api", "cells:null-deleted:api:cell1", "cells:one-sided:cell1:api"},
    ),
    (
        "both are parents",
        records("api", CellRecord("cell1", True, CHILD_URL)),
        {"cells:direction:api:cell1"},
    ),
    (
        "a child that nobody named",
        lambda f: records("api", *f.deployment.cells[0].records, CellRecord("far", False, "rabbit://mq9//"))(f),
        {"cells:stranger:api:far"},
    ),
    (
        "the sender's own broker first",
        records("api", CellRecord("cell1", False, "rabbit://api:***@mqa:5672,nova:***@mq1:5672//")),
        {"cells:url:api:cell1"},
    ),
    (
        "another virtual host",
        records("api", CellRecord("cell1", False, "rabbit://nova:***@mq1:5672/nova")),
        {"cells:url:api:cell1"},
    ),
    ("no URL at all", records("api", CellRecord("cell1", False, "")), {"cells:url:api:cell1"}),
    (
        "unreachable",
        v1(links=(Link("cell1", "api", "mqa:5672", "it is silent"),)),
        {"cells:unreachable:cell1:api:mqa:5672"},
    ),
    (
        "nova-cells stopped",
        then(
            services(lambda s: s.role == "cells" and s.host.startswith("ctl"), active=False, enabled=False),
            old("cell1 nova-cells", seconds_since_report=900.0, disabled=True),
        ),
        {"cells:down:cell1"},
    ),
    (
        "nova-cells hangs",
        old("api nova-cells", seconds_since_report=900.0),
        {"cells:down:api", "record:nova-cells:top1", "record:nova-cells:top2"},
    ),
    ("nobody listens", queues("mq1", consumers=0), {"cells:deaf:cell1"}),
    (
        "quotas counted twice",
        on("ctl1", "cells", options={"DEFAULT/quota_driver": ""}),
        {"cells:quota:cell1"},
    ),
    ("nova-api in the child", with_child_api, {"cells:child-api:cell1", "no-proxy:ctl1:nova-api"}),
    (
        "boots wait for Neutron and fail",
        on("cmp2", "compute", options={"DEFAULT/vif_plugging_is_fatal": "true"}),
        {"cells:vif-fatal:cell1"},
    ),
    (
        "boots wait for Neutron",
        on("cmp2", "compute", options={"DEFAULT/vif_plugging_timeout": "300"}),
        {"cells:vif-slow:cell1"},
    ),
    (
        "a compute in the API cell",
        lambda f: deployment(services=(*f.deployment.services, service("top1", "compute")))(f),
        {"cells:compute-in-api:api"},
    ),
    (
        "one vhost",
        then(move("rabbit://nova:***@mqa:5672//"), v1(links=())),
        {"cells:one-vhost:api:cell1"},
    ),
    (
        "one broker",
        then(
            move("rabbit://nova:***@mqa:5672/one"),
            lambda f: both(queues=(*f.first.queues,
                                   QueueFacts("mqa", "one", "cells.intercell.targeted", 0, 1)))(f),
        ),
        {"cells:shared-broker:api:cell1"},
    ),
    ("a flavor is missing", flavors("cell1", FLAVORS[:1]), {"cells:flavors-missing:cell1"}),
    (
        "a flavor under another number",
        flavors("cell1", (FLAVORS[0], replace(FLAVORS[1], id=7))),
        {"cells:flavors-apart:cell1"},
    ),
    (
        "room on a dead compute",
        old("cell1 nova-compute cmp1", seconds_since_report=900.0),
        {"cells:room:cell1", "record:nova-compute:cmp1"},
    ),
    ("no cell_name", instances("api", {"b": row("", vm_state="stopped")}),
     {"instances:cell-unset:api"}),
    ("half a cell_name", instances("api", {"b": row("cell1", vm_state="stopped")}),
     {"instances:cell-unknown:cell1"}),
    ("a path of no cell", instances("api", {"x": row("api!old")}), {"instances:cell-unknown:api!old"}),
    ("the API cell lacks one", instances("cell1", {"x": row()}), {"instances:unknown-above:cell1"}),
    ("the child lacks one", instances("api", {"x": row("api!cell1")}), {"instances:missing-below:cell1"}),
    ("another state", instances("cell1", {"b": row(vm_state="error")}), {"instances:apart:cell1"}),
    (
        "versions apart",
        lambda f: replace(f, packages={**f.packages, "ctl2": "2014.1"}),
        {"versions:packages"},
    ),
    (
        "schemas apart",
        lambda f: replace(f, databases=(replace(f.databases[0], schema="266"), *f.databases[1:])),
        {"database:schemas"},
    ),
    (
        "a database that does not answer",
        lambda f: replace(f, unknown=(Unknown("instances of cell1", "it is silent", "Start it"),),
                          first=replace(f.first, cells={"api": f.first.cells["api"]}),
                          second=replace(f.second, cells={"api": f.second.cells["api"]})),
        {"unknown:instances of cell1"},
    ),
]  # fmt: skip


def test_a_healthy_tree_has_no_finding_of_its_own() -> None:
    assert found(healthy(), "error", "unknown", "warning", "note") == NO_PROXY
    assert path_of(healthy().deployment.cells, "cell1") == "api!cell1"


@pytest.mark.parametrize(("plant", "expected"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_planted_fault_is_found_and_nothing_else(plant: Plant, expected: set[str]) -> None:
    gone = {e[1:] for e in expected if e.startswith("-")}
    wanted = {e for e in expected if not e.startswith("-")}
    assert found(plant(healthy())) == (NO_PROXY - gone) | wanted


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (instances("api", {"x": row("api!cell1")}, once=True), set()),
        (instances("cell1", {"x": row()}, once=True), set()),
        (instances("api", {"x": row("", host="", vm_state="error")}), {"instances:cell-failed:api"}),
        (on("cmp1", "compute", options={"cells/enable": ""}), {"cells:not-enabled:cell1"}),
        (records("api", CellRecord("cell1", False, "rabbit://nova:***@mq1:5672/", names_vhost=False)),
         {"cells:no-vhost:api:cell1"}),
        # Computes that wait for Neutron, and a nova-api in their cell for Neutron to talk to.
        (then(with_child_api, on("cmp1", "compute", options={"DEFAULT/vif_plugging_is_fatal": "true"})),
         {"cells:child-api:cell1"}),
        # A metadata-only nova-api serves no user.
        (lambda f: services(lambda s: (s.host, s.role) == ("ctl1", "api"),
                            options={"DEFAULT/enabled_apis": "metadata"})(with_child_api(f)), set()),
        # nova-network tells nobody of its ports.
        (then(on("cmp1", "compute", options={"DEFAULT/vif_plugging_is_fatal": "true",
                                             "DEFAULT/use_neutron": "false"})), set()),
    ],
)  # fmt: skip
def test_what_passes_or_is_meant_so_is_no_fault(plant: Plant, expected: set[str]) -> None:
    facts = plant(healthy())
    assert found(facts) - NO_PROXY - {"no-proxy:ctl1:nova-api"} == set()
    assert found(facts, "note") == expected


def test_an_instance_in_two_children_is_named() -> None:
    facts = healthy()
    second = replace(facts.deployment.cells[1], key="cell2", name="cell2", members=(),
                     transport_url="rabbit://mq9//", server="db2:3306/nova")  # fmt: skip
    facts = deployment(cells=(*facts.deployment.cells, second))(facts)
    both = {**facts.first.cells, "cell2": {"a": row()}}
    facts = replace(facts, first=replace(facts.first, cells=both), second=replace(facts.second, cells=both))
    assert "instances:doubled:a" in found(facts)


def test_the_remedy_for_the_senders_own_broker_names_its_cause() -> None:
    plant = records("api", CellRecord("cell1", False, "rabbit://api:***@mqa:5672,nova:***@mq1:5672//"))
    said = next(d for d in examine(plant(healthy())) if d.id == "cells:url:api:cell1")
    assert "[database] only" in said.mend and "***" not in said.what


@pytest.mark.parametrize(("version", "options", "off"), [
    ("2014.2.4", {"DEFAULT/quota_driver": NOOP}, True),
    ("14.1.0", {"quota/driver": NOOP}, False),
    ("16.1.8", {"DEFAULT/quota_driver": NOOP}, True),
    ("16.1.8", {"DEFAULT/quota_driver": NOOP, "quota/driver": "nova.quota.DbQuotaDriver"}, False),
    ("19.3.2", {"DEFAULT/quota_driver": NOOP}, False),
    ("19.3.2", {"quota/driver": NOOP}, True),
])  # fmt: skip
def test_quotas_are_off_by_the_name_that_the_release_reads(
    version: str, options: dict[str, str], off: bool
) -> None:
    facts = healthy()
    services = tuple(
        replace(s, options={**{k: v for k, v in s.options.items() if k not in QUOTA}, **options})
        for s in facts.deployment.services
    )
    known = replace(facts, deployment=replace(facts.deployment, nova_version=version, services=services))
    assert (not list(quotas(known))) == off
