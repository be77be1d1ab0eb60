"""Hosts move to another cell with their guests running (docs/hosts.md)."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from recell.adapters.hosts_port import HostsPort
from recell.adapters.ports import UnitState, processes_of
from recell.errors import RecellError, StepFailed, Unknowable, VerifyFailed
from recell.journal import OPERATOR
from recell.model.hosts import HostsMove, Late
from recell.model.relay import Side, other
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep
from recell.steps.beat import Beat
from recell.steps.compute import Compute
from recell.steps.database import recells_login

POLL_S = 1.0
LIMIT_S = 2.0
"""How long the API may wait for one attempt, in seconds."""
SETTLE_S = 0.8
"""Of it: for requests that have read the old mapping to write what they write."""
REST_S = 0.5
"""Of it: for transactions of the old cell to come to their end."""
ATTEMPTS = 8
PAUSE_S = 5.0
CATCH_UP_S = 600.0
SOON_S = 5.0
BUILD_S = 60.0
"""After it a build that was begun before has long found its host."""
CARRY_S = 90.0
"""Longer than a call waits for its answer ([DEFAULT] rpc_response_timeout, 60 s)."""


class HostsStep(BaseStep):
    """Shared: ``move``; of its hosts, those that were not left out when the wave was closed."""

    def move(self) -> HostsMove:
        move = HostsMove.from_json(self.param("move"))
        out = set(self.left_out())
        return replace(move, hosts=tuple(h for h in move.hosts if h not in out))

    def left_out(self) -> list[str]:
        wave = self.param("wave", "")
        found: list[str] = self.context.journal.recall(f"{wave}/close", "left-out", []) if wave else []
        return found

    def wanted(self, name: str, default: Any = None) -> Any:
        """The operator's own word for this run, or the plan's."""
        said: dict[str, Any] = self.context.journal.recall(OPERATOR, "moving", {})
        return said.get(name, self.param(name, default))

    def port(self) -> HostsPort:
        move = self.move()
        login = recells_login(self.context, move.old.server)
        return self.world.between(move, login)

    @property
    def retreat(self) -> str:
        """While the hosts belong where they were, a wave that fails is taken back."""
        wave, move = str(self.param("wave", "")), self.move()
        if not wave or not move.hosts:
            return ""
        try:
            return wave if self.belong(move) == "old" else ""
        except RecellError:
            return ""  # what stopped the step is said, not this

    def note_late(self, late: Late, requests: int = 0) -> None:
        """Count, for the report, what came to the cell that was left."""
        if late == Late() and not requests:
            return
        journal, wave = self.context.journal, self.group
        known: dict[str, Any] = journal.recall(wave, "late", {})
        journal.remember(
            wave,
            "late",
            {
                "requests": known.get("requests", 0) + requests,
                "carried": known.get("carried", 0) + late.carried,
                "stale": known.get("stale", 0) + late.stale,
                "lost": [*known.get("lost", []), *late.lost],
            },
        )

    def moment(self) -> float:
        """When the hosts last got another cell; 0.0: not yet."""
        return float(self.context.journal.recall(self.group, "moment", 0.0))

    def belong(self, move: HostsMove) -> Side:
        """Whose the hosts are, as the API database says.

        :raises Unknowable: not all of one of both.
        """
        cells = self.world.nova().host_cells(move.hosts)
        for side in ("old", "new"):
            if set(cells) == set(move.hosts) and set(cells.values()) == {move.at(side).cell}:
                return side
        raise Unknowable(
            f"{', '.join(move.hosts)} are mapped to {', '.join(sorted(set(cells.values()))) or 'no cell'}",
            "See nova-manage cell_v2 list_hosts, and map them where their instances are",
        )


class HostsOpen(HostsStep):
    """``forward``: ``close`` hosts of ``side`` to new builds and wait until nothing long is under way there,
    or ``open`` them; the way back is the other one."""

    kind: ClassVar[str] = "hosts-open"

    def _closes(self, toward: Direction) -> bool:
        return (str(self.param("forward")) == "close") == (toward == "forward")

    def _side(self) -> Side:
        return "old" if self.param("side") == "old" else "new"

    @property
    def lasting(self) -> bool:
        return str(self.param("forward")) == "open"

    def look(self, toward: Direction) -> Finding:
        move, port, side = self.move(), self.port(), self._side()
        if not move.hosts:
            return Finding.done("all were left out")
        closed = port.closed(side) & set(move.hosts)
        if not self._closes(toward):
            return Finding.not_done(f"{len(closed)} closed") if closed else Finding.done("open")
        if not self.recall(f"closed-{toward}"):
            return Finding.not_done()
        busy = port.busy(side)
        return Finding.partial(_words(busy)) if busy else Finding.done("closed, and at rest")

    def act(self, toward: Direction) -> None:
        move, port, side = self.move(), self.port(), self._side()
        if not self._closes(toward):
            port.let_in(side, move.hosts)
            self.remember("closed-forward", False)
            self.remember("closed-backward", False)
            if toward == "backward" and (out := self.left_out()):
                named: list[str] = self.context.journal.recall("hosts", "left-out", [])
                self.context.journal.remember("hosts", "left-out", [h for h in named if h not in out])
                self.remember("left-out", [])
            return
        if self.belong(move) != side:
            raise Unknowable(
                f"{', '.join(move.hosts)} are mapped to {move.at(other(side)).name}, and their services are"
                f" in {move.at(side).name}",
                "See nova-manage cell_v2 list_hosts, and map them where their instances are",
            )
        port.shut_out(side, move.hosts)
        self.remember(f"closed-{toward}", True)
        began = self.world.clock()
        nova, before = self.world.nova(), self.world.nova().now()
        # A scheduler may have chosen one of them a moment ago. One that is stuck isn't waited for.
        cell = move.at(side).cell
        while nova.busy(cell, before, before - BUILD_S) and self.world.clock() - began < BUILD_S:
            self.world.wait(POLL_S)
        while busy := port.busy(side):
            if self.world.clock() - began > self.limit("quiet_s"):
                self._leave_out(busy, toward)
                return
            self.world.wait(POLL_S)

    def _leave_out(self, busy: dict[str, str], toward: Direction) -> None:
        """Or stop: whoever can't move stays as it was, and is named."""
        out = sorted({*self.left_out(), *busy})
        before: list[str] = self.context.journal.recall("hosts", "left-out", [])
        named = sorted({*before, *out})
        if toward == "backward" or len(named) > int(self.wanted("max_failures", 0)):
            self.port().let_in(self._side(), sorted(busy))
            raise StepFailed(
                f"not at rest after {self.limit('quiet_s'):.0f} s: {_words(busy)}",
                "Confirm or revert what is under way, or raise moving: max_failures, then: recell resume",
            )
        self.port().let_in(self._side(), sorted(busy))
        self.context.journal.remember("hosts", "left-out", named)
        self.remember("left-out", out)

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        out = self.left_out()
        return f"{said}; left out: {', '.join(out)}" if out else said


