"""A tree of cells v1 (an API cell and its child) becomes cells v2, while its users work: the plan.

It is the way back from cells v1, taken to other servers: nova-api of cells v2 reads the child's own database,
which has been the truth all along, by the mappings that Stein keeps beside cells v1. Everything is started
beside what runs; requests wait for the moment in which they are led over; then the tree goes off. Undo copies
the API cell's rows anew and leads users back. nova-compute is not touched. No I/O.
"""

from __future__ import annotations

from typing import Any

from recell.model.deployment import CONSOLES, Deployment, NovaService
from recell.model.layout_v1_v2 import TreeLayout
from recell.model.plan import ExpectedChange, Plan
from recell.planning import commands, topology, v1_prepare
from recell.planning.changes import Change, describe
from recell.planning.draft import CELL0, Draft
from recell.planning.phases import keep_fanout
from recell.planning.v1 import NOTICE, door, off
from recell.planning.v1_consoles import Consoles
from recell.planning.v1_facts import main_file
from recell.planning.v1_names import numeric
from recell.planning.v1_release import NOOP_QUOTA
from recell.planning.v1_serves import metadata_url, users_url
from recell.planning.v1_v2_facts import TreeFacts, decide

KIND = "cells-v1-to-v2"
SWITCH = "hold/switch"


