"""Which rows belong to the scope, while it changes: instances are born, deleted, and change hosts.

For every table that others refer to by a rule ByParent, the values that they refer to (uuids, ids of
actions, ids of compute nodes) are kept in memory as *members*. A row event tells by its own columns
whether the row was and is in the scope. A value that enters or leaves the members is *touched*: all
rows that refer to it have to be looked at again, on both sides.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from recell.adapters.mysql.binlog import Rows, Wanted
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.rowimage import Image
from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import Key, KeyPart, among, columns, name
from recell.errors import Unsupported
from recell.model.scope import ByHost, ByParent, Scope, Shared, TableScope
from recell.mover.rows import ColumnCodec, TableRows, spelling

__all__ = ["Interest", "Link", "Members", "Work", "host_condition", "select_members"]

_AT_ONCE = 500

Link = tuple[str, str]
"""A table and the column of it that other tables' rows refer to."""


class Interest:
    """One moving table: its rows' SQL, and the columns that decide whether a row is in the scope."""

    def __init__(self, scoped: TableScope, exports: Sequence[str]) -> None:
        self.rows = TableRows(scoped.table, scoped.fixed, scoped.given)
        self.name = scoped.table.name
        self.rule = scoped.rule
        self.exports = tuple(exports)
        self.owner: tuple[str, ...] = ()
        self.also: tuple[str, ...] = ()
        self.link: Link | None = None
        if isinstance(self.rule, ByHost):
            self.owner = (self.rule.column, *(column for column, _ in self.rule.also))
            self.also = tuple(value for _, value in self.rule.also)
        elif isinstance(self.rule, ByParent):
            self.owner = (self.rule.column,)
            self.link = (self.rule.parent, self.rule.parent_column)
        table = scoped.table
        told = (*table.key, *self.owner, *self.exports)
        self._codecs = tuple(ColumnCodec(table.name, table.column(c)) for c in told)
        places = [next(i for i, c in enumerate(table.columns) if c.name == n) for n in told]
        self.wanted = Wanted(
            tuple(places), frozenset(p for p, c in zip(places, self._codecs, strict=True) if c.unsigned),
            len(table.columns),
        )
        self.told = columns(told)
        """SQL: key, owner, exported columns."""
        self._owner_at = len(table.key)
        self._exports_at = self._owner_at + len(self.owner)
        self.width = len(told)
        self._owner_spellings = tuple([c.spelling for c in self._codecs[self._owner_at:self._exports_at]])
        self._export_spellings = tuple([c.spelling for c in self._codecs[self._exports_at:]])
        self._also_told = tuple(
            [spell(value) for spell, value in zip(self._owner_spellings[1:], self.also, strict=False)])

    @property
    def everything(self) -> bool:
        return not self.owner

    @property
    def deletes(self) -> bool:
        return not isinstance(self.rule, Shared)

    def values(self, image: Image) -> tuple[KeyPart | None, ...]:
        """The told columns, out of the binlog."""
        return tuple([c.from_binlog(v) for c, v in zip(self._codecs, image, strict=True)])

    def parse(self, fields: Sequence[bytes | None]) -> tuple[KeyPart | None, ...]:
        """The told columns, out of a raw result that begins with them."""
        return tuple([c.from_result(f) for c, f in zip(self._codecs, fields, strict=False)])

    def key(self, values: tuple[KeyPart | None, ...]) -> Key:
        return values[: self._owner_at]  # type: ignore[return-value]

    def owner_of(self, values: tuple[KeyPart | None, ...]) -> KeyPart | None:
        """The value that decides, as the members are spelled. None: the row is nobody's."""
        owner = values[self._owner_at]
        if owner is None or (self.also and self._others(values) != self._also_told):
            return None
        return self._owner_spellings[0](owner)

    def _others(self, values: tuple[KeyPart | None, ...]) -> tuple[KeyPart | None, ...]:
        return tuple([None if v is None else spell(v) for spell, v in zip(
            self._owner_spellings[1:], values[self._owner_at + 1:self._exports_at], strict=True)])

    def spelled(self, owner: KeyPart) -> KeyPart:
        return self._owner_spellings[0](owner)

    def exported(self, values: tuple[KeyPart | None, ...]) -> Iterable[tuple[Link, KeyPart]]:
        for column, spell, value in zip(self.exports, self._export_spellings, values[self._exports_at:],
                                        strict=True):
            if value is not None:
                yield (self.name, column), spell(value)


