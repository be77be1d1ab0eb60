"""Reading what the counting needs: Nova's records from its databases, guests from their hosts.

Read-only, through :class:`NovaPort` and :class:`HostPort`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recell.adapters.ports import HostPort, NovaPort
from recell.planning.database import can_be_read
from recell.report.figures import (
    Action,
    ActionEvent,
    GuestProcess,
    Guests,
    InstanceRecord,
    JournalLine,
    MetadataRow,
)

JOURNALS = "/var/lib/nova/guests/*.jsonl"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_CHUNK = 200


@dataclass(frozen=True)
class NovaRecords:
    """What Nova's cell databases say of some requests and of all instances."""

    actions: tuple[Action, ...]
    instances: tuple[InstanceRecord, ...]
    metadata: tuple[MetadataRow, ...]


def cells_of(nova: NovaPort) -> dict[str, str]:
    """Name to uuid of every mapped cell, cell0 too, disabled ones too; but for those that are of a kind
    that recell can't read: no plan has a part in them."""
    return {m.name or m.uuid: m.uuid for m in nova.mappings() if can_be_read(m.database_connection)}


def nova_records(nova: NovaPort, req_ids: Sequence[str], touched: Sequence[str]) -> NovaRecords:
    """Actions of these requests, metadata of touched instances, every instance of every cell."""
    actions: list[Action] = []
    instances: list[InstanceRecord] = []
    metadata: list[MetadataRow] = []
    for name, uuid in cells_of(nova).items():
        for some in _chunks(sorted(set(req_ids))):
            actions += _actions(nova, name, uuid, some)
        instances += [
            InstanceRecord(
                uuid=str(row["uuid"]), cell=name, vm_state=row["vm_state"] or "",
                task_state=row["task_state"] or "", host=row["host"] or "",
                deleted=bool(row["deleted"]))
            for row in nova.query(uuid, (
                "SELECT uuid, vm_state, task_state, host, deleted FROM instances"))]
        for some in _chunks(sorted(set(touched))):
            metadata += [
                MetadataRow(str(row["instance_uuid"]), str(row["key"]), str(row["value"]),
                            bool(row["deleted"]))
                for row in nova.query(
                    uuid,
                    "SELECT instance_uuid, `key`, value, deleted "  # noqa: S608 (only placeholders)
                    f"FROM instance_metadata WHERE instance_uuid IN ({_marks(some)})",
                    some)]
    return NovaRecords(tuple(actions), tuple(instances), tuple(metadata))


def _actions(nova: NovaPort, name: str, cell: str, req_ids: Sequence[str]) -> Iterator[Action]:
    rows = nova.query(
        cell,
        "SELECT a.id, a.action, a.instance_uuid, a.request_id, "  # noqa: S608 (only placeholders)
        "e.id AS event_id, e.event, e.result, e.finish_time FROM instance_actions a "
        "LEFT JOIN instance_actions_events e ON e.action_id = a.id "
        f"WHERE a.request_id IN ({_marks(req_ids)}) ORDER BY a.id, e.id", req_ids)
    grouped: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        grouped[row["id"]].append(row)
    for group in grouped.values():
        first = group[0]
        yield Action(
            request_id=str(first["request_id"]), instance=str(first["instance_uuid"]),
            action=str(first["action"]), cell=name,
            events=tuple(ActionEvent(str(r["event"]), str(r["result"] or "") if r["finish_time"]
                                     else "") for r in group if r["event_id"] is not None))


def guest_processes(
    hosts: Iterable[HostPort], uuids: Iterable[str], nova_names: Mapping[str, str] | None = None,
) -> Guests:
    """Processes of these instances on these hosts: those whose argv names one.

    QEMU carries ``-uuid X``. A process whose parent is one too is not counted: a guest may have
    helpers. ``nova_names``: what Nova calls a host, where that isn't its name here.
    """
    names = nova_names or {}
    wanted = set(uuids)
    found: dict[str, list[GuestProcess]] = defaultdict(list)
    for host in hosts:
        here: dict[int, tuple[str, int, int]] = {}
        for process in host.processes():
            named = {u for word in process.argv for u in _UUID.findall(word)} & wanted
            if len(named) == 1 and _is_guest(process.argv):
                here[process.pid] = (named.pop(), process.ppid, process.start_ticks)
        for pid, (uuid, parent, ticks) in here.items():
            if here.get(parent, ("",))[0] != uuid:
                found[uuid].append(GuestProcess(names.get(host.name, host.name), pid, ticks))
    return {uuid: tuple(sorted(guests)) for uuid, guests in found.items()}


def _is_guest(argv: Sequence[str]) -> bool:
    """A QEMU by its ``-uuid``, or a process that calls itself ``guest-<uuid>``."""
    return "-uuid" in argv or any(re.search(rf"(^|/)guest-{_UUID.pattern}", word) for word in argv)


def instance_uuids(nova: NovaPort) -> tuple[str, ...]:
    """All instances of all cells, deleted ones too: one of them may still run."""
    return tuple(sorted({str(row["uuid"]) for uuid in cells_of(nova).values()
                         for row in nova.query(uuid, "SELECT uuid FROM instances")}))


def guest_journals(hosts: Iterable[HostPort]) -> tuple[JournalLine, ...] | None:
    """The guests' own journals of all hosts; None when no guest keeps one."""
    lines: list[JournalLine] = []
    any_there = False
    for host in hosts:
        for path in host.glob(JOURNALS):
            any_there = True
            content = host.read(path) or b""
            uuid = path.rpartition("/")[2].removesuffix(".jsonl")
            for text in content.splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue  # the last line of a host that was cut off
                lines.append(JournalLine(
                    instance=uuid, op=str(line.get("op", "")),
                    request_id=str(line.get("request_id") or ""),
                    at=float(line.get("time") or line.get("at") or 0)))
    return tuple(lines) if any_there else None


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start:start + _CHUNK]


def _marks(items: Sequence[str]) -> str:
    return ", ".join(["%s"] * len(items))
