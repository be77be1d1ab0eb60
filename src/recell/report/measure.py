"""Measuring around a run: what there is before, and afterwards what became of it.

::

    before = take_baseline(nova, computes, directory)      # then begin; users may be at work
    ...                                                    # afterwards end the users' load, then
    figures = take_figures(before, requests, nova, computes, window)

The baseline is kept in its directory, so a run that is resumed by another process measures on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recell.adapters.ports import HostPort, NovaPort
from recell.errors import BadInput
from recell.model.measure import (
    ApiFigures,
    GuestFigures,
    OperationFigures,
    RowFigures,
    UserRequest,
    Window,
)
from recell.model.plan import ExpectedChange
from recell.report import collect, rows
from recell.report.figures import (
    GuestProcess,
    Guests,
    api_figures,
    guest_figures,
    in_window,
    operation_figures,
)

# A change that was acknowledged so long before the window may still have its effect in it.
_REACH_S = 300.0


@dataclass(frozen=True)
class Baseline:
    """What there was before. ``rows``: the snapshot's file."""

    taken: float
    guests: Guests
    rows: Path


@dataclass(frozen=True)
class Figures:
    """All figures of a run; ``api`` and ``operations`` are None when no users were measured."""

    api: ApiFigures | None
    operations: OperationFigures | None
    guests: GuestFigures
    rows: RowFigures


def take_baseline(
    nova: NovaPort, computes: Sequence[HostPort], directory: Path,
    nova_names: Mapping[str, str] | None = None,
) -> Baseline:
    """Look at everything and keep it in ``directory`` (before.json, before.sqlite).

    Taken again, it replaces what is there. :param nova_names: what Nova calls each compute host.
    """
    taken = nova.now()
    path = directory / "before.sqlite"
    path.unlink(missing_ok=True)
    guests = collect.guest_processes(computes, collect.instance_uuids(nova), nova_names)
    rows.snapshot(nova, path)
    content = {"taken": taken, "guests": {u: [list(g) for g in gs] for u, gs in guests.items()}}
    (directory / "before.json").write_text(json.dumps(content))
    return Baseline(taken, guests, path)


def load_baseline(directory: Path) -> Baseline:
    """:raises BadInput: none was kept there."""
    try:
        content = json.loads((directory / "before.json").read_text())
    except (OSError, ValueError):
        raise BadInput(f"{directory} holds no baseline", "Measure from the run's beginning") \
            from None
    guests = {u: tuple(GuestProcess(h, p, t) for h, p, t in gs)
              for u, gs in content["guests"].items()}
    return Baseline(content["taken"], guests, directory / "before.sqlite")


def take_figures(
    before: Baseline, requests: Iterable[UserRequest], nova: NovaPort,
    computes: Sequence[HostPort], window: Window, *,
    expected: Iterable[ExpectedChange] = (), nova_names: Mapping[str, str] | None = None,
    users: bool = True,
) -> Figures:
    """Look again and count. End the load first: what is under way would count as lost.

    :param requests: all of the probe's, also those of before the window.
    :param users: whether users were measured at all.
    """
    everything = tuple(requests)
    measured = in_window(everything, window)
    # What came after the window decides what must be left of what was done in it.
    since = [r for r in everything if r.phase != "setup" and r.t0 >= window.start]
    near = [r for r in everything if r.changes and r.t0 >= window.start - _REACH_S]
    touched = sorted({r.instance for r in near if r.instance})
    # Metadata changes touch rows of their own only, and Nova stamps those.
    owners = {r.instance for r in near if r.instance and not r.kind.startswith("metadata")}
    after = before.rows.with_name("after.sqlite")
    after.unlink(missing_ok=True)
    records = collect.nova_records(
        nova, [r.req_id for r in since if r.acknowledged and r.req_id], touched)
    guests = collect.guest_processes(computes, {
        *(i.uuid for i in records.instances), *before.guests}, nova_names)
    journal = collect.guest_journals(computes) if users else None
    rows.snapshot(nova, after)
    return Figures(
        api=api_figures(measured) if users else None,
        operations=operation_figures(
            since, actions=records.actions, instances=records.instances, journal=journal,
            metadata=records.metadata) if users else None,
        guests=guest_figures(before.guests, guests, records.instances, near),
        rows=rows.compare(before.rows, after, touched=owners, expected=expected, nova=nova),
    )
