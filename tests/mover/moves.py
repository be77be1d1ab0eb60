"""Moves of everything between two servers, as tests begin them."""

from __future__ import annotations

import time

import pytest

from recell.errors import RecellError
from recell.mover import Move, Options
from tests.mover import schema
from tests.private_server import PrivateServer, Server


class Moves:
    """Makes moves; all are closed by :meth:`close`."""

    def __init__(self) -> None:
        self._made: list[Move] = []

    def __call__(self, source: Server, target: Server, patience_s: float = 60) -> Move:
        scope = schema.scope(schema.read(source), schema.WHOLE)
        move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=patience_s))
        self._made.append(move)
        return move

    def copied(self, source: Server, target: Server, patience_s: float = 60) -> Move:
        """The copy is done, and nothing follows yet."""
        move = self(source, target, patience_s)
        move.prepare()
        move.copy()
        return move

    def following(self, source: Server, target: Server, patience_s: float = 60) -> Move:
        """The copy is done, and changes follow."""
        move = self.copied(source, target, patience_s)
        move.follow()
        return move

    def again(self, source: Server, target: Server) -> Move:
        """Another process goes on with one that follows, and has caught up."""
        move = self(source, target)
        move.prepare()
        move.follow()
        move.catch_up(60, lag_s=10)
        return move

    def close(self) -> None:
        for move in self._made:
            move.close()


def proven(move: Move, source: PrivateServer, target: PrivateServer) -> None:
    """Both sides are equal, by the move and by another way."""
    move.catch_up(120, lag_s=10)
    assert move.verify().differences == ()
    move.drain(120)
    assert schema.differing(source, target, move.scope) == []


def fails(move: Move, kind: type[RecellError], match: str, limit_s: float = 60) -> None:
    """It stops by itself, with this reason."""
    with pytest.raises(kind, match=match):
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            move.catch_up(limit_s, lag_s=60)
            time.sleep(0.1)
