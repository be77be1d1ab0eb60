"""Cells v1: how the cells are configured, what they know of each other, what they can be asked for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from recell.doctor.rules.mappings import vhost_of
from recell.doctor.rules.words import is_false, is_true, some
from recell.errors import RecellError
from recell.model.cells_v1 import CellRecord, CellV1, Flavor
from recell.model.deployment import NovaService
from recell.model.health import Diagnosis, Facts
from recell.model.urls import parse_url

SILENT_S = 75.0
INTERCELL = "cells.intercell."
QUOTA_GROUP_SINCE, ONE_NAME_SINCE = 15, 18
NOOP = "NoopQuotaDriver"
LONG_WAIT_S = 60
_NEEDS_CELLS = ("api", "cells", "conductor")
"""Roles that route or report wrongly, rather than a little less, without ``[cells] enable``."""


def members(facts: Facts, cell: CellV1) -> tuple[NovaService, ...]:
    """Services of a cell: those that read its database, and those without one that are on its broker; where
    cells share that, the one that bears the name that the service gives."""
    own = set(cell.members)
    home = place_of(facts, cell.transport_url)
    rivals = {c.name for c in facts.deployment.cells if place_of(facts, c.transport_url) == home}

    def here(s: NovaService) -> bool:
        if s.database or home is None or place_of(facts, s.transport_url) != home:
            return False
        return (said := s.options.get("cells/name", "nova")) == cell.name or said not in rivals

    return tuple(s for s in facts.deployment.services if (s.host, s.unit) in own or here(s))


def place_of(facts: Facts, url: str) -> tuple[str, str] | None:
    """(broker, vhost) that a shown transport URL leads to."""
    home = vhost_of(facts.deployment, url)
    return _plain(home) if home is not None else None


def compute_cells(facts: Facts) -> tuple[CellV1, ...]:
    return tuple(c for c in facts.deployment.cells if c.cell_type != "api")


def _enabled(s: NovaService) -> bool:
    return is_true(s.options.get("cells/enable", "false"))


def not_enabled(facts: Facts) -> Iterator[Diagnosis]:
    for cell in facts.deployment.cells:
        without = [s for s in members(facts, cell) if s.active and not _enabled(s)]
        mend = f"Set [cells] enable = true, name = {cell.name} and cell_type = {cell.cell_type}"
        for s in without:
            if s.role in _NEEDS_CELLS:
                yield Diagnosis(
                    f"cells:not-enabled:{s.host}:{s.unit}",
                    "error",
                    cell.key,
                    f"{s.unit} on {s.host} belongs to cell {cell.key} and has no [cells] enable = true",
                    "It works as if there were no cells: nova-api sends builds to its own scheduler, and"
                    " nova-conductor doesn't tell the API cell what it writes",
                    f"{mend}, and restart {s.unit}",
                )
        others = sorted({f"{s.unit} on {s.host}" for s in without if s.role not in _NEEDS_CELLS})
        if others:
            computes = all(s.role == "compute" for s in without if s.role not in _NEEDS_CELLS)
            yield Diagnosis(
                f"cells:not-enabled:{cell.key}",
                "note" if computes else "warning",
                cell.key,
                f"{len(others)} services of cell {cell.key} have no [cells] enable = true: {some(others)}",
                "Console tokens and bandwidth counts are then looked for in their own cell only",
                f"{mend} there, and restart them",
            )


def contradictory(facts: Facts) -> Iterator[Diagnosis]:
    """Services of one cell that call it otherwise than most do."""
    for cell in facts.deployment.cells:
        for s in members(facts, cell):
            said = (s.options.get("cells/name", "nova"), s.options.get("cells/cell_type", "compute"))
            if s.active and _enabled(s) and said != (cell.name, cell.cell_type):
                yield Diagnosis(
                    f"cells:contradictory:{s.host}:{s.unit}",
                    "error",
                    cell.key,
                    f"{s.unit} on {s.host} has [cells] name = {said[0]}, cell_type = {said[1]}; others of its"
                    f" cell have {cell.name}, {cell.cell_type}",
                    "An api cell routes requests down, a compute cell sends changes up: it does the wrong"
                    " one, or under a name that no other cell knows",
                    f"Correct [cells] on {s.host} and restart {s.unit}",
                )


def one_name(facts: Facts) -> Iterator[Diagnosis]:
    for a, b in combinations(facts.deployment.cells, 2):
        if a.name == b.name:
            yield Diagnosis(
                f"cells:one-name:{a.name}:{b.server}",
                "error",
                f"{a.server}, {b.server}",
                f"the cells of {a.server} and {b.server} are both named {a.name}",
                "Messages are routed by names: what is meant for one reaches the other",
                "Give one of them another [cells] name, in its neighbours' records too",
            )


def no_api_cell(facts: Facts) -> Iterator[Diagnosis]:
    cells = facts.deployment.cells
    for missing, there in (
        ("api", any(c.cell_type == "api" for c in cells)),
        ("compute", bool(compute_cells(facts))),
    ):
        if not there:
            yield Diagnosis(
                f"cells:no-{missing}-cell",
                "unknown",
                "nova-cells",
                f"no host of the inventory is of a cell with cell_type = {missing}",
                "Cells can only be compared with each other when both sides were looked at",
                "Name the controllers of every cell in the inventory, then ask again",
            )


def records(facts: Facts) -> Iterator[Diagnosis]:
    """Both sides of each link know each other, and rightly."""
    by_name = {c.name: c for c in facts.deployment.cells}
    asked = {u.area for u in facts.unknown}
    for cell in facts.deployment.cells:
        if f"the neighbours of cell {cell.key}" in asked:
            continue
        if not cell.live:
            yield Diagnosis(
                f"cells:alone:{cell.key}",
                "error",
                cell.key,
                f"cell {cell.key} knows no other cell",
                "Its nova-cells sends nothing anywhere"
                + (": no boot finds a cell" if cell.cell_type == "api" else ": the API cell hears nothing"),
                "nova-manage cell create, in this cell's own database",
            )
        for r in cell.records:
            if r.state == "null" and r.name not in {x.name for x in cell.live}:
                yield Diagnosis(
                    f"cells:null-deleted:{cell.key}:{r.name}",
                    "error",
                    cell.key,
                    f"the record of {r.name} in cell {cell.key} has deleted = NULL",
                    "Nova takes NULL for deleted and does not use the record",
                    f"Set deleted = 0 in that row of the table cells, in {cell.server}",
                )
        for r in cell.live:
            other = by_name.get(r.name)
            if other is None:
                yield _stranger(cell, r)
            elif f"the neighbours of cell {other.key}" not in asked:
                yield from _mutual(cell, r, other)


def _stranger(cell: CellV1, r: CellRecord) -> Diagnosis:
    return Diagnosis(
        f"cells:stranger:{cell.key}:{r.name}",
        "unknown",
        cell.key,
        f"cell {cell.key} names the {'parent' if r.is_parent else 'child'} {r.name}, and no host of the"
        " inventory is of such a cell",
        "Nothing can be said of that cell, and messages to it may go nowhere",
        "Add its controllers to the inventory; if there is no such cell: nova-manage cell delete",
    )


def _mutual(cell: CellV1, r: CellRecord, other: CellV1) -> Iterator[Diagnosis]:
    back = [x for x in other.live if x.name == cell.name]
    if not back:
        yield Diagnosis(
            f"cells:one-sided:{cell.key}:{other.key}",
            "error",
            other.key,
            f"cell {cell.key} names {other.key} as its {'parent' if r.is_parent else 'child'}, and"
            f" {other.key} does not know {cell.key}",
            "Messages go one way only: answers and updates are dropped",
            f"nova-manage cell create --name {cell.name} --cell_type"
            f" {'child' if r.is_parent else 'parent'}, in the database of {other.key}",
        )
    elif back[0].is_parent == r.is_parent and cell.key < other.key:
        both = "parent" if r.is_parent else "child"
        yield Diagnosis(
            f"cells:direction:{cell.key}:{other.key}",
            "error",
            f"{cell.key}, {other.key}",
            f"{cell.key} and {other.key} each call the other a {both}",
            "Builds go down and updates go up: between these two neither arrives",
            "Correct is_parent in one of the two databases: the API cell is the parent",
        )


def leads_elsewhere(facts: Facts) -> Iterator[Diagnosis]:
    """A record's URL must lead to where that cell's own nova-cells listens."""
    by_name = {c.name: c for c in facts.deployment.cells}
    for cell in facts.deployment.cells:
        for r in cell.live:
            other = by_name.get(r.name)
            if not r.transport_url:
                yield _bad_url(cell, r, "can't be read as a URL", "")
                continue
            home = place_of(facts, other.transport_url) if other else None
            if other is None or home is None:
                continue
            wrong = [node for node, place in _places(facts, r) if place != home]
            own = place_of(facts, cell.transport_url)
            if wrong:
                brokers = {place[0] for _, place in _places(facts, r)}
                mine = own is not None and own[0] != home[0] and own[0] in brokers
                yield _bad_url(
                    cell,
                    r,
                    f"leads to {some(wrong)}, and {other.key} listens on {home[0]}, vhost {home[1]}",
                    "; nova-manage cell create of Newton to Stein puts the hosts of its own transport_url"
                    " first: run it with a configuration that has [database] only, or correct the row"
                    if mine
                    else "",
                )
            elif not r.names_vhost:
                yield Diagnosis(
                    f"cells:no-vhost:{cell.key}:{r.name}",
                    "note",
                    cell.key,
                    f"the transport_url of {r.name} in cell {cell.key} names no virtual host",
                    "It then means the sender's own default, which is / unless rabbit_virtual_host is set",
                    "Write it with // at its end for the virtual host /",
                )


def _bad_url(cell: CellV1, r: CellRecord, what: str, more: str) -> Diagnosis:
    return Diagnosis(
        f"cells:url:{cell.key}:{r.name}",
        "error",
        cell.key,
        f"the transport_url of {r.name} in cell {cell.key} {what}",
        "What cell sends cell is lost there, or waits where nobody reads it",
        f"Correct the URL in {r.source} ({cell.server}); nova-cells reads it anew within a minute{more}",
    )


def _places(facts: Facts, r: CellRecord) -> list[tuple[str, tuple[str, str]]]:
    """(host as written, (broker, vhost)) of every host that a record's URL names."""
    try:
        url = parse_url(r.transport_url)
    except RecellError:
        return []
    out = []
    for e in url.endpoints:
        place = place_of(facts, f"{url.scheme}://{e.text()}/{url.path}")
        if place is not None:
            out.append((f"{e.host}, vhost {place[1]}", place))
    return out


