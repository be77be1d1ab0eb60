"""What the steps may ask of hosts that move between two cells (docs/hosts.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from recell.model.hosts import Carried, Following, Late
from recell.model.moving import Thing
from recell.model.relay import Side
from recell.model.violation import Violation


class HostsPort(Protocol):
    """Some hosts between two cells. Got from :meth:`World.between`. ``side``: ``old`` is the cell from which
    the plan takes them.

    Whatever a run that was killed has left is found and gone on with.

    :raises Unreachable: a server or a broker doesn't answer.
    """

    # -- the servers, as their root ----------------------------------------------------------------

    def there(self, side: Side) -> frozenset[str]:
        """Of :data:`Thing`, what is there and fit; and ``tables`` when the database has any."""
        ...

    def make(self, side: Side, thing: Thing) -> None:
        """The database: empty, without tables, in the character set of the other one."""
        ...

    def drop(self, side: Side, thing: Thing) -> None:
        """Nothing when it isn't there. Nova's account stays when it serves other databases there."""
        ...

    def differences(self) -> tuple[str, ...]:
        """What differs between both schemas, a sentence each."""
        ...

    def part(self, toward: Side) -> None:
        """Raise the counters of this side's tables far above the other one's, where they are not: rows that
        come bring their numbers. Can be repeated. :raises Unsupported: a table has no room."""
        ...

    def troubles(self) -> tuple[Violation, ...]:
        """Every reason not to move these hosts now. Reads only; needs no account of recell's."""
        ...

    # -- what is under way there -------------------------------------------------------------------

    def busy(self, side: Side) -> dict[str, str]:
        """By host: builds, migrations, resizes, evacuations that are under way, in words. Those without any
        are left out."""
        ...

    def closed(self, side: Side) -> frozenset[str]:
        """Hosts that recell has closed to new builds."""
        ...

    def shut_out(self, side: Side, hosts: Collection[str]) -> None:
        """No new builds there. A host that an operator has disabled keeps the operator's reason."""
        ...

    def let_in(self, side: Side, hosts: Collection[str]) -> None:
        """What recell has closed is open again."""
        ...

    # -- rows --------------------------------------------------------------------------------------

    def following(self) -> Following:
        """Out of the journals in the databases."""
        ...

    def follow(self, toward: Side, tell: Callable[[dict[str, float]], None]) -> str:
        """Copy what isn't copied, apply changes from now on, compare everything once; in words. What an
        earlier move has left there is deleted first.

        In the copy every instance is hidden from users and has no task, until :meth:`reveal`: a nova-compute
        that starts there finds nothing to tidy up.

        :raises VerifyFailed: rows differ, or rows of others are in the way; they are named.
        """
        ...

    def bring_hosts(self, toward: Side) -> None:
        """The hosts' own rows (service, node, devices) there are as at the other side. While nova-compute
        runs in neither cell, and after :meth:`catch_up`: from here on it may write its instances' rows there.

        :raises Unknowable: somebody has written some already.
        """
        ...

    def alive(self, side: Side) -> None:
        """The hosts' service records there say that they are up: nova-api ends instances of a host that it
        takes for dead by itself."""
        ...

    def catch_up(self, toward: Side, limit_s: float) -> float:
        """Apply what has changed, and go on. How many seconds it is behind.

        :raises Unknowable: somebody else writes these rows there, before :meth:`bring_hosts`.
        """
        ...

    def instances(self, side: Side) -> tuple[str, ...]:
        """uuids of all instances with these hosts, deleted ones included."""
        ...

    def forget(self) -> None:
        """Nothing flows any more; the bookkeeping in both databases is removed. Idempotent."""
        ...

    def clear(self, side: Side) -> str:
        """Delete the hosts' rows there, those of their instances with them; in words. Idempotent."""
        ...

    def left(self, side: Side) -> int:
        """How many rows :meth:`clear` would find, of hosts and instances."""
        ...

    # -- the moment --------------------------------------------------------------------------------

    def prepare_hold(self, side: Side, limit_s: float) -> None:
        """All of :meth:`hold` that takes time."""
        ...

    def hold(self, side: Side) -> float:
        """Writers of this cell's database wait at the server. Seconds until they did.

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

    def reveal(self, side: Side) -> None:
        """While the writers are held: users see the copy there, and its tasks are the other side's."""
        ...

    def hide(self, side: Side) -> int:
        """Users see nothing any more of what is left there, and a late writer gets a conflict. Can be
        repeated, and be done while the writers are held. How many instances."""
        ...

    # -- a start in the cell to which the hosts belong ---------------------------------------------

    def set_aside(self, side: Side) -> None:
        """Tasks of the hosts' instances and the requests that wait are kept apart, so that a nova-compute
        that starts there tidies nothing up. Until :meth:`put_back` their instances refuse what would begin a
        task, with a conflict. Can be repeated."""
        ...

    def put_back(self, side: Side) -> int:
        """Tasks first, then the requests, in their order. How many. Can be repeated."""
        ...

    # -- messages ----------------------------------------------------------------------------------

    def served(self, side: Side) -> frozenset[str]:
        """Hosts whose requests somebody takes at this side's broker. Cheap: it is asked while nova-compute
        starts, on its own processor's time."""
        ...

    def waiting(self, side: Side) -> int:
        """Requests to these hosts that wait at this side's broker, where nobody takes them."""
        ...

    def carry(self, toward: Side, limit_s: float) -> Carried:
        """Give those that wait at the other side's broker to this one's, each once, in their order, and bring
        back the answers. Returns when none waits and no answer is missing, or after ``limit_s``."""
        ...

    def late(self, side: Side) -> Late:
        """Rows of the hosts' instances that were written at this side, which was left, since both were proven
        equal: brought to the other one where that can be done. What was found since this was asked last,
        with what :meth:`carry` has brought before the requests that need it. Nothing before the moment."""
        ...

    def close(self) -> None:
        """End threads and sessions; what was done is kept."""
        ...