@dataclass
class Work:
    """What has to be looked at. ``keys``: by table; ``touched``: values whose children have to be;
    ``joined``, ``left``: members since the last work; ``position``: all before it is in here or
    done; ``fence``: the last transaction that matters; ``gtid``: of the last transaction. ``echoed``: in
    the target's binlog, where the first row of another writer's is that has to be put right."""

    keys: dict[str, set[Key]] = field(default_factory=dict)
    touched: dict[Link, set[KeyPart]] = field(default_factory=dict)
    joined: dict[Link, set[KeyPart]] = field(default_factory=dict)
    left: dict[Link, set[KeyPart]] = field(default_factory=dict)
    position: Position | None = None
    fence: Position | None = None
    gtid: str = ""
    echoed: Position | None = None

    def __len__(self) -> int:
        return sum(map(len, self.keys.values())) + sum(map(len, self.touched.values()))

    def add(self, table: str, key: Key) -> None:
        self.keys.setdefault(table, set()).add(key)

    def absorb(self, older: Work) -> None:
        """Take back work that was not finished."""
        for table, keys in older.keys.items():
            self.keys.setdefault(table, set()).update(keys)
        for link, values in older.touched.items():
            self.touched.setdefault(link, set()).update(values)
        for link, values in older.joined.items():
            self.joined.setdefault(link, set()).update(values - self.left.get(link, set()))
        for link, values in older.left.items():
            self.left.setdefault(link, set()).update(values - self.joined.get(link, set()))
        self.position = self.position or older.position
        self.fence = self.fence or older.fence
        self.gtid = self.gtid or older.gtid
        self.echoed = older.echoed or self.echoed


