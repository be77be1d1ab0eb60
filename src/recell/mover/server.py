"""What SQL can tell of a database server, in one look. Reads only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recell.adapters.mysql.binlog import leaves_out
from recell.adapters.mysql.session import Session, release
from recell.adapters.mysql.sql import name
from recell.errors import Denied, RecellError, StepFailed
from recell.model.scope import Schema
from recell.mover.watch import replica_statement
from recell.planning.tables import VERSION_TABLES

__all__ = ["Server", "read_server"]

_VARIABLES = frozenset((
    "log_bin", "binlog_format", "binlog_row_image", "binlog_row_value_options",
    "binlog_transaction_compression", "expire_logs_days", "binlog_expire_logs_seconds",
    "max_binlog_total_size", "binlog_space_limit", "server_id", "log_slave_updates", "log_replica_updates",
    "sql_mode", "lower_case_table_names", "max_allowed_packet", "read_only", "super_read_only",
    "event_scheduler", "datadir", "tmpdir", "innodb_page_size", "wsrep_on", "wsrep_max_ws_rows",
    "wsrep_gtid_mode", "character_set_server", "have_ssl", "rpl_semi_sync_master_enabled",
    "require_secure_transport", "binlog_order_commits", "group_replication_group_name", "version_comment",
))
_STATUS = frozenset((
    "wsrep_cluster_size", "wsrep_local_state_comment", "wsrep_incoming_addresses", "wsrep_ready",
    "wsrep_cluster_state_uuid",
))


@dataclass(frozen=True)
class Server:
    """``variables``, ``status``: as the server says them, missing where it has none. ``clock_s``: its
    clock minus this machine's, known to ``clock_error_s``. ``bytes``: the database's data and indexes.
    ``free``: of the disk of its data directory, None where no SQL tells. ``filtered``: the binlog
    leaves this database out. ``old_rows``: what online data migrations have left, column to rows.
    ``replicates``: servers that it is a replica of.
    """

    where: str
    version: str
    database: str
    variables: dict[str, str]
    status: dict[str, str]
    clock_s: float
    clock_error_s: float
    charset: str
    bytes: int
    free: int | None
    binlog_bytes: int
    filtered: bool
    other_engines: tuple[str, ...]
    triggers: tuple[str, ...]
    events: tuple[str, ...]
    old_rows: tuple[tuple[str, int], ...]
    schema_version: tuple[str, ...]
    replicates: tuple[str, ...] = ()

    @property
    def mariadb(self) -> bool:
        return "mariadb" in self.version.lower()

    @property
    def numbers(self) -> tuple[int, ...]:
        return release(self.version)

    @property
    def galera(self) -> bool:
        return self.variables.get("wsrep_on", "OFF").upper() in ("ON", "1")

    @property
    def retention_s(self) -> float:
        """How long the binlog is kept; 0: until somebody purges it."""
        seconds = float(self.variables.get("binlog_expire_logs_seconds", 0) or 0)
        return seconds or float(self.variables.get("expire_logs_days", 0) or 0) * 86400


_LEFT_OVER = (
    ("compute_nodes", "host", "deleted = 0"),
    ("compute_nodes", "uuid", "deleted = 0"),
    ("services", "uuid", "deleted = 0"),
    ("block_device_mapping", "uuid", "deleted = 0"),
    ("migrations", "uuid", "deleted = 0"),
    ("virtual_interfaces", "uuid", "deleted = 0"),
    ("pci_devices", "uuid", "deleted = 0"),
    ("instances", "compute_id", "deleted = 0 AND host IS NOT NULL"),
)


def read_server(session: Session, schema: Schema) -> Server:
    """:raises Denied: the account may read neither the database nor where its binlog ends."""
    database = schema.database
    variables = _named(session, "SHOW GLOBAL VARIABLES", _VARIABLES)
    before = time.time()
    theirs = float(session.query("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0])
    after = time.time()
    size, engines = 0, []
    for table, engine, data, index in session.query(
            "SELECT TABLE_NAME, ENGINE, DATA_LENGTH, INDEX_LENGTH FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = %s AND TABLE_TYPE = 'BASE TABLE'", (database,)):
        size += int(data or 0) + int(index or 0)
        if str(engine).upper() != "INNODB":
            engines.append(f"{table} ({engine})")
    charset = session.query("SELECT DEFAULT_CHARACTER_SET_NAME FROM information_schema.SCHEMATA"
                            " WHERE SCHEMA_NAME = %s", (database,))
    logs = _or_nothing(session, "SHOW BINARY LOGS")
    server = Server(
        session.endpoint.where, session.version, database, variables,
        _named(session, "SHOW GLOBAL STATUS LIKE 'wsrep\\_%%'", _STATUS),
        theirs - (before + after) / 2, (after - before) / 2,
        str(charset[0][0]) if charset else "", size, _free(session, variables.get("datadir", "")),
        sum(int(row[1]) for row in logs), leaves_out(session, database),
        tuple(sorted(engines)),
        _list(session, "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS"
                       " WHERE EVENT_OBJECT_SCHEMA = %s ORDER BY 1", database),
        _list(session, "SELECT EVENT_NAME FROM information_schema.EVENTS"
                       " WHERE EVENT_SCHEMA = %s ORDER BY 1", database),
        _old_rows(session, schema), _versions(session, schema), _upstream(session),
    )
    session.rollback()
    return server


def _named(session: Session, sql: str, wanted: frozenset[str]) -> dict[str, str]:
    return {str(k).lower(): str(v) for k, v in session.query(sql) if str(k).lower() in wanted}


def _or_nothing(session: Session, sql: str, also: type[RecellError] = StepFailed
                ) -> Sequence[tuple[Any, ...]]:
    """Of a statement that not every server knows. ``also``: another refusal to live with."""
    try:
        return session.query(sql)
    except (StepFailed, also):
        return ()


def _upstream(session: Session) -> tuple[str, ...]:
    """Nothing for an account that may not ask."""
    try:
        rows = session.named(replica_statement(session.version))
    except (Denied, StepFailed):
        return ()
    hosts = {str(row.get("Master_Host", row.get("Source_Host", ""))) for row in rows}
    return tuple(sorted(hosts - {""}))


def _free(session: Session, datadir: str) -> int | None:
    """Bytes free under the data directory: only MariaDB's plugin DISKS tells, and few load it."""
    best: tuple[int, int] | None = None
    for row in _or_nothing(session, "SELECT `Path`, `Available` FROM information_schema.DISKS", Denied):
        path, kib = str(row[0]), int(row[1])
        inside = datadir.startswith(path.rstrip("/") + "/")
        if inside and (best is None or len(path) > best[0]):
            best = (len(path), kib * 1024)
    return best[1] if best else None


def _list(session: Session, sql: str, database: str) -> tuple[str, ...]:
    return tuple(str(row[0]) for row in session.query(sql, (database,)))


def _old_rows(session: Session, schema: Schema) -> tuple[tuple[str, int], ...]:
    found = []
    for table, column, also in _LEFT_OVER:
        if table in schema and any(c.name == column for c in schema.table(table).columns):
            sql = f"SELECT COUNT(*) FROM {name(table)} WHERE {name(column)} IS NULL AND {also}"
            number = int(session.query(sql)[0][0])
            if number:
                found.append((f"{table}.{column}", number))
    return tuple(found)


def _versions(session: Session, schema: Schema) -> tuple[str, ...]:
    """As Nova reads it: where alembic's is there, what migrate_version says is history, and until 2023.2
    only databases of before Xena have that table."""
    found: list[str] = []
    for table in sorted(VERSION_TABLES):
        if found:
            break
        if table in schema:
            column = "version_num" if table == "alembic_version" else "version"
            rows = session.query(f"SELECT {name(column)} FROM {name(table)} ORDER BY 1")
            found += [f"{table} {row[0]}" for row in rows]
    return tuple(found)
