"""The facts of a healthy cloud, and ways to plant one fault in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recell.doctor import examine
from recell.model.deployment import CellMapping, NovaService, OtherWriter, ServiceRecord
from recell.model.health import (
    ComputeNode,
    DatabaseFacts,
    Endpoint,
    Facts,
    Guest,
    Homes,
    MappingTimes,
    Moving,
    Placement,
    Provider,
    QueueFacts,
    Running,
)
from tests.sim.cloud import build, scan
from tests.sim.world import CELL0, CELL1

Plant = Callable[[Facts], Facts]
CELL2 = "22222222-2222-4222-8222-222222222222"
VARIABLES = {
    "log_bin": "ON",
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "read_only": "OFF",
    "max_connections": "500",
    "Max_used_connections": "80",
}


def record(host: str, binary: str, cell: str = CELL1, **more: Any) -> ServiceRecord:
    row = ServiceRecord(cell, 1, "u", host, binary, 70, False, 5.0)
    return replace(row, **more)


def healthy() -> Facts:
    """Two controllers and two computes, literal mappings, all well."""
    deployment = scan(build(templated=False))
    records = [record(s.nova_host, f"nova-{s.role}") for s in deployment.services
               if s.role in ("conductor", "scheduler", "compute")]  # fmt: skip
    nodes = tuple(ComputeNode(CELL1, f"node-{h}", h, f"{h}.example") for h in ("cmp1", "cmp2"))
    moving = Moving(
        at=0.0,
        homes=Homes(
            {"a": frozenset({CELL1}), "b": frozenset({CELL1}), "f": frozenset({CELL0})},
            {"a": CELL1, "b": CELL1, "f": CELL0, "n": ""},
            frozenset({"n"}),
        ),
        guests=(Guest("a", CELL1, "cmp1"), Guest("b", CELL1, "cmp2")),
        moves=frozenset({"m"}),
        nodes=nodes,
        placement=Placement(
            (
                Provider("node-cmp1", "cmp1.example", False, frozenset({"a", "m"})),
                Provider("node-cmp2", "cmp2.example", False, frozenset({"b"})),
                Provider("shared", "nfs", True, frozenset({"a"})),
            )
        ),
        queues=(
            QueueFacts("mq1", "/", "conductor", 0, 2),
            QueueFacts("mq1", "/", "scheduler_fanout_recell", 1, 0),
            QueueFacts("mq1", "/", "notifications.info", 3, 1),
            QueueFacts("mq1", "/", "reply_1", 1, 0),
            QueueFacts("mq1", "/", "scheduler", 0, 0),
        ),
    )
    return Facts(
        deployment=replace(deployment, records=tuple(records)),
        first=moving,
        second=replace(moving, at=10.0),
        host_mappings={"cmp1": (CELL1,), "cmp2": (CELL1,)},
        databases=(
            DatabaseFacts("api", "db1:3306/nova_api", "b30f", VARIABLES),
            DatabaseFacts("cell0", "db1:3306/nova_cell0", "d60b", VARIABLES),
            DatabaseFacts("cell1", "db1:3306/nova", "d60b", VARIABLES),
        ),
        mapping_times=(MappingTimes(CELL0, 1.0), MappingTimes(CELL1, 1.0)),
        running=tuple(Running(s.host, s.unit, s.argv) for s in deployment.services),
        endpoints=(Endpoint(CELL1, "database", "db1:3306"), Endpoint(CELL1, "broker", "mq1:5672")),
        packages={"ctl1": "33.0.2", "ctl2": "33.0.2", "cmp1": "33.0.2"},
        bound={"mq1": frozenset({"nova"}), "mq4": frozenset()},
        upgrade_check={"Cells v2": ("success", "")},
    )


def found(facts: Facts, *severities: str) -> set[str]:
    wanted = severities or ("error", "unknown", "warning")
    return {d.id for d in examine(facts) if d.severity in wanted}


def both(**changes: Any) -> Plant:
    return lambda f: replace(f, first=replace(f.first, **changes), second=replace(f.second, **changes))


def homes(rows: dict[str, set[str]] | None = None, mapped: dict[str, str] | None = None) -> Plant:
    """The healthy homes, with some added."""

    def plant(f: Facts) -> Facts:
        old = f.first.homes
        assert old is not None
        added = {u: frozenset(c) for u, c in (rows or {}).items()}
        return both(homes=Homes({**old.rows, **added}, {**old.mapped, **(mapped or {})}, old.building))(f)

    return plant


def records(*more: ServiceRecord) -> Plant:
    return lambda f: replace(f, deployment=replace(f.deployment, records=(*f.deployment.records, *more)))


def each_record(host: str, **changes: Any) -> Plant:
    def plant(f: Facts) -> Facts:
        rows = (replace(r, **changes) if r.host == host else r for r in f.deployment.records)
        return deployment(records=tuple(rows))(f)

    return plant


def each_host(name: str, **changes: Any) -> Plant:
    def plant(f: Facts) -> Facts:
        hosts = (replace(h, **changes) if h.name == name else h for h in f.deployment.hosts)
        return deployment(hosts=tuple(hosts))(f)

    return plant


def services(match: Callable[[NovaService], bool], **changes: Any) -> Plant:
    def one(s: NovaService) -> NovaService:
        options = {**s.options, **changes.get("options", {})}
        return replace(s, **{**changes, "options": options}) if match(s) else s

    return lambda f: replace(
        f, deployment=replace(f.deployment, services=tuple(one(s) for s in f.deployment.services))
    )


def role(name: str, **changes: Any) -> Plant:
    return services(lambda s: s.role == name, **changes)


def mapping(**changes: Any) -> Plant:
    return lambda f: replace(
        f,
        deployment=replace(
            f.deployment,
            mappings=tuple(replace(m, **changes) if m.name == "cell1" else m for m in f.deployment.mappings),
        ),
    )


def second_cell(transport: str, database: str) -> Plant:
    cell = CellMapping(CELL2, "cell2", transport, transport, database, database, False, False, "d")
    return lambda f: replace(f, deployment=replace(f.deployment, mappings=(*f.deployment.mappings, cell)))


def then(*plants: Plant) -> Plant:
    def plant(f: Facts) -> Facts:
        for p in plants:
            f = p(f)
        return f

    return plant


def deployment(**changes: Any) -> Plant:
    return lambda f: replace(f, deployment=replace(f.deployment, **changes))


def writers(*hosts: str) -> Plant:
    return deployment(
        writers=tuple(
            OtherWriter(h, "cron", "/etc/cron.d/nova", "nova-manage cell_v2 discover_hosts") for h in hosts
        )
    )


def providers(change: Callable[[tuple[Provider, ...]], tuple[Provider, ...]]) -> Plant:
    def plant(f: Facts) -> Facts:
        assert f.first.placement
        return both(placement=Placement(change(f.first.placement.providers)))(f)

    return plant


def queue(ready: int, later: int, consumers: int = 0, name: str = "notifications.error") -> Plant:
    def plant(f: Facts) -> Facts:
        one, two = (QueueFacts("mq1", "/", name, n, consumers) for n in (ready, later))
        return replace(
            f,
            first=replace(f.first, queues=(*f.first.queues, one)),
            second=replace(f.second, queues=(*f.second.queues, two)),
        )

    return plant


def database(name: str, **changes: Any) -> Plant:
    return lambda f: replace(
        f, databases=tuple(replace(d, **changes) if d.name == name else d for d in f.databases)
    )


def server(**variables: str) -> Plant:
    return lambda f: replace(
        f, databases=tuple(replace(d, variables={**d.variables, **variables}) for d in f.databases)
    )


NO_API_DB = services(lambda s: s.role == "conductor", api_database="")
CELL_ALONE = then(
    # The API level on mq4, cell1's conductors and computes on mq1, as a split leaves it.
    services(
        lambda s: s.role in ("api", "scheduler", "novncproxy"),
        transport_url="rabbit://nova:***@mq4/",
        database="mysql+pymysql://nova:***@db1/nova_cell0",
    ),
)
TEMPLATE = mapping(
    transport_raw="{scheme}://{username}:{password}@{hostname}:{port}/",
    database_raw="{scheme}://{username}:{password}@{hostname}/{path}",
    templated=True,
)
