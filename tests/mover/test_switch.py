"""The moment on real servers: the step itself, the real relay and the real mover, under writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from recell.errors import StepFailed
from recell.model.step import Truth
from tests.mover.deaths import die_before_the_turn
from tests.mover.relays import PASSWORD, USER, Rig, Writers, run
from tests.mover.stages import begun, rows
from tests.mover.stages import stage as stage
from tests.mover.test_relay import rig as rig
from tests.mover.test_relay import sides as sides
from tests.private_server import Server


def whole(server: Server, acknowledged: list[tuple[int, int]]) -> None:
    """Every transaction that was acknowledged is there, with its three rows; none by halves."""
    found = rows(server)
    assert set(acknowledged) <= set(found) and set(found.values()) <= {3}


def test_there_and_back_under_writers(rig: Rig, stage: Callable[[], Any]) -> None:
    run_ = stage()
    rig.relay.remove()
    rig.relay.install(("127.0.0.1", rig.port), {s: ("127.0.0.1", p) for s, p in rig.ports.items()},
                      {USER: PASSWORD})  # fmt: skip
    with Writers(rig) as writers:
        writers.more(30)
        for step in (run_.old, run_.new, run_.follow):
            step.do()
            assert step.verify("forward")
        writers.more(30)
        assert run_.switch.check("forward").truth is Truth.NOT_DONE
        run_.switch.do()
        said = run_.switch.verify("forward")
        assert "proven equal" in said and "shut" in said
        moved = rows(rig.old)
        writers.more(60)
        assert writers.errors == []
        assert sum((rows(rig.new) - moved).values()) > 0, "they write to the new server now"
        again = stage()  # another process: what was done is seen
        assert again.switch.check("forward").truth is Truth.DONE
        assert again.follow.check("forward").truth is Truth.DONE
        again.switch.undo()
        assert again.switch.verify("backward")
        writers.more(60)
    assert writers.errors == []
    whole(rig.old, writers.acknowledged)
    for direction in ("forward", "backward"):
        assert again.journal.recall("switch", f"held-{direction}") > 0
    for step in (again.follow, again.new, again.old):
        step.undo()
        assert step.verify("backward")
    assert not rig.old.sql("SHOW TABLES LIKE 'recell%'")
    assert ("nova",) not in rig.new.sql("SHOW DATABASES", database="")


def test_a_run_that_died_after_the_switch_is_brought_to_its_end(
    rig: Rig, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = begun(stage)
    client = rig.connect()
    run(client, "INSERT INTO done (who, number, part) VALUES (9, 1, 0)")
    client.commit()
    die_before_the_turn(run_, monkeypatch)
    assert rig.where(client) == 72
    run(client, "INSERT INTO done (who, number, part) VALUES (9, 2, 0)")  # users are served meanwhile
    client.commit()
    later = stage()
    found = later.switch.check("forward")
    assert found.truth is Truth.PARTIAL and "flow back" in found.why
    later.switch.do()
    assert later.switch.verify("forward")
    later.world._mover.catch_up(60)
    assert {n for _, n in rows(rig.old)} == {1, 2}, "what was written before it came back too"


def test_whoever_does_not_rest_is_named_and_everybody_goes_on(
    rig: Rig, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ATTEMPTS", 2), ("REST_S", 0.3)):
        monkeypatch.setattr(f"recell.steps.switch.{name}", value)
    run_ = begun(stage)
    busy, other = rig.connect(), rig.connect()
    run(busy, "INSERT INTO done (who, number, part) VALUES (1, 1, 0)")
    with pytest.raises(StepFailed, match=r"did not come to rest in 2 attempts.*nova at .*transaction"):
        run_.switch.do()
    run(other, "INSERT INTO done (who, number, part) VALUES (1, 2, 0)")
    other.commit()
    busy.commit()
    assert rig.where(busy) == 71
    monkeypatch.setattr("recell.steps.switch.REST_S", 30)
    run_.switch.do()
    assert rig.where(busy) == 72 == rig.where(other)
