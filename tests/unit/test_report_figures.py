"""Each kind of harm is counted as what it is, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from recell.model.measure import UserRequest, Window
from recell.report.figures import (
    Action,
    ActionEvent,
    GuestProcess,
    InstanceRecord,
    JournalLine,
    MetadataRow,
    api_figures,
    guest_figures,
    in_window,
    operation_figures,
)

EVENTS = {"stop": "compute_stop_instance", "start": "compute_start_instance",
          "reboot-soft": "compute_reboot_instance", "delete": "compute_terminate_instance",
          "boot": "compute__do_build_and_run_instance"}
NAMES = {"reboot-soft": "reboot", "boot": "create"}
OPS = {"stop": "power_off", "start": "power_on", "reboot-soft": "reboot", "boot": "spawn",
       "delete": "destroy"}


def _request(kind: str, instance: str, t0: float, status: int = 202, **more: Any) -> UserRequest:
    ok = more.pop("ok", True)
    return UserRequest(t0=t0, dur_s=0.2, kind=kind, method="POST", instance=instance,
                       status=status, req_id=f"req-{instance}-{t0:g}", ok=ok, **more)


def _action(request: UserRequest, *results: str, cell: str = "cell1") -> Action:
    return Action(request.req_id, request.instance, NAMES.get(request.kind, request.kind), cell,
                  tuple(ActionEvent(EVENTS[request.kind], r) for r in results or ("Success",)))


def _line(request: UserRequest, req_id: str | None = None) -> JournalLine:
    return JournalLine(request.instance, OPS[request.kind],
                       request.req_id if req_id is None else req_id, request.t0 + 1)


def _record(uuid: str, **more: Any) -> InstanceRecord:
    return replace(InstanceRecord(uuid, "cell1", "active", "", "cmp1", False), **more)


def _count(requests: list[UserRequest], actions: list[Action], *,
           instances: list[InstanceRecord] | None = None,
           journal: list[JournalLine] | None = None,
           metadata: list[MetadataRow] | None = None) -> tuple[int, int, int, Mapping[str, str]]:
    uuids = {r.instance for r in requests}
    found = operation_figures(
        requests, actions=actions,
        instances=[_record(u) for u in uuids] if instances is None else instances,
        journal=journal, metadata=metadata or [])
    whys = {o["req_id"]: o["why"] for o in (*found.lost_ids, *found.duplicated_ids)}
    return found.acknowledged, found.lost, found.duplicated, whys


def test_api_figures() -> None:
    requests = [replace(_request("list", "", i), dur_s=i / 100) for i in range(1, 101)]
    requests[3] = replace(requests[3], ok=False, why="short")
    figures = api_figures(requests)
    assert (figures.requests, figures.failed) == (100, 1)
    assert (figures.longest_wait_s, figures.p99_s) == (1.0, 0.99)
    assert figures.failures[0]["why"] == "short"
    assert api_figures([]).p99_s is None


@settings(deadline=None)
@given(st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=300))
def test_p99_is_a_wait_that_99_of_100_did_not_exceed(waits: list[float]) -> None:
    figures = api_figures([replace(_request("list", "", 1), dur_s=w) for w in waits])
    assert figures.p99_s in waits
    assert sum(w <= (figures.p99_s or 0) for w in waits) >= 0.99 * len(waits)
    assert figures.longest_wait_s == max(waits)


def test_only_users_requests_of_the_window_are_measured() -> None:
    requests = [_request("list", "", 5), _request("list", "", 15),
                _request("boot", "a", 15, phase="setup"), _request("list", "", 25)]
    assert in_window(requests, Window(10, 20)) == (requests[1],)


def test_what_was_done_once_is_neither_lost_nor_doubled() -> None:
    requests = [_request(kind, f"i-{kind}", 10) for kind in EVENTS]
    instances = [_record(r.instance, deleted=r.kind == "delete") for r in requests]
    counted = _count(requests, [_action(r) for r in requests], instances=instances,
                     journal=[_line(r) for r in requests])
    assert counted == (5, 0, 0, {})


def test_a_cast_that_vanished_is_lost() -> None:
    request = _request("reboot-soft", "a", 10)
    nothing = replace(_action(request), events=())
    assert _count([request], [nothing])[1:3] == (1, 0)
    assert "no compute event" in _count([request], [nothing])[3][request.req_id]
    assert _count([request], [])[1] == 1
    assert _count([request], [_action(request, "")])[1] == 1  # begun, never finished
    assert _count([request], [_action(request, "Error")])[1] == 1


def test_a_retry_after_an_error_counts_once() -> None:
    request = _request("boot", "a", 10)
    assert _count([request], [_action(request, "Error", "Success")])[1:3] == (0, 0)


def test_what_was_done_twice_is_doubled() -> None:
    request = _request("reboot-soft", "a", 10)
    assert _count([request], [_action(request, "Success", "Success")])[1:3] == (0, 1)
    assert _count([request], [_action(request), _action(request, cell="cell0")])[1:3] == (0, 1)
    lines = [_line(request), _line(request)]
    assert _count([request], [_action(request)], journal=lines)[1:3] == (0, 1)
    boot = _request("boot", "b", 10)
    both = [_record("b"), _record("b", cell="cell2")]
    assert _count([boot], [_action(boot)], instances=both)[1:3] == (0, 1)


def test_the_guest_itself_is_asked() -> None:
    stop = _request("stop", "a", 10)
    other = JournalLine("a", "spawn", "req-0", 1)
    assert _count([stop], [_action(stop)], journal=[other])[1] == 1
    # nova-compute restarted and went on with it under a request id of its own, or none.
    assert _count([stop], [_action(stop)], journal=[other, _line(stop, "")])[1] == 0
    assert _count([stop], [_action(stop)], journal=[other, _line(stop, "req-own")])[1] == 0
    early = replace(_line(stop, ""), at=5)
    assert _count([stop], [_action(stop)], journal=[other, early])[1] == 1
    # One nameless line does not stand for two requests.
    again = _request("stop", "a", 20)
    lines = [other, replace(_line(stop, ""), at=30)]
    assert _count([stop, again], [_action(stop), _action(again)], journal=lines)[1] == 1
    # A deleted guest may have taken its journal with it.
    assert _count([stop], [_action(stop)], journal=[])[1] == 0


def test_boots_and_deletes_are_judged_by_their_instance() -> None:
    boot = _request("boot", "a", 10)
    for bad in ([], [_record("a", vm_state="error")], [_record("a", vm_state="building")]):
        assert _count([boot], [_action(boot)], instances=bad)[1] == 1
    assert _count([boot], [_action(boot)], instances=[_record("a", deleted=True)])[1] == 0
    delete = _request("delete", "a", 20, 204)
    assert _count([delete], [])[1] == 1
    assert _count([delete], [], instances=[_record("a", deleted=True)])[1] == 0
    assert _count([delete], [], instances=[])[1] == 0


def test_the_last_word_on_a_metadata_key_must_stand() -> None:
    first = _request("metadata-set", "a", 10, 200, detail={"key": "k", "value": "1"})
    second = _request("metadata-set", "a", 20, 200, detail={"key": "k", "value": "2"})
    both = [first, second]
    assert _count(both, [], metadata=[MetadataRow("a", "k", "2", False)])[:3] == (2, 0, 0)
    assert _count(both, [], metadata=[MetadataRow("a", "k", "1", False)])[1] == 1
    assert _count(both, [], metadata=[])[1] == 1
    assert _count(both, [], metadata=[MetadataRow("a", "k", "2", True)])[1] == 1
    gone = [_record("a", deleted=True)]
    assert _count(both, [], metadata=[MetadataRow("a", "k", "2", True)], instances=gone)[1] == 0
    assert _count(both, [], metadata=[MetadataRow("a", "k", "2", False)] * 2)[1:3] == (0, 1)
    unsure = replace(second, ok=False, status=0)
    assert _count([first, unsure], [], metadata=[])[:2] == (1, 0)
    removed = _request("metadata-delete", "a", 30, 204, detail={"key": "k"})
    assert _count([first, removed], [], metadata=[MetadataRow("a", "k", "1", True)])[1] == 0
    assert _count([first, removed], [], metadata=[MetadataRow("a", "k", "1", False)])[1] == 1


def test_what_was_not_acknowledged_is_not_counted() -> None:
    assert _count([_request("stop", "a", 1, 500, ok=False), _request("list", "", 2, 200)],
                  [])[:3] == (0, 0, 0)


@settings(deadline=None)
@given(st.data())
def test_lost_and_doubled_are_found_in_any_mixture(data: st.DataObject) -> None:
    requests, actions, lost, twice = [], [], 0, 0
    for number in range(data.draw(st.integers(0, 30))):
        kind = data.draw(st.sampled_from(["stop", "start", "reboot-soft"]))
        request = _request(kind, f"i{number % 7}", number)
        fate = data.draw(st.sampled_from(["once", "once", "never", "twice", "refused"]))
        if fate == "refused":
            request = replace(request, ok=False, status=409)
        else:
            results = {"once": ("Success",), "never": ("",), "twice": ("Success", "Success")}
            actions.append(_action(request, *results[fate]))
        lost += fate == "never"
        twice += fate == "twice"
        requests.append(request)
    assert _count(requests, actions)[1:3] == (lost, twice)


G1, G2, G3 = GuestProcess("cmp1", 10, 5), GuestProcess("cmp1", 11, 9), GuestProcess("cmp2", 7, 3)


def _guests(before: dict[str, tuple[GuestProcess, ...]], after: dict[str, tuple[GuestProcess, ...]],
            *requests: UserRequest, records: list[InstanceRecord] | None = None) -> tuple[int, int]:
    figures = guest_figures(before, after, records or [], requests)
    assert figures.total == len(before)
    return figures.restarted, figures.missing


def test_guests_that_nobody_touched_keep_their_process() -> None:
    assert _guests({"a": (G1,)}, {"a": (G1,)}, records=[_record("a")]) == (0, 0)
    assert _guests({"a": (G1,)}, {"a": (G2,)}, records=[_record("a")]) == (1, 0)
    assert _guests({"a": (G1,)}, {"a": (GuestProcess("cmp1", 10, 6),)}) == (1, 0)
    assert _guests({"a": (G1,)}, {}, records=[_record("a")]) == (0, 1)
    assert _guests({"a": (G1,)}, {}, records=[_record("a", vm_state="stopped")]) == (0, 1)


def test_guests_may_change_when_asked_to() -> None:
    reboot = _request("reboot-hard", "a", 5)
    assert _guests({"a": (G1,)}, {"a": (G2,)}, reboot, records=[_record("a")]) == (0, 0)
    assert _guests({"a": (G1,)}, {}, _request("delete", "a", 5, 204),
                   records=[_record("a", deleted=True)]) == (0, 0)
    assert _guests({"a": (G1,)}, {"a": (G2,)}, _request("metadata-set", "a", 5, 200)) == (1, 0)
    # Whoever asks for a reboot doesn't ask for a guest that is off afterwards.
    assert _guests({"a": (G1,)}, {}, reboot, records=[_record("a")]) == (0, 1)


def test_guests_run_once_and_where_nova_says() -> None:
    assert _guests({"a": (G1,)}, {"a": (G1, G3)}) == (1, 0)
    elsewhere = [_record("a", host="cmp1")]
    assert _guests({"a": (G3,)}, {"a": (G3,)}, records=elsewhere) == (0, 1)
    busy = [_record("a", task_state="powering-on")]
    assert _guests({}, {}, records=busy) == (0, 0)