def _plain(place: tuple[str, str]) -> tuple[str, str]:
    """Vhosts as RabbitMQ names them: hand-written URLs may end in a slash too many."""
    vhost = place[1].replace("%2F", "/").replace("%2f", "/")
    return (place[0], vhost.rstrip("/") or "/")


def unreachable(facts: Facts) -> Iterator[Diagnosis]:
    for link in facts.v1.links:
        if link.trouble:
            yield Diagnosis(
                f"cells:unreachable:{link.holder}:{link.name}:{link.where}",
                "error",
                link.holder,
                f"from cell {link.holder} the broker of {link.name} does not answer at {link.where}:"
                f" {link.trouble}",
                "Builds and updates between the two cells wait, and are lost when nova-cells restarts",
                "Bring it back, or correct the record's transport_url, user and password",
            )


def _reports(facts: Facts, cell: CellV1) -> bool:
    """Whether a nova-cells of the cell has reported to its database lately."""
    return any(
        r.cell == cell.key and r.binary == "nova-cells" and r.seconds_since_report < SILENT_S
        for r in facts.deployment.records
    )


def nova_cells_down(facts: Facts) -> Iterator[Diagnosis]:
    asked = {u.area for u in facts.unknown}
    for cell in facts.deployment.cells:
        running = [s for s in members(facts, cell) if s.role == "cells" and s.active]
        if f"service records of {cell.key}" not in asked and not _reports(facts, cell):
            yield Diagnosis(
                f"cells:down:{cell.key}",
                "error",
                cell.key,
                f"nova-cells of {cell.key} "
                + (
                    f"runs on {some(s.host for s in running)} and does not report to its database"
                    if running
                    else "runs nowhere"
                ),
                "No boot reaches this cell and no change of its instances reaches the API"
                if cell.cell_type != "api"
                else "Every action on every instance fails: nova-api passes all of them to nova-cells",
                f"Start or restart nova-cells on a controller of {cell.key}, and see its log",
            )


