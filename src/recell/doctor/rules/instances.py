"""Instances: each has one row, in the cell that it is mapped to, on a host of that cell."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.health import Diagnosis, Facts


def unmapped(facts: Facts) -> Iterator[Diagnosis]:
    homes = facts.first.homes
    if homes and homes.unmapped:
        by_cell: dict[str, list[str]] = {}
        for uuid in homes.unmapped:
            by_cell.setdefault(min(homes.rows[uuid]), []).append(uuid)
        for cell, uuids in sorted(by_cell.items()):
            yield Diagnosis(
                f"instances:unmapped:{facts.cell_name(cell)}",
                "error",
                facts.cell_name(cell),
                f"{len(uuids)} instances have no mapping: {some(uuids)}",
                "The API does not know them: their owners can neither see nor delete guests that run",
                f"nova-manage cell_v2 map_instances --cell_uuid {cell}",
            )


def unassigned(facts: Facts) -> Iterator[Diagnosis]:
    homes = facts.first.homes
    if homes and homes.unassigned:
        yield Diagnosis(
            "instances:unassigned",
            "error",
            "nova_api",
            f"{len(homes.unassigned)} instances have a row in a cell and a mapping that names none:"
            f" {some(homes.unassigned)}",
            "The API takes them for builds that have not begun: they can't be shown or deleted",
            "Find the cell with nova-manage cell_v2 verify_instance, and write its id into"
            " instance_mappings.cell_id",
        )


def doubled(facts: Facts) -> Iterator[Diagnosis]:
    homes = facts.first.homes
    if homes is None:
        return
    for uuid in sorted(homes.doubled):
        cells = some(facts.cell_name(c) for c in homes.rows[uuid])
        yield Diagnosis(
            f"instances:doubled:{uuid}",
            "error",
            cells,
            f"instance {uuid} has a live row in each of {cells}",
            "Only the mapped one is shown; the compute that reads the other acts on it, and deleting"
            " the wrong row deletes the guest",
            "Find out where the guest runs (instances.host in each row), and archive the row of the"
            " other cell when no nova-compute reads it",
        )


def elsewhere(facts: Facts) -> Iterator[Diagnosis]:
    homes = facts.first.homes
    if homes is None:
        return
    for uuid in sorted(homes.elsewhere):
        yield Diagnosis(
            f"instances:elsewhere:{uuid}",
            "error",
            facts.cell_name(min(homes.rows[uuid])),
            f"instance {uuid} is in {facts.cell_name(min(homes.rows[uuid]))} and mapped to"
            f" {facts.cell_name(homes.mapped[uuid])}",
            "The API looks in the mapped cell, finds nothing and answers 404",
            "Check with nova-manage cell_v2 verify_instance; correct its cell_id in instance_mappings",
        )


def missing(facts: Facts) -> Iterator[Diagnosis]:
    homes = facts.first.homes
    if homes and homes.missing:
        yield Diagnosis(
            "instances:missing",
            "error",
            "nova_api",
            f"{len(homes.missing)} instances are mapped to a cell that has no row of them:"
            f" {some(homes.missing)}",
            "The API answers 404 for them while mappings and quota still count them",
            "Look for the rows (shadow_instances after an archive); purge the mapping when the instance"
            " is gone: nova-manage db archive_deleted_rows --all-cells --purge",
        )


def nowhere(facts: Facts) -> Iterator[Diagnosis]:
    homes = facts.first.homes
    if homes and homes.nowhere:
        yield Diagnosis(
            "instances:nowhere",
            "warning",
            "nova_api",
            f"{len(homes.nowhere)} instances are mapped to no cell and nothing builds them:"
            f" {some(homes.nowhere)}",
            "A build died between API and scheduler; quota may count them and no user can delete them",
            "See nova-conductor's log at the time of the build, then delete the mapping",
        )


def hostless(facts: Facts) -> Iterator[Diagnosis]:
    """Guests on a host that has no nova-compute record in their cell."""
    if facts.first.guests is None:
        return
    known = {(r.cell, r.host) for r in facts.deployment.records if r.binary == "nova-compute"}
    seen = {r.cell for r in facts.deployment.records if r.binary == "nova-compute"}
    lost: dict[tuple[str, str], list[str]] = {}
    for guest in facts.first.guests:
        if guest.cell in seen and (guest.cell, guest.host) not in known:
            lost.setdefault((guest.cell, guest.host), []).append(guest.uuid)
    for (cell, host), uuids in sorted(lost.items()):
        yield Diagnosis(
            f"instances:hostless:{host}",
            "error",
            facts.cell_name(cell),
            f"{len(uuids)} instances are on {host}, which has no nova-compute record in"
            f" {facts.cell_name(cell)}: {some(uuids)}",
            "Every action on them waits for a compute that Nova doesn't know",
            f"Start nova-compute on {host} with [DEFAULT] host = {host}, or evacuate them",
        )


RULES = (unmapped, unassigned, doubled, elsewhere, missing, nowhere, hostless)
