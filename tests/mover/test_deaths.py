"""A server dies around the moment: both sides end proven equal, or it stops and says why."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from recell.errors import VerifyFailed
from recell.model.relay import Side
from recell.model.step import Truth
from recell.mover.apply import Applier
from recell.mover.identity import ServerReplaced
from tests.mover.deaths import PowerCut, die_before_the_turn, numbers, server_of, write
from tests.mover.moves import Moves
from tests.mover.relays import Rig, until
from tests.mover.stages import begun
from tests.mover.stages import stage as stage
from tests.mover.test_relay import rig as rig
from tests.mover.test_relay import sides as sides
from tests.mover.writers import fill
from tests.private_server import Pair, PrivateServer


@pytest.mark.parametrize("resumed", [True, False], ids=["resume", "undo"])
@pytest.mark.parametrize("which", ["old", "new"])
def test_a_server_dies_before_the_rows_turn(
    rig: Rig, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, which: Side, resumed: bool
) -> None:
    run_ = begun(stage)
    client = rig.connect()
    write(client, 1)
    die_before_the_turn(run_, monkeypatch)
    write(client, 2)
    server_of(rig, which).restart(signal.SIGKILL)
    client = rig.connect()
    assert rig.where(client) == 72
    write(client, 3)
    later = stage()
    if resumed:
        later.switch.do()
        assert later.switch.verify("forward")
        write(client, 4)
        later.world._mover.catch_up(60)
        assert numbers(server_of(rig, "old")) == {1, 2, 3, 4}
        later = stage()
    later.switch.undo()
    assert later.switch.verify("backward")
    assert rig.where(rig.connect()) == 71
    assert numbers(server_of(rig, "old")) == numbers(server_of(rig, "new")) >= {1, 2, 3}


def test_rows_that_the_old_server_lost_when_it_died_are_named(
    rig: Rig, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = begun(stage)
    cut = PowerCut(server_of(rig, "old"))
    client = rig.connect()
    write(client, 1)
    die_before_the_turn(run_, monkeypatch)
    write(client, 2)
    cut()
    assert numbers(server_of(rig, "old")) == set() and numbers(server_of(rig, "new")) == {1, 2}
    later = stage()
    with pytest.raises(VerifyFailed, match=r"rows differ: .*done"):
        later.switch.do()
    # It is known now, and users are served: the way on is free, the way back is not.
    assert stage().switch.check("forward").truth is Truth.DONE
    with pytest.raises(VerifyFailed, match=r"rows differ: .*done"):
        stage().switch.undo()
    assert rig.where(client) == 72 and numbers(server_of(rig, "new")) == {1, 2}


def test_an_old_server_that_lost_the_proof_with_its_binlog_stops_it(
    rig: Rig, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = begun(stage)
    cut = PowerCut(server_of(rig, "old"))
    write(rig.connect(), 1)
    die_before_the_turn(run_, monkeypatch)
    cut(logged=False)
    for verb in ("do", "undo"):
        with pytest.raises(ServerReplaced, match=r"ends at .* before the move's position") as stopped:
            getattr(stage().switch, verb)()
        assert "users are served by 127.0.0.1" in stopped.value.sentence
        assert "anew" not in stopped.value.remedy
    assert rig.where(rig.connect()) == 72 and numbers(server_of(rig, "new")) == {1}


@pytest.mark.parametrize("proven", [True, False])
def test_a_target_that_died_is_compared_again_before_the_proof(
    clouds: Pair, own: Callable[..., PrivateServer], moves: Moves,
    monkeypatch: pytest.MonkeyPatch, proven: bool,
) -> None:
    source, target = clouds[0], own(38)
    fill(source, 5, 5)
    move = moves.copied(source, target)
    cut = PowerCut(target)
    move.follow()
    move.catch_up(120, lag_s=10)
    assert move.verify().equal
    prove = Applier.prove
    if not proven:  # only a drain proves: what the target lost was still to be proven
        monkeypatch.setattr(
            Applier, "prove", lambda self, **how: None if "going" in how else prove(self, **how))
    source.sql("UPDATE instances SET progress = 55")
    move.catch_up(120, lag_s=10)
    if proven:
        until(lambda: not move.status().unproven)
    cut()
    with pytest.raises(VerifyFailed, match="since one of the servers died"):
        move.drain(120)
    assert "instances" in {d.table for d in move.verify().differences}


def test_a_new_server_that_does_not_know_any_more_that_it_was_drained_stops_it(
    rig: Rig, stage: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = begun(stage)
    cut = PowerCut(server_of(rig, "new"))
    write(rig.connect(), 1)
    die_before_the_turn(run_, monkeypatch)
    cut()
    for toward in ("forward", "backward"):
        found = stage().switch.check(toward)
        assert found.truth is Truth.UNKNOWN and "127.0.0.1" in found.why and "died" in found.why, found
    assert numbers(server_of(rig, "old")) == {1}, "nothing was written there since"
