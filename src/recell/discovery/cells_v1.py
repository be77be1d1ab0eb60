"""Cells v1: which there are, by the databases of their controllers, and what those databases say.

Columns differ from Grizzly to Stein: each statement is made of those that are there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import unquote

from pymysql.cursors import DictCursor

from recell.adapters.mysql.instances import live_rows, read_live
from recell.adapters.mysql.sql import name
from recell.adapters.nova_db import Database, Gateway
from recell.adapters.ports import ServiceRow
from recell.discovery.trouble import Trouble
from recell.errors import BadInput, RecellError, Unsupported
from recell.model.cells_v1 import CellRecord, CellV1, Flavor, InstanceRow, NullRow, Room
from recell.model.deployment import NovaService
from recell.model.urls import Url, parse_url

T = TypeVar("T")
ORDER = ("cells", "conductor", "scheduler", "api", "consoleauth", "cert", "network", "metadata")
"""Whose configuration is believed first."""
_TRUE = ("true", "1", "yes", "on")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Secrets(Protocol):
    """URLs with their passwords: :class:`recell.adapters.world.Secrets`."""

    @property
    def database(self) -> str: ...
    @property
    def api_database(self) -> str: ...


@dataclass(frozen=True)
class RawRecord:
    """A row of ``cells``, or an entry of the file that stands for it; the URL holds a password."""

    name: str
    is_parent: bool
    transport_url: str = field(repr=False)
    state: Literal["live", "deleted", "null"]
    source: str
    id: int = 0

    def shown(self) -> CellRecord:
        try:
            url = parse_url(self.transport_url)
        except RecellError:
            return CellRecord(self.name, self.is_parent, "", self.state, False, self.source, self.id)
        named = bool(unquote(url.path))
        return CellRecord(self.name, self.is_parent, url.shown(), self.state, named, self.source, self.id)


class CellDatabases:
    """The databases of cells v1, by the cells' keys; opened when first asked. Thread-safe.

    :raises Unreachable, Denied: from every question.
    """

    def __init__(self) -> None:
        self._own: dict[str, Database] = {}
        self._api: dict[str, Database] = {}
        self._file: dict[str, tuple[Gateway, str]] = {}

    def add(
        self, key: str, via: Gateway, secrets: Secrets, cells_config: str = "",
        login: tuple[str, str] | None = None,
    ) -> None:  # fmt: skip
        """``login``: user and password instead of Nova's own.

        :raises Unsupported, BadInput: not a URL of a database that recell can read.
        """
        self._own[key] = Database(via, _as(parse_url(secrets.database), login))
        if secrets.api_database:
            self._api[key] = Database(via, _as(parse_url(secrets.api_database), login))
        if cells_config:
            self._file[key] = (via, cells_config)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._own)

    def rename(self, old: str, new: str) -> None:
        if old in self._own:
            self._own[new] = self._own.pop(old)
        if old in self._api:
            self._api[new] = self._api.pop(old)
        if old in self._file:
            self._file[new] = self._file.pop(old)

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        return self._database(cell).read(sql, args)

    def _database(self, key: str) -> Database:
        if key not in self._own:
            raise Unsupported(
                f"the database of cell {key} can't be opened", "See what is said of its URL, and correct that"
            )
        return self._own[key]

    def close(self) -> None:
        for database in (*self._own.values(), *self._api.values()):
            database.close()

    def identity(self, key: str) -> tuple[str, ...]:
        """The same for one database however its address is written."""
        row = self.query(key, "SELECT @@hostname AS h, @@port AS p, DATABASE() AS d")[0]
        galera = self.query(key, "SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_cluster_state_uuid'")
        whole = str(galera[0]["Value"]).strip() if galera else ""
        return (whole, str(row["d"])) if whole else (str(row["h"]), str(row["p"]), str(row["d"]))

    def records(self, key: str) -> tuple[RawRecord, ...]:
        """What its nova-cells knows of neighbours. :raises BadInput: ``cells_config`` is no such file."""
        if key in self._file:
            return _from_file(*self._file[key])
        rows = self.query(key, "SELECT id, name, is_parent, transport_url, deleted FROM cells ORDER BY id")
        return tuple(
            RawRecord(
                str(r["name"] or ""),
                bool(r["is_parent"]),
                str(r["transport_url"] or ""),
                "null" if r["deleted"] is None else "deleted" if r["deleted"] else "live",
                "cells",
                int(r["id"]),
            )
            for r in rows
        )

    def services(self, key: str) -> tuple[ServiceRow, ...]:
        there = self._columns(self._database(key), "services")
        seen = "COALESCE(last_seen_up, created_at)" if "last_seen_up" in there else (
            "COALESCE(updated_at, created_at)")  # fmt: skip
        more = ", ".join(c if c in there else f"NULL AS {c}" for c in ("uuid", "version"))
        rows = self.query(
            key,
            f"SELECT id, {more}, host, `binary`, disabled,"  # noqa: S608  # our own column names
            f" TIMESTAMPDIFF(MICROSECOND, {seen}, UTC_TIMESTAMP(6)) / 1e6 AS age"
            " FROM services WHERE deleted = 0 ORDER BY id",
        )
        return tuple(
            ServiceRow(r["id"], r["uuid"] or "", r["host"] or "", r["binary"] or "", r["version"] or 0,
                       bool(r["disabled"]), float(r["age"] or 0))
            for r in rows
        )  # fmt: skip

    def instances(self, key: str) -> dict[str, InstanceRow]:
        there = self._columns(self._database(key), "instances")
        return live_rows(self.query(key, read_live(there)))

    def gone(self, key: str, uuids: Sequence[str]) -> frozenset[str]:
        """Of these instances, those that have a row here that is deleted."""
        found: set[str] = set()
        for at in range(0, len(uuids), 500):
            part = list(uuids[at : at + 500])
            rows = self.query(key, "SELECT uuid FROM instances WHERE deleted <> 0 AND uuid IN %s", (part,))
            found |= {str(r["uuid"]) for r in rows}
        return frozenset(found)

    def nulls(self, key: str, most: int = 10_000) -> dict[str, tuple[NullRow, ...]]:
        """Rows whose `deleted` is NULL, by table; of each table the first ``most``. No index leads there:
        tables of more than two million rows are left out."""
        tables = self.query(
            key,
            "SELECT d.table_name AS t FROM information_schema.columns d"
            " JOIN information_schema.columns i ON i.table_schema = d.table_schema"
            " AND i.table_name = d.table_name AND i.column_name = 'id'"
            " JOIN information_schema.columns a ON a.table_schema = d.table_schema"
            " AND a.table_name = d.table_name AND a.column_name = 'deleted_at'"
            " JOIN information_schema.tables s ON s.table_schema = d.table_schema"
            " AND s.table_name = d.table_name AND s.table_rows <= 2000000"
            " WHERE d.table_schema = DATABASE() AND d.column_name = 'deleted' AND d.is_nullable = 'YES'"
            " AND d.data_type IN ('int', 'bigint') AND d.table_name NOT LIKE 'shadow\\_%%'"
            " AND d.table_name NOT LIKE 'recell\\_%%' ORDER BY d.table_name",
        )
        found = {}
        for table in (str(t["t"]) for t in tables):
            rows = self.query(
                key,
                f"SELECT id, deleted_at IS NOT NULL AS ended FROM {name(table)}"  # noqa: S608  # quoted
                f" WHERE deleted IS NULL ORDER BY id LIMIT {most:d}",
            )
            if rows:
                found[table] = tuple(NullRow(int(r["id"]), bool(r["ended"])) for r in rows)
        return found

    def columns_of(self, key: str, tables: Sequence[str]) -> dict[str, dict[str, str]]:
        """column -> type (``varchar(255)``), by table; a table that isn't there is missing."""
        found: dict[str, dict[str, str]] = {}
        for r in self.query(
            key,
            "SELECT table_name AS t, column_name AS c, column_type AS k FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name IN %s ORDER BY table_name, ordinal_position",
            (list(tables),),
        ):
            found.setdefault(str(r["t"]), {})[str(r["c"])] = str(r["k"])
        return found

    def in_api_database(self, key: str, table: str) -> int | None:
        """How many rows (0, or 1 for any) a table has in the cell's API database; None: it isn't there."""
        if key not in self._api or not self._columns(self._api[key], table):
            return None
        return len(self._api[key].read(f"SELECT 1 FROM {name(table)} LIMIT 1"))  # noqa: S608  # quoted

    def change(self, cell: str, act: Callable[[DictCursor], T]) -> T:
        """``act`` in one transaction; the one way to write here. :raises Unreachable: it broke."""
        return self._database(cell).change(act)

    def count(self, key: str) -> int:
        return int(self.query(key, "SELECT count(*) AS n FROM instances WHERE deleted = 0")[0]["n"])

    def flavors(self, key: str) -> tuple[str, tuple[Flavor, ...]]:
        """(table, rows). From Newton on they are in the API database."""
        wanted = "id, flavorid, name, memory_mb, vcpus, root_gb, ephemeral_gb, swap"
        if key in self._api and self._columns(self._api[key], "flavors"):
            rows = self._api[key].read(f"SELECT {wanted} FROM flavors")  # noqa: S608  # our own words
            if rows:
                return "flavors", _flavors(rows)
        rows = self.query(key, f"SELECT {wanted} FROM instance_types WHERE deleted = 0")  # noqa: S608
        return "instance_types", _flavors(rows)

    def room(self, key: str) -> tuple[Room, ...]:
        if "host" in self._columns(self._database(key), "compute_nodes"):
            sql = "SELECT host, free_ram_mb, free_disk_gb FROM compute_nodes WHERE deleted = 0"
        else:
            sql = (
                "SELECT s.host, n.free_ram_mb, n.free_disk_gb FROM compute_nodes n"
                " JOIN services s ON s.id = n.service_id WHERE n.deleted = 0 AND s.deleted = 0"
            )
        return tuple(
            Room(str(r["host"] or ""), int(r["free_ram_mb"] or 0), int(r["free_disk_gb"] or 0))
            for r in self.query(key, sql)
        )

    def schema(self, key: str) -> str:
        rows = self.query(key, "SELECT version FROM migrate_version")
        return str(rows[0]["version"]) if rows else ""

    @staticmethod
    def _columns(database: Database, table: str) -> frozenset[str]:
        rows = database.read(
            "SELECT column_name AS c FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s",
            (table,),
        )
        return frozenset(str(r["c"]).lower() for r in rows)


