"""What Nova's own databases say of its cells: mappings, service records, how many instances."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recell.adapters.conf import Config
from recell.adapters.nova_db import NovaDatabases
from recell.adapters.ports import NovaPort, RawMapping
from recell.adapters.ssh import SshHost
from recell.adapters.world import Secrets, secrets_of
from recell.discovery.alone import look_alone
from recell.discovery.cells_v1 import find_cells
from recell.discovery.seen import Seen
from recell.discovery.trouble import Trouble, unless
from recell.errors import RecellError, Unsupported
from recell.model.cells_v1 import CellV1
from recell.model.deployment import CELL_UNREAD, CellMapping, NovaService, ServiceRecord
from recell.model.urls import is_template, parse_url
from recell.planning.database import can_be_read
from recell.planning.draft import CELL0
from recell.planning.templates import resolve_template

__all__ = ["Told", "tell_v1", "tell_v2", "tell_without_cells"]


@dataclass(frozen=True)
class Told:
    """What Nova's own databases say."""

    mappings: tuple[CellMapping, ...] = ()
    cells: tuple[CellV1, ...] = ()
    records: tuple[ServiceRecord, ...] = ()
    instances: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def tell_v2(
    hosts: dict[str, SshHost], seen: Sequence[Seen], services: Sequence[NovaService], note: Trouble,
    may_lack: bool = False, leave: bool = False,
) -> Told:  # fmt: skip
    """``may_lack``: an API database that is named and was never made tells of no cells."""
    first = _controller(services)
    config = next(one.found.configs[first.unit] for one in seen if one.facts.name == first.host)
    nova = NovaDatabases(
        hosts[first.host],
        config.get("api_database", "connection"),
        config.get("DEFAULT", "transport_url"),
        config.get("database", "connection"),
    )
    try:
        mappings = () if may_lack and not nova.knows_cells() else _mappings(nova, config, note)
        # Another cell's plan may do without one; cell0 is everybody's.
        left = [m for m in mappings if leave and m.uuid != CELL0 and not can_be_read(m.database_resolved)]
        asked = [m for m in mappings if m not in left]
        records = tuple(
            ServiceRecord(
                m.uuid, r.id, r.uuid, r.host, r.binary, r.version, r.disabled, r.seconds_since_report
            )
            for m in asked
            for r in unless(note, f"service records of {m.name or m.uuid}", nova.services, m.uuid) or ()
        )
        instances = {
            m.name or m.uuid: n
            for m in asked
            if (n := unless(note, f"instances of {m.name or m.uuid}", _count, nova, m.uuid)) is not None
        }
        remarks = tuple(
            f"{CELL_UNREAD}|{m.name or m.uuid}|recell can't read its database, {m.database_resolved}"
            for m in left
        )
        return Told(mappings=mappings, records=records, instances=instances, remarks=remarks)
    finally:
        nova.close()


def _configs(
    seen: Sequence[Seen],
) -> tuple[dict[tuple[str, str], Config], Callable[[NovaService], Secrets]]:
    configs = {(one.facts.name, unit): c for one in seen for unit, c in one.found.configs.items()}
    return configs, lambda s: secrets_of(configs[s.host, s.unit])


def tell_without_cells(
    hosts: dict[str, SshHost], seen: Sequence[Seen], services: Sequence[NovaService], note: Trouble
) -> Told:
    records, instances = look_alone(services, hosts, _configs(seen)[1], note)
    return Told(records=records, instances=instances)


