"""What makes a child as the API cell is: planned on paper, applied to rows on paper, and taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recell.errors import BadInput
from recell.model.rowchange import RowChange, dumped, loaded, way_back
from recell.planning.sync_v1 import KINDS, Diff, Side, SyncKind, diff, hosts_of_child, kinds_of

Rows = dict[str, dict[int, dict[str, Any]]]
T0 = datetime(2015, 5, 19)
NOW = T0 + timedelta(days=30)
FLAVORS = next(k for k in KINDS if k.word == "flavors")
GROUPS = next(k for k in KINDS if k.word == "security-groups")
DATA = {"instance_types": ("name", "memory_mb"), "instance_type_extra_specs": ("value",),
        "security_groups": ("description",)}  # fmt: skip


def side(kind: SyncKind, rows: Rows) -> Side:
    return Side(
        {t.name: [r for r in rows[t.name].values() if r["deleted"] == 0] for t in kind.tables},
        {t.name: [r for r in rows[t.name].values() if r["deleted"]] for t in kind.tables},
        {t.name: set(rows[t.name]) for t in kind.tables},
    )


def uniques(kind: SyncKind, rows: Rows) -> None:
    """Among live rows, what MySQL would hold: keys, and the further unique column."""
    for table in kind.tables:
        live = [r for r in rows[table.name].values() if r["deleted"] == 0]
        for columns in (table.key, (table.unique,) if table.unique else ()):
            if columns and table.name != "security_group_rules":
                found = [tuple(str(r[c]).casefold() for c in columns) for r in live]
                assert len(found) == len({*found}), (table.name, columns)


def applied(kind: SyncKind, rows: Rows, changes: Iterable[RowChange]) -> tuple[Rows, list[RowChange]]:
    """Each only where the row is as it should be; unique at every moment. With the ids that were given."""
    made: Rows = {t: {i: dict(r) for i, r in listed.items()} for t, listed in rows.items()}
    ids: dict[tuple[str, int], int] = {}
    done = []
    for change in changes:
        ready = change.real(ids)
        table = made[ready.table]
        if ready.before is None:
            number = ready.id if ready.id > 0 else max((0, *table)) + 1
            assert number not in table
            ids[change.table, change.id] = number
            table[number] = {"id": number, **dict(ready.after or {})}
            ready = RowChange(ready.cell, ready.table, number, None, ready.after)
        else:
            assert all(table[ready.id][c] == v for c, v in ready.before.items())
            if ready.after is None:
                del table[ready.id]
            else:
                table[ready.id].update(ready.after)
        done.append(loaded(dumped(ready)))
        uniques(kind, made)
    return made, done


def content(kind: SyncKind, rows: Rows) -> dict[str, set[tuple[Any, ...]]]:
    """Live rows by what they say, without numbers."""
    named: dict[str, dict[int, tuple[Any, ...]]] = {}
    found: dict[str, set[tuple[Any, ...]]] = {}
    for table in kind.tables:
        named[table.name] = {}
        for number, row in rows[table.name].items():
            parts = []
            for column in table.key:
                parent = table.parents.get(column)
                value = row[column]
                parts.append(named[parent].get(value, "?") if parent and value is not None else value)
            if row["deleted"] == 0 and "?" not in parts:
                named[table.name][number] = tuple(parts)
        found[table.name] = {
            (*key, *(rows[table.name][n][c] for c in DATA.get(table.name, ())))
            for n, key in named[table.name].items()
        }
    return found


words = st.sampled_from(["a", "b", "c", "d"])
when = st.integers(0, 9).map(lambda n: T0 + timedelta(days=n))


@st.composite
def flavor_rows(draw: st.DrawFn) -> Rows:
    """A database's flavors, with names that may be exchanged between the two sides, and ended ones."""
    rows: Rows = {t.name: {} for t in FLAVORS.tables}
    count = draw(st.integers(0, 4))
    flavorids = draw(st.permutations(["A", "B", "C", "D"]))
    names = draw(st.permutations(["w", "x", "y", "z"]))
    numbers = draw(st.permutations(range(1, 7)))
    for flavorid, name, number in zip(flavorids[:count], names, numbers, strict=False):
        made, ended = draw(when), draw(st.one_of(st.none(), when))
        rows["instance_types"][number] = {
            "id": number, "flavorid": flavorid, "name": name, "memory_mb": draw(st.sampled_from([1, 2])),
            "created_at": made, "updated_at": None, "deleted_at": ended, "deleted": number if ended else 0,
        }  # fmt: skip
        for table, column in (("instance_type_extra_specs", "key"), ("instance_type_projects", "project_id")):
            for word in draw(st.sets(words, max_size=2)):
                over = ended or draw(st.one_of(st.none(), when))
                id = len(rows[table]) + 1
                rows[table][id] = {
                    "id": id, "instance_type_id": number, column: word, "created_at": made,
                    "updated_at": None, "deleted_at": over, "deleted": id if over else 0,
                    **({"value": draw(words)} if column == "key" else {}),
                }  # fmt: skip
    return rows


