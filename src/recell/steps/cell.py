"""A further cell is made: what its servers need, its schema, its mapping, its console proxy."""

from __future__ import annotations

from typing import ClassVar

from recell.adapters.ports import RawMapping
from recell.errors import StepFailed, Unsupported, VerifyFailed
from recell.model.moving import Thing
from recell.model.relay import Side
from recell.model.step import Direction, Finding
from recell.steps.hosts import HostsStep
from recell.steps.mapping import urls_in
from recell.steps.units import POLL_S, UnitStep


class CellThings(HostsStep):
    """``things`` at one server, ``side``, in their order; what was there before stays."""

    kind: ClassVar[str] = "cell-things"

    def _wanted(self) -> list[Thing]:
        return list(self.param("things"))

    def _side(self) -> Side:
        return "old" if self.param("side") == "old" else "new"

    def look(self, toward: Direction) -> Finding:
        there = self.port().there(self._side())
        made: list[str] | None = self.recall("made")
        if toward == "forward":
            if made is None and "tables" in there and "database" in self._wanted():
                return Finding.unknown(
                    f"{self.move().at(self._side()).where} has tables of somebody else's"
                )
            missing = [t for t in self._wanted() if t not in there]
            if not missing and made is not None:
                return Finding.done(f"{', '.join(self._wanted())} there")
            return Finding.partial(f"{', '.join(missing)} missing") if made else Finding.not_done()
        left = [t for t in made or [] if t in there]
        return Finding.not_done(f"{', '.join(left)} made by recell") if left else Finding.done("as before")

    def act(self, toward: Direction) -> None:
        port, side = self.port(), self._side()
        if toward == "forward":
            there = port.there(side)
            if self.recall("made") is None:
                # Before anything is made: undo takes away just that.
                self.remember("made", [t for t in self._wanted() if t not in there])
            for thing in self._wanted():
                port.make(side, thing)
            return
        for thing in reversed(self._wanted()):
            if thing in (self.recall("made") or []):
                port.drop(side, thing)

    def finish(self) -> None:
        if "recell" in (self.recall("made") or []):
            self.port().drop(self._side(), "recell")


class CellSchema(HostsStep):
    """The operator's own nova-manage makes the tables (``argv``), and they are the other cell's; then their
    counters are raised, before the first row is there. Undone with the database."""

    kind: ClassVar[str] = "cell-schema"

    def look(self, toward: Direction) -> Finding:
        if toward == "backward":
            return Finding.done("it goes with the database")
        if "tables" not in self.port().there("new"):
            return Finding.not_done("no tables")
        if self.recall("parted"):
            return Finding.done("tables as in the other cell")
        return Finding.partial("tables are there")

    def act(self, toward: Direction) -> None:
        if toward == "backward":
            return
        port = self.port()
        ended = self.host.run(self.param("argv"), timeout=1800, user=self.param("user"))
        if ended.returncode != 0:
            lines = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip().splitlines()
            raise StepFailed(
                f"nova-manage db sync on {self.spec.where} ended with {ended.returncode}"
                f" ({lines[-1][:200] if lines else 'it said nothing'})",
                "See its log there, then: recell resume, or recell undo",
            )
        if found := port.differences():
            raise VerifyFailed(
                f"nova-manage on {self.spec.where} made other tables than the other cell has:"
                f" {'; '.join(found[:5])}",
                "Bring the other cell's schema up to date (nova-manage db sync), recell undo, begin again",
            )
        port.part("new")
        self.remember("parted", True)


class NewMapping(HostsStep):
    """A row of cell_mappings with both URLs written out, as the cell's own configuration names them."""

    kind: ClassVar[str] = "new-mapping"

    def _now(self) -> RawMapping | None:
        found = (m for m in self.world.nova().mappings() if m.uuid == self.param("cell"))
        return next(found, None)

    def _wanted(self) -> RawMapping:
        transport, database = urls_in(self.host, str(self.param("config")))
        if not transport or not database:
            raise Unsupported(
                f"{self.param('config')} on {self.spec.where} lacks one of both URLs",
                "recell undo takes back what was made; then look at the file it was copied from",
            )
        return RawMapping(str(self.param("cell")), str(self.param("name")), transport, database, False)

    def look(self, toward: Direction) -> Finding:
        now = self._now()
        if toward == "backward":
            return Finding.not_done("mapped") if now is not None else Finding.done("not mapped")
        if now is None:
            return Finding.not_done("not mapped")
        if now != self._wanted():
            return Finding.unknown(f"the mapping of {now.name} is not what recell wrote")
        return Finding.done("mapped, both URLs as in its configuration")

    def act(self, toward: Direction) -> None:
        now = self._now()
        if (now is None) == (toward == "forward"):
            # Processes that have read the mappings before have to go.
            self.remember("turn", int(self.recall("turn", 0)) + 1)
        if toward == "forward" and now is None:
            self.world.nova().add_mapping(self._wanted())
        elif toward == "backward" and now is not None:
            self.world.nova().remove_mapping(now)


class StartConsole(UnitStep):
    """A console proxy beside the old ones."""

    kind: ClassVar[str] = "start-console"

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        if toward == "backward":
            off = not unit.exists or (unit.active in ("inactive", "failed") and not unit.enabled)
            return Finding.done(f"{unit.name} does not run") if off else Finding.not_done(unit.active)
        if unit.enabled and self.fresh():
            return Finding.done(f"{unit.name} runs")
        return Finding.partial(f"{unit.name} is {unit.active}") if unit.running else Finding.not_done()

    def act(self, toward: Direction) -> None:
        name, unit = str(self.param("unit")), self.unit()
        if toward == "backward":
            if unit.active not in ("inactive", "failed"):
                self.host.systemctl("stop", name)
            if unit.enabled:
                self.host.systemctl("disable", name)
            return
        if not unit.enabled:
            self.host.systemctl("enable", name)
        if not self.fresh():
            (self.restart_unit if unit.running else self.start_unit)(name)
        began = self.world.clock()
        while not self.unit().running:
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{name} on {self.spec.where} does not start",
                    f"See journalctl -u {name} there, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)
