"""Rows of some hosts, beside the mover: the hosts' own are brought over, and all of them are deleted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recell.adapters.mysql.session import Session
from recell.adapters.mysql.sql import KeyPart, among, name
from recell.model.scope import ByHost, Scope
from recell.mover.copy import whole
from recell.mover.members import Interest, Members, host_condition, select_members
from recell.planning.tables import HOSTS_OWN

__all__ = ["bring", "clear", "left"]

_AT_ONCE = 500


def bring(source: Session, target: Session, scope: Scope) -> int:
    """The hosts' own rows at the target are those of the source, in one transaction. How many."""
    members = Members(scope)
    source.consistent()
    found = select_members(source, members)
    members.present = found
    count = 0
    theirs = select_members(target, members)
    for table in reversed(HOSTS_OWN):
        if (interest := members.interests.get(table)) is not None:
            for where, values in _mine(interest, members, theirs):
                target.execute(f"DELETE FROM {name(table)} WHERE {where}", values)
    for table in HOSTS_OWN:
        if (interest := members.interests.get(table)) is not None:
            for where, values in _mine(interest, members, found):
                rows = [
                    whole(interest, r)
                    for r in source.column(
                        f"SELECT {interest.rows.row} FROM {interest.rows.quoted} WHERE {where}", values
                    )
                ]
                for at in range(0, len(rows), _AT_ONCE):
                    target.send(interest.rows.insert + b", ".join(rows[at : at + _AT_ONCE]))
                count += len(rows)
    source.rollback()
    target.commit()
    return count


def clear(session: Session, scope: Scope) -> int:
    """Children first, some hundred at a time; what a kill leaves is found again. How many rows."""
    members = Members(scope)
    found = select_members(session, members)
    session.rollback()
    count = 0
    for interest in reversed(list(members.interests.values())):
        if not interest.deletes:
            continue
        for where, values in _mine(interest, members, found):
            count += session.execute(f"DELETE FROM {interest.rows.quoted} WHERE {where}", values)
            session.commit()
    return count


def left(session: Session, hosts: Sequence[str]) -> int:
    return sum(
        int(session.query(f"SELECT COUNT(*) FROM {name(t)} WHERE host IN %s{more}", (list(hosts),))[0][0])
        for t, more in (
            ("instances", ""),
            ("compute_nodes", ""),
            ("services", " AND `binary` = 'nova-compute'"),
        )
    )


def _mine(
    interest: Interest, members: Members, found: dict[tuple[str, str], set[KeyPart]]
) -> Iterator[tuple[str, list[KeyPart]]]:
    """Conditions for the table's rows that belong to the hosts."""
    if isinstance(interest.rule, ByHost):
        hosts = sorted(members.hosts)
        for at in range(0, len(hosts), _AT_ONCE):
            yield host_condition(interest, hosts[at : at + _AT_ONCE])
    elif interest.link is not None:
        values = sorted(found[interest.link], key=str)
        for at in range(0, len(values), _AT_ONCE):
            yield among(interest.owner, [(v,) for v in values[at : at + _AT_ONCE]])
