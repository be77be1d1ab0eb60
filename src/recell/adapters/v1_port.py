"""What the steps may ask of a Nova that becomes the child of an API cell (docs/howto/cells-v1.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from recell.model.moving import Thing
from recell.model.relay import Side
from recell.model.rowchange import RowChange
from recell.model.v1 import Agreement, BothSides, Importing, Neighbour, Settled
from recell.model.violation import Violation

FlavorRows = dict[str, list[dict[str, Any]]]
"""By table: rows by column; times as text."""


class V1Port(Protocol):
    """Both sides' databases and nova-cells. Got from :meth:`World.v1`. ``side``: ``old`` is the child,
    ``new`` the API cell.

    Whatever a run that was killed has left is found and gone on with.

    :raises Unreachable: a server or a broker doesn't answer.
    """

    # -- the servers, as their root ----------------------------------------------------------------

    def there(self, side: Side) -> frozenset[str]:
        """Of :data:`Thing`, what is there and fit; and ``tables`` when the database has any."""
        ...

    def make(self, side: Side, thing: Thing) -> None:
        """The database: empty, without tables, in the character set of the child's."""
        ...

    def drop(self, side: Side, thing: Thing) -> None:
        """Nothing when it isn't there. Nova's account stays when it serves other databases there."""
        ...

    def troubles(self) -> tuple[Violation, ...]:
        """Every reason not to begin. Reads only; needs no account of recell's."""
        ...

    # -- before rows come --------------------------------------------------------------------------

    def clear_seeded(self) -> int:
        """Empty the API cell's tables that `db sync` puts rows into. How many rows.

        :raises Unsupported: the two schemas differ in what has to be copied.
        :raises StepFailed: the tables hold instances.
        """
        ...

    def neighbours(self, side: Side) -> tuple[Neighbour, ...]:
        """Live rows of this side's ``cells``."""
        ...

    def add_neighbour(self, side: Side, neighbour: Neighbour) -> None:
        """Nothing when exactly this one is there.

        :raises StalePlan: there is another one of this name. :raises Unsupported: this release's table
            has no column for a URL, or the URL is too long for it.
        """
        ...

    def remove_neighbour(self, side: Side, name: str) -> None:
        """Nothing when it isn't there."""
        ...

    # -- a further child ---------------------------------------------------------------------------

    def child_troubles(self) -> tuple[Violation, ...]:
        """Every reason not to add the child to its tree. Reads only; needs no account of recell's."""
        ...

    def live(self, side: Side) -> tuple[str, ...]:
        """Uuids of live instances there, in order."""
        ...

    def set_weights(self, name: str, weights: Mapping[str, float]) -> None:
        """Columns of the API cell's live record of a child. Can be repeated."""
        ...

    def flavors(self, side: Side) -> FlavorRows:
        """All rows of the tables of flavors, comparable and fit for JSON; {} where the cell's database has
        none of them."""
        ...

    def set_flavors(self, rows: FlavorRows) -> None:
        """Just these, with their numbers, in the child's tables. Can be repeated.

        :raises StepFailed: the child has instances, which name flavors by number.
        """
        ...

    # -- rows --------------------------------------------------------------------------------------

    def importing(self) -> Importing:
        """Out of the API cell's database. "none" when recell's account isn't there."""
        ...

    def follow(self, tell: Callable[[dict[str, float]], None]) -> str:
        """Copy what isn't copied, apply changes from now on, compare everything once; in words. What a
        handing over that was taken back has left is cleared first. Nothing when ``live``.

        :raises VerifyFailed: rows differ; they are named.
        """
        ...

    def catch_up(self, limit_s: float) -> float:
        """Before the hold: go on applying what changes (begun anew when ``stale``), and wait until the API
        cell is at most a second behind. How many seconds it is."""
        ...

    def drain(self, limit_s: float) -> str:
        """In the hold, with the child's writers at rest: the last changes are applied, and both sides
        proven equal row by row; in words.

        :raises StepFailed, VerifyFailed: they are not, in this time; nothing has changed.
        """
        ...

    def hand_over(self) -> int:
        """After :meth:`drain`: nothing is copied any more, and failed builds (cell0's) are brought. From here
        on Nova keeps both sides. Can be repeated. How many failed builds.

        :raises StepFailed: the two sides were not proven equal.
        """
        ...

    def take_back(self) -> None:
        """Users are on the child's own nova-api again: what the API cell has is stale. Can be repeated."""
        ...

    def forget(self) -> None:
        """Nothing is copied any more; the bookkeeping in both databases is removed. Idempotent."""
        ...

    # -- on to cells v2 ----------------------------------------------------------------------------

    def adopt(self) -> None:
        """The API cell's rows are Nova's own, whoever brought them: :meth:`importing` says ``live`` from now
        on. Nothing where it says anything else than ``none``."""
        ...

    def unmapped(self) -> tuple[str, ...]:
        """Uuids of the child's live instances that cells v2 would not find: without a mapping, or with one
        that names no cell although nothing is under way with them."""
        ...

    def map_instances(self) -> int:
        """Map them to the child. How many. Can be repeated."""
        ...

    def settle(self) -> Settled:
        """In the hold, with nothing under way: what is left without a cell gets one. Builds that failed in
        the child belong to it; those that no cell took come to cell0 with all that is theirs. Their build
        requests go, and what users deleted in the API cell alone goes from cell0. Can be repeated.

        :raises StepFailed: a mapping leads to another cell.
        """
        ...

    # -- proofs ------------------------------------------------------------------------------------

    def agreement(self) -> Agreement:
        """One look at all live instances of both sides, :class:`~recell.model.v1.Agreement`."""
        ...

    def both_sides(self) -> BothSides:
        """One look at the rows themselves."""
        ...

    def mend(self, changes: Sequence[RowChange], seen: BothSides) -> tuple[RowChange, ...]:
        """Rows of the API cell's instances, labelled by uuid: each is written only where it is live, still
        has the values of before, and was not written since it was ``seen``. Those that were."""
        ...

    def stranded(self) -> tuple[str, ...]:
        """What the API cell has by now and the child has not, and users would miss, a text each; of what
        each cell keeps for itself in this release (flavors, key pairs, server groups, aggregates, quotas)."""
        ...

    def recount(self, side: Side) -> int:
        """Usage of quotas there, counted anew from its instances. How many rows were wrong; 0 where the
        release counts by itself."""
        ...

    def picture(self) -> dict[str, Any]:
        """What undo has to leave as it is, of the child's database: without secrets, comparable."""
        ...

    def tidy_services(self, known: Sequence[int]) -> int:
        """Records in the child's ``services`` of a nova-cells that began to report since a picture was taken
        are deleted, as Nova deletes them. How many."""
        ...

    # -- nova-cells --------------------------------------------------------------------------------

    def answering(self, limit_s: float) -> frozenset[str]:
        """Cells that answered when the API cell's nova-cells asked all for their services: a message down
        and one up. Empty when none did in time."""
        ...

    def ask_for_instances(self, since: float) -> int:
        """Tell nova-cells of the API cell to let its children send every live instance that was changed since
        then (`sync_instances`; seconds since the epoch), project by project. How many projects."""
        ...

    def room(self, limit_s: float) -> int:
        """Free memory that the API cell knows of in the child, MiB; -1: it knows nothing of it yet."""
        ...

    def close(self) -> None:
        """End threads and sessions; what was done is kept."""
        ...