@st.composite
def group_rows(draw: st.DrawFn) -> Rows:
    rows: Rows = {t.name: {} for t in GROUPS.tables}
    groups = sorted(draw(st.sets(st.tuples(words, words), max_size=4)))
    for number, (project, name) in enumerate(draw(st.permutations(groups)), draw(st.integers(1, 3))):
        ended = draw(st.one_of(st.none(), when))
        rows["security_groups"][number] = {
            "id": number, "project_id": project, "name": name, "description": draw(words),
            "created_at": T0, "updated_at": None, "deleted_at": ended, "deleted": number if ended else 0,
        }  # fmt: skip
    numbers = list(rows["security_groups"])
    for id in range(1, draw(st.integers(0, 4)) + 1 if numbers else 1):
        rows["security_group_rules"][id] = {
            "id": id, "parent_group_id": draw(st.sampled_from(numbers)), "protocol": draw(words),
            "from_port": -1, "to_port": -1, "cidr": None,
            "group_id": draw(st.one_of(st.none(), st.sampled_from(numbers))), "created_at": T0,
            "updated_at": None, "deleted_at": None, "deleted": 0,
        }  # fmt: skip
    return rows


cases = st.one_of(
    st.tuples(st.just(FLAVORS), flavor_rows(), flavor_rows()),
    st.tuples(st.just(GROUPS), group_rows(), group_rows()),
)


@given(cases, st.booleans())
@settings(max_examples=120, deadline=None)
def test_the_child_becomes_as_the_api_cell_and_the_way_back_is_whole(
    case: tuple[SyncKind, Rows, Rows], delete_extra: bool
) -> None:
    kind, top, child = case
    found = diff(kind, "cell1", side(kind, top), side(kind, child), NOW, delete_extra=delete_extra)
    made, done = applied(kind, child, found.changes)

    again = diff(kind, "cell1", side(kind, top), side(kind, made), NOW, delete_extra=delete_extra)
    assert again.changes == ()
    wanted, there = content(kind, top), content(kind, made)
    if not found.left:
        for table in wanted:
            assert wanted[table] <= there[table]
    if delete_extra:
        assert found.left == () and found.extra == () and wanted == there
    assert applied(kind, made, way_back(done))[0] == child
    json_back = [loaded(dumped(c)) for c in done]
    assert json_back == [loaded(dumped(c)) for c in json_back]


@given(cases)
@settings(max_examples=80, deadline=None)
def test_without_being_told_nothing_ends_that_the_api_cell_has_not_ended(
    case: tuple[SyncKind, Rows, Rows]
) -> None:
    kind, top, child = case
    found = diff(kind, "cell1", side(kind, top), side(kind, child), NOW)
    assert not [c for c in found.changes if c.kind == "delete"]
    for change in (c for c in found.changes if c.kind == "end"):
        row = child[change.table][change.id]
        ended = [r["deleted_at"] for r in top[change.table].values() if r["deleted"]]
        assert any(row["created_at"] <= t for t in ended)
    ended_ids = {(c.table, c.id) for c in found.changes if c.kind == "end"}
    assert len(found.extra) == sum(
        r["deleted"] == 0 and (t, i) not in ended_ids and _named(kind, t, r, child) not in _all(kind, t, top)
        for t, rows in child.items() for i, r in rows.items() if _named(kind, t, r, child) is not None
    )  # fmt: skip


def _named(kind: SyncKind, table: str, row: Mapping[str, Any], rows: Rows) -> tuple[Any, ...] | None:
    spec = next(t for t in kind.tables if t.name == table)
    parts: list[Any] = []
    for column in spec.key:
        parent = spec.parents.get(column)
        if parent and row[column] is not None:
            above = rows[parent][row[column]]
            named = _named(kind, parent, above, rows) if above["deleted"] == 0 else None
            if named is None:
                return None
            parts.append(named)
        else:
            parts.append(row[column])
    return tuple(parts)


def _all(kind: SyncKind, table: str, rows: Rows) -> set[tuple[Any, ...] | None]:
    return {_named(kind, table, r, rows) for r in rows[table].values() if r["deleted"] == 0}


# -- by hand -----------------------------------------------------------------------------------------


def flavor(number: int, flavorid: str, name: str, **more: Any) -> dict[str, Any]:
    row = {"id": number, "flavorid": flavorid, "name": name, "memory_mb": 1, "created_at": T0,
           "updated_at": None, "deleted_at": None, "deleted": 0}  # fmt: skip
    return row | more


