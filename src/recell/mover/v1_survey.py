"""Every reason not to give a standard Nova an API cell, asked of both servers as their root. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

from recell.adapters.mysql.session import Session as Connection
from recell.errors import RecellError
from recell.model.scope import Schema
from recell.model.v1 import Conversion
from recell.model.violation import Violation
from recell.mover import preflight, rights, servers
from recell.mover.identity import identity
from recell.mover.journal import PREFIX
from recell.mover.server import read_server
from recell.mover.survey import ROWS_PER_S
from recell.planning.tables import api_cell_scope

__all__ = ["troubles"]

_MADE_LATER = ("mover:schema-version:", "mover:charset:")
"""Of a database that isn't there yet."""


def troubles(
    old: Connection, new: Connection, conversion: Conversion, schema: Schema, nova: str
) -> Iterator[Violation]:
    """:param old: with the child's database open. schema: of that. nova: Nova's account there."""
    where = conversion.old.where
    try:
        scope = api_cell_scope(schema)
    except RecellError as error:
        yield Violation(f"v1:schema:{where}", "stop", where, error.sentence, error.remedy)
        return
    if not conversion.api_database:  # else the tree stands already, and undo copies to it
        yield from _in_the_way(old, new, conversion)
    if servers.rights_of(old, nova, conversion.old.database) is None:
        yield Violation(
            f"v1:rights:{where}", "stop", where,
            f"Nova's account {nova} has its rights on {conversion.old.database} by a pattern, or on all"
            " databases",
            "Give it rights on this database by itself",
        )  # fmt: skip
    lacking = [*rights.roots(old, conversion.old.database, where),
               *rights.roots(new, conversion.new.database, conversion.new.where)]
    yield from lacking
    if lacking:
        return
    source, target = read_server(old, schema), read_server(new, Schema(conversion.new.database, ()))
    if source.galera or target.galera:
        yield Violation(
            f"v1:galera:{where}", "stop", where if source.galera else conversion.new.where,
            "it is a node of a Galera cluster, whose other nodes write too",
            "recell follows the changes of single servers; replicas may follow",
        )  # fmt: skip
        return
    yield from preflight.mariadb_alone((source, target), "no conversion of cells v1 has been run")
    estimate = sum(t.rows for t in schema.tables) / ROWS_PER_S * 3
    same = identity(old) == identity(new)
    for found in preflight.find(source, target, scope, estimate):
        if found.id.startswith(_MADE_LATER) or (same and found.id.startswith("mover:same")):
            continue
        yield found


def _in_the_way(old: Connection, new: Connection, conversion: Conversion) -> Iterator[Violation]:
    where = conversion.old.where
    tables = [t for t in servers.table_names(new, conversion.new.database) if not t.startswith(PREFIX)]
    if tables:
        yield Violation(
            f"v1:in-the-way:{conversion.new.database}", "stop", conversion.new.where,
            f"there is a database {conversion.new.database} with {len(tables)} tables already",
            "Drop it if nobody uses it, or name another one in the layout",
        )  # fmt: skip
    known = [str(n) for (n,) in old.query("SELECT name FROM cells WHERE deleted = 0 ORDER BY name")]
    if known:
        yield Violation(
            f"v1:records:{where}", "stop", where, f"its table cells names {', '.join(known)} already",
            "Remove what nobody uses: nova-manage cell delete --name NAME",
        )  # fmt: skip
