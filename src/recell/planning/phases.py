"""The phases of the split, each a run of steps in the order that keeps users served."""

from __future__ import annotations

from typing import Any

from recell.errors import Unsupported
from recell.model.deployment import Broker, NovaService
from recell.model.plan import Acts
from recell.planning import commands, contained
from recell.planning.changes import Change, kept_notifications
from recell.planning.draft import CELL0, Draft, Facts, cell_path, edited_file
from recell.planning.names import named_nodes


def _api_changes(facts: Facts, service: NovaService) -> list[Change]:
    port = facts.layout.api.broker.port
    nodes = [list(n) for n in named_nodes(facts.deployment, service.transport_url, facts.new_nodes, port)]
    changes: list[Change] = [
        {
            "section": "DEFAULT",
            "option": "transport_url",
            "op": "nodes",
            "nodes": nodes,
            "vhost": "" if facts.new_vhost == "/" else facts.new_vhost,
        },
        {"section": "database", "option": "connection", "op": "mapping", "cell": CELL0},
    ]
    return changes + kept_notifications(facts.layout, service)


# -- phases ----------------------------------------------------------------------------------------


def prepare(facts: Facts, draft: Draft) -> None:
    first = facts.apis[0]
    for mapping in (facts.cell0, facts.cell):
        if mapping.templated:
            name = mapping.name or mapping.uuid
            draft.add(
                f"mapping/{name}",
                "literal-mapping",
                first.host,
                f"write {name}'s mapping out: both URLs literal, as they resolve today",
                undone="the templates are written back",
                cell=mapping.uuid,
                config=edited_file(first),
            )
    draft.add(
        "broker/account",
        "broker-account",
        facts.new_nodes[0],
        f"let Nova's account {facts.account} use vhost {facts.new_vhost} on {facts.new_broker}",
        undone="what was made is removed",
        broker=facts.new_broker,
        vhost=facts.new_vhost,
        user=facts.account,
        host=facts.conductors[0].host,
        config=edited_file(facts.conductors[0]),
    )
    keep_fanout(draft, facts.cell_name, facts.old, facts.old_vhost)
    edited = {(s.host, edited_file(s)) for s in facts.api_level}
    copied: set[tuple[str, str]] = set()
    for service in facts.cell_level:
        path = edited_file(service)
        if (service.host, path) not in edited:
            continue
        if (service.host, path) not in copied:
            copied.add((service.host, path))
            changes: list[Change] = []
            if service.role == "metadata":
                changes.append(
                    {"section": "api", "option": "local_metadata_per_cell", "op": "set", "value": "true"}
                )
            draft.copy(
                f"{service.host}/cell-config",
                service.host,
                path,
                cell_path(facts, path),
                changes,
                f", {facts.cell_name}'s own configuration",
            )
    _super_units(facts, draft)
    for service in facts.cell_level:
        path = edited_file(service)
        if (service.host, path) not in edited:
            continue
        argv = commands.with_config(service, {path: cell_path(facts, path)})
        draft.drop_in(
            service,
            argv,
            f"{service.unit} will read {cell_path(facts, path)} at its next start"
            " (the process that runs has the same settings and goes on)",
            facts.cell_name,
        )


def keep_fanout(draft: Draft, cell: str, broker: Broker, vhost: str) -> None:
    draft.add(
        f"{cell}/scheduler-fanout",
        "keep-exchange",
        broker.hosts[0],
        f"keep scheduler_fanout alive on {cell}'s broker: computes go on casting there,"
        " and would fail builds and deletes without it",
        undone="the spare queue is removed",
        broker=broker.name,
        vhost=vhost,
        exchange="scheduler_fanout",
        queue="scheduler_fanout_recell",
    )


def _super_units(facts: Facts, draft: Draft) -> None:
    name = facts.layout.api.super_conductor_unit
    for service in facts.super_models:
        if service.container:
            contained.super_conductor(facts, draft, service, service.container, _api_changes(facts, service))
            continue
        replace_by = _super_files(facts, service)
        own = replace_by.get(edited_file(service), "")
        if own:
            draft.copy(
                f"{service.host}/super-config",
                service.host,
                edited_file(service),
                own,
                _api_changes(facts, service),
                " for the super-conductor",
            )
        argv = commands.renamed_log(commands.with_config(service, replace_by), "nova-conductor", name)
        draft.sibling(
            f"{service.host}/super-unit",
            service,
            name,
            argv,
            f"a second unit {name}, modelled on {service.unit}",
            "Nova super-conductor (API level)",
        )


