"""Cells v1: what the API cell has and a child should have too, as changes of the child's rows.

Rows are matched by what names them (a flavor by its flavorid, a key pair by its user and name), for their
numbers may differ. The API cell is the source; nothing goes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from recell.errors import BadInput
from recell.model.rowchange import RowChange

Row = Mapping[str, Any]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class SyncTable:
    """``key``: columns that name a live row; those in ``parents`` hold the id of a row of another table.
    ``unique``: a further column that is unique among live rows. ``same_id``: an inserted row takes the
    source's id when it is free. ``optional``: not every release has it."""

    name: str
    key: tuple[str, ...]
    parents: Mapping[str, str] = field(default_factory=dict)
    unique: str = ""
    same_id: bool = False
    optional: bool = False


@dataclass(frozen=True)
class SyncKind:
    """``tables``: parents first. ``api_table``: where later releases keep it, in the API database."""

    word: str
    tables: tuple[SyncTable, ...]
    api_table: str = ""


_GROUP, _AGGREGATE = {"group_id": "instance_groups"}, {"aggregate_id": "aggregates"}
_FLAVOR = {"instance_type_id": "instance_types"}
KINDS = (
    SyncKind(
        "flavors",
        (
            SyncTable("instance_types", ("flavorid",), unique="name", same_id=True),
            SyncTable("instance_type_projects", ("instance_type_id", "project_id"), _FLAVOR),
            SyncTable("instance_type_extra_specs", ("instance_type_id", "key"), _FLAVOR),
        ),
        "flavors",
    ),
    SyncKind("key-pairs", (SyncTable("key_pairs", ("user_id", "name")),), "key_pairs"),
    SyncKind(
        "server-groups",
        (
            SyncTable("instance_groups", ("uuid",)),
            SyncTable("instance_group_policy", ("group_id", "policy"), _GROUP),
            SyncTable("instance_group_member", ("group_id", "instance_id"), _GROUP),
            SyncTable("instance_group_metadata", ("group_id", "key"), _GROUP, optional=True),
        ),
        "instance_groups",
    ),
    SyncKind(
        "aggregates",
        (
            SyncTable("aggregates", ("name",)),
            SyncTable("aggregate_hosts", ("aggregate_id", "host"), _AGGREGATE),
            SyncTable("aggregate_metadata", ("aggregate_id", "key"), _AGGREGATE),
        ),
        "aggregates",
    ),
    SyncKind(
        "security-groups",
        (
            SyncTable("security_groups", ("project_id", "name")),
            SyncTable(
                "security_group_rules",
                ("parent_group_id", "protocol", "from_port", "to_port", "cidr", "group_id"),
                {"parent_group_id": "security_groups", "group_id": "security_groups"},
            ),
        ),
    ),
)
_BOOKKEEPING = ("id", "created_at", "updated_at", "deleted_at", "deleted")


