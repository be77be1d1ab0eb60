"""Nova's tables and whose rows they hold: from the schema that is there to what moves.

Three questions, one answer each: a whole cell's database (:func:`cell_scope`), the rows of some
compute hosts (:func:`hosts_scope`), what a cells v1 API cell reads (:func:`api_cell_scope`). What
isn't understood is refused, never forgotten.
"""

from recell.planning.tables.decisions import Decision
from recell.planning.tables.known import SEEDED_BY_SYNC, VERSION_TABLES
from recell.planning.tables.scopes import (
    HOSTS_OWN,
    api_cell_scope,
    cell_scope,
    guests_scope,
    hosts_scope,
    stranded_children,
    with_hosts,
)

__all__ = [
    "HOSTS_OWN",
    "SEEDED_BY_SYNC",
    "VERSION_TABLES",
    "Decision",
    "api_cell_scope",
    "cell_scope",
    "guests_scope",
    "hosts_scope",
    "stranded_children",
    "with_hosts",
]
