"""What the steps may ask of a database that moves (docs/database.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from recell.model.moving import Pace, Retention, Session, Standing, Thing
from recell.model.relay import Side
from recell.model.violation import Violation


class MoverPort(Protocol):
    """One database between two servers. Got from :meth:`World.mover`.

    Whatever a run that was killed has left is found and gone on with. Between the calls of one run its
    threads go on: what changes on one side is written to the other one.

    :raises Unreachable: a server doesn't answer.
    """

    # -- the servers, as their root ----------------------------------------------------------------

    def there(self, side: Side) -> frozenset[str]:
        """Of :data:`Thing`, what is there and fit; and ``tables`` when the database has any."""
        ...

    def make(self, side: Side, thing: Thing) -> None:
        """Make it, or what is missing of it. The database: empty, with the tables of the old one.

        :raises Denied: Nova's account is there with another password.
        """
        ...

    def drop(self, side: Side, thing: Thing) -> None:
        """Take it away; nothing when it isn't there. Nova's account stays when it serves other databases
        there, without its rights on this one."""
        ...

    def troubles(self, open_s: float) -> tuple[Violation, ...]:
        """Every reason not to begin. Reads only; needs no account of recell's.

        :param open_s: how long the way back is to stay open, in seconds.
        """
        ...

    # -- rows ----------------------------------------------------------------------------------------

    def standing(self) -> Standing:
        """Out of the journals in the databases. "none" when recell's accounts aren't there."""
        ...

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        """Copy what isn't copied, apply changes from now on, compare everything once; in words.

        :param tell: called now and then, from this thread, with what is known of ``rows``, ``rows_per_s``,
            ``lag_s`` and ``eta_s``.
        :raises VerifyFailed: rows differ; they are named.
        """
        ...

    def compare(self, tell: Callable[[dict[str, float]], None]) -> str:
        """All rows of both sides, once more, while writers go on; in words. One that was ended goes on
        where it was.

        :raises StepFailed: nothing is being moved. :raises VerifyFailed: rows differ; they are named.
        """
        ...

    def pace(self) -> Pace | None:
        """How fast rows may be read; None: nothing is being moved."""
        ...

    def set_pace(self, pace: Pace) -> None:
        """From now on, for whichever process moves the rows."""
        ...

    def catch_up(self, limit_s: float) -> float:
        """Go on applying changes, in the direction of :meth:`standing`, and wait until the other side is
        at most a second behind. How many seconds it is."""
        ...

    def turn(self) -> None:
        """After :meth:`drain`, and once writers are let in on the other side: changes there flow back."""
        ...

    def forget(self) -> None:
        """Nothing flows any more; the bookkeeping in both databases is removed. Idempotent."""
        ...

    def retention(self, side: Side) -> Retention:
        """Of the server whose changes are followed."""
        ...

    # -- the moment ----------------------------------------------------------------------------------

    def sessions(self, side: Side) -> tuple[Session, ...]:
        """Who has the database open there, but for recell."""
        ...

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        """All of :meth:`hold` that takes time. ``limit_s``: how long a transaction may go on then."""
        ...

    def hold(self, side: Side) -> float:
        """Writers of this database wait at the server itself. Seconds until they did.

        :raises StepFailed: a transaction doesn't end in time; nothing is held.
        """
        ...

    def drain(self, limit_s: float) -> str:
        """With the writers held: the last changes are applied, and both sides proven equal; in words.

        :raises StepFailed, VerifyFailed: they are not, in this time.
        """
        ...

    def prove_held(self) -> None:
        """:raises VerifyFailed: somebody may have slipped through since :meth:`hold`."""
        ...

    def let_go(self) -> None:
        """Held writers go on. Nothing when none are held. Never raises."""
        ...

    def rights(self, side: Side) -> dict[str, Any]:
        """Who may write there, to be kept before :meth:`shut`.

        :raises Unsupported: the database can't be shut by itself.
        """
        ...

    def shut(self, side: Side, rights: Mapping[str, Any]) -> None:
        """Take these rights away, end every session but recell's, and prove it. Can be repeated."""
        ...

    def is_shut(self, side: Side, rights: Mapping[str, Any]) -> bool: ...
    def reopen(self, side: Side, rights: Mapping[str, Any]) -> None:
        """Give back exactly what was taken. Can be repeated."""
        ...

    def close(self) -> None:
        """End threads and sessions; what was done is kept."""
        ...
