"""What could be decided otherwise, as a plan prints it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["API_CELL", "ARCHIVE_MOVES", "ARCHIVE_STAYS", "CELL", "HOSTS", "NO_HOST_STAYS", "Decision"]


@dataclass(frozen=True)
class Decision:
    """``choice`` was taken for ``topic``, and ``why``. ``count``: a statement whose one number says
    how many rows it concerns in the database at hand; empty where there is nothing to count."""

    topic: str
    choice: str
    why: str
    count: str = ""


NO_HOST_STAYS = Decision(
    "instances without a host",
    "they stay in their cell",
    "An instance that is being built gets its host when the cell's scheduler picked one, and moves from then"
    " on; a shelved-offloaded one is unshelved in the cell that its mapping names. Neither has a"
    " guest that could lose its rows.",
    "SELECT COUNT(*) FROM instances WHERE host IS NULL AND deleted = 0",
)
ARCHIVE_STAYS = Decision(
    "archived rows (shadow_*)",
    "they stay in their cell",
    "No service reads them and they belong to instances, not to hosts; `nova-manage db purge`"
    " ends them where they are.",
)
ARCHIVE_MOVES = Decision(
    "archived rows (shadow_*)",
    "they move with the database",
    "The old database goes away, and an archive that was kept until today is kept on.",
)
_DELETED = Decision(
    "rows marked deleted",
    "they move like the others",
    "Usage reports and `nova list --deleted` read them; left behind, a compute that still reads the"
    " old database would reap guests by them.",
    "SELECT COUNT(*) FROM instances WHERE deleted <> 0 AND host IS NOT NULL",
)
_CATALOGUE = Decision(
    "EC2 and image ids (s3_images, volume_id_mappings, snapshot_id_mappings)",
    "all rows are copied, none is deleted",
    "They belong to no host, and a guest reads its ids through them.",
)
_SECURITY_GROUPS = Decision(
    "Nova's own security groups",
    "all groups are copied, none is deleted; instances take their associations along",
    "Neutron holds those that filter; the rows remain because instances refer to them.",
)
_USAGE = Decision(
    "usage audits and volume usage of a host",
    "they move with the host or its instances",
    "They are read by host.",
)
HOSTS = (NO_HOST_STAYS, _DELETED, ARCHIVE_STAYS, _CATALOGUE, _SECURITY_GROUPS, _USAGE)
CELL = (ARCHIVE_MOVES,)
API_CELL = (
    Decision(
        "archived rows (shadow_*)", "they stay in the child", "Nothing in an API cell reads them.",
    ),
    Decision(
        "hosts, their services and devices",
        "they stay in the child",
        "nova-api asks the child for them through nova-cells.",
    ),
    Decision(
        "flavors, key pairs, quotas, server groups, aggregates, security groups",
        "they are copied as they are, also where the API database has them by now",
        "A release that still reads them finds them; one that doesn't finds what it left.",
    ),
)