class FollowHosts(HostsStep):
    """``toward`` a side: rows are copied there, followed and compared, or deleted there. For the side ``new``
    the first is the way forward, for ``old`` it is the way back."""

    kind: ClassVar[str] = "follow-hosts"

    def _side(self) -> Side:
        return "old" if self.param("toward") == "old" else "new"

    def _follows(self, toward: Direction) -> bool:
        return (self._side() == "new") == (toward == "forward")

    @property
    def lasting(self) -> bool:
        return self._side() == "old"

    def look(self, toward: Direction) -> Finding:
        move, side = self.move(), self._side()
        if not move.hosts:
            return Finding.done("all were left out")
        port = self.port()
        now = port.following()
        if not self._follows(toward):
            left = port.left(side)
            if now.phase == "none" and not left:
                return Finding.done(f"no row of theirs is in {move.at(side).name}")
            return Finding.not_done(f"{left} rows in {move.at(side).name}")
        if self.belong(move) == side:
            return Finding.done(f"they belong to {move.at(side).name} already")
        if now.toward == side and now.verified and now.phase != "copying":
            return Finding.done("copied, compared, and followed")
        return Finding.not_done() if now.phase == "none" else Finding.partial(now.phase)

    def act(self, toward: Direction) -> None:
        move, side, port = self.move(), self._side(), self.port()
        if self._follows(toward):
            self.remember("said", port.follow(side, lambda figures: self.remember("progress", figures)))
            return
        if self.belong(move) == side:
            raise Unknowable(
                f"{', '.join(move.hosts)} belong to {move.at(side).name}, whose rows would be deleted",
                "See nova-manage cell_v2 list_hosts",
            )
        self._grace(side, port)
        port.forget()
        self.remember("said", port.clear(side))

    def _grace(self, side: Side, port: HostsPort) -> None:
        """Whoever had read the old mapping ends meanwhile; what they leave behind is brought over."""
        until = self.moment() + float(self.param("grace_s", 0.0))
        while True:
            if port.waiting(side):
                self.note_late(Late(), port.carry(other(side), CARRY_S).requests)
            self.note_late(port.late(side))
            if self.world.clock() >= until:
                return
            port.alive(side)
            self.world.wait(POLL_S)

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        return str(self.recall("said", said)) if self.move().hosts else said


