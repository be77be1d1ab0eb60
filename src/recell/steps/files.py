"""Write a file and put the old one back: nova.conf, copies of it, drop-ins, units.

The old content stays on its own host, root-only, named by its hash; the journal knows hashes only.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import ClassVar

from recell.adapters.ports import FileStat
from recell.errors import Unknowable
from recell.model.step import Direction, Finding
from recell.planning.changes import apply_changes
from recell.planning.unitfile import sibling
from recell.steps.base import BaseStep, note_file


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FileStep(BaseStep):
    """Common to all: ``before`` and ``after`` are sha256, "" for a file that is not there."""

    def path(self) -> str:
        return str(self.param("path"))

    @abstractmethod
    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        """The new content with mode, owner and group."""

    def look(self, toward: Direction) -> Finding:
        stat = self.host.stat(self.path())
        now = stat.sha256 if stat else ""
        before, after = self.recall("before"), self.recall("after")
        if before is None or after is None:
            return Finding.not_done("not begun") if toward == "forward" else Finding.done("not begun")
        target, origin = (after, before) if toward == "forward" else (before, after)
        if now == target:
            return Finding.done(f"{self.path()} is {target[:12] or 'absent'}")
        if now == origin:
            return Finding.not_done(f"{self.path()} is {origin[:12] or 'absent'}")
        if toward == "forward" and now in self.context.journal.recall(
            f"file:{self.spec.where}:{self.path()}", "shas", []
        ):
            return Finding.done(f"{self.path()} was changed further by a later step")
        return Finding.unknown(
            f"{self.path()} on {self.spec.where} is neither what recell wrote nor what was there before"
        )

    def act(self, toward: Direction) -> None:
        if toward == "forward":
            self._write()
        else:
            self._put_back()
        self.afterwards()

    def afterwards(self) -> None:
        return None

    def _write(self) -> None:
        path = self.path()
        stat = self.host.stat(path)
        before = self.recall("before")
        if before is None:
            old = self.host.read(path) if stat else None
            before = self.host.keep(self.context.keep, old) if old is not None else ""
            if stat and stat.sha256 != before:
                raise Unknowable(
                    f"{path} on {self.spec.where} changed while it was read",
                    "See who writes it, then: recell resume",
                )
            self.remember("stat", [stat.mode, stat.owner, stat.group] if stat else None)
            self.remember("before", before)
        old_content = self.host.kept(self.context.keep, before) if before else b""
        content, mode, owner, group = self.content(old_content)
        after = _sha(content)
        note_file(self.context, self.spec.where, path, after)
        note_file(self.context, self.spec.where, path, before)
        self.remember("after", after)
        now = stat.sha256 if stat else ""
        if now != after:
            self.host.write(path, content, mode=mode, owner=owner, group=group, expect=before or None)

    def _put_back(self) -> None:
        path, before, after = self.path(), self.recall("before"), self.recall("after")
        if before is None or after is None:
            return
        stat = self.host.stat(path)
        now = stat.sha256 if stat else ""
        if now == before:
            return
        if not before:
            self.host.remove(path, expect=after)
            return
        mode, owner, group = self.recall("stat")
        self.host.write(
            path, self.host.kept(self.context.keep, before), mode=mode, owner=owner, group=group, expect=after
        )

    def old_stat(self) -> FileStat | None:
        return self.host.stat(self.path())


class EditConfig(FileStep):
    """Change options of a configuration file in place; owner and mode stay."""

    kind: ClassVar[str] = "edit-config"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        text = apply_changes(before.decode(), self.param("changes"), self._mapping_url)
        mode, owner, group = self.recall("stat")
        return text.encode(), mode, owner, group

    def _mapping_url(self, cell: str) -> str:
        for mapping in self.world.nova().mappings():
            if mapping.uuid == cell:
                return mapping.database_connection
        raise Unknowable(f"cell {cell} has no mapping any more", "See nova-manage cell_v2 list_cells")


class CopyConfig(EditConfig):
    """A new configuration file beside another one, with changes; owner and mode of the other.

    Made from the source as it was when the plan was made, even when the source has moved on since.
    """

    kind: ClassVar[str] = "copy-config"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        source = str(self.param("source"))
        kept = self.recall("source")
        if kept is None:
            text = self.host.read(source)
            stat = self.host.stat(source)
            if text is None or stat is None:
                raise Unknowable(f"{source} on {self.spec.where} is gone", "Put it back, then: recell resume")
            kept = self.host.keep(self.context.keep, text)
            self.remember("source_stat", [stat.mode, stat.owner, stat.group])
            self.remember("source", kept)
        original = self.host.kept(self.context.keep, kept).decode()
        mode, owner, group = self.recall("source_stat")
        new = apply_changes(original, self.param("changes", []), self._mapping_url)
        return new.encode(), mode, owner, group


class _UnitFile(FileStep):
    def look(self, toward: Direction) -> Finding:
        finding = super().look(toward)
        unit = self.host.unit(str(self.param("unit")))
        if finding.truth.value == "done" and unit.exists and unit.needs_reload:
            return Finding.partial(f"systemd has not read {self.path()} yet")
        return finding

    def afterwards(self) -> None:
        self.host.systemctl("daemon-reload")


class DropIn(_UnitFile):
    """A drop-in with another command line, for the unit's next start; the process goes on."""

    kind: ClassVar[str] = "drop-in"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        return str(self.param("text")).encode(), 0o644, "root", "root"

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        if toward == "forward":
            unit = self.host.unit(str(self.param("unit")))
            if list(unit.exec_start) != list(self.param("argv")):
                raise Unknowable(
                    f"{unit.name} on {self.spec.where} would start {' '.join(unit.exec_start)}",
                    f"Another drop-in wins over {self.path()}; see systemctl cat {unit.name}",
                )
            said = f"{unit.name} will start with {self.param('argv')[-1]}"
        return said


class SiblingUnit(_UnitFile):
    """A unit like another one with a command line of its own."""

    kind: ClassVar[str] = "sibling-unit"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        kept = self.recall("model")
        if kept is None:
            unit = self.host.unit(str(self.param("model")))
            found = [self.host.read(p) or b"" for p in (unit.fragment, *unit.dropins)]
            # On its host, not in the journal: a unit's Environment= may hold a secret.
            kept = self.host.keep(self.context.keep, b"\n".join(found))
            self.remember("model", kept)
        texts = self.host.kept(self.context.keep, kept).decode()
        _, of_template, instance = str(self.param("model")).removesuffix(".service").partition("@")
        if of_template:  # a unit of its own has no instance name
            texts = texts.replace("%i", instance).replace("%I", instance)
        old_new = self.param("renamed")
        renamed = (str(old_new[0]), str(old_new[1])) if old_new else None
        text = sibling(texts, self.param("argv"), str(self.param("description")), renamed)
        return text.encode(), 0o644, "root", "root"
