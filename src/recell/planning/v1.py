"""A standard Nova becomes the child of an API cell (cells v1), while its users work: the plan.

Everything is made ready beside the running services: both cells' records, nova-cells on both sides, the
API cell with its state copied and followed. Then requests wait at the load balancer for the moment in
which the child's conductor and scheduler change places with those of its new configuration, the last
rows arrive, and the API cell's nova-api takes over. Guests and nova-compute are not touched in it.

The API database, where a release has one, is shared by both cells, and its mappings stay as they are.
No I/O.
"""

from __future__ import annotations

from typing import Any

from recell.model.deployment import CONSOLES, Deployment, NovaService
from recell.model.layout_v1 import CellsV1Layout
from recell.model.plan import ExpectedChange, Plan
from recell.planning import commands, topology, v1_prepare
from recell.planning.draft import CELL0, Draft
from recell.planning.v1_consoles import Consoles
from recell.planning.v1_facts import V1Facts, decide, main_file
from recell.planning.v1_names import api_roles, api_unit, child_config, child_unit, numeric
from recell.planning.v1_serves import metadata_url, served, users_url

KIND = "cells-v1"
SWITCH = "hold/switch"
KEY_PAIRS = {"Kilo": "Kilo's nova-compute and nova-api look", "Liberty": "Liberty's nova-compute looks"}
"""Juno's don't ask, Mitaka's go on without it, and from Newton on the API database has them."""
RESERVES_AT_BOOT = 16
"""Pike: until then a volume is taken by nova-compute. From Queens on an attachment may be made instead."""
NOTICE = "requests wait at the load balancer, none is refused"


def plan_v1(deployment: Deployment, layout: CellsV1Layout, made_at: float) -> Plan:
    """:raises BadInput: the layout contradicts what is there. :raises Unsupported: it can't be converted."""
    facts = decide(deployment, layout)
    draft = Draft()
    v1_prepare.accounts(facts.conversion(), draft)
    v1_prepare.remember(
        facts.conversion(),
        draft,
        facts.apis[0].host,
        "prove that Nova is the standard one that it was; usage of quotas is counted anew",
        (*facts.conductors, *facts.schedulers, *facts.apis, *facts.consoles, *facts.cells),
    )
    v1_prepare.account(facts, draft)
    v1_prepare.computes(facts, draft)
    v1_prepare.child(facts, draft)
    v1_prepare.api_cell(facts, draft)
    v1_prepare.link(facts, draft)
    v1_prepare.state(facts, draft)
    led = _consoles(facts)
    led.beside(draft)
    led.back(draft)
    _switch(facts, draft)
    apart = not facts.shared
    if apart:
        led.over(draft)
    child_api(facts, draft)
    retire(facts, draft)
    v1_prepare.consoles(facts, draft, facts.shared)
    if not apart:
        led.over(draft)  # the API cell's begin where the child's have ended
    _conclude(facts, draft)
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


def _consoles(facts: V1Facts) -> Consoles:
    hosts = facts.layout.api.hosts
    then = {role: [h for h in hosts if role in api_roles(facts, h)] for role in CONSOLES}
    return Consoles(facts.deployment, facts.consoles, then, facts.layout.api.name, facts.layout.api.name)


