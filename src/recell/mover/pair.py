"""The two servers of a move: waited for when they are away, and never taken for another one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import Busy, Lost, Session, Sessions
from recell.errors import Unreachable
from recell.mover.feed import Start, start_of
from recell.mover.journal import State

__all__ = ["Pair"]

T = TypeVar("T")


class Pair:
    """``ends``: where rows came from at first, and where they went; as the caller named them.

    Not for two threads at once.
    """

    def __init__(self, source: Endpoint, target: Endpoint, patience_s: float) -> None:
        self.ends = source, target
        self._patience_s = patience_s
        self._asking = Sessions()

    def close(self) -> None:
        self._asking.close()

    def pinned(self, state: State | None) -> tuple[Endpoint, Endpoint]:
        """Both ends; once they are known, no session of theirs is with another server."""
        source, target = self.ends
        if state is None:
            return source, target
        mine, theirs = state.source, state.target or {}
        if state.backward:
            mine, theirs = theirs, mine
        return (replace(source, server=tuple(sorted(mine.items()))),
                replace(target, server=tuple(sorted(theirs.items()))))

    def direction(self, state: State | None) -> tuple[Endpoint, Endpoint]:
        """Where rows come from now, and where they go."""
        source, target = self.pinned(state)
        return (target, source) if state is not None and state.backward else (source, target)

    def end_of(self, endpoint: Endpoint) -> Position:
        """Where its binlog ends now."""
        return self.patiently(lambda: self._asking.ask(endpoint, Session.binlog_end), endpoint)

    def look(self, endpoint: Endpoint) -> Start:
        """Of its binlog, now."""
        def ask() -> Start:
            with closing(Session(endpoint)) as session:
                return start_of(session)

        return self.patiently(ask, endpoint)

    def patiently(self, act: Callable[[], T], endpoint: Endpoint) -> T:
        """:raises Unreachable: the server stays away."""
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return act()
            except (Lost, Busy) as error:
                if time.monotonic() > until:
                    raise Unreachable(f"{endpoint.where} does not answer ({error})",
                                      "Go on with the same move: what was done is kept") from None
                time.sleep(0.3)
