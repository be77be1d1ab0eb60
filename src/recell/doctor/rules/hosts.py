"""Compute hosts: one record, one mapping, one cell, one node."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.health import Diagnosis, Facts


def _homes(facts: Facts) -> dict[str, set[str]]:
    """host -> cells that have a nova-compute record of it."""
    out: dict[str, set[str]] = {}
    for r in facts.deployment.records:
        if r.binary == "nova-compute":
            out.setdefault(r.host, set()).add(r.cell)
    return out


def unmapped(facts: Facts) -> Iterator[Diagnosis]:
    if facts.host_mappings is None:
        return
    for host, cells in sorted(_homes(facts).items()):
        if not facts.host_mappings.get(host):
            yield Diagnosis(
                f"hosts:unmapped:{host}",
                "error",
                some(facts.cell_name(c) for c in cells),
                f"{host} runs nova-compute and is mapped to no cell",
                "The scheduler never chooses it, and nothing says so",
                "nova-manage cell_v2 discover_hosts --verbose",
            )


def mapped_elsewhere(facts: Facts) -> Iterator[Diagnosis]:
    if facts.host_mappings is None:
        return
    for host, cells in sorted(_homes(facts).items()):
        mapped = set(facts.host_mappings.get(host, ()))
        if mapped and len(cells) == 1 and mapped != cells:
            yield Diagnosis(
                f"hosts:elsewhere:{host}",
                "error",
                some(facts.cell_name(c) for c in cells),
                f"{host} has its record in {some(facts.cell_name(c) for c in cells)} and is mapped to"
                f" {some(facts.cell_name(c) for c in mapped)}",
                "Instances that are scheduled to it are created in a cell whose broker it doesn't hear",
                "When nova-compute reads the right cell: nova-manage cell_v2 delete_host, then"
                " discover_hosts; otherwise correct its transport_url",
            )


def in_two_cells(facts: Facts) -> Iterator[Diagnosis]:
    for host, cells in sorted(_homes(facts).items()):
        if len(cells) > 1:
            yield Diagnosis(
                f"hosts:doubled:{host}",
                "error",
                host,
                f"{host} has a nova-compute record in each of {some(facts.cell_name(c) for c in cells)}",
                "It was moved, or two hosts have one name: `running_deleted_instance_action` may reap guests"
                " that the other cell's rows call deleted",
                "Delete the record of the cell that it left: openstack compute service delete",
            )


def mapped_without_record(facts: Facts) -> Iterator[Diagnosis]:
    if facts.host_mappings is None:
        return
    seen = {c.uuid for c in facts.deployment.mappings} - _silent_cells(facts)
    for host, cells in sorted(facts.host_mappings.items()):
        if host not in _homes(facts) and set(cells) <= seen:
            yield Diagnosis(
                f"hosts:gone:{host}",
                "warning",
                some(facts.cell_name(c) for c in cells),
                f"{host} is mapped to {some(facts.cell_name(c) for c in cells)} and has no nova-compute"
                " record there",
                "It was removed halfway; one of the same name would not be mapped by discover_hosts",
                f"nova-manage cell_v2 delete_host --cell_uuid {cells[0]} --host {host}",
            )


def _silent_cells(facts: Facts) -> set[str]:
    """Cells whose database did not answer: their records are unknown, not absent."""
    named = {e.cell for e in facts.endpoints if e.kind == "database" and e.trouble}
    return {m.uuid for m in facts.deployment.mappings if m.uuid in named}


def node_without_service(facts: Facts) -> Iterator[Diagnosis]:
    homes = _homes(facts)
    for node in facts.first.nodes or ():
        if node.cell not in homes.get(node.host, set()):
            yield Diagnosis(
                f"hosts:node:{node.hypervisor}",
                "warning",
                facts.cell_name(node.cell),
                f"the compute node {node.hypervisor} of host {node.host} has no nova-compute record in"
                f" {facts.cell_name(node.cell)}",
                "`openstack hypervisor list` fails or lists a ghost, and placement keeps its provider",
                "Delete the row after checking that no instance is on it, then its resource provider",
            )


RULES = (unmapped, mapped_elsewhere, in_two_cells, mapped_without_record, node_without_service)