def deaf(facts: Facts) -> Iterator[Diagnosis]:
    """Nobody takes what other cells send: casts to a queue that was never declared are lost."""
    for cell in facts.deployment.cells:
        home = place_of(facts, cell.transport_url)
        if home is None or not _reports(facts, cell):
            continue
        looks = [[q for q in look.queues if q.broker == home[0]] for look in (facts.first, facts.second)]
        heard = [
            any(q.name.startswith(INTERCELL) and q.consumers and q.vhost == home[1] for q in listed)
            for listed in looks
        ]
        if all(looks) and not any(heard):
            yield Diagnosis(
                f"cells:deaf:{cell.key}",
                "error",
                cell.key,
                f"no queue {INTERCELL}* on {home[0]} has a consumer",
                f"What other cells send to {cell.key} is lost where the queue isn't there, and waits where"
                " it is",
                "Restart nova-cells of this cell; see its log for the broker that it connects to",
            )


def _quota_driver(s: NovaService, version: str) -> str:
    """As its release reads it: the option has another name since Ocata, and lost the older one in Rocky."""
    new, old = s.options.get("quota/driver", ""), s.options.get("DEFAULT/quota_driver", "")
    first = version.partition(".")[0]
    number = int(first) if first.isdigit() else QUOTA_GROUP_SINCE
    if number > 1000 or number < QUOTA_GROUP_SINCE:
        return old
    return new if number >= ONE_NAME_SINCE else new or old


