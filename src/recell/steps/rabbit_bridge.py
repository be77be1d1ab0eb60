"""Shovels between two RabbitMQ clusters while clients move from one to the other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import quote

from recell.adapters.bridge_port import BridgeEnd, Ferry
from recell.errors import StepFailed, VerifyFailed
from recell.model.rabbit import NO_HOME_OF_ITS_OWN
from recell.model.step import Direction, Finding
from recell.planning import bridge
from recell.planning.bridge import ANSWERS, FERRY, PREFIX, Lane, Shores, Side, Taken, other
from recell.steps.aside import Aside
from recell.steps.base import Context
from recell.steps.rabbit import POLL_S, REMEDY, RabbitStep, at_once

SIDES: tuple[Side, Side] = ("keep", "new")
_MEMORY = "bridge"
"""What the journal's facts about the bridge stand under: several steps work on it."""
QUORUM_TICK_S = 6.0
"""RabbitMQ counts what is in a quorum queue every five seconds."""
_SETTLED = 2
"""Looks in a row that find every shovel in place. A moved process declares queues for some seconds."""


class Bridge:
    """``told``: ``keep`` and ``new`` as steps have them, ``ends``: ``{"keep": ["address:port", ...], ...}``,
    ``vhosts``. An end may begin with ``amqps://``. ``ferry``: recell carries requests over itself, too."""

    def __init__(self, context: Context, told: Mapping[str, Any]) -> None:
        self.context = context
        self.world = context.world
        self.told = told

    def hosts(self, side: Side) -> tuple[str, ...]:
        return tuple(str(host) for host, _ in self.told[side])

    def end(self, side: Side) -> BridgeEnd:
        return self.world.bridge_end(self.hosts(side))

    @property
    def vhosts(self) -> list[str]:
        return [str(v) for v in self.told["vhosts"]]

    @cached_property
    def ferry(self) -> Ferry | None:
        if not self.told.get("ferry"):
            return None
        keep, new = (
            tuple(zip(self.hosts(side), map(str, self.told["ends"][side]), strict=True)) for side in SIDES
        )
        return self.world.ferry(Shores(keep, new, tuple(self.vhosts)), self._password())

    def with_news(self, proof: str) -> str:
        """Of the ferry, each once."""
        news = self.ferry.news() if self.is_open and self.ferry else ""
        return f"{proof}; {news}" if news else proof

    def _recall(self, key: str) -> Any:
        return self.context.journal.recall(_MEMORY, key)

    def _remember(self, key: str, value: Any) -> None:
        self.context.journal.remember(_MEMORY, key, value)

    def taken_on(self, side: Side) -> tuple[Taken, ...]:
        return self.end(side).taken(self.vhosts, PREFIX)

    def taken(self) -> dict[Side, tuple[Taken, ...]]:
        found = at_once(list(SIDES), self.taken_on)  # type: ignore[arg-type]
        return {side: found[side] for side in SIDES}

    # Its parts

    def _password(self) -> str:
        """Of recell's account on both ends; kept on the first new host, root-only."""
        host = self.world.host(self.hosts("new")[0])
        known = self._recall("password")
        if known is None:
            known = host.keep(self.context.keep, secrets.token_urlsafe(30).encode())
            self._remember("password", known)
        return host.kept(self.context.keep, str(known)).decode()

    def _uris(self) -> dict[Side, dict[str, list[str]]]:
        login = f"{PREFIX}:{quote(self._password(), safe='')}"
        return {
            side: {
                v: [bridge.uri(str(end), login, quote(v, safe="")) for end in self.told["ends"][side]]
                for v in self.vhosts
            }
            for side in SIDES
        }

    def equip(self) -> None:
        """Plugin and accounts."""
        self._remember("open", True)
        new = self.end("new")
        there = new.plugged()
        mine = [h for h in self.hosts("new") if h not in there]
        if mine:
            self._remember("plugged", sorted({*(self._recall("plugged") or []), *mine}))
        for host in mine:
            new.plug(host, True)
        for side in SIDES:
            if self.told.get("ferry"):
                self.end(side).set_account(FERRY, self._password(), self.vhosts, ANSWERS)
            self.end(side).set_account(PREFIX, self._password(), self.vhosts)

    def behind(self) -> tuple[frozenset[Lane], set[tuple[str, str]]]:
        """(lanes that have no shovel, shovels that have no lane)"""
        taken = self.taken()
        want = bridge.lanes(taken["keep"], taken["new"])
        have = set(self.end("new").shovels())
        names = {(lane.vhost, lane.name) for lane in want}
        return frozenset(lane for lane in want if (lane.vhost, lane.name) not in have), have - names

    def reconcile(
        self,
        coming: Mapping[tuple[str, str], Side] | None = None,
        leaving: Mapping[tuple[str, str, Side], int] | None = None,
    ) -> bool:
        """Bring the shovels to what is needed now. Whether anything had to change."""
        aside = Aside(self.context)
        for host in aside.known():
            aside.take(host)  # of one that a killed run left; else its own step does it more often
        rising = aside.put_back()  # before a shovel brings the messages that belong to them
        taken = self.taken()
        want = bridge.lanes(taken["keep"], taken["new"], coming, rising, leaving)
        have = self.end("new").shovels()
        names = {(lane.vhost, lane.name): lane for lane in want}
        gone = [key for key in have if key not in names]
        there = {side: {(t.vhost, t.name) for t in taken[side]} for side in SIDES}
        run = [
            lane
            for key, lane in names.items()
            if key in have
            and (lane.vhost, lane.queue) in there[lane.toward]
            and (lane.vhost, lane.source) in there[other(lane.toward)]
        ]
        if self.ferry:
            # It leaves a way before its shovel does: what came by it later would meet one that is to get
            # nothing yet, or go back by the way that is made next.
            self.ferry.follow(run)
            self._note_made()
        if gone:
            self.end("new").clear_shovels(gone)
        made = {side: self._namesakes(side, there[side], want) for side in SIDES}
        # A shovel declares what it doesn't find, otherwise than clients do: one whose ends are not both
        # there by now waits for the next look.
        fresh = [
            lane
            for key, lane in names.items()
            if key not in have
            and (lane.vhost, lane.queue) in there[lane.toward]
            and (lane.vhost, lane.source) in there[other(lane.toward)] | made[other(lane.toward)]
        ]
        if fresh and self.ferry:
            self.ferry.follow([*run, *fresh])
        if fresh:
            self.end("new").load({"parameters": bridge.shovels(fresh, self._uris(), self._version)})
        return bool(gone or fresh or any(made.values()))

    def _namesakes(
        self, side: Side, there: set[tuple[str, str]], want: Iterable[Lane]
    ) -> set[tuple[str, str]]:
        missing = [n for n in want if other(n.toward) == side and (n.vhost, n.source) not in there]
        if not missing:
            return set()
        made = bridge.namesakes(missing, there, self.end(other(side)).definitions())
        if not made["queues"]:
            return set()  # they went meanwhile
        names = {(str(q["vhost"]), str(q["name"])) for q in made["queues"]}
        self._note(side, names)
        self.end(side).load(made)
        return names

    def _note(self, side: Side, names: set[tuple[str, str]]) -> None:
        known = {tuple(q) for q in self._recall(f"made-{side}") or []}
        if names - known:
            self._remember(f"made-{side}", [list(q) for q in sorted({*known, *names})])

    def _note_made(self) -> None:
        """What the ferry has made goes with the rest; where recell is killed before, it expires."""
        made = self.ferry.made() if self.ferry else ()
        for at in SIDES:
            self._note(at, {(vhost, name) for side, vhost, name in made if side == at})

    def settle(
        self,
        limit: float,
        reconcile: Callable[[], bool] | None = None,
        ask_stopped: Callable[[], list[str]] | None = None,
    ) -> None:
        """Until nothing has to change any more, and every shovel runs.

        In a busy cloud some process begins at any moment; at the limit it is enough that all shovels run.
        """
        began, quiet = self.world.clock(), 0
        while quiet < _SETTLED:
            moved = (reconcile or self.reconcile)()
            stopped = (ask_stopped or self.stopped)()
            quiet = 0 if moved or stopped else quiet + 1
            if quiet == _SETTLED:
                return
            if self.world.clock() - began > limit:
                if not stopped:
                    return
                raise StepFailed(
                    f"{len(stopped)} shovels on {self.hosts('new')[0]}'s cluster don't run"
                    f" after {limit:.0f} s",
                    "See rabbitmqctl shovel_status there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)

    @cached_property
    def _version(self) -> str:
        return self.end("new").version()

    def await_away(
        self, queues: Collection[tuple[str, str]], limit: float, ask: Callable[[], tuple[Taken, ...]]
    ) -> None:
        """Until shovels have brought away what waits in these, or the limit: whoever is to take there later
        is down meanwhile. ``ask``: what is on that side."""
        began = self.world.clock()
        while found := [t for t in ask() if (t.vhost, t.name) in queues]:
            # What a quorum queue says of itself may be so old.
            old = any(t.kind == "quorum" for t in found) and self.world.clock() - began < QUORUM_TICK_S
            if not (old or any(t.waiting for t in found)) or self.world.clock() - began > limit:
                return
            self.world.wait(POLL_S)

    def stopped(self) -> list[str]:
        return [name for (_, name), runs in self.end("new").shovels().items() if not runs]

    def waiting(self) -> list[str]:
        """What has not been brought over yet."""
        taken = self.taken()
        found = {(side, t.vhost, t.name): t.waiting for side in SIDES for t in taken[side]}
        out = []
        for lane in sorted(bridge.lanes(taken["keep"], taken["new"]), key=lambda n: n.name):
            number = found.get((other(lane.toward), lane.vhost, lane.source), 0)
            if number:
                out.append(f"{number} in {lane.source} on {self.hosts(other(lane.toward))[0]}'s cluster")
        return out

    def _await_counts(self) -> None:
        taken, began = self.taken(), self.world.clock()
        if any(t.kind == "quorum" for side in SIDES for t in taken[side]):
            while self.world.clock() - began < QUORUM_TICK_S:
                self.world.wait(POLL_S)

    def close(self, limit: float) -> None:
        """When nothing waits: shovels, namesakes that nobody uses, accounts and plugin go."""
        began = self.world.clock()
        while True:
            while left := self.waiting():
                self._in_time(began, limit, f"messages wait to be brought over: {', '.join(left[:5])}")
                self.reconcile()
                self.world.wait(POLL_S)
            if self.ferry:
                self.ferry.close()
                self._note_made()
            new = self.end("new")
            new.clear_shovels(list(new.shovels()))
            self._await_counts()
            if not self.waiting():
                break
            self.reconcile()  # one came in the last moment
        while idle := self.unused():
            for side in SIDES:
                mine = [(v, q) for s, v, q in idle if s == side]
                self.end(side).drop_queues([n for n in mine if not NO_HOME_OF_ITS_OWN.match(n[1])])
                # What waits for a process that is gone is nobody's: fanouts go to its queue for ever.
                gone = [n for n in mine if NO_HOME_OF_ITS_OWN.match(n[1])]
                self.end(side).drop_queues(gone, full=True)
            idle = self.unused()
            if idle:  # the shovels' consumers take a moment to go
                self._in_time(began, limit, f"recell's queues stay: {', '.join(q for _, _, q in idle[:5])}")
                self.world.wait(POLL_S)
        for side in SIDES:
            if self.told.get("ferry"):
                self.end(side).drop_account(FERRY)
            self.end(side).drop_account(PREFIX)
        for host in self._recall("plugged") or []:
            if host in new.plugged():
                new.plug(str(host), False)
        self._remember("open", False)

    @property
    def is_open(self) -> bool:
        return bool(self._recall("open"))

    def _in_time(self, began: float, limit: float, trouble: str) -> None:
        if self.world.clock() - began > limit:
            raise StepFailed(f"{trouble} (after {limit:.0f} s)", REMEDY)

    def unused(self) -> list[tuple[Side, str, str]]:
        """Queues that recell made, and nobody takes from."""
        taken = self.taken()
        idle = {(side, t.vhost, t.name) for side in SIDES for t in taken[side] if not t.takers}
        made = [(side, str(v), str(q)) for side in SIDES for v, q in self._recall(f"made-{side}") or []]
        return [found for found in made if found in idle]


class Span(RabbitStep):
    """Open the bridge, or close it. ``forward``, ``backward``: open or close. ``parted``: only when the two
    are clusters of their own, as after a cut."""

    kind: ClassVar[str] = "rabbit-bridge"

    @property
    def bridge(self) -> Bridge:
        return Bridge(self.context, self.spec.params)

    @property
    def lasting(self) -> bool:
        return str(self.param("forward")) == "close"

    def look(self, toward: Direction) -> Finding:
        if self.param("parted") and not self.parted():
            return Finding.done("the cluster is one")
        if self.param(toward) == "open":
            there = self.bridge.end("new").plugged()
            if set(self.bridge.hosts("new")) - set(there):
                return Finding.not_done("the shovel plugin is not enabled")
            missing, over = self.bridge.behind()
            if missing or over:
                return Finding.partial(f"{len(missing)} shovels are missing, {len(over)} too many")
            stopped = self.bridge.stopped()
            return Finding.partial(f"{len(stopped)} shovels don't run") if stopped else Finding.done("open")
        if self.bridge.is_open or self.bridge.end("new").shovels():
            return Finding.not_done("the bridge is open")
        return Finding.done("closed")

    def act(self, toward: Direction) -> None:
        if self.param("parted") and not self.parted():
            return
        if self.param(toward) == "open":
            self.bridge.equip()
            self.bridge.settle(self.limit("start_s"))
        else:
            self.bridge.close(self.limit("quiet_s"))

    def prove(self, toward: Direction) -> str:
        if self.param(toward) != "open" or (self.param("parted") and not self.parted()):
            return super().prove(toward)
        # Which shovels are needed may have changed since: the next step looks again.
        found = self.bridge.end("new").shovels()
        stopped = [name for (_, name), runs in found.items() if not runs]
        if stopped:
            raise VerifyFailed(f"{self.id}: {len(stopped)} of {len(found)} shovels don't run", REMEDY)
        return self.bridge.with_news(f"{len(found)} shovels run")


class Definitions(RabbitStep):
    """The new cluster gets the old one's vhosts, users, permissions and policies; undo: they go with it."""

    kind: ClassVar[str] = "rabbit-definitions"

    @property
    def lasting(self) -> bool:
        return False  # who changes an account on the old cluster afterwards has not changed this one

    def _sides(self) -> tuple[bridge.Copied, bridge.Copied]:
        old, new = (self.world.bridge_end(self.hosts(side)) for side in SIDES)
        version = new.version()
        return bridge.copied(old.definitions(), version), bridge.copied(new.definitions(), version)

    def look(self, toward: Direction) -> Finding:
        lacking = bridge.lacking(*self._sides())
        return Finding.not_done(f"lacking: {', '.join(lacking[:5])}") if lacking else Finding.done("the same")

    def act(self, toward: Direction) -> None:
        self.world.bridge_end(self.hosts("new")).load(self._sides()[0].definitions())
