"""A cell that isn't there is made: accounts, database, schema, conductors, and everybody gets to know it."""

from __future__ import annotations

from typing import Any

from recell.model.deployment import NovaService
from recell.model.hosts import HostsMove
from recell.planning import commands
from recell.planning.changes import Change, kept_notifications
from recell.planning.database import roll_host
from recell.planning.draft import Draft, edited_file
from recell.planning.hosts import Facts, NewCell


def conductor_unit(new: NewCell) -> str:
    return f"nova-conductor-{new.end.name}"


def config_path(new: NewCell, model: NovaService) -> str:
    if new.wanted.config:
        return new.wanted.config
    path = edited_file(model)
    stem, dot, suffix = path.rpartition(".")
    stem = stem.removesuffix(f"-{new.model.name}")
    return f"{stem}-{new.end.name}.{suffix}" if dot else f"{path}-{new.end.name}"


def accounts(facts: Facts, move: HostsMove, draft: Draft, there: set[tuple[str, int, str]]) -> None:
    """recell's own account on both servers; that on a new cell's is made with it."""
    for side, end in (("old", move.old), ("new", move.new)):
        place = (end.server, end.port, end.database)
        if place in there or (side == "new" and any(n.end == end for n in facts.made)):
            continue
        there.add(place)
        draft.add(
            f"{end.name}/account",
            "cell-things",
            end.server,
            f"an account of recell's own for {end.where}",
            undone="it is removed",
            move=move.to_json(),
            side=side,
            things=["recell"],
        )


def make_cell(facts: Facts, new: NewCell, draft: Draft) -> None:
    end, first = new.end, new.conductors[0]
    move = HostsMove(new.model, end)
    draft.add(
        f"{end.name}/model-account",
        "cell-things",
        new.model.server,
        f"an account of recell's own for {new.model.where}",
        undone="it is removed",
        move=move.to_json(),
        side="old",
        things=["recell"],
    )
    draft.add(
        f"{end.name}/database",
        "cell-things",
        end.server,
        f"on {end.address}:{end.port}: an account of recell's own, an empty database {end.database}, Nova's"
        f" account with the same password and rights as in {new.model.name}",
        undone="what was made is removed",
        estimate=5,
        move=move.to_json(),
        side="new",
        things=["recell", "database", "nova"],
    )
    draft.add(
        f"{end.name}/broker",
        "broker-account",
        end.broker_node,
        f"let Nova's account {new.user} use vhost {end.vhost} on {end.broker}",
        undone="what was made is removed",
        broker=end.broker,
        vhost=end.vhost,
        user=new.user,
        host=first.host,
        config=edited_file(first),
    )
    _files(facts, new, draft)
    argv = [
        *facts.deployment.host(first.host).nova_prefix,
        facts.deployment.host(first.host).nova_manage,
        "--config-file",
        config_path(new, first),
        "db",
        "sync",
        "--local_cell",
    ]
    draft.add(
        f"{end.name}/schema",
        "cell-schema",
        first.host,
        f"nova-manage db sync in {end.database}; its numbers begin far above {new.model.name}'s",
        undone="it goes with the database",
        estimate=20,
        move=move.to_json(),
        argv=argv,
        user=first.user,
    )
    _services(new, draft)
    _mapping(facts, new, draft)


def _files(facts: Facts, new: NewCell, draft: Draft) -> None:
    end = new.end
    done: set[tuple[str, str]] = set()
    for service in (*new.conductors, *new.consoles):
        console = service in new.consoles
        path, own = edited_file(service), _path(new, service)
        if (service.host, own) in done:
            continue
        done.add((service.host, own))
        changes: list[Change] = [
            {"section": "DEFAULT", "option": "transport_url", "op": "nodes",
             "nodes": [list(n) for n in new.broker_nodes], "vhost": "" if end.vhost == "/" else end.vhost},
            {"section": "database", "option": "connection", "op": "nodes",
             "nodes": [[end.address, end.port]], "vhost": end.database},
            *kept_notifications(facts.layout, service),
        ]  # fmt: skip
        if console and new.wanted.consoles is not None:
            changes += [
                {"section": "vnc", "option": "novncproxy_port", "op": "set",
                 "value": str(new.wanted.consoles.port)},
            ]  # fmt: skip
        mark = "console" if console else "conductor"
        draft.copy(f"{service.host}/{end.name}-{mark}-config", service.host, path, own, changes)


def _path(new: NewCell, service: NovaService) -> str:
    path = config_path(new, service)
    if service not in new.consoles:
        return path
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}-console.{suffix}" if dot else f"{path}-console"


def _services(new: NewCell, draft: Draft) -> None:
    end = new.end
    for service in (*new.conductors, *new.consoles):
        conductor = service in new.conductors
        unit = conductor_unit(new) if conductor else f"{service.unit}-{end.name}"
        own = _path(new, service)
        argv = commands.renamed_log(
            commands.with_config(service, {edited_file(service): own}), service.unit, unit
        )
        draft.sibling(
            f"{service.host}/{unit}-unit",
            service,
            unit,
            argv,
            f"a unit {unit}, modelled on {service.unit}",
            f"Nova {service.role} of {end.name}",
        )
        shared: dict[str, Any] = {"unit": unit, "reads": [own], "undone": "stopped"}
        if conductor:
            draft.add(
                f"{service.host}/{unit}",
                "start-unit",
                service.host,
                f"start {unit}",
                estimate=15,
                topics=["conductor"],
                nova_host=service.nova_host,
                broker=end.broker,
                vhost=end.vhost,
                **shared,
            )
        else:
            draft.add(f"{service.host}/{unit}", "start-console", service.host, f"start {unit}", estimate=5,
                      **shared)  # fmt: skip


def _mapping(facts: Facts, new: NewCell, draft: Draft) -> None:
    """The mapping, and a restart of everybody who has read the others at their start."""
    because = f"{new.end.name}/mapping"
    why = f"the cell {new.end.name}"
    hosts = list(dict.fromkeys(m.host for m in facts.members))
    for host in hosts:
        roll_host(facts.members, draft, host, new.end.name, "backward", because, why)
    first = new.conductors[0]
    draft.add(
        because,
        "new-mapping",
        first.host,
        f"map {new.end.name}: its database and its broker, literally",
        undone="the mapping is removed; nobody belongs to it any more",
        cell=new.end.cell,
        name=new.end.name,
        config=config_path(new, first),
    )
    for host in hosts:
        roll_host(facts.members, draft, host, new.end.name, "forward", because, why)
