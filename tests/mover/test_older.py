"""A server was put back to an older state: no older row is written over a newer one, it is said instead."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from recell.errors import StepFailed, Unknowable
from recell.mover.feed import ForeignWriter
from recell.mover.force import JournalLost
from recell.mover.identity import ServerReplaced
from recell.mover.journal import state_of
from tests.mover.deaths import PowerCut, die_before_the_turn, server_of, write
from tests.mover.moves import Moves
from tests.mover.relays import Rig, run
from tests.mover.stages import begun
from tests.mover.stages import stage as stage
from tests.mover.test_relay import rig as rig
from tests.mover.test_relay import sides as sides
from tests.mover.writers import fill
from tests.private_server import Pair, PrivateServer

Stage = Callable[[], Any]


def quiet(figures: dict[str, float]) -> None:
    return None


def parts(server: PrivateServer) -> dict[int, int]:
    """What rows say that were written by number."""
    return dict(server.sql("SELECT number, part FROM done"))


def newer(rig: Rig, number: int) -> None:
    """A user changes, through the relay, what was written before."""
    client = rig.connect()
    run(client, f"REPLACE INTO done (id, who, number, part) VALUES ({number}, 9, {number}, 7)")
    client.commit()


def refused(stage: Stage, kind: type[Unknowable], match: str) -> None:
    """`recell rows --compare`, as another process has it, stops before it writes anything."""
    with pytest.raises(kind, match=match) as stopped:
        stage().follow.compare(quiet)
    assert stopped.value.exit_code == 11 and "compare" in stopped.value.remedy


@pytest.mark.parametrize("logged", [True, False], ids=["binlog-kept", "binlog-lost"])
def test_a_new_server_that_forgot_the_switch_keeps_what_users_write_there_now(
    rig: Rig, stage: Stage, monkeypatch: pytest.MonkeyPatch, logged: bool
) -> None:
    run_ = begun(stage)
    cut = PowerCut(server_of(rig, "new"))
    write(rig.connect(), 1)
    die_before_the_turn(run_, monkeypatch)
    cut(logged=logged)
    newer(rig, 1)
    now = parts(server_of(rig, "new"))
    assert now[1] == 7 and parts(server_of(rig, "old"))[1] == 0
    refused(stage, Unknowable, r"Nova writes to 127\.0\.0\.1:\d+, which remembers that rows flow to it from")
    # Without the relay's word for it the new server's own binary log tells who wrote there.
    with pytest.raises(ForeignWriter, match="another writer than recell changed done"):
        stage().world.mover(run_.follow.ends, run_.follow.ours(), run_.follow.nova()).compare(quiet)
    assert parts(server_of(rig, "new")) == now


def test_a_new_server_put_back_to_before_the_turn(rig: Rig, stage: Stage) -> None:
    run_ = begun(stage)
    cut = PowerCut(server_of(rig, "new"))
    write(rig.connect(), 1)
    run_.switch.do()
    write(rig.connect(), 2)
    run_.world._mover.catch_up(60)
    cut(logged=False)
    newer(rig, 1)
    old, new = (parts(server_of(rig, "old")), parts(server_of(rig, "new")))
    refused(stage, Unknowable, "Nova writes to")
    mover = stage().world.mover(run_.follow.ends, run_.follow.ours(), run_.follow.nova())
    contradiction = "each remembers that rows flow to it from the other"
    with pytest.raises(JournalLost, match=contradiction):
        mover.compare(quiet)
    with pytest.raises(JournalLost, match=contradiction):
        mover.catch_up(60)
    assert (parts(server_of(rig, "old")), parts(server_of(rig, "new"))) == (old, new)


def test_an_old_server_put_back_to_before_the_turn(rig: Rig, stage: Stage) -> None:
    run_ = begun(stage)
    cut = PowerCut(server_of(rig, "old"))
    write(rig.connect(), 1)
    run_.switch.do()
    write(rig.connect(), 2)
    cut(logged=False)
    new = parts(server_of(rig, "new"))
    mover = stage().world.mover(run_.follow.ends, run_.follow.ours(), run_.follow.nova())
    with pytest.raises(StepFailed, match="nothing to compare"):
        mover.compare(quiet)
    with pytest.raises(JournalLost, match=r"on 127\.0\.0\.1:\d+ remembers that rows were turned round"):
        mover.catch_up(60)
    assert parts(server_of(rig, "new")) == new and parts(server_of(rig, "old")) == {}
    with pytest.raises(JournalLost):
        stage().switch.undo()
    assert rig.where(rig.connect()) == 72


def another_second(server: PrivateServer) -> None:
    """What tells two files of one name apart is the second in which each was begun."""
    asked = "SELECT UNIX_TIMESTAMP()"
    before = server.sql(asked)
    while server.sql(asked) == before:
        time.sleep(0.05)


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_binlog_begun_anew_that_looks_the_same(
    own: Callable[..., PrivateServer], clouds: Pair, moves: Moves, which: str
) -> None:
    """Names, sizes and numbers of transactions come again where a server repeats what it did."""
    broken, whole = own(51), clouds[0]
    source, target = (broken, whole) if which == "source" else (whole, broken)
    fill(source, 11, 5)
    again = ("RESET MASTER", *["UPDATE services SET report_count = report_count + 1"] * 3)
    broken.sql(*again)
    moves.copied(source, target).close()
    state = state_of(target.endpoint())
    assert state is not None
    file, _, offset = (state.proven if which == "source" else state.watched).rpartition(":")
    another_second(broken)
    broken.sql(*again)
    while broken.sql("SHOW MASTER STATUS")[0][1] <= int(offset):
        broken.sql(again[-1])
    assert broken.sql("SHOW MASTER STATUS")[0][0] == file
    name = re.escape(file)
    with pytest.raises(ServerReplaced, match=rf"db51.* was {name} of \d+ and is {name} of"):
        moves(source, target).prepare()


@pytest.mark.parametrize("which", ["source", "target"])
def test_each_file_is_known_by_its_beginning_also_those_that_came_later(
    clouds: Pair, moves: Moves, which: str
) -> None:
    source, target = clouds
    fill(source, 11, 5)
    move = moves.following(source, target)
    before = state_of(target.endpoint())
    for server in clouds:
        another_second(server)
        server.sql("FLUSH BINARY LOGS")
    source.sql("UPDATE instances SET progress = 5")
    move.catch_up(60, lag_s=10)
    assert move.verify().equal
    move.drain(60)
    after = state_of(target.endpoint())
    assert before is not None and after is not None
    mark, known = ("proven", "begun") if which == "source" else ("watched", "watched_begun")
    for state in (before, after):
        file = getattr(state, mark).rpartition(":")[0]
        assert re.fullmatch(rf"{re.escape(file)} of \d+", getattr(state, known)), state
    assert getattr(before, known) != getattr(after, known)
    move.close()
    assert moves(source, target).prepare() == "drained"


def test_users_wrote_at_the_target_while_recell_was_away(clouds: Pair, moves: Moves) -> None:
    """What the source has may be older: it is seen before anything is applied."""
    source, target = clouds
    fill(source, 11, 5)
    move = moves.following(source, target)
    assert move.verify().equal
    move.close()
    source.sql("UPDATE instances SET progress = 5")
    target.sql("UPDATE instances SET progress = 6")
    again = moves(source, target)
    again.prepare()
    with pytest.raises(ForeignWriter, match="changed instances id="):
        again.follow()
    with pytest.raises(ForeignWriter):
        again.drain(60)
    assert target.sql("SELECT DISTINCT progress FROM instances") == [(6,)]
    assert again.status().phase == "following" and not again.status().applied
