"""A further child of a tree of cells v1: its flavors, what it weighs, its record above it, the proof."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar

from recell.errors import StepFailed, Unknowable, VerifyFailed
from recell.model.step import Direction, Finding
from recell.steps.base import Anew, note_file
from recell.steps.files import FileStep
from recell.steps.v1 import SIDES, V1Record, V1Step, with_entry
from recell.steps.v1_mend import ANSWER_S
from recell.steps.v1_rows import neighbour

CELLS = "cells"
FORGET_S = 75.0
"""After so long every nova-cells has read its records anew: once a minute."""
FORGET_POLL_S = 5.0
_NAMED = 5


def empty(step: V1Step) -> None:
    """:raises StepFailed: the child has live instances."""
    found = step.port().live("old")
    if found:
        name = step.conversion.old.name
        raise StepFailed(
            f"{name} has {len(found)} instances: {', '.join(found[:_NAMED])}",
            "Let their owners delete them, then ask again",
        )


class V1Empty(Anew, V1Step):
    """Backward, before anything is taken away: nobody has an instance in the child."""

    kind: ClassVar[str] = "v1-empty"
    anew: ClassVar[str] = "it is looked at anew each time"

    def act(self, toward: Direction) -> None:
        empty(self)

    def prove(self, toward: Direction) -> str:
        return f"{self.conversion.old.name} has no instance"


class V1Flavors(V1Step):
    """The child has the API cell's flavors, number by number, where each cell keeps its own."""

    kind: ClassVar[str] = "v1-flavors"

    @property
    def lasting(self) -> bool:
        return False  # users' flavors are made on

    def look(self, toward: Direction) -> Finding:
        before = self.recall("before")
        if toward == "backward":
            if before is None or self.port().flavors("old") == before:
                return Finding.done("as before")
            return Finding.not_done("the API cell's are there")
        wanted = self.port().flavors("new")
        if not any(wanted.values()):
            return Finding.done("they are not kept in the cells")
        if self.port().flavors("old") == wanted:
            return Finding.done(f"{sum(map(len, wanted.values()))} rows as in {self.conversion.new.name}")
        return Finding.not_done("they differ")

    def act(self, toward: Direction) -> None:
        port = self.port()
        if toward == "backward":
            if self.recall("before") is not None:
                port.set_flavors(self.recall("before"))
            return
        empty(self)
        if self.recall("before") is None:
            self.remember("before", port.flavors("old"))
        port.set_flavors(port.flavors("new"))


class V1Weights(FileStep, V1Step):
    """What the API cell's record of a child ``name`` weighs: ``wanted``, of ``weight_offset`` and
    ``weight_scale``; ``into`` its table, or the file ``path``."""

    kind: ClassVar[str] = "v1-weights"

    @property
    def _in_table(self) -> bool:
        return str(self.param("into")) == "table"

    def content(self, before: bytes) -> tuple[bytes, int, str, str]:
        stat = self.old_stat()
        if stat is None:
            raise Unknowable(
                f"{self.path()} on {self.spec.where} is gone", "Put it back, then: recell resume"
            )
        name, known = str(self.param("name")), json.loads(before)
        if name not in known:
            raise Unknowable(f"{self.path()} on {self.spec.where} has no {name}", "See who changed it")
        text = with_entry(before, name, {**known[name], **self.param("wanted")})
        return text, stat.mode, stat.owner, stat.group

    def _now(self) -> dict[str, float]:
        """Of what is wanted; {} where there is no record, or none that can be seen yet."""
        found = [n for n in self.port().neighbours("new") if n.name == self.param("name")]
        if not found:
            return {}
        now = {"weight_offset": found[0].weight_offset, "weight_scale": found[0].weight_scale}
        return {k: now[k] for k in self.param("wanted")}

    def look(self, toward: Direction) -> Finding:
        if not self._in_table:
            return super().look(toward)
        target = self.param("wanted") if toward == "forward" else self.recall("weights")
        if target is None:
            return Finding.done("not begun")
        now = self._now()
        if now == target:
            return Finding.done(", ".join(f"{k} {v:g}" for k, v in now.items()))
        said = ", ".join(f"{k} is {v:g}" for k, v in now.items())
        return Finding.not_done(said or f"no record of {self.param('name')} is seen")

    def act(self, toward: Direction) -> None:
        if not self._in_table:
            super().act(toward)
            return
        if toward == "forward" and self.recall("weights") is None:
            self.remember("weights", self._now())
        self.port().set_weights(
            str(self.param("name")), self.param("wanted") if toward == "forward" else self.recall("weights")
        )


