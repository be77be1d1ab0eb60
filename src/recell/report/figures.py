"""The counting: from requests, Nova's own records and guests' processes to figures. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import NamedTuple

from recell.model.measure import (
    ApiFigures,
    GuestFigures,
    OperationFigures,
    UserRequest,
    Window,
)

# What Nova names the action of an acknowledged request, and what the guest's journal names it.
_ACTION: Mapping[str, str] = {
    "boot": "create", "delete": "delete", "stop": "stop", "start": "start",
    "reboot-soft": "reboot", "reboot-hard": "reboot", "resize": "resize", "migrate": "migrate",
    "resize-confirm": "confirmResize", "resize-revert": "revertResize",
    "live-migrate": "live-migration",
}
_JOURNAL: Mapping[str, str] = {
    "boot": "spawn", "stop": "power_off", "start": "power_on", "reboot-soft": "reboot",
    "reboot-hard": "reboot",
}
# Kinds that may give a guest another process, or none.
_ENDS_PROCESS = frozenset({
    "boot", "delete", "stop", "start", "reboot-soft", "reboot-hard", "resize", "resize-confirm",
    "resize-revert", "migrate", "live-migrate",
})


@dataclass(frozen=True)
class ActionEvent:
    """A row of instance_actions_events. ``result`` is empty while it is unfinished."""

    event: str
    result: str


@dataclass(frozen=True)
class Action:
    """A row of instance_actions in one cell, with its events."""

    request_id: str
    instance: str
    action: str
    cell: str
    events: tuple[ActionEvent, ...] = ()


@dataclass(frozen=True)
class InstanceRecord:
    """A row of instances in one cell, deleted ones too. ``host``: as Nova names it."""

    uuid: str
    cell: str
    vm_state: str
    task_state: str
    host: str
    deleted: bool


@dataclass(frozen=True)
class JournalLine:
    """A line of a guest's own journal on its host. ``request_id`` is empty where none was known."""

    instance: str
    op: str
    request_id: str
    at: float


@dataclass(frozen=True)
class MetadataRow:
    """A row of instance_metadata. ``value`` is what Nova stored."""

    instance: str
    key: str
    value: str
    deleted: bool


class GuestProcess(NamedTuple):
    """Where a guest runs: Nova's name of the host. Another pid or start means: restarted."""

    host: str
    pid: int
    start_ticks: int


Guests = Mapping[str, tuple[GuestProcess, ...]]


def in_window(requests: Iterable[UserRequest], window: Window) -> tuple[UserRequest, ...]:
    """The users' requests that were sent in the window; those of the setup are not users'."""
    return tuple(r for r in requests if r.phase != "setup" and window.holds(r.t0))


def api_figures(requests: Sequence[UserRequest]) -> ApiFigures:
    """p99 is the smallest wait that 99 of 100 requests did not exceed (nearest rank)."""
    waits = sorted(r.dur_s for r in requests)
    failed = [r for r in requests if not r.ok]
    return ApiFigures(
        requests=len(requests), failed=len(failed),
        longest_wait_s=waits[-1] if waits else None,
        p99_s=waits[ceil(0.99 * len(waits)) - 1] if waits else None,
        failures=tuple(asdict(r) for r in failed[:20]),
    )


# -- operations --------------------------------------------------------------------------------

def operation_figures(
    requests: Sequence[UserRequest], *, actions: Iterable[Action],
    instances: Iterable[InstanceRecord], journal: Iterable[JournalLine] | None,
    metadata: Iterable[MetadataRow],
) -> OperationFigures:
    """Every acknowledged change against Nova's records and the guests' own.

    :param requests: all changes since the instances' beginning as far as known; later ones decide
        what must be left of earlier ones.
    :param journal: None when guests keep none (then Nova's records alone decide).
    """
    acknowledged = sorted((r for r in requests if r.acknowledged), key=lambda r: r.t0 + r.dur_s)
    by_request: dict[tuple[str, str], list[Action]] = defaultdict(list)
    for action in actions:
        by_request[action.request_id, action.instance].append(action)
    records: dict[str, list[InstanceRecord]] = defaultdict(list)
    for record in instances:
        records[record.uuid].append(record)
    lines = None if journal is None else _Journal(journal, {r.req_id for r in requests})
    rows: dict[str, list[MetadataRow]] = defaultdict(list)
    for row in metadata:
        rows[row.instance].append(row)
    last_metadata = {(r.instance, r.detail.get("key")): r for r in requests
                     if r.kind.startswith("metadata")}
    lost: list[dict[str, str]] = []
    twice: list[dict[str, str]] = []
    for request in acknowledged:
        if request.kind.startswith("metadata"):
            current = last_metadata[request.instance, request.detail.get("key")] is request
            living = any(not r.deleted for r in records[request.instance])
            missing = _metadata_lost(request, rows[request.instance], living) if current else ""
            double = _metadata_twice(request, rows[request.instance]) if current else ""
        else:
            found = by_request[request.req_id, request.instance]
            missing = _action_lost(request, found, records[request.instance]) \
                or (lines.missing(request) if lines else "")
            double = _action_twice(found, records[request.instance]) \
                or (lines.doubled(request) if lines else "")
        for why, where in ((missing, lost), (double, twice)):
            if why:
                where.append({"req_id": request.req_id, "kind": request.kind,
                              "instance": request.instance, "why": why})
    return OperationFigures(len(acknowledged), len(lost), len(twice), tuple(lost), tuple(twice))


def _successes(actions: Iterable[Action]) -> Counter[str]:
    return Counter(e.event for a in actions for e in a.events if e.result.lower() == "success")


