"""The unit that keeps the two sides of a former cluster apart, at once and at every boot."""

from __future__ import annotations

from typing import ClassVar

from recell.model.step import Direction, Finding
from recell.steps.files import FileStep


class Apart(FileStep):
    """``unit``; ``text``; ``other``: the other side's first host. Undo takes rules and unit away."""

    kind: ClassVar[str] = "rabbit-apart"

    def path(self) -> str:
        return f"/etc/systemd/system/{self.param('unit')}.service"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        return str(self.param("text")).encode(), 0o644, "root", "root"

    def look(self, toward: Direction) -> Finding:
        finding = super().look(toward)
        unit = self.host.unit(str(self.param("unit")))
        if toward == "forward" and finding.truth.value == "done":
            if unit.needs_reload or not unit.enabled or not unit.running or not self._stands():
                return Finding.partial(f"{unit.name} is written and not in force")
            return Finding.done(f"{unit.name} is in force and enabled")
        if toward == "backward" and finding.truth.value == "done" and self._stands():
            return Finding.partial("its rules are still there")
        return finding

    def _stands(self) -> bool:
        return self.world.rabbit(self.spec.where).apart(str(self.param("other")))

    def act(self, toward: Direction) -> None:
        name = str(self.param("unit"))
        if toward == "forward":
            super().act(toward)
            self.host.systemctl("daemon-reload")
            self.host.systemctl("enable", name)
            # Rules that a reload of the host's firewall took are made anew.
            self.host.systemctl("start" if self._stands() else "restart", name)
            return
        unit = self.host.unit(name)
        if unit.exists:
            if unit.needs_reload:  # written by a run that was killed before systemd read it
                self.host.systemctl("daemon-reload")
            self.host.systemctl("stop", name)
            self.host.systemctl("disable", name)
        super().act(toward)
        self.host.systemctl("daemon-reload")