def plan_tree(deployment: Deployment, layout: TreeLayout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts what is there. :raises Unsupported: it can't be converted."""
    facts = decide(deployment, layout)
    draft = Draft()
    _before(facts, draft)
    _files(facts, draft)
    _beside(facts, draft)
    _child_api(facts, draft)
    led, apart = _consoles(facts), not _in_the_way(facts)
    led.beside(draft)
    led.back(draft)
    _switch(facts, draft)
    if apart:
        led.over(draft)
    _retire(facts, draft)
    for s in _in_the_way(facts):
        _console(facts, draft, s)
    if not apart:
        led.over(draft)
    _conclude(facts, draft)
    return draft.plan(
        KIND,
        deployment,
        layout.digest(),
        made_at,
        changes=(
            ExpectedChange(facts.child.name, "services", "*", "what belongs to cells v1 reports no longer"),
            ExpectedChange("cell0", "*", "*", "builds that no cell took are answered for there"),
            ExpectedChange("cell0", "services", "*", "the API level's services report there"),
            ExpectedChange(facts.api.name, "*", "*", "nobody keeps the API cell's database any more"),
        ),
        remarks=_remarks(facts),
        before=topology.before(deployment),
        after=_picture(facts),
    )


def _before(facts: TreeFacts, draft: Draft) -> None:
    """Accounts, what undo proves itself by, and the rows as cells v2 want them."""
    conversion = facts.conversion()
    shared: dict[str, Any] = {"conversion": conversion.to_json()}
    v1_prepare.accounts(conversion, draft)
    v1_prepare.remember(
        conversion,
        draft,
        facts.apis[0].host,
        "prove that the tree is what it was",
        (
            *facts.apis, *facts.api_cells, *facts.leaving, *facts.conductors, *facts.schedulers,
            *facts.child_cells, *facts.own_apis, *facts.consoles,
        ),
    )  # fmt: skip
    draft.add(
        "undo/records",
        "retire-records",
        facts.apis[0].host,
        "after undo: retire the API level's service records in cell0",
        undone="(acts on undo only)",
        acts="backward",
        cell=CELL0,
        services=_api_records(facts),
    )
    for one in (facts.zero, facts.mapping):
        if one.templated:
            first = facts.conductors[0]
            draft.add(
                f"{one.name}/mapping",
                "literal-mapping",
                first.host,
                f"write {one.name}'s mapping out, for each side would fill it from its own configuration",
                undone="the template is put back",
                cell=one.uuid,
                config=main_file(first),
            )
    draft.add(
        "both-sides",
        "v2-adopt",
        facts.apis[0].host,
        f"see that {facts.api.name} and {facts.child.name} agree on every instance, and note that Nova keeps"
        " both",
        undone="the note is removed",
        estimate=20,
        **shared,
    )
    draft.add(
        "mappings",
        "v2-mappings",
        conversion.old.server,
        f"give each instance of {facts.child.name} a mapping that names it, as far as it has none",
        undone="(they stay: cells v1 don't read them)",
        acts="forward",
        estimate=20,
        **shared,
    )


def _off(quota: bool) -> list[Change]:
    options = [("cells", o) for o in ("enable", "name", "cell_type", "cells_config")]
    if quota:
        options += [("quota", "driver"), ("DEFAULT", "quota_driver")]
    return [{"section": s, "option": o, "op": "unset"} for s, o in options]


def _files(facts: TreeFacts, draft: Draft) -> None:
    """Configurations and units of cells v2, none of them started."""
    top = facts.apis[0]
    theirs = facts.deployment.host(top.host)
    zero = facts.conversion()
    hosts = tuple(dict.fromkeys(s.host for s in (*facts.apis, *facts.supers, *facts.planners)))
    for host in hosts:
        changes = [*_off(quota=False), *v1_prepare.users_api(facts.layout.api.port)]
        draft.add_file(
            f"{host}/api-config",
            "v1-config",
            host,
            f"write {facts.api_config} after {main_file(top)} of {top.host}, with cell0's database: "
            + "; ".join(describe(c) for c in changes),
            facts.api_config,
            undone="it is removed",
            source=[top.host, main_file(top)],
            addresses=sorted({theirs.address.host, *theirs.ips}) if host != top.host else [],
            my_ip=facts.deployment.host(host).address.host,
            nodes=[list(n) for n in facts.new_nodes],
            vhost=facts.new_vhost,
            database=[zero.old.address, zero.old.port, zero.cell0],
            changes=changes,
        )
    for s in facts.apis:
        _unit(facts, draft, s, facts.unit(s), facts.api_config, "API", "the API level")
    for s in facts.supers:
        name = facts.layout.api.super_conductor_unit
        _unit(facts, draft, s, name, facts.api_config, "super-conductor", "the API level")
    for s in facts.planners:
        _unit(facts, draft, s, facts.unit(s), facts.api_config, "scheduler", "the API level")
    _child_files(facts, draft)


def _child_files(facts: TreeFacts, draft: Draft) -> None:
    by_host = {s.host: s for s in reversed((*facts.conductors, *facts.own_apis, *facts.consoles))}
    for host in facts.controllers:
        path = main_file(by_host[host])
        changes = _off(quota=by_host[host].options.get("quota/driver", NOOP_QUOTA) == NOOP_QUOTA)
        draft.copy(f"{host}/child-config", host, path, facts.child_config(path), changes)
    for s in facts.conductors:
        path = facts.child_config(main_file(by_host[s.host]))
        _unit(facts, draft, s, facts.unit(s), path, "conductor", f"cell {facts.child.name}")
    for s in facts.consoles:
        path = facts.child_config(main_file(by_host[s.host]))
        _unit(facts, draft, s, facts.unit(s), path, s.role, f"cell {facts.child.name}")


def _unit(
    facts: TreeFacts, draft: Draft, model: NovaService, name: str, config: str, what: str, of: str
) -> None:
    argv = commands.with_config(model, {main_file(model): config})
    draft.sibling(
        f"{model.host}/{name}",
        model,
        name,
        commands.renamed_log(argv, model.unit, name),
        f"a unit {name}, modelled on {model.unit}, that reads {config}; not started yet",
        f"Nova {what} of {of}",
    )


def _beside(facts: TreeFacts, draft: Draft) -> None:
    """What cells v2 have more than the tree, started beside it; and their place behind HAProxy."""
    keep_fanout(draft, facts.child.name, facts.old, facts.old_vhost)
    name = facts.layout.api.super_conductor_unit
    starting = [(s.host, name, ["conductor"]) for s in facts.supers]
    starting += [(s.host, facts.unit(s), ["scheduler"]) for s in facts.planners]
    starting += [(s.host, facts.unit(s), []) for s in facts.apis]
    for host, unit, topics in starting:
        draft.add(
            f"{host}/start-{unit}",
            "start-unit",
            host,
            f"start {unit} on {facts.new.name}, also after a reboot; nobody is sent to it yet",
            undone="stopped and disabled",
            estimate=20,
            unit=unit,
            topics=topics,
            nova_host=facts.deployment.host(host).hostname,
            reads=[facts.api_config],
            broker=facts.new.name,
            vhost=facts.new_vhost,
        )
    for s in facts.consoles:
        if s not in _in_the_way(facts):
            _console(facts, draft, s)


def _console(facts: TreeFacts, draft: Draft, s: NovaService) -> None:
    draft.add(
        f"{s.host}/start-{facts.unit(s)}",
        "start-console",
        s.host,
        f"start {facts.unit(s)}: cells v2 keep tokens of consoles in the cell's own database",
        undone="stopped and disabled",
        estimate=20,
        unit=facts.unit(s),
        topics=[],
        nova_host=s.nova_host,
        reads=[facts.child_config(main_file(s))],
        broker=facts.old.name,
        vhost=facts.old_vhost,
    )


def _in_the_way(facts: TreeFacts) -> tuple[NovaService, ...]:
    """Proxies on a host where the API cell's has their port until it is off."""
    busy = {(s.host, s.role) for s in facts.leaving}
    return tuple(s for s in facts.consoles if (s.host, s.role) in busy)


def _consoles(facts: TreeFacts) -> Consoles:
    then = {role: [s.host for s in facts.consoles if s.role == role] for role in CONSOLES}
    return Consoles(facts.deployment, facts.leaving, then, facts.child.name, facts.child.name)


def _child_api(facts: TreeFacts, draft: Draft) -> None:
    """nova-api of the child asks nova-cells for key pairs of guests' metadata: it has to forget that before
    nova-cells goes. Both ways of asking are right while users are on either side."""
    for s in facts.own_apis:
        path = main_file(s)
        config = facts.child_config(path)
        argv = commands.with_config(s, {path: config})
        serves = s.role == "metadata" or "metadata" in s.options.get("DEFAULT/enabled_apis", "metadata")
        url = metadata_url(facts.deployment, s) if serves else users_url(
            facts.deployment, s, facts.layout.api.port)  # fmt: skip
        restart: dict[str, Any] = {"unit": s.unit, "url": url, "servers": [], "by_files": True}
        draft.add(
            f"{s.host}/undo-{s.unit}",
            "restart-api",
            s.host,
            f"restart {s.unit} (on undo, after its file is put back)",
            undone="(acts on undo only)",
            acts="backward",
            estimate=15,
            reads=[path],
            **restart,
        )
        draft.drop_in(s, argv, f"{s.unit} reads {config}", facts.child.name, "60-recell.conf")
        draft.add(
            f"{s.host}/{s.unit}",
            "restart-api",
            s.host,
            f"restart {s.unit}, which serves guests' metadata for {facts.child.name} without nova-cells",
            undone="(restarted when its file is put back)",
            notice="metadata of this host is away for the restart's seconds",
            acts="forward",
            estimate=15,
            reads=[config],
            **restart,
        )


def _switch(facts: TreeFacts, draft: Draft) -> None:
    """One step, for a hold is a lease: it must not outlive the recell that renews it."""
    added = [[f"{h}{_MARK}", a, p] for h, a, p in _doors(facts)]
    v1_prepare.servers(facts.proxied, draft, "nova-api of cells v2", added)
    hold = facts.layout.hold
    draft.add(
        SWITCH,
        "v2-switch",
        facts.apis[0].host,
        f"hold requests (a lease of {hold.lease_s:g} s, {hold.longest_s:g} s at most), wait until nothing is"
        f" in flight between {facts.api.name} and {facts.child.name}, give failed builds a cell, fence"
        f" nova-api of {facts.api.name} off, and send requests to nova-api of cells v2; then conductors of"
        f" {facts.child.name} change places with those that tell nova-cells nothing, and its schedulers and"
        f" nova-cells of {facts.api.name} end",
        notice=NOTICE,
        undone=f"the same, the other way, after {facts.api.name}'s rows were copied anew from"
        f" {facts.child.name}",
        estimate=30,
        lease_s=hold.lease_s,
        longest_s=hold.longest_s,
        gates=[{"proxy": p.proxy, "backend": p.backend, "server": p.server} for p in facts.proxied],
        doors={
            "old": _doors(facts),
            "new": sorted({(p.host, *door(p.address)) for p in facts.proxied}),
        },
        bare=[],
        stop=[[s.host, facts.unit(s), s.role, s.nova_host] for s in facts.conductors],
        start=[[s.host, s.unit, s.role, s.nova_host] for s in (*facts.conductors, *facts.schedulers)],
        cells=[[s.host, s.unit, "cells", s.nova_host] for s in facts.api_cells],
        child_cells=[[s.host, s.unit, "cells", s.nova_host] for s in facts.child_cells],
        conversion=facts.conversion().to_json(),
    )


_MARK = "-cells-v2"


def _doors(facts: TreeFacts) -> list[list[Any]]:
    """Of nova-api of cells v2."""
    return [[s.host, numeric(facts.deployment.host(s.host)), facts.layout.api.port] for s in facts.apis]


def _retire(facts: TreeFacts, draft: Draft) -> None:
    for s in (*facts.apis, *facts.leaving, *facts.child_cells):
        inner = s in facts.child_cells
        broker, vhost = (facts.old, facts.old_vhost) if inner else (facts.new, facts.new_vhost)
        off(draft, s, "enabled and started as it was", broker.name, vhost)
    draft.add(
        f"{facts.child.name}/records",
        "retire-records",
        facts.conductors[0].host,
        f"retire the service records of what left {facts.child.name}",
        undone="exactly those records are restored",
        cell=facts.mapping.uuid,
        services=[
            [name, f"nova-{role}"]
            for name in dict.fromkeys(s.nova_host for s in (*facts.schedulers, *facts.child_cells))
            for role in ("scheduler", "cells", "consoleauth")
        ],
    )


def _conclude(facts: TreeFacts, draft: Draft) -> None:
    conversion = facts.conversion()
    draft.add(
        "mappings/all",
        "v2-mappings",
        conversion.old.server,
        "see that no instance is without its cell",
        undone="(nothing to undo)",
        acts="forward",
        estimate=5,
        conversion=conversion.to_json(),
    )
    top = facts.apis[0].host
    manage = commands.proofs(facts.deployment, top)[:1]
    draft.add(
        "prove",
        "prove",
        top,
        "prove it: conductors and schedulers serve where they belong, computes report, hosts are mapped",
        undone="(nothing to undo)",
        acts="forward",
        estimate=60,
        serving=[
            [facts.new.name, facts.new_vhost, "conductor"],
            [facts.new.name, facts.new_vhost, "scheduler"],
            [facts.old.name, facts.old_vhost, "conductor"],
        ],
        up={
            facts.mapping.uuid: ["nova-compute", "nova-conductor"],
            CELL0: ["nova-conductor", "nova-scheduler"],
        },
        commands=[{**c, "argv": _reading(c["argv"], facts.api_config)} for c in manage],
    )


def _reading(argv: list[str], config: str) -> list[str]:
    """nova-manage with the API level's own file."""
    return [*argv[:-2], "--config-file", config, *argv[-2:]]


def _api_records(facts: TreeFacts) -> list[list[str]]:
    """[host, binary] of what reports in cell0 from now on."""
    return [
        [facts.deployment.host(s.host).hostname, f"nova-{role}"]
        for services, role in (
            (facts.supers, "conductor"), (facts.planners, "scheduler"), (facts.apis, "osapi_compute"),
        )
        for s in services
    ]  # fmt: skip


def _remarks(facts: TreeFacts) -> tuple[str, ...]:
    remarks = [
        "Nothing else may write HAProxy's configuration until finish: without its gate it would lead users to"
        " nova-api of cells v1, which is off by then.",
        "Administrators' names of hosts and services lose their path: what was"
        f" {facts.api.name}!{facts.child.name}@cmp1 is cmp1.",
        "Builds that no cell took come to cell0. So do not the actions that the API cell alone recorded.",
        f"{facts.conversion().new.where} is left as it is: drop it once finish has closed the way back.",
        "Nova's event API reaches computes in cells v2: Neutron's [nova] endpoint is the ordinary one again,"
        " and vif_plugging_is_fatal and vif_plugging_timeout of computes can be what they were before cells"
        " v1.",
        "Undo copies the API cell's rows anew from the child, which needs its binary log (ROW). It stays open"
        " until: recell finish.",
        "Puppet, Ansible or kolla must learn the new files and units before their next run.",
    ]
    if facts.consoles:
        remarks += _consoles(facts).remarks()
    elif facts.leaving:
        remarks.append(
            f"No console proxy is installed beside {facts.child.name}'s conductors: consoles are away until"
            " one runs with its configuration."
        )
    return tuple(remarks)


def _picture(facts: TreeFacts) -> dict[str, Any]:
    inner: dict[str, list[str]] = {}
    for s in (*facts.conductors, *facts.consoles, *facts.computes):
        inner.setdefault(s.role, []).append(s.host)
    if facts.own_apis:
        inner["metadata"] = [s.host for s in facts.own_apis]
    return {
        "groups": [
            {
                "name": "API level",
                "broker": ", ".join(facts.new.hosts),
                "database": facts.zero.database_resolved,
                "services": {
                    "api": [s.host for s in facts.apis],
                    "scheduler": [s.host for s in facts.planners],
                    "super-conductor": [s.host for s in facts.supers],
                },
            },
            {
                "name": facts.child.name,
                "broker": ", ".join(facts.old.hosts),
                "database": facts.mapping.database_resolved,
                "services": inner,
            },
        ]
    }