class Members:
    """The scope's tables by name, its members, and the work that row events make.

    ``lock`` guards everything here; the reader's and the applier's threads share it.

    :raises Unsupported: a table has no key, or a type that can't be moved.
    """

    def __init__(self, scope: Scope) -> None:
        self.hosts = scope.hosts
        exports: dict[str, list[str]] = {}
        moving = {t.table.name for t in scope.moving}
        for scoped in scope.moving:
            rule = scoped.rule
            if isinstance(rule, ByParent):
                if rule.parent not in moving:
                    raise Unsupported(f"rows of {scoped.table.name} move with those of {rule.parent}, which"
                                      " do not move", "Correct the scope")
                found = exports.setdefault(rule.parent, [])
                if rule.parent_column not in found:
                    found.append(rule.parent_column)
        self.interests = {t.table.name: Interest(t, exports.get(t.table.name, ())) for t in scope.moving}
        self.children: dict[Link, list[Interest]] = {}
        for interest in self.interests.values():
            if interest.link is not None:
                self.children.setdefault(interest.link, []).append(interest)
                self._same_spelling(interest, interest.link)
        self._hosts = {i.name: frozenset(map(i.spelled, scope.hosts)) for i in self.interests.values()
                       if i.owner and i.link is None}
        self.present: dict[Link, set[KeyPart]] = {link: set() for link in self.children}
        self.ever: dict[Link, set[KeyPart]] = {link: set() for link in self.children}
        """Members now, and all that have been: rows of those are ours to delete."""
        self.lock = threading.Lock()
        self.work = Work()
        self._unsettled = False

    @property
    def wanted(self) -> dict[str, Wanted]:
        return {name: interest.wanted for name, interest in self.interests.items()}

    def belongs(self, interest: Interest, values: tuple[KeyPart | None, ...], *, ever: bool = False) -> bool:
        """Whether a row with these told values is in the scope; or, with ``ever``, has been."""
        if interest.everything:
            return True
        owner = interest.owner_of(values)
        if interest.link is not None:
            return owner in (self.ever if ever else self.present)[interest.link]
        return owner in self._hosts[interest.name]

    def _same_spelling(self, child: Interest, link: Link) -> None:
        parent = self.interests[link[0]].rows.table.column(link[1])
        column = child.rows.table.column(child.owner[0])
        if spelling(parent) is not spelling(column):
            raise Unsupported(
                f"{child.name}.{column.name} ({column.collation}) and {link[0]}.{link[1]}"
                f" ({parent.collation}) compare text differently", "Give both columns the same collation")

    def note(self, rows: Rows) -> bool:
        """Take in a row event, with the lock held. Whether it matters to the scope."""
        interest = self.interests[rows.table]
        nested = (self._unsettled and interest.link is not None
                  and self.interests[interest.link[0]].link is not None)
        keys: list[Key] = []
        for before_image, after_image in rows.images:
            before = None if before_image is None else interest.values(before_image)
            after = None if after_image is None else interest.values(after_image)
            was = before is not None and self.belongs(interest, before)
            now = after is not None and self.belongs(interest, after)
            if interest.exports:
                self._exported(interest, before if was else None, after if now else None)
            # While a newcomer's actions are not known yet, those of anybody are looked at.
            if was or now or nested:
                keys.extend(interest.key(v) for v in (before, after) if v is not None)
        if keys:
            self.work.keys.setdefault(rows.table, set()).update(keys)
        return bool(keys)

    def _exported(self, interest: Interest, was: tuple[KeyPart | None, ...] | None,
                  now: tuple[KeyPart | None, ...] | None) -> None:
        before = set(interest.exported(was)) if was else set()
        after = set(interest.exported(now)) if now else set()
        for link, value in before - after:
            self.leave(link, value, self.work)
        for link, value in after:
            self.join(link, value, self.work)

    def join(self, link: Link, value: KeyPart, work: Work) -> None:
        """``value`` is a member from now on; what follows from that goes into ``work``."""
        if value in self.present[link]:
            return
        self.present[link].add(value)
        self.ever[link].add(value)
        work.joined.setdefault(link, set()).add(value)
        work.left.get(link, set()).discard(value)
        self.touch(link, value, work)

    def leave(self, link: Link, value: KeyPart, work: Work) -> None:
        if value not in self.present[link]:
            return
        self.present[link].discard(value)
        work.left.setdefault(link, set()).add(value)
        work.joined.get(link, set()).discard(value)
        self.touch(link, value, work)

    def touch(self, link: Link, value: KeyPart, work: Work) -> None:
        work.touched.setdefault(link, set()).add(value)
        self._unsettled = True

    def take(self) -> Work:
        """The work there is, in exchange for an empty one. ``position``, ``gtid`` stay known."""
        with self.lock:
            taken = self.work
            self.work = Work(position=taken.position, gtid=taken.gtid)
            return taken

    def put_back(self, work: Work) -> None:
        with self.lock:
            self.work.absorb(work)
            self._unsettled = self._unsettled or bool(work.touched)

    def settled(self) -> None:
        """All that was touched has been looked at, unless more came meanwhile."""
        with self.lock:
            self._unsettled = bool(self.work.touched)


def host_condition(interest: Interest, hosts: Sequence[str]) -> tuple[str, list[KeyPart]]:
    """SQL for a table whose rule is ByHost, and its values."""
    text = f"{name(interest.owner[0])} IN ({', '.join(['%s'] * len(hosts))})"
    for column in interest.owner[1:]:
        text += f" AND {name(column)} = %s"
    return text, [*hosts, *interest.also]


def select_members(session: Session, members: Members) -> dict[Link, set[KeyPart]]:
    """Those that the session's transaction shows."""
    found: dict[Link, set[KeyPart]] = {}
    order = list(members.interests)  # parents stand before their children
    for link in sorted(members.children, key=lambda k: order.index(k[0])):
        interest = members.interests[link[0]]
        values: set[KeyPart] = set()
        for where, args in _conditions(interest, members, found):
            for fields in session.raw(f"SELECT {interest.told} FROM {name(link[0])} WHERE {where}", args):
                for other, value in interest.exported(interest.parse(fields)):
                    if other == link:
                        values.add(value)
        found[link] = values
    return found


def _conditions(interest: Interest, members: Members, found: dict[Link, set[KeyPart]]
                ) -> Iterator[tuple[str, list[KeyPart]]]:
    if interest.everything:
        yield "TRUE", []
    elif interest.link is None:
        hosts = sorted(members.hosts)
        for at in range(0, len(hosts), _AT_ONCE):
            yield host_condition(interest, hosts[at:at + _AT_ONCE])
    else:
        values = sorted(found[interest.link], key=str)
        for at in range(0, len(values), _AT_ONCE):
            yield among(interest.owner, [(v,) for v in values[at:at + _AT_ONCE]])
