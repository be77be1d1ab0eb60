"""Who talks to which broker and database, before and after: plain data for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recell.model.deployment import CellMapping, Deployment
from recell.model.hosts import CellEnd
from recell.model.layout import Layout
from recell.model.urls import is_template, parse_url


def before(deployment: Deployment) -> dict[str, Any]:
    """``{"groups": [{"name", "broker", "database", "services": {role: [host, ...]}}]}``."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for service in deployment.services:
        if not service.active:
            continue
        broker = deployment.broker_of(service.transport_url)
        key = (", ".join(broker.hosts) if broker else service.transport_url, "")
        group = groups.setdefault(key, {"name": "Nova", "broker": key[0], "database": "", "services": {}})
        group["database"] = group["database"] or service.database
        group["services"].setdefault(service.role, []).append(service.host)
    return {"groups": list(groups.values())}


def after_split(deployment: Deployment, layout: Layout, cell: str) -> dict[str, Any]:
    """The same shape: an API level and one cell."""
    roles: dict[str, list[str]] = {}
    for service in deployment.services:
        if service.active:
            roles.setdefault(service.role, []).append(service.host)
    api_roles = {"api", "scheduler"} | ({"metadata"} if layout.services.metadata == "api" else set())
    super_hosts = list(layout.api.hosts) or roles.get("conductor", [])
    api = {r: h for r, h in roles.items() if r in api_roles} | {"super-conductor": super_hosts}
    inner = {r: h for r, h in roles.items() if r not in api_roles}
    mapping = {m.name: m for m in deployment.mappings}
    now = before(deployment)["groups"]
    return {
        "groups": [
            {
                "name": "API level",
                "broker": ", ".join(layout.api.broker.nodes),
                "database": mapping["cell0"].database_resolved if "cell0" in mapping else "cell0",
                "services": api,
            },
            {
                "name": cell,
                "broker": now[0]["broker"] if now else "",
                "database": mapping[cell].database_resolved if cell in mapping else "",
                "services": inner,
            },
        ]
    }


def of_split(deployment: Deployment, cell: str) -> dict[str, Any]:
    """The same shape, of a deployment whose API level has been split off."""
    groups = []
    for group in before(deployment)["groups"]:
        if "api" in group["services"]:
            roles = {"super-conductor" if r == "conductor" else r: h for r, h in group["services"].items()}
            groups.append({**group, "name": "API level", "services": roles})
        else:
            groups.append({**group, "name": cell})
    return {"groups": groups}


def with_database(picture: dict[str, Any], cell: str, database: str) -> dict[str, Any]:
    """The same picture, with the cell's database elsewhere (a shown URL)."""
    return {
        "groups": [
            {**group, "database": database} if group["name"] == cell else group for group in picture["groups"]
        ]
    }


def of_cells(
    deployment: Deployment,
    cells: Sequence[CellEnd],
    moved: Mapping[str, CellEnd],
    others: Iterable[CellMapping] = (),
) -> dict[str, Any]:
    """The same shape, of an API level and any number of cells. ``moved``: hosts that go elsewhere;
    ``others``: cells that nobody moves to or from."""
    names = {(e.broker, e.vhost): e for e in cells}
    known = {
        (url.hosts, url.vhost): m
        for m in others
        if not is_template(m.transport_resolved)
        for url in [parse_url(m.transport_resolved)]
    }
    groups: dict[str, dict[str, Any]] = {}

    def group(name: str, broker: str, database: str) -> dict[str, list[str]]:
        found = groups.setdefault(
            name, {"name": name, "broker": broker, "database": database, "services": {}}
        )
        services: dict[str, list[str]] = found["services"]
        return services

    for service in deployment.services:
        if not service.active:
            continue
        broker = deployment.broker_of(service.transport_url)
        vhost = parse_url(service.transport_url).vhost if service.transport_url else "/"
        end = names.get((broker.name if broker else "", vhost))
        if service.role == "compute":
            end = moved.get(service.host, end)
        url = parse_url(service.transport_url) if service.transport_url else None
        other = known.get((url.hosts, url.vhost)) if url and end is None else None
        if other is not None:
            at = ", ".join(broker.hosts if broker else url.hosts if url else ())
            name = other.name or other.uuid
            group(name, at, other.database_resolved).setdefault(service.role, []).append(service.host)
        elif end is None:
            role = "super-conductor" if service.role == "conductor" else service.role
            at = ", ".join(broker.hosts) if broker else service.transport_url
            group("API level", at, service.database).setdefault(role, []).append(service.host)
        else:
            group(end.name, end.broker, end.where).setdefault(service.role, []).append(service.host)
    return {"groups": list(groups.values())}