@dataclass(frozen=True)
class Side:
    """One side's rows of a kind, by table: ``live`` (deleted = 0), and ``dead`` ones. ``taken``: ids that
    no new row may get, by table, its archive's among them."""

    live: Mapping[str, Sequence[Row]]
    dead: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    taken: Mapping[str, Collection[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Drift:
    """A row, in words, and what there is to say of it."""

    table: str
    label: str
    words: str

    def __str__(self) -> str:
        return f"{self.table} {self.label}: {self.words}"


@dataclass(frozen=True)
class Diff:
    """``changes`` make the child as the API cell is. ``extra``: rows that the child alone has, left.
    ``left``: what could not be planned. ``notes``: equal, and not quite."""

    changes: tuple[RowChange, ...] = ()
    extra: tuple[Drift, ...] = ()
    left: tuple[Drift, ...] = ()
    notes: tuple[Drift, ...] = ()


def kinds_of(words: Iterable[str]) -> tuple[SyncKind, ...]:
    """All of them for none. :raises BadInput: there is no such kind."""
    wanted = tuple(words)
    for word in wanted:
        if word not in {k.word for k in KINDS}:
            raise BadInput(f"there is no {word} to sync", f"Choose of {', '.join(k.word for k in KINDS)}")
    return tuple(k for k in KINDS if not wanted or k.word in wanted)


def hosts_of_child(rows: Iterable[Row], path: str, hosts: Collection[str]) -> list[Row]:
    """Of the API cell's aggregate_hosts those that are the child's: ``api!cell1@cmp1``, which some clouds'
    patches write, or the plain name of a host that the child has."""
    found: list[Row] = []
    for row in rows:
        cell, sign, host = str(row["host"] or "").rpartition("@")
        if cell == path if sign else host in hosts:
            found.append({**row, "host": host})
    return found


def diff(
    kind: SyncKind, cell: str, source: Side, target: Side, now: datetime, *, delete_extra: bool = False
) -> Diff:
    """What makes the ``target`` (the child ``cell``) as the ``source`` is. Without ``delete_extra`` nothing
    ends there that the source has not ended itself.

    Rows are ended as Nova does (deleted = id); children before their parents, and after them come changes
    and new rows, parents first. Both sides have the same columns. ``now``: UTC.
    """
    return _Differ(kind, cell, source, target, now, delete_extra).run()


class _Names:
    """One side's rows by what names them. A live row without a live parent is left out; a dead one may have
    a dead parent."""

    def __init__(self, kind: SyncKind, side: Side) -> None:
        self.live: dict[str, dict[Key, list[Row]]] = {}
        self.dead: dict[str, dict[Key, list[Row]]] = {}
        live_ids: dict[str, dict[int, Key]] = {}
        all_ids: dict[str, dict[int, Key]] = {}
        for table in kind.tables:
            name = table.name
            live_ids[name], all_ids[name] = {}, {}
            for rows, ids, index in (
                (side.live.get(name, ()), live_ids, self.live.setdefault(name, {})),
                (side.dead.get(name, ()), all_ids, self.dead.setdefault(name, {})),
            ):
                for row in sorted(rows, key=lambda r: int(r["id"])):
                    key = _key(table, row, ids, name)
                    if key is not None:
                        index.setdefault(key, []).append(row)
                        ids[name][int(row["id"])] = key
                # What is dead may hang on what is dead or alive.
                if ids is live_ids:
                    all_ids[name].update(live_ids[name])


def _key(table: SyncTable, row: Row, ids: Mapping[str, Mapping[int, Key]], own: str) -> Key | None:
    parts: list[Any] = []
    for column in table.key:
        value = row.get(column)
        parent = table.parents.get(column)
        if parent is None or value is None:
            parts.append(_folded(value))
        elif value in ids[parent]:
            parts.append(ids[parent][value])
        else:
            return None
    return tuple(parts)


def _folded(value: Any) -> Any:
    """What Nova's collation takes for one: case, and blanks at the end."""
    return value.rstrip(" ").casefold() if isinstance(value, str) else value


class _Differ:
    def __init__(
        self, kind: SyncKind, cell: str, source: Side, target: Side, now: datetime, delete_extra: bool
    ) -> None:
        self.kind, self.cell, self.now, self.delete_extra = kind, cell, now, delete_extra
        self.source, self.target = _Names(kind, source), _Names(kind, target)
        self.taken = {t.name: set(target.taken.get(t.name, ())) for t in kind.tables}
        self.next = 0
        self.extra: list[Drift] = []
        self.left: list[Drift] = []
        self.notes: list[Drift] = []
        self.ids: dict[str, dict[Key, int]] = {t.name: {} for t in kind.tables}
        """Where rows of the source are in the target, also those that are to be inserted."""

    def run(self) -> Diff:
        ends = [c for t in reversed(self.kind.tables) for c in self._ends(t)]
        changes = [c for t in self.kind.tables for c in self._rest(t, {(c.table, c.id) for c in ends})]
        return Diff((*ends, *changes), tuple(self.extra), tuple(self.left), tuple(self.notes))

    def _ends(self, table: SyncTable) -> list[RowChange]:
        found = []
        for key, rows in self.target.live[table.name].items():
            if key in self.source.live[table.name]:
                continue
            for row in rows:
                ended = _ended_after(self.source.dead[table.name].get(key, ()), row)
                if ended is None and not self.delete_extra:
                    self.extra.append(Drift(table.name, _label(table, key), "the child alone has it"))
                    continue
                found.append(
                    RowChange(self.cell, table.name, int(row["id"]), {"deleted": 0, "deleted_at": None},
                              {"deleted": int(row["id"]), "deleted_at": ended or self.now},
                              _label(table, key), self.kind.word)
                )  # fmt: skip
        return found

    def _rest(self, table: SyncTable, ended: set[tuple[str, int]]) -> list[RowChange]:
        updates: list[RowChange] = []
        inserts: list[RowChange] = []
        mine = self.target.live[table.name]
        for key, rows in self.source.live[table.name].items():
            row = rows[0]
            if key in mine:
                there = mine[key][0]
                self.ids[table.name][key] = int(there["id"])
                if table.same_id and int(there["id"]) != int(row["id"]):
                    said = f"its number is {there['id']} there and {row['id']} in the API cell"
                    self.notes.append(Drift(table.name, _label(table, key), said))
                own = (c for c in row if c not in _BOOKKEEPING and c not in table.parents)
                names = [c for c in own if row[c] != there[c]]
                if names:
                    names += ["updated_at"] if "updated_at" in row else []
                    updates.append(
                        RowChange(self.cell, table.name, int(there["id"]), {c: there[c] for c in names},
                                  {c: row[c] for c in names}, _label(table, key), self.kind.word)
                    )  # fmt: skip
            else:
                made = self._insert(table, key, row)
                if made is not None:
                    inserts.append(made)
        if table.unique:
            standing = {int(r["id"]): r for rows in mine.values() for r in rows
                        if (table.name, int(r["id"])) not in ended}  # fmt: skip
            return self._in_turn(table, updates, inserts, standing)
        return updates + inserts

    def _insert(self, table: SyncTable, key: Key, row: Row) -> RowChange | None:
        values = {c: v for c, v in row.items() if c != "id"}
        for number, column in enumerate(table.key):
            parent = table.parents.get(column)
            if parent is not None and row.get(column) is not None:
                known = self.ids[parent].get(key[number])
                if known is None:
                    return None  # said of the parent
                values[column] = known
        number = int(row["id"])
        if not table.same_id or number in self.taken[table.name]:
            if table.same_id:
                self.notes.append(Drift(table.name, _label(table, key),
                                        f"its number in the API cell, {number}, is another's there"))
            self.next -= 1
            number = self.next
        self.taken[table.name].add(number)
        self.ids[table.name][key] = number
        refs = tuple(c for c in table.key if c in table.parents)
        label = _label(table, key)
        return RowChange(self.cell, table.name, number, None, values, label, self.kind.word, refs)

    def _in_turn(
        self, table: SyncTable, updates: list[RowChange], inserts: list[RowChange],
        standing: dict[int, Row],
    ) -> list[RowChange]:  # fmt: skip
        """Changes of a column that is unique, in an order in which it always is: what gives a name away
        comes before what takes it, and a circle of names is opened by one that takes another for a moment."""
        column = table.unique
        names = {number: _folded(r[column]) for number, r in standing.items()}
        waiting: dict[int, RowChange] = {}
        wanted: dict[int, Any] = {}
        for change in (*updates, *inserts):
            name = _folded((change.after or {}).get(column, names.get(change.id)))
            if name in wanted.values():
                # The source can't have two of one name, but it was read over some time.
                self._leave(table, change, None)
            else:
                waiting[change.id], wanted[change.id] = change, name
        order: list[RowChange] = []
        while waiting:
            holders = {name: number for number, name in names.items()}
            open_ = [n for n in waiting if holders.get(wanted[n], n) == n]
            stuck = [n for n in waiting if n not in open_ and holders[wanted[n]] not in waiting]
            # Last come rows that get the server's next number: it could be one that another row needs.
            free = [n for n in open_ if n > 0 or all(other < 0 for other in waiting)]
            for number in free:
                order.append(waiting.pop(number))
                names[number] = wanted[number]
            for number in stuck:
                self._leave(table, waiting.pop(number), standing.get(holders[wanted[number]]))
            if waiting and not free and not stuck:
                number = next(n for n in waiting if n in names)
                whole = waiting[number]
                before = dict(whole.before or {})
                aside = f"recell-{number}"
                order.append(RowChange(self.cell, table.name, number, {column: before[column]},
                                       {column: aside}, whole.label, whole.why))  # fmt: skip
                waiting[number] = replace(whole, before={**before, column: aside})
                names[number] = aside
        return order

    def _leave(self, table: SyncTable, change: RowChange, other: Row | None) -> None:
        name = (change.after or {}).get(table.unique)
        said = f"another row there has the {table.unique} {name}"
        if other is not None:
            said += f" ({', '.join(f'{c} {other[c]}' for c in table.key)})"
        self.left.append(Drift(table.name, change.label, said))
        if change.before is None:
            self.ids[table.name] = {k: n for k, n in self.ids[table.name].items() if n != change.id}


def _ended_after(dead: Sequence[Row], live: Row) -> datetime | None:
    """When the source's row of this name ended, if the target's was there by then."""
    made = live.get("created_at")
    times = [t for r in dead if isinstance(t := r.get("deleted_at"), datetime)]
    later = [t for t in times if not isinstance(made, datetime) or made <= t]
    return max(later, default=None)


def _label(table: SyncTable, key: Key) -> str:
    return " ".join(_words(part) for part in key)


def _words(part: Any) -> str:
    if isinstance(part, tuple):
        return "/".join(_words(p) for p in part)
    return "-" if part is None else str(part)
