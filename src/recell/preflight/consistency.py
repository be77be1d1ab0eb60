"""Proofs over Nova's databases and placement that hold before and after any conversion. Read-only."""

from __future__ import annotations

from collections.abc import Callable, Collection

from recell.adapters.ports import World
from recell.discovery.rows import read_homes
from recell.errors import RecellError, Unsupported, VerifyFailed
from recell.model.deployment import Deployment

AUDIT_TRIES = 5
USAGE = 2
"""What argparse exits with: before Ussuri nova-manage knows no such command."""
AUDIT_WAIT_S = 5.0
LOOKS = 6
LOOK_WAIT_S = 5.0
_REMEDY = "See docs, chapter 3 a.m., and mend it before anything else"


def instances_are_where_they_are_mapped(world: World, deployment: Deployment) -> str:
    """What `nova-manage cell_v2 verify_instance` asks, for every instance at once.

    A build that has no cell yet (a build request) is not wrong. What seems wrong is looked at again: a boot
    or a delete under way stands in one database before the other, on a busy cloud for many seconds.
    """
    number, seen, left = _compare(world)
    for _ in range(LOOKS):
        if not seen:
            break
        world.wait(LOOK_WAIT_S)
        number, wrong, left = _compare(world)
        seen &= wrong
    if seen:
        raise VerifyFailed(
            f"{len(seen)} instances are not in the cell that they are mapped to:"
            f" {', '.join(sorted(seen)[:5])}",
            _REMEDY,
        )
    return f"{number} instances, each in the cell that it is mapped to{_but(left)}"


def _compare(world: World) -> tuple[int, frozenset[str], set[str]]:
    left: set[str] = set()

    def trouble(area: str, error: RecellError) -> None:
        if not isinstance(error, Unsupported):
            raise error
        left.add(area.removeprefix("instances of "))

    homes = read_homes(world.nova(), trouble)
    return len(homes.rows), homes.wrong, left


def _but(left: Collection[str]) -> str:
    """Cells whose databases recell can't read at all: no plan has a part in them."""
    return f"; not looked at: {', '.join(sorted(left))}" if left else ""


def hosts_are_mapped_once(world: World, deployment: Deployment) -> str:
    """Every compute host's service record stands in the cell that host_mappings names."""
    nova = world.nova()
    mapped = {
        str(r["host"]): str(r["cell"])
        for r in nova.query(
            "", "SELECT h.host, c.uuid AS cell FROM host_mappings h JOIN cell_mappings c ON c.id = h.cell_id"
        )
    }
    homes: dict[str, set[str]] = {}
    left: dict[str, str] = {}
    for mapping in nova.mappings():
        try:
            rows = nova.services(mapping.uuid)
        except Unsupported:
            left[mapping.uuid] = mapping.name or mapping.uuid
            continue
        for row in rows:
            if row.binary == "nova-compute":
                homes.setdefault(row.host, set()).add(mapping.uuid)
    wrong = [h for h, cells in homes.items() if cells != {mapped.get(h, "")}]
    wrong += [h for h, cell in mapped.items() if h not in homes and cell not in left]
    if wrong:
        raise VerifyFailed(
            f"hosts that are not mapped to the one cell that has their record: "
            f"{', '.join(sorted(wrong)[:5])}",
            _REMEDY,
        )
    return f"{len(homes)} compute hosts, each mapped to the cell of its record{_but(left.values())}"


def placement_is_clean(world: World, deployment: Deployment) -> str:
    """`nova-manage placement audit`, again when users' builds under way look like orphans."""
    host = next(
        (
            h
            for h in deployment.hosts
            if h.nova_manage and any(s.host == h.name and s.role == "api" for s in deployment.services)
        ),
        None,
    )
    if host is None:
        return "no nova-manage beside a nova-api: not asked"
    for attempt in range(AUDIT_TRIES):
        argv = [*host.nova_prefix, host.nova_manage, "placement", "audit"]
        ended = world.host(host.name).query(argv, timeout=300)
        if ended.returncode == 0:
            return "nova-manage placement audit: no orphaned allocation"
        if ended.returncode == USAGE and b"invalid choice" in ended.stderr:
            return "this release's nova-manage has no placement audit: not asked"
        if attempt < AUDIT_TRIES - 1:
            world.wait(AUDIT_WAIT_S)
    raise VerifyFailed(
        f"nova-manage placement audit on {host.name} ends with {ended.returncode} again and again",
        "Run it with --verbose there",
    )


PROOFS: tuple[tuple[str, Callable[[World, Deployment], str]], ...] = (
    ("instances", instances_are_where_they_are_mapped),
    ("hosts", hosts_are_mapped_once),
    ("placement", placement_is_clean),
)


def proofs_of(deployment: Deployment) -> tuple[tuple[str, Callable[[World, Deployment], str]], ...]:
    """All of them; none where there is no Nova."""
    return PROOFS if deployment.services else ()
