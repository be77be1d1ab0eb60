"""Which of two journals is in force, and which pairs of them can't be by recell's own doing."""

from __future__ import annotations

from typing import Any

import pytest

from recell.adapters.mysql.endpoint import Endpoint
from recell.mover.force import JournalLost, in_force
from recell.mover.journal import State

ENDS = Endpoint("db1", "u", "", "nova"), Endpoint("db2", "u", "", "nova")
HERE, LATER = "b.000001:9", "b.000001:99"


def state(generation: int, phase: Any, position: str = HERE, first: str = HERE, move: str = "m") -> State:
    return State(move, generation, phase, "s", 1, {}, position, position, watched=HERE, first=first)


@pytest.mark.parametrize(
    ("at_source", "at_target", "generation"),
    [
        (None, None, None),
        (None, state(0, "copying"), 0),
        (None, state(0, "drained"), 0),
        (state(1, "following"), state(0, "drained"), 0),  # killed in the middle of reverse()
        (state(1, "following"), state(0, "following"), 0),  # and gone on with
        (state(1, "following", first=""), state(0, "drained"), 0),  # an older recell's
        (state(1, "following"), state(0, "reversed"), 1),
        (state(1, "drained", LATER), state(0, "reversed"), 1),
        (state(1, "drained", LATER), state(2, "following"), 1),
        (state(1, "reversed", LATER), state(2, "following", LATER), 2),
    ],
)
def test_the_journal_in_force(at_source: State | None, at_target: State | None, generation: int | None
                              ) -> None:
    found = in_force(ENDS, at_source, at_target)
    assert (None if found is None else found.generation) == generation


@pytest.mark.parametrize(
    ("at_source", "at_target", "how"),
    [
        (state(1, "following", LATER), state(0, "following"), "each remembers that rows flow to it"),
        (state(1, "following", LATER), state(0, "drained"), "each remembers that rows flow to it"),
        (state(1, "drained"), state(0, "drained"), "each remembers that rows flow to it"),
        (state(1, "reversed", LATER), state(0, "reversed"), "turned round to the other"),
        (state(3, "following", LATER), state(0, "reversed"), "turned round to the other"),
        (None, state(0, "reversed"), "db2:3306 remembers that rows were turned round, .*db1:3306 nothing"),
        (state(1, "following"), None, "db1:3306 remembers that rows were turned round, .*db2:3306 nothing"),
        (None, state(2, "following"), "db2:3306 remembers that rows were turned round"),
        (state(1, "following"), state(0, "reversed", move="other"), "different moves"),
        (state(0, "following"), None, "db1:3306 remembers that rows flow from it"),
        (None, state(1, "following"), "db2:3306 remembers that rows flow from it"),
    ],
)
def test_journals_that_contradict_each_other(at_source: State | None, at_target: State | None, how: str
                                             ) -> None:
    with pytest.raises(JournalLost, match=how) as stopped:
        in_force(ENDS, at_source, at_target)
    assert stopped.value.exit_code == 11