def _switch(facts: V1Facts, draft: Draft) -> None:
    """One step, for a hold is a lease: it must not outlive the recell that renews it."""
    hold = facts.layout.hold
    deployment = facts.deployment
    draft.add(
        SWITCH,
        "v1-switch",
        facts.apis[0].host,
        f"{facts.child}'s conductors and schedulers change places with those of its new configuration, and"
        f" nova-cells of {facts.layout.api.name} starts; then hold requests (a lease of {hold.lease_s:g} s,"
        f" {hold.longest_s:g} s at most), wait until nothing is in flight, bring the last rows to"
        f" {facts.layout.api.database.name}, fence nova-api of {facts.child} off, and send requests to"
        f" {facts.layout.api.name}",
        notice=NOTICE
        if not facts.bare
        else f"{NOTICE}, but by {', '.join(facts.bare)}, which refuse them from then on",
        undone="the same, the other way, with all that was written since",
        estimate=30,
        lease_s=hold.lease_s,
        longest_s=hold.longest_s,
        gates=[{"proxy": p.proxy, "backend": p.backend, "server": p.server} for p in facts.proxied],
        doors={
            "old": sorted({(p.host, *door(p.address)) for p in facts.proxied}),
            "new": [
                [h, numeric(deployment.host(h)), facts.layout.api.port] for h in facts.layout.api.hosts
            ],
        },
        bare=[
            [s.host, address, s.port]
            for s in facts.apis
            if f"{s.unit} on {s.host}" in facts.bare
            for address in deployment.host(s.host).ips
        ]
        + [
            [host, address, port]
            for (host, _), port in facts.ec2.items()
            for address in deployment.host(host).ips
        ],
        stop=[[s.host, s.unit, s.role, s.nova_host] for s in (*facts.conductors, *facts.schedulers)],
        start=[
            [s.host, child_unit(facts, s), s.role, s.nova_host]
            for s in (*facts.conductors, *facts.schedulers)
        ],
        cells=[
            [h, api_unit(facts, h, "cells"), "cells", deployment.host(h).hostname]
            for h in facts.layout.api.hosts
        ],
        child_cells=[
            [s.host, s.unit, "cells", s.nova_host]
            for s in facts.cells
            if s.host in {c.host for c in facts.conductors}
        ],
        conversion=facts.conversion().to_json(),
    )


def door(address: str) -> tuple[str, int]:
    """HAProxy's ``10.0.0.1:8774`` or ``[fd00::1]:8774``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def child_api(facts: V1Facts, draft: Draft, kind: str = "v1-child-api") -> None:
    """nova-api of the child: for guests' metadata, and for Neutron where the layout says so."""
    both = facts.own.neutron == "child"
    for s in (*facts.apis, *facts.metadata):
        serves = served(s, facts.release)
        if not both and "metadata" not in serves:
            continue
        path = main_file(s)
        argv = commands.with_config(s, {path: child_config(facts, path)})
        at_users = both and s.role == "api"
        what = "metadata and Neutron's events" if both else "metadata"
        if s.role == "api" and "metadata" not in serves:
            what = "Neutron's events"
        today = users_url(facts.deployment, s, facts.layout.api.port)
        metadata = metadata_url(facts.deployment, s)
        # No fence stands before a unit that never served users: another one's must not go with it.
        restart = kind if s.role == "api" else "restart-api"
        draft.add(
            f"{s.host}/undo-{s.unit}",
            restart,
            s.host,
            f"restart {s.unit} (on undo, after its file is put back)",
            undone="(acts on undo only)",
            acts="backward",
            estimate=15,
            unit=s.unit,
            url=today if "osapi_compute" in serves else metadata,
            reads=[path],
            servers=[],
            by_files=True,
        )
        v1_prepare.read_childs(facts, draft, s, path, argv)
        draft.add(
            f"{s.host}/{s.unit}",
            restart,
            s.host,
            f"restart {s.unit}, which serves {what if s.role == 'api' else 'metadata'} for {facts.child} from"
            " now on",
            undone="(restarted when its file is put back)",
            acts="forward",
            estimate=15,
            unit=s.unit,
            url=today if at_users else metadata,
            reads=[child_config(facts, path)],
            servers=[],
            by_files=True,
        )


def retire(facts: V1Facts, draft: Draft) -> None:
    kept = {
        (s.host, s.unit)
        for s in facts.apis
        if facts.own.neutron == "child" or "metadata" in served(s, facts.release)
    }
    for s in (*facts.conductors, *facts.schedulers, *facts.apis, *facts.consoles):
        if (s.host, s.unit) in kept:
            continue
        off(draft, s, "enabled as it was", facts.old.name if s.transport_url else "", facts.old_vhost)