def _action_lost(
    request: UserRequest, actions: Sequence[Action], records: Sequence[InstanceRecord],
) -> str:
    if request.kind == "delete":
        # A delete whose compute is away is done by the API in the database, without any event.
        living = [r for r in records if not r.deleted]
        return f"still there in {living[0].cell}" if living else ""
    if not actions:
        return "no instance action has its request id"
    wanted = _ACTION.get(request.kind)
    if wanted and all(a.action != wanted for a in actions):
        return f"its instance action is {actions[0].action}, not {wanted}"
    done = _successes(actions)
    if not any(name.startswith("compute_") for name in done):
        results = sorted({e.result or "unfinished" for a in actions for e in a.events})
        return "no compute event" if not results else f"events ended in {', '.join(results)}"
    if request.kind == "boot" and not any(
            r.deleted or r.vm_state not in ("building", "error") for r in records):
        return "its instance never became active" if records else "it has no instance"
    return ""


def _action_twice(actions: Sequence[Action], records: Sequence[InstanceRecord]) -> str:
    if len(actions) > 1:
        return f"{len(actions)} instance actions have its request id"
    repeated = [name for name, count in _successes(actions).items() if count > 1]
    if repeated:
        return f"{repeated[0]} succeeded {_successes(actions)[repeated[0]]} times"
    living = [r.cell for r in records if not r.deleted]
    return f"its instance is in {' and '.join(sorted(living))}" if len(living) > 1 else ""


def _metadata_lost(request: UserRequest, rows: Sequence[MetadataRow], living: bool) -> str:
    key, value = request.detail.get("key", ""), request.detail.get("value", "")
    fitting = [r for r in rows if r.key == key]
    if request.kind == "metadata-delete":
        return "" if all(r.deleted for r in fitting) else f"{key} is still set"
    # Deleted together with its instance is fine: it had been stored.
    if any(r.value == value and not (r.deleted and living) for r in fitting):
        return ""
    return f"{key} is not {value}"


def _metadata_twice(request: UserRequest, rows: Sequence[MetadataRow]) -> str:
    key = request.detail.get("key", "")
    count = sum(r.key == key and not r.deleted for r in rows)
    return f"{key} is there {count} times" if count > 1 else ""


class _Journal:
    """Guests' own lines: by request id where it is a user's, else by instance and op."""

    def __init__(self, lines: Iterable[JournalLine], known: Container[str]) -> None:
        self._named: Counter[tuple[str, str, str]] = Counter()
        self._nameless: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._instances: set[str] = set()
        for line in lines:
            self._instances.add(line.instance)
            if line.request_id in known:
                self._named[line.instance, line.op, line.request_id] += 1
            else:
                self._nameless[line.instance, line.op].append(line.at)

    def missing(self, request: UserRequest) -> str:
        """A driver call under no user's request id (nova-compute was restarted and goes on with
        what it finds under way) stands for one request that came before it."""
        op = _JOURNAL.get(request.kind)
        # A guest that was deleted may have taken its journal with it.
        if op is None or request.instance not in self._instances \
                or self._named[request.instance, op, request.req_id]:
            return ""
        later = [at for at in self._nameless[request.instance, op] if at >= request.t0]
        if later:
            self._nameless[request.instance, op].remove(later[0])
            return ""
        return f"the guest's journal has no {op} of it"

    def doubled(self, request: UserRequest) -> str:
        op = _JOURNAL.get(request.kind)
        count = self._named[request.instance, op, request.req_id] if op else 0
        return f"the guest's journal has {count} {op} of it" if count > 1 else ""


# -- guests ------------------------------------------------------------------------------------

def guest_figures(
    before: Guests, after: Guests, instances: Iterable[InstanceRecord],
    requests: Iterable[UserRequest],
) -> GuestFigures:
    """Guests' processes before and after, against what users asked for and what Nova believes.

    A guest is `missing` when Nova holds it for active and at rest, and it does not run where Nova
    says, or when it ran before and ended without anybody having asked. It is `restarted` when it
    runs as another process that nobody asked for, or as two at once.
    """
    asked = {r.instance for r in requests if r.kind in _ENDS_PROCESS and (
        r.acknowledged or not r.ok)}
    restarted: dict[str, str] = {}
    missing: dict[str, str] = {}
    for uuid, was in before.items():
        now = after.get(uuid, ())
        if uuid in asked:
            continue
        if not now:
            missing[uuid] = f"ran on {was[0].host}, ended without a request"
        elif set(was) != set(now):
            restarted[uuid] = f"was {_where(was)}, is {_where(now)}"
    for uuid, now in after.items():
        if len(now) > 1:
            restarted[uuid] = f"runs {len(now)} times: {_where(now)}"
    for record in instances:
        if record.deleted or record.vm_state != "active" or record.task_state:
            continue
        here = after.get(record.uuid, ())
        if not here:
            missing.setdefault(record.uuid, f"active on {record.host} in {record.cell}, no process")
        elif all(g.host != record.host for g in here):
            missing.setdefault(
                record.uuid, f"active on {record.host} in {record.cell}, runs on {here[0].host}")
    return GuestFigures(
        total=len(before), restarted=len(restarted), missing=len(missing),
        restarted_ids=_listed(restarted), missing_ids=_listed(missing),
    )


def _where(guests: Iterable[GuestProcess]) -> str:
    return ", ".join(f"pid {g.pid} on {g.host}" for g in sorted(guests))


def _listed(found: Mapping[str, str]) -> tuple[dict[str, str], ...]:
    return tuple({"instance": uuid, "why": why} for uuid, why in sorted(found.items()))
