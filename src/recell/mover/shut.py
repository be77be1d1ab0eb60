"""One database is shut to its accounts, also those that other databases share, and opened again.

Taking a right away doesn't stop a session that has the database open: pooled connections went on
writing. So every account that may write there loses its rights on this database, and then each
session that has it open is ended; its next one is refused. The same account's sessions of other
databases (nova_api, nova_cell0) don't notice.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import name
from recell.errors import BadInput, StepFailed, Unsupported, VerifyFailed

__all__ = ["Grant", "Grants", "keep_shut", "prove_shut", "reopen", "shut", "survey"]

_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "DELETE HISTORY"})
_SEPARATE = ("Make an account that has this database alone, roll Nova onto it, take the old one's rights on"
             " this database away")
_PRIVILEGE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ _")


@dataclass(frozen=True)
class Grant:
    """What one account may do in the database. ``grantee``: as information_schema quotes it."""

    grantee: str
    privileges: tuple[str, ...]
    may_grant: bool = False


@dataclass(frozen=True)
class Grants:
    """All that :func:`shut` takes away and :func:`reopen` gives back. ``pattern``: the database's name as
    the grants spell it (``nova\\_cell1`` or ``nova_cell1``). ``everywhere``: accounts that may write to
    all databases; they are left alone and must have no session in this one. ``ours``: users of recell's
    own accounts, which go on: the way back writes here."""

    database: str
    pattern: str
    grants: tuple[Grant, ...]
    everywhere: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"database": self.database, "pattern": self.pattern, "everywhere": list(self.everywhere),
                "ours": list(self.ours),
                "grants": [[g.grantee, list(g.privileges), g.may_grant] for g in self.grants]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Grants:
        return cls(str(content["database"]), str(content["pattern"]),
                   tuple(Grant(g, tuple(p), bool(m)) for g, p, m in content["grants"]),
                   tuple(content["everywhere"]), tuple(content["ours"]))


def survey(session: Session, database: str, ours: Collection[str] = ()) -> Grants:
    """Who may write to the database. To be kept durably before :func:`shut`. Needs SELECT on mysql.*.

    :param ours: users of recell's other accounts; the session's own is one anyway.
    :raises Unsupported: rights that can't be taken away for this database alone: a pattern that serves
        others too, single tables, recell's own account; or nobody else's.
    """
    own = {_account(session), *ours}
    found: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for grantee, pattern, privilege, grantable in session.query(
            "SELECT GRANTEE, TABLE_SCHEMA, PRIVILEGE_TYPE, IS_GRANTABLE"
            " FROM information_schema.SCHEMA_PRIVILEGES ORDER BY GRANTEE, PRIVILEGE_TYPE"):
        found.setdefault((str(grantee), str(pattern)), []).append((str(privilege), str(grantable) == "YES"))
    patterns, grants, problems = set(), [], []
    for (grantee, pattern), rights in found.items():
        if _user(grantee) in own or not {p for p, _ in rights} & _WRITES:
            continue
        if pattern.replace("\\_", "_").replace("\\%", "%") == database:
            patterns.add(pattern)
            privileges = tuple(p for p, _ in rights if p != "USAGE")
            grants.append(Grant(grantee, privileges, any(m for _, m in rights)))
        elif session.query("SELECT %s LIKE %s", (database, pattern))[0][0]:
            problems.append(f"{grantee} has rights on all databases like {pattern}")
    problems += [f"{grantee} has rights on the table {table} alone" for grantee, table in session.query(
        "SELECT DISTINCT GRANTEE, TABLE_NAME FROM information_schema.TABLE_PRIVILEGES WHERE TABLE_SCHEMA = %s"
        " AND PRIVILEGE_TYPE IN ('INSERT', 'UPDATE', 'DELETE')", (database,)) if _user(grantee) not in own]
    if len(patterns) > 1:
        problems.append(f"rights on it are spelled in two ways ({', '.join(sorted(patterns))})")
    everywhere = tuple(g for g in (str(row[0]) for row in session.query(
        "SELECT DISTINCT GRANTEE FROM information_schema.USER_PRIVILEGES"
        " WHERE PRIVILEGE_TYPE IN ('INSERT', 'UPDATE', 'DELETE') ORDER BY GRANTEE")) if _user(g) not in own)
    users = {_user(g) for g in everywhere}
    problems += [f"{user} may write to all databases and has this one open" for user in sorted({
        str(row[1]) for row in _sessions(session, database, own) if str(row[1]) in users})]
    session.rollback()
    if not grants and not problems:
        problems.append("no account but recell's has rights to write to it")
    if problems:
        raise Unsupported(f"{session.endpoint.where} can't be shut by itself: {'; '.join(problems)}",
                          _SEPARATE)
    return Grants(database, next(iter(patterns)), tuple(grants), everywhere, tuple(sorted(own)))


def shut(nodes: Sequence[Session], grants: Grants, lease_s: float = 0.0, limit_s: float = 10.0) -> float:
    """Take the rights away, end every session that has the database open. Seconds it took.

    Can be repeated. On a Galera cluster the rights go on all nodes at once, sessions on each.

    :param nodes: a session at every node, the first one that is read from first.
    :param lease_s: after which the server opens the database by itself (an EVENT; needs event_scheduler)
        unless :func:`keep_shut` came before. 0: it stays shut until :func:`reopen`.
    :raises Unsupported: a lease on a server that runs no events.
    :raises StepFailed: sessions come back again and again.
    """
    first = nodes[0]
    began = time.monotonic()
    if lease_s:
        if first.variable("event_scheduler").upper() != "ON":
            raise Unsupported(f"the event scheduler of {first.endpoint.where} is off, so a fence would"
                              " outlive"
                              " a dead recell", "SET GLOBAL event_scheduler = ON there until finish")
        body = "; ".join(_give(grant, grants) for grant in grants.grants)
        first.execute(f"DROP EVENT IF EXISTS {_event(grants)}")
        first.execute(f"CREATE EVENT {_event(grants)} ON SCHEDULE AT CURRENT_TIMESTAMP + INTERVAL"
                      f" {max(1, round(lease_s))} SECOND DO BEGIN {body}; END")
    held = _held(first, grants)
    for grant in grants.grants:
        if grant.grantee in held:
            rights = [*grant.privileges, *(["GRANT OPTION"] if grant.may_grant else [])]
            first.execute(f"REVOKE {_rights(rights)} ON {name(grants.pattern)}.* FROM {_grantee(grant)}")
    first.commit()
    for node in nodes:
        while True:
            sessions = _sessions(node, grants.database, grants.ours)
            if not sessions:
                break
            if time.monotonic() - began > limit_s:
                raise StepFailed(f"sessions of {node.endpoint.where} don't end: "
                                 + ", ".join(f"{row[1]} from {row[2]}" for row in sessions[:5]),
                                 "Look at what they are; to open the database again: recell undo")
            for row in sessions:
                # It may have ended by itself meanwhile.
                with suppress(StepFailed):
                    node.execute(f"KILL {'HARD ' if node.mariadb else ''}CONNECTION {int(row[0])}")
            node.rollback()
    return time.monotonic() - began


def keep_shut(session: Session, grants: Grants) -> None:
    """The lease becomes permanent: to be called right before the switch, then :func:`prove_shut`."""
    session.execute(f"DROP EVENT IF EXISTS {_event(grants)}")
    session.commit()


def prove_shut(nodes: Sequence[Session], grants: Grants) -> None:
    """That nobody but recell can write there: no rights, no session, on any node.

    :raises VerifyFailed: somebody can.
    """
    for node in nodes:
        held = _held(node, grants)
        if held:
            raise VerifyFailed(f"{node.endpoint.where} is open to {', '.join(sorted(held))}",
                               "It was opened by its lease or by hand: shut it, catch up, prove again")
        sessions = _sessions(node, grants.database, grants.ours)
        if sessions:
            raise VerifyFailed(f"{node.endpoint.where} has sessions: "
                               + ", ".join(f"{row[1]} from {row[2]}" for row in sessions[:5]),
                               "End them, catch up, prove again")


def reopen(session: Session, grants: Grants) -> None:
    """Give back exactly what was taken. Can be repeated."""
    for grant in grants.grants:
        session.execute(_give(grant, grants))
    session.execute(f"DROP EVENT IF EXISTS {_event(grants)}")
    session.commit()


def _held(session: Session, grants: Grants) -> set[str]:
    """Of the accounts in ``grants``: those that have rights to write there now."""
    rows = session.query("SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.SCHEMA_PRIVILEGES"
                         " WHERE TABLE_SCHEMA = %s", (grants.pattern,))
    session.rollback()
    known = {g.grantee for g in grants.grants}
    return {str(grantee) for grantee, privilege in rows if grantee in known and privilege in _WRITES}


def _account(session: Session) -> str:
    return str(session.query("SELECT CURRENT_USER()")[0][0]).rpartition("@")[0]


def _sessions(session: Session, database: str, ours: Collection[str]) -> list[tuple[Any, ...]]:
    """Of the database, but for recell's and the server's own threads."""
    rows = session.query("SELECT ID, USER, HOST FROM information_schema.PROCESSLIST WHERE DB = %s"
                         " AND USER NOT IN ('system user', 'event_scheduler') ORDER BY ID", (database,))
    session.rollback()
    return [row for row in rows if str(row[1]) not in ours]


def _give(grant: Grant, grants: Grants) -> str:
    option = " WITH GRANT OPTION" if grant.may_grant else ""
    return f"GRANT {_rights(grant.privileges)} ON {name(grants.pattern)}.* TO {_grantee(grant)}{option}"


def _rights(privileges: Sequence[str]) -> str:
    for privilege in privileges:
        if not set(privilege) <= _PRIVILEGE:
            raise BadInput(f"{privilege!r} is no privilege", "Look at the journal")
    return ", ".join(privileges)


def _grantee(grant: Grant) -> str:
    """``'nova'@'10.%'`` quoted anew; a role is a name alone."""
    user, host = _user(grant.grantee), grant.grantee.rpartition("@")[2].strip("'")
    quoted = "'" + user.replace("\\", "\\\\").replace("'", "''").replace("%", "%%") + "'"
    return quoted if not host else quoted + "@'" + host.replace("'", "''").replace("%", "%%") + "'"


def _user(grantee: str) -> str:
    return grantee.rpartition("@")[0].removeprefix("'").removesuffix("'")


def _event(grants: Grants) -> str:
    return f"{name(grants.database)}.{name('recell_mover_reopen')}"