class V1ChildRecord(V1Record):
    """The API cell's record of a further child. It is written once the child is known to be empty; when it
    has been removed, the API cell's nova-cells is waited for until it sends nothing there any more, and a
    build that came meanwhile brings the record back.

    ``places``: host and file of all that the API cell's nova-cells read, where records are in files.
    """

    kind: ClassVar[str] = "v1-child-record"

    def look(self, toward: Direction) -> Finding:
        found = super().look(toward)
        if toward == "backward" and found.truth.value == "done" and self.recall("known"):
            return Finding.partial("it is removed, and may still be known")
        return found

    def act(self, toward: Direction) -> None:
        if toward == "forward":
            if not self.recall("known"):
                empty(self)
            self.remember("known", True)
            super().act("forward")
            return
        if self.port().live("old"):
            self._bring_back()
        self._take_away_again()
        super().act("backward")
        if not self._elsewhere():
            self._await_forgotten()
            if self.port().live("old"):
                self._bring_back()
        self.remember("known", False)

    def _entries(self) -> list[tuple[str, str, bool]]:
        """Host, file, and whether it has the entry."""
        name = str(self.param("name"))
        return [
            (str(h), str(p), name in json.loads(self.world.host(str(h)).read(str(p)) or b"{}"))
            for h, p in self.param("places")
        ]

    def _elsewhere(self) -> bool:
        return any(there for _, _, there in self._entries())

    def _await_forgotten(self) -> None:
        began = self.world.clock()
        # One of its nova-cells answers for all, and each reads by itself.
        while self.world.clock() - began < FORGET_S:
            self.world.wait(FORGET_POLL_S)
        while (why := self._still_known()) and self.world.clock() - began <= FORGET_S + self.limit("start_s"):
            self.world.wait(FORGET_POLL_S)
        if why:
            raise StepFailed(
                f"nova-cells of {self.conversion.new.name} does not forget {self.conversion.path}: {why}",
                "See its log (it reads records again once a minute), then: recell resume",
            )

    def _still_known(self) -> str:
        if self.conversion.path in self.port().answering(ANSWER_S):
            return "it still asks there"
        end = self.conversion.old
        if self.is_lost(end.broker):
            return ""
        waiting = sum(
            q.messages_ready + q.messages_unacknowledged
            for q in self.world.broker(end.broker).queues(end.vhost)
            if q.name.startswith(CELLS)
        )
        return f"{waiting} messages wait for {end.name}'s nova-cells" if waiting else ""

    def _bring_back(self) -> None:
        """Owners have to reach what was built meanwhile. :raises StepFailed: always."""
        super().act("forward")
        entry = json.loads(self.content(b"{}")[0]) if self.param("places") else {}
        brought: list[list[str]] = self.recall("brought", [])
        for where, path, there in self._entries():
            now = self.world.host(where).read(path)
            if there or now is None:
                continue
            # Its own step is through: this one takes it away again.
            sha = self.world.host(where).keep(self.context.keep, now)
            brought = [*(b for b in brought if b[:2] != [where, path]), [where, path, sha]]
            self.remember("brought", brought)
            name = str(self.param("name"))
            self._write_there(where, path, with_entry(now, name, entry[name]))
        empty(self)

    def _take_away_again(self) -> None:
        for where, path, sha in self.recall("brought", []):
            self._write_there(where, path, self.world.host(where).kept(self.context.keep, sha))
        self.remember("brought", [])

    def _write_there(self, where: str, path: str, text: bytes) -> None:
        host = self.world.host(where)
        stat, sha = host.stat(path), hashlib.sha256(text).hexdigest()
        if stat is None:
            raise Unknowable(f"{path} on {where} is gone", "Put it back, then: recell undo")
        if stat.sha256 != sha:
            note_file(self.context, where, path, sha)
            host.write(path, text, mode=stat.mode, owner=stat.owner, group=stat.group, expect=stat.sha256)


class V1Join(Anew, V1Step):
    """Forward only: the child is one of the tree. ``siblings``: the children that were there before;
    ``records``: table or file."""

    kind: ClassVar[str] = "v1-join"

    def act(self, toward: Direction) -> None:
        return

    def prove(self, toward: Direction) -> str:
        conversion = self.conversion
        wrong, room = self._wrong_records(), -1
        if not wrong:
            answered, room = neighbour(self)
            if not answered:
                wrong.append(f"{conversion.path} does not answer")
            elif room < 0:
                wrong.append(f"{conversion.new.name} knows of no room in {conversion.old.name} for boots")
        if wrong:
            raise VerifyFailed(
                f"{self.id}: {'; '.join(wrong)}",
                "See nova-cells.log of both sides: each must reach the other's RabbitMQ; then: recell resume,"
                " or recell undo",
            )
        return f"{conversion.path} answers and has {room} MiB free; both sides know each other"

    def _wrong_records(self) -> list[str]:
        if self.param("records") != "table":
            return []
        wrong, conversion = [], self.conversion
        wanted = {"old": [conversion.new.name], "new": [*self.param("siblings"), conversion.old.name]}
        for side in SIDES:
            known = sorted(n.name for n in self.port().neighbours(side))
            if known != sorted(wanted[side]):
                wrong.append(f"the records of {conversion.at(side).name} name {', '.join(known) or 'nobody'}")
        return wrong
