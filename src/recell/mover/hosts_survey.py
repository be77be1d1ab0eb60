"""What stands in the way of moving hosts, and what is under way on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import name
from recell.adapters.schema import compare_schemas, read_schema
from recell.errors import RecellError
from recell.model.hosts import HostsMove
from recell.model.scope import Schema
from recell.model.violation import Violation
from recell.mover import preflight, rights, servers
from recell.mover.journal import PREFIX
from recell.mover.server import read_server
from recell.planning.tables import guests_scope, hosts_scope, stranded_children, with_hosts

__all__ = ["busy", "forgotten", "troubles"]

ROWS_PER_S = 5000.0
_ENDED = ("completed", "confirmed", "reverted", "error", "failed", "cancelled", "done")
_BUILDING = ("scheduling", "block_device_mapping", "networking", "spawning")
_FORGOTTEN = "1 DAY"
"""A migration that is under way is written to more often, or its instance says so."""
_NAMED = 3
_STUCK = "1 HOUR"
"""A task that nobody has gone on with for so long isn't waited out: nova-compute is ended without any."""


def busy(session: Session, hosts: Sequence[str]) -> dict[str, str]:
    """By host, in words: what a restart of nova-compute elsewhere would tear apart."""
    names = list(hosts)
    found: dict[str, list[str]] = {}
    for host, uuid, vm_state, task in session.query(
        "SELECT host, uuid, vm_state, task_state FROM instances WHERE deleted = 0 AND host IN %s"
        " AND (vm_state IN ('building', 'resized') OR task_state IN %s OR task_state LIKE 'resize%%'"
        " OR task_state LIKE 'rebuild%%' OR task_state = 'migrating' OR (task_state IS NOT NULL"
        f" AND COALESCE(updated_at, created_at) < UTC_TIMESTAMP() - INTERVAL {_STUCK}))",
        (names, list(_BUILDING)),
    ):
        found.setdefault(str(host), []).append(f"instance {uuid} is {task or vm_state}")
    for host, sentence, why in _migrations(session, names):
        if not why:
            found.setdefault(host, []).append(sentence)
    # Nova cleans up when the source starts, and finds by this row what: gone with the instance, the guest
    # that may still run there would be nobody's.
    for host, source, uuid in session.query(
        "SELECT DISTINCT i.host, m.source_compute, i.uuid FROM migrations m"
        " JOIN instances i ON i.uuid = m.instance_uuid"
        " JOIN services s ON s.host = m.source_compute AND s.`binary` = 'nova-compute' AND s.deleted = 0"
        " WHERE m.deleted = 0 AND m.migration_type = 'evacuation' AND m.status = 'done' AND i.host IN %s",
        (names,),
    ):
        found.setdefault(str(host), []).append(
            f"nova-compute on {source} has not started since {uuid} was evacuated from there"
        )
    session.rollback()
    return _said(found)


def forgotten(session: Session, hosts: Sequence[str]) -> dict[str, str]:
    """By host, in words: migrations that have not ended and that nobody goes on with, as the rows prove."""
    found: dict[str, list[str]] = {}
    for host, sentence, why in _migrations(session, list(hosts)):
        if why:
            found.setdefault(host, []).append(f"{sentence}, and {why}")
    session.rollback()
    return _said(found)


def _said(found: dict[str, list[str]]) -> dict[str, str]:
    return {
        host: "; ".join(sorted(what)[:_NAMED])
        + (f" and {len(what) - _NAMED} more" if len(what) > _NAMED else "")
        for host, what in found.items()
    }


def _migrations(session: Session, hosts: list[str]) -> Iterator[tuple[str, str, str]]:
    """Those of these hosts that have not ended: host, what it is, and why it is nobody's any more ("": it may
    go on)."""
    alive = {str(host) for (host,) in session.query(
        "SELECT host FROM services WHERE deleted = 0 AND `binary` = 'nova-compute' AND host IS NOT NULL")}
    for row in session.named(
        "SELECT m.source_compute, m.dest_compute, m.instance_uuid, m.migration_type, m.status,"
        " m.cross_cell_move, i.uuid, i.host, i.vm_state, i.task_state,"
        f" COALESCE(m.updated_at, m.created_at) < UTC_TIMESTAMP() - INTERVAL {_FORGOTTEN} AS untouched"
        " FROM migrations m LEFT JOIN instances i ON i.uuid = m.instance_uuid AND i.deleted = 0"
        " WHERE m.deleted = 0 AND (m.source_compute IN %s OR m.dest_compute IN %s)"
        " AND (m.status NOT IN %s OR (m.migration_type = 'evacuation' AND m.status = 'done'"
        " AND m.source_compute IN %s))",
        (hosts, hosts, list(_ENDED), hosts),
    ):
        kind, ends = row["migration_type"], {row["source_compute"], row["dest_compute"]} - {None}
        sentence = f"{kind or 'migration'} of {row['instance_uuid']} is {row['status']}"
        for host in sorted(ends & set(hosts)):
            yield host, sentence, _over(row, ends, alive)


