"""The moment of a conversion to cells v1: requests wait, the last rows arrive, the API cell takes over.

What takes long comes before it, while users work: nova-cells of the API cell starts, and conductors and
schedulers change places. In the moment itself nothing has to start.

Nobody writes to the API cell but the copy: its nova-cells has its ear shut (:class:`EarPort`), so that what
the child says of instances is dropped, and none of it comes late and over what is newer. The ear opens when
all is at rest and proven equal, and before any HAProxy is armed: whoever is led there finds it open.
As it starts nova-cells binds its queues; for that long the child's stands still. Where it connects again by
itself it binds them too: the ear is shut again, and what was heard the copy puts right.

Where requests go is decided at one point. Each HAProxy is armed first; then a fence goes up before each
server that is left, and the last one decides. A recell that dies before it leaves users where they were, one
that dies after it leaves them at the other side: each HAProxy asks the fence when its lease ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from recell.adapters.host_port import UnitVerb
from recell.adapters.ports import Consumer, UnitState, processes_of
from recell.adapters.v1_hold_port import EarPort, GatePort, UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.adapters.v1_work import named
from recell.errors import RecellError, StepFailed, Unknowable, VerifyFailed, WouldWait
from recell.model.gate import GateState
from recell.model.hosts import CellEnd
from recell.model.relay import Side, other
from recell.model.step import Direction, Finding
from recell.steps.moment import Moment
from recell.steps.units import POLL_S, at_rest
from recell.steps.v1 import BEGUN_AT, V1Step

CATCH_UP_S = 1800.0
REST = 0.6
"""Of the longest hold: for all that is under way to come to its end."""
LAST = 0.9
"""After so much of it nothing is decided any more."""
POLL_HELD_S = 0.1
QUIET_S = 0.8
"""Between two looks that find nothing under way. A message that was just acknowledged shows nowhere until its
taker has written what it is at, or sent it on: twice, as what a conductor has taken goes to its nova-cells,
and on to the other cell's."""
IDLE_S = 60.0
CELLS = "cells"
BETWEEN = ("targeted", "broadcast", "response")


@dataclass(frozen=True)
class _Server:
    """An RPC server: its unit, and what it takes from at which end."""

    host: str
    unit: str
    topic: str
    nova_host: str
    end: CellEnd


