"""What is MySQL's own: its binlog, as two releases have sent it, snapshots without a position, and rights.

The streams were recorded: an insert of two rows, a transaction with recell's mark before a delete, an update,
a table that is made, a new file, a delete. 9.7 had GTIDs (one with a tag) and full metadata, 5.7 neither.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.mysql import binlog
from recell.adapters.mysql.binlog import (
    BinlogReader,
    Commit,
    Event,
    Idle,
    Rows,
    Statement,
    Wanted,
    file_begun,
)
from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import SEEN, Fields, Lost, Session
from recell.errors import StepFailed, Unsupported
from recell.model.moving import Login
from recell.model.scope import Column, Table
from recell.mover import identity, servers
from recell.mover.identity import ServerReplaced, continues, none_prepared
from recell.mover.rows import TableRows

STREAMS = {version: [bytes.fromhex(p) for p in packets] for version, packets in json.loads(
    Path(__file__).with_name("mysql_streams.json").read_text()).items()}
END = Endpoint("db1", "recell", "", "nova")
MARK = "recell_mover_mark"


class Server:
    """Stands for a session with a MySQL server."""

    mariadb = False
    endpoint = END
    connection: Any = None

    def __init__(self, version: str = "9.7.4", **answers: list[tuple[Any, ...]]) -> None:
        self.version, self.answers = version, answers
        self.said: list[str] = []

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self.said.append(sql % tuple(map(repr, args)) if args else sql)
        asked = sql.lower().replace(" ", "_")
        return next((rows for word, rows in self.answers.items() if word in asked), [])

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        self.query(sql, args)
        return 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def _of(version: str, monkeypatch: pytest.MonkeyPatch, packets: list[bytes] | None = None) -> Server:
    server = Server(version, binlog_checksum=[("CRC32",)])
    server.connection = type("Connection", (), {
        "_execute_command": lambda *_: None, "_read_packet": lambda *_: None})()
    monkeypatch.setattr(binlog, "Session", lambda *_, **__: server)
    monkeypatch.setattr(binlog, "packets", lambda _: iter(STREAMS[version] if packets is None else packets))
    return server


def _read(mark: str = MARK) -> list[Event]:
    wanted = {"tags": Wanted((0, 1), frozenset(), 5)}
    reader = BinlogReader(END, Position("bin.000002", 4), wanted, server_id=9, mark=mark)
    return list(reader.read())


@pytest.mark.parametrize("version", list(STREAMS))
def test_rows_of_mysql(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _of(version, monkeypatch)
    found = [e for e in _read() if not isinstance(e, Idle)]
    assert [type(e) for e in found] == [Rows, Commit, Commit, Rows, Commit, Statement, Commit, Rows, Commit]
    rows = [(e.operation, list(e.images)) for e in found if isinstance(e, Rows)]
    size = "größe".encode()
    assert rows == [
        ("insert", [(None, (1, b"cmp1")), (None, (2, None))]), ("update", [((1, b"cmp1"), (1, size))]),
        ("delete", [((1, size), None)])]
    assert [e.text for e in found if isinstance(e, Statement)] == ["CREATE TABLE other (id INT)"]
    assert ("delete", [((2, None), None)]) in [
        (e.operation, list(e.images)) for e in _read(mark="") if isinstance(e, Rows)]


@pytest.mark.parametrize("version", list(STREAMS))
def test_a_position_is_known_by_its_file_of_mysql(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _of(version, monkeypatch)
    told = [e for e in _read() if isinstance(e, Commit | Idle)]
    assert {e.position.file for e in told} == {"bin.000002", "bin.000003"}
    assert all(e.gtid.startswith(f"{e.position.file} of 17") for e in told)
    first = told[0]
    assert file_begun(END, "bin.000002") == first.gtid


def test_an_unknown_event_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_event(kind: int, flags: int) -> list[bytes]:
        odd = b"\0" + struct.pack("<IBIIIH", 1, kind, 1, 23, 0, flags) + b"\0" * 4
        return [*STREAMS["9.7.4"][:2], odd]

    _of("9.7.4", monkeypatch, with_event(77, 0x80))
    _read()  # the server says that it can be passed over
    _of("9.7.4", monkeypatch, with_event(29, 0))
    _read()
    for kind, why in ((77, "of kind 77"), (40, "compressed transactions"), (39, "partial JSON")):
        _of("9.7.4", monkeypatch, with_event(kind, 0))
        with pytest.raises(Unsupported, match=why):
            _read()


def test_a_stream_that_ends_before_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    _of("9.7.4", monkeypatch, STREAMS["9.7.4"][:1])
    with pytest.raises(Lost):
        file_begun(END, "bin.000002")
    _of("9.7.4", monkeypatch, [b"\xff" + struct.pack("<H", 1236) + b"#HY000no such file"])
    with pytest.raises(binlog.BinlogLost, match=r"has no bin\.000002"):
        file_begun(END, "bin.000002")


def test_a_binlog_that_was_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = Server()
    server.identity = lambda: {"server_id": "1", "server_uuid": "u"}
    server.binlogs = lambda: {"bin.000001": 900}
    monkeypatch.setattr(identity, "file_begun", lambda _, file: f"{file} of 20")
    known, at = server.identity(), Position("bin.000001", 500)
    continues(server, known, at, "bin.000001 of 20")
    continues(server, known, at, "")
    with pytest.raises(ServerReplaced, match=r"was bin\.000001 of 10 and is bin\.000001 of 20"):
        continues(server, known, at, "bin.000001 of 10")


def test_what_was_prepared_before_mysqls_rows_move() -> None:
    with pytest.raises(Unsupported, match="1 transactions in two phases"):
        none_prepared(Server(xa_recover=[(1, 1, 0, "a")]))  # type: ignore[arg-type]


class Bare(Session):
    """A session that was never made."""

    def __init__(self, version: str) -> None:
        self.endpoint, self.version, self.mariadb = END, version, "mariadb" in version.lower()


def _answers(**other: list[Fields]) -> list[list[Fields]]:
    said: dict[str, list[Fields]] = {
        "where": [(b"bin.000003", b"700", b"", b"", b"")], "order": [(b"binlog_order_commits", b"ON")],
        "update": [], "changed": [(b"1",)], "commit": [], "begin": [],
    }
    return list((said | other).values())


def test_a_snapshot_without_a_position_of_its_own() -> None:
    asked = {v: Bare(v).snapshot_statements() for v in ("5.7.44-log", "8.0.36", "8.4.3", "9.7.4")}
    assert [s[0] for s in asked.values()] == [
        b"SHOW MASTER STATUS", b"SHOW MASTER STATUS", b"SHOW BINARY LOG STATUS", b"SHOW BINARY LOG STATUS"]
    for words in asked.values():
        # The position first, the snapshot last, and between them a transaction that has ended.
        written = next(i for i, w in enumerate(words) if w.startswith(b"UPDATE " + SEEN.encode()))
        assert 0 < written < words.index(b"COMMIT") < len(words) - 1
        assert words[-1] == b"START TRANSACTION WITH CONSISTENT SNAPSHOT"
        assert len(words) == len(_answers())
    assert Bare("8.4.3").snapshot_position(_answers()) == Position("bin.000003", 700)


@pytest.mark.parametrize(("other", "error", "why"), [
    ({"where": []}, Unsupported, "has no binary log"),
    ({"order": [(b"binlog_order_commits", b"OFF")]}, Unsupported, "another order"),
    ({"changed": [(b"0",)]}, StepFailed, "has no row"),
])
def test_a_snapshot_that_proves_nothing(other: dict[str, list[Fields]], error: type[Exception], why: str
                                        ) -> None:
    with pytest.raises(error, match=why):
        Bare("8.0.36").snapshot_position(_answers(**other))


@pytest.mark.parametrize(("version", "some", "none"), [
    ("10.11.19-MariaDB", ["max_statement_time"], ["stats_expiry", "max_execution_time"]),
    ("5.7.44", ["max_execution_time"], ["stats_expiry", "max_statement_time"]),
    ("8.0.36-28", ["max_execution_time", "information_schema_stats_expiry = 0"], ["max_statement_time"]),
])
def test_what_each_server_is_told_first(version: str, some: list[str], none: list[str]) -> None:
    said = Bare(version)._more_settings()
    assert all(word in said for word in some) and not any(word in said for word in none)


@pytest.mark.parametrize(("version", "some", "none"), [
    ("10.11.19-MariaDB", ["CONNECTION ADMIN", "BINLOG MONITOR"], ["SUPER", "CLIENT", "_ADMIN"]),
    ("5.7.44-log", ["SUPER", "REPLICATION CLIENT"], ["ADMIN", "MONITOR"]),
    ("8.0.36", ["CONNECTION_ADMIN", "XA_RECOVER_ADMIN", "REPLICATION CLIENT"], ["SUPER", "MONITOR"]),
    ("8.4.3", ["CONNECTION_ADMIN", "XA_RECOVER_ADMIN", "REPLICATION CLIENT"], ["SUPER", "MONITOR"]),
])
def test_rights_as_each_server_calls_them(version: str, some: list[str], none: list[str]) -> None:
    root = Server(version)
    root.mariadb = "MariaDB" in version
    servers.grant_mover(root, "recell_1", ["localhost"], "nova_cell1")  # type: ignore[arg-type]
    (everywhere,) = [s for s in root.said if " ON *.* " in s]
    assert "PROCESS, REPLICATION SLAVE" in everywhere
    assert all(word in everywhere for word in some) and not any(word in everywhere for word in none)
    assert any(r"ON `nova\_cell1`.* TO 'recell_1'@'localhost' WITH GRANT OPTION" in s for s in root.said)


def test_sums_of_hashes_stay_small_enough_for_a_signed_number() -> None:
    """COALESCE(BIT_XOR(...), 0) of 64 bits was 9223372036854775807 on 5.7, whatever the rows were."""
    column = Column("id", "int", "int", False)
    rows = TableRows(Table("tags", (column,), ("id",)))
    assert "LEFT(SHA2(" in rows.hash and ", 256), 15), 16, 10) AS UNSIGNED)" in rows.hash
    assert rows.summary == f"COUNT(*), BIT_XOR({rows.hash})"


@pytest.mark.parametrize(("plugins", "known", "made"), [
    (["mysql_native_password"], True, "IDENTIFIED WITH `mysql_native_password` BY"),
    (["mysql_native_password"], False, "'localhost' IDENTIFIED BY"),  # 8.4 and newer know it no more
    (["mysql_native_password", "caching_sha2_password"], True, "'localhost' IDENTIFIED BY"),
    ([], True, "'localhost' IDENTIFIED BY"),
])
def test_novas_account_logs_in_as_before(plugins: list[str], known: bool, made: str) -> None:
    old = Server("5.7.44", **{"mysql.user": [(p,) for p in plugins]})
    new = Server("8.0.36", information_schema=[(1,)] if known and plugins else [])
    plugin = servers.login_plugin(old, new, "nova")  # type: ignore[arg-type]
    servers.make_account(new, Login("nova", "secret"), ["localhost"], plugin)  # type: ignore[arg-type]
    assert made in new.said[-1]
    old.mariadb = True
    assert servers.login_plugin(old, new, "nova") == ""  # type: ignore[arg-type]
