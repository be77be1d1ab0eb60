"""What `recell doctor` looks at, beside a Deployment, and what it says about it. Holds no secret.

A fact that could not be learnt is not an empty one: it is named in ``Facts.unknown``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from recell.model.cells_v1 import InstanceRow, StandingV1
from recell.model.deployment import Deployment

Severity = Literal["error", "unknown", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "unknown", "warning", "note")


@dataclass(frozen=True)
class Diagnosis:
    """One finding. ``id`` is the same for the same finding in the same place at any time.

    ``error``: something fails, or will at the next use. ``warning``: it works and is not as it should
    be. ``note``: worth knowing, nothing is wrong. ``unknown``: a check that could not be made.
    """

    id: str
    severity: Severity
    where: str
    what: str
    why: str
    mend: str


@dataclass(frozen=True)
class Homes:
    """Where instances are, and where Nova's API believes them to be. Cells by uuid.

    ``rows``: instance -> the cells that have a live row. ``mapped``: instance -> the cell that it is
    mapped to, "" for none yet; mappings queued for deletion are left out. ``building``: instances
    with a build request, which have no place yet.
    """

    rows: dict[str, frozenset[str]] = field(default_factory=dict)
    mapped: dict[str, str] = field(default_factory=dict)
    building: frozenset[str] = frozenset()

    @property
    def unmapped(self) -> frozenset[str]:
        """A row, and no mapping."""
        return frozenset(u for u in self.rows if u not in self.mapped) - self.building

    @property
    def doubled(self) -> frozenset[str]:
        """Live rows in several cells."""
        return frozenset(u for u, cells in self.rows.items() if len(cells) > 1) - self.building

    @property
    def elsewhere(self) -> frozenset[str]:
        """One row, in another cell than the mapped one."""
        return (
            frozenset(
                u
                for u, cells in self.rows.items()
                if len(cells) == 1 and self.mapped.get(u) and self.mapped[u] not in cells
            )
            - self.building
        )

    @property
    def missing(self) -> frozenset[str]:
        """Mapped to a cell, and no row anywhere."""
        return frozenset(u for u, cell in self.mapped.items() if cell and u not in self.rows) - self.building

    @property
    def nowhere(self) -> frozenset[str]:
        """Mapped to no cell, no row, no build request: the API lists nothing, quota may count it."""
        lost = (u for u, cell in self.mapped.items() if not cell and u not in self.rows)
        return frozenset(lost) - self.building

    @property
    def unassigned(self) -> frozenset[str]:
        """A row, and a mapping that names no cell."""
        return frozenset(u for u in self.rows if self.mapped.get(u) == "") - self.building

    @property
    def wrong(self) -> frozenset[str]:
        """What `nova-manage cell_v2 verify_instance` would complain of."""
        return self.unmapped | self.doubled | self.elsewhere | self.missing


@dataclass(frozen=True)
class ComputeNode:
    """A live row of compute_nodes."""

    cell: str
    uuid: str
    host: str
    hypervisor: str


@dataclass(frozen=True)
class Guest:
    """An instance that should have an allocation: it has a host."""

    uuid: str
    cell: str
    host: str


@dataclass(frozen=True)
class DatabaseFacts:
    """One of Nova's databases. ``name``: "api" or the cell's. ``server``: host:port/database as shown.
    ``variables``: of the server. ``schema``: alembic's revision, "" when there is none.
    ``unmigrated``: rows that an online migration has still to change, by its name."""

    name: str
    server: str
    schema: str
    variables: dict[str, str] = field(default_factory=dict)
    unmigrated: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueFacts:
    broker: str
    vhost: str
    name: str
    ready: int
    consumers: int


@dataclass(frozen=True)
class Provider:
    """A root resource provider of placement. ``shared``: it serves other providers' consumers."""

    uuid: str
    name: str
    shared: bool
    consumers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Placement:
    providers: tuple[Provider, ...]


@dataclass(frozen=True)
class Moving:
    """What users change every second; looked at twice. None: could not be looked at.

    ``cells``: of cells v1 only, by key, instances by uuid; a cell that doesn't answer is missing.
    """

    at: float
    homes: Homes | None = None
    guests: tuple[Guest, ...] | None = None
    moves: frozenset[str] | None = None  # uuids of migrations that have not ended
    nodes: tuple[ComputeNode, ...] | None = None
    placement: Placement | None = None
    queues: tuple[QueueFacts, ...] = ()
    cells: dict[str, dict[str, InstanceRow]] = field(default_factory=dict)


@dataclass(frozen=True)
class MappingTimes:
    """When the row was made and last written, by this machine's clock; 0 when it doesn't say."""

    uuid: str
    made: float
    changed: float = 0.0


@dataclass(frozen=True)
class Running:
    """The process of a unit: what it was begun with, which need not be what its next start reads."""

    host: str
    unit: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Endpoint:
    """An address in a cell mapping (``cell`` "": in nova-api's own transport_url), tried from a
    controller. ``trouble`` "": it answers."""

    cell: str
    kind: Literal["broker", "database"]
    where: str
    trouble: str = ""


@dataclass(frozen=True)
class Unknown:
    """A question without an answer. ``area``: in a word; ``because``: the error's sentence."""

    area: str
    because: str
    remedy: str


@dataclass(frozen=True)
class Facts:
    """Everything that the rules may look at. ``packages``: host -> Nova's version there.
    ``host_mappings``: host -> cells' uuids (more than one only when the schema's key is gone).
    ``bound``: broker -> exchanges that have a queue bound. ``upgrade_check``: what nova-status said
    of itself, title -> (result, details). ``v1``: of cells v1 only."""

    deployment: Deployment
    first: Moving
    second: Moving
    host_mappings: dict[str, tuple[str, ...]] | None = None
    databases: tuple[DatabaseFacts, ...] = ()
    mapping_times: tuple[MappingTimes, ...] = ()
    running: tuple[Running, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    bound: dict[str, frozenset[str]] = field(default_factory=dict)
    upgrade_check: dict[str, tuple[str, str]] = field(default_factory=dict)
    unknown: tuple[Unknown, ...] = ()
    v1: StandingV1 = field(default_factory=StandingV1)

    @property
    def whole(self) -> bool:
        """Whether every cell's database answered: what is in none of them is nowhere."""
        return not any(e.trouble for e in self.endpoints if e.kind == "database")

    def cell_name(self, uuid: str) -> str:
        return next((m.name or m.uuid for m in self.deployment.mappings if m.uuid == uuid), uuid or "none")
