"""A small Nova: tables whose rows move in every way there is, with every type that there is."""

from __future__ import annotations

from typing import Any

from recell.model.scope import (
    ByHost,
    ByParent,
    Column,
    Left,
    Rule,
    Schema,
    Scope,
    Shared,
    Table,
    TableScope,
    Whole,
)
from tests.private_server import Server

DDL = """
CREATE TABLE services (id INT AUTO_INCREMENT PRIMARY KEY, host VARCHAR(255), `binary` VARCHAR(255),
 report_count INT, last_seen_up DATETIME, deleted INT, UNIQUE (host, `binary`, deleted));
CREATE TABLE compute_nodes (id INT AUTO_INCREMENT PRIMARY KEY, host VARCHAR(255), stats TEXT,
 cpu_allocation_ratio FLOAT, ram_allocation_ratio FLOAT, deleted INT);
CREATE TABLE instances (created_at DATETIME, id INT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(36) NOT NULL,
 host VARCHAR(255), display_name VARCHAR(255) CHARACTER SET utf8mb4, user_data MEDIUMTEXT, progress INT,
 locked_by ENUM('owner', 'admin'), deleted INT, UNIQUE (uuid), KEY (host));
CREATE TABLE instance_extra (id INT AUTO_INCREMENT PRIMARY KEY, instance_uuid VARCHAR(36) NOT NULL,
 flavor MEDIUMTEXT, KEY (instance_uuid),
 FOREIGN KEY (instance_uuid) REFERENCES instances (uuid));
CREATE TABLE instance_actions (id INT AUTO_INCREMENT PRIMARY KEY, instance_uuid VARCHAR(36),
 action VARCHAR(255), KEY (instance_uuid));
CREATE TABLE instance_actions_events (id INT AUTO_INCREMENT PRIMARY KEY, event VARCHAR(255), action_id INT,
 finish_time DATETIME, KEY (action_id));
CREATE TABLE pci_devices (id INT AUTO_INCREMENT PRIMARY KEY, compute_node_id INT NOT NULL,
 address VARCHAR(12), UNIQUE (compute_node_id, address));
CREATE TABLE tags (resource_id VARCHAR(36) NOT NULL, tag VARCHAR(80) NOT NULL,
 PRIMARY KEY (resource_id, tag)) DEFAULT CHARSET=utf8mb4;
CREATE TABLE s3_images (id INT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(36));
CREATE TABLE shadow_instances (id INT PRIMARY KEY, uuid VARCHAR(36));
CREATE TABLE every_type (id BIGINT PRIMARY KEY, t TINYINT, su SMALLINT UNSIGNED, m MEDIUMINT, bu BIGINT UNSIGNED,
 f FLOAT, d DOUBLE, n DECIMAL(20, 5), b BIT(12), y YEAR, da DATE, ti TIME(3), dt DATETIME, dt6 DATETIME(6),
 ts TIMESTAMP NULL, c CHAR(5), c2 CHAR(100) CHARACTER SET utf8mb4, v VARCHAR(20), v3 VARCHAR(300),
 l1 VARCHAR(50) CHARACTER SET latin1, tt TINYTEXT, te TEXT, mt MEDIUMTEXT CHARACTER SET utf8mb4, bi BINARY(4),
 vb VARBINARY(300), tb TINYBLOB, bl BLOB, lb LONGBLOB, e ENUM('a', 'größe'), s SET('x', 'y', 'z'),
 g INT AS (t + 1) STORED);
"""

WHOLE: dict[str, Rule] = {"shadow_instances": Left("the archive")}
BY_HOST: dict[str, Rule] = {
    "services": ByHost("host", (("binary", "nova-compute"),)),
    "compute_nodes": ByHost(),
    "instances": ByHost(),
    "instance_extra": ByParent("instance_uuid", "instances", "uuid"),
    "instance_actions": ByParent("instance_uuid", "instances", "uuid"),
    "instance_actions_events": ByParent("action_id", "instance_actions", "id"),
    "pci_devices": ByParent("compute_node_id", "compute_nodes", "id"),
    "tags": ByParent("resource_id", "instances", "uuid"),
    "s3_images": Shared(),
    "shadow_instances": Left("the archive"),
    "every_type": Left("not of a host"),
}