def _super_files(facts: Facts, conductor: NovaService) -> dict[str, str]:
    """Where the super-conductor reads its options: the API level's file of its host, if there is
    one (the map is then empty or leads to it), else a copy of the conductor's own."""
    here = [edited_file(s) for s in facts.api_level if s.host == conductor.host]
    path = edited_file(conductor)
    if path in here:
        return {}
    stem, _, suffix = path.rpartition(".")
    return {path: f"{stem}-super.{suffix}"}


def undo_epilogue(facts: Facts, draft: Draft) -> None:
    """Stands first, so that undo meets it last."""
    draft.add(
        "undo/prove",
        "prove",
        facts.apis[0].host,
        "after undo: prove that all is as it was",
        undone="(acts on undo only)",
        acts="backward",
        estimate=20,
        serving=[
            [facts.old.name, facts.old_vhost, "conductor"],
            [facts.old.name, facts.old_vhost, "scheduler"],
        ],
        up={facts.cell.uuid: ["nova-compute", "nova-conductor", "nova-scheduler"]},
        commands=commands.proofs(facts.deployment, facts.apis[0].host),
        **commands.reports(facts.deployment),
    )
    api_level = _api_records(facts)
    api_level += [[s.nova_host, "nova-conductor"] for s in facts.conductors if s.host in facts.super_hosts]
    draft.add(
        "undo/records",
        "retire-records",
        facts.apis[0].host,
        "after undo: retire the API level's service records in cell0",
        undone="(acts on undo only)",
        acts="backward",
        cell=CELL0,
        services=api_level,
    )


def roll(facts: Facts, draft: Draft) -> None:
    order = _host_order(facts)
    scheduler_hosts = [h for h in order if any(s.host == h for s in facts.schedulers)]
    last_scheduler = scheduler_hosts[-1]
    for host in order:
        _roll_host(
            facts,
            draft,
            host,
            quiet_forward=host == last_scheduler,
            quiet_backward=host == scheduler_hosts[0],
        )


def _host_order(facts: Facts) -> list[str]:
    """Supers and schedulers first, one host with a scheduler last, nova-api's own hosts between."""
    schedulers = list(dict.fromkeys(s.host for s in facts.schedulers))
    if len(schedulers) < 2:
        raise Unsupported(
            f"only one host ({schedulers[0]}) runs nova-scheduler: while it changes brokers nobody schedules",
            "Start a second nova-scheduler on another controller for the conversion, then scan again",
        )
    first, last = schedulers[:-1], schedulers[-1]
    if not set(first) & set(facts.super_hosts):
        first = [h for h in facts.super_hosts if h != last] + first
    others = [
        s.host
        for s in (*facts.apis, *facts.metadata, *facts.conductors)
        if s.host in facts.super_hosts or s in facts.api_level
    ]
    return list(dict.fromkeys([*first, *(h for h in others if h != last), last]))


def _roll_host(
    facts: Facts,
    draft: Draft,
    host: str,
    *,
    quiet_forward: bool,
    quiet_backward: bool,
) -> None:
    webs = [s for s in (*facts.apis, *facts.metadata) if s.host == host and s in facts.api_level]
    schedulers = [s for s in facts.schedulers if s.host == host]
    servers = [
        {"proxy": p.proxy, "backend": p.backend, "server": p.server}
        for s in webs
        for p in facts.deployment.servers_of(s)
    ]
    old = {"broker": facts.old.name, "vhost": facts.old_vhost}
    new: dict[str, Any] = {"broker": facts.new_broker, "vhost": facts.new_vhost}
    if servers:
        draft.add(
            f"{host}/drain",
            "proxied",
            host,
            f"send no new requests to {host}; wait for those inside",
            notice="nothing: other servers answer",
            undone="requests are sent there again",
            estimate=3,
            forward="drain",
            servers=servers,
        )
    for s in webs:
        _restart_web(facts, draft, s, "backward", servers)
    for s in schedulers:
        _restart_scheduler(draft, s, "backward", old, new)
    files = {edited_file(s): s for s in (*webs, *schedulers)}
    for number, (path, service) in enumerate(files.items()):
        draft.edit(f"{host}/nova-conf{number or ''}", host, path, _api_changes(facts, service))
    if host in facts.super_hosts:
        name = contained.super_unit(facts, next(c for c in facts.conductors if c.host == host))
        draft.add(
            f"{host}/super-conductor",
            "start-unit",
            host,
            f"start {name} on the API level's broker",
            undone="stopped without losing what it was sent",
            estimate=15,
            unit=name,
            topics=["conductor"],
            nova_host=next(c.nova_host for c in facts.conductors if c.host == host),
            reads=[super_reads(facts, host)],
            **new,
        )
    if quiet_forward or quiet_backward:
        acts: Acts = (
            "both" if quiet_forward and quiet_backward else "forward" if quiet_forward else "backward"
        )
        draft.add(
            f"{host}/quiet",
            "quiet",
            host,
            "wait until builds and conductor tasks begun through the other broker have ended",
            undone="the same wait, the other way",
            acts=acts,
            estimate=5,
            cells=[facts.cell.uuid],
            conductors=[
                {"host": s.host, "unit": u, "acts": a}
                for s in facts.conductors
                for u, a in ((s.unit, "forward"), (contained.super_unit(facts, s), "backward"))
                if a == "forward" or s.host in facts.super_hosts
            ],
        )
    for s in schedulers:
        _restart_scheduler(draft, s, "forward", old, new)
    for s in webs:
        _restart_web(facts, draft, s, "forward", servers)
    if servers:
        draft.add(
            f"{host}/ready",
            "proxied",
            host,
            f"send requests to {host} again",
            undone=f"{host} is drained",
            estimate=3,
            forward="ready",
            servers=servers,
        )