def quotas(facts: Facts) -> Iterator[Diagnosis]:
    for cell in compute_cells(facts):
        counting = [
            s
            for s in members(facts, cell)
            if s.active
            and s.role in ("cells", "conductor", "api")
            and NOOP not in _quota_driver(s, facts.deployment.nova_version)
        ]
        if counting:
            yield Diagnosis(
                f"cells:quota:{cell.key}",
                "warning",
                cell.key,
                f"{len(counting)} services of {cell.key} count quota themselves:"
                f" {some(f'{s.unit} on {s.host}' for s in counting)}",
                "The API cell has counted already: what it allows, the cell refuses once its own numbers or"
                " limits differ, and the instance ends in ERROR",
                "Set [quota] driver (before Ocata [DEFAULT] quota_driver) = nova.quota.NoopQuotaDriver there"
                " and restart them",
            )


def uses_neutron(services: tuple[NovaService, ...]) -> bool:
    """nova-network knows no vif events."""
    if any(s.role == "network" and s.active for s in services):
        return False
    said = [s.options for s in services if s.role == "compute"]
    return not any(
        is_false(o.get("DEFAULT/use_neutron", ""))
        or "nova.network.api" in o.get("DEFAULT/network_api_class", "")
        for o in said
    )


def _waits(s: NovaService) -> tuple[bool, int]:
    """(whether a boot fails without Neutron's word, for how long it waits)."""
    text = s.options.get("DEFAULT/vif_plugging_timeout", "300").strip()
    seconds = int(text) if text.isdigit() else 300
    fatal = not is_false(s.options.get("DEFAULT/vif_plugging_is_fatal", "true"))
    return fatal and seconds > 0, seconds


def child_api(facts: Facts) -> Iterator[Diagnosis]:
    """Needed where Neutron tells the cell of its ports: the API cell's nova-api has no way to pass it on."""
    for cell in compute_cells(facts):
        own = members(facts, cell)
        apis = [s for s in own if _serves_users(s)]
        if not apis:
            continue
        heard = uses_neutron(own) and any(_waits(s)[0] for s in own if s.role == "compute" and s.active)
        yield Diagnosis(
            f"cells:child-api:{cell.key}",
            "note" if heard else "warning",
            cell.key,
            f"nova-api runs in the compute cell {cell.key}, on {some(s.host for s in apis)}",
            "Its computes wait for Neutron's events, which must come in here; users must not"
            if heard
            else "What users do through it bypasses the API cell: it counts no quota and doesn't learn of it"
            " at once",
            "Keep it out of the service catalogue and the load balancer; Neutron's nova_url may lead to it"
            if heard
            else "Stop it, unless Neutron's nova_url leads to it; keep users away from it",
        )


def _serves_users(s: NovaService) -> bool:
    apis = s.options.get("DEFAULT/enabled_apis", "osapi_compute")
    return s.role == "api" and s.active and "osapi_compute" in apis


def vif_plugging(facts: Facts) -> Iterator[Diagnosis]:
    for cell in compute_cells(facts):
        own = members(facts, cell)
        computes = [s for s in own if s.role == "compute" and s.active]
        if not uses_neutron(own) or any(_serves_users(s) for s in own):
            continue
        fatal = [s for s in computes if _waits(s)[0]]
        slow = [s for s in computes if not _waits(s)[0] and _waits(s)[1] > LONG_WAIT_S]
        if fatal:
            yield _vif(cell, fatal, "error", "fails after", "every boot with a port ends in ERROR")
        if slow:
            yield _vif(cell, slow, "warning", "waits", "each boot stays in BUILD for that long")


def _vif(cell: CellV1, computes: list[NovaService], grade: str, word: str, end: str) -> Diagnosis:
    seconds = max(_waits(s)[1] for s in computes)
    return Diagnosis(
        f"cells:vif-{'fatal' if grade == 'error' else 'slow'}:{cell.key}",
        "error" if grade == "error" else "warning",
        cell.key,
        f"a boot {word} {seconds} s for Neutron's event on {len(computes)} computes of {cell.key}:"
        f" {some(s.host for s in computes)}",
        f"Neutron's events reach the API cell's nova-api, which can't pass them on: {end}",
        "Set vif_plugging_is_fatal = false and vif_plugging_timeout = 5 there and restart nova-compute; or"
        " run a nova-api in the cell and point Neutron's nova_url at it",
    )