def off(draft: Draft, s: NovaService, undone: str, broker: str, vhost: str) -> None:
    draft.add(
        f"{s.host}/retire-{s.unit}",
        "v1-retire",
        s.host,
        f"{s.unit} is off, also after a reboot",
        notice="open consoles of this proxy end" if s.role in CONSOLES else "nothing",
        undone=undone,
        estimate=5,
        unit=s.unit,
        role=s.role,
        broker=broker,
        vhost=vhost,
    )


def _conclude(facts: V1Facts, draft: Draft) -> None:
    draft.add(
        "sync-instances",
        "v1-sync",
        facts.layout.api.hosts[0],
        f"ask {facts.child} to send what changed around the switch once more (sync_instances), and see that"
        " both sides agree on every instance",
        undone=f"see that nothing would be lost that only {facts.layout.api.name} has",
        estimate=30,
        switch=SWITCH,
        conversion=facts.conversion().to_json(),
    )
    draft.add(
        "prove",
        "v1-prove",
        facts.layout.api.hosts[0],
        "prove it: every instance on both sides, with its full path, and manageable; boots go to"
        f" {facts.child}; quotas, capacities and zones as before",
        undone="(nothing to undo)",
        acts="forward",
        estimate=60,
        conversion=facts.conversion().to_json(),
        records=facts.own.records,
    )


def _changes(facts: V1Facts) -> tuple[ExpectedChange, ...]:
    return (
        ExpectedChange(facts.child, "cells", "*", "its parent's record"),
        ExpectedChange(
            facts.child, "services", "*", "nova-cells reports there, and what is off no longer does"
        ),
        ExpectedChange(facts.child, "quota_usages", "*", "the child counts no quota any more"),
        ExpectedChange(facts.layout.api.name, "*", "*", "the API cell's own database"),
    )


def _remarks(facts: V1Facts) -> tuple[str, ...]:
    remarks = [
        "Flavors, key pairs, server groups, aggregates, zones and security groups are not aware of cells v1."
        + (
            " They are in the API database here, which both cells share."
            if facts.release.shares_api_database
            else " Each cell has rows of its own: change them on both sides."
        ),
        "New instances have other numbers in the API cell than in the child: OS-EXT-SRV-ATTR:instance_name,"
        " as administrators see it, is then not the guest's.",
        _failed_builds(facts),
        "nova-cells may turn two updates of an instance round on their way up: the API cell then shows a task"
        " that has ended, and its users get 409. The last steps mend what they can prove; afterwards recell"
        " verify (until finish) and recell audit find such, and recell audit --heal mends it.",
        "nova-cells of each side publishes on the other's RabbitMQ: both must be reachable from both.",
        "Undo recounts quota_usages, which nobody kept meanwhile. It stays open until: recell finish.",
        "Puppet, Ansible or kolla must learn the new files and units before their next run.",
    ]
    if facts.release.name in KEY_PAIRS:
        remarks.insert(
            0,
            f"{KEY_PAIRS[facts.release.name]} for a guest's key pair in {facts.child}. One made after the"
            " conversion is not there: a boot with it and a config drive fails"
            + (", and its metadata is answered with 500," if facts.release.name == "Kilo" else "")
            + " until recell sync has brought it.",
        )
    if facts.release.name == "Stein":
        remarks.insert(
            0,
            "Stein's nova-api fails (500) at every list of servers that is asked for with microversion 2.69"
            " or later where cells v1 are enabled. Nova never mended that: lead such clients to 2.68 before.",
        )
    if facts.release.number >= RESERVES_AT_BOOT:
        remarks.append(
            "Boots from a volume that exists: nova-api of an API cell takes the volume, and the child takes"
            " it once more. "
            + (
                "The boot fails."
                if facts.release.number == RESERVES_AT_BOOT
                else "With Cinder's API 3.44 or later the guest boots, and when it is deleted its volume"
                " stays reserved until somebody deletes the attachment that is left; with an older Cinder the"
                " boot fails."
            )
        )
    if facts.proxied:
        remarks.insert(
            0,
            "Nothing else may write HAProxy's configuration until finish: without its gate it would lead"
            " users to the child's nova-api, which is off by then.",
        )
    if facts.own.neutron == "wait":
        remarks.insert(
            0,
            "Neutron's events have no way from the API cell to a child. nova-compute goes on without them"
            f" after {facts.own.vif_plugging_timeout} s: a guest may boot before its port is wired.",
        )
    else:
        remarks.insert(
            0, f"Point Neutron's [nova] endpoint at {facts.child}'s own nova-api, and restart Neutron."
        )
    source = facts.apis[0]
    path = main_file(source)
    others = [p for p in source.config_files if p != path and not p.startswith("/usr/")]
    if others:
        remarks.append(
            f"nova.conf of {facts.layout.api.name} is made after {path} of {source.host} alone: what"
            f" {', '.join(others)} says there has to come to its hosts by other means."
        )
    certs = [f"{s.unit} on {s.host}" for s in facts.deployment.role("cert") if s.active]
    if certs:
        here = [h for h in facts.layout.api.hosts if "cert" in api_roles(facts, h)]
        remarks.append(
            f"{', '.join(certs)} keeps its CA in files, which recell does not copy: "
            + (
                f"take them to {', '.join(here)} before, or certificates there have another root."
                if here
                else f"no host of {facts.layout.api.name} has nova-cert, so certificates can't be had there."
            )
        )
    if facts.ec2:
        units = ", ".join(f"{unit} on {host} (port {port})" for (host, unit), port in facts.ec2.items())
        remarks.insert(
            0,
            f"{units} serves EC2 as well, which the API cell's nova-api will not: requests for it are refused"
            " from the hold on. Lead its users to the Compute API before.",
        )
    remarks += _consoles(facts).remarks()
    if facts.bare:
        remarks.insert(
            0,
            f"{', '.join(facts.bare)}: behind no HAProxy of the inventory. Their users are refused while the"
            " switch lasts, and must be led to the API cell by other means.",
        )
    return tuple(remarks)


