"""A second Nova beside the first: it runs by itself, and can become the next child of the tree."""

from __future__ import annotations

from collections.abc import Mapping

from recell_lab.cloud import prepared, ready, topology
from recell_lab.cloud.novaconf import ends_of
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.hosts import Host

CELL = "cell2"
CELL0 = "00000000-0000-0000-0000-000000000000"
SILENT_S = 60


def make_its_own(cloud: Cloud, hosts: Mapping[str, Host], passwords: Passwords) -> None:
    """Its database server begins with the first one's files, and its broker is blank: they become its own."""
    for spec in cloud.second_databases:
        hosts[spec.name].run(["mariadb"], input=statements(cloud, passwords).encode())
    for spec in cloud.second_brokers:
        user = topology.SECOND_ACCOUNT
        hosts[spec.name].run(
            ["rabbitmqctl", "-q", "add_user", user], input=f"{passwords.mq_nova_second}\n".encode()
        )
        hosts[spec.name].run(["rabbitmqctl", "-q", "set_permissions", "-p", "/", user, ".*", ".*", ".*"])


def statements(cloud: Cloud, passwords: Passwords) -> str:
    """SQL: what isn't Nova's goes, Nova's account is another one, and its cell is another cell."""
    ends = ends_of(cloud.second_controllers[0], cloud, passwords)
    nova = [name for name in prepared.DATABASES if name.startswith("nova")]
    others = [name for name in prepared.DATABASES if name not in nova]
    lines = [f"DROP DATABASE {name};" for name in others]
    lines += [f"DROP USER '{name}'@'%';" for name in ("nova", *others)]
    lines.append(f"CREATE USER '{ends.user}'@'%' IDENTIFIED BY '{ends.password}';")
    lines += [f"GRANT ALL ON {name}.* TO '{ends.user}'@'%';" for name in nova]
    mappings = "UPDATE nova_api.cell_mappings SET"
    lines += [
        f"{mappings} database_connection = '{ends.database(cloud, 'nova_cell0')}' WHERE uuid = '{CELL0}';",
        f"{mappings} uuid = UUID(), name = '{CELL}', transport_url = '{ends.transport_url}',"
        f" database_connection = '{ends.database(cloud, 'nova')}' WHERE uuid <> '{CELL0}';",
        "RESET MASTER;",
    ]
    return "\n".join(lines) + "\n"


def missing(cloud: Cloud, database: Host) -> list[str]:
    """What of the second Nova should report and does not, out of its own database: "BINARY on HOST"."""
    sql = (
        "SELECT `binary`, host FROM nova.services WHERE deleted = 0"  # noqa: S608  # our own figure
        f" AND last_seen_up > UTC_TIMESTAMP() - INTERVAL {SILENT_S} SECOND"
    )
    there = {(row[0], row[1]) for row in ready.query(database, sql)}
    wanted = [
        (binary, host.name)
        for binary in ("nova-conductor", "nova-scheduler")
        for host in cloud.second_controllers
    ] + [("nova-compute", host.name) for host in cloud.second_computes]
    return [f"{binary} on {host}" for binary, host in wanted if (binary, host) not in there]