def _over(row: dict[str, Any], ends: set[str], alive: set[str]) -> str:
    """Evacuations are what their source tidies up by; one to another cell has its other half there."""
    if not row["untouched"] or row["cross_cell_move"] or row["migration_type"] in (None, "evacuation"):
        return ""
    if row["uuid"] is None:
        return "its instance is gone"
    if row["task_state"] is not None or row["vm_state"] in ("building", "resized", "error"):
        return ""
    if row["host"] not in ends:
        return f"its instance is at rest on {row['host'] or 'no host'}"
    if gone := sorted(ends - alive):
        return f"there is no nova-compute on {' and '.join(gone)}, and its instance is at rest"
    return ""


def troubles(
    old: Session, new: Session, move: HostsMove, schema: Schema, nova: str, made: bool
) -> Iterator[Violation]:
    """:param old: with the cell's database open, whose schema it is. nova: Nova's account there.
    made: whether the new cell's database has tables."""
    try:
        whole = hosts_scope(schema, move.hosts)
        scope = guests_scope(whole)
    except RecellError as error:
        yield _stop("schema", move.old.where, error.sentence, error.remedy)
        return
    for table, key in stranded_children(whole):
        if old.query(f"SELECT 1 FROM {name(table)} LIMIT 1"):
            yield _stop(
                f"stranded-{table}",
                move.old.where,
                f"{table} has rows that refer to {key.parent}, and doesn't move",
                "Delete what nobody uses in it",
            )
    nodes = {
        str(h): int(n)
        for h, n in old.query(
            "SELECT host, COUNT(*) FROM compute_nodes WHERE deleted = 0 AND host IN %s GROUP BY host",
            (list(move.hosts),),
        )
    }
    for host in move.hosts:
        if nodes.get(host, 0) != 1:
            yield _stop(
                f"nodes-{host}",
                host,
                f"nova-compute on {host} has {nodes.get(host, 0)} nodes",
                "recell moves hosts with one hypervisor; leave this one out",
            )
    for (host,) in old.query(
        "SELECT host FROM services WHERE deleted = 0 AND `binary` = 'nova-compute' AND forced_down = 1"
        " AND host IN %s",
        (list(move.hosts),),
    ):
        yield _stop(
            f"forced-down-{host}",
            str(host),
            f"{host} is forced down: somebody takes it for dead, and may evacuate its instances",
            "openstack compute service set --up, once it is sure that it lives; or leave the host out",
        )
    for host, what in busy(old, move.hosts).items():
        yield Violation(
            f"hosts:busy:{host}",
            "warning",
            host,
            what,
            "Confirm, revert or wait, and set right what Nova has forgotten (openstack server set --state):"
            " otherwise the host is left out",
        )
    for host, what in forgotten(old, move.hosts).items():
        yield Violation(
            f"hosts:forgotten:{host}",
            "warning",
            host,
            f"{what}; untouched for a day, and not waited for",
            "nova-manage knows no word for it: set the migration's status to error if its row disturbs you",
        )
    there = Schema(move.new.database, ())
    if made:
        there = read_schema(new.connection, move.new.database)
    elif servers.rights_of(old, nova, move.old.database) is None:
        yield _stop(
            "rights",
            move.old.where,
            f"Nova's account {nova} has its rights on {move.old.database} by a pattern or on all databases,"
            " so recell can't tell which ones to give it in the new cell",
            "Give it rights on this database by itself",
        )
    target_schema = Schema(there.database, tuple(t for t in there.tables if not t.name.startswith(PREFIX)))
    for sentence in compare_schemas(with_hosts(schema), with_hosts(target_schema)) if made else ():
        yield _stop(
            "schemas", move.new.where, sentence, "Run nova-manage db sync of one release in both cells"
        )
    lacking = [*rights.roots(old, move.old.database, move.old.where),
               *rights.roots(new, move.new.database, move.new.where)]
    yield from lacking
    if lacking:
        return
    source, target = read_server(old, schema), read_server(new, target_schema)
    clusters = [end.where for end, server in ((move.old, source), (move.new, target)) if server.galera]
    for where in clusters:
        yield _stop("galera", where, "it is a node of a Galera cluster", "Hosts move between single servers")
    if clusters:
        return
    yield from preflight.mariadb_alone((source, target), "no hosts have been moved")
    rows = sum(t.rows for t in schema.tables)
    for found in preflight.find(source, target, scope, rows / ROWS_PER_S, 0.0):
        # An empty database has no schema yet, and recell makes it in the other one's character set.
        if made or not found.id.startswith(("mover:schema-version:", "mover:charset:")):
            yield found


def _stop(what: str, where: str, sentence: str, remedy: str) -> Violation:
    return Violation(f"hosts:{what}", "stop", where, sentence, remedy)
