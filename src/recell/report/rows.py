"""Every row of Nova's databases, before and after: what changed that nobody meant to change.

A snapshot is a SQLite file with a hash, the last stamp and the owning instance of every row; hashes
are made by the database server, rows are walked by primary key, so neither side holds many at once.

A row of the first snapshot must be in the second with the same hash, unless

* Nova wrote it through its ORM, which moves ``updated_at`` or ``deleted_at``: the stamp moved, and
  into the window (a raw UPDATE moves no stamp and is found). In a table in :data:`STATES` that
  explains a change of its states only, not of what it is;
* it belongs to an instance that users changed in the window;
* it is gone from a table in :data:`HARD_DELETED`;
* the plan names it.

A row of a table that moves between cells is looked for in the others, and is then held against what it was.
Where two cells had it, one was a copy in the making: that may go, and the other is compared.

Tables in :data:`STEADY` describe the deployment itself. There no stamp explains a difference; only
the plan does, and the columns that services rewrite all the time are left out of the hash.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from recell.adapters.ports import NovaPort
from recell.errors import BadInput
from recell.model.measure import RowFigures
from recell.model.plan import MOVES, ExpectedChange
from recell.report.collect import cells_of

HARD_DELETED: Mapping[str, str] = {
    "build_requests": "removed when a boot has reached its cell",
    "console_auth_tokens": "removed when a token expires or its instance ends",
}

STEADY: Mapping[str, frozenset[str]] = {
    # Left out: what the heartbeat writes.
    "services": frozenset({"updated_at", "report_count", "last_seen_up"}),
    # Left out: what the resource tracker and the driver write each minute.
    "compute_nodes": frozenset({
        "updated_at", "vcpus_used", "memory_mb_used", "local_gb_used", "free_ram_mb",
        "free_disk_gb", "current_workload", "running_vms", "disk_available_least", "metrics",
        "stats", "pci_stats", "cpu_info", "supported_instances", "numa_topology", "mapped",
    }),
    "cell_mappings": frozenset({"updated_at"}),
    "host_mappings": frozenset({"updated_at"}),
}

# What Nova writes by itself, or for a change of metadata, in rows that are otherwise as users made
# them: a stamp explains a change of these columns and of no other.
STATES: Mapping[str, frozenset[str]] = {
    "instances": frozenset({
        "updated_at", "deleted_at", "deleted", "power_state", "vm_state", "task_state", "progress",
        "launched_at", "terminated_at", "cleaned", "hidden",
    }),
}

# How the instance that a row belongs to is found, where it isn't the column instance_uuid.
_OWNERS: Mapping[str, str] = {
    "instances": "`uuid`",
    "instance_id_mappings": "`uuid`",
    "tags": "`resource_id`",
    "instance_actions_events":
        "(SELECT a.instance_uuid FROM instance_actions a WHERE a.id = action_id)",
}
BOOKKEEPING = "recell_mover_"
"""The mover's own tables, beside Nova's while a database moves."""
_FLOATS = frozenset({"float", "double", "real"})
_LONG = frozenset({
    "tinytext", "text", "mediumtext", "longtext", "tinyblob", "blob", "mediumblob", "longblob",
})
_BYTES = frozenset({"binary", "varbinary", "bit"})
_CHUNK = 2000
_CLOCK_SLACK_S = 5  # services stamp rows by their own clocks


@dataclass(frozen=True)
class Table:
    """A table as information_schema has it: ``columns`` are (name, data type) in order."""

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]


def snapshot(nova: NovaPort, path: Path) -> int:
    """Write a snapshot of the API database and all cells' databases; gives the number of rows.

    The file must not exist yet; it holds hashes and keys, no values.
    """
    count = 0
    with closing(sqlite3.connect(path)) as store:
        path.chmod(0o600)
        store.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value REAL)")
        store.execute(
            "CREATE TABLE rows (db TEXT, tbl TEXT, key TEXT, hash TEXT, core TEXT, stamp INTEGER,"
            " owner TEXT, PRIMARY KEY (db, tbl, key)) WITHOUT ROWID")
        store.execute("INSERT INTO meta VALUES ('started', ?)", (nova.now(),))
        for label, cell in {"api": "", **cells_of(nova)}.items():
            for table in tables(nova, cell):
                for chunk in _walk(nova, cell, table):
                    store.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", [
                        (label, table.name, key_text(table, row), row["h"], row["c"], row["s"],
                         row["o"]) for row in chunk])
                    count += len(chunk)
        store.execute("INSERT INTO meta VALUES ('ended', ?)", (nova.now(),))
        store.commit()
    return count


def tables(nova: NovaPort, cell: str) -> tuple[Table, ...]:
    """Nova's tables in a database, by name. A table without a primary key is keyed by all."""
    columns: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in nova.query(cell, (
            "SELECT c.table_name AS t, c.column_name AS c, c.data_type AS d "
            "FROM information_schema.columns c JOIN information_schema.tables t "
            "ON t.table_schema = c.table_schema AND t.table_name = c.table_name "
            "WHERE c.table_schema = DATABASE() AND t.table_type = 'BASE TABLE' "
            "ORDER BY c.table_name, c.ordinal_position")):
        columns[str(row["t"])].append((str(row["c"]), str(row["d"]).lower()))
    keys: dict[str, list[str]] = defaultdict(list)
    for row in nova.query(cell, (
            "SELECT table_name AS t, column_name AS c FROM information_schema.statistics "
            "WHERE table_schema = DATABASE() AND index_name = 'PRIMARY' "
            "ORDER BY table_name, seq_in_index")):
        keys[str(row["t"])].append(str(row["c"]))
    return tuple(
        Table(name, tuple(cols), tuple(keys.get(name) or [c for c, _ in cols]))
        for name, cols in sorted(columns.items())
        if not name.startswith(BOOKKEEPING))


