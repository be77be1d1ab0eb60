"""What goes wrong meanwhile ends in both sides proven equal, or in a stop that says why."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recell.adapters.mysql.binlog import BinlogFiltered, BinlogLost, SchemaChanged, Statement
from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Session, changed
from recell.errors import (
    Denied,
    Locked,
    StalePlan,
    StepFailed,
    Unreachable,
    Unsupported,
    VerifyFailed,
)
from recell.model.scope import Scope
from recell.mover import Move
from recell.mover.feed import Feed, ForeignWriter, Start
from recell.mover.identity import ServerReplaced
from recell.mover.members import Members
from tests.mover import schema
from tests.mover.moves import Moves, fails, proven
from tests.mover.writers import HOSTS, Load, fill
from tests.private_server import Pair, PrivateServer

_SEED = 11


@pytest.fixture
def copied(clouds: Pair, moves: Moves) -> Move:
    """A move whose copy is done, and which follows."""
    fill(clouds[0], _SEED, 10)
    move = moves.following(*clouds)
    move.catch_up(60, lag_s=10)
    return move


# -- servers that go away and come back ---------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("which", ["source", "target"])
def test_a_server_restarts(own: Callable[..., PrivateServer], moves: Moves, which: str,
                           how: signal.Signals) -> None:
    # A killed server keeps what it has acknowledged, as Nova's do.
    options = ("sync-binlog=1", "innodb-flush-log-at-trx-commit=1")
    source, target = own(21, *options), own(22, *options)
    broken = source if which == "source" else target
    fill(source, _SEED)
    move = moves(source, target)
    with Load(source, _SEED, writers=1):
        move.prepare()
        move.set_rate(150)
        restarting = _later(0.5, lambda: broken.restart(how))
        move.copy()
        restarting()
        move.set_rate(0)
        move.follow()
        time.sleep(0.3)
        broken.restart(how)
        move.catch_up(120, lag_s=10)
    proven(move, source, target)


def _tear(server: PrivateServer, table: str = "s3_images") -> None:
    """It dies while it writes a transaction: the first half of one, as the binlog's end."""
    end = server.sql("SHOW MASTER STATUS")[0]
    server.sql(f"INSERT INTO {table} (uuid) SELECT REPEAT('t', 36) FROM seq_1_to_2000")
    file = server.directory / "data" / end[0]
    written = file.read_bytes()[end[1]:]
    server.sql(f"DELETE FROM {table} WHERE uuid = REPEAT('t', 36)")
    server.halt(signal.SIGKILL)
    with file.open("ab") as log:
        log.write(written[:len(written) // 2])
    server.start()


def test_a_transaction_that_a_dying_server_left_half_written(
        own: Callable[..., PrivateServer], moves: Moves) -> None:
    durable = ("sync-binlog=1", "innodb-flush-log-at-trx-commit=1")
    source, target = own(33, *durable), own(34, *durable)
    fill(source, _SEED, 5)
    move = moves.following(source, target)
    target.sql("CREATE DATABASE other", "CREATE TABLE other.t (id INT AUTO_INCREMENT PRIMARY KEY, uuid TEXT)",
               database="")
    for server, table in ((target, "other.t"), (source, "s3_images")):
        _tear(server, table)
        source.sql("UPDATE instances SET progress = progress + 1")
        move.catch_up(60, lag_s=10)
    proven(move, source, target)


def test_a_dying_server_that_may_have_kept_what_its_binlog_has_not(
        own: Callable[..., PrivateServer], moves: Moves, clouds: Pair) -> None:
    source, target = own(35, "sync-binlog=0"), clouds[1]
    fill(source, _SEED, 5)
    move = moves.following(source, target)
    _tear(source)
    fails(move, BinlogLost, "truncated in the middle of event")


def test_connections_are_cut(clouds: Pair, moves: Moves) -> None:
    source, target = clouds
    fill(source, _SEED)
    move = moves(source, target)
    with Load(source, _SEED):
        move.prepare()
        move.set_rate(200)
        cutting = _later(0.3, lambda: _cut(clouds, 4))
        move.copy()
        cutting()
        move.set_rate(0)
        move.follow()
        _cut(clouds, 5)
        move.catch_up(120, lag_s=10)
    proven(move, source, target)


def test_a_server_that_ends_what_takes_long(clouds: Pair, moves: Moves) -> None:
    source, target = clouds
    source.sql("INSERT INTO s3_images (uuid) SELECT UUID() FROM seq_1_to_30000")
    for server in clouds:
        server.sql("SET GLOBAL max_statement_time = 0.005")
    try:
        move = moves.following(source, target)
        assert move.verify().equal
    finally:
        for server in clouds:
            server.sql("SET GLOBAL max_statement_time = 0")


@pytest.mark.parametrize("lost", [False, True])
def test_a_server_that_died_may_have_kept_what_its_binlog_has_lost(
        own: Callable[..., PrivateServer], moves: Moves, clouds: Pair, lost: bool) -> None:
    source, target = own(37, "sync-binlog=0"), clouds[1]
    fill(source, _SEED, 5)
    move = moves.following(source, target)
    assert move.verify().equal and move.sure
    move.close()
    end = source.sql("SHOW MASTER STATUS")[0]
    source.sql("UPDATE instances SET progress = 55",
               "INSERT INTO s3_images (uuid) VALUES ('x')")
    source.halt(signal.SIGKILL)
    if lost:
        # As after a power cut: the file's end was not on the disk yet, InnoDB's log was.
        with (source.directory / "data" / end[0]).open("r+b") as file:
            file.truncate(end[1])
    source.start()
    again = moves.again(source, target)
    with pytest.raises(VerifyFailed, match="since one of the servers died"):
        again.drain(60)
    if lost:
        assert "instances" in {d.table for d in again.verify().differences}
        assert not again.sure
    else:
        proven(again, source, target)


def test_a_statement_that_was_killed_is_tried_again(clouds: Pair) -> None:
    server = clouds[0]
    server.sql("INSERT INTO s3_images (uuid) VALUES ('x')")
    busy = server.connect(autocommit=False)
    busy.cursor().execute("UPDATE s3_images SET uuid = 'y'")
    session = Session(server.endpoint())
    (number,) = session.query("SELECT CONNECTION_ID()")[0]

    def kill() -> None:
        while not server.sql(f"SELECT 1 FROM information_schema.processlist WHERE id = {number}"
                             " AND info LIKE 'UPDATE%'"):
            time.sleep(0.01)
        server.sql(f"KILL QUERY {number}")

    killing = _later(0, kill)
    try:
        with pytest.raises(Busy):
            session.execute("UPDATE s3_images SET uuid = 'z'")
        killing()
    finally:
        session.close()
        busy.close()


def test_a_server_stays_away(own: Callable[..., PrivateServer], moves: Moves,
                             clouds: Pair) -> None:
    source, target = clouds[0], own(23)
    fill(source, _SEED, 10)
    move = moves.following(source, target, 1)
    target.halt()
    source.sql("UPDATE instances SET progress = 99")
    fails(move, Unreachable, "does not answer")
    target.start()
    move.prepare()
    move.follow()
    proven(move, source, target)


# -- a target that has no room ------------------------------------------------------------------


def test_a_full_disk_at_the_target(own: Callable[..., PrivateServer], moves: Moves,
                                   clouds: Pair) -> None:
    source, target = clouds[0], own(24)
    target.halt()
    small, data = target.directory / "small", target.directory / "data" / "nova"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=0777", "tmpfs", str(small)], check=True)
    try:
        shutil.move(data, small / "nova")
        subprocess.run(["chown", "-R", "--reference", str(target.directory / "data"), str(small)], check=True)
        data.symlink_to(small / "nova")
        target.start()
        # Rows of a few bytes: large ones make MariaDB 10.11 itself crash on a full disk.
        source.sql("INSERT INTO s3_images (uuid) SELECT UUID() FROM seq_1_to_150000")
        move = moves(source, target, 5)
        move.prepare()
        with pytest.raises(StepFailed, match="db24:3306 has no room left"):
            move.copy()
        assert move.phase == "copying"
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        again = moves(source, target)
        again.prepare()
        again.copy()
        again.follow()
        proven(again, source, target)
        again.close()
        move.close()
    finally:
        target.halt()
        subprocess.run(["umount", str(small)], check=True)


def test_a_row_that_fits_no_packet(own: Callable[..., PrivateServer], moves: Moves,
                                   clouds: Pair) -> None:
    source, target = own(26, "max-allowed-packet=1M"), clouds[1]
    source.sql("INSERT INTO every_type (id, lb) VALUES (1, REPEAT('''', 700000))")
    move = moves(source, target)
    move.prepare()
    with pytest.raises(Unsupported, match=r"every_type is larger than the source's max_allowed_packet"):
        move.copy()


# -- what it can't go on from -------------------------------------------------------------------


def test_the_binlog_was_purged(own: Callable[..., PrivateServer], moves: Moves,
                               clouds: Pair) -> None:
    source, target = own(27), clouds[1]
    fill(source, _SEED, 5)
    move = moves.copied(source, target)
    move.close()
    source.purge()
    with pytest.raises(BinlogLost, match=r"has purged bin.*, from which the move goes on"):
        moves(source, target).prepare()


@pytest.mark.parametrize("before", [0, 500])
def test_the_binlog_was_reset(own: Callable[..., PrivateServer], moves: Moves, before: int,
                              clouds: Pair) -> None:
    source, target = own(28), clouds[1]
    fill(source, _SEED, 5)
    move = moves.copied(source, target)
    move.close()
    source.sql("RESET MASTER", *["INSERT INTO s3_images (uuid) VALUES (REPEAT('x', 36))"] * before)
    with pytest.raises(ServerReplaced, match="the binlog was reset"):
        moves(source, target).prepare()


def test_another_server_answers(own: Callable[..., PrivateServer], moves: Moves,
                                clouds: Pair) -> None:
    source, target = own(29), clouds[1]
    move = moves(source, target)
    move.prepare()
    move.close()
    source.number = 30
    source.restart()
    with pytest.raises(ServerReplaced, match="server_id was 29, is 30"):
        moves(source, target).prepare()


def test_another_server_answers_new_sessions_while_the_binlog_comes_from_the_first(
        clouds: Pair, own: Callable[..., PrivateServer], moves: Moves, tmp_path: Path) -> None:
    # As behind a proxy that has gone over to a replica: connections that are there stay where they were.
    source, target = clouds
    standby = own(36)
    fill(source, _SEED, 5)
    # Its binlog's files have the same names, and are ahead.
    while _sequence(standby) <= _sequence(source):
        standby.sql("FLUSH BINARY LOGS")
    address = tmp_path / "s"
    address.symlink_to(source.socket)
    scope = schema.scope(schema.read(source), schema.WHOLE)
    move = Move(replace(source.endpoint(), unix_socket=str(address)), target.endpoint(), scope)
    try:
        move.prepare()
        move.copy()
        move.follow()
        move.catch_up(60, lag_s=10)
        rows = target.sql("SELECT COUNT(*) FROM instances")
        address.unlink()
        address.symlink_to(standby.socket)
        for number, command in source.sql("SELECT id, command FROM information_schema.processlist"
                                          " WHERE user = 'root' AND id <> CONNECTION_ID()"):
            if command != "Binlog Dump":
                source.sql(f"KILL {number}")
        source.sql("UPDATE instances SET progress = 77")
        fails(move, ServerReplaced, "server_id was 1, is 36")
        assert target.sql("SELECT COUNT(*) FROM instances") == rows
        address.unlink()
        address.symlink_to(source.socket)
        move.prepare()
        move.follow()
        proven(move, source, target)
    finally:
        move.close()


def test_a_newer_release_of_the_same_server_may_tell_more_of_itself() -> None:
    known = {"server_id": "1"}
    assert changed(known, {"server_id": "1", "server_uid": "abc"}) == ""
    assert changed({"server_id": "1", "server_uid": "abc"}, known) == ""
    assert changed(known, {"server_id": "2", "server_uid": "abc"}) == "server_id was 1, is 2"


def _sequence(server: PrivateServer) -> int:
    return len(server.sql("SHOW BINARY LOGS"))


def test_the_schema_changes(copied: Move, clouds: Pair) -> None:
    clouds[0].sql("ALTER TABLE instances ADD COLUMN more INT")
    fails(copied, SchemaChanged, "ALTER TABLE instances ADD COLUMN more INT")


@pytest.mark.parametrize(("database", "text", "stops"), [
    ("nova", "TRUNCATE TABLE s3_images", True), ("nova", "DROP TABLE `tags`", True),
    ("nova", "CREATE INDEX more ON instances (deleted)", True), ("nova", "RENAME TABLE tags TO others", True),
    ("nova", "UPDATE instances SET progress = 7", True), ("other", "DROP TABLE nova.tags", True),
    ("nova", "SET STATEMENT lock_wait_timeout=5 FOR TRUNCATE TABLE tags", True),
    ("nova", "ANALYZE DELETE FROM tags", True), ("nova", "SET PASSWORD FOR somebody = 'x'", False),
    ("NOVA", "DROP TABLE tags", True), ("nova", "/* why */ ALTER TABLE tags ENGINE=InnoDB", True),
    ("other", "DROP TABLE tags", False), ("other", "DROP TABLE innova.tags", False),
    ("nova", "CREATE TABLE recell_mover_state (id INT)", False), ("nova", "ANALYZE TABLE tags", False),
    ("nova", "/* why */ GRANT SELECT ON nova.* TO somebody", False),
    ("nova", "CREATE OR REPLACE DEFINER = a@b TRIGGER t AFTER DELETE ON tags FOR EACH ROW SET @a = 1", False),
    ("nova", "ALTER TABLE `tags` AUTO_INCREMENT = 200000000", False),
    ("nova", "ALTER TABLE `tags` AUTO_INCREMENT = 2, DROP COLUMN tag", True)])
def test_which_statements_stop_a_move(database: str, text: str, stops: bool) -> None:
    endpoint = Endpoint("db", "root", "", "nova")
    members = Members(Scope("nova", ()))
    feed = Feed(endpoint, Start(Position("bin.000001", 4), "", {}), members, 1, 1)
    event = Statement(database, text, Position("bin.000001", 4))
    if stops:
        with pytest.raises(SchemaChanged, match=re.escape(text)):
            feed._statement(event)
    else:
        feed._statement(event)


def test_a_write_that_was_logged_as_text(copied: Move, clouds: Pair) -> None:
    clouds[0].sql("SET SESSION binlog_format = STATEMENT", "UPDATE instances SET progress = 7")
    fails(copied, SchemaChanged, "UPDATE instances SET progress = 7")


def test_what_was_prepared_before_the_move_begins(clouds: Pair, moves: Moves) -> None:
    source, target = clouds
    source.sql("XA START 'a'", "INSERT INTO s3_images (uuid) VALUES ('x')", "XA END 'a'", "XA PREPARE 'a'")
    try:
        with pytest.raises(Unsupported, match=r"db1:3306 has 1 transactions in two phases"):
            moves(source, target).prepare()
    finally:
        source.sql("XA ROLLBACK 'a'")
    moves(source, target).prepare()


def test_statements_that_change_no_row(copied: Move, clouds: Pair) -> None:
    source, target = clouds
    source.sql("CREATE DATABASE IF NOT EXISTS other", "CREATE TABLE other.t (id INT PRIMARY KEY)",
               "DROP DATABASE other", database="")
    source.sql("ANALYZE TABLE instances", "CREATE USER somebody@localhost",
               "GRANT SELECT ON nova.* TO somebody@localhost", "DROP USER somebody@localhost",
               "CREATE TEMPORARY TABLE more LIKE s3_images",
               "CREATE TRIGGER fence BEFORE DELETE ON s3_images FOR EACH ROW SET @a = 1",
               "DROP TRIGGER fence", "FLUSH BINARY LOGS")
    with Load(source, 12, writers=1):
        time.sleep(0.3)
    proven(copied, source, target)


def test_another_writer_at_the_target(copied: Move, clouds: Pair) -> None:
    clouds[1].sql("UPDATE services SET report_count = 99 WHERE host = 'cmp-1'")
    fails(copied, ForeignWriter, "another writer than recell changed services id=")


def test_a_straggler_at_the_source_after_the_switch(copied: Move, clouds: Pair) -> None:
    source, target = clouds
    proven(copied, source, target)
    copied.reverse()
    target.sql("UPDATE services SET report_count = 5 WHERE host = 'cmp-1'")
    copied.catch_up(60, lag_s=10)
    source.sql("UPDATE services SET report_count = 99 WHERE host = 'cmp-2'")
    fails(copied, ForeignWriter, "another writer than recell changed services id=.* on db1")


def test_the_targets_own_rows_are_its_own(clouds: Pair, moves: Moves) -> None:
    """A cell that has hosts already: they write on, and lose nothing."""
    source, target = clouds
    fill(source, _SEED)
    target.sql("INSERT INTO instances (id, uuid, host) VALUES (900000, 'native', 'far-1')",
               "INSERT INTO tags VALUES ('native', 'a')",
               "INSERT INTO s3_images VALUES (900000, 'native')")
    scope = schema.scope(schema.read(source), schema.BY_HOST, HOSTS[:3])
    move = Move(source.endpoint(), target.endpoint(), scope)
    move.prepare()
    move.copy()
    move.follow()
    with Load(source, _SEED, writers=1):
        target.sql("UPDATE instances SET progress = 5 WHERE uuid = 'native'")
        target.sql("INSERT INTO instances (id, uuid, host) VALUES (900001, 'native-2', 'far-1')")
        move.catch_up(120, lag_s=10)
        assert move.verify().differences == ()
    move.drain(120)
    assert target.sql("SELECT uuid, progress FROM instances WHERE id >= 900000 ORDER BY id") == [
        ("native", 5), ("native-2", None)]
    assert target.sql("SELECT tag FROM tags WHERE resource_id = 'native'") == [("a",)]
    assert target.sql("SELECT uuid FROM s3_images WHERE id = 900000") == [("native",)]
    move.finish()


def test_a_second_run_takes_over(copied: Move, clouds: Pair, moves: Moves
                                 ) -> None:
    source, target = clouds
    second = moves(source, target)
    second.prepare()
    source.sql("UPDATE instances SET progress = 3")
    fails(copied, Locked, "another run of recell (has taken over|reads the binlog)")
    second.follow()
    proven(second, source, target)


# -- what is proven, and what is refused --------------------------------------------------------


def test_differences_are_named(copied: Move, clouds: Pair) -> None:
    source, target = clouds
    source.sql("UPDATE compute_nodes SET cpu_allocation_ratio = 1.2345678 WHERE id = 1",
               "INSERT INTO tags VALUES ('x', 'it''s')")
    copied.catch_up(60, lag_s=10)
    # Past the binlog: what a broken disk or a sly human does.
    target.sql("SET SESSION sql_log_bin = 0",
               "UPDATE compute_nodes SET cpu_allocation_ratio = 1.2345679 WHERE id = 1",
               "DELETE FROM tags WHERE resource_id = 'x'", "INSERT INTO s3_images VALUES (77, 'extra')")
    report = copied.verify()
    assert {(d.table, d.key, d.what) for d in report.differences} == {
        ("compute_nodes", "id=1", "different"), ("tags", "resource_id=x, tag=it's", "missing"),
        ("s3_images", "id=77", "extra")}
    with pytest.raises(VerifyFailed, match="no full verification has ended well"):
        copied.drain()


def test_what_is_applied_last_is_proven_too(copied: Move, clouds: Pair) -> None:
    source, target = clouds
    assert copied.verify().equal
    target.sql("SET SESSION sql_log_bin = 0",
               "CREATE TRIGGER spoil BEFORE INSERT ON s3_images FOR EACH ROW SET NEW.uuid = 'spoilt'")
    source.sql("INSERT INTO s3_images VALUES (55, 'good')")
    with pytest.raises(VerifyFailed, match=r"1 rows differ at bin.*: s3_images 55"):
        copied.drain(5)
    target.sql("DROP TRIGGER spoil")


def test_drained_while_somebody_writes(copied: Move, clouds: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more row at the worst moment: all before it is proven, the last look is still to come."""
    assert copied.verify().equal
    before_the_last_look = copied._watched

    def written_in_between(limit_s: float) -> None:
        before_the_last_look(limit_s)
        clouds[0].sql("UPDATE instances SET progress = 77")

    monkeypatch.setattr(copied, "_watched", written_in_between)
    with pytest.raises(StepFailed, match="still change"):
        copied.drain(30)
    monkeypatch.undo()
    copied.follow()
    proven(copied, *clouds)


def test_written_between_drain_and_reverse(copied: Move, clouds: Pair) -> None:
    source, target = clouds
    proven(copied, source, target)
    source.sql("UPDATE instances SET progress = 44")
    with pytest.raises(ForeignWriter, match="changed after they were proven equal"):
        copied.reverse()
    copied.follow()
    proven(copied, source, target)
    copied.reverse()


@pytest.mark.parametrize(("variable", "usual", "value"), [
    ("binlog_format", "ROW", "MIXED"), ("binlog_row_image", "FULL", "MINIMAL")])
def test_binlogs_that_do_not_serve(clouds: Pair, moves: Moves,
                                   variable: str, usual: str, value: str) -> None:
    clouds[0].sql(f"SET GLOBAL {variable} = {value}")
    try:
        with pytest.raises(Unsupported, match=f"{variable} of .* is {value}"):
            moves(*clouds).prepare()
    finally:
        clouds[0].sql(f"SET GLOBAL {variable} = {usual}")


@pytest.mark.parametrize("setting", ["--binlog-ignore-db=nova", "--binlog-do-db=other"])
@pytest.mark.parametrize("which", ["source", "target"])
def test_a_binlog_that_leaves_the_database_out_since_a_restart(
        own: Callable[..., PrivateServer], moves: Moves, clouds: Pair, which: str, setting: str
) -> None:
    broken, whole = own(39), clouds[0]
    source, target = (broken, whole) if which == "source" else (whole, broken)
    fill(source, _SEED, 5)
    move = moves.following(source, target)
    assert move.verify().equal
    broken.halt()
    broken.start(setting)
    broken.sql("INSERT INTO s3_images VALUES (7700, 'unseen')")
    fails(move, BinlogFiltered, "leaves this database out since that server was restarted")
    with pytest.raises(BinlogFiltered):
        move.drain(60)
    broken.restart()
    again = moves.again(source, target)
    with pytest.raises(VerifyFailed, match="ran unseen between two restarts"):
        again.drain(60)
    assert {(d.table, d.key) for d in again.verify().differences} == {("s3_images", "id=7700")}
    again.close()
    broken.sql("SET SESSION sql_log_bin = 0", "DELETE FROM s3_images WHERE id = 7700")
    again.prepare()
    again.follow()
    proven(again, source, target)


def test_a_database_that_the_binlog_leaves_out(own: Callable[..., PrivateServer], moves: Moves,
                                               clouds: Pair) -> None:
    filtered = own(40, "binlog-ignore-db=nova")
    for pair in ((filtered, clouds[1]), (clouds[0], filtered)):
        with pytest.raises(Unsupported, match="db40:3306 leaves this database out"):
            moves(*pair).prepare()


def test_one_restart_is_no_reason_to_compare_again(own: Callable[..., PrivateServer],
                                                   moves: Moves, clouds: Pair) -> None:
    source, target = own(43), clouds[1]
    fill(source, _SEED, 5)
    move = moves.following(source, target)
    assert move.verify().equal
    move.close()
    source.sql("FLUSH BINARY LOGS", "FLUSH BINARY LOGS")
    source.restart()
    again = moves.again(source, target)
    again.drain(60)


def test_no_binlog(own: Callable[..., PrivateServer], moves: Moves,
                   clouds: Pair) -> None:
    with pytest.raises(Unsupported, match=r"log_bin of .* is OFF"):
        moves(own(31, "skip-log-bin"), clouds[1]).prepare()


def test_scopes_that_are_refused(clouds: Pair, moves: Moves, copied: Move
                                 ) -> None:
    source, target = clouds
    source.sql("CREATE TABLE loose (a INT)")
    read = schema.read(source)
    loose = replace(read.table("s3_images"), name="loose", key=())
    with pytest.raises(Unsupported, match="the table loose has no primary key"):
        Move(source.endpoint(), target.endpoint(),
             schema.scope(replace(read, tables=(*read.tables, loose)), schema.WHOLE))
    other = Move(source.endpoint(), target.endpoint(), schema.scope(read, schema.BY_HOST, HOSTS[:1]))
    with pytest.raises(StalePlan, match="of a move with other tables, rules or hosts"):
        other.prepare()
    with pytest.raises(StepFailed, match="not been prepared"):
        other.copy()
    wrong = replace(source.endpoint(), user="nobody", password="s3cret-word")
    with pytest.raises(Denied, match="refuses the account nobody") as caught:
        Move(wrong, target.endpoint(), schema.scope(read, schema.WHOLE)).prepare()
    assert "s3cret-word" not in f"{caught.value} {wrong!r}"


def test_paused_by_another_process(clouds: Pair, moves: Moves,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recell.mover.watch._EVERY_S", 0.05)
    source, target = clouds
    fill(source, _SEED, 10)
    move = moves(source, target)
    move.prepare()
    moves(source, target).set_rate(0, paused=True)
    until = time.monotonic() + 60
    while not move.status().paused:
        assert time.monotonic() < until
        time.sleep(0.02)
    done = _later(0, move.copy)
    time.sleep(0.5)
    assert move.phase == "copying"
    moves(source, target).set_rate(0)
    done()
    status = move.status()
    assert (status.phase, status.rows) == ("following", status.rows_total)


def _later(delay_s: float, act: Callable[[], object]) -> Callable[[], None]:
    """Does it in a thread; to be called for its end."""
    failed: list[BaseException] = []

    def run() -> None:
        time.sleep(delay_s)
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> None:
        thread.join()
        if failed:
            raise failed[0]

    return join


def _cut(servers: Pair, times: int) -> None:
    for _ in range(times):
        for server in servers:
            time.sleep(0.1)
            server.cut()