def super_reads(facts: Facts, host: str) -> str:
    """The configuration file of the super-conductor on ``host``."""
    conductor = next(s for s in facts.conductors if s.host == host)
    if conductor.container:
        return contained.super_config(facts, conductor, conductor.container)
    files = _super_files(facts, conductor)
    path = edited_file(conductor)
    return files.get(path, path)


def _restart_web(
    facts: Facts,
    draft: Draft,
    service: NovaService,
    acts: Acts,
    servers: list[dict[str, str]],
) -> None:
    # Asked where the proxy asks it: it may listen on one address only.
    addresses = [p.address for p in facts.deployment.servers_of(service)]
    url = f"http://{addresses[0] if addresses else f'127.0.0.1:{service.port}'}/"
    mark = "" if acts == "forward" else "undo-"
    draft.add(
        f"{service.host}/{mark}{service.unit}",
        "restart-api",
        service.host,
        f"restart {service.unit}" + ("" if acts == "forward" else " (on undo, after its file is put back)"),
        notice="nothing while it is drained" if servers else "requests fail while it restarts",
        undone="restarted with its old file",
        acts=acts,
        estimate=15,
        unit=service.unit,
        url=url,
        reads=list(service.config_files),
        servers=servers,
        warm=service.role == "api",
    )


def _restart_scheduler(
    draft: Draft,
    service: NovaService,
    acts: Acts,
    old: dict[str, str],
    new: dict[str, str],
) -> None:
    mark = "" if acts == "forward" else "undo-"
    draft.add(
        f"{service.host}/{mark}{service.unit}",
        "restart-rpc",
        service.host,
        f"move {service.unit} to the {'API level' if acts == 'forward' else 'old'} broker, losing no message",
        undone="moved back the same way",
        acts=acts,
        estimate=15,
        unit=service.unit,
        topics=["scheduler"],
        nova_host=service.nova_host,
        old=old,
        new=new,
        reads=list(service.config_files),
    )


def conclude(facts: Facts, draft: Draft) -> None:
    draft.add(
        f"{facts.cell_name}/records",
        "retire-records",
        facts.apis[0].host,
        f"retire the API level's service records in {facts.cell_name}",
        undone="exactly those records are restored",
        cell=facts.cell.uuid,
        services=_api_records(facts),
    )
    computes = facts.deployment.role("compute")
    mixed = {s.host for s in (*facts.apis, *facts.schedulers, *facts.conductors)}
    addresses = [ip for s in computes if s.host not in mixed for ip in facts.deployment.host(s.host).ips]
    draft.add(
        "prove",
        "prove",
        facts.apis[0].host,
        "prove the result",
        acts="forward",
        estimate=20,
        undone="(nothing to undo)",
        serving=[
            [facts.new_broker, facts.new_vhost, "conductor"],
            [facts.new_broker, facts.new_vhost, "scheduler"],
            [facts.old.name, facts.old_vhost, "conductor"],
        ],
        strangers=[
            {
                "broker": facts.new_broker,
                "vhost": facts.new_vhost,
                "programs": ["nova-compute"],
                "addresses": [a for a in addresses if not a.startswith("127.")],
            }
        ],
        up={facts.cell.uuid: ["nova-compute", "nova-conductor"], CELL0: ["nova-scheduler", "nova-conductor"]},
        commands=commands.proofs(facts.deployment, facts.apis[0].host),
        **commands.reports(facts.deployment),
    )


def _api_records(facts: Facts) -> list[list[str]]:
    """[host, binary] of the service records that go with the API level."""
    names = {"api": "nova-osapi_compute", "metadata": "nova-metadata", "scheduler": "nova-scheduler"}
    return [[s.nova_host, names[s.role]] for s in facts.api_level]


