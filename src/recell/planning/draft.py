"""What a plan is drafted from, and with: facts decided once, and a list that grows."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recell.errors import Unsupported
from recell.model.deployment import (
    CELL_UNREAD,
    ENVIRONMENT,
    IN_WEB_SERVER,
    Broker,
    CellMapping,
    Deployment,
    NovaService,
    named_values,
)
from recell.model.layout import Layout
from recell.model.plan import Acts, ExpectedChange, Fingerprint, Plan, PlanStep
from recell.planning import commands
from recell.planning.changes import Change, describe
from recell.planning.safety import with_safe_points

NOTHING = "nothing"
CELL0 = "00000000-0000-0000-0000-000000000000"


@dataclass
class Draft:
    """Steps and files gathered on the way."""

    steps: list[PlanStep] = field(default_factory=list)
    new_files: list[tuple[str, str]] = field(default_factory=list)

    def add(
        self,
        id: str,
        kind: str,
        where: str,
        title: str,
        *,
        undone: str,
        notice: str = NOTHING,
        acts: Acts = "both",
        estimate: float = 1.0,
        **params: Any,
    ) -> None:
        self.steps.append(PlanStep(id, kind, where, title, notice, undone, "finish", acts, estimate, params))

    def add_file(
        self,
        id: str,
        kind: str,
        where: str,
        title: str,
        path: str,
        *,
        undone: str,
        **params: Any,
    ) -> None:
        self.new_files.append((where, path))
        self.add(id, kind, where, title, undone=undone, path=path, **params)

    def edit(self, id: str, host: str, path: str, changes: Sequence[Change], **more: Any) -> None:
        self.add(
            id,
            "edit-config",
            host,
            f"{path}: {_said(changes)}",
            undone="the old file is put back",
            path=path,
            changes=changes,
            **more,
        )

    def copy(
        self, id: str, host: str, source: str, path: str, changes: Sequence[Change], purpose: str = ""
    ) -> None:
        """``purpose``: ends the title, which else names the changes."""
        self.add_file(
            id,
            "copy-config",
            host,
            f"copy {source} to {path}" + (purpose or f": {_said(changes)}"),
            path,
            undone="the copy is removed",
            source=source,
            changes=changes,
        )

    def sibling(
        self,
        id: str,
        model: NovaService,
        unit: str,
        argv: list[str],
        title: str,
        description: str,
        **more: Any,
    ) -> None:
        """A unit beside ``model``'s on its host."""
        self.add_file(
            id,
            "sibling-unit",
            model.host,
            title,
            f"/etc/systemd/system/{unit}.service",
            undone="the unit is removed",
            unit=unit,
            model=model.unit,
            argv=argv,
            **more,
            description=description,
        )

    def drop_in(
        self, service: NovaService, argv: list[str], title: str, cell: str, name: str = "50-recell.conf"
    ) -> None:
        """From its next start on the service is run by ``argv``."""
        self.add_file(
            f"{service.host}/{service.unit}-config",
            "drop-in",
            service.host,
            title,
            f"/etc/systemd/system/{service.unit}.service.d/{name}",
            undone="the drop-in is removed",
            unit=service.unit,
            argv=argv,
            text=commands.dropin(argv, cell),
        )

    def plan(
        self,
        kind: str,
        deployment: Deployment,
        layout: str,
        made_at: float,
        *,
        changes: Sequence[ExpectedChange],
        remarks: Sequence[str],
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> Plan:
        """``layout``: its digest. ``before``, ``after``: topologies."""
        return Plan(
            format=1,
            kind=kind,
            made_at=made_at,
            state=deployment.state_digest(),
            layout=layout,
            steps=with_safe_points(self.steps),
            fingerprints=self.fingerprints(deployment),
            expected_changes=tuple(changes),
            remarks=tuple(remarks),
            topology_before=before,
            topology_after=after,
        ).sealed()

    def fingerprints(self, deployment: Deployment) -> tuple[Fingerprint, ...]:
        """Of all known files on the hosts that the steps touch, and of those that must not be there yet."""
        touched = {s.where for s in self.steps}
        known = [
            Fingerprint(h.name, f.path, f.sha256)
            for h in deployment.hosts
            if h.name in touched
            for f in h.config_files
        ]
        there = {(f.host, f.path) for f in known}
        absent = [Fingerprint(host, path, "") for host, path in self.new_files if (host, path) not in there]
        return tuple(dict.fromkeys([*known, *absent]))


def _said(changes: Sequence[Change]) -> str:
    return "; ".join(describe(c) for c in changes)


@dataclass(frozen=True)
class Facts:
    """What the deployment and the layout come to, decided once."""

    deployment: Deployment
    layout: Layout
    cell: CellMapping
    cell_name: str
    cell0: CellMapping
    old: Broker
    old_vhost: str
    new_nodes: tuple[str, ...]
    new_broker: str
    new_vhost: str
    account: str
    conductors: tuple[NovaService, ...]
    schedulers: tuple[NovaService, ...]
    apis: tuple[NovaService, ...]
    metadata: tuple[NovaService, ...]
    consoles: tuple[NovaService, ...]
    super_hosts: tuple[str, ...]

    @property
    def super_models(self) -> tuple[NovaService, ...]:
        """What a super-conductor is modelled on: one nova-conductor of each host that gets one."""
        models = {s.host: s for s in reversed(self.conductors) if s.host in self.super_hosts}
        return tuple(s for s in self.conductors if models.get(s.host) is s)

    @property
    def api_level(self) -> tuple[NovaService, ...]:
        api_metadata = self.metadata if self.layout.services.metadata == "api" else ()
        return (*self.apis, *self.schedulers, *api_metadata)

    @property
    def cell_level(self) -> tuple[NovaService, ...]:
        cell_metadata = self.metadata if self.layout.services.metadata == "cell" else ()
        return (*self.conductors, *self.consoles, *cell_metadata)


def unread_cells(deployment: Deployment) -> dict[str, str]:
    """Cells whose databases the scan has left out, by name, and why."""
    told = (r.split("|", 2) for r in deployment.remarks if r.startswith(f"{CELL_UNREAD}|"))
    return {name: why for _, name, why in told}


def refuse_web_servers(deployment: Deployment) -> None:
    """:raises Unsupported: nova-api or metadata is a module of a web server."""
    for host, unit, program in in_web_servers(deployment):
        raise Unsupported(
            f"nova-api or metadata on {host} runs inside {program} ({unit}), whose restart would stop"
            " whatever else is in there",
            "Run it as a unit of its own (nova-api, or uwsgi with nova.wsgi.osapi_compute), scan again",
        )


def in_web_servers(deployment: Deployment) -> list[tuple[str, str, str]]:
    """(host, unit, program) of each web server that has nova-api or metadata inside."""
    told = (r.split("|") for r in deployment.remarks if r.startswith(f"{IN_WEB_SERVER}|"))
    return [(host, unit, program) for _, host, unit, program in told]


def edited_file(service: NovaService, may_lack: str = "") -> str:
    """The one file that sets both URLs of a service. ``may_lack``: the option that need not be set anywhere.

    :raises Unsupported: there is no such file.
    """
    options = ("DEFAULT/transport_url", "database/connection")
    places = {service.origins.get(o, "") for o in options if o != may_lack or service.origins.get(o)}
    if len(places) != 1 or "" in places:
        raise Unsupported(
            f"{service.unit} on {service.host} takes transport_url and [database] connection from"
            f" {' and '.join(sorted(p or 'nowhere' for p in places))}",
            "Set both in one configuration file, restart the service, and scan again",
        )
    path = places.pop()
    if path == ENVIRONMENT:
        raise Unsupported(
            f"{service.unit} on {service.host} takes its URLs from its environment, which wins over files",
            "Move them into nova.conf, restart the service, and scan again",
        )
    if not is_its_own(service, path):
        raise Unsupported(
            f"{service.unit} on {service.host} takes its URLs from {path}, in a configuration directory that"
            " every service there reads, whatever files it is given",
            "Move them into nova.conf, restart the service, and scan again",
        )
    return path


def where_it_counts(service: NovaService, changes: Sequence[Change]) -> str:
    """The file in which these changes are seen: the one with the broker's URL, or a later one that sets any
    of the options. Where an old release names the broker by other options, it is the first one of the host's
    own: a distribution's defaults come before all others, and are a package's.

    :raises Unsupported: one of the options comes from the environment, which wins over files.
    """
    own = [p for p in service.config_files if not p.startswith("/usr/")] or list(service.config_files)
    told = {service.origins.get(f"{c['section']}/{c['option']}", "") for c in changes}
    if ENVIRONMENT in told:
        raise Unsupported(
            f"{service.unit} on {service.host} takes {' or '.join(c['option'] for c in changes)} from its"
            " environment, which wins over files",
            "Move them into nova.conf, restart the service, and scan again",
        )
    places = [p for p in own if p in told or p == service.origins.get("DEFAULT/transport_url", own[0])]
    return places[-1] if places else own[0]


def is_its_own(service: NovaService, path: str) -> bool:
    """Whether a service reads this file because it is named, or as its nova.conf: another one can be named
    instead. Files of a configuration directory are read in any case, and after those that are named."""
    if path not in service.config_files:
        return False
    directories = named_values(service.argv, "--config-dir")
    directory = posixpath.dirname(path)
    return directory not in [d.rstrip("/") for d in directories] and not directory.endswith(".conf.d")


def cell_path(facts: Facts, path: str) -> str:
    own = facts.layout.cells[facts.cell_name].config
    if own:
        return own
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}-{facts.cell_name}.{suffix}" if dot else f"{path}-{facts.cell_name}"
