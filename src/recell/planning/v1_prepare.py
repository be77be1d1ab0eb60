"""All that a conversion to cells v1 makes ready beside the services that run, before anybody is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recell.model.deployment import CONSOLES, NovaService, ProxyBackendServer, named_values
from recell.model.v1 import Conversion
from recell.planning import commands
from recell.planning.changes import Change, describe
from recell.planning.draft import Draft
from recell.planning.upcalls import change_compute
from recell.planning.v1_facts import V1Facts, main_file
from recell.planning.v1_import import full_path_assignment
from recell.planning.v1_names import (
    USUAL,
    api_config,
    api_roles,
    api_unit,
    child_config,
    child_unit,
    numeric,
    records_file,
)
from recell.planning.v1_release import NOOP_QUOTA


def accounts(conversion: Conversion, draft: Draft) -> None:
    """recell's own account in both databases."""
    draft.add(
        "recell/account",
        "v1-account",
        conversion.old.server,
        f"an account of recell's own for {conversion.old.where} and {conversion.new.where}",
        undone="it is removed",
        estimate=5,
        conversion=conversion.to_json(),
    )


def remember(
    conversion: Conversion, draft: Draft, host: str, proof: str, services: Sequence[NovaService]
) -> None:
    """What undo, which meets it last, proves itself by. ``services``: those that run then as they do now."""
    draft.add(
        "undo/prove",
        "v1-prove",
        host,
        "remember what stands, for undo to prove itself by",
        undone=proof,
        estimate=20,
        units=[[s.host, s.unit] for s in services],
        conversion=conversion.to_json(),
    )


def account(facts: V1Facts, draft: Draft) -> None:
    """Nova's account on the API cell's broker."""
    first = facts.conductors[0]
    draft.add(
        "api/account",
        "broker-account",
        facts.new.hosts[0],
        f"let Nova's account {facts.account} use vhost {facts.new_vhost} on {facts.new.name}",
        undone="what was made is removed",
        broker=facts.new.name,
        vhost=facts.new_vhost,
        user=facts.account,
        host=first.host,
        config=main_file(first),
    )


def waits_for_neutron(service: NovaService, timeout: int) -> bool:
    fatal = service.options.get("DEFAULT/vif_plugging_is_fatal", "true").strip().lower()
    longest = service.options.get("DEFAULT/vif_plugging_timeout", "300").strip()
    return fatal not in ("false", "0", "no", "off") or not longest.isdigit() or int(longest) > timeout


def without_neutron(timeout: int) -> list[Change]:
    """A compute goes on without Neutron's word."""
    return [
        {"section": "DEFAULT", "option": "vif_plugging_is_fatal", "op": "set", "value": "false"},
        {"section": "DEFAULT", "option": "vif_plugging_timeout", "op": "set", "value": str(timeout)},
    ]


def computes(facts: V1Facts, draft: Draft) -> None:
    """nova-compute's one restart, host after host and long before the hold."""
    if facts.own.neutron == "child":
        return
    wanted = facts.own.vif_plugging_timeout
    for s in facts.computes:
        if not waits_for_neutron(s, wanted):
            continue
        change_compute(
            draft,
            s,
            "vif-conf",
            without_neutron(wanted),
            facts.cell,
            {"broker": facts.old.name, "vhost": facts.old_vhost},
            "requests for its instances wait until it is back",
        )


def _cells_options(facts: V1Facts, name: str, kind: str, host: str) -> list[Change]:
    changes: list[Change] = [
        {"section": "cells", "option": "enable", "op": "set", "value": "true"},
        {"section": "cells", "option": "name", "op": "set", "value": name},
        {"section": "cells", "option": "cell_type", "op": "set", "value": kind},
    ]
    if facts.own.records == "file":
        changes.append(
            {
                "section": "cells",
                "option": "cells_config",
                "op": "set",
                "value": records_file(facts, host, kind),
            }
        )
    return changes