class V1Switch(V1Step):
    """``gates``: proxy and backend; ``doors``: host, address and port of each side's nova-api; ``bare``:
    those that stand behind no gate. ``stop``, ``start``: today's and the child's conductors and schedulers;
    ``cells``, ``child_cells``: nova-cells of both sides."""

    kind: ClassVar[str] = "v1-switch"

    # -- what there is -----------------------------------------------------------------------------

    def gates(self) -> list[GatePort]:
        pairs = dict.fromkeys((str(g["proxy"]), str(g["backend"])) for g in self.param("gates"))
        return [self.world.gate(*pair) for pair in pairs]

    def _doors(self, side: Side) -> dict[str, list[tuple[str, int]]]:
        """By host: what is shut when users leave this side."""
        found: dict[str, list[tuple[str, int]]] = {}
        for host, address, port in self.param("doors")[side]:
            found.setdefault(str(host), []).append((str(address), int(port)))
        return found

    def _bare(self) -> dict[str, list[tuple[str, int]]]:
        found: dict[str, list[tuple[str, int]]] = {}
        for host, address, port in self.param("bare"):
            found.setdefault(str(host), []).append((str(address), int(port)))
        return found

    def _servers(self, name: str) -> list[_Server]:
        end = self.conversion.new if name == "cells" else self.conversion.old
        return [_Server(str(h), str(u), str(t), str(n), end) for h, u, t, n in self.param(name)]

    def _unit(self, one: _Server) -> UnitState:
        return self.world.host(one.host).unit(one.unit)

    def _up(self, one: _Server) -> bool:
        return self._unit(one).active not in ("inactive", "failed")

    def _fenced(self, side: Side) -> bool:
        doors = self._doors(side)
        return bool(doors) and all(set(d) <= self.world.fence(h).standing() for h, d in doors.items())

    def _states(self) -> list[GateState]:
        states = [g.state() for g in self.gates()]
        return [s for s in states if s is not None]

    def side(self) -> Side:
        """Where users are led, or will be when a lease ends that a dead run has left.

        :raises Unknowable: HAProxies differ, and not by recell's doing.
        """
        states = self._states()
        if not states:
            known: Side = self.recall("side", "old")
            return known
        settled = {s.side for s in states if s.toward is None}
        towards = {s.toward for s in states if s.toward is not None}
        if not towards:
            if len(settled) > 1:
                raise Unknowable(
                    "one HAProxy leads to the child and another to the API cell",
                    "See the .lease files beside their configurations; make them alike by recell undo of one",
                )
            return settled.pop()
        goal = next(t for t in towards if t is not None)
        return goal if goal in settled or self._fenced(other(goal)) else other(goal)

    # -- looking -----------------------------------------------------------------------------------

    def look(self, toward: Direction) -> Finding:
        goal: Side = "new" if toward == "forward" else "old"
        side, states = self.side(), self._states()
        under_way = [s for s in states if s.toward is not None or s.held]
        if side != goal:
            where = self.conversion.at(side).name
            return (
                Finding.partial(f"a hold was left, and requests go to {where}")
                if under_way
                else Finding.not_done(f"requests go to {where}")
            )
        if goal == "new" and (phase := self.port().importing().phase) != "live":
            return Finding.unknown(f"requests go to the API cell, and its rows are {phase}")
        if under_way:
            return Finding.partial("requests are led over; the hold was left")
        missing = [*self._not_as_wanted(goal)]
        if missing:
            return Finding.partial(f"requests are led over; {', '.join(missing)}")
        return Finding.done(f"requests go to {self.conversion.at(goal).name}")

    def _not_as_wanted(self, goal: Side) -> list[str]:
        on = self._servers("start") + self._servers("cells") if goal == "new" else self._servers("stop")
        off = self._servers("stop") if goal == "new" else self._servers("start") + self._servers("cells")
        begun = self.recall("begun") is not None
        found = [f"{s.unit} on {s.host} does not run" for s in on if not self._unit(s).running]
        if goal == "new" or begun:
            found += [f"{s.unit} on {s.host} runs" for s in off if self._up(s)]
        if goal == "new" and not found and self._heard() in ("shut", "none"):
            found.append(f"nova-cells of {self.conversion.new.name} does not hear {self.conversion.old.name}")
        if self.recall("paused"):
            found.append("nova-cells of the child stands still")
        if goal == "old":
            if self.port().importing().phase == "live":
                found.append("the API cell's rows are not given up")
            found += [f"{h} is fenced" for s in ("old", "new") for h in self._standing(s)]
        return found

    def _standing(self, side: Side) -> list[str]:
        hosts = sorted({*self._doors(side), *(self._bare() if side == "old" else {})})
        standing = self.world.together([self.world.fence(host).standing for host in hosts])
        return [host for host, doors in zip(hosts, standing, strict=True) if doors]

    # -- acting ------------------------------------------------------------------------------------

    def act(self, toward: Direction) -> None:
        goal: Side = "new" if toward == "forward" else "old"
        self.remember("begun", True)
        if toward == "forward" and self.side() != goal:
            self.remember(BEGUN_AT, self.world.clock())
        self._free()
        if self.side() == "new" and self._heard() == "shut":
            self._ear().open()
        if self.side() != goal:
            self._ready(goal)
            try:
                self._moment(toward, goal)
            except RecellError:
                if self.side() != goal:
                    self._stay(other(goal))
                raise
        self._settle(goal)

    def _free(self) -> None:
        """What a run that died has left at the gates, brought to the end that it had come to."""
        gates = [(g, s) for g in self.gates() if (s := g.state()) is not None]
        if not any(s.held or s.toward for _, s in gates):
            return
        side = self.side()
        for gate, state in gates:
            if state.toward is not None:
                gate.commit(side)
        self._unfence(side)
        self.remember("side", side)
        for gate, _ in gates:
            gate.release()

    def _unfence(self, side: Side) -> None:
        self.world.together([self.world.fence(host).take_down for host in self._standing(side)])

    def _ready(self, goal: Side) -> None:
        """What takes long, while nobody waits."""
        port = self.port()
        if goal == "old":
            self._unfence("old")
            return
        if port.importing().phase == "live":
            port.take_back()  # handed over by a run that died before anybody was led there
        if port.importing().phase not in ("following", "drained"):
            # Copied anew, which may take hours: nobody is there who could write as well.
            self._end(self._servers("cells"))
            port.catch_up(CATCH_UP_S)
        self._start_deaf()
        self._start(self._servers("start"))
        self._stay_deaf()
        self._end(self._servers("stop"))
        self._stay_deaf()
        port.catch_up(CATCH_UP_S)
        self._await_told([self.conversion.old])
        self._stay_deaf()
        self.remember("stuck", list(self._at_work().stuck()))

    def _start_deaf(self) -> None:
        """nova-cells of the API cell runs, and does not hear what the child says of instances: also what was
        said while nobody listened is dropped."""
        self.remember("paused", True)
        self._each_child("pause")
        self._drop_waiting()
        self._start(self._servers("cells"))
        self._ear().shut()
        # What it had heard before, where a run that died had left it so.
        self._await_told([self.conversion.new])
        with suppress(WouldWait):
            self.world.wait(QUIET_S)
        self._go_on_cells()

    def _stay_deaf(self) -> None:
        if self._heard() == "open":
            self._ear().shut()
            self.remember("reconnected", int(self.recall("reconnected", 0)) + 1)
            self._await_told([self.conversion.new])

    def _await_told(self, ends: Sequence[CellEnd]) -> None:
        began = self.world.clock()
        while busy := self._told(ends):
            if self.world.clock() - began > CATCH_UP_S:
                raise StepFailed(
                    f"nova-cells does not get through what it is told: {busy[0]}",
                    "Users are where they were. See its log and RabbitMQ's, then: recell resume",
                )
            self.world.wait(POLL_S)

    def _drop_waiting(self) -> None:
        """What the child told the API cell's nova-cells while that was off: older than the rows are."""
        cells = self._servers("cells")
        if not cells or any(self._up(s) for s in cells):
            return
        end = cells[0].end
        broker = self.world.broker(end.broker)
        for queue in broker.queues(end.vhost):
            if self._of_cells(queue.name) and queue.messages_ready and not queue.consumers:
                broker.delete_queue(end.vhost, queue.name)

    def _start(self, servers: list[_Server]) -> None:
        def start(mine: list[_Server]) -> None:
            for one in mine:
                host, unit = self.world.host(one.host), self._unit(one)
                if not unit.enabled:
                    host.systemctl("enable", one.unit)
                if not unit.running:
                    self.start_unit(one.unit, host)

        self.world.together([partial(start, mine) for mine in _by_host(servers)])
        began = self.world.clock()
        while missing := self._not_serving(servers):
            failed = [s for s in missing if self._unit(s).active == "failed"]
            if failed or self.world.clock() - began > self.limit("start_s"):
                one = (failed or missing)[0]
                raise StepFailed(
                    f"{one.unit} on {one.host} does not serve {one.topic} on {one.end.broker}",
                    f"Users are where they were. See journalctl -u {one.unit} there, then: recell resume",
                )
            self.world.wait(POLL_S)

    def _not_serving(self, servers: list[_Server]) -> list[_Server]:
        consumers = {
            end.broker: self.world.broker(end.broker).consumers(end.vhost) for end in {s.end for s in servers}
        }
        return [s for s in servers if not self._serves(s, consumers[s.end.broker])]

    def _serves(self, one: _Server, consumers: Sequence[Consumer]) -> bool:
        """Its own process takes from its host's queues: the other unit of this role there has the same."""
        host, unit = self.world.host(one.host), self._unit(one)
        if not unit.running:
            return False
        processes = processes_of(unit, host.processes())
        told = {str(p.told_pid) for p in processes}
        peers = {(s.local_ip, s.local_port) for s in host.sockets([p.pid for p in processes])}
        taken = {
            c.queue
            for c in consumers
            if (c.peer_host, c.peer_port) in peers or c.client_name.split(":")[1:2] in [[t] for t in told]
        }
        # nova-cells binds what it takes from other cells when it serves its own already.
        between = [f"{self._ear().base}.{kind}" for kind in BETWEEN] if one.topic == CELLS else []
        return all(f"{topic}.{one.nova_host}" in taken for topic in (one.topic, *between))

    def _end(self, servers: list[_Server], *, disable: bool = False) -> None:
        def end(mine: list[_Server]) -> None:
            for one in mine:
                if self._up(one):
                    self.world.stop_rpc_server(
                        one.host, one.unit, one.end.broker, one.end.vhost, self.limit("stop_s"),
                        idle=at_rest if one.topic == CELLS else None, lost=self.is_lost(one.end.broker),
                    )  # fmt: skip
                if disable and self._unit(one).enabled:
                    self.world.host(one.host).systemctl("disable", one.unit)

        # What users send to a conductor or a scheduler waits while that one ends: one at a time, and quickly.
        idle = all(one.topic == CELLS for one in servers)
        self.world.together([partial(end, mine) for mine in (_by_host(servers) if idle else [servers])])

    # -- the moment --------------------------------------------------------------------------------

    def _moment(self, toward: Direction, goal: Side) -> None:
        """One attempt. Whatever stops it before the last fence stands, everybody goes on where they were."""
        gates, port, left = self.gates(), self.port(), other(goal)
        before = self.world.together([partial(self._fit, gate, goal) for gate in gates])
        longest, lease = float(self.param("longest_s")), float(self.param("lease_s"))
        with ExitStack() as stack:
            for broker, vhost in self._asked(goal):
                stack.enter_context(self.world.broker(broker).at_hand(vhost, longest + IDLE_S))
            if goal == "new":
                stack.enter_context(self._ear().at_hand())
            self._at_work().make_ready()
            self.world.together([self.world.fence(host).standing for host in self._doors(left)])
            said, decided, brought, waited = "", False, None, 0
            moment = Moment(self.world.clock)
            try:
                with moment.part("requests begin to wait"):
                    self.world.together([partial(gate.hold, lease, longest) for gate in gates])
                    if goal == "new":
                        self._fence(self._bare())
                        self._ear().shut()  # a nova-cells that connected again has opened it
                said = self._rest(goal, port, moment, before)
                if goal == "new":
                    with moment.part("the copy ends, failed builds come"):
                        brought = port.hand_over()
                if moment.seconds > longest * LAST:
                    raise StepFailed(f"it took more than {longest * LAST:.0f} s", "Try at a calmer hour")
                if goal == "new":
                    with moment.part(f"{self.conversion.new.name} hears {self.conversion.old.name} again"):
                        self._ear().open()
                with moment.part("HAProxy is armed"):
                    self.world.together([partial(gate.arm, goal) for gate in gates])
                if not gates:
                    self.remember("side", goal)  # nothing else would tell
                with moment.part(f"nova-api of {self.conversion.at(left).name} is fenced off"):
                    self._fence(self._doors(left))
                decided = True
            finally:
                try:
                    with moment.part("requests go on"):
                        self._let_go(gates, goal if decided else left, decided)
                finally:
                    # Also of an attempt that was given up: users waited, and one wants to know for what.
                    held = moment.seconds
                    for broker, vhost in sorted(self._asked(goal)):
                        if why := self.world.broker(broker).slow_because(vhost):
                            moment.note(f"{broker} was asked through rabbitmqctl: {why}")
                    self.held(toward, held)
                    self.remember(f"hold-{toward}", {"seconds": round(held, 3), "parts": moment.parts()})
        waited = sum(state.waited for gate in gates if (state := gate.glance()) is not None)
        self.remember("side", goal)
        if brought is not None:
            self.remember("failed-builds", brought)
        self.remember(f"proof-{toward}", f"{said}; {waited} requests waited")

    def _asked(self, goal: Side) -> set[tuple[str, str]]:
        """Brokers that are asked while requests wait."""
        return {(end.broker, end.vhost) for end in (self.conversion.old, self.conversion.new)}

    def _fit(self, gate: GatePort, goal: Side) -> GateState:
        began = self.world.clock()
        while True:
            state = gate.state()
            if state is None:
                raise StepFailed(
                    f"HAProxy on {gate.host} has no gate before {gate.backend}",
                    "Its configuration was replaced: recell undo, and begin again",
                )
            if goal in state.up and not state.leaving:
                return state
            if self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"processes of HAProxy on {gate.host} that a reload has left still serve"
                    if state.leaving
                    else f"HAProxy on {gate.host} sees no server up to which {gate.backend} could be led",
                    "See HAProxy's log there, then: recell resume",
                )
            self.world.wait(POLL_S)

    def _rest(self, goal: Side, port: V1Port, moment: Moment, before: list[GateState]) -> str:
        """Nothing is inside, nothing is under way, and the rows are proven equal."""
        longest = float(self.param("longest_s"))
        while True:
            with moment.part("is anything under way?"):
                busy = self._busy(goal, before)
            left, quiet = longest * REST - moment.seconds, moment.seconds
            if not busy:
                try:
                    said = "both sides have all messages"
                    if goal == "new":
                        with moment.part("the last rows arrive and are proven equal"):
                            said = port.drain(left)
                    with moment.part("does it stay so?"):
                        # What was taken from a queue a moment ago may not have written a row yet.
                        with suppress(WouldWait):
                            if (more := quiet + QUIET_S - moment.seconds) > 0:
                                self.world.wait(more)
                        busy = self._busy(goal, before)
                        if not busy and goal == "new":
                            said = port.drain(longest * REST - moment.seconds)  # had it, it has by now
                    if not busy:
                        return said
                except (StepFailed, VerifyFailed) as error:
                    busy = [error.sentence]
            if moment.seconds > longest * REST:
                named = "; ".join(busy[:5])
                raise StepFailed(
                    f"not at rest after {longest * REST:.0f} s of the {longest:g} s that requests may wait:"
                    f" {named}",
                    "Requests went on, and nothing was switched. Try at a calmer hour, or raise hold:"
                    " longest_s, then: recell resume",
                )
            self.world.wait(POLL_HELD_S)

    def _busy(self, goal: Side, before: list[GateState]) -> list[str]:
        found = []
        gates = self.gates()
        states = self.world.together([g.glance for g in gates])
        for gate, state, known in zip(gates, states, before, strict=True):
            if state is None or state.worker != known.worker or not state.held:
                raise StepFailed(
                    f"HAProxy on {gate.host} was reloaded while it held requests, or let them go",
                    "Find out by whom, then: recell resume",
                )
            if state.inside:
                found.append(f"{state.inside} requests of {gate.backend} on {gate.host}")
        # In this order: what a request has begun shows before the request has ended.
        ends = (self.conversion.old, self.conversion.new)
        return found or list(self._at_work().in_flight()) or self._told(ends)

    def _at_work(self) -> UnderWayPort:
        conversion = self.conversion
        return self.world.under_way(*conversion.config, conversion.old.broker, conversion.old.vhost)

    def _ear(self) -> EarPort:
        return self.world.ear(self.conversion)

    def _heard(self) -> str:
        """:meth:`EarPort.state`; "" when its broker was given up."""
        return "" if self.is_lost(self.conversion.new.broker) else self._ear().state()

    def _of_cells(self, queue: str) -> bool:
        """Of what nova-cells is told, by its own cell or by the other."""
        return queue.split(".")[0] == CELLS or queue.startswith(f"{self._ear().base}.")

    def _told(self, ends: Sequence[CellEnd]) -> list[str]:
        """Messages there that nova-cells has not taken, or not acknowledged."""
        brokers = [(self.world.broker(end.broker), end.vhost) for end in ends]
        asked = self.world.together([partial(broker.queues, vhost) for broker, vhost in brokers])
        return [
            f"{q.messages_ready + q.messages_unacknowledged} messages in {q.name} on {end.broker}"
            for end, queues in zip(ends, asked, strict=True)
            for q in queues
            if self._of_cells(q.name) and q.consumers
            if q.messages_ready + q.messages_unacknowledged
        ]

    def _fence(self, doors: dict[str, list[tuple[str, int]]]) -> None:
        def shut(host: str, mine: list[tuple[str, int]]) -> None:
            fence = self.world.fence(host)
            fence.put_up({*mine, *fence.standing()})

        self.world.together([partial(shut, host, mine) for host, mine in doors.items()])

    def _go_on_cells(self) -> None:
        if self.recall("paused"):
            self._each_child("continue")
            self.remember("paused", False)

    def _each_child(self, verb: UnitVerb) -> None:
        units = [(self.world.host(one.host), one.unit) for one in self._servers("child_cells")]
        self.world.together([partial(host.systemctl, verb, unit) for host, unit in units])

    def _let_go(self, gates: list[GatePort], side: Side, decided: bool) -> None:
        """Nobody waits any more. A gate that doesn't answer lets go by itself, where the fence says."""
        sure = True
        if not decided:
            try:
                self._unfence(side)
            except RecellError:
                sure = False  # then every gate asks what stands, and all find the same
        acts: list[Callable[[], None]] = [partial(g.release, side if sure else None) for g in gates]
        wrong = self.world.together([partial(_error_of, act) for act in acts])
        if decided and (first := next((e for e in wrong if e is not None), None)):
            raise first

    def _stay(self, side: Side) -> None:
        """After an attempt that did not succeed: as it was before it, but for who serves."""
        if side != "old":
            return
        self._unfence("old")
        port = self.port()
        if port.importing().phase == "live":
            port.take_back()
        self._end(self._servers("cells"), disable=True)
        self._go_on_cells()

    # -- afterwards --------------------------------------------------------------------------------

    def _settle(self, goal: Side) -> None:
        port = self.port()
        if goal == "new":
            self._go_on_cells()
            self._start(self._servers("start") + self._servers("cells"))
            self._end(self._servers("stop"))
            return
        self._start(self._servers("stop"))
        port.take_back()
        self._end(self._servers("cells"), disable=True)
        self._end(self._servers("start"), disable=True)
        self._go_on_cells()
        self._unfence("old")
        self._unfence("new")

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        if proof := self.recall(f"proof-{toward}"):
            said += f"; {proof}"
        if toward == "forward" and (times := self.recall("reconnected", 0)):
            said += f"; nova-cells of {self.conversion.new.name} was deafened again {times} times"
        stuck = self.recall("stuck", [])
        return f"{said}; stuck, and not waited for: {named(stuck)}" if stuck and toward == "forward" else said


def _by_host(servers: Sequence[_Server]) -> list[list[_Server]]:
    found: dict[str, list[_Server]] = {}
    for one in servers:
        found.setdefault(one.host, []).append(one)
    return list(found.values())


def _error_of(act: Callable[[], None]) -> RecellError | None:
    try:
        act()
    except RecellError as error:
        return error
    return None
