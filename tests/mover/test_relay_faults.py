"""What goes wrong about a relay: kills, leases that end, servers that refuse or are away."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pymysql
import pytest

from recell.errors import Locked, RecellError, StepFailed, Unreachable
from recell.model.relay import Side
from tests.mover.relays import SESSIONS, USER, Rig, Writers, one, run, state_of, until
from tests.mover.test_relay import rig as rig
from tests.mover.test_relay import sides as sides
from tests.private_server import free_ports


def test_a_client_that_talks_nonsense_ends_itself_only(rig: Rig) -> None:
    client = rig.connect()
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, b"\0" * 40, b""):
        with socket.create_connection(("127.0.0.1", rig.port), timeout=60) as stranger:
            assert stranger.recv(1)
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            with suppress(OSError):
                while stranger.recv(4096):
                    pass
    assert rig.where(client) == 71
    client.commit()
    rig.through("new")
    assert rig.where(client) == 72


def test_a_client_that_says_nothing_keeps_nobody_waiting(rig: Rig) -> None:
    client = rig.connect()
    with socket.create_connection(("127.0.0.1", rig.port), timeout=60) as silent:
        assert silent.recv(1)
        rig.held(limit_s=0.05)
        switched = rig.relay.switch("new")
        assert (switched.carried, switched.reasons[0].split(" at ")[0]) == (1, "somebody")
        rig.relay.release()
        with suppress(OSError):
            while silent.recv(4096):
                pass
    assert rig.where(client) == 72


def test_a_side_that_is_away(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    (away,) = free_ports(1)
    second = Rig(tmp_path, rig.old, rig.new, {"old": rig.ports["old"], "new": away})
    try:
        second.install()
        client = second.connect()
        with pytest.raises(StepFailed, match=rf"127\.0\.0\.1:{away} can't be reached \(Connect"):
            second.relay.hold(1, 60)
        assert len(second.relay.try_logins()) == 2
        assert second.where(client) == 71
        (second.directory / "relay-p1" / "state.json").write_text('{"side": "new"}')
        second.host.systemctl("restart", second.relay.unit)
        until(lambda: second.relay._state_or_none())
        with pytest.raises(pymysql.err.OperationalError) as refused:
            second.connect()
        number, text = refused.value.args
        assert number == 2003 and f"127.0.0.1:{away} can't be reached" in text
    finally:
        second.close()


def test_the_lease(rig: Rig) -> None:
    client = rig.connect()
    rig.held(lease_s=0.2)
    assert rig.where(client) == 71  # waits for the lease's end, and goes on where it was
    assert "nobody has renewed" in state_of(rig).errors[-1]
    for too_late in (rig.relay.renew, lambda: rig.relay.switch("new")):
        with pytest.raises(StepFailed, match="lets connections through again"):
            too_late()
    client.commit()

    def switched_in_time() -> bool:
        rig.held(lease_s=0.5)
        with suppress(StepFailed):
            return rig.relay.switch("new").carried == 1
        return False

    until(switched_in_time)
    assert rig.where(client) == 72  # it ends on the side that was committed
    client.commit()
    rig.held(lease_s=60)
    with pytest.raises(Locked, match="held already"):
        rig.instance().hold(1, 1)
    with pytest.raises(StepFailed, match="another's"):
        rig.instance().switch("old")
    rig.relay.renew()
    assert state_of(rig).held and state_of(rig).lease_s > 1
    rig.instance().release()
    assert rig.where(client) == 72


@pytest.mark.thorough
def test_killed_at_any_moment_under_writers(rig: Rig) -> None:
    """What was acknowledged is on one side, and who writes after the restart writes to the committed one."""
    choose = random.Random(8)
    with Writers(rig, patient=True) as writers:
        writers.more(10)
        began = time.monotonic()
        while not rig.relay.hold(1, 60).quiet:
            pass
        rig.relay.switch("new")
        rig.relay.release()
        undisturbed = time.monotonic() - began
        for _ in range(15):
            writers.more(10)
            before = state_of(rig).side
            side: Side = "new" if before == "old" else "old"
            acknowledged: list[Side] = []

            def go(side: Side = side, acknowledged: list[Side] = acknowledged) -> None:
                with suppress(RecellError):
                    if rig.relay.hold(1, 60).quiet:
                        rig.relay.switch(side)
                        acknowledged.append(side)
                        rig.relay.release()

            going = threading.Thread(target=go)
            going.start()
            time.sleep(choose.uniform(0, 1.2 * undisturbed))
            rig.host.end(signal.SIGKILL)
            going.join()
            for server in (rig.old, rig.new):  # a commit may have been on its way
                until(lambda server=server: not server.sql(SESSIONS))
            counts = [s.sql("SELECT COUNT(*) FROM done") for s in (rig.old, rig.new)]
            rig.host.systemctl("start", rig.relay.unit)
            until(lambda: rig.relay._state_or_none())
            now = state_of(rig).side
            assert now in (acknowledged or [before, side])
            writers.more(10)
            idle = 1 if now == "old" else 0
            assert (rig.old, rig.new)[idle].sql("SELECT COUNT(*) FROM done") == counts[idle]
    assert writers.errors == []
    parts = "SELECT who, number FROM done GROUP BY who, number HAVING COUNT(*) = 3"
    old, new = set(rig.old.sql(parts)), set(rig.new.sql(parts))
    assert not old & new and set(writers.acknowledged) <= old | new


@pytest.mark.parametrize("switched", [False, True])
def test_killed_while_it_holds_it_comes_back_on_the_committed_side(rig: Rig, switched: bool) -> None:
    client = rig.connect()
    rig.held()
    if switched:
        rig.relay.switch("new")
    rig.host.end(signal.SIGKILL)
    with pytest.raises(Unreachable, match="does not answer"):
        rig.relay.state()
    with pytest.raises(pymysql.err.MySQLError):
        run(client, "SELECT 1")
    rig.host.systemctl("start", rig.relay.unit)
    until(lambda: rig.relay._state_or_none())
    state = state_of(rig)
    assert (state.side, state.held) == (("new", False) if switched else ("old", False))
    assert rig.where(rig.connect()) == (72 if switched else 71)
    with pytest.raises(StepFailed):
        rig.relay.switch("new")


def test_the_old_server_may_end_sessions_while_they_rest(rig: Rig) -> None:
    """As when it is shut. They go on at the new one; let go without a switch, at the old one again."""
    clients = [rig.connect() for _ in range(3)]
    assert [rig.where(c) for c in clients] == [71] * 3
    run(clients[0], "SET lock_wait_timeout = 55")
    for client in clients:
        client.commit()
    rig.held()
    rig.old.sql(f"KILL USER {USER}@'127.0.0.1'", database="")
    until(lambda: not rig.old.sql(SESSIONS))
    rig.relay.release()
    assert [rig.where(c) for c in clients] == [71] * 3
    for client in clients:
        client.commit()
    rig.held()
    rig.old.sql(f"REVOKE ALL ON nova.* FROM {USER}@'127.0.0.1'", f"KILL USER {USER}@'127.0.0.1'", database="")
    rig.relay.switch("new")
    rig.relay.release()
    assert [rig.where(c) for c in clients] == [72] * 3
    assert one(clients[0], "SELECT @@lock_wait_timeout") == 55


def test_no_hold_begins_when_the_other_side_would_refuse(rig: Rig) -> None:
    client = rig.connect()
    assert rig.relay.try_logins() == ()
    rig.new.sql(f"ALTER USER {USER}@'127.0.0.1' ACCOUNT LOCK", database="")
    (refused,) = rig.relay.try_logins()
    assert f"127.0.0.1:{rig.ports['new']} refuses the relay's login as {USER}" in refused
    with pytest.raises(StepFailed, match=r"can't bring its connections over: .* refuses the relay's login"):
        rig.relay.hold(5, 60)
    assert state_of(rig).holds == 0 and rig.where(client) == 71
    rig.new.sql(f"ALTER USER {USER}@'127.0.0.1' ACCOUNT UNLOCK", database="")
    client.commit()
    rig.held()
    rig.new.sql(f"REVOKE ALL ON nova.* FROM {USER}@'127.0.0.1'", database="")
    # Sessions that were prepared have no rights any more: nothing is switched, all are held still.
    with pytest.raises(StepFailed, match=r"can't be carried over: it refuses nova .*Access denied"):
        rig.relay.switch("new")
    assert state_of(rig).held and state_of(rig).side == "old"
    rig.relay.release()
    assert rig.where(client) == 71


def test_a_setting_that_the_other_side_refuses_is_found_before_anybody_waits(rig: Rig) -> None:
    client, other = rig.connect(), rig.connect()
    rig.old.sql(f"GRANT SUPER ON *.* TO {USER}@'127.0.0.1'", database="")
    allowed = rig.connect()
    run(allowed, "SET SESSION sql_log_bin = 0")
    held = rig.relay.hold(20, 60)
    (named,) = held.stateful
    assert "refuses SET SESSION sql_log_bin = 0" in named.what and "Access denied" in named.what
    switched = rig.relay.switch("new")
    rig.relay.release()
    assert (switched.carried, switched.closed) == (2, 1)
    assert rig.where(client) == rig.where(other) == 72
