"""The plan in which hosts move to other cells: a cell that isn't there is made first, then wave by wave.

A wave's list reads the same in both directions: close, rows, leave, file, enter, clear, open. Only the flip
stands twice, at the end of each way: before users are sent to a cell, nova-compute serves there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recell.errors import BadInput
from recell.model.deployment import Deployment
from recell.model.hosts import HostsMove
from recell.model.layout import Layout
from recell.model.plan import MOVES, Acts, ExpectedChange, Plan
from recell.model.scope import ByHost, ByParent, Shared
from recell.model.window import Window
from recell.planning import commands, hosts, new_cell
from recell.planning.changes import Change, kept_notifications
from recell.planning.database import roll_host
from recell.planning.draft import Draft
from recell.planning.hosts import KIND, Compute, Facts, Wave
from recell.planning.tables.known import KNOWN
from recell.planning.topology import of_cells

NOTICE = "its instances' requests wait until nova-compute serves in the new cell, then happen"
MOMENT = "all requests to the API wait, up to 2 s"


def make_hosts_plan(deployment: Deployment, layout: Layout, made_at: float, only: Sequence[str] = ()) -> Plan:
    """:raises BadInput, Unsupported: as :func:`recell.planning.hosts.decide`."""
    facts = hosts.decide(deployment, layout, only)
    _fits_its_window(facts)
    draft = Draft()
    _prove(facts, draft, "undo/prove", "backward")
    pairs = {(w.old, w.new): None for w in facts.waves}
    accounts: set[tuple[str, int, str]] = set()
    for new in facts.made:
        new_cell.make_cell(facts, new, draft)
        accounts.add((new.model.server, new.model.port, new.model.database))
    for old, new_end in pairs:
        new_cell.accounts(facts, HostsMove(old, new_end), draft, accounts)
    if not facts.made:  # else they restart on undo because the cell is gone
        _schedulers(facts, draft, "backward")
    for number, wave in enumerate(facts.waves, 1):
        _wave(facts, wave, draft, number)
    _schedulers(facts, draft, "forward")
    _prove(facts, draft, "prove", "forward")
    changes = [
        *(
            ExpectedChange("api", "cell_mappings", f"uuid={n.end.cell}", f"{n.end.name} is made")
            for n in facts.made
        ),
        *(
            ExpectedChange(n.end.name, table, "*", f"{n.end.name}'s own, which undo removes")
            for n in facts.made
            for table in rows_of_a_cell()
        ),
        ExpectedChange("api", "host_mappings", "*", "hosts belong to another cell"),
        ExpectedChange("api", "instance_mappings", "*", "their instances do"),
        *(
            ExpectedChange(cell, table, MOVES, "rows of hosts that move")
            for cell in sorted({end.name for w in facts.waves for end in (w.old, w.new)})
            for table in rows_of_hosts()
        ),
        *(
            ExpectedChange(w.old.name, "services", f"host={c.service.nova_host}", "closed while it moves")
            for w in facts.waves
            for c in w.computes
        ),
    ]
    moved = {c.service.host: w.new for w in facts.waves for c in w.computes}
    return draft.plan(
        KIND,
        deployment,
        layout.digest(),
        made_at,
        changes=changes,
        remarks=_remarks(facts),
        before=of_cells(deployment, list(facts.cells.values()), {}, facts.left),
        after=of_cells(deployment, list(facts.cells.values()), moved, facts.left),
    )


def rows_of_hosts() -> list[str]:
    """Tables whose rows move with a host."""
    return sorted(t for t, known in KNOWN.items() if isinstance(known.hosts[0], ByHost | ByParent))


def rows_of_a_cell() -> list[str]:
    """Tables with rows that a new cell has before any host: its services, and what every cell has."""
    shared = (t for t, known in KNOWN.items() if isinstance(known.hosts[0], Shared))
    return sorted(("alembic_version", "migrate_version", "services", *shared))


CLOSE_S, ROWS_S, LEAVE_S, ENTER_S, FLIP_S, CLEAR_S = 5.0, 8.0, 2.0, 20.0, 4.0, 3.0
BORN_S, OBEYS_S = 15.0, 30.0


def wave_takes(computes: int, grace_s: float) -> float:
    """About how long a wave takes, in seconds; rows in thousands, guests in hundreds."""
    return CLOSE_S + ROWS_S + LEAVE_S * computes + ENTER_S + FLIP_S + CLEAR_S + grace_s


def _fits_its_window(facts: Facts) -> None:
    """:raises BadInput: a wave is longer than the window in which it has to happen."""
    moving = facts.layout.moving
    if not moving.window:
        return
    window, longest = Window.parse(moving.window), max(len(w.computes) for w in facts.waves)
    takes = wave_takes(longest, moving.grace_s)
    if not window.fits(takes):
        raise BadInput(
            f"a wave of {longest} hosts takes about {takes / 60:.0f} min, and moving: window has"
            f" {window.length_s / 60:.0f}",
            "Write a longer window, or smaller waves",
        )


def _wave(facts: Facts, wave: Wave, draft: Draft, number: int) -> None:
    mark = f"wave{number}"
    names = ", ".join(c.service.host for c in wave.computes)
    move = HostsMove(wave.old, wave.new, tuple(c.service.nova_host for c in wave.computes))
    shared: dict[str, Any] = {"move": move.to_json(), "wave": mark}
    old, new = wave.old, wave.new

    def add(word: str, kind: str, where: str, title: str, **more: Any) -> None:
        draft.add(f"{mark}/{word}", kind, where, title, **shared, **more)

    moving = facts.layout.moving
    takes = wave_takes(len(wave.computes), moving.grace_s)
    asked: dict[str, Any] = {
        "window": moving.window,
        "abort": moving.abort.model_dump(),
        "watched": sorted({(t["proxy"], t["backend"]) for m in facts.members for t in m.servers}),
        "brokers": sorted({(e.broker, e.vhost) for e in (old, new)}
                          | {(m.broker, m.vhost) for m in facts.members if m.broker}),
    }  # fmt: skip

    def gate(word: str, title: str, left_s: float) -> None:
        add(
            word,
            "wave-gate",
            facts.first,
            title,
            undone="(nothing to undo)",
            estimate=0.1,
            at=word,
            takes_s=left_s,
            **asked,
        )

    inside = f" ({Window.parse(moving.window)})" if moving.window else ""
    canary = moving.canary_guest if moving.canary in [c.service.host for c in wave.computes] else None
    guest: dict[str, Any] = {}
    if canary is not None:
        guest = {"guest": canary.model_dump(), "host": wave.computes[0].service.nova_host}
        takes += BORN_S + OBEYS_S
    gate("begin", f"{names}: begin when it is time{inside}, and count nova-api's errors from here", takes)
    if canary is not None:
        add(
            "guest",
            "canary-guest",
            facts.first,
            f"boot a guest of {canary.flavor} and {canary.image} on {names}, to go along",
            notice="a guest more in the project of recell's account",
            undone="it is deleted",
            estimate=BORN_S,
            **guest,
        )
    add(
        "close",
        "hosts-open",
        facts.first,
        f"let no new builds go to {names}; wait until migrations, resizes and builds there have ended",
        notice="new instances are built elsewhere",
        undone="builds may go there again",
        estimate=CLOSE_S,
        forward="close",
        side="old",
        max_failures=facts.layout.moving.max_failures,
    )
    add(
        "rows",
        "follow-hosts",
        new.server,
        f"copy the rows of {names} from {old.name} to {new.name}, follow what changes, compare everything",
        undone="nothing is followed any more; the copied rows are removed",
        estimate=ROWS_S,
        toward="new",
        grace_s=facts.layout.moving.grace_s,
    )
    add(
        "flip-back",
        "flip-hosts",
        facts.first,
        f"on undo: {names} and their instances belong to {old.name} again",
        notice=MOMENT,
        undone="(acts on undo only)",
        acts="backward",
        estimate=FLIP_S,
    )
    gate(
        "judge",
        f"go on with {names} if it is still time, and nova-api and the queues are well",
        takes - CLOSE_S - ROWS_S - (BORN_S if canary else 0),
    )
    computes = [_unit(c) for c in wave.computes]
    add(
        "leave",
        "hosts-computes",
        wave.computes[0].service.host,
        f"end nova-compute on {names}, losing no message; guests go on",
        notice=NOTICE,
        undone=f"they start in {old.name} again",
        estimate=LEAVE_S * len(computes),
        forward="leave",
        side="old",
        computes=computes,
    )
    for compute in wave.computes:
        _file(facts.layout, wave, compute, draft, mark)
    add(
        "enter",
        "hosts-computes",
        wave.computes[0].service.host,
        f"start nova-compute on {names} in {new.name}, where nobody asks it anything yet",
        notice=NOTICE,
        undone="they are ended there, losing no message",
        estimate=ENTER_S,
        forward="enter",
        side="new",
        computes=computes,
    )
    add(
        "flip",
        "flip-hosts",
        facts.first,
        f"{names} and their instances belong to {new.name} from one moment on; requests that wait follow",
        notice=MOMENT,
        undone="(undone by a step of its own)",
        acts="forward",
        estimate=FLIP_S,
    )
    add(
        "clear",
        "follow-hosts",
        old.server,
        f"watch {names} in {old.name} for late writes for {moving.grace_s:.0f} s, then delete their rows",
        undone=f"they are copied back from {new.name}, followed, and compared",
        estimate=CLEAR_S + moving.grace_s,
        toward="old",
        grace_s=moving.grace_s,
    )
    add(
        "open",
        "hosts-open",
        facts.first,
        f"builds may go to {names} again, in {new.name}",
        undone="no new builds go there; what is under way is waited for",
        forward="open",
        side="new",
        max_failures=0,
    )
    if canary is not None:
        add(
            "guest-proof",
            "canary-proof",
            facts.first,
            f"stop, start, reboot and delete the guest on {names} in {new.name}; it must obey",
            undone="(the guest is gone)",
            estimate=OBEYS_S,
            **guest,
        )
    gate("end", f"stop here if nova-api or the queues are not well since {mark} began", 0.0)


def _unit(compute: Compute) -> dict[str, Any]:
    s = compute.service
    return {"host": s.host, "unit": s.unit, "nova_host": s.nova_host, "reads": list(s.config_files)}


def _file(layout: Layout, wave: Wave, compute: Compute, draft: Draft, mark: str) -> None:
    vhost = "" if wave.new.vhost == "/" else wave.new.vhost
    changes: list[Change] = [
        {"section": "DEFAULT", "option": "transport_url", "op": "nodes",
         "nodes": [list(n) for n in compute.nodes], "vhost": vhost},
        *kept_notifications(layout, compute.service),
    ]  # fmt: skip
    if wave.consoles is not None:
        changes.append(
            {"section": "vnc", "option": "novncproxy_base_url", "op": "set", "value": wave.consoles.url}
        )
    host = compute.service.host
    draft.edit(f"{host}/{wave.new.name}-nova-conf", host, compute.file, changes, wave=mark)


def _schedulers(facts: Facts, draft: Draft, acts: Acts) -> None:
    """They keep in mind which cell a host is in, and look there for its instances (for different_host)."""
    schedulers = [m for m in facts.members if m.role == "scheduler"]
    for host in dict.fromkeys(m.host for m in schedulers):
        roll_host(schedulers, draft, host, "moved", acts, KIND, "the hosts that moved")


def _prove(facts: Facts, draft: Draft, id: str, acts: Acts) -> None:
    ends = {w.old.cell: w.old for w in facts.waves}
    if acts == "forward":
        ends |= {w.new.cell: w.new for w in facts.waves}
    elif facts.made:
        ends = {c: e for c, e in ends.items() if c not in {n.end.cell for n in facts.made}}
    rpc = {(e.broker, e.vhost, "conductor") for e in ends.values()}
    rpc |= {(m.broker, m.vhost, t) for m in facts.members for t in m.topics}
    draft.add(
        id,
        "prove",
        facts.first,
        "prove the result" if acts == "forward" else "after undo: prove that all is as it was",
        undone="(nothing to undo)" if acts == "forward" else "(acts on undo only)",
        acts=acts,
        estimate=20,
        serving=[list(r) for r in sorted(rpc)],
        up={cell: ["nova-compute", "nova-conductor"] for cell in ends},
        commands=facts.proofs,
        **commands.reports(facts.deployment),
    )


def _remarks(facts: Facts) -> tuple[str, ...]:
    out = [
        f"{sum(len(w.computes) for w in facts.waves)} hosts move in {len(facts.waves)} waves. In each wave"
        " all of the API waits for up to 2 s, and the hosts' instances can't be managed while nova-compute"
        " restarts.",
        "A host on which something doesn't end in time stops the run before it is touched"
        if not facts.layout.moving.max_failures
        else f"Up to {facts.layout.moving.max_failures} hosts are left out, and named, when something on them"
        " doesn't end in time.",
        "Shelved-offloaded instances have no host and stay in their cell.",
        "Leaving it open costs nothing: no feed runs and no binary log is needed for the way back.",
        "Undo moves the hosts back in the same way, with all that was born there, until: recell finish.",
    ]
    if any(w.consoles is None for w in facts.waves) and facts.deployment.role("novncproxy"):
        out.append(
            "The layout gives the new cell no consoles: new ones of the moved instances find no token"
            " at today's proxies until its computes name a proxy that reads its database."
        )
    others = sorted({s.role for s in facts.deployment.role("spicehtml5proxy", "serialproxy") if s.active})
    if others:
        out.append(
            f"recell makes no {' and no '.join(f'nova-{role}' for role in others)} for another cell: such"
            " consoles of the moved instances find no token until one there reads its database."
        )
    out += [
        f"{n.end.name}: nova-manage needs --config-file {new_cell.config_path(n, n.conductors[0])} there, and"
        f" the unit {new_cell.conductor_unit(n)} is new: teach Puppet, Ansible or kolla both."
        for n in facts.made
    ]
    out += [
        f"{m.name or m.uuid} takes no part and stays as it is; hosts could move neither there nor from there:"
        f" {why}."
        for m, why in facts.left.items()
    ]
    return tuple(out)
