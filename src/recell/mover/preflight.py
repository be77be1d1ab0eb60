"""Every reason not to move rows from one server to another, each with its remedy. Pure.

Only what SQL tells is judged. The data directories' disks can't be seen that way unless MariaDB's
plugin DISKS is loaded, so what they need is said instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recell.model.scope import ByHost, Scope
from recell.model.violation import Severity, Violation
from recell.mover.gap import keeps_counters
from recell.mover.server import Server

__all__ = ["find", "find_galera", "mariadb_alone"]

_SAFE = 2.0
"""A copy may take this much longer than estimated until the binlog that it needs is purged."""
_CLOCKS_S = 2.0
_GIB = 1 << 30
_PACKET = 16 << 20
_OLDEST = (10, 5, 2)
"""Of MariaDB: older ones don't know the rights that recell's account is given."""
_OLDEST_MYSQL = (5, 7)
_SEEN_MYSQL = ((5, 7), (9, 7))
"""Releases whose rows recell has moved."""


def find(source: Server, target: Server, scope: Scope, estimate_s: float, open_s: float = 0.0
         ) -> tuple[Violation, ...]:
    """:param estimate_s: how long the copy is expected to take; open_s: how long the way back is to
        stay open afterwards, during which the target's binlog is needed."""
    return (
        *_binlog(source, "source", estimate_s),
        *_binlog(target, "target", open_s),
        *_version(source), *_version(target),
        *_upstream(source),
        *_together(source, target, scope),
        *_contents(source, target, scope),
    )


def find_galera(nodes: Sequence[Server], given: int) -> tuple[Violation, ...]:
    """A cluster's own reasons.

    :param nodes: every node that was reached, the one that is read from first. given: how many the
        operator named.
    """
    return tuple(_galera(nodes, given))


def mariadb_alone(servers: Sequence[Server], job: str) -> tuple[Violation, ...]:
    """For a job that was never run on MySQL, and ends halfway where MySQL differs. ``job``: in words."""
    return tuple(
        _one("mysql", server, "stop", f"this is MySQL ({server.version}), on which {job}",
             "Leave its rows where they are")
        for server in servers if not server.mariadb
    )


def _one(what: str, server: Server, severity: Severity, sentence: str, remedy: str, may_accept: bool = False
         ) -> Violation:
    return Violation(f"mover:{what}:{server.where}", severity, server.where, sentence, remedy, may_accept)


def _binlog(server: Server, side: str, needed_s: float) -> Iterator[Violation]:
    said = server.variables
    if said.get("log_bin", "OFF").upper() not in ("ON", "1"):
        yield _one(
            "binlog-off", server, "stop",
            f"the {side} keeps no binary log, so changes can't be followed",
            "Write under [mysqld]: log_bin = binlog, binlog_format = ROW, binlog_row_image = FULL, a"
            " server_id of its own, expire_logs_days = 7; then restart the server at a time of your choice"
            " (a Galera cluster node by node, with log_slave_updates = ON)",
        )
        return
    if said.get("binlog_format", "ROW").upper() != "ROW":
        yield _one(
            "binlog-format", server, "stop",
            f"binlog_format of the {side} is {said['binlog_format']}: statements don't tell which rows"
            " changed",
            "SET GLOBAL binlog_format = 'ROW' and write it into the configuration; then reconnect every"
            " session of Nova's, they keep the old value",
        )
    if said.get("binlog_row_image", "FULL").upper() != "FULL":
        yield _one(
            "binlog-image", server, "stop",
            f"binlog_row_image of the {side} is {said['binlog_row_image']}: owners of changed rows may"
            " be missing",
            "SET GLOBAL binlog_row_image = 'FULL' and write it into the configuration; then reconnect every"
            " session of Nova's",
        )
    if said.get("binlog_transaction_compression", "OFF").upper() in ("ON", "1"):
        yield _one("binlog-compressed", server, "stop",
                   f"the {side} compresses whole transactions in its binary log, which recell does not read",
                   "SET GLOBAL binlog_transaction_compression = OFF, then reconnect every session of Nova's")
    if said.get("binlog_row_value_options", ""):
        yield _one("binlog-partial", server, "stop", f"the {side} logs parts of JSON values only",
                   "SET GLOBAL binlog_row_value_options = ''")
    if server.filtered:
        yield _one("binlog-filtered", server, "stop",
                   f"the binary log of the {side} leaves the database {server.database} out",
                   "Take binlog_do_db and binlog_ignore_db out of the configuration and restart the server")
    if said.get("server_id", "1") == "0":
        yield _one("server-id", server, "stop", f"the {side} has no server_id, so it serves no binary log",
                   "Set a server_id of its own")
    if 0 < server.retention_s < _SAFE * needed_s:
        yield _one(
            "retention", server, "stop",
            f"the {side} purges its binary log after {_hours(server.retention_s)}, and it is needed for up to"
            f" {_hours(_SAFE * needed_s)}",
            f"Keep it longer until finish: {_keep_longer(server, needed_s)}",
        )
    for limit in ("max_binlog_total_size", "binlog_space_limit"):
        if int(said.get(limit, "0") or 0) > 0:
            yield _one("binlog-size", server, "warning",
                       f"{limit} of the {side} purges by size, however long ago a move began",
                       f"Set {limit} = 0 until finish, and watch the disk")


