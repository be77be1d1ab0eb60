"""Cells of the first kind (Grizzly to Stein): a tree of whole Novas, joined by nova-cells.

No table lists them all: each has a database of its own, in which ``cells`` names its neighbours. Holds no
secret; URLs are shown ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SEPARATOR = "!"
"""Between the names of a path, from the API cell down: ``api!cell1``."""


@dataclass(frozen=True)
class CellRecord:
    """What one cell's nova-cells knows of a neighbour.

    ``state``: ``live``; ``deleted``; ``null`` when `deleted` is NULL, which Nova takes for deleted.
    ``names_vhost``: whether the stored URL says which virtual host it means.
    ``source``: ``cells`` (the table) or the file that ``[cells] cells_config`` names. ``id``: the row's.
    """

    name: str
    is_parent: bool
    transport_url: str
    state: Literal["live", "deleted", "null"] = "live"
    names_vhost: bool = True
    source: str = "cells"
    id: int = field(default=0, compare=False)


@dataclass(frozen=True)
class CellV1:
    """A cell, as its controllers' configuration and its database tell it.

    ``key``: the name, with the database after it where two cells have one name. ``cell_type``: api or
    compute, as most of its services have it. ``server``: host:port/database. ``host``, ``unit``: the
    service through whose configuration the database is reached. ``transport_url``: that of nova-cells.
    ``members``: (host, unit) of the services that read this database; others, nova-compute mostly, belong
    to the cell by their broker.
    """

    key: str
    name: str
    cell_type: str
    host: str
    unit: str
    server: str
    transport_url: str
    members: tuple[tuple[str, str], ...]
    records: tuple[CellRecord, ...] = ()

    @property
    def live(self) -> tuple[CellRecord, ...]:
        return tuple(r for r in self.records if r.state == "live")


@dataclass(frozen=True)
class InstanceRow:
    """A live row of a cell's ``instances``. ``cell_name``: "" for NULL. ``busy``: it has a task.

    ``states``: what the child tells the API cell about it, by column, as the database has it. ``quiet_s``:
    since the row was last written. ``updated``: when that was, seconds since 1970 by the server's clock, 0
    when it doesn't say.
    """

    cell_name: str
    host: str
    vm_state: str
    busy: bool
    age_s: float
    states: Mapping[str, Any] = field(default_factory=dict)
    quiet_s: float = 0.0
    updated: float = 0.0
    id: int = 0


@dataclass(frozen=True)
class Flavor:
    """``id`` is the number that rows of instances refer to; ``flavorid`` is what users name."""

    id: int
    flavorid: str
    name: str
    memory_mb: int
    vcpus: int
    root_gb: int
    ephemeral_gb: int
    swap: int


@dataclass(frozen=True)
class Room:
    """What a row of compute_nodes says is free, MiB and GiB."""

    host: str
    free_ram_mb: int
    free_disk_gb: int


@dataclass(frozen=True)
class Link:
    """An address in a cell's record of a neighbour, tried from the cell. ``trouble`` "": it answers."""

    holder: str
    name: str
    where: str
    trouble: str = ""


@dataclass(frozen=True)
class NullRow:
    """A row whose `deleted` is NULL, which Nova doesn't see. ``ended``: it has a `deleted_at`."""

    id: int
    ended: bool


@dataclass(frozen=True)
class StandingV1:
    """What stands still, by cell's key; a cell that could not be asked is missing. ``flavors``: by key and
    the table that they are in (``instance_types`` of the cell, or ``flavors`` of an API database).
    ``nulls``: rows whose `deleted` is NULL, by key and table."""

    flavors: dict[tuple[str, str], tuple[Flavor, ...]] = field(default_factory=dict)
    room: dict[str, tuple[Room, ...]] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    nulls: dict[tuple[str, str], tuple[NullRow, ...]] = field(default_factory=dict)


def path_of(cells: tuple[CellV1, ...], key: str) -> str:
    """A cell's full path (``api!cell1``), which the API cell writes into ``instances.cell_name``.

    Follows the cell's own record of its parent; a circle ends it.
    """
    by_name = {c.name: c for c in cells}
    cell = next(c for c in cells if c.key == key)
    names, seen = [cell.name], {cell.name}
    while parent := next((r.name for r in cell.live if r.is_parent), ""):
        if parent in seen:
            break
        names.append(parent)
        seen.add(parent)
        if parent not in by_name:
            break
        cell = by_name[parent]
    return SEPARATOR.join(reversed(names))
