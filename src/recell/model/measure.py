"""What a run is measured by: plain data between the probe, the collectors and the report.

Times are seconds since 1970 unless a name ends in ``_s``, which is a length in seconds. The keys of
``report.json`` are those of :class:`Measurement` and its figures; they are the same for every kind
of run, and what does not apply to a kind is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal["setup", "run", "settle"]
"""``setup``: before users are measured; ``settle``: no new changes, the last come to rest."""

CHANGES: frozenset[str] = frozenset({
    "boot", "delete", "stop", "start", "reboot-soft", "reboot-hard", "metadata-set",
    "metadata-delete", "resize", "resize-confirm", "resize-revert", "migrate", "live-migrate",
})
"""Kinds of request that ask Nova to change something."""


@dataclass(frozen=True)
class UserRequest:
    """One request of a user, as the probe saw it: a line of its JSONL file.

    ``t0``: when it was sent; ``late_s``: how long after its place in the schedule that was.
    ``status``: 0 when no answer came. ``ok`` is false for a wrong or short answer as well, ``why``
    says what was wrong. ``detail``: what else the accounting needs (a metadata key and its value).
    """

    t0: float
    dur_s: float
    kind: str
    method: str
    instance: str
    status: int
    req_id: str
    ok: bool
    why: str = ""
    phase: Phase = "run"
    late_s: float = 0.0
    detail: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        return self.kind in CHANGES

    @property
    def acknowledged(self) -> bool:
        """Nova promised to do it."""
        return self.changes and self.ok and 200 <= self.status < 300


@dataclass(frozen=True)
class Window:
    """What is measured. Stamps of rows and requests are compared with it."""

    start: float
    end: float

    def holds(self, when: float, slack_s: float = 0.0) -> bool:
        return self.start - slack_s <= when <= self.end + slack_s


@dataclass(frozen=True)
class StepRecord:
    """A step as it went. ``seconds`` over all attempts; ``verified``: what its verification said.

    ``started`` is None when it is not known; such a step has no bar in the timeline.
    """

    id: str
    title: str
    seconds: float
    attempts: int
    verified: str = ""
    started: float | None = None


@dataclass(frozen=True)
class ApiFigures:
    """What users got. ``longest_wait_s`` and ``p99_s`` are None when there was no request."""

    requests: int
    failed: int
    longest_wait_s: float | None
    p99_s: float | None
    failures: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class OperationFigures:
    """Acknowledged changes against what became of them.

    Beside the counts, the ids: one ``{req_id, kind, instance, why}`` each.
    """

    acknowledged: int
    lost: int
    duplicated: int
    lost_ids: tuple[dict[str, str], ...] = ()
    duplicated_ids: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class GuestFigures:
    """Guests' processes. ``total``: those that ran before. One ``{instance, why}`` per finding."""

    total: int
    restarted: int
    missing: int
    restarted_ids: tuple[dict[str, str], ...] = ()
    missing_ids: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class RowFigures:
    """Rows of Nova's databases. ``compared``: rows that were there before.

    ``differing``: changed or gone, and neither by Nova's own hand nor named by the plan.
    ``differences``: one ``{database, table, key, how}`` each (the first hundred).
    ``explained``: how many differ for which reason; ``appeared``: new rows, by table.
    """

    compared: int
    differing: int
    differences: tuple[dict[str, str], ...] = ()
    explained: Mapping[str, int] = field(default_factory=dict)
    appeared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TopologyService:
    """A service in a picture and where it runs. ``moving``: those of its hosts where it is restarted now."""

    role: str
    hosts: tuple[str, ...]
    moving: tuple[str, ...] = ()


@dataclass(frozen=True)
class TopologyGroup:
    """A level or a cell in a picture: its broker and database, its services, its computes.

    ``through``: the computes on which a run under way has nothing more to do.
    """

    name: str
    broker: str
    database: str
    services: tuple[TopologyService, ...] = ()
    computes: tuple[str, ...] = ()
    through: tuple[str, ...] = ()


Topology = tuple[TopologyGroup, ...]


@dataclass(frozen=True)
class HoldPart:
    """``at_s``: after the hold began."""

    what: str
    at_s: float
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """Everything that a report says about one run.

    ``kind``: split, database, cells-v1, move-hosts, ... ``outcome``: succeeded, undone, paused,
    failed or interrupted. ``requests`` and ``versions`` are for the page alone.

    ``freeze_s``: the longest time that senders were held; where a run held users' requests at a load
    balancer, that. ``hold``: what that time was spent on, the last attempt's; parts may overlap.
    """

    kind: str
    outcome: str
    window: Window
    duration_s: float
    api: ApiFigures | None = None
    operations: OperationFigures | None = None
    guests: GuestFigures | None = None
    rows: RowFigures | None = None
    freeze_s: float | None = None
    hold: tuple[HoldPart, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    requests: tuple[UserRequest, ...] = ()
    topology_before: Topology = ()
    topology_after: Topology = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def unharmed(self) -> bool:
        """Nothing that was measured was lost, failed, restarted, missing or changed."""
        bad = 0
        if self.api:
            bad += self.api.failed
        if self.operations:
            bad += self.operations.lost + self.operations.duplicated
        if self.guests:
            bad += self.guests.restarted + self.guests.missing
        if self.rows:
            bad += self.rows.differing
        return bad == 0