def _as(url: Url, login: tuple[str, str] | None) -> Url:
    if login is None:
        return url
    user, password = login
    return replace(url, endpoints=tuple(replace(e, user=user, password=password) for e in url.endpoints))


def _flavors(rows: Iterable[Mapping[str, Any]]) -> tuple[Flavor, ...]:
    return tuple(
        Flavor(int(r["id"]), str(r["flavorid"] or ""), str(r["name"] or ""),
               *(int(r[c] or 0) for c in ("memory_mb", "vcpus", "root_gb", "ephemeral_gb", "swap")))
        for r in rows
    )  # fmt: skip


def _from_file(via: Gateway, path: str) -> tuple[RawRecord, ...]:
    try:
        listed = json.loads((via.read(path) or b"").decode())
        return tuple(
            RawRecord(str(c["name"]), bool(c.get("is_parent")), str(c["transport_url"]), "live", path)
            for c in listed.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"{path} on {via.name}, which [cells] cells_config names, is no list of cells",
            "Write it as Nova's documentation of cells_config shows, or unset the option",
        ) from None


def is_v1(services: Iterable[NovaService]) -> bool:
    """Whether Nova runs in cells v1: units that were left behind, off, don't make it so while others run."""
    found = [s for s in services if s.role != "compute"]
    running = [s for s in found if s.active]
    return any(enabled(s) or s.role == "cells" for s in running) if running else any(map(enabled, found))