def flavors(top: Sequence[dict[str, Any]], child: Sequence[dict[str, Any]], **more: Any) -> Diff:
    made: list[Rows] = []
    for listed in (top, child):
        made.append({**{t.name: {} for t in FLAVORS.tables}, "instance_types": {r["id"]: r for r in listed}})
    return diff(FLAVORS, "cell1", side(FLAVORS, made[0]), side(FLAVORS, made[1]), NOW, **more)


def test_a_new_flavor_has_the_number_that_instances_name_it_by() -> None:
    (change,) = flavors([flavor(7, "7", "big")], [flavor(1, "1", "tiny")]).changes
    assert change.id == 7 and change.before is None
    found = flavors([flavor(1, "7", "big")], [flavor(1, "1", "tiny")])
    assert found.changes[0].id < 0 and "is another's there" in found.notes[0].words
    found = flavors([flavor(1, "7", "big")], [flavor(2, "7", "big")])
    assert found.changes == () and str(found.notes[0]) == (
        "instance_types 7: its number is 2 there and 1 in the API cell")  # fmt: skip


def test_names_that_were_exchanged_are_exchanged() -> None:
    top = [flavor(1, "1", "b"), flavor(2, "2", "c"), flavor(3, "3", "a")]
    child = [flavor(1, "1", "a"), flavor(2, "2", "b"), flavor(3, "3", "c")]
    found = flavors(top, child)
    assert len(found.changes) == 4 and found.left == ()
    assert found.changes[0].after == {"name": "recell-1"}


def test_a_name_that_a_flavor_of_the_childs_own_has_is_not_taken_from_it() -> None:
    found = flavors([flavor(1, "1", "small")], [flavor(9, "own", "Small")])
    assert found.changes == () and "another row there has the name small" in found.left[0].words
    assert "flavorid own" in found.left[0].words
    found = flavors([flavor(1, "1", "small")], [flavor(9, "own", "Small")], delete_extra=True)
    assert [c.kind for c in found.changes] == ["end", "insert"]


def test_a_flavor_that_was_ended_above_ends_below_unless_it_was_made_later() -> None:
    gone = flavor(1, "1", "a", deleted=1, deleted_at=T0 + timedelta(days=3))
    (change,) = flavors([gone], [flavor(5, "1", "a")]).changes
    assert change.after == {"deleted": 5, "deleted_at": T0 + timedelta(days=3)}
    found = flavors([gone], [flavor(5, "1", "a", created_at=T0 + timedelta(days=4))])
    assert found.changes == () and len(found.extra) == 1


def test_case_is_no_difference_of_names_and_is_one_of_content() -> None:
    (change,) = flavors([flavor(1, "X1", "a")], [flavor(1, "x1", "a")]).changes
    assert change.kind == "update" and change.after == {"flavorid": "X1", "updated_at": None}
    assert str(change) == "~ cell1 instance_types x1: flavorid x1 -> X1"


def test_a_rule_that_names_a_new_group_gets_that_groups_number() -> None:
    group = {"id": 4, "project_id": "p", "name": "web", "created_at": T0, "deleted_at": None, "deleted": 0}
    rule = {"id": 9, "parent_group_id": 4, "protocol": "tcp", "from_port": -1, "to_port": -1, "cidr": None,
            "group_id": 4, "created_at": T0, "deleted_at": None, "deleted": 0}  # fmt: skip
    top = {"security_groups": {4: group}, "security_group_rules": {9: rule}}
    other = {**group, "id": 4, "name": "default"}
    child: Rows = {"security_groups": {4: other}, "security_group_rules": {}}
    found = diff(GROUPS, "cell1", side(GROUPS, top), side(GROUPS, child), NOW)
    made, done = applied(GROUPS, child, found.changes)
    assert made["security_group_rules"][1] == {**rule, "id": 1, "parent_group_id": 5, "group_id": 5}
    assert done[1].after is not None and done[1].after["from_port"] == -1, "no number of a row"


def test_hosts_of_aggregates_go_to_the_cell_that_has_them() -> None:
    rows = [{"host": h} for h in ("api!cell1@cmp1", "api!cell2@cmp9", "cmp2", "cmp9", None)]
    assert [r["host"] for r in hosts_of_child(rows, "api!cell1", {"cmp1", "cmp2"})] == ["cmp1", "cmp2"]


def test_kinds_are_named_and_others_are_refused() -> None:
    assert kinds_of(()) == KINDS
    assert [k.word for k in kinds_of(["aggregates", "flavors"])] == ["flavors", "aggregates"]
    with pytest.raises(BadInput, match="no flavours to sync"):
        kinds_of(["flavours"])
