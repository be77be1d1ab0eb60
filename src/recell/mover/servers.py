"""A database server as its root sees it: accounts, rights, databases, empty tables."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from recell.adapters.mysql.session import Session as Connection
from recell.adapters.mysql.session import release
from recell.adapters.mysql.sql import name
from recell.errors import Denied, StepFailed
from recell.model.moving import Login, Session
from recell.mover.shut import Grant, Grants, reopen


def account_hosts(root: Connection, user: str) -> tuple[str, ...]:
    """The host patterns of a user's accounts."""
    rows = root.query("SELECT Host FROM mysql.user WHERE User = %s ORDER BY 1", (user,))
    return tuple(str(row[0]) for row in rows)


def has_account(root: Connection, user: str) -> bool:
    return bool(account_hosts(root, user))


def make_account(root: Connection, login: Login, hosts: Sequence[str], plugin: str = "") -> None:
    """Those that are missing. One that is there keeps its password. ``plugin``: MySQL's word for how it logs
    in; empty for the server's own choice."""
    how = f"IDENTIFIED WITH {name(plugin)} BY %s" if plugin else "IDENTIFIED BY %s"
    for host in hosts:
        root.execute(f"CREATE USER IF NOT EXISTS %s@%s {how}", (login.user, host, login.password))


def login_plugin(model: Connection, root: Connection, user: str) -> str:
    """How a user's accounts log in on MySQL's server ``model``, where the other one knows it too: what they
    come with may know no other way. Empty: as the other server likes it."""
    if model.mariadb or root.mariadb:
        return ""
    (plugin, *others) = {str(row[0]) for row in model.query(
        "SELECT plugin FROM mysql.user WHERE User = %s", (user,))} or {""}
    known = root.query("SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = %s"
                       " AND PLUGIN_STATUS = 'ACTIVE' AND PLUGIN_TYPE = 'AUTHENTICATION'", (plugin,))
    return plugin if known and not others else ""


def drop_account(root: Connection, user: str) -> None:
    for host in account_hosts(root, user):
        root.execute("DROP USER IF EXISTS %s@%s", (user, host))
    for number in root.query("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = %s", (user,)):
        # It may have ended by itself meanwhile, as recell's own were told to.
        with suppress(StepFailed):
            root.execute(f"KILL {int(number[0])}")


def take_rights(root: Connection, user: str, database: str) -> None:
    """A user's accounts lose their rights on one database; one that has no others is removed."""
    here = f" ON {name(_pattern(database))}.* "
    for host in account_hosts(root, user):
        grants = [str(row[0]) for row in root.query("SHOW GRANTS FOR %s@%s", (user, host))]
        if any(here not in g and not g.startswith("GRANT USAGE") for g in grants):
            if any(here in g for g in grants):
                root.execute(f"REVOKE ALL PRIVILEGES{here}FROM %s@%s", (user, host))
        else:
            root.execute("DROP USER IF EXISTS %s@%s", (user, host))


def grant_mover(root: Connection, user: str, hosts: Sequence[str], database: str) -> None:
    """All jobs' rights at once (docs/grants.md)."""
    rights = ", ".join(everywhere(root))
    pattern = name(_pattern(database))
    for host in hosts:
        root.execute(f"GRANT ALL ON {pattern}.* TO %s@%s WITH GRANT OPTION", (user, host))
        root.execute("GRANT SELECT ON mysql.* TO %s@%s", (user, host))
        root.execute(f"GRANT {rights} ON *.* TO %s@%s", (user, host))


def everywhere(root: Connection) -> tuple[str, ...]:
    """Rights that no database has: to see transactions and read the binlog, to end others' sessions and to
    ask where the binlog ends, as this server calls them."""
    common = ("PROCESS", "REPLICATION SLAVE")
    if root.mariadb:
        return *common, "CONNECTION ADMIN", "BINLOG MONITOR"
    if release(root.version) >= (8,):
        return *common, "CONNECTION_ADMIN", "XA_RECOVER_ADMIN", "REPLICATION CLIENT"
    return *common, "SUPER", "REPLICATION CLIENT"


def grant_reader(root: Connection, user: str, hosts: Sequence[str], database: str) -> None:
    for host in hosts:
        root.execute(f"GRANT SELECT ON {name(_pattern(database))}.* TO %s@%s", (user, host))