def _keep_longer(server: Server, needed_s: float) -> str:
    seconds = int(_SAFE * needed_s) + 1
    if "binlog_expire_logs_seconds" in server.variables:
        return f"SET GLOBAL binlog_expire_logs_seconds = {seconds}"
    return f"SET GLOBAL expire_logs_days = {seconds // 86400 + 1}"


def _version(server: Server) -> Iterator[Violation]:
    oldest = _OLDEST if server.mariadb else _OLDEST_MYSQL
    if server.numbers < oldest:
        yield _one(
            "version", server, "stop",
            f"the server is {server.version}, older than {'.'.join(map(str, oldest))}", "Upgrade it first",
        )
    elif not server.mariadb:
        yield from _mysql(server)
    if not keeps_counters(server.version):
        yield _one(
            "counters", server, "warning",
            f"{server.version} forgets raised numbers of tables without rows when it restarts",
            "Don't restart it until each table of a new cell has a row",
        )
    if server.variables.get("require_secure_transport", "OFF").upper() in ("ON", "1"):
        yield _one(
            "tls", server, "stop",
            "it lets nobody in without TLS (require_secure_transport), and recell's sessions, which come over"
            " SSH to its host, have none",
            "SET GLOBAL require_secure_transport = OFF until finish, or leave this database where it is",
        )


def _mysql(server: Server) -> Iterator[Violation]:
    comment = server.variables.get("version_comment", "")
    if server.numbers[:2] not in _SEEN_MYSQL or "percona" in comment.lower():
        yield _one(
            "untried", server, "stop",
            f"this is {comment or 'MySQL'} {server.version}, and recell has moved rows of MySQL 5.7 and 9.7"
            " alone",
            "Acknowledge this once you have rehearsed the move on copies of these two servers",
            may_accept=True,
        )
    if server.variables.get("binlog_order_commits", "ON").upper() not in ("ON", "1"):
        yield _one(
            "order", server, "stop",
            "it shows transactions in another order than its binary log has them (binlog_order_commits)",
            "SET GLOBAL binlog_order_commits = ON until finish",
        )
    if server.variables.get("group_replication_group_name", ""):
        yield _one(
            "group", server, "stop",
            "it is set up as a member of a replication group, whose other members may write too",
            "Leave its rows where they are; recell follows the changes of single servers, which replicas may"
            " follow",
        )


