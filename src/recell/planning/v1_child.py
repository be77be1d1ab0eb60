"""A further child is added to a tree of cells v1: an empty standard Nova that runs by itself: the plan.

Nobody waits and no user notices: until the API cell has a record of the child no request goes there. All is
ready before that record is written; it is the first thing that undo takes away. No I/O.
"""

from __future__ import annotations

from typing import Any

from recell.model.deployment import Deployment, NovaService
from recell.model.layout_v1 import CellsV1Layout
from recell.model.plan import ExpectedChange, Plan
from recell.model.v1 import FLAVORS
from recell.planning import topology, v1, v1_prepare
from recell.planning.changes import Change
from recell.planning.draft import Draft, unread_cells, where_it_counts
from recell.planning.v1_child_facts import SEES_ALL_CELLS_SINCE, ChildFacts, decide
from recell.planning.v1_facts import main_file
from recell.planning.v1_names import child_config, child_unit

KIND = "cells-v1-child"
SERVES = ("cells", *(f"cells.intercell.{kind}" for kind in ("targeted", "broadcast", "response")))
"""What nova-cells takes from: a message to a queue that nobody has declared is lost."""


def plan_child(deployment: Deployment, layout: CellsV1Layout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts what is there. :raises Unsupported: it can't be added."""
    facts = decide(deployment, layout)
    draft = Draft()
    v1_prepare.accounts(facts.conversion(), draft)
    _before(facts, draft)
    _computes(facts, draft)
    v1_prepare.child(facts, draft)
    v1_prepare.record(facts, draft, "child", facts.controllers, facts.api_cells[0])
    v1.child_api(facts, draft, "restart-api")
    _change_places(facts, draft)
    v1.retire(facts, draft)
    v1_prepare.start_cells(facts, draft, SERVES)
    _boots(facts, draft)
    _known(facts, draft)
    return draft.plan(
        KIND,
        deployment,
        layout.digest(),
        made_at,
        changes=_changes(facts),
        remarks=_remarks(facts),
        before=topology.before(deployment),
        after=_picture(facts),
    )


def _changes(facts: ChildFacts) -> tuple[ExpectedChange, ...]:
    """Table by table: a row that another step changed must be found."""
    child = {
        "cells": f"the record of {facts.api.name}",
        "services": "nova-cells reports there, and what is off no longer does",
        "quota_usages": "the child counts no quota any more",
    }
    if not facts.release.shares_api_database:
        child |= dict.fromkeys(FLAVORS, f"it gets the flavors of {facts.api.name}")
    return (
        *(ExpectedChange(facts.child, table, "*", why) for table, why in child.items()),
        ExpectedChange(facts.api.name, "cells", "*", f"the record of {facts.child}, and weights"),
    )


def _shared(facts: ChildFacts) -> dict[str, Any]:
    return {"conversion": facts.conversion().to_json()}


def _before(facts: ChildFacts, draft: Draft) -> None:
    v1_prepare.remember(
        facts.conversion(),
        draft,
        facts.conductors[0].host,
        f"prove that {facts.child} is the standard Nova that it was; usage of quotas is counted anew",
        (*facts.conductors, *facts.schedulers, *facts.apis, *facts.consoles, *facts.cells, *facts.api_cells),
    )
    draft.add(
        f"{facts.child}/flavors",
        "v1-flavors",
        facts.conversion().old.server,
        f"{facts.child} gets the flavors of {facts.api.name}, with their numbers, where this release keeps"
        " them in each cell",
        undone="those that it had are put back",
        estimate=5,
        **_shared(facts),
    )


def _restarted(
    draft: Draft, s: NovaService, mark: str, changes: list[Change], topic: str, end: dict[str, Any],
    notice: str, *, hangs: bool = False,
) -> None:  # fmt: skip
    """An RPC server gets other settings, and a restart in which no message is lost; on undo once more."""
    path = where_it_counts(s, changes)
    restart: dict[str, Any] = {
        "unit": s.unit, "topics": [topic], "nova_host": s.nova_host, "old": end, "new": end, "reads": [path],
        "hangs": hangs, "notice": notice, "estimate": 20,
    }  # fmt: skip
    draft.add(
        f"{s.host}/undo-{s.unit}",
        "restart-rpc",
        s.host,
        f"restart {s.unit} (on undo, after its file is put back), losing no message",
        undone="(acts on undo only)",
        acts="backward",
        **restart,
    )
    draft.edit(f"{s.host}/{mark}", s.host, path, changes)
    draft.add(
        f"{s.host}/{mark}-{s.unit}",
        "restart-rpc",
        s.host,
        f"restart {s.unit}, losing no message",
        undone="restarted with its old file",
        acts="forward",
        **restart,
    )


def _computes(facts: ChildFacts, draft: Draft) -> None:
    if facts.own.neutron == "child":
        return
    wanted = facts.own.vif_plugging_timeout
    for s in facts.computes:
        if v1_prepare.waits_for_neutron(s, wanted):
            _restarted(
                draft, s, "vif-conf", v1_prepare.without_neutron(wanted), "compute", _at(facts), "nothing: it"
                " has no guest",
            )  # fmt: skip


def _at(facts: ChildFacts) -> dict[str, Any]:
    return {"broker": facts.old.name, "vhost": facts.old_vhost}


def _change_places(facts: ChildFacts, draft: Draft) -> None:
    """Its conductors and schedulers of the new configuration begin; the old ones end after them."""
    for s in (*facts.conductors, *facts.schedulers):
        name = child_unit(facts, s)
        draft.add(
            f"{s.host}/start-{name}",
            "start-unit",
            s.host,
            f"start {name}, also after a reboot",
            undone="stopped and disabled",
            estimate=20,
            unit=name,
            topics=[s.role],
            nova_host=s.nova_host,
            reads=[child_config(facts, main_file(s))],
            **_at(facts),
        )


def _boots(facts: ChildFacts, draft: Draft) -> None:
    """What the layout says of how the API cell chooses a child."""
    changes = v1_prepare.boot_options(facts)
    end = {"broker": facts.new.name, "vhost": facts.new_vhost}
    for s in facts.api_cells if changes else ():
        _restarted(
            draft, s, "boots", changes, "cells", end, "requests and updates wait until it is back, or go to"
            " another nova-cells", hangs=True,
        )  # fmt: skip
    for name, cell in facts.layout.cells.items():
        wanted = {"weight_offset": cell.weight_offset, "weight_scale": cell.weight_scale}
        given = {k: v for k, v in wanted.items() if v is not None}
        if name == facts.child or not given:
            continue
        shared: dict[str, Any] = {"name": name, "wanted": given, "into": facts.own.records, **_shared(facts)}
        said = ", ".join(f"{k} {v:g}" for k, v in given.items())
        for host, path in _places(facts):
            draft.add(
                f"{host}/{name}-weights",
                "v1-weights",
                host,
                f"{said} in {facts.api.name}'s record of {name}" + (f" ({path})" if path else ""),
                undone="as it was",
                path=path,
                **shared,
            )


def _places(facts: ChildFacts) -> list[tuple[str, str]]:
    """Host and file of each of the API cell's records; one without a file for its table."""
    if facts.own.records == "table":
        return [(facts.api_cells[0].host, "")]
    return [(s.host, s.options.get("cells/cells_config", "")) for s in facts.api_cells]


def _known(facts: ChildFacts, draft: Draft) -> None:
    """The API cell's record of it, from which on boots go there; and the proof."""
    places = _places(facts)
    wide: dict[str, Any] = {"undone": f"it is removed, once nobody has an instance in {facts.child}"}
    if facts.own.records == "table":
        v1_prepare.record(
            facts, draft, "api", (places[0][0],), facts.conductors[0], "v1-child-record", places=[], **wide
        )
    for host, path in places if facts.own.records == "file" else ():
        one = Draft()
        v1_prepare.record(facts, one, "api", (host,), facts.conductors[0], "v1-child-record", **wide)
        spec = one.steps[0]
        more = {**spec.params, "path": path, "config": facts.conversion().config[1],
                "places": [list(p) for p in places]}  # fmt: skip
        draft.add(
            spec.id, spec.kind, host,
            f"write {facts.child} into {path} ([cells] cells_config), with all nodes of {facts.old.name} in"
            " its URL", undone=spec.undone, **more,
        )  # fmt: skip
    draft.add(
        "undo/empty",
        "v1-empty",
        facts.conductors[0].host,
        f"see that nobody has an instance in {facts.child} (on undo, before anything is taken away)",
        undone="(acts on undo only)",
        acts="backward",
        **_shared(facts),
    )
    draft.add(
        "prove",
        "v1-join",
        facts.api_cells[0].host,
        f"prove it: a message goes down to {facts.path} and one comes back, {facts.api.name} knows of room"
        " there, and both have records of each other",
        undone="(nothing to undo)",
        acts="forward",
        estimate=90,
        records=facts.own.records,
        siblings=[*(c.name for c in facts.siblings), *(r.name for r in facts.unseen)],
        **_shared(facts),
    )


def _remarks(facts: ChildFacts) -> tuple[str, ...]:
    remarks = [
        f"{facts.child} must be empty, and stays so until {facts.api.name} has its record. Its own nova-api"
        " serves users no more.",
        f"Boots go to {facts.child} within a minute after its record is written: nova-cells reads them again"
        " then. They go where free memory and weight_offset weigh most; a child that was not heard of for"
        " [cells] mute_child_interval comes last (mute_weight_multiplier).",
        "Undo is refused while anybody has an instance there. It stays open until: recell finish.",
        "nova-cells of each side publishes on the other's RabbitMQ: both must be reachable from both.",
        f"Accounts may differ: {facts.child}'s services keep theirs, and each record names the neighbour's.",
        f"Consoles: {facts.api.name} alone knows their tokens, so where computes of {facts.child} lead their"
        " users to (novncproxy_base_url and its kin) has to be its console proxies.",
        "Puppet, Ansible or kolla must learn the new files and units before their next run.",
    ]
    if facts.release.shares_api_database and facts.release.number >= SEES_ALL_CELLS_SINCE:
        remarks.insert(1, _api_database(facts))
    elif not facts.release.shares_api_database:
        remarks.insert(
            1,
            "Key pairs, server groups, aggregates and security groups are each cell's own: after this scan"
            " again, then recell sync.",
        )
    if facts.layout.boots.options():
        remarks.append(
            f"What else reads nova-cells' nova.conf on hosts of {facts.api.name} is not restarted: it has no"
            " use for these options, but recell check says later that it began before the file was written."
        )
    remarks += [
        f"{r.name} takes no part: none of its controllers is in the inventory, so nothing there was looked"
        " at."
        for r in facts.unseen
    ]
    remarks += [f"{key} takes no part: {why}." for key, why in unread_cells(facts.deployment).items()]
    if facts.own.neutron == "wait":
        remarks.insert(1, f"Point Neutron's agents of {facts.child}'s hosts where the others' point.")
    return tuple(remarks)


def _api_database(facts: ChildFacts) -> str:
    if facts.mapping is None:
        return (
            f"The API database has no mapping of what is built in {facts.child}: resize and migration fail"
            " there, and nova-api finds no instance for Neutron's events."
        )
    return (
        f"A new compute of {facts.child} has to be mapped in the tree's API database and in its scheduler's"
        " (nova-manage cell_v2 discover_hosts --by-service: the other form finds a host only once), and"
        " aggregates and zones are made in both."
    )


def _picture(facts: ChildFacts) -> dict[str, Any]:
    groups = topology.before(facts.deployment)["groups"]
    inner: dict[str, list[str]] = {"cells": [s.host for s in facts.cells]}
    kept = facts.own.neutron == "child"
    for s in (*facts.conductors, *facts.schedulers, *facts.computes, *(facts.apis if kept else ())):
        inner.setdefault(s.role, []).append(s.host)
    broker = ", ".join(facts.old.hosts)
    database = facts.conductors[0].database
    child = {"name": facts.child, "broker": broker, "database": database, "services": inner}
    return {"groups": [*(g for g in groups if g["broker"] != broker), child]}