def compute_in_api_cell(facts: Facts) -> Iterator[Diagnosis]:
    for cell in facts.deployment.cells:
        hosts = [s.host for s in members(facts, cell) if s.role == "compute" and s.active]
        if cell.cell_type == "api" and hosts:
            yield Diagnosis(
                f"cells:compute-in-api:{cell.key}",
                "warning",
                cell.key,
                f"nova-compute runs in the API cell, on {some(hosts)}",
                "The API cell passes every boot to a child: these hosts stay empty",
                "Point them at the broker of a compute cell, with its [cells] name and cell_type",
            )


def shared_brokers(facts: Facts) -> Iterator[Diagnosis]:
    homes = [
        (c, home)
        for c in facts.deployment.cells
        if (home := place_of(facts, c.transport_url)) is not None
    ]
    for (a, one), (b, other) in combinations(homes, 2):
        if one == other:
            yield Diagnosis(
                f"cells:one-vhost:{a.key}:{b.key}",
                "error",
                one[0],
                f"the cells {a.key} and {b.key} use the same vhost {one[1]} of {one[0]}",
                "They take each other's messages: a build runs in the wrong cell or nowhere, and writes"
                " land in the wrong database",
                "Give one of them a broker, or at least a vhost, of its own",
            )
        elif one[0] == other[0]:
            yield Diagnosis(
                f"cells:shared-broker:{a.key}:{b.key}",
                "warning",
                one[0],
                f"the cells {a.key} and {b.key} share the broker {one[0]}",
                "One overloaded or broken broker stops both cells; that is what cells are to prevent",
                "Give each cell a broker of its own",
            )


def flavors(facts: Facts) -> Iterator[Diagnosis]:
    for api in (c for c in facts.deployment.cells if c.cell_type == "api"):
        for (key, table), listed in facts.v1.flavors.items():
            # Tables of one kind only: from Newton on a child may have none of its own and needs none.
            wanted = facts.v1.flavors.get((api.key, table))
            if key != api.key and wanted is not None:
                yield from _flavors(api.key, key, wanted, listed)


def _flavors(
    api: str, child: str, wanted: tuple[Flavor, ...], there: tuple[Flavor, ...]
) -> Iterator[Diagnosis]:
    known = {f.flavorid: f for f in there}
    missing = [f.name for f in wanted if f.flavorid not in known]
    apart = [f.name for f in wanted if f.flavorid in known and known[f.flavorid] != f]
    if missing:
        yield Diagnosis(
            f"cells:flavors-missing:{child}",
            "error",
            child,
            f"{len(missing)} flavors of {api} are not in {child}: {some(missing)}",
            "Flavors are not carried from cell to cell: a boot with one of them ends in ERROR there",
            "Copy instance_types, instance_type_extra_specs and instance_type_projects from the API cell,"
            " ids included",
        )
    if apart:
        yield Diagnosis(
            f"cells:flavors-apart:{child}",
            "error",
            child,
            f"{len(apart)} flavors differ between {api} and {child}: {some(apart)}",
            "Rows of instances name flavors by their number: the cell builds another size than users pay for",
            "Make the rows equal, ids included, when no instance in that cell uses the wrong one",
        )


def room_of_the_dead(facts: Facts) -> Iterator[Diagnosis]:
    """A cell's capacities are summed over all computes that are not disabled, dead or alive."""
    for cell in compute_cells(facts):
        dead = {
            r.host
            for r in facts.deployment.records
            if (r.cell, r.binary) == (cell.key, "nova-compute")
            and not r.disabled
            and r.seconds_since_report > SILENT_S
        }
        lost = [n for n in facts.v1.room.get(cell.key, ()) if n.host in dead]
        if lost:
            yield Diagnosis(
                f"cells:room:{cell.key}",
                "warning",
                cell.key,
                f"{cell.key} offers {sum(n.free_ram_mb for n in lost)} MiB of memory on computes that do not"
                f" report: {some({n.host for n in lost})}",
                "nova-cells counts every compute that isn't disabled, so the API cell sends builds to room"
                " that isn't there",
                "Bring them back, or: nova service-disable HOST nova-compute",
            )


RULES = (
    not_enabled,
    contradictory,
    one_name,
    no_api_cell,
    records,
    leads_elsewhere,
    unreachable,
    nova_cells_down,
    deaf,
    quotas,
    child_api,
    vif_plugging,
    compute_in_api_cell,
    shared_brokers,
    flavors,
    room_of_the_dead,
)
