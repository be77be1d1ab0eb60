"""A cell's database gets a server of its own: accounts, tables, rows, and who is connected to what."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import ClassVar

from recell.adapters.mover_port import MoverPort
from recell.adapters.ports import RelayPort
from recell.errors import StepFailed, Unknowable, Unreachable, VerifyFailed
from recell.model.moving import Ends, Login, Thing
from recell.model.relay import Side
from recell.model.step import Direction, Finding
from recell.model.urls import Endpoint, parse_url
from recell.planning.database import MYSQL_PORT
from recell.steps.base import Anew, BaseStep, Context

POLL_S = 1.0
MEMORY = "database"
"""What the journal remembers of recell's own account stands under it."""


def recells_login(context: Context, first: str) -> Login:
    """recell's own account in databases. Its password is kept, root-only, on the host that first asked."""
    journal = context.journal
    where = str(journal.recall(MEMORY, "host", first))
    host = context.world.host(where)
    sha: str | None = journal.recall(MEMORY, "password")
    if sha is None:
        sha = host.keep(context.keep, secrets.token_urlsafe(24).encode())
        journal.remember(MEMORY, "host", where)
        journal.remember(MEMORY, "password", sha)
    return Login(f"recell_{context.keep[:8]}", host.kept(context.keep, sha).decode())


class DatabaseStep(BaseStep):
    """Shared: ``ends``, ``cell``; the mover, the relay, and the accounts that they enter with."""

    @property
    def ends(self) -> Ends:
        return Ends.from_json(self.param("ends"))

    def nova(self) -> Login:
        """The account that Nova's processes use: the one in the cell's mapping, now."""
        account = self._mapped()
        return Login(account.user, account.password)

    def _mapped(self) -> Endpoint:
        for mapping in self.world.nova().mappings():
            if mapping.uuid == self.param("cell"):
                return parse_url(mapping.database_connection).endpoints[0]
        raise Unknowable(
            f"cell {self.param('cell')} has no mapping any more", "See nova-manage cell_v2 list_cells"
        )

    def ours(self) -> Login:
        return recells_login(self.context, self.ends.old.host)

    def mover(self) -> MoverPort:
        return self.world.mover(self.ends, self.ours(), self.nova())

    def relay(self) -> RelayPort:
        return self.world.relay(self.ends.old.host, self.context.keep)

    def relay_side(self) -> Side | None:
        """Where the relay leads; None: there is none."""
        state = self.relay().state()
        return state.side if state else None

    def written(self) -> Side:
        """The server that Nova writes to: where the relay leads, or without one the cell's mapping.

        :raises Unknowable: the mapping names neither server.
        """
        if (side := self.relay_side()) is not None:
            return side
        named = self._mapped()
        where = f"{named.host}:{named.port or MYSQL_PORT}"
        sides: tuple[Side, Side] = ("old", "new")
        for side in sides:
            if where == self.ends.at(side).where:
                return side
        raise Unknowable(
            f"cell {self.param('cell')} is mapped to {where}, which is neither {self.ends.old.where} nor"
            f" {self.ends.new.where}",
            "See nova-manage cell_v2 list_cells",
        )


class DatabaseThings(DatabaseStep):
    """``things`` of one server, ``side``, in their order; what was there before stays."""

    kind: ClassVar[str] = "database-things"

    def _wanted(self) -> list[Thing]:
        return list(self.param("things"))

    def _side(self) -> Side:
        return "old" if self.param("side") == "old" else "new"

    def look(self, toward: Direction) -> Finding:
        there = self.mover().there(self._side())
        made: list[str] | None = self.recall("made")
        if toward == "forward":
            missing = [t for t in self._wanted() if t not in there]
            if made is None and "tables" in there and "database" in self._wanted():
                return Finding.unknown(
                    f"{self.ends.at(self._side()).where} has tables in a database {self.ends.database}"
                    " that recell did not make"
                )
            if not missing and made is not None:
                return Finding.done(f"{', '.join(self._wanted())} there")
            return Finding.partial(f"{', '.join(missing)} missing") if made else Finding.not_done()
        left = [t for t in made or [] if t in there or (t == "database" and "tables" in there)]
        return Finding.not_done(f"{', '.join(left)} made by recell") if left else Finding.done("as before")

    def act(self, toward: Direction) -> None:
        mover, side = self.mover(), self._side()
        if toward == "forward":
            there = mover.there(side)
            if self.recall("made") is None:
                # Before anything is made: undo takes away just that.
                self.remember("made", [t for t in self._wanted() if t not in there])
            for thing in self._wanted():
                mover.make(side, thing)
            return
        for thing in reversed(self._wanted()):
            if thing in (self.recall("made") or []):
                mover.drop(side, thing)

    def finish(self) -> None:
        if "recell" in (self.recall("made") or []):
            self.mover().drop(self._side(), "recell")


