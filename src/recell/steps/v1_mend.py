"""What nova-cells turned round on its way up is mended, where two looks prove it, and said by name."""

from __future__ import annotations

from typing import Any

from recell.model.rowchange import RowChange, dumped, loaded
from recell.model.v1 import BothSides
from recell.planning.heal_v1 import AT_REST_S, overtaken
from recell.steps.v1 import V1Step

MENDED = "mended"
ANSWER_S = 60.0
"""What a message down and one up may take: nova-cells itself gives up after 60 s."""
_NAMED = 10


class Mender:
    """Looks again and again; what differs in two looks ``AT_REST_S`` apart gets the child's word.

    nova-cells gives each update a thread of its own, so that of two in a row the first may be written last:
    the API cell then shows a task whose end it has heard of already. Stein's mends no state when it is asked.
    What a user asks of an instance that is shown in a state of before, the child refuses without a word.
    """

    def __init__(self, step: V1Step) -> None:
        self._step = step
        self._first: BothSides | None = None
        self._at = 0.0

    def look(self) -> None:
        step = self._step
        if self._first is not None and step.world.clock() - self._at < AT_REST_S:
            return
        now = step.port().both_sides()
        first, self._first, self._at = self._first, now, step.world.clock()
        if first is not None:
            changes = self._missed(first, now, heard=False)
            refused = self._missed(first, now, heard=True)
            if refused != changes and step.conversion.path in step.port().answering(ANSWER_S):
                changes = refused
            self._write(changes, now)

    def _missed(self, first: BothSides, now: BothSides, *, heard: bool) -> tuple[RowChange, ...]:
        conversion = self._step.conversion
        return overtaken(conversion.new.name, conversion.path, first, now, heard=heard)

    def _write(self, changes: tuple[RowChange, ...], seen: BothSides) -> None:
        if not changes:
            return
        wanted = [dumped(c) for c in changes]
        # What a run that was killed here has named and not written is named once.
        known: list[dict[str, Any]] = [m for m in self._step.recall(MENDED, []) if m not in wanted]
        # Before it is done: a kill leaves no change that the journal doesn't name.
        self._step.remember(MENDED, [*known, *wanted])
        done = self._step.port().mend(changes, seen)
        self._step.remember(MENDED, [*known, *map(dumped, done)])


def told(mended: list[dict[str, Any]]) -> str:
    """For the journal and the report: how many instances, which columns, from what to what."""
    if not mended:
        return ""
    named = [str(loaded(m)).removeprefix("~ ") for m in mended[:_NAMED]]
    columns = sorted({c for m in mended for c in m["after"]})
    count = len({m["label"] for m in mended})
    more = f" and {len(mended) - _NAMED} more" if len(mended) > _NAMED else ""
    return (
        f"{count} {'instance' if count == 1 else 'instances'} got the child's {', '.join(columns)}, whose"
        f" update was overtaken on its way up: {'; '.join(named)}{more}"
    )