def select(table: Table) -> str:
    """The statement's beginning: the key's columns as k0, k1...; h: hash; c: hash without states,
    empty where there are none; s: stamp; o: owner."""
    names = {name for name, _ in table.columns}
    hashed = _hash(table, STEADY.get(table.name, frozenset()))
    core = _hash(table, STATES[table.name]) if table.name in STATES else "''"
    stamps = [f"COALESCE(TIMESTAMPDIFF(SECOND, '1970-01-01', `{name}`), 0)"
              for name in ("updated_at", "deleted_at") if name in names]
    stamp = "0" if not stamps else stamps[0] if len(stamps) == 1 \
        else f"GREATEST({', '.join(stamps)})"
    owner = _OWNERS.get(table.name) or ("`instance_uuid`" if "instance_uuid" in names else "NULL")
    keys = ", ".join(f"`{name}` AS k{i}" for i, name in enumerate(table.key))
    return f"SELECT {keys}, {hashed} AS h, {core} AS c, {stamp} AS s, {owner} AS o " \
        f"FROM `{table.name}`"  # noqa: S608 (names come from information_schema)


def _hash(table: Table, left_out: Set[str]) -> str:
    values = (_hashable(name, kind) for name, kind in table.columns if name not in left_out)
    return f"SHA2(CONCAT_WS(',', {', '.join(values)}), 256)"


def _hashable(name: str, kind: str) -> str:
    """QUOTE tells NULL from 'NULL' and ends a value clearly; a FLOAT as text would be rounded. In
    words of every MySQL: 5.7 casts nothing to DOUBLE, 9 has no MD5.

    One character set for all: columns have several, which CONCAT_WS would refuse to mix.
    """
    if kind in _FLOATS:
        text = f"QUOTE(`{name}` * 1e0)"
    elif kind in _LONG:
        text = f"IFNULL(SHA2(`{name}`, 256), 'NULL')"
    elif kind in _BYTES:
        text = f"IFNULL(HEX(`{name}`), 'NULL')"
    else:
        text = f"QUOTE(`{name}`)"
    return f"CONVERT({text} USING utf8mb4)"


