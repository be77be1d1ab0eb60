"""Placement against Nova: providers, compute nodes, allocations."""

from __future__ import annotations

from collections.abc import Iterator

from recell.doctor.rules.words import some
from recell.model.health import Diagnosis, Facts, Provider


def without_host(facts: Facts) -> Iterator[Diagnosis]:
    look = facts.first
    if look.placement is None or look.nodes is None or not facts.whole:
        return
    uuids = {n.uuid for n in look.nodes}
    names = {n.hypervisor for n in look.nodes}
    for p in look.placement.providers:
        if p.uuid in uuids or p.shared or p.name in names:
            continue
        yield Diagnosis(
            f"placement:provider:{p.name}",
            "warning",
            "placement",
            f"the resource provider {p.name} ({p.uuid}) has no compute node in any cell"
            + (f", and {len(p.consumers)} consumers" if p.consumers else ""),
            "Placement offers it to the scheduler; what it holds is never given back",
            f"openstack resource provider delete {p.uuid}, after its allocations; leave it if another"
            " service made it",
        )


def taken_name(facts: Facts) -> Iterator[Diagnosis]:
    look = facts.first
    if look.placement is None or look.nodes is None:
        return
    by_name = {p.name: p for p in look.placement.providers}
    uuids = {p.uuid for p in look.placement.providers}
    for n in look.nodes:
        other = by_name.get(n.hypervisor)
        if other and n.uuid not in uuids:
            yield Diagnosis(
                f"placement:name:{n.hypervisor}",
                "error",
                "placement",
                f"{n.hypervisor} is compute node {n.uuid} in Nova and provider {other.uuid} in placement",
                "nova-compute can't make its own provider (409), so the host takes no instance",
                f"Move the allocations of {other.uuid} away and delete it; nova-compute makes a new one",
            )


def without_provider(facts: Facts) -> Iterator[Diagnosis]:
    look = facts.first
    if look.placement is None or look.nodes is None:
        return
    uuids = {p.uuid for p in look.placement.providers}
    names = {p.name for p in look.placement.providers}
    for n in look.nodes:
        if n.uuid not in uuids and n.hypervisor not in names:
            yield Diagnosis(
                f"placement:no-provider:{n.hypervisor}",
                "error",
                facts.cell_name(n.cell),
                f"the compute node {n.hypervisor} has no resource provider",
                "The scheduler never sees this host",
                f"Restart nova-compute on {n.host}; see its log for what placement answered",
            )


def _ours(facts: Facts) -> list[Provider]:
    """Providers of Nova's own nodes."""
    look = facts.first
    uuids = {n.uuid for n in look.nodes or ()}
    return [p for p in look.placement.providers if p.uuid in uuids] if look.placement else []


def orphans(facts: Facts) -> Iterator[Diagnosis]:
    look = facts.first
    if look.homes is None or look.moves is None or not facts.whole:
        return  # An instance of a cell that doesn't answer is not an orphan.
    known = look.homes.rows.keys() | look.homes.building | look.moves | look.homes.mapped.keys()
    for p in _ours(facts):
        lost = p.consumers - known
        if lost:
            yield Diagnosis(
                f"placement:orphans:{p.name}",
                "warning",
                p.name,
                f"{len(lost)} allocations on {p.name} belong to no instance and no migration: {some(lost)}",
                "The host looks fuller than it is",
                "nova-manage placement audit --verbose, then --delete",
            )


def unallocated(facts: Facts) -> Iterator[Diagnosis]:
    look = facts.first
    if look.placement is None or look.guests is None or look.homes is None:
        return
    holders = {u for p in look.placement.providers for u in p.consumers}
    bare = [g.uuid for g in look.guests if g.uuid not in holders and g.uuid not in look.homes.building]
    if bare:
        yield Diagnosis(
            "placement:unallocated",
            "error",
            "placement",
            f"{len(bare)} instances on a host have no allocation: {some(bare)}",
            "The scheduler gives their room away a second time",
            "nova-manage placement heal_allocations --dry-run, then without",
        )


RULES = (without_host, taken_name, without_provider, orphans, unallocated)
