"""What is read from databases and hosts arrives as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from recell.adapters.ports import HostPort, NovaPort, ProcessInfo, RawMapping
from recell.errors import BadInput
from recell.model.measure import UserRequest, Window
from recell.report import collect
from recell.report.figures import ActionEvent, GuestProcess
from recell.report.measure import load_baseline, take_baseline, take_figures

U1 = "11111111-2222-3333-4444-555555555555"
U2 = "11111111-2222-3333-4444-666666666666"


class FakeHost:
    def __init__(self, name: str, *processes: tuple[int, int, tuple[str, ...]],
                 files: dict[str, bytes] | None = None) -> None:
        self.name = name
        self._processes = processes
        self._files = files or {}

    def processes(self) -> tuple[ProcessInfo, ...]:
        return tuple(ProcessInfo(pid, ppid, argv, "nova", 0.0, pid * 10, "")
                     for pid, ppid, argv in self._processes)

    def glob(self, pattern: str) -> tuple[str, ...]:
        assert pattern == collect.JOURNALS
        return tuple(self._files)

    def read(self, path: str) -> bytes | None:
        return self._files.get(path)

    @property
    def port(self) -> HostPort:
        return cast(HostPort, self)


class FakeNova:
    """Answers by the table that a statement reads."""

    def __init__(self, **tables: list[dict[str, Any]]) -> None:
        self.tables = tables
        self.args: list[Sequence[Any]] = []

    def mappings(self) -> tuple[RawMapping, ...]:
        return tuple(RawMapping(c, n, "", "mysql://", False) for c, n in (("c0", "cell0"), ("c1", "cell1")))

    def now(self) -> float:
        return 1000.0

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        self.args.append(args)
        assert sql.count("%s") == len(args)
        if cell != "c1" or "information_schema" in sql:
            return ()
        name = sql.partition(" FROM ")[2].split()[0]
        return tuple(self.tables.get(name, ()))

    @property
    def port(self) -> NovaPort:
        return cast(NovaPort, self)


def test_guests_are_found_by_their_argv() -> None:
    cmp1 = FakeHost(
        "cmp1",
        (5, 1, ("/usr/bin/qemu-system-x86_64", "-name", "guest=instance-1", "-uuid", U1)),
        (6, 5, ("/usr/bin/qemu-system-x86_64", "-uuid", U1)),
        (7, 1, ("python3", f"guest-{U2}")),
        (8, 1, ("tail", "-f", f"/var/lib/nova/guests/{U2}.jsonl")),
        (9, 1, ("guest-99999999-2222-3333-4444-555555555555",)))
    cmp2 = FakeHost("cmp2", (3, 1, (f"/opt/lab/guest-{U2}",)))
    found = collect.guest_processes([cmp1.port, cmp2.port], [U1, U2], {"cmp2": "cmp2.example"})
    assert found == {U1: (GuestProcess("cmp1", 5, 50),),
                     U2: (GuestProcess("cmp1", 7, 70), GuestProcess("cmp2.example", 3, 30))}


def test_journals() -> None:
    host = FakeHost("cmp1", files={f"/var/lib/nova/guests/{U1}.jsonl": (
        b'{"time": 5.5, "op": "spawn", "request_id": "req-1", "pid": 4}\n'
        b'{"time": 6, "op": "power_off", "request_id": null}\n{"ti')})
    lines = collect.guest_journals([host.port])
    assert lines is not None
    assert [(x.instance, x.op, x.request_id, x.at) for x in lines] == \
        [(U1, "spawn", "req-1", 5.5), (U1, "power_off", "", 6.0)]
    assert collect.guest_journals([FakeHost("cmp2").port]) is None


def test_actions_come_with_their_events() -> None:
    nova = FakeNova(
        instance_actions=[
            {"id": 1, "action": "stop", "instance_uuid": U1, "request_id": "req-1", "event_id": 1,
             "event": "compute_stop_instance", "result": "Success", "finish_time": "then"},
            {"id": 1, "action": "stop", "instance_uuid": U1, "request_id": "req-1", "event_id": 2,
             "event": "compute_stop_instance", "result": None, "finish_time": None},
            {"id": 2, "action": "start", "instance_uuid": U1, "request_id": "req-2",
             "event_id": None, "event": None, "result": None, "finish_time": None}],
        instances=[{"uuid": U1, "vm_state": "active", "task_state": None, "host": None,
                    "deleted": 0}],
        instance_metadata=[{"instance_uuid": U1, "key": "k", "value": "v", "deleted": 3}])
    records = collect.nova_records(nova.port, [f"req-{i}" for i in range(450)], [U1])
    assert records.actions[0].events == (ActionEvent("compute_stop_instance", "Success"),
                                         ActionEvent("compute_stop_instance", ""))
    assert next(a.events for a in records.actions if a.request_id == "req-2") == ()
    assert records.instances[0].cell == "cell1" and records.instances[0].host == ""
    assert records.metadata[0].deleted
    assert max(len(a) for a in nova.args) == 200


def test_a_baseline_survives_its_process(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no baseline"):
        load_baseline(tmp_path)
    nova = FakeNova(instances=[{"uuid": U1, "vm_state": "active", "task_state": None,
                                "host": "cmp1", "deleted": 0}])
    host = FakeHost("cmp1", (5, 1, (f"guest-{U1}",)))
    before = take_baseline(nova.port, [host.port], tmp_path)
    assert load_baseline(tmp_path) == before
    killed = FakeHost("cmp1")
    request = UserRequest(1001, 0.1, "list", "GET", "", 200, "r", True)
    figures = take_figures(before, [request], nova.port, [killed.port], Window(1000, 1060))
    assert figures.guests.missing == 1 and figures.guests.restarted == 0
    assert figures.api is not None and figures.api.requests == 1
    silent = take_figures(before, [], nova.port, [host.port], Window(1000, 1060), users=False)
    assert silent.api is None and silent.operations is None and silent.guests.missing == 0
