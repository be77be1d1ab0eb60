"""Which of two journals is in force: each direction has one, in the database that it writes to."""

from __future__ import annotations

from recell.adapters.mysql.endpoint import Endpoint
from recell.errors import Unknowable
from recell.mover.journal import State

__all__ = ["JournalLost", "in_force"]


class JournalLost(Unknowable):
    """A server doesn't know any more what was written to it last."""

    word = "journal-lost"


def in_force(ends: tuple[Endpoint, Endpoint], at_source: State | None, at_target: State | None
             ) -> State | None:
    """None: no move has begun.

    A direction's journal says that it is over only when the next one's was there, and the next one flows
    only from then on. Whatever else is found, one of both servers was put back to an older state, or has
    lost its last writes: from such a journal old rows would be written over newer ones.

    :raises JournalLost: the two contradict each other.
    """
    source, target = ends
    if at_target is not None and at_target.backward:
        raise _lost(ends, f"{target.where} remembers that rows flow from it")
    if at_source is not None and not at_source.backward:
        raise _lost(ends, f"{source.where} remembers that rows flow from it")
    found = sorted((s for s in (at_source, at_target) if s is not None), key=lambda s: s.generation)
    if not found:
        return None
    older, newer = found[0], found[-1]
    if len(found) == 1:
        if newer.generation or newer.phase == "reversed":
            here, there = ends if newer is at_source else (target, source)
            raise _lost(ends, f"{here.where} remembers that rows were turned round, {there.where} nothing")
        return newer
    if older.move != newer.move:
        raise _lost(ends, "the two remember different moves")
    if newer.generation != older.generation + 1 or newer.phase == "reversed":
        raise _lost(ends, "each remembers that rows were turned round to the other")
    if older.phase == "reversed":
        return newer
    if newer.phase != "following" or newer.position != (newer.first or older.watched):
        raise _lost(ends, "each remembers that rows flow to it from the other")
    # Killed in the middle of reverse(): the earlier direction is still drained, and in force.
    return older


def _lost(ends: tuple[Endpoint, Endpoint], how: str) -> JournalLost:
    source, target = ends
    return JournalLost(
        f"{source.where} and {target.where} contradict each other: {how}; one of them was put back to an"
        " older state, or has lost its last writes when it died",
        "Nothing was written. Find out which, and compare the two by hand: recell can't know whose rows are"
        " the newer ones",
    )
