"""recell-lab rows."""

from __future__ import annotations

import click

from recell_lab import lab
from recell_lab.cloud.topology import DATABASE

PROJECT = "synthetic"
LEAST = 1


@click.command()
@click.option("--instances", type=click.IntRange(0, 1_000_000), required=True,
              help="So many there are afterwards; 0 removes them.")
def command(instances: int) -> None:
    """Instances that are rows only: shelved, on no host, of a project that no user has. For measuring what
    a large database costs."""
    lab.host(DATABASE.name).run(["mariadb"], input="\n".join(statements(instances)).encode(), timeout=1800)
    click.echo(f"{instances} synthetic instances in the database nova of {DATABASE.name}")


def statements(count: int) -> tuple[str, ...]:
    """SQL for MariaDB (its sequences make the rows): those of before go, ``count`` come."""
    mine = f"SELECT uuid FROM nova.instances WHERE project_id = '{PROJECT}'"  # noqa: S608  # our own words
    tables = ("instance_extra", "instance_info_caches", "instance_system_metadata")
    removed = [f"DELETE FROM nova.{t} WHERE instance_uuid IN ({mine});" for t in tables]  # noqa: S608
    removed += [
        f"DELETE FROM nova_api.instance_mappings WHERE project_id = '{PROJECT}';",  # noqa: S608
        f"DELETE FROM nova.instances WHERE project_id = '{PROJECT}';",  # noqa: S608
    ]
    if count < LEAST:
        return tuple(removed)
    uuid = "CONCAT('5e0d0000-0000-4000-8000-', LPAD(seq, 12, '0'))"
    # Older than what nova-cells sends again by itself.
    old = "NOW() - INTERVAL 2 DAY"
    rows = f"FROM seq_1_to_{count:d}"
    return (
        "USE nova;",
        *removed,
        "INSERT INTO instances (created_at, updated_at, uuid, user_id, project_id, display_name, hostname,"
        " vm_state, power_state, memory_mb, vcpus, root_gb, ephemeral_gb, instance_type_id, launch_index,"
        f" locked, cleaned, deleted) SELECT {old}, {old}, {uuid}, '{PROJECT}', '{PROJECT}',"
        " CONCAT('synthetic-', seq), CONCAT('synthetic-', seq), 'shelved_offloaded', 4, 64, 1, 0, 0, 1, 0, 0,"
        f" 1, 0 {rows};",
        "INSERT INTO instance_extra (created_at, instance_uuid, deleted)"
        f" SELECT {old}, {uuid}, 0 {rows};",
        "INSERT INTO instance_info_caches (created_at, instance_uuid, network_info, deleted)"
        f" SELECT {old}, {uuid}, '[]', 0 {rows};",
        "INSERT INTO instance_system_metadata (created_at, instance_uuid, `key`, value, deleted)"
        f" SELECT {old}, {uuid}, 'image_base_image_ref', '', 0 {rows};",
        "INSERT INTO nova_api.instance_mappings (created_at, instance_uuid, cell_id, project_id)"  # noqa: S608
        f" SELECT {old}, {uuid}, (SELECT id FROM nova_api.cell_mappings WHERE name = 'cell1'), '{PROJECT}'"
        f" {rows};",
    )