def _walk(nova: NovaPort, cell: str, table: Table) -> Iterator[tuple[dict[str, Any], ...]]:
    head = select(table)
    order = ", ".join(f"`{name}`" for name in table.key)
    after: list[Any] = []
    while True:
        where, args = _beyond(table.key, after)
        chunk = nova.query(cell, f"{head}{where} ORDER BY {order} LIMIT {_CHUNK}", args)
        if chunk:
            yield chunk
        if len(chunk) < _CHUNK:
            return
        after = [chunk[-1][f"k{i}"] for i in range(len(table.key))]


def _beyond(key: Sequence[str], after: Sequence[Any]) -> tuple[str, list[Any]]:
    """``(a > x) OR (a = x AND b > y)``: an index serves this form, unlike a row comparison."""
    if not after:
        return "", []
    parts: list[str] = []
    args: list[Any] = []
    for i, name in enumerate(key):
        same = [f"`{k}` = %s" for k in key[:i]]
        parts.append("(" + " AND ".join([*same, f"`{name}` > %s"]) + ")")
        args += [*after[:i], after[i]]
    return " WHERE " + " OR ".join(parts), args


def key_text(table: Table, row: Mapping[str, Any]) -> str:
    """``id=5`` or ``resource_id=...,tag=...``: as a plan names a row."""
    return ",".join(f"{name}={row[f'k{i}']}" for i, name in enumerate(table.key))


# -- comparing ---------------------------------------------------------------------------------

def compare(
    before: Path, after: Path, *, touched: Iterable[str] = (),
    expected: Iterable[ExpectedChange] = (), nova: NovaPort | None = None,
) -> RowFigures:
    """What differs between two snapshots, and what of it is explained.

    :param touched: instances that users' requests of the window changed.
    :param expected: rows that the plan changes. A key that isn't the table's primary key is looked
        up in the databases as they are now, which needs ``nova``.
    """
    owners = set(touched)
    named = _Expected(expected, nova)
    explained: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    differences: list[dict[str, str]] = []
    with closing(sqlite3.connect(f"file:{before}?mode=ro", uri=True)) as store:
        store.execute("ATTACH DATABASE ? AS later", (f"file:{after}?mode=ro",))
        start = floor(_meta(store, "main", "started"))
        end = _meta(store, "later", "ended") + _CLOCK_SLACK_S
        compared = store.execute("SELECT COUNT(*) FROM main.rows").fetchone()[0]
        found = store.execute(
                "SELECT b.db, b.tbl, b.key, b.hash, b.core, b.stamp, b.owner, a.core IS b.core, "
                "a.hash, a.stamp, a.owner "
                "FROM main.rows b LEFT JOIN later.rows a "
                "ON a.db = b.db AND a.tbl = b.tbl AND a.key = b.key "
                "WHERE a.hash IS NULL OR a.hash IS NOT b.hash ORDER BY b.db, b.tbl, b.key")
        for db, tbl, key, old_hash, core, stamp, owner, same, new_hash, new_stamp, new_owner in found:
            if new_hash is None and named.was_copy(store, db, tbl, key, owner):
                explained["plan"] += 1
                continue
            there = named.moved_to(store, db, tbl, key) if new_hash is None else None
            if there is not None:
                new_db, new_hash, new_stamp, new_owner, new_core = there
                moved[f"{new_db}.{tbl}"] += 1
                if new_hash == old_hash:
                    explained["moved"] += 1
                    continue
                same = new_core == core
            gone = new_hash is None
            if named.has(db, tbl, key) or (gone and named.takes(db, tbl)):
                explained["plan"] += 1
            elif tbl not in STEADY and {owner, new_owner} & owners:
                explained["users"] += 1
            elif tbl in HARD_DELETED if gone else (
                    tbl not in STEADY and same and _stamped(stamp, new_stamp, start, end)):
                explained["nova"] += 1
            else:
                differences.append({"database": db, "table": tbl, "key": key,
                                    "how": "gone" if gone else "changed"})
        appeared = dict(store.execute(
            "SELECT a.db || '.' || a.tbl, COUNT(*) FROM later.rows a LEFT JOIN main.rows b "
            "ON a.db = b.db AND a.tbl = b.tbl AND a.key = b.key "
            "WHERE b.hash IS NULL GROUP BY 1 ORDER BY 1"))
    appeared = {name: n - moved[name] for name, n in appeared.items() if n > moved[name]}
    return RowFigures(
        compared=compared, differing=len(differences), differences=tuple(differences[:100]),
        explained=dict(sorted(explained.items())), appeared=appeared)