class FollowDatabase(DatabaseStep):
    """Rows are copied, changes follow, everything is compared once. The following goes on while the next
    steps run, and is picked up again by whoever needs it."""

    kind: ClassVar[str] = "follow-database"

    def look(self, toward: Direction) -> Finding:
        standing = self.mover().standing()
        if toward == "backward":
            if standing.phase == "none":
                return Finding.done("nothing is followed")
            return Finding.not_done(f"{standing.phase}")
        if standing.backward:
            return Finding.done("changes flow back to the old server")
        if standing.verified and standing.phase != "copying":
            return Finding.done("copied, compared, and followed")
        return Finding.not_done() if standing.phase == "none" else Finding.partial(standing.phase)

    def act(self, toward: Direction) -> None:
        if toward == "forward":
            self.remember("said", self.mover().follow(lambda figures: self.remember("progress", figures)))
        else:
            self.mover().forget()

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        return str(self.recall("said", said)) if toward == "forward" else said

    def compare(self, tell: Callable[[dict[str, float]], None]) -> str:
        """By hand, and while changes are applied. A server that has lost its last writes may remember a
        direction in which rows flow no more.

        :raises Unknowable: rows would flow to the server that Nova writes to.
        :raises StepFailed: nothing is followed. :raises VerifyFailed: rows differ; they are named.
        """
        mover, written = self.mover(), self.written()
        standing = mover.standing()
        if standing.phase == "following" and (written == "new") != standing.backward:
            old, new = self.ends.old.where, self.ends.new.where
            here, there = (new, old) if standing.backward else (old, new)
            raise Unknowable(
                f"Nova writes to {there}, which remembers that rows flow to it from {here}: it was put back"
                " to an older state, or has lost its last writes when it died",
                "Nothing was written. Leave Nova where it is, and compare the two by hand: recell can't know"
                " whose rows are the newer ones",
            )
        return mover.compare(tell)

    def finish(self) -> None:
        self.mover().forget()


class RelayStep(DatabaseStep):
    """``forward``: ``install`` or ``remove`` the relay; the way back is the other one.

    The pair brackets the time in which Nova's URLs lead to the relay. Installed first it leads to the
    old server, installed by undo to the new one.
    """

    kind: ClassVar[str] = "relay"

    def _installs(self, toward: Direction) -> bool:
        return (str(self.param("forward")) == "install") == (toward == "forward")

    @property
    def lasting(self) -> bool:
        return str(self.param("forward")) == "remove"

    def look(self, toward: Direction) -> Finding:
        try:
            side = self.relay_side()
        except Unreachable as error:
            return Finding.partial(error.sentence)  # put there in part, or taken away in part
        if self._installs(toward):
            return Finding.not_done() if side is None else Finding.done(f"it leads to the {side} server")
        return Finding.done("there is no relay") if side is None else Finding.not_done("it runs")

    def act(self, toward: Direction) -> None:
        relay, ends = self.relay(), self.ends
        if not self._installs(toward):
            self._await_nobody()
            relay.remove()
            return
        nova = self.nova()
        upstreams = {"old": (ends.old.address, ends.old.port), "new": (ends.new.address, ends.new.port)}
        first: Side = "old" if toward == "forward" else "new"
        relay.install(
            ("", int(self.param("port"))),
            {"old": upstreams["old"], "new": upstreams["new"]},
            {nova.user: nova.password},
            first,
        )
        refused = relay.try_logins()
        if refused:
            raise StepFailed(
                f"the relay on {ends.old.host} can't log in: {'; '.join(refused)}",
                f"Let Nova's account come from {ends.old.host} on both servers, then: recell resume",
            )

    def _await_nobody(self) -> None:
        try:
            state = self.relay().state()
        except Unreachable:
            return  # it doesn't run, so nobody comes through it
        began = self.world.clock()
        while state is not None and state.connections:
            if self.world.clock() - began > self.limit("drain_s"):
                raise StepFailed(
                    f"{state.connections} connections still come through the relay on {self.ends.old.host},"
                    f" from {', '.join(state.clients)}",
                    "Restart what runs there with the old address, then: recell resume",
                )
            self.world.wait(POLL_S)
            state = self.relay().state()


class Relayed(Anew, DatabaseStep):
    """Wait until nobody is connected to the database but through the relay, and prove it."""

    kind: ClassVar[str] = "relayed"

    def _side(self, toward: Direction) -> Side:
        return "old" if toward == "forward" else "new"

    def _past(self, toward: Direction) -> set[str]:
        """Whoever is there now and doesn't come from the relay's host."""
        relays = set(self.param("relay_addresses"))
        return {
            f"{s} (session {s.id})"
            for s in self.mover().sessions(self._side(toward))
            if s.address not in relays
        }

    def act(self, toward: Direction) -> None:
        if toward == "backward" and self.relay_side() != "new":
            return  # the database has not moved: nobody has to be away from it
        began = self.world.clock()
        while past := self._past(toward):
            if self.world.clock() - began > self.limit("drain_s"):
                where = self.ends.at(self._side(toward)).where
                raise StepFailed(
                    f"{len(past)} sessions of {self.ends.database} on {where} don't come through the relay:"
                    f" {'; '.join(sorted(past)[:5])}",
                    "Restart what they belong to, or end it, then: recell resume",
                )
            self.world.wait(POLL_S)

    def prove(self, toward: Direction) -> str:
        if toward == "backward" and self.relay_side() != "new":
            return "the database has not moved"
        if past := self._past(toward):
            raise VerifyFailed(
                f"{', '.join(sorted(past)[:5])} came past the relay just now",
                "Find out who that is, then: recell resume",
            )
        return "all come through the relay"