def create(server: Server, database: str = "nova") -> None:
    server.sql(f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}", database="")
    server.sql(*[s for s in DDL.split(";") if s.strip()], database=database)


GAP = 1_000_000


def gap(server: Server) -> None:
    """As for a new cell: it numbers its rows far from where the other one does."""
    server.sql(*(f"ALTER TABLE {line.split()[2]} AUTO_INCREMENT = {GAP}" for line in DDL.splitlines()
                 if line.startswith("CREATE TABLE") and "AUTO_INCREMENT" in line))


def read(server: Server, database: str = "nova") -> Schema:
    tables: dict[str, list[Column]] = {}
    for table, column, kind, full, nullable, charset, extra, collation in server.sql(
        "SELECT table_name, column_name, data_type, column_type, is_nullable, character_set_name, extra,"
        " collation_name"
        f" FROM information_schema.columns WHERE table_schema = '{database}'"
        " ORDER BY table_name, ordinal_position"
    ):
        tables.setdefault(table, []).append(Column(
            column, kind, full, nullable == "YES", charset or "", "auto_increment" in extra,
            "GENERATED" in extra, collation or ""))
    keys: dict[str, list[str]] = {}
    for table, column in server.sql(
        "SELECT table_name, column_name FROM information_schema.key_column_usage WHERE"
        f" constraint_name = 'PRIMARY' AND table_schema = '{database}' ORDER BY table_name, ordinal_position"
    ):
        keys.setdefault(table, []).append(column)
    order = [line.split()[2] for line in DDL.splitlines() if line.startswith("CREATE TABLE")]
    return Schema(database, tuple(
        Table(t, tuple(tables[t]), tuple(keys.get(t, ()))) for t in order if t in tables))


def scope(schema: Schema, rules: dict[str, Rule], hosts: tuple[str, ...] = ()) -> Scope:
    return Scope(schema.database, tuple(
        TableScope(t, rules.get(t.name, Whole())) for t in schema.tables), frozenset(hosts))


def contents(server: Server, table: Table) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Rows by key, exactly, by another way than the mover's: each column in hexadecimal."""
    shown = []
    for column in table.columns:
        name = f"`{column.name}`"
        shown.append(f"{name} + 0e0" if column.type in ("float", "double")
                     else f"HEX(CAST({name} AS BINARY))" if column.charset else
                     f"{name} + 0" if column.type == "bit" else
                     f"CAST({name} AS CHAR)" if column.type in ("date", "datetime", "timestamp", "time")
                     else name)
    connection = server.connect(init_command="SET time_zone = '+00:00'")
    keys = [next(i for i, c in enumerate(table.columns) if c.name == k) for k in table.key]
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(shown)} FROM `{table.name}`")
        return {tuple(row[k] for k in keys): tuple(row) for row in cursor.fetchall()}


def expected(server: Server, scope: Scope) -> dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]:
    """By table: the rows in the scope, worked out anew from all that there is."""
    everything = {t.table.name: contents(server, t.table) for t in scope.tables}
    found: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {}

    def at(table: str, column: str) -> int:
        chosen = next(t.table for t in scope.tables if t.table.name == table)
        return next(i for i, c in enumerate(chosen.columns) if c.name == column)

    def hexed(text: str) -> str:
        return text.encode().hex().upper()

    for scoped in scope.moving:
        name, rule = scoped.table.name, scoped.rule
        rows = everything[name]
        if isinstance(rule, ByHost):
            hosts = {hexed(h) for h in scope.hosts}
            rows = {k: r for k, r in rows.items() if r[at(name, rule.column)] in hosts
                    and all(r[at(name, c)] == hexed(v) for c, v in rule.also)}
        elif isinstance(rule, ByParent):
            values = {r[at(rule.parent, rule.parent_column)] for r in found[rule.parent].values()}
            rows = {k: r for k, r in rows.items() if r[at(name, rule.column)] in values}
        found[name] = rows
    return found


def differing(source: Server, target: Server, scope: Scope) -> list[str]:
    """What is not the same on both sides, by an independent full comparison."""
    here, there = expected(source, scope), expected(target, scope)
    return [f"{table} {key}: {here[table].get(key)} / {there[table].get(key)}"
            for table in here for key in sorted(here[table].keys() | there[table].keys(), key=repr)
            if here[table].get(key) != there[table].get(key)]