def _upstream(source: Server) -> Iterator[Violation]:
    if not source.replicates:
        return
    whose = f"the source is a replica of {', '.join(source.replicates)}"
    logged = source.variables.get("log_slave_updates", source.variables.get("log_replica_updates", "OFF"))
    if logged.upper() in ("ON", "1"):
        yield _one("replica", source, "warning",
                   f"{whose}: what is written to {source.database} there would go on coming here",
                   f"See that nobody writes to {source.database} there")
    else:
        yield _one("replica", source, "stop",
                   f"{whose}, and its binary log leaves out what comes from there (log_slave_updates)",
                   f"Acknowledge this when nobody writes to {source.database} there; otherwise write"
                   " log_slave_updates = ON under [mysqld] here and restart the server", may_accept=True)


def _together(source: Server, target: Server, scope: Scope) -> Iterator[Violation]:
    apart = abs(source.clock_s - target.clock_s)
    if apart - source.clock_error_s - target.clock_error_s > _CLOCKS_S:
        yield _one("clocks", target, "warning",
                   f"the clocks of the two servers differ by {apart:.1f} s; Nova compares times written"
                   " on both",
                   "Let both follow the same time servers")
    if source.variables.get("lower_case_table_names") != target.variables.get("lower_case_table_names"):
        yield _one("case", target, "stop", "lower_case_table_names differs between the two servers",
                   "Give the target the source's value; that needs a new data directory")
    if source.charset.replace("utf8mb3", "utf8") != target.charset.replace("utf8mb3", "utf8"):
        yield _one(
            "charset", target, "warning",
            f"new tables get the character set {source.charset} in the source and {target.charset} in"
            " the target",
            f"ALTER DATABASE {target.database} CHARACTER SET {source.charset}",
        )
    mine, theirs = (set(s.variables.get("sql_mode", "").split(",")) - {""} for s in (source, target))
    if mine != theirs:
        yield _one("sql-mode", target, "warning",
                   f"sql_mode differs between the two servers ({', '.join(sorted(mine ^ theirs))}); Nova sets"
                   " its own, other programs that use this database may not",
                   "Give the target the source's sql_mode")
    if source.mariadb != target.mariadb:
        yield _one("mixed", target, "stop",
                   f"one server is MariaDB and the other MySQL ({source.version} and {target.version})",
                   "Give the target the source's kind: rows move between two of MariaDB's or two of MySQL's")
    elif source.numbers[:2] > target.numbers[:2]:
        yield _one("older", target, "warning",
                   f"the target ({target.version}) is older than the source ({source.version})",
                   "Give the target the source's version")
    if int(target.variables.get("max_allowed_packet", _PACKET)) < min(
            _PACKET, int(source.variables.get("max_allowed_packet", _PACKET))):
        yield _one("packet", target, "stop", "max_allowed_packet of the target is smaller than the source's",
                   f"SET GLOBAL max_allowed_packet = {_PACKET}")
    # A source of MySQL's is written to as well: for each snapshot, a row of recell's own.
    for server, side in ((target, "target"), *(() if source.mariadb else ((source, "source"),))):
        for variable in ("read_only", "super_read_only"):
            if server.variables.get(variable, "OFF").upper() not in ("OFF", "0"):
                yield _one("read-only", server, "stop", f"{variable} is set on the {side}",
                           f"SET GLOBAL {variable} = OFF, on the primary")
                break
    if source.variables.get("server_id") == target.variables.get("server_id"):
        yield _one("same-id", target, "warning", "both servers have the same server_id",
                   "Give each one of its own, or neither can replicate from the other")
    yield from _room(source, target, scope)


def _room(source: Server, target: Server, scope: Scope) -> Iterator[Violation]:
    whole = not scope.hosts
    needs = f"{'' if whole else 'up to '}{2 * source.bytes / _GIB:.1f} GiB"
    if target.free is None:
        yield _one(
            "disk", target, "warning",
            f"no SQL tells how much room its disk has; data and binary log of the copy need {needs}",
            f"Look at {target.variables.get('datadir', 'its data directory')} there",
        )
    elif target.free < 2 * source.bytes:
        yield _one("disk", target, "stop" if whole else "warning",
                   f"its disk has {target.free / _GIB:.1f} GiB free; data and binary log of the copy"
                   f" need {needs}",
                   "Make room there")