def _pattern(database: str) -> str:
    """As a grant has to spell it: an underscore would stand for any character."""
    return database.replace("\\", "\\\\").replace("_", "\\_")


def rights_of(root: Connection, user: str, database: str) -> Grants | None:
    """What a user's accounts may do in just this database; None: nothing."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for grantee, pattern, privilege, grantable in root.query(
            "SELECT GRANTEE, TABLE_SCHEMA, PRIVILEGE_TYPE, IS_GRANTABLE"
            " FROM information_schema.SCHEMA_PRIVILEGES ORDER BY GRANTEE, PRIVILEGE_TYPE"):
        same = str(pattern).replace("\\_", "_").replace("\\%", "%") == database
        if same and str(grantee).rpartition("@")[0].strip("'") == user and privilege != "USAGE":
            found.setdefault(str(grantee), []).append((str(privilege), str(grantable) == "YES"))
    if not found:
        return None
    return Grants(database, _pattern(database), tuple(
        Grant(g, tuple(p for p, _ in rights), any(m for _, m in rights)) for g, rights in found.items()))


def rights_for(grants: Grants, database: str) -> Grants:
    """The same rights, on another database."""
    return replace(grants, database=database, pattern=_pattern(database))


def make_database(model: Connection, like: str, root: Connection, database: str) -> None:
    """Empty, in the character set of the database ``like``; nothing when it is there."""
    charset, collation = model.query(
        "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
        " WHERE SCHEMA_NAME = %s", (like,))[0]
    root.execute(f"CREATE DATABASE IF NOT EXISTS {name(database)} CHARACTER SET {name(str(charset))}"
                 f" COLLATE {name(str(collation))}")


def give_rights(root: Connection, grants: Grants, database: str) -> None:
    """:raises Denied: the database isn't there."""
    if not has_database(root, database):
        raise Denied(f"{root.endpoint.where} has no database {database}", "Make it first")
    reopen(root, grants)


def has_database(root: Connection, database: str) -> bool:
    return bool(root.query("SELECT 1 FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", (database,)))


def table_names(root: Connection, database: str) -> tuple[str, ...]:
    return tuple(str(r[0]) for r in root.query(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s ORDER BY 1", (database,)))


def copy_tables(source: Connection, target: Connection, database: str, without: str) -> None:
    """An empty database with the same tables, in the same character set; those that are there stay.

    :param without: a prefix of tables that are left out. ``source`` has the database open.
    """
    charset = source.query("SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM"
                           " information_schema.SCHEMATA WHERE SCHEMA_NAME = %s", (database,))[0]
    target.execute(f"CREATE DATABASE IF NOT EXISTS {name(database)} CHARACTER SET {name(str(charset[0]))}"
                   f" COLLATE {name(str(charset[1]))}")
    target.execute(f"USE {name(database)}")
    there = set(table_names(target, database))
    for table in table_names(source, database):
        if table in there or table.startswith(without):
            continue
        # Sent as it is: it may have percent signs in its comments and defaults.
        target.send(str(source.query(f"SHOW CREATE TABLE {name(table)}")[0][1]).encode())
    target.commit()


def drop_database(root: Connection, database: str) -> None:
    root.execute(f"DROP DATABASE IF EXISTS {name(database)}")


def binlog_kept_s(session: Connection) -> float:
    """How long the server keeps its binlog, in seconds; 0.0: until somebody purges it."""
    seconds = float(session.variable("binlog_expire_logs_seconds") or 0)
    return seconds or float(session.variable("expire_logs_days") or 0) * 86400


def sessions(session: Connection, database: str, ours: str) -> tuple[Session, ...]:
    """Who has the database open, but for recell's own account and the server's threads."""
    rows = session.query("SELECT ID, USER, HOST FROM information_schema.PROCESSLIST WHERE DB = %s"
                         " AND USER NOT IN ('system user', 'event_scheduler', %s) ORDER BY ID",
                         (database, ours))
    return tuple(Session(int(number), str(user), _address(str(host))) for number, user, host in rows)


def _address(host: str) -> str:
    """``10.0.0.1:4711`` or ``localhost``."""
    head, colon, tail = host.rpartition(":")
    return head if colon and tail.isdigit() else host
