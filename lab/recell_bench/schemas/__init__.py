"""Schemas of real Nova databases: names, types and keys, read by recell itself, no rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recell.model.scope import Column, ForeignKey, Schema, Table

JUNO, STEIN, TODAY = "2014.2.4", "19.3.2", "33.0.2"


def load(release: str, database: str = "nova") -> Schema:
    content = _content(release)
    return Schema(database, tuple(
        Table(
            name,
            tuple(Column(n, full.partition("(")[0], full, bool(null), charset, bool(auto))
                  for n, full, charset, null, auto in table["columns"]),
            tuple(table["key"]),
            tuple((n, tuple(c)) for n, c in table.get("unique", {}).items()),
            tuple(ForeignKey(n, tuple(c), p, tuple(pc), d, u)
                  for n, c, p, pc, d, u in table.get("foreign", ())),
        )
        for name, table in content["tables"].items()
    ))


def indexes(release: str) -> dict[str, dict[str, list[str]]]:
    """Keys that aren't unique, by table and name: columns, with a length where it is a part."""
    return {name: table.get("index", {}) for name, table in _content(release)["tables"].items()}


def _content(release: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(__file__).parent / f"nova-{release}.json").read_text())
    return content


def ddl(schema: Schema, more: Mapping[str, Mapping[str, Sequence[str]]] | None = None) -> list[str]:
    """CREATE TABLE statements; run them with foreign_key_checks=0. ``more``: :func:`indexes`."""
    statements = []
    for table in schema.tables:
        parts = []
        for c in table.columns:
            charset = f" CHARACTER SET {c.charset}" if c.charset else ""
            parts.append(f"`{c.name}` {c.full_type}{charset}{' NULL' if c.nullable else ' NOT NULL'}"
                         f"{' AUTO_INCREMENT' if c.auto_increment else ''}")
        if table.key:
            parts.append(f"PRIMARY KEY ({_list(table.key)})")
        parts += [f"UNIQUE KEY `{n}` ({_list(c)})" for n, c in table.unique]
        for index, columns in (more or {}).get(table.name, {}).items():
            listed = ", ".join(f"`{c.partition('(')[0]}`{c[len(c.partition('(')[0]):]}" for c in columns)
            parts.append(f"KEY `{index}` ({listed})")
        parts += [
            f"CONSTRAINT `{k.name}` FOREIGN KEY ({_list(k.columns)}) REFERENCES `{k.parent}`"
            f" ({_list(k.parent_columns)}) ON DELETE {k.on_delete} ON UPDATE {k.on_update}"
            for k in table.foreign_keys
        ]
        statements.append(f"CREATE TABLE `{table.name}` ({', '.join(parts)}) ENGINE=InnoDB")
    return statements


def _list(columns: tuple[str, ...]) -> str:
    return ", ".join(f"`{c}`" for c in columns)
