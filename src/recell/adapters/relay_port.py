"""What the layers above may ask of a relay before a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from recell.model.relay import Held, RelayState, Side, Switched, Upstream


class RelayPort(Protocol):
    """One relay: the process between Nova and a database that moves (docs/relay.md).

    The relay keeps the limits itself, by its host's clock. Every method but :meth:`install` and
    :meth:`remove` raises :class:`recell.errors.Unreachable` when it doesn't answer.
    """

    host: str

    def install(
        self,
        listen: Upstream,
        upstreams: Mapping[Side, Upstream],
        accounts: Mapping[str, str],
        side: Side = "old",
    ) -> None:
        """Put it on its host, start it, now and at boot, and see it answer. Idempotent.

        :param listen: address ("" for all) and port that Nova's URLs get.
        :param accounts: user -> password of every account that comes through it, the same on both
            sides. They go into a root-only file there, in no argv and no log.
        :param side: where connections go at first; a relay that is there already keeps its own.
        :raises StalePlan: one is there with other settings, and connections that would break.
        :raises StepFailed: it doesn't start, or the port is taken.
        """
        ...

    def remove(self) -> None:
        """Stop it and take away all that :meth:`install` has put there. Idempotent.

        :raises StepFailed: somebody is still connected through it.
        """
        ...

    def state(self) -> RelayState | None:
        """None when it isn't installed.

        :raises Unreachable: installed, and it doesn't answer.
        """
        ...

    def try_logins(self) -> tuple[str, ...]:
        """Log in at both sides with every account, as a switch will. What was refused, a sentence each."""
        ...

    def hold(self, limit_s: float, lease_s: float) -> Held:
        """Let every connection come to rest between two transactions, and stay there.

        First it logs in at the other side, once for each connection: only then somebody waits. Who isn't
        quiet after ``limit_s`` is in ``Held.busy``, and everybody has been let go. Otherwise the hold ends
        with :meth:`release`, or by itself ``lease_s`` after the last hold, renew or switch, on the side
        that was committed last.

        :raises StepFailed: the other side refuses the logins; nobody has waited.
        :raises Locked: another hold is going on.
        """
        ...

    def renew(self) -> None:
        """Begin the lease of this instance's hold again. :raises StepFailed: it has ended by itself."""
        ...

    def switch(self, side: Side) -> Switched:
        """Bring every held connection to ``side``, with its settings; they stay held until :meth:`release`.

        From its return on, and after any crash, the relay is on ``side``. Before it, on the other one.
        Repeated on the side it is on already it does nothing.

        :raises StepFailed: this instance holds nothing (any more), or a connection could not be brought
            over although nothing was known against it: then all are held still, where they were.
        """
        ...

    def release(self) -> None:
        """End the hold, whoever began it; nothing when there is none."""
        ...
