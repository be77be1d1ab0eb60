"""Take the API database away from cell1's conductor, in the one order in which nobody asks in vain.

Computes first learn not to ask ([workarounds] disable_group_policy_check_upcall) and lose an
[api_database] of their own (with one they don't start once their conductor has none), each restarted
once; only then do the conductors lose theirs, one after the other. nova-api publishes to the other
broker by then: a conductor without API database never takes what it sends.
"""

from __future__ import annotations

from typing import Any

from recell.model.deployment import NovaService
from recell.model.plan import Acts
from recell.planning.changes import Change
from recell.planning.draft import Draft, Facts, cell_path, edited_file, where_it_counts

DISABLE: Change = {
    "section": "workarounds",
    "option": "disable_group_policy_check_upcall",
    "op": "set",
    "value": "true",
}
UNSET: Change = {"section": "api_database", "option": "connection", "op": "unset"}


def change_compute(
    draft: Draft, s: NovaService, mark: str, changes: list[Change], cell: str, on: dict[str, Any], notice: str
) -> None:
    """One nova-compute gets other settings, and its one restart. ``on``: its broker and vhost."""
    path = where_it_counts(s, changes)
    recycle: dict[str, Any] = {
        "unit": s.unit, "nova_host": s.nova_host, "cell": cell, "reads": list(s.config_files), **on,
    }  # fmt: skip
    draft.add(
        f"{s.host}/undo-{s.unit}",
        "recycle-compute",
        s.host,
        f"restart {s.unit} (on undo, after its file is put back)",
        notice=notice,
        undone="(acts on undo only)",
        acts="backward",
        estimate=20,
        **recycle,
    )
    draft.edit(f"{s.host}/{mark}", s.host, path, changes)
    draft.add(
        f"{s.host}/{s.unit}",
        "recycle-compute",
        s.host,
        f"restart {s.unit} at a moment without tasks; guests go on",
        notice=notice,
        undone="restarted with its old file",
        acts="forward",
        estimate=20,
        **recycle,
    )


def remove_api_database(facts: Facts, draft: Draft) -> None:
    for s in facts.deployment.role("compute"):
        if not s.active:
            continue
        change_compute(
            draft,
            s,
            "upcall-conf",
            [DISABLE, *([UNSET] if s.api_database else [])],
            facts.cell.uuid,
            {"broker": facts.old.name, "vhost": facts.old_vhost},
            "requests for its instances wait until it is back; if recell is killed just then, a reboot may be"
            " forgotten, and a stop or start has to be asked for again",
        )
    shared = {(s.host, edited_file(s)) for s in facts.api_level}
    readers: dict[tuple[str, str], list[NovaService]] = {}
    for s in facts.conductors:
        path = edited_file(s)
        path = cell_path(facts, path) if (s.host, path) in shared else path
        readers.setdefault((s.host, path), []).append(s)
    for (host, path), mine in readers.items():
        for s in mine:
            _restart_conductor(facts, draft, s, path, "backward")
        draft.edit(f"{host}/no-api-database", host, path, [UNSET])
        for s in mine:
            _restart_conductor(facts, draft, s, path, "forward")


def _restart_conductor(facts: Facts, draft: Draft, s: NovaService, path: str, acts: Acts) -> None:
    here = {"broker": facts.old.name, "vhost": facts.old_vhost}
    forward = acts == "forward"
    draft.add(
        f"{s.host}/{s.unit}" if forward else f"{s.host}/undo-{s.unit}",
        "restart-rpc",
        s.host,
        f"restart {s.unit}, losing no message"
        if forward
        else f"restart {s.unit} (on undo, after its file is put back), losing no message",
        undone="restarted with its old file" if forward else "(acts on undo only)",
        acts=acts,
        estimate=15,
        unit=s.unit,
        topics=["conductor"],
        nova_host=s.nova_host,
        old=here,
        new=here,
        reads=[path],
    )
