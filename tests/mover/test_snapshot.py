"""A server that doesn't tell its snapshots' positions, as MySQL: rows are read in the order of its binlog.

MariaDB stands for it here, asked as MySQL is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from recell.adapters.mysql.binlog import BinlogReader, Commit, Idle, Rows
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import SEEN, Session
from recell.errors import StepFailed
from recell.mover import Move, Options
from recell.mover.fence import Hold
from recell.mover.journal import make_tables
from recell.mover.members import Members
from tests.mover import schema
from tests.mover.writers import HOSTS, Load, fill
from tests.private_server import Pair, PrivateServer


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "tells_snapshots", False)


@pytest.mark.parametrize("hosts", [(), HOSTS[:3]], ids=["whole", "hosts"])
def test_there_and_back(clouds: Pair, hosts: tuple[str, ...]) -> None:
    source, target = clouds
    fill(source, 2)
    schema.gap(target)
    scope = schema.scope(schema.read(source), schema.BY_HOST if hosts else schema.WHOLE, hosts)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    with Load(source, 2):
        move.prepare()
        move.copy()
        move.follow()
        move.catch_up(120, lag_s=5)
        assert move.verify().equal
    move.close()
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    assert move.prepare() == "following", "another run goes on"
    move.follow()
    move.drain(120)
    assert schema.differing(source, target, scope) == []
    move.reverse()
    with Load(target, 52, base=schema.GAP):
        move.catch_up(120, lag_s=5)
        assert move.verify().equal
    move.drain(120)
    assert schema.differing(source, target, scope) == []
    move.finish()
    for server in clouds:
        assert not [t for (t,) in server.sql("SHOW TABLES") if t.startswith("recell_")]


def _until(server: PrivateServer, start: Commit | Idle | None, ends: Callable[[Commit | Idle], bool]
           ) -> Iterator[Rows]:
    members = Members(schema.scope(schema.read(server), schema.WHOLE))
    assert start is not None
    reader = BinlogReader(server.endpoint(), start.position, members.wanted, server_id=4720, heartbeat_s=0.1)
    pending: list[Rows] = []
    with closing(reader):
        for event in reader.read():
            if isinstance(event, Rows):
                pending.append(event)
            elif isinstance(event, Commit | Idle):
                if event.position <= start.position:
                    continue
                if ends(event):
                    return
                yield from pending
                pending = []


def test_what_the_binlog_has_before_it_is_seen(clouds: Pair) -> None:
    server = clouds[0]
    make_tables(server.endpoint())
    with closing(Session(server.endpoint())) as session:
        start = Idle(session.binlog_end())
    stop = threading.Event()

    def write(who: int) -> None:
        with server.connect() as client, client.cursor() as cursor:
            for number in range(100_000):
                cursor.execute("INSERT INTO s3_images (id, uuid) VALUES (%s, 'x')", (number * 8 + who + 1,))
                if stop.is_set():
                    return

    writers = [threading.Thread(target=write, args=(who,)) for who in range(8)]
    for thread in writers:
        thread.start()
    shown: list[tuple[Position, set[int]]] = []
    try:
        with closing(Session(server.endpoint())) as session:
            while len(shown) < 60 or len(shown[-1][1]) <= 60:
                position = session.snapshot()
                shown.append((position, {int(n) for (n,) in session.query("SELECT id FROM s3_images")}))
                session.commit()
    finally:
        stop.set()
        for thread in writers:
            thread.join()
    for position, ids in shown[::len(shown) // 6]:
        before = {image[1][0] for rows in _until(server, start, lambda e, at=position: e.position > at)  # type: ignore[misc]
                  for image in rows.images if rows.table == "s3_images" and image[1] is not None}
        assert before <= ids


def test_its_own_row_is_no_strangers(clouds: Pair) -> None:
    server = clouds[0]
    make_tables(server.endpoint())
    with Hold(server.endpoint()) as hold, closing(Session(server.endpoint())) as session:
        session.snapshot()
        session.commit()
        assert hold.prove().others == 0
        server.sql(f"DELETE FROM {SEEN}")
        with pytest.raises(StepFailed, match="has no row"):
            session.snapshot()
