"""What the steps may ask for when users change over to an API cell (docs/howto/cells-v1.md)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from recell.model.gate import GateServer, GateState
from recell.model.relay import Side


class GatePort(Protocol):
    """Requests to one backend of one HAProxy. ``old``: the backend that is there, ``new``: one beside it.

    Which side requests go to and until when they wait is in a file on HAProxy's host, which every worker
    reads at every request: a reload or a restart changes neither.

    :raises Unreachable: HAProxy doesn't answer (from every method).
    """

    host: str
    backend: str

    def trouble(self, *, holds: bool = True) -> str:
        """Why this HAProxy can't hold requests, or without ``holds`` lead them, a sentence; "" when it can.
        Reads only."""
        ...

    def install(self, servers: Sequence[GateServer], *, holds: bool = True) -> None:
        """Teach HAProxy to hold, with these servers on the new side, and reload it. Requests go to the old
        side; a gate that is there already keeps its own. Without ``holds``, for what only has to be led,
        HAProxy may pass TCP on. Idempotent.

        :raises Unsupported: :meth:`trouble`. :raises StepFailed: HAProxy refuses the configuration, which
            is left as it was.
        """
        ...

    def remove(self) -> None:
        """Take away all that :meth:`install` has added. Idempotent.

        :raises StepFailed: requests go to the new side.
        """
        ...

    def conclude(self) -> None:
        """The new side's servers become the backend's own, without a gate. Idempotent."""
        ...

    def left(self) -> bool:
        """Whether anything of it is there, in HAProxy or in files."""
        ...

    def state(self) -> GateState | None:
        """None when it isn't installed. What all workers will read next."""
        ...

    def glance(self) -> GateState | None:
        """As :meth:`state`, but for ``leaving``: what is asked while users wait, in one question."""
        ...

    def hold(self, lease_s: float, longest_s: float) -> None:
        """From its return on every request waits, until :meth:`release`. This process renews the lease for
        ``longest_s`` at most; once it doesn't, nobody waits for longer than ``lease_s``."""
        ...

    def arm(self, toward: Side) -> None:
        """A switch is begun: should the lease end now, requests go to ``toward`` when all servers of the side
        they went to refuse connections (a fence stands before each), and else where they went before.

        :raises StepFailed: the lease has ended, and requests went on.
        """
        ...

    def commit(self, side: Side) -> None:
        """Requests go to this side, at the latest when the lease ends. Ends what :meth:`arm` has begun."""
        ...

    def release(self, side: Side | None = None) -> None:
        """Nobody waits any more; nothing when nobody does. With ``side`` it is :meth:`commit` as well."""
        ...


class FencePort(Protocol):
    """Before a service of one host, by address and port: connections are refused, and those that are open
    are reset. Stays until it is lowered, or the host starts anew."""

    host: str

    def trouble(self) -> str:
        """Why there can't be one here; "" when there can."""
        ...

    def put_up(self, doors: Collection[tuple[str, int]]) -> None:
        """Can be repeated."""
        ...

    def take_down(self) -> None:
        """All of recell's on this host. Can be repeated."""
        ...

    def standing(self) -> frozenset[tuple[str, int]]: ...


class EarPort(Protocol):
    """Whether the API cell's nova-cells hears what the child has to tell of its instances.

    All of it, and nothing else that comes up, is sent to one key of an exchange in the API cell's vhost, in
    every release with cells v1: nova-cells' queue of broadcasts is bound to that. Unbound, the broker drops
    it at once. nova-cells binds its queues whenever it starts or connects again.

    ``base``: what the names of nova-cells' queues between cells begin with.

    :raises Unreachable: the broker doesn't answer (from every method).
    """

    base: str

    def state(self) -> Literal["open", "shut", "none"]:
        """"none": nova-cells has no queues there. Takes a second or two."""
        ...

    def at_hand(self) -> AbstractContextManager[None]:
        """While it lasts, :meth:`shut` and :meth:`open` take milliseconds."""
        ...

    def shut(self) -> None:
        """From its return on nothing new comes into the queue; what is in it stays. Can be repeated.

        :raises StepFailed: there is no such queue, or it is still bound.
        """
        ...

    def open(self) -> None:
        """Undoes :meth:`shut`. Can be repeated.

        :raises StepFailed: there is no such queue.
        """
        ...


class UnderWayPort(Protocol):
    """What Nova is at, in the child's database and on its broker."""

    def stuck(self) -> tuple[str, ...]:
        """What looks as if it was under way and has not moved for long; a sentence each. Left out of
        :meth:`in_flight`."""
        ...

    def make_ready(self) -> None:
        """Before users wait: what :meth:`in_flight` need not look at again is found, and what it asks is
        connected to. Without it that takes longer, and finds the same."""
        ...

    def in_flight(self) -> tuple[str, ...]:
        """Builds, tasks, attachments, migrations that are begun and not ended, and messages that nobody has
        taken or acknowledged; a few words each."""
        ...
