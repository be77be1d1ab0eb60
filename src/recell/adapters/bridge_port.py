"""What steps may ask of a RabbitMQ cluster that is an end of a bridge; see :mod:`recell.planning.bridge`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from recell.planning.bridge import Lane, Side, Taken


class BridgeEnd(Protocol):
    """One cluster. Names of queues and shovels are ``(vhost, name)``. RabbitMQ 3.8 and newer.

    :raises Unreachable: no node of it answers (from every method).
    """

    name: str

    def version(self) -> str: ...
    def definitions(self) -> dict[str, Any]:
        """As ``rabbitmqctl export_definitions`` has them: password hashes too, so they are kept nowhere."""
        ...

    def load(self, definitions: Mapping[str, Any]) -> None:
        """Import them; they go to standard input."""
        ...

    def taken(self, vhosts: Sequence[str], account: str) -> tuple[Taken, ...]:
        """All queues but exclusive ones. ``account``: whose names begin so, their consumers don't count."""
        ...

    def shovels(self) -> dict[tuple[str, str], bool]:
        """recell's own, and whether each runs."""
        ...

    def clear_shovels(self, names: Iterable[tuple[str, str]]) -> None: ...
    def drop_queues(self, names: Iterable[tuple[str, str]], *, full: bool = False) -> None:
        """Those that are unused by then, and empty unless ``full`` ones may go too; others stay."""
        ...

    def plugged(self) -> tuple[str, ...]:
        """Hosts on which the shovel plugin is enabled."""
        ...

    def plug(self, host: str, on: bool) -> None: ...
    def set_account(self, name: str, password: str, vhosts: Sequence[str], declares: str = "^$") -> None:
        """The account is there with this password; in these vhosts it may read and write, and declare what
        has a name of this pattern: nothing, unless said."""
        ...

    def drop_account(self, name: str) -> None: ...


class Ferry(Protocol):
    """recell carries requests over a bridge itself, before its shovels, and makes a way back for each answer
    first. It has threads of its own. What it can't carry it leaves to the shovels. Nothing here raises."""

    def follow(self, lanes: Iterable[Lane]) -> None:
        """Along these from now on, where they carry requests and it can, and along no others: when this
        returns, what was in hand of another is in its queue again, or has gone over."""
        ...

    def made(self) -> tuple[tuple[Side, str, str], ...]:
        """(side, vhost, queue) of all queues for answers that it has made; they expire when unused."""
        ...

    def news(self) -> str:
        """What it did, or why it can't, since this was asked last; "": nothing."""
        ...

    def close(self) -> None:
        """Nothing is taken or held any more; :meth:`follow` begins anew."""
        ...
