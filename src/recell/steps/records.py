"""Service records of services that have left a cell."""

from __future__ import annotations

from typing import ClassVar

from recell.adapters.ports import ServiceRow
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep


class RetireRecords(BaseStep):
    """Soft-delete the records of ``services`` ([host, binary] pairs) in ``cell``; undo restores
    exactly those rows, with their ids, before the services come back and find them.

    With ``acts: backward`` it is the other way round: undo retires what the way forward created.
    """

    kind: ClassVar[str] = "retire-records"

    def _live(self) -> tuple[ServiceRow, ...]:
        wanted = {(h, b) for h, b in self.param("services")}
        return tuple(
            r for r in self.world.nova().services(str(self.param("cell"))) if (r.host, r.binary) in wanted
        )

    def _retires(self, toward: Direction) -> bool:
        return (toward == "forward") == (self.spec.acts != "backward")

    def look(self, toward: Direction) -> Finding:
        live = {r.id for r in self._live()}
        if self._retires(toward):
            return Finding.not_done(f"{len(live)} live") if live else Finding.done("none is left")
        missing = set(self.recall("retired", [])) - live
        return Finding.not_done(f"{len(missing)} to restore") if missing else Finding.done("all are back")

    def act(self, toward: Direction) -> None:
        nova, cell = self.world.nova(), str(self.param("cell"))
        live = self._live()
        if self._retires(toward):
            retired: list[int] = self.recall("retired", [])
            self.remember("retired", sorted({*retired, *(r.id for r in live)}))
            for row in live:
                nova.retire_service(cell, row)
            return
        present = {r.id for r in live}
        for row_id in self.recall("retired", []):
            if row_id not in present:
                nova.restore_service(cell, row_id)
        self.remember("retired", [])
