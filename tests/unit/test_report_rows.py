"""A row that changed behind Nova's back is found; one that Nova, users or the plan changed is not.

SQLite stands in for MariaDB: the statements are the real ones, MariaDB's functions are added.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recell.adapters.ports import NovaPort, RawMapping
from recell.errors import BadInput
from recell.model.measure import RowFigures
from recell.model.plan import MOVES, ExpectedChange
from recell.report import rows

CELL = "c1"
START = 1_000_000


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


class FakeNova:
    """An API database and one cell's, in SQLite."""

    def __init__(self) -> None:
        self.clock = float(START)
        self.queries = 0
        self.databases = {"": self._database(), CELL: self._database()}
        cell = self.databases[CELL]
        cell.executescript("""
            CREATE TABLE instances (id INTEGER PRIMARY KEY, uuid varchar, vm_state varchar,
                power float, note text, updated_at datetime, deleted_at datetime);
            CREATE TABLE instance_extra (id INTEGER PRIMARY KEY, instance_uuid varchar, flavor text,
                updated_at datetime, deleted_at datetime);
            CREATE TABLE tags (resource_id varchar, tag varchar, PRIMARY KEY (resource_id, tag));
            CREATE TABLE services (id INTEGER PRIMARY KEY, host varchar, disabled int,
                report_count int, updated_at datetime, deleted_at datetime);
            CREATE TABLE instance_actions (id INTEGER PRIMARY KEY, instance_uuid varchar,
                updated_at datetime);
            CREATE TABLE instance_actions_events (id INTEGER PRIMARY KEY, action_id int,
                result varchar, updated_at datetime);
        """)
        self.databases[""].executescript("""
            CREATE TABLE build_requests (id INTEGER PRIMARY KEY, instance_uuid varchar,
                updated_at datetime);
            CREATE TABLE cell_mappings (id INTEGER PRIMARY KEY, uuid varchar, transport_url text,
                updated_at datetime);
        """)

    def _database(self) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:")
        connection.row_factory = sqlite3.Row
        connection.create_function("SHA2", 2, lambda v, bits: None if v is None else hashlib.new(
            f"sha{bits}", str(v).encode()).hexdigest())
        connection.create_function("CONCAT_WS", -1, lambda sep, *v: sep.join(str(x) for x in v))
        connection.create_function("GREATEST", -1, max)
        connection.create_function("SECONDS", 1, lambda v: v and int(
            datetime.strptime(v, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()))
        return connection

    def mappings(self) -> tuple[RawMapping, ...]:
        return (RawMapping(CELL, "cell1", "rabbit://", "mysql://", False),)

    def now(self) -> float:
        return self.clock

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        self.queries += 1
        database = self.databases[cell]
        if "information_schema" in sql:
            names = [r["name"] for r in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
            infos = [(n, list(database.execute(f"PRAGMA table_info({n})"))) for n in names]
            if "statistics" in sql:
                return tuple({"t": n, "c": c["name"]} for n, info in infos
                             for c in sorted(info, key=lambda c: c["pk"]) if c["pk"])
            return tuple({"t": n, "c": c["name"], "d": c["type"]} for n, info in infos
                         for c in info)
        sql = sql.replace("TIMESTAMPDIFF(SECOND, '1970-01-01', ", "SECONDS(").replace("%s", "?")
        sql = sql.replace("CONVERT(", "(").replace(" USING utf8mb4)", ")")
        return tuple(dict(r) for r in database.execute(sql, args))

    def do(self, cell: str, sql: str, *args: Any) -> None:
        self.databases[cell].execute(sql, args)

    @property
    def port(self) -> NovaPort:
        return cast(NovaPort, self)


@pytest.fixture
def nova() -> FakeNova:
    fake = FakeNova()
    old = _stamp(START - 500)
    for i, uuid in enumerate("abc", 1):
        fake.do(CELL, "INSERT INTO instances VALUES (?, ?, 'active', 1.25, NULL, ?, NULL)",
                i, uuid, old)
        fake.do(CELL, "INSERT INTO instance_extra VALUES (?, ?, '{}', NULL, NULL)", i, uuid)
        fake.do(CELL, "INSERT INTO tags VALUES (?, 'x')", uuid)
        fake.do(CELL, "INSERT INTO instance_actions VALUES (?, ?, NULL)", i, uuid)
        fake.do(CELL, "INSERT INTO instance_actions_events VALUES (?, ?, NULL, NULL)", i, i)
    fake.do(CELL, "INSERT INTO services VALUES (1, 'ctl1', 0, 5, ?, NULL)", old)
    fake.do("", "INSERT INTO build_requests VALUES (1, 'n', NULL)")
    fake.do("", "INSERT INTO cell_mappings VALUES (1, 'c1', 'rabbit://old', NULL)")
    return fake


def _around(nova: FakeNova, tmp_path: Path, *changes: tuple[Any, ...], touched: Sequence[str] = (),
            expected: Sequence[ExpectedChange] = ()) -> RowFigures:
    before, after = tmp_path / "before", tmp_path / "after"
    for path in (before, after):
        path.unlink(missing_ok=True)
    total = rows.snapshot(nova.port, before)
    nova.clock = START + 60.0
    for change in changes:
        nova.do(*change)
    rows.snapshot(nova.port, after)
    result = rows.compare(before, after, touched=touched, expected=expected, nova=nova.port)
    assert result.compared == total == 18
    return result


def _names(figures: RowFigures) -> list[str]:
    return [f"{d['database']}.{d['table']}.{d['key']}.{d['how']}" for d in figures.differences]


NOW = _stamp(START + 30)
RAW = (CELL, "UPDATE instances SET vm_state = 'error' WHERE id = 2")


def test_nothing_changed(nova: FakeNova, tmp_path: Path) -> None:
    assert _around(nova, tmp_path).differing == 0


@pytest.mark.parametrize(("change", "name"), [
    (RAW, "cell1.instances.id=2.changed"),
    ((CELL, "UPDATE instances SET note = 'NULL' WHERE id = 1"), "cell1.instances.id=1.changed"),
    ((CELL, "UPDATE instances SET vm_state = NULL WHERE id = 1"), "cell1.instances.id=1.changed"),
    ((CELL, "UPDATE instances SET power = 1.2500001 WHERE id = 1"),
     "cell1.instances.id=1.changed"),
    ((CELL, "DELETE FROM instances WHERE id = 3"), "cell1.instances.id=3.gone"),
    ((CELL, "UPDATE instances SET note = 'x', updated_at = ? WHERE id = 1", NOW),
     "cell1.instances.id=1.changed"),
    ((CELL, "DELETE FROM tags WHERE resource_id = 'b'"),
     "cell1.tags.resource_id=b,tag=x.gone"),
    ((CELL, "UPDATE services SET disabled = 1, updated_at = ?", NOW),
     "cell1.services.id=1.changed"),
    (("", "UPDATE cell_mappings SET transport_url = 'rabbit://new', updated_at = ?", NOW),
     "api.cell_mappings.id=1.changed"),
    (("", "UPDATE build_requests SET instance_uuid = 'm'"), "api.build_requests.id=1.changed"),
])
def test_what_nobody_meant_to_change_is_named(
    nova: FakeNova, tmp_path: Path, change: tuple[Any, ...], name: str,
) -> None:
    assert _names(_around(nova, tmp_path, change)) == [name]


@pytest.mark.parametrize("change", [
    (CELL, "UPDATE instances SET vm_state = 'stopped', updated_at = ? WHERE id = 1", NOW),
    (CELL, "UPDATE instances SET vm_state = 'deleted', deleted_at = ? WHERE id = 1", NOW),
    (CELL, "UPDATE services SET report_count = 6, updated_at = ?", NOW),
    ("", "DELETE FROM build_requests"),
    (CELL, "INSERT INTO tags VALUES ('new', 'x')"),
])
def test_what_nova_writes_is_explained(
    nova: FakeNova, tmp_path: Path, change: tuple[Any, ...],
) -> None:
    assert _names(_around(nova, tmp_path, change)) == []


def test_a_stamp_outside_the_window_explains_nothing(nova: FakeNova, tmp_path: Path) -> None:
    late = (CELL, "UPDATE instances SET vm_state = 'x', updated_at = ? WHERE id = 1",
            _stamp(START + 3600))
    early = (CELL, "UPDATE instances SET vm_state = 'x', updated_at = ? WHERE id = 2",
             _stamp(START - 100))
    assert len(_names(_around(nova, tmp_path, late, early))) == 2


def test_a_raw_change_of_a_row_that_was_just_stamped_is_found(
    nova: FakeNova, tmp_path: Path,
) -> None:
    nova.do(CELL, "UPDATE instances SET updated_at = ? WHERE id = 2", _stamp(START - 1))
    assert _names(_around(nova, tmp_path, RAW)) == ["cell1.instances.id=2.changed"]


def test_rows_of_touched_instances_are_the_users(nova: FakeNova, tmp_path: Path) -> None:
    changes = (RAW, (CELL, "UPDATE instance_extra SET flavor = '{1}' WHERE instance_uuid = 'b'"),
               (CELL, "DELETE FROM tags WHERE resource_id = 'b'"),
               (CELL, "UPDATE instance_actions_events SET result = 'Success' WHERE id = 2"))
    figures = _around(nova, tmp_path, *changes, touched=["b"])
    assert figures.differing == 0 and figures.explained == {"users": 4}


def test_the_plan_names_rows(nova: FakeNova, tmp_path: Path) -> None:
    change = ("", "UPDATE cell_mappings SET transport_url = 'rabbit://new'")
    retired = (CELL, "UPDATE services SET deleted_at = ?, disabled = 1", NOW)
    for key in ("id=1", "uuid=c1", "*"):
        expected = [ExpectedChange("api", "cell_mappings", key, "moved"),
                    ExpectedChange("cell1", "services", "host=ctl1", "retired")]
        fresh = FakeNova()
        fresh.databases = nova.databases
        figures = _around(fresh, tmp_path, change, retired, expected=expected)
        assert figures.differing == 0
        nova.do("", "UPDATE cell_mappings SET transport_url = 'rabbit://old'")
        nova.do(CELL, "UPDATE services SET deleted_at = NULL, disabled = 0")
    wrong = [ExpectedChange("api", "cell_mappings", "uuid=other", "moved")]
    assert _around(nova, tmp_path, change, expected=wrong).differing == 1


def test_a_named_row_may_be_gone_and_no_other(nova: FakeNova, tmp_path: Path) -> None:
    """The mapping of a cell that undo has removed: nobody can tell any more which number it had."""
    removed = ("", "DELETE FROM cell_mappings WHERE uuid = 'c1'")
    others = (CELL, "DELETE FROM services")
    expected = [ExpectedChange("api", "cell_mappings", "uuid=c1", "cell2 is made")]
    figures = _around(nova, tmp_path, removed, others, expected=expected)
    assert {d["table"] for d in figures.differences} == {"services"}


def test_new_rows_are_told_by_table(nova: FakeNova, tmp_path: Path) -> None:
    figures = _around(nova, tmp_path, (CELL, "INSERT INTO services VALUES (9, 'x', 0, 0, NULL, "
                                       "NULL)"))
    assert figures.differing == 0 and figures.appeared == {"cell1.services": 1}


def test_keys_are_walked_in_chunks(
    nova: FakeNova, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = tmp_path / "whole"
    rows.snapshot(nova.port, whole)
    monkeypatch.setattr(rows, "_CHUNK", 2)
    chunked = tmp_path / "chunked"
    assert rows.snapshot(nova.port, chunked) == 18
    assert rows.compare(whole, chunked).differing == 0


def test_an_unfinished_snapshot_is_refused(nova: FakeNova, tmp_path: Path) -> None:
    rows.snapshot(nova.port, tmp_path / "a")
    sqlite3.connect(tmp_path / "b").executescript(
        "CREATE TABLE meta (name, value); CREATE TABLE rows (db, tbl, key, hash, core, stamp, owner)")
    with pytest.raises(BadInput, match="not finished"):
        rows.compare(tmp_path / "a", tmp_path / "b")


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_exactly_the_raw_changes_are_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory,
) -> None:
    nova = FakeNova()
    old = _stamp(START - 500)
    count = data.draw(st.integers(1, 20))
    for i in range(count):
        nova.do(CELL, "INSERT INTO instances VALUES (?, ?, 'a', 0, NULL, ?, NULL)", i, f"u{i}", old)
    path = tmp_path_factory.mktemp("rows")
    rows.snapshot(nova.port, path / "before")
    nova.clock = START + 60.0
    raw = set()
    touched = set()
    for i in range(count):
        match data.draw(st.sampled_from(["none", "orm", "raw", "gone", "touched"])):
            case "orm":
                nova.do(CELL, "UPDATE instances SET vm_state = 'n', updated_at = ? WHERE id = ?",
                        _stamp(START + data.draw(st.integers(0, 60))), i)
            case "raw":
                nova.do(CELL, "UPDATE instances SET note = 'n' WHERE id = ?", i)
                raw.add(f"cell1.instances.id={i}.changed")
            case "gone":
                nova.do(CELL, "DELETE FROM instances WHERE id = ?", i)
                raw.add(f"cell1.instances.id={i}.gone")
            case "touched":
                nova.do(CELL, "UPDATE instances SET note = 'n' WHERE id = ?", i)
                touched.add(f"u{i}")
    rows.snapshot(nova.port, path / "after")
    figures = rows.compare(path / "before", path / "after", touched=touched)
    assert set(_names(figures)) == raw


def test_a_snapshot_of_many_rows_asks_little(nova: FakeNova, tmp_path: Path) -> None:
    nova.databases[CELL].executemany("INSERT INTO tags VALUES (?, 'y')",
                                     [(f"{i:06}",) for i in range(20_000)])
    rows.snapshot(nova.port, tmp_path / "many")
    assert nova.queries < 40


def _snapshot(path: Path, rows_: Sequence[tuple[str, str, str, str, int]]) -> Path:
    """rows_: database, table, key, content, stamp."""
    with sqlite3.connect(path) as store:
        store.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value REAL)")
        store.execute("INSERT INTO meta VALUES ('started', ?), ('ended', ?)", (START, START + 60))
        store.execute("CREATE TABLE rows (db TEXT, tbl TEXT, key TEXT, hash TEXT, core TEXT, stamp INTEGER,"
                      " owner TEXT, PRIMARY KEY (db, tbl, key)) WITHOUT ROWID")
        store.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, NULL)",
                          [(d, t, k, c, c.partition("/")[0], s) for d, t, k, c, s in rows_])
    return path