def _failed_builds(facts: V1Facts) -> str:
    conversion = facts.conversion()
    if conversion.cell0 and conversion.cell0_at:
        return (
            f"Failed builds (of cell0, on {conversion.cell0_at[0]}) are copied, so that the API cell answers"
            " for them. They are read as Nova reads them: from a controller, with the account of cell0's"
            " mapping."
        )
    if conversion.cell0:
        return "Failed builds (of cell0) are copied, so that the API cell answers for them."
    if any(m.uuid == CELL0 for m in facts.deployment.mappings):
        return (
            "cell0's mapping names no single MariaDB or MySQL server without TLS: failed builds stay there,"
            " where they are listed and answer 404. Let users delete them before."
        )
    return "Failed builds are among the child's instances."


def _picture(facts: V1Facts) -> dict[str, Any]:
    api: dict[str, list[str]] = {}
    for host in facts.layout.api.hosts:
        for role in api_roles(facts, host):
            api.setdefault(role, []).append(host)
    off = {"scheduler", "conductor", "api", "consoleauth", *CONSOLES}
    inner: dict[str, list[str]] = {}
    for s in facts.deployment.services:
        if s.active and s.role not in off:
            inner.setdefault(s.role, []).append(s.host)
    for s in (*facts.conductors, *facts.schedulers):
        inner.setdefault(s.role, []).append(s.host)
    inner["cells"] = [s.host for s in facts.cells if s.host in {c.host for c in facts.conductors}]
    if facts.own.neutron == "child":
        inner["api"] = [s.host for s in facts.apis]
    database = facts.layout.api.database
    return {
        "groups": [
            {
                "name": facts.layout.api.name,
                "broker": ", ".join(facts.new.hosts),
                "database": f"{database.host}:{database.port}/{database.name}",
                "services": api,
            },
            {
                "name": facts.child,
                "broker": ", ".join(facts.old.hosts),
                "database": facts.conductors[0].database,
                "services": inner,
            },
        ]
    }
