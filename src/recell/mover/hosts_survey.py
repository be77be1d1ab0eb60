"""What stands in the way of moving hosts, and what is under way on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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

__all__ = ["busy", "troubles"]

ROWS_PER_S = 5000.0
_ENDED = ("completed", "confirmed", "reverted", "error", "failed", "cancelled", "done")
_BUILDING = ("scheduling", "block_device_mapping", "networking", "spawning")
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
    for source, dest, uuid, kind, status in session.query(
        "SELECT source_compute, dest_compute, instance_uuid, migration_type, status FROM migrations"
        " WHERE deleted = 0 AND (source_compute IN %s OR dest_compute IN %s)"
        " AND (status NOT IN %s OR (migration_type = 'evacuation' AND status = 'done'"
        " AND source_compute IN %s))",
        (names, names, list(_ENDED), names),
    ):
        for host in {str(source), str(dest)} & set(names):
            found.setdefault(host, []).append(f"{kind or 'migration'} of {uuid} is {status}")
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
    return {
        host: "; ".join(sorted(what)[:_NAMED])
        + (f" and {len(what) - _NAMED} more" if len(what) > _NAMED else "")
        for host, what in found.items()
    }


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