def enabled(service: NovaService) -> bool:
    return service.options.get("cells/enable", "").strip().lower() in _TRUE


def find_cells(
    services: Sequence[NovaService],
    gates: Mapping[str, Gateway],
    secrets: Callable[[NovaService], Secrets],
    note: Trouble,
) -> tuple[tuple[CellV1, ...], CellDatabases]:
    """The cells whose controllers are among ``services``, and their databases, which the caller closes.

    Services belong together by the database that they read, as the server names itself.
    """
    groups: dict[tuple[str, ...], list[NovaService]] = {}
    for s in sorted(services, key=believed):
        if s.database:
            groups.setdefault(_place(s), []).append(s)
    databases = CellDatabases()
    merged: dict[tuple[str, ...], tuple[str, list[NovaService]]] = {}
    for number, members in enumerate(groups.values()):
        temporary, first = f"#{number}", members[0]
        try:
            databases.add(temporary, gates[first.host], secrets(first), config_file(members))
            same = databases.identity(temporary)
        except RecellError as error:
            note(f"the database of {first.unit} on {first.host}", error)
            same = _place(first)
        if same in merged:
            merged[same][1].extend(members)
        else:
            merged[same] = (temporary, members)
    named = [(key, sorted(m, key=believed)) for key, m in merged.values() if any(map(enabled, m))]
    names = Counter(_most(m, "name", "nova") for _, m in named)
    cells = []
    for temporary, members in named:
        name, server = _most(members, "name", "nova"), _server(members[0])
        key = name if names[name] == 1 else f"{name} ({server})"
        databases.rename(temporary, key)
        records: tuple[CellRecord, ...] = ()
        try:
            records = tuple(r.shown() for r in databases.records(key))
        except RecellError as error:
            note(f"the neighbours of cell {key}", error)
        first = members[0]
        cells.append(
            CellV1(
                key, name, _most(members, "cell_type", "compute"), first.host, first.unit, server,
                next((s.transport_url for s in members if s.transport_url), ""),
                tuple((s.host, s.unit) for s in members), records,
            )
        )  # fmt: skip
    return tuple(sorted(cells, key=lambda c: (c.cell_type != "api", c.key))), databases