def child(facts: V1Facts, draft: Draft) -> None:
    """The child's configuration and its units, none of them started."""
    section, option = facts.release.quota
    told: list[Change] = []
    if facts.own.capabilities:
        told = [{"section": "cells", "option": "capabilities", "op": "set",
                 "value": ",".join(facts.own.capabilities)}]  # fmt: skip
    made: dict[str, set[str]] = {}
    for s in (*facts.conductors, *facts.schedulers, *facts.apis, *facts.metadata):
        host, path = s.host, main_file(s)
        if path in made.setdefault(host, set()):
            continue
        mark = f"{s.unit}-child" if made[host] else "child"
        made[host].add(path)
        changes = [*_cells_options(facts, facts.child, "compute", host), *told]
        changes.append({"section": section, "option": option, "op": "set", "value": NOOP_QUOTA})
        here = [a for a in facts.apis if a.host == host]
        if here and (facts.own.neutron == "wait" or any((a.host, a.unit) in facts.ec2 for a in here)):
            left = "metadata" if facts.own.neutron == "wait" else "osapi_compute,metadata"
            changes.append({"section": "DEFAULT", "option": "enabled_apis", "op": "set", "value": left})
        draft.copy(f"{host}/{mark}-config", host, path, child_config(facts, path), changes)
    for s in (*facts.conductors, *facts.schedulers):
        path = main_file(s)
        name = child_unit(facts, s)
        argv = commands.with_config(s, {path: child_config(facts, path)})
        draft.sibling(
            f"{s.host}/{name}",
            s,
            name,
            commands.renamed_log(argv, s.unit, name),
            f"a unit {name}, modelled on {s.unit}, that reads {child_config(facts, path)}; not started yet",
            f"Nova {s.role} of cell {facts.child}",
        )
    for s in facts.cells:
        if s.host not in {c.host for c in facts.conductors}:
            continue
        path = main_file(next(c for c in facts.conductors if c.host == s.host))
        read_childs(facts, draft, s, path, commands.reading(s, child_config(facts, path)))


def boot_options(facts: V1Facts) -> list[Change]:
    return [
        {"section": "cells", "option": option, "op": "set", "value": value}
        for option, value in facts.layout.boots.options().items()
    ]


def record(
    facts: V1Facts, draft: Draft, side: str, hosts: tuple[str, ...], source: NovaService,
    kind: str = "v1-record", **more: Any,
) -> None:  # fmt: skip
    """Each side's record of its neighbour: every broker node in the URL, ``deleted`` 0, never NULL.
    ``source``: whose configuration has the account on the neighbour's broker."""
    child = side == "child"
    neighbour = facts.layout.api.name if child else facts.child
    broker = facts.new if child else facts.old
    own = facts.own
    shared: dict[str, Any] = {
        "undone": "the record is removed",
        "conversion": facts.conversion().to_json(),
        "side": "old" if child else "new",
        "into": facts.own.records,
        "name": neighbour,
        "is_parent": child,
        "weight_offset": 1.0 if child or own.weight_offset is None else own.weight_offset,
        "weight_scale": 1.0 if child or own.weight_scale is None else own.weight_scale,
        "nodes": [list(n) for n in facts.conversion().nodes("new" if child else "old")],
        "vhost": facts.new_vhost if child else facts.old_vhost,
        "account": [source.host, main_file(source)],
        **more,
    }
    if facts.own.records == "table":
        draft.add(
            f"{side}/record",
            kind,
            hosts[0],
            f"write {neighbour} into its cells table, with all nodes of {broker.name} in its URL",
            **shared,
        )
        return
    by_host = {s.host: s for s in reversed((*facts.conductors, *facts.schedulers, *facts.apis))}
    for host in hosts:
        path = records_file(facts, host, "compute" if child else "api")
        draft.add_file(
            f"{host}/{side}-record",
            kind,
            host,
            f"write {neighbour} into {path} ([cells] cells_config), with all nodes of {broker.name} in its"
            " URL",
            path,
            config=child_config(facts, main_file(by_host[host])) if child else api_config(facts, host),
            **shared,
        )


