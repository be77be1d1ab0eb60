"""Which rights are missing for what recell will do as root, and for what Nova does today. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recell.adapters.mysql.grants import granted
from recell.adapters.mysql.session import Session
from recell.model.moving import Ends
from recell.model.violation import Violation
from recell.mover import servers

__all__ = ["lacking", "novas", "roots"]

_IN_DATABASES = frozenset({
    "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "REFERENCES", "INDEX", "ALTER",
    "CREATE TEMPORARY TABLES", "LOCK TABLES", "EXECUTE", "CREATE VIEW", "SHOW VIEW", "CREATE ROUTINE",
    "ALTER ROUTINE", "EVENT", "TRIGGER", "DELETE HISTORY", "SHOW CREATE ROUTINE",
})
"""What ALL is on a database, where a server knows it."""
_NOVAS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_UNSALTED = ("mysql_native_password", "ed25519")


def lacking(session: Session, database: str) -> tuple[str, ...]:
    """What this session's account can't do or hand on, of all that an account of recell's is made and used
    with for this database (docs/grants.md)."""
    known = _known(session)
    grants = granted(str(row[0]) for row in session.query("SHOW GRANTS"))
    session.rollback()

    def hands(right: str, where: str = "") -> bool:
        return any(g.handed and g.has(right) and (g.on(where) if where else not g.pattern) for g in grants)

    def may(right: str) -> bool:
        # Who may write there can make accounts without CREATE USER.
        return any(g.has(right) and g.on("mysql") for g in grants)

    missing = [r for r in sorted(_IN_DATABASES & known) if not hands(r, database)]
    missing += [r for r in servers.everywhere(session) if not hands(r)]
    if not hands("SELECT", "mysql"):
        missing.append("SELECT on mysql.*")
    if not may("CREATE USER") and not (may("INSERT") and may("DELETE")):
        missing.append("CREATE USER")
    return tuple(missing)


def _known(session: Session) -> set[str]:
    """The names of all rights that this server has."""
    return {str(row[0]).upper() for row in session.query("SHOW PRIVILEGES")}


def roots(session: Session, database: str, where: str) -> Iterator[Violation]:
    """Of the account that recell enters a server with, as its root. ``where``: the server, in words."""
    if missing := lacking(session, database):
        user = session.endpoint.user
        yield Violation(
            f"mover:root-rights:{where}", "stop", where,
            f"{user}, as whom recell enters this server, can't give what recell's own account needs for"
            f" {database}: {', '.join(missing)}",
            f"GRANT ALL PRIVILEGES ON *.* TO {user} WITH GRANT OPTION there, or name another account in"
            " /root/.my.cnf",
        )


def novas(old: Session, new: Session, user: str, ends: Ends) -> Iterator[Violation]:
    """What Nova would lack on the other server, or be refused with."""
    database, where = ends.database, ends.new.where
    grants = servers.rights_of(old, user, database)
    has = {p for g in grants.grants for p in g.privileges} if grants else set()
    if grants and (missing := [r for r in _NOVAS if r not in has]):
        yield _stop(
            "nova-rights", ends.old.where,
            f"Nova's account {user} has no {', '.join(missing)} on {database} by itself, and would lack that"
            f" on {where}",
            f"GRANT {', '.join(missing)} ON {database}.* to it on the old server; recell gives it the same on"
            " the new one")
    if unknown := sorted(has - _known(new)):
        yield _stop(
            "nova-unknown-rights", where,
            f"it doesn't know {', '.join(unknown)}, which Nova's account {user} has on {database}",
            "Take that from Nova's account on the old server, where Nova doesn't need it, or name a server of"
            " the old one's release")
    mine = _hashes(old, user)
    if any(plugin in dict(mine) and (plugin, secret) not in mine for plugin, secret in _hashes(new, user)):
        yield _stop(
            "nova-password", where,
            f"there is an account {user} already, with another password than Nova's",
            "Give it Nova's password if nobody else uses it, or name another server in the layout")


def _hashes(session: Session, user: str) -> Sequence[tuple[str, str]]:
    """How a user's accounts log in, where it can be compared: without a salt."""
    rows = session.query(
        "SELECT plugin, authentication_string FROM mysql.user WHERE User = %s AND plugin IN %s",
        (user, _UNSALTED))
    return [(str(plugin), str(secret)) for plugin, secret in rows]


def _stop(what: str, where: str, sentence: str, remedy: str) -> Violation:
    return Violation(f"mover:{what}:{where}", "stop", where, sentence, remedy)