def config_file(members: Iterable[NovaService]) -> str:
    """The file that stands for the table, when nova-cells has one."""
    named = (s.options.get("cells/cells_config", "") for s in members if s.role == "cells")
    return next(filter(None, named), "")


def believed(s: NovaService) -> tuple[bool, int, str, str]:
    return (not s.active, ORDER.index(s.role) if s.role in ORDER else len(ORDER), s.host, s.unit)


def _most(members: Sequence[NovaService], option: str, default: str) -> str:
    """What most of those that say they are in a cell say; what nova-cells says when they are even."""
    said = [s.options.get(f"cells/{option}", "").strip() or default for s in members if enabled(s)]
    return Counter(said).most_common(1)[0][0]


def _place(s: NovaService) -> tuple[str, ...]:
    url = parse_url(s.database)
    first = url.endpoints[0] if url.endpoints else None
    host = first.host.lower() if first else ""
    port = str((first.port if first else 0) or 3306)
    return (*((s.host,) if host in _LOOPBACK else ()), host, port, url.path)


def _server(s: NovaService) -> str:
    url = parse_url(s.database)
    first = url.endpoints[0] if url.endpoints else None
    host = first.host if first else ""
    where = s.host if host.lower() in _LOOPBACK else host
    return f"{where}:{(first.port if first else 0) or 3306}/{url.path}"