def users_api(port: int) -> list[Change]:
    """nova-api for users alone."""
    return [
        {"section": "DEFAULT", "option": "enabled_apis", "op": "set", "value": "osapi_compute"},
        {"section": "DEFAULT", "option": "osapi_compute_listen_port", "op": "set", "value": str(port)},
    ]


def api_cell(facts: V1Facts, draft: Draft) -> None:
    """The API cell's configuration, database and units; both sides' records of each other."""
    database = facts.layout.api.database
    conversion = facts.conversion()
    source = facts.apis[0]
    old = facts.deployment.host(source.host)
    for host in facts.layout.api.hosts:
        changes = [*_cells_options(facts, facts.layout.api.name, "api", host), *boot_options(facts)]
        changes += users_api(facts.layout.api.port)
        draft.add_file(
            f"{host}/api-config",
            "v1-config",
            host,
            f"write {api_config(facts, host)} after {main_file(source)} of {source.host}, on"
            f" {facts.new.name} and {database.name}: " + "; ".join(describe(c) for c in changes),
            api_config(facts, host),
            undone="what was there is put back",
            source=[source.host, main_file(source)],
            addresses=sorted({old.address.host, *old.ips}),
            my_ip=facts.deployment.host(host).address.host,
            nodes=[list(n) for n in conversion.new_nodes],
            vhost=facts.new_vhost,
            database=[conversion.new.address, conversion.new.port, conversion.new.database],
            changes=changes,
        )
    first = facts.layout.api.hosts[0]
    manage = facts.deployment.host(first)
    draft.add(
        "api/database",
        "v1-database",
        database.host,
        f"make database {database.name} for Nova's account there, and its schema:"
        f" nova-manage {' '.join(facts.release.sync)} on {first}; rows that this puts there are cleared",
        undone="it is dropped; nothing is in it that isn't in the child's",
        estimate=60,
        conversion=conversion.to_json(),
        things=["database", "nova"],
        on=first,
        user=source.user,
        argv=[
            *manage.nova_prefix,
            manage.nova_manage or "nova-manage",
            "--config-file",
            api_config(facts, first),
            *facts.release.sync,
        ],
    )
    first_child = facts.conductors[0]
    record(facts, draft, "child", facts.controllers, first_child)
    record(facts, draft, "api", facts.layout.api.hosts, first_child)
    for host in facts.layout.api.hosts:
        for role in api_roles(facts, host):
            _api_unit_files(facts, draft, host, role)


def _api_unit_files(facts: V1Facts, draft: Draft, host: str, role: str) -> None:
    """Siblings on shared hosts; elsewhere the installed unit reads the usual nova.conf by itself, and is told
    of another one."""
    installed, path = facts.installed(host, role), api_config(facts, host)
    if installed is None:
        return
    argv = commands.reading(installed, path)
    if host not in facts.shared:
        named = named_values(installed.argv, "--config-file")
        if path not in (named or [USUAL]):
            draft.drop_in(installed, argv, f"{installed.unit} reads {path}", facts.layout.api.name)
        return
    name = api_unit(facts, host, role)
    draft.sibling(
        f"{host}/{name}",
        installed,
        name,
        commands.renamed_log(argv, installed.unit, name),
        f"a unit {name}, modelled on {installed.unit}, that reads {path}",
        f"Nova {role} of cell {facts.layout.api.name}",
    )


def start_cells(facts: V1Facts, draft: Draft, topics: tuple[str, ...] = ()) -> None:
    """nova-cells of the child. ``topics``: those that it has to serve before the next step."""
    for s in facts.cells:
        if s.host in {c.host for c in facts.conductors}:
            draft.add(
                f"{s.host}/{s.unit}",
                "start-unit",
                s.host,
                f"start {s.unit} beside the running services, also after a reboot",
                undone="stopped and disabled",
                estimate=15,
                unit=s.unit,
                topics=list(topics),
                nova_host=s.nova_host,
                reads=[child_config(facts, main_file(facts.conductors[0]))],
                broker=facts.old.name,
                vhost=facts.old_vhost,
                hangs=True,
            )


