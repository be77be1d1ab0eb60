"""A move's beginning: from nothing, or from the journal that an earlier run has left."""

from __future__ import annotations

from contextlib import closing

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Session
from recell.model.scope import Scope
from recell.mover.feed import start_of
from recell.mover.identity import check_server, continues, none_prepared
from recell.mover.journal import Journal, State, fingerprint, make_tables, positions
from recell.mover.members import Members, select_members
from recell.mover.pair import Pair

__all__ = ["begin", "resume"]


def begin(pair: Pair, scope: Scope, members: Members, journal: Journal) -> State:
    """The first position of both binlogs, and who the members are there, are in ``journal`` from now on."""
    source, target = pair.ends
    for endpoint in pair.ends:
        with closing(Session(endpoint)) as session:
            check_server(session)
    journal.create()
    watched = pair.look(target)
    journal.take_over()
    with closing(Session(source)) as session:
        if not session.tells_snapshots:
            make_tables(source)
        start = start_of(session)
        none_prepared(session)
        members.present = select_members(session, members)
    members.ever = {link: set(values) for link, values in members.present.items()}
    move, replica = State.new_ids()
    state = State(move, 0, "copying", fingerprint(scope), replica, start.identity,
                  str(start.position), str(start.position), start.gtid, watched.identity,
                  str(watched.position), first=str(start.position), begun=start.begun,
                  watched_begun=watched.begun, guarded=True)
    journal.endpoint = pair.pinned(state)[1]
    journal.begin(state, members.present)
    return state


def resume(
    here: Endpoint, there: Endpoint, state: State, members: Members, journal: Journal, *, watched: bool
) -> None:
    """Go on from ``state``: the members are read anew, and whoever came or went meanwhile is work.

    :param watched: others' writes ``there`` are looked for.
    :raises BinlogLost, ServerReplaced: a server can't tell any more what happened since.
    """
    journal.take_over()
    with closing(Session(here)) as session:
        continues(session, state.source, positions(state)[1], state.gtid, state.begun)
        session.snapshot()
        present = select_members(session, members)
    if watched:
        with closing(Session(there)) as session:
            continues(session, state.target or {}, Position.parse(state.watched), "", state.watched_begun)
    was, ever = journal.members()
    with members.lock:
        members.present = present
        members.ever = {link: ever.get(link, set()) | values for link, values in present.items()}
        for link, values in present.items():
            before = was.get(link, set())
            members.work.joined[link] = values - before
            members.work.left[link] = before - values
            for value in values ^ before:
                members.touch(link, value, members.work)
