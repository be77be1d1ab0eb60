"""Cell mappings: each leads somewhere, to one place, and is what running processes have cached."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from recell.doctor.rules.words import some
from recell.errors import RecellError
from recell.model.deployment import CellMapping, Deployment, NovaService
from recell.model.health import Diagnosis, Facts
from recell.model.urls import is_template, parse_url

CELL0 = "00000000-0000-0000-0000-000000000000"
CLOCK_SLACK_S = 2.0


def name(m: CellMapping) -> str:
    return m.name or m.uuid


def vhost_of(deployment: Deployment, url: str) -> tuple[str, str] | None:
    """(broker, vhost) that a transport URL leads to; the hosts as written when no broker is known."""
    if not url or url.startswith(("none:", "fake:")) or is_template(url):
        return None
    try:
        parsed = parse_url(url)
    except RecellError:
        return None
    broker = deployment.broker_of(url)
    return (broker.name if broker else ",".join(sorted(parsed.hosts)), parsed.vhost)


def api_level(facts: Facts) -> tuple[NovaService, ...]:
    """Services that cache mappings and act for the API: nova-api, the scheduler, and the conductors
    on their broker."""
    deployment = facts.deployment
    front = tuple(s for s in deployment.role("api", "metadata", "scheduler") if s.active)
    homes = {vhost_of(deployment, s.transport_url) for s in front if s.role != "metadata"}
    conductors = tuple(
        s
        for s in deployment.role("conductor")
        if s.active and s.api_database and vhost_of(deployment, s.transport_url) in homes
    )
    return front + conductors


def cell0(facts: Facts) -> Iterator[Diagnosis]:
    if not any(m.uuid == CELL0 for m in facts.deployment.mappings):
        yield Diagnosis(
            "mapping:no-cell0",
            "error",
            "nova_api",
            "there is no cell0 mapping",
            "Instances that can't be scheduled have nowhere to go: failed boots vanish or stay in BUILD",
            "nova-manage cell_v2 map_cell0",
        )


def unreachable(facts: Facts) -> Iterator[Diagnosis]:
    for e in facts.endpoints:
        if e.trouble and not e.cell:
            yield Diagnosis(
                f"broker:unreachable:{e.where}",
                "error",
                e.where,
                f"a broker that nova-api's transport_url names does not answer: {e.trouble}",
                "Nova works on with the others; with the last of them it stops",
                "Bring it back, or take it out of transport_url",
            )
        elif e.trouble:
            cell = facts.cell_name(e.cell)
            yield Diagnosis(
                f"mapping:unreachable:{cell}:{e.kind}:{e.where}",
                "error",
                cell,
                f"the {e.kind} that {cell}'s mapping names does not answer at {e.where}: {e.trouble}",
                "Lists leave out the cell's instances with a 200, everything else on them fails",
                "Bring it back, or correct the mapping: nova-manage cell_v2 update_cell with both URLs,"
                " then restart nova-api, nova-scheduler and the super-conductor",
            )


def duplicates(facts: Facts) -> Iterator[Diagnosis]:
    """Two mappings that lead to one database, however they write it."""
    for a, b in combinations(facts.deployment.mappings, 2):
        if _database(a) and _database(a) == _database(b):
            yield Diagnosis(
                f"mapping:duplicate:{name(a)}:{name(b)}",
                "error",
                f"{name(a)}, {name(b)}",
                f"{name(a)} and {name(b)} have the same database ({_shown(a)})",
                "Every instance there is listed and counted once for each mapping",
                f"Correct the wrong one: nova-manage cell_v2 update_cell --cell_uuid {b.uuid} with both URLs",
            )


def _database(m: CellMapping) -> tuple[str, int, str] | None:
    if is_template(m.database_resolved):
        return None
    try:
        url = parse_url(m.database_resolved)
    except RecellError:
        return None
    if not url.endpoints:
        return None
    return (url.endpoints[0].host, url.endpoints[0].port or 3306, url.path)


def _shown(m: CellMapping) -> str:
    host, port, path = _database(m) or ("", 0, "")
    return f"{host}:{port}/{path}"


def shared_brokers(facts: Facts) -> Iterator[Diagnosis]:
    cells = [
        (m, home)
        for m in facts.deployment.mappings
        if m.uuid != CELL0 and (home := vhost_of(facts.deployment, m.transport_resolved)) is not None
    ]
    for (a, one), (b, other) in combinations(cells, 2):
        if one == other:
            yield Diagnosis(
                f"broker:one-vhost:{name(a)}:{name(b)}",
                "error",
                one[0],
                f"{name(a)} and {name(b)} use the same vhost {one[1]} of {one[0]}",
                "Their conductors take each other's calls and write rows into the wrong database",
                "Give one of them a broker, or at least a vhost, of its own",
            )
        elif one[0] == other[0]:
            yield Diagnosis(
                f"broker:shared:{name(a)}:{name(b)}",
                "warning",
                one[0],
                f"{name(a)} and {name(b)} share the broker {one[0]}",
                "One overloaded or broken broker stops both cells; that is what cells are to prevent",
                "Give each cell a broker of its own",
            )


def collapsed(facts: Facts) -> Iterator[Diagnosis]:
    """The API level in one vhost with a cell: fine for one cell, and a trap with two."""
    homes = {vhost_of(facts.deployment, s.transport_url) for s in facts.deployment.role("api")} - {None}
    cells = [m for m in facts.deployment.mappings if m.uuid != CELL0]
    for m in cells:
        if vhost_of(facts.deployment, m.transport_resolved) in homes:
            many = len(cells) > 1
            yield Diagnosis(
                f"broker:collapsed:{name(m)}",
                "warning" if many else "note",
                name(m),
                f"the API level uses {name(m)}'s broker and conductors",
                "That cell's trouble stops the API for all cells"
                if many
                else "Everything hangs on one broker; that is the standard for a small cloud",
                "Split the API level off: recell scan, recell plan",
            )


def templates(facts: Facts) -> Iterator[Diagnosis]:
    """A template is upstream's own feature and harmless while everybody fills it alike."""
    readers = [s for s in api_level(facts) if s.role != "metadata"]
    for m in facts.deployment.mappings:
        for kind, raw, own in (
            ("transport_url", m.transport_raw, {s.transport_url for s in readers}),
            ("database_connection", m.database_raw, {s.database for s in readers}),
        ):
            own.discard("")
            if not is_template(raw):
                continue
            if len(own) > 1:
                yield Diagnosis(
                    f"mapping:ambiguous:{name(m)}:{kind}",
                    "error",
                    name(m),
                    f"{name(m)}'s {kind} is a template that running services fill from {len(own)}"
                    f" different URLs: {some(own)}",
                    "To each of them the cell is somewhere else: some find its instances, others don't",
                    "Write it out: nova-manage cell_v2 update_cell with both URLs, then restart them",
                )
            else:
                yield Diagnosis(
                    f"mapping:template:{name(m)}:{kind}",
                    "note",
                    name(m),
                    f"{name(m)}'s {kind} is a template that every process fills from its own configuration",
                    "Whoever changes nova-api's own URL moves the cell with it, silently",
                    "Leave it, and write it out before any URL changes (recell plan does)",
                )


def cached(facts: Facts) -> Iterator[Diagnosis]:
    """Processes that were begun before a mapping was made or written go on without it, or with the old
    one. What a changed mapping was before, nobody can see: it may mean the same."""
    offsets = {h.name: h.clock_offset_s for h in facts.deployment.hosts}
    for s in api_level(facts):
        if not s.started_at:
            continue
        began = s.started_at - offsets.get(s.host, 0.0) + CLOCK_SLACK_S
        new = [t.uuid for t in facts.mapping_times if t.made > began]
        late = [t.uuid for t in facts.mapping_times if t.changed > began and t.uuid not in new]
        if new or late:
            yield Diagnosis(
                f"mapping:cached:{s.host}:{s.unit}",
                "error" if new else "warning",
                s.host,
                f"{s.unit} began before the mapping of {some(facts.cell_name(u) for u in new or late)} was"
                f" {'made' if new else 'last written'}",
                "It does not know that cell: lists leave out its instances with a 200"
                if new
                else "It goes on with what it loaded, also when the cell has other URLs by now; SIGHUP"
                " does not help",
                f"Restart {s.unit} on {s.host}, one host at a time behind the proxy",
            )


RULES = (cell0, unreachable, duplicates, shared_brokers, collapsed, templates, cached)