class HostsComputes(HostsStep):
    """``forward``: nova-compute of ``computes`` ``leave`` the cell ``side``, losing no message, or ``enter``
    it; the way back is the other one.

    Who enters a cell to which the hosts don't belong yet finds a copy in which no instance has a task.
    """

    kind: ClassVar[str] = "hosts-computes"

    def _side(self) -> Side:
        return "old" if self.param("side") == "old" else "new"

    def _leaves(self, toward: Direction) -> bool:
        return (str(self.param("forward")) == "leave") == (toward == "forward")

    @property
    def lasting(self) -> bool:
        return str(self.param("forward")) == "enter"

    def _computes(self) -> list[dict[str, Any]]:
        hosts = set(self.move().hosts)
        return [c for c in self.param("computes") if c["nova_host"] in hosts]

    def _unit(self, compute: dict[str, Any]) -> UnitState:
        return self.world.host(compute["host"]).unit(compute["unit"])

    def guard(self, toward: Direction) -> None:
        hosts = {c["host"] for c in self._computes()}
        for known in self.context.fingerprints:
            if known.host in hosts:
                self._guard_file(known)

    def _fresh(self, compute: dict[str, Any]) -> bool:
        host, unit = self.world.host(compute["host"]), self._unit(compute)
        stats = [host.stat(p) for p in (*compute["reads"], unit.fragment, *unit.dropins) if p]
        return unit.running and unit.started_at > max((s.mtime for s in stats if s), default=0.0)

    def _serving(self, computes: list[dict[str, Any]]) -> list[str]:
        """Hosts of those that take requests at this side's broker."""
        # Side by side: a wave's guests wait for what each look takes.
        asked = self.world.together([partial(self._is_up, c) for c in computes])
        there = [c for c, is_up in zip(computes, asked, strict=True) if is_up]
        if not there:
            return []
        taken = self.port().served(self._side())
        return [c["host"] for c in there if c["nova_host"] in taken]

    def _is_up(self, compute: dict[str, Any]) -> bool:
        """It runs with what is on disk now, and has connections."""
        if not self._fresh(compute):
            return False
        host, unit = self.world.host(compute["host"]), self._unit(compute)
        return bool(host.sockets(sorted(p.pid for p in processes_of(unit, host.processes()))))

    def look(self, toward: Direction) -> Finding:
        computes = self._computes()
        if self._leaves(toward):
            up = [c["host"] for c in computes if self._unit(c).active not in ("inactive", "failed")]
            return Finding.not_done(f"{', '.join(up)} run") if up else Finding.done("none runs")
        missing = {c["host"] for c in computes} - set(self._serving(computes))
        if not missing and self.recall("aside"):
            return Finding.partial("requests that were set aside are not put back yet")
        if missing:
            return Finding.not_done(f"{', '.join(sorted(missing))} don't serve")
        return Finding.done(f"all serve in {self.move().at(self._side()).name}")

    def act(self, toward: Direction) -> None:
        if self._leaves(toward):
            self._undisturbed()
            # Side by side: the guests of the first would else wait for the last. Those that are ended already
            # are kept up meanwhile.
            beat = Beat(partial(self.port().alive, self._side()), self.world.clock)
            acts = [partial(self._end, c, beat) for c in self._computes()]
            self.deliveries_held(toward, max(self.world.together(acts), default=0.0))
            beat()
        elif self._computes():
            self._enter()

    def _undisturbed(self) -> None:
        """While they run yet: nobody else has written their rows where these are followed to."""
        move, side, port = self.move(), self._side(), self.port()
        now = port.following()
        if move.hosts and now.toward == other(side) and now.verified and self.belong(move) == side:
            port.catch_up(other(side), CATCH_UP_S)

    def _end(self, compute: dict[str, Any], beat: Beat) -> float:
        """For how many seconds what is sent to it was held off."""
        if self._unit(compute).active in ("inactive", "failed"):
            return 0.0
        end = self.move().at(self._side())
        one = Compute(self, compute["host"], end.cell, compute["nova_host"])
        one.await_quiet("recell resume, or recell undo", POLL_S, beat)
        since = self._unit(compute).started_at
        return self.world.stop_rpc_server(
            compute["host"],
            compute["unit"],
            end.broker,
            end.vhost,
            self.limit("stop_s"),
            idle=lambda: beat() or one.begun(since),
        )

    def _enter(self) -> None:
        move, side, computes = self.move(), self._side(), self._computes()
        port, clock = self.port(), self.world.clock
        entered, marks = clock(), {}
        away = self.belong(move) != side
        port.alive(other(side) if away else side)
        if away and not any(self._fresh(c) for c in computes):
            if port.waiting(side):
                # Left by a run that died after its flip: it is in the other cell that they make sense.
                port.carry(other(side), SOON_S)
            now = port.following()
            if now.toward != side or not now.verified:
                port.follow(side, lambda figures: self.remember("progress", figures))
            port.catch_up(side, CATCH_UP_S)
            port.bring_hosts(side)
        elif not away and not any(self._unit(c).running for c in computes):
            # Here users write tasks, and messages wait: what Nova does at its start would lose them.
            self.remember("aside", True)
            port.set_aside(side)
        # Side by side: where a unit is of type notify, systemctl waits until it is up.
        marks["rows brought"] = clock()
        self.world.together([partial(self._start, c) for c in computes])
        began = marks["started"] = clock()
        while missing := {c["host"] for c in computes} - set(self._serving(computes)):
            failed = [c for c in computes if self._unit(c).active == "failed"]
            if failed or clock() - began > self.limit("start_s"):
                bad = failed[0] if failed else next(c for c in computes if c["host"] == min(missing))
                raise StepFailed(
                    f"nova-compute on {bad['host']} does not serve in {move.at(side).name}",
                    "Its guests go on, and nobody was told of the new cell. See journalctl -u"
                    f" {bad['unit']} there, then: recell resume, or recell undo",
                )
            port.alive(other(side) if away else side)
            self.world.wait(POLL_S)
        marks["serving"] = clock()
        self.remember("parts", {what: round(at - entered, 3) for what, at in marks.items()})
        if self.recall("aside"):
            self.remember("put-back", port.put_back(side))
            self.remember("aside", False)

    def _start(self, compute: dict[str, Any]) -> None:
        if not self._fresh(compute):
            host, unit = self.world.host(compute["host"]), compute["unit"]
            (self.restart_unit if self._unit(compute).running else self.start_unit)(unit, host)