def tell_v1(
    hosts: dict[str, SshHost], seen: Sequence[Seen], services: Sequence[NovaService], note: Trouble,
    leave: bool = False,
) -> Told:  # fmt: skip
    configs, secrets = _configs(seen)

    def trouble(area: str, error: RecellError) -> None:
        if not (leave and isinstance(error, Unsupported)):
            note(area, error)

    cells, databases = find_cells(services, hosts, secrets, trouble)
    try:
        asked = [c for c in cells if not leave or c.key in databases.keys]
        remarks = tuple(
            f"{CELL_UNREAD}|{c.key}|recell can't read its database, {c.server}"
            for c in cells
            if c not in asked
        )
        records = tuple(
            ServiceRecord(
                c.key, r.id, r.uuid, r.host, r.binary, r.version, r.disabled, r.seconds_since_report
            )
            for c in asked
            for r in unless(note, f"service records of {c.key}", databases.services, c.key) or ()
        )
        instances = {
            c.key: n
            for c in asked
            if (n := unless(note, f"instances of {c.key}", databases.count, c.key)) is not None
        }
        mappings = _beside_cells_v1(hosts, configs, services, asked, note)
        return Told(mappings, cells, records, instances, remarks)
    finally:
        databases.close()


def _beside_cells_v1(
    hosts: dict[str, SshHost], configs: dict[tuple[str, str], Config], services: Sequence[NovaService],
    cells: Sequence[CellV1], note: Trouble,
) -> tuple[CellMapping, ...]:  # fmt: skip
    """Mappings of cells v2, which releases from Ocata on keep in the API database that all cells v1 share;
    templates are filled as a child fills them."""
    inner = {member for c in cells if c.cell_type != "api" for member in c.members}
    for s in services:
        if (s.host, s.unit) not in inner or not (s.active and s.api_database and s.database):
            continue
        config = configs[s.host, s.unit]
        nova = NovaDatabases(
            hosts[s.host],
            config.get("api_database", "connection"),
            config.get("DEFAULT", "transport_url"),
            config.get("database", "connection"),
        )
        try:
            return unless(note, "the mappings of cells v2", _mappings, nova, config, note) or ()
        finally:
            nova.close()
    return ()


def _controller(services: Sequence[NovaService]) -> NovaService:
    for role in ("api", "conductor", "scheduler"):
        for s in services:
            if s.role == role and s.active and s.api_database and s.database:
                return s
    raise Unsupported(
        "no running Nova service of the inventory has [api_database] and [database]",
        "Name a controller with nova-api in the inventory, and start nova-api there",
    )


def _mappings(nova: NovaPort, config: Config, note: Trouble) -> tuple[CellMapping, ...]:
    # Keyed with something an outsider doesn't have: a bare hash of a URL would let a weak password
    # be guessed out of deployment.json.
    key = hashlib.sha256(repr(sorted(config.values.items(), key=str)).encode()).digest()
    found = [
        unless(note, f"the mapping of {raw.name or raw.uuid}", _mapping, raw, config, key)
        for raw in nova.mappings()
    ]
    return tuple(m for m in found if m is not None)


def _mapping(raw: RawMapping, config: Config, key: bytes) -> CellMapping:
    urls = (raw.transport_url, raw.database_connection)
    resolved = (
        resolve_template(raw.transport_url, config.get("DEFAULT", "transport_url")),
        resolve_template(raw.database_connection, config.get("database", "connection")),
    )
    return CellMapping(
        uuid=raw.uuid,
        name=raw.name,
        transport_raw=_shown(urls[0]),
        database_raw=_shown(urls[1]),
        transport_resolved=_shown(resolved[0]),
        database_resolved=_shown(resolved[1]),
        templated=any(is_template(u) for u in urls),
        disabled=raw.disabled,
        digest=hmac.new(key, "\0".join(urls).encode(), hashlib.sha256).hexdigest(),
    )


def _shown(url: str) -> str:
    """Templates can't be parsed as URLs (a port is a word there); what they hold openly is hidden."""
    if is_template(url):
        return re.sub(r":(?!//)(?!\{)[^:@/{},]+@", ":***@", url)
    return parse_url(url).shown()


def _count(nova: NovaPort, cell: str) -> int:
    return int(nova.query(cell, "SELECT count(*) AS n FROM instances WHERE deleted = 0")[0]["n"])