def _stamped(old: int, new: int, start: int, end: float) -> bool:
    """Nova's ORM wrote the row in the window: its stamp moved there.

    Stamps are whole seconds, so a row that was written in the very second in which it was read may
    be written again without its stamp moving; only such a one is trusted without a move.
    """
    return start - _CLOCK_SLACK_S <= new <= end and (new > old or old >= start)


def _meta(store: sqlite3.Connection, schema: str, name: str) -> float:
    row = store.execute(f"SELECT value FROM {schema}.meta WHERE name = ?",  # noqa: S608
                        (name,)).fetchone()
    if row is None:
        raise BadInput("a snapshot of the rows was not finished", "Take it again")
    return float(row[0])


class _Expected:
    """The rows that a plan names, as (database, table, key) of their primary keys."""

    def __init__(self, changes: Iterable[ExpectedChange], nova: NovaPort | None) -> None:
        self._keys: set[tuple[str, str, str]] = set()
        self._whole: set[tuple[str, str]] = set()
        self._gone: Counter[tuple[str, str]] = Counter()
        self._moving: dict[str, list[str]] = defaultdict(list)
        schemas: dict[str, dict[str, Table]] = {}
        cells = {"api": "", **cells_of(nova)} if nova else {}
        for change in changes:
            if change.key == MOVES:
                self._moving[change.table].append(change.database)
                continue
            if change.key == "*":
                self._whole.add((change.database, change.table))
                continue
            self._keys.add((change.database, change.table, change.key))
            if nova is None or change.database not in cells:
                continue
            cell = cells[change.database]
            if change.database not in schemas:
                schemas[change.database] = {t.name: t for t in tables(nova, cell)}
            table = schemas[change.database].get(change.table)
            column, _, value = change.key.partition("=")
            if table and table.key != (column,) and column in {c for c, _ in table.columns}:
                keys = ", ".join(f"`{name}` AS k{i}" for i, name in enumerate(table.key))
                rows = nova.query(
                    cell, f"SELECT {keys} FROM `{table.name}` "  # noqa: S608
                    f"WHERE `{column}` = %s", (value,))
                self._keys |= {(change.database, table.name, key_text(table, r)) for r in rows}
                if not rows:
                    self._gone[(change.database, table.name)] += 1

    def moved_to(
        self, store: sqlite3.Connection, database: str, table: str, key: str
    ) -> tuple[str, str, int, str | None, str] | None:
        """(database, hash, stamp, owner, core) of a row that is gone, where it is now."""
        for other in self._others(database, table):
            row: tuple[str, str, int, str | None, str] | None = store.execute(
                "SELECT db, hash, stamp, owner, core FROM later.rows WHERE db = ? AND tbl = ? AND key = ?",
                (other, table, key)).fetchone()
            if row is not None:
                return row
        return None

    def was_copy(
        self, store: sqlite3.Connection, database: str, table: str, key: str, owner: str | None
    ) -> bool:
        """Whether a row that is gone was in another cell as well, and is there still."""
        sql = (
            "SELECT 1 FROM main.rows b JOIN later.rows a ON a.db = b.db AND a.tbl = b.tbl AND a.key = b.key"
            " WHERE b.db = ? AND b.tbl = ? AND b.key = ? AND b.owner IS ?"
        )
        others = self._others(database, table)
        return any(store.execute(sql, (other, table, key, owner)).fetchone() for other in others)

    def _others(self, database: str, table: str) -> list[str]:
        """Databases between which and this one rows of a table move."""
        among = self._moving.get(table, [])
        return [other for other in among if other != database] if database in among else []

    def takes(self, database: str, table: str) -> bool:
        """Whether one row more of this table may be gone: the plan names one in other words than its primary
        key's, and there is none now by which to know that."""
        if not self._gone[(database, table)]:
            return False
        self._gone[(database, table)] -= 1
        return True

    def has(self, database: str, table: str, key: str) -> bool:
        return (database, table) in self._whole or (database, table, key) in self._keys
