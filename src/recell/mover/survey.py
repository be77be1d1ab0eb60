"""Every reason not to move a cell's database, asked of both servers as their root. Reads only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.sql import name as quoted
from recell.adapters.schema import read_schema
from recell.errors import RecellError, StepFailed
from recell.model.moving import Ends
from recell.model.scope import Schema, Scope
from recell.model.violation import Violation
from recell.mover import preflight, rights, servers
from recell.mover.journal import PREFIX
from recell.mover.server import read_server
from recell.mover.shut import survey
from recell.planning.tables import cell_scope

ROWS_PER_S = 10_000.0
"""A copy on slow machines; for the estimate of how long binlogs are needed."""
_LAYOUT_REMEDY = "Mend it, then scan and plan again"


def troubles(
    old: Connection, new: Connection, ends: Ends, nova: str, open_s: float, free: int | None
) -> tuple[Violation, ...]:
    """:param old: with the database open. open_s: how long the way back shall stay open, seconds.
    free: bytes on the disk of the new server's data, None when nobody knows."""
    return tuple(_troubles(old, new, ends, nova, open_s, free))


def _troubles(
    old: Connection, new: Connection, ends: Ends, nova: str, open_s: float, free: int | None
) -> Iterator[Violation]:
    database = ends.database
    (name,), = old.query("SELECT DATABASE()")
    if name != database:
        # Its binary log has the other spelling.
        yield _stop("name", ends.old.where, f"Nova's URL names {database}, and the server calls it {name}",
                    f"Write {name} into Nova's configuration and the cell's mapping, then scan again")
        return
    try:
        schema = _own_tables(read_schema(old.connection, database))
        scope = cell_scope(schema)
    except RecellError as error:
        yield _stop("schema", ends.old.where, error.sentence, error.remedy)
        return
    tables = [t for t in servers.table_names(new, database) if not t.startswith(PREFIX)]
    if tables:
        yield _stop("in-the-way", ends.new.where,
                    f"there is a database {database} with {len(tables)} tables already"
                    f" ({', '.join(tables[:3])}, ...)",
                    "Drop it if nobody uses it, or name another server in the layout")
    lacking = [*rights.roots(old, database, ends.old.where), *rights.roots(new, database, ends.new.where)]
    yield from lacking
    if lacking:
        return  # more of what is asked below would be refused
    yield from _servers(old, new, ends, schema, scope, open_s, free)
    yield from _accounts(old, ends, nova)
    yield from rights.novas(old, new, nova, ends)


def _servers(
    old: Connection, new: Connection, ends: Ends, schema: Schema, scope: Scope, open_s: float,
    free: int | None,
) -> Iterator[Violation]:
    source = read_server(old, schema)
    target = read_server(new, Schema(ends.database, ()))
    target = replace(target, free=target.free if free is None else free)
    if source.galera or target.galera:
        where = ends.old.where if source.galera else ends.new.where
        yield _stop("galera", where,
                    "it is a node of a Galera cluster, whose other nodes would go on writing",
                    "Write database: keep; recell moves databases between single servers, replicas may"
                    " follow")
        return
    for collation in unknown_collations(old, new, ends.database):
        yield _stop(f"collation-{collation}", ends.new.where,
                    f"it doesn't know the collation {collation}, which {ends.database} has",
                    "Name a server of the old one's release, or convert these columns")
    estimate = sum(t.rows for t in schema.tables) / ROWS_PER_S * 3
    for found in preflight.find(source, target, scope, estimate, open_s):
        # An empty database is made there: it has neither a character set nor a schema yet.
        if found.id.startswith(("mover:schema-version:", "mover:charset:")):
            continue
        yield found


def unknown_collations(old: Connection, new: Connection, database: str) -> list[str]:
    """Collations of the database, its tables and columns that ``new`` has not."""
    used = old.query(
        "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s"
        " UNION SELECT TABLE_COLLATION FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = %s AND TABLE_COLLATION IS NOT NULL"
        " UNION SELECT COLLATION_NAME FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = %s AND COLLATION_NAME IS NOT NULL", (database,) * 3)
    unknown = []
    for collation in sorted(str(row[0]) for row in used):
        charset = collation.partition("_")[0]
        try:
            # Lists of collations have other names in every other release.
            new.query(f"SELECT CONVERT('' USING {quoted(charset)}) COLLATE {quoted(collation)}")
        except StepFailed:
            unknown.append(collation)
    return unknown


def _accounts(old: Connection, ends: Ends, nova: str) -> Iterator[Violation]:
    try:
        grants = survey(old, ends.database)
    except RecellError as error:
        yield _stop("shut", ends.old.where, error.sentence, error.remedy)
        return
    if servers.rights_of(old, nova, ends.database) is None:
        yield _stop("rights", ends.old.where,
                    f"Nova's account {nova} has its rights on {ends.database} by a pattern or on all"
                    " databases",
                    "Give it rights on this database by itself")
    if old.query("SELECT 1 FROM mysql.user WHERE User = %s AND ssl_type <> ''", (nova,)):
        yield _stop("tls-account", ends.old.where,
                    f"Nova's account {nova} must use TLS (REQUIRE SSL), which a relay can't carry",
                    "ALTER USER ... REQUIRE NONE for the time of the move; or write database: keep")
    others = sorted({g.grantee for g in grants.grants if g.grantee.rpartition("@")[0].strip("'") != nova})
    if others:
        yield Violation(
            f"mover:others:{ends.old.where}", "warning", ends.old.where,
            f"{', '.join(others)} may write to {ends.database} too, and will be refused from the switch on",
            f"Give these programs accounts on {ends.new.where}",
        )


def _own_tables(schema: Schema) -> Schema:
    return Schema(schema.database, tuple(t for t in schema.tables if not t.name.startswith(PREFIX)))


def _stop(what: str, where: str, sentence: str, remedy: str) -> Violation:
    return Violation(f"mover:{what}:{where}", "stop", where, sentence, remedy or _LAYOUT_REMEDY)