def _contents(source: Server, target: Server, scope: Scope) -> Iterator[Violation]:
    for server, side in ((source, "source"), (target, "target")):
        if server.other_engines:
            yield _one("engine", server, "stop",
                       f"tables of the {side} know no transactions: {', '.join(server.other_engines)}",
                       "ALTER TABLE ... ENGINE = InnoDB")
        if server.triggers:
            yield _one("triggers", server, "stop" if side == "target" else "warning",
                       f"the {side} has triggers, which would act once more or be missing afterwards:"
                       f" {', '.join(server.triggers)}",
                       "Drop them until finish; recell does not copy them")
        if server.events:
            yield _one("events", server, "warning",
                       f"the {side} has scheduled events: {', '.join(server.events)}",
                       "Switch them off until finish; recell does not copy them")
    if source.schema_version != target.schema_version:
        yield _one(
            "schema-version", target, "stop",
            f"the schema's version is {', '.join(source.schema_version) or 'not there'} in the source and"
            f" {', '.join(target.schema_version) or 'not there'} in the target",
            "Run nova-manage db sync of the same Nova on both",
        )
    rows = dict(source.old_rows)
    forgotten = [f"{column} ({number} rows)" for column, number in rows.items()
                 if _decides(scope, column)]
    if forgotten:
        yield _one("ownerless", source, "stop",
                   "rows that no host's move would find, unfinished online data migrations:"
                   f" {', '.join(forgotten)}",
                   "Run nova-manage db online_data_migrations until it has nothing to do")
    others = [f"{column} ({number} rows)" for column, number in rows.items() if not _decides(scope, column)]
    if others:
        yield _one("online-migrations", source, "stop",
                   f"online data migrations are unfinished: {', '.join(others)}",
                   "Run nova-manage db online_data_migrations until it has nothing to do; acknowledge"
                   " this for"
                   " rows that it does not fill", may_accept=True)


def _decides(scope: Scope, column: str) -> bool:
    table, _, name = column.partition(".")
    return any(t.table.name == table and isinstance(t.rule, ByHost) and t.rule.column == name
               for t in scope.tables)


def _galera(nodes: Sequence[Server], given: int) -> Iterator[Violation]:
    first = nodes[0]
    size = int(first.status.get("wsrep_cluster_size", "0") or 0)
    if size != given or len({n.where for n in nodes}) != size:
        yield _one("galera-nodes", first, "stop",
                   f"the cluster has {size} nodes, and {given} were named: writers of the others would"
                   " go unseen",
                   "Name every node of the cluster")
    for node in nodes:
        if node.status.get("wsrep_cluster_state_uuid") != first.status.get("wsrep_cluster_state_uuid"):
            yield _one("galera-other", node, "stop", f"it is not a node of the cluster of {first.where}",
                       "Name the nodes of one cluster")
        if node.status.get("wsrep_local_state_comment") != "Synced":
            yield _one("galera-state", node, "stop",
                       f"it is {node.status.get('wsrep_local_state_comment', 'in no known state')}, not"
                       " Synced",
                       "Wait until it is, or mend it")
    updates = first.variables.get("log_slave_updates", first.variables.get("log_replica_updates", "OFF"))
    if updates.upper() not in ("ON", "1"):
        yield _one("galera-updates", first, "stop",
                   "its binary log leaves out what other nodes write (log_slave_updates)",
                   "Write log_slave_updates = ON under [mysqld] there and restart this node")
    if not any(n.variables.get("event_scheduler", "OFF").upper() == "ON" for n in nodes[:1]):
        yield _one("galera-lease", first, "stop",
                   "its event scheduler is off, so a fence would outlive a dead recell",
                   "SET GLOBAL event_scheduler = ON there until finish")
    yield _one("galera-positions", first, "warning",
               "positions of its binary log hold on this node alone: when it is lost, everything is"
               " compared anew",
               "Read from the node that is least likely to be restarted")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds:.0f} s"
