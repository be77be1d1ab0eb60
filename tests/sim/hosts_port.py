"""The simulated world's ports for hosts that move: rows between two cells, and a guest through the API."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from recell.adapters.guests_port import GuestsPort, GuestState, GuestVerb
from recell.adapters.hosts_port import HostsPort
from recell.errors import StepFailed
from recell.model.hosts import Carried, Following, HostsMove, Late
from recell.model.moving import Login, Thing
from recell.model.relay import Side, other
from recell.model.violation import Violation

if TYPE_CHECKING:
    from tests.sim.hosts import CellsWorld

FENCE = "updating_password"
CANARY = "canary"


@dataclass
class Row:
    task: str = ""
    hidden: bool = False
    value: int = 0
    name: int = 0  # what a request may write whatever the task
    was: int = 0  # the name, in the moment
    did: str = ""  # the task, in the moment


@dataclass
class Cell:
    """A database. ``services``: hosts with a service record, and whether recell has closed them."""

    rows: dict[str, Row] = field(default_factory=dict)
    services: dict[str, bool] = field(default_factory=dict)
    locked: bool = False
    aside: dict[str, str] = field(default_factory=dict)


class SimCells:
    """:class:`~recell.adapters.hosts_port.HostsPort`"""

    def __init__(self, world: CellsWorld, move: HostsMove, ours: Login) -> None:
        self.world, self.move, self.ours = world, move, ours

    def _change(self, what: str) -> None:
        self.world.changes.append(what)
        self.world.point(what)

    def _cell(self, side: Side) -> Cell:
        return self.world.cells[self.move.at(side).database]

    def _mine(self, cell: Cell) -> dict[str, Row]:
        return {i: r for i, r in cell.rows.items() if self.world.guest_of[i] in self.move.hosts}

    # the servers

    def there(self, side: Side) -> frozenset[str]:
        found = self.world.things[self.move.at(side).server]
        return frozenset(found - {self.ours.user} | ({"recell"} if self.ours.user in found else set()))

    def make(self, side: Side, thing: Thing) -> None:
        self.world.point(f"before {thing} is made on {side}")
        self.world.things[self.move.at(side).server].add(self.ours.user if thing == "recell" else thing)
        self._change(f"{thing} made on {side}")

    def drop(self, side: Side, thing: Thing) -> None:
        self.world.point(f"before {thing} is dropped on {side}")
        there = self.world.things[self.move.at(side).server]
        there.discard(self.ours.user if thing == "recell" else thing)
        if thing == "database":
            assert not self._cell(side).rows and not self._cell(side).services, "somebody's rows were in it"
            there.discard("tables")
        self._change(f"{thing} dropped on {side}")

    def differences(self) -> tuple[str, ...]:
        return ()

    def part(self, toward: Side) -> None:
        return None

    def troubles(self) -> tuple[Violation, ...]:
        return ()

    # under way

    def busy(self, side: Side) -> dict[str, str]:
        return {h: "a migration" for h in self.move.hosts if h in self.world.restless}

    def closed(self, side: Side) -> frozenset[str]:
        return frozenset(h for h, shut in self._cell(side).services.items() if shut)

    def shut_out(self, side: Side, hosts: Collection[str]) -> None:
        self.world.point("before hosts are closed")
        self._cell(side).services |= dict.fromkeys(hosts, True)
        self._change("closed")

    def let_in(self, side: Side, hosts: Collection[str]) -> None:
        self.world.point("before hosts are opened")
        self._cell(side).services |= dict.fromkeys(hosts, False)
        self._change("opened")

    # rows

    def following(self) -> Following:
        return self.world.journal

    def follow(self, toward: Side, tell: Callable[[dict[str, float]], None]) -> str:
        self.world.point("before the copy")
        assert {"recell", "tables"} <= self.there("new") | {"tables"} and "recell" in self.there("old")
        if self.world.journal.toward != toward or self.world.journal.phase == "none":
            self.world.journal = Following("none")
            self.clear(toward)
            self.world.journal = Following("copying", toward)
            self.world.point("copy begun")
        self._apply(toward)
        self.world.journal = Following("following", toward)
        self._change("copied")
        self.world.journal = Following("following", toward, True)
        self._change("verified")
        return "all compared"

    def _apply(self, toward: Side) -> None:
        source, target = self._cell(other(toward)), self._cell(toward)
        for instance, row in self._mine(source).items():
            known = target.rows.get(instance)
            target.rows[instance] = Row("", known.hidden if known else True, row.value, row.name)

    def bring_hosts(self, toward: Side) -> None:
        self.world.point("before the hosts' rows are brought")
        assert not any(self.world.compute_of(h)[0].active for h in self.move.hosts)
        source, target = self._cell(other(toward)), self._cell(toward)
        target.services |= {h: shut for h, shut in source.services.items() if h in self.move.hosts}
        self._change("hosts' rows brought")

    def alive(self, side: Side) -> None:
        return None

    def catch_up(self, toward: Side, limit_s: float) -> float:
        assert self.world.journal.toward == toward and self.world.journal.verified
        self._apply(toward)
        self.world.journal = Following("following", toward, True)
        self.world.observe()
        return 0.1

    def instances(self, side: Side) -> tuple[str, ...]:
        return tuple(self._mine(self._cell(side)))

    def forget(self) -> None:
        self.world.point("before the mover forgets")
        self.world.journal = Following("none")
        self._change("the mover forgot")

    def clear(self, side: Side) -> str:
        self.world.point("before rows are deleted")
        assert self.world.journal.phase == "none"
        for host in self.move.hosts:
            assert self.world.homes[host] != self.move.at(side).cell, "rows that are in use"
            unit, broker = self.world.compute_of(host)
            assert not unit.active or self.world.cell_on(broker) is not self._cell(side), (
                "a compute reads them"
            )
        cell = self._cell(side)
        for instance in list(self._mine(cell)):
            del cell.rows[instance]
        self.world.point("some rows are deleted")
        for host in self.move.hosts:
            cell.services.pop(host, None)
        self._change("rows deleted")
        return "deleted"

    def left(self, side: Side) -> int:
        cell = self._cell(side)
        return len(self._mine(cell)) + sum(h in cell.services for h in self.move.hosts)

    # the moment

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        return None

    def hold(self, side: Side) -> float:
        self.world.point("before the cell holds")
        if self.world.busy_moments:
            self.world.busy_moments -= 1
            raise StepFailed("a transaction does not end")
        self._cell(side).locked = True
        self.world.point("the cell holds")
        return 0.01

    def drain(self, limit_s: float) -> str:
        toward = self.world.journal.toward
        assert self.world.journal.verified and self._cell(other(toward)).locked
        assert self.world.mappings_held
        self._apply(toward)
        self.world.journal = Following("drained", toward, True)
        self.world.point("drained")
        return "proven equal"

    def prove_held(self) -> None:
        return None

    def let_go(self) -> None:
        if not self.world.killed:
            for cell in self.world.cells.values():
                cell.locked = False

    def reveal(self, side: Side) -> None:
        self.world.point("before the copy is shown")
        assert self._cell(other(side)).locked
        for instance, row in self._mine(self._cell(side)).items():
            left = self._cell(other(side)).rows[instance]
            row.hidden, row.task, left.was, left.did = False, left.task, left.name, left.task
        self._change("shown")

    def hide(self, side: Side) -> int:
        self.world.point("before what is left is hidden")
        mine = self._mine(self._cell(side))
        for instance, row in mine.items():
            there = self._cell(other(side)).rows[instance]
            if row.task not in ("", FENCE, row.did) and not there.task:
                there.task = row.task
            row.hidden, row.task = True, FENCE
        self._change("hidden")
        return len(mine)

    def set_aside(self, side: Side) -> None:
        self.world.point("before tasks are set aside")
        cell = self._cell(side)
        for instance, row in self._mine(cell).items():
            if row.task != FENCE:
                cell.aside[instance], row.task = row.task, FENCE
        self.world.point("tasks are set aside")
        for host in self.move.hosts:
            key = (self.move.at(side).broker, host)
            self.world.parked.setdefault(key, []).extend(self.world.queues.pop(key, []))
        self._change("set aside")

    def put_back(self, side: Side) -> int:
        self.world.point("before tasks are put back")
        cell, count = self._cell(side), 0
        for instance, task in cell.aside.items():
            if cell.rows[instance].task == FENCE:
                cell.rows[instance].task = task
        cell.aside = {}
        self.world.point("tasks are put back")
        for host in self.move.hosts:
            key = (self.move.at(side).broker, host)
            parked = self.world.parked.pop(key, [])
            self.world.queues.setdefault(key, []).extend(parked)
            count += len(parked)
        self._change("put back")
        self.world.observe()
        return count

    # messages

    def _brokers(self, toward: Side) -> tuple[str, str]:
        return self.move.at(other(toward)).broker, self.move.at(toward).broker

    def served(self, side: Side) -> frozenset[str]:
        end = self.move.at(side)
        taken = {q.name for q in self.world.broker(end.broker).queues(end.vhost) if q.consumers}
        return frozenset(h for h in self.move.hosts if f"compute.{h}" in taken)

    def waiting(self, side: Side) -> int:
        return sum(len(self.world.queues.get((self.move.at(side).broker, h), [])) for h in self.move.hosts)

    def carry(self, toward: Side, limit_s: float) -> Carried:
        self.world.point("before requests are carried")
        source, target = self._brokers(toward)
        count = 0
        for host in self.move.hosts:
            waiting = self.world.queues.get((source, host), [])
            while waiting:
                self.world.queues.setdefault((target, host), []).append(waiting.pop(0))
                count += 1
                self.world.point("a request was carried")
        self.world.observe()
        self.world.point("carried")
        return Carried(count)

    def late(self, side: Side) -> Late:
        if self.world.journal != Following("drained", other(side), True):
            return Late()
        found = Late()
        for instance, row in self._mine(self._cell(side)).items():
            if row.name != row.was:
                self.world.point("before late rows are brought")
                there = self._cell(other(side)).rows[instance]
                newer = row.name > there.name
                there.name = max(row.name, there.name)
                row.was = row.name
                found += Late(int(newer), int(not newer))
                self.world.point("late rows are brought")
        return found

    def close(self) -> None:
        return None


class SimGuests:
    """:class:`~recell.adapters.guests_port.GuestsPort`"""

    def __init__(self, world: CellsWorld) -> None:
        self.world = world

    def troubles(self, flavor: str, image: str) -> tuple[str, ...]:
        return ()

    def find(self, name: str) -> str:
        assert name.startswith("recell-canary-")
        return CANARY if CANARY in self.world.guest_of else ""

    def boot(self, name: str, host: str, flavor: str, image: str, network: str) -> str:
        world = self.world
        world.point("before the canary is booted")
        assert CANARY not in world.guest_of and (flavor, image, network) == ("m1.tiny", "guest", "none")
        home = world.homes[host]
        assert not world.cell(home).services[host], "the host is closed"
        world.guest_of[CANARY], world.mapped[CANARY] = host, home
        world.cell(home).rows[CANARY] = Row()
        world.canary_task = "boot"
        world.point("the canary is booted")
        return CANARY

    def look(self, uuid: str) -> GuestState | None:
        world = self.world
        if uuid not in world.guest_of:
            return None
        return GuestState(world.canary_status, world.canary_task, world.guest_of[uuid])

    def ask(self, uuid: str, verb: GuestVerb) -> None:
        world = self.world
        world.point(f"before the canary is asked to {verb}")
        if uuid in world.guest_of:
            wrong = {"stop": "SHUTOFF", "start": "ACTIVE"}.get(verb) == world.canary_status
            assert not wrong and (not world.canary_task or verb == "delete"), f"409 to {verb}"
            world.canary_task = verb
        world.point(f"the canary is asked to {verb}")


_port: type[HostsPort] = SimCells
_guests: type[GuestsPort] = SimGuests