def link(facts: V1Facts, draft: Draft) -> None:
    """Both sides' nova-cells run once together, which declares the queues that casts would be lost
    without; then the API cell's stops, since it heals while rows are imported."""
    start_cells(facts, draft)
    draft.add(
        "link",
        "v1-link",
        facts.layout.api.hosts[0],
        f"start nova-cells of {facts.layout.api.name}, see messages go both ways, and stop it again",
        undone="nova-cells of both sides is off",
        estimate=30,
        conversion=facts.conversion().to_json(),
        api=[
            [h, api_unit(facts, h, "cells"), facts.deployment.host(h).hostname]
            for h in facts.layout.api.hosts
        ],
        child=[
            [s.host, s.unit, s.nova_host]
            for s in facts.cells
            if s.host in {c.host for c in facts.conductors}
        ],
    )


def state(facts: V1Facts, draft: Draft) -> None:
    """Rows copied and followed; the API cell's services; its place behind HAProxy."""
    database = facts.layout.api.database
    draft.add(
        "state/follow",
        "v1-follow",
        database.host,
        f"copy what the API cell reads to {database.name}, cell_name {facts.path} on live instances, and"
        " keep it up with what users change",
        undone="following stops; the copy is dropped with its database",
        estimate=120,
        conversion=facts.conversion().to_json(),
        assign=[full_path_assignment(facts.path)],
        failed_builds="cell0" if facts.conversion().cell0 else "",
    )
    for host in facts.layout.api.hosts:
        for role in api_roles(facts, host):
            if role not in ("cells", *CONSOLES):
                _start(facts, draft, host, role)
    consoles(facts, draft, frozenset(facts.layout.api.hosts) - facts.shared)
    hosts = facts.layout.api.hosts
    added = [
        [f"{h}-{facts.layout.api.name}", numeric(facts.deployment.host(h)), facts.layout.api.port]
        for h in hosts
    ]
    servers(facts.proxied, draft, ", ".join(hosts), added)


def consoles(facts: V1Facts, draft: Draft, hosts: frozenset[str]) -> None:
    """Console proxies of the API cell on these hosts. On a controller the child's has their port until it is
    off."""
    for host in facts.layout.api.hosts:
        for role in api_roles(facts, host):
            if host in hosts and role in CONSOLES:
                _start(facts, draft, host, role)


def _start(facts: V1Facts, draft: Draft, host: str, role: str) -> None:
    name = api_unit(facts, host, role)
    draft.add(
        f"{host}/start-{name}",
        # A console proxy is connected to nothing until somebody opens a console.
        "start-console" if role in CONSOLES else "start-unit",
        host,
        f"start {name}" if host in facts.shared and role in CONSOLES else f"start {name}; nobody is sent to"
        " it yet",
        undone="stopped and disabled",
        estimate=20,
        unit=name,
        topics=["consoleauth"] if role == "consoleauth" else [],
        nova_host=facts.deployment.host(host).hostname,
        reads=[api_config(facts, host)],
        broker=facts.new.name,
        vhost=facts.new_vhost,
    )


def servers(
    proxied: Sequence[ProxyBackendServer], draft: Draft, named: str, added: Sequence[Sequence[Any]]
) -> None:
    """``added``: (name, address, port) of each server."""
    for proxy, backend in sorted({(p.proxy, p.backend) for p in proxied}):
        draft.add(
            f"{proxy}/{backend}-servers",
            "v1-servers",
            proxy,
            f"teach HAProxy to hold requests to {backend}, and put {named} beside it; nobody is sent there"
            " yet",
            notice="nothing: HAProxy reloads, and connections that are open go on",
            undone="HAProxy's configuration is as it was",
            estimate=5,
            backend=backend,
            added=added,
        )


def read_childs(facts: V1Facts, draft: Draft, s: NovaService, path: str, argv: list[str]) -> None:
    """From its next start on the service reads the child's copy of ``path``."""
    draft.drop_in(s, argv, f"{s.unit} reads {child_config(facts, path)}", facts.child)
