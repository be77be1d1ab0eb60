"""A server dies around the moment: both sides end proven equal, or it stops and says why."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from typing import Any

import pymysql
import pytest

from recell.errors import VerifyFailed
from recell.model.relay import Side
from recell.model.step import Truth
from recell.mover import Move
from recell.mover.identity import ServerReplaced
from recell.steps.switch import SwitchDatabase
from tests.mover import schema
from tests.mover.relays import Rig, run
from tests.mover.test_relay import rig as rig
from tests.mover.test_relay import sides as sides
from tests.mover.test_switch import rows
from tests.mover.test_switch import stage as stage
from tests.mover.writers import fill
from tests.private_server import Pair, PrivateServer


class Dead(BaseException):
    pass


def write(client: pymysql.Connection[Any], number: int) -> None:
    run(client, f"INSERT INTO done (who, number, part) VALUES (9, {number}, 0)")
    client.commit()


def numbers(server: PrivateServer) -> set[int]:
    return {number for _, number in rows(server)}


def server_of(rig: Rig, side: Side) -> PrivateServer:
    server = rig.server(side)
    assert isinstance(server, PrivateServer)
    return server


def begun(stage: Callable[[], Any]) -> Any:
    run_ = stage()
    for step in (run_.old, run_.new, run_.follow):
        step.do()
    return run_


def die_before_the_turn(run_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers are on the new server, both sides were proven equal, and recell is no more."""

    def dies(self: Any, *_: Any) -> None:
        raise Dead

    with monkeypatch.context() as dying:
        dying.setattr(SwitchDatabase, "_settle", dies)
        with pytest.raises(Dead):
            run_.switch.do()


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


class PowerCut:
    """What a server's machine had not written to its disk is gone: all since this was made, but for the
    binary log (``sync_binlog`` is 1, and ``innodb_flush_log_at_trx_commit`` isn't)."""

    def __init__(self, server: PrivateServer) -> None:
        self._server = server
        server.halt(signal.SIGKILL)
        self._disk = server.directory / "disk"
        shutil.copytree(server.directory / "data", self._disk)
        self._start()

    def __call__(self, *, logged: bool = True) -> None:
        self._server.halt(signal.SIGKILL)
        data = self._server.directory / "data"
        for log in data.glob("bin.*") if logged else ():
            shutil.copy(log, self._disk)
        shutil.rmtree(data)
        self._disk.rename(data)
        self._start()

    def _start(self) -> None:
        shutil.chown(self._server.directory / "data", *_owner(self._server))
        for path in (self._server.directory / "data").rglob("*"):
            shutil.chown(path, *_owner(self._server))
        self._server.start()


def _owner(server: PrivateServer) -> tuple[str, str]:
    found = server.directory / "my.cnf"
    return found.owner(), found.group()


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


def test_a_target_that_died_is_compared_again_before_the_proof(
    clouds: Pair, own: Callable[..., PrivateServer]
) -> None:
    source, target = clouds[0], own(38)
    fill(source, 5, 5)
    move = Move(source.endpoint(), target.endpoint(), schema.scope(schema.read(source), schema.WHOLE))
    try:
        move.prepare()
        move.copy()
        cut = PowerCut(target)
        move.follow()
        move.catch_up(120, lag_s=10)
        assert move.verify().equal
        source.sql("UPDATE instances SET progress = 55")
        move.catch_up(120, lag_s=10)
        cut()
        with pytest.raises(VerifyFailed, match="since one of the servers died"):
            move.drain(120)
        assert "instances" in {d.table for d in move.verify().differences}
    finally:
        move.close()


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
