"""Nova's databases: schemas, migrations that were never finished, what a move or a restore needs."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.health import DatabaseFacts, Diagnosis, Facts


def schemas_apart(facts: Facts) -> Iterator[Diagnosis]:
    cells = [d for d in facts.databases if d.name != "api" and d.schema]
    by_schema: dict[str, list[str]] = {}
    for d in cells:
        by_schema.setdefault(d.schema, []).append(d.name)
    if len(by_schema) > 1:
        listed = some(f"{name} at {schema}" for schema, names in by_schema.items() for name in names)
        yield Diagnosis(
            "database:schemas",
            "error",
            "nova",
            f"the cells' databases have different schemas: {listed}",
            "Services of one version read columns that one of them lacks",
            "nova-manage db sync, with each cell's own configuration",
        )


def unfinished_migrations(facts: Facts) -> Iterator[Diagnosis]:
    for d in facts.databases:
        for migration, rows in sorted(d.unmigrated.items()):
            if rows:
                yield Diagnosis(
                    f"database:unmigrated:{d.name}:{migration}",
                    "warning",
                    d.name,
                    f"{rows} rows of {d.name} wait for the online migration {migration}",
                    "A later release drops the code that reads the old form; nova-status then blocks it",
                    "nova-manage db online_data_migrations, with each cell's own configuration",
                )


def binlog(facts: Facts) -> Iterator[Diagnosis]:
    for server, d in sorted(_servers(facts).items()):
        on = d.variables.get("log_bin", "").upper()
        if on in ("OFF", "0"):
            yield Diagnosis(
                f"database:binlog-off:{server}",
                "warning",
                server,
                "the binary log is off",
                "A restore goes back to the last dump and no further, and no replica or move can follow",
                "Set log_bin, binlog_format = ROW and a server_id, at the next restart of the server",
            )
            continue
        wrong = [
            f"{name} = {d.variables[name]}"
            for name, wanted in (("binlog_format", "ROW"), ("binlog_row_image", "FULL"))
            if name in d.variables and d.variables[name].upper() != wanted
        ]
        if on and wrong:
            yield Diagnosis(
                f"database:binlog-format:{server}",
                "note",
                server,
                f"the binary log has {', '.join(wrong)}",
                "A cell's rows can't be followed from it while they are moved",
                "SET GLOBAL binlog_format = 'ROW', binlog_row_image = 'FULL', and in the server's file",
            )


def connections(facts: Facts) -> Iterator[Diagnosis]:
    for server, d in sorted(_servers(facts).items()):
        most, used = (d.variables.get(k, "") for k in ("max_connections", "Max_used_connections"))
        if most.isdigit() and used.isdigit() and int(used) >= int(most):
            yield Diagnosis(
                f"database:connections:{server}",
                "warning",
                server,
                f"all {most} connections have been in use at once since the server started",
                "Requests then fail with 'Too many connections', also while services restart",
                "Raise max_connections, or lower max_pool_size and max_overflow of the services",
            )


def read_only(facts: Facts) -> Iterator[Diagnosis]:
    for server, d in sorted(_servers(facts).items()):
        if d.variables.get("read_only", "OFF").upper() in ("ON", "1"):
            yield Diagnosis(
                f"database:read-only:{server}",
                "error",
                server,
                "the database server is read-only",
                "Nothing that changes an instance works",
                "Find out who set it (a failover, a full disk); SET GLOBAL read_only = 0",
            )


def _servers(facts: Facts) -> dict[str, DatabaseFacts]:
    """One entry a server: several databases may be on it."""
    out: dict[str, DatabaseFacts] = {}
    for d in facts.databases:
        out.setdefault(d.server.partition("/")[0], d)
    return out


RULES = (schemas_apart, unfinished_migrations, binlog, connections, read_only)