class FlipHosts(HostsStep):
    """The hosts and their instances belong to another cell from one moment on; requests that wait follow.

    Two holds stand one in the other: nova-api's lookups of mappings wait, so that nobody new comes to the
    cell that is left, and then its writers do. A recell that dies lets both go, by losing its sessions.
    """

    kind: ClassVar[str] = "flip-hosts"

    def _goal(self) -> Side:
        return "old" if self.spec.acts == "backward" else "new"

    def look(self, toward: Direction) -> Finding:
        move, goal = self.move(), self._goal()
        if not move.hosts:
            return Finding.done("all were left out")
        if self.belong(move) != goal:
            return Finding.not_done(f"they belong to {move.at(other(goal)).name}")
        if self.recall("flipped") and not self.recall("carried"):
            return Finding.partial("requests may wait at the broker that was left")
        return Finding.done(f"they belong to {move.at(goal).name}")

    def act(self, toward: Direction) -> None:
        move, goal, port = self.move(), self._goal(), self.port()
        try:
            if self.belong(move) != goal:
                self.remember("carried", False)
                self.remember("flipped", True)
                # Schedulers remember the cells of hosts: those that run now have to go.
                known = self.context.journal
                known.remember("hosts", "turn", int(known.recall("hosts", "turn", 0)) + 1)
                self._attempts(move, goal, toward)
            port.hide(other(goal))
            self.note_late(port.late(other(goal)))
            carried = port.carry(goal, CARRY_S)
            self.note_late(port.late(other(goal)))
        finally:
            port.let_go()
            self.world.nova().let_mappings_go()
        if waiting := port.waiting(other(goal)):
            raise StepFailed(
                f"{waiting} requests still wait at the broker of {move.at(other(goal)).name}",
                "See that broker, then: recell resume",
            )
        self.remember("requests", self.recall("requests", 0) + carried.requests)
        self.remember("calls", self.recall("calls", 0) + carried.calls)
        self.remember("carried", True)

    def _attempts(self, move: HostsMove, goal: Side, toward: Direction) -> None:
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self.world.wait(PAUSE_S)
            self.port().alive(other(goal))
            self.port().catch_up(goal, CATCH_UP_S)
            try:
                self._flip(move, goal, toward)
                return
            except (StepFailed, VerifyFailed) as error:
                why = error.sentence
        raise StepFailed(
            f"there was no moment for the flip in {ATTEMPTS} attempts of {LIMIT_S} s: {why}",
            "Try at a calmer hour, then: recell resume, or recell undo",
        )

    def _flip(self, move: HostsMove, goal: Side, toward: Direction) -> None:
        """One attempt. Whatever stops it, everybody goes on where they were."""
        port, nova, left = self.port(), self.world.nova(), other(goal)
        port.prepare_hold(left, REST_S)
        clock = self.world.clock
        began = clock() - nova.hold_mappings(REST_S, SETTLE_S)
        marks = {"mappings held": clock()}
        try:
            port.hold(left)
            marks["writers held"] = clock()
            said = port.drain(LIMIT_S - (clock() - began))
            port.prove_held()
            marks["proven"] = clock()
            if marks["proven"] - began > LIMIT_S:
                raise StepFailed(f"it took more than {LIMIT_S} s to prove both sides equal", "Try again")
            instances = port.instances(goal)
            port.reveal(goal)
            marks["revealed"] = clock()
            self.context.journal.remember(self.group, "moment", clock())
            done = nova.flip(move.hosts, instances, move.at(left).cell, move.at(goal).cell)
            marks["flipped"] = clock()
            with contextlib.suppress(RecellError):
                port.hide(left)  # act() does it again, and says what is wrong
        finally:
            nova.let_mappings_go()
            port.let_go()
            # Where the time went, for whoever wonders why users waited, or why there was no moment.
            self.remember("parts", {what: round(at - began, 3) for what, at in marks.items()})
        self.held(toward, clock() - began)
        self.remember("proof", f"{said}; {done.hosts} hosts and {done.instances} instances mapped")

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        if self.recall("flipped"):
            said += f"; {self.recall('proof', '')}; {self.recall('requests', 0)} requests carried over"
        return said


def _words(busy: dict[str, str]) -> str:
    return "; ".join(f"{host}: {what}" for host, what in sorted(busy.items()))