@pytest.mark.parametrize(("there", "found"), [
    ([("cell2", "instances", "id=1", "x/1", 5)], []),
    ([("cell2", "instances", "id=1", "x/2", START + 9)], []),  # Nova wrote its state since
    ([("cell2", "instances", "id=1", "y/2", START + 9)], ["changed"]),
    ([("cell2", "instances", "id=1", "x/2", 5)], ["changed"]),
    ([("cell2", "instances", "id=7", "x/1", 5)], ["gone"]),
    ([("cell3", "instances", "id=1", "x/1", 5)], ["gone"]),
    ([], ["gone"]),
])
def test_a_row_that_moves_to_another_cell_is_found_there_as_it_was(
    tmp_path: Path, there: list[tuple[str, str, str, str, int]], found: list[str],
) -> None:
    steady = [("cell1", "instances", "id=2", "z/1", 5)]
    before = _snapshot(tmp_path / "a", [("cell1", "instances", "id=1", "x/1", 5), *steady])
    after = _snapshot(tmp_path / "b", [*there, *steady])
    expected = [ExpectedChange(cell, "instances", MOVES, "hosts move") for cell in ("cell1", "cell2")]
    figures = rows.compare(before, after, expected=expected)
    assert [d["how"] for d in figures.differences] == found
    elsewhere = there and found == ["gone"]
    assert figures.appeared == ({f"{there[0][0]}.instances": 1} if elsewhere else {})


@pytest.mark.parametrize(("left", "found"), [
    ([("cell1", "instances", "id=1", "x/1", 5)], []),
    ([("cell2", "instances", "id=1", "y/1", 5)], []),  # it was the other one that was in the making
    ([("cell1", "instances", "id=1", "z/1", 5)], [("cell1", "changed")]),
    ([], [("cell1", "gone"), ("cell2", "gone")]),
])
def test_of_a_row_that_two_cells_have_while_it_moves_one_may_go(
    tmp_path: Path, left: list[tuple[str, str, str, str, int]], found: list[tuple[str, str]],
) -> None:
    both = [("cell1", "instances", "id=1", "x/1", 5), ("cell2", "instances", "id=1", "y/1", 5)]
    before, after = _snapshot(tmp_path / "a", both), _snapshot(tmp_path / "b", left)
    expected = [ExpectedChange(cell, "instances", MOVES, "hosts move") for cell in ("cell1", "cell2")]
    figures = rows.compare(before, after, expected=expected)
    assert [(d["database"], d["how"]) for d in figures.differences] == found
    assert figures.explained == ({"plan": 1} if left else {})
