"""What runs while rows flow in one direction: the readers of both binlogs, and who applies."""

from __future__ import annotations

import time

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.mysql.position import Position
from recell.mover.feed import Feed, Sentry, Start
from recell.mover.follow import Follower, Note
from recell.mover.journal import Journal, State
from recell.mover.members import Members
from recell.mover.options import Options

__all__ = ["Flow"]


class Flow:
    """From ``here`` to ``there``. The readers begin at once, applying begins with ``follower.start``.

    :param start: in the binlog of ``here``. watched: in that of ``there``; None: others write there too.
    :param note: as a Follower's.
    """

    def __init__(
        self, here: Endpoint, there: Endpoint, start: Start, watched: Start | None, members: Members,
        journal: Journal, state: State, options: Options, note: Note,
    ) -> None:
        self.undisturbed = False
        """Whether the other side's binlog has been read up to where it ended when this began."""
        with members.lock:
            members.work.position, members.work.gtid = start.position, start.gtid
        patience = options.patience_s
        self.feed = Feed(here, start, members, state.replica_id, patience)
        self.sentry = Sentry(there, watched, members, state.replica_id + 1, patience,
                             options.echo) if watched is not None else None
        self.feed.start()
        if self.sentry is not None:
            self.sentry.start()
        self.follower = Follower(here, there, members, journal, note, (start.position, start.gtid), patience)

    @property
    def deaths(self) -> int:
        # Of the server whose log may lack rows, and of the one that may lack what it was given.
        return self.feed.deaths + (self.sentry.deaths if self.sentry is not None else 0)

    @property
    def broken(self) -> bool:
        """Whether a reader has ended by itself."""
        return any(t is not None and t.failed is not None for t in (self.feed, self.sentry))

    def check(self) -> None:
        """:raises RecellError: what stopped a thread."""
        self.feed.check()
        if self.sentry is not None:
            self.sentry.check()
        if self.follower.failed is not None:
            raise self.follower.failed

    def applied(self, end: Position, limit_s: float) -> bool:
        """Wait until everything before ``end`` is applied. Whether it is."""
        until = time.monotonic() + limit_s
        while True:
            self.check()
            if self.follower.position >= end:
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)

    def let_in(self) -> None:
        """The other side is not read any more."""
        sentry, self.sentry = self.sentry, None
        if sentry is not None:
            sentry.stop()

    def stop(self) -> None:
        self.follower.close()
        self.feed.stop()
        if self.sentry is not None:
            self.sentry.stop()
