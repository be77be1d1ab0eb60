"""What steps may ask of a RabbitMQ cluster that is an end of a bridge; see :mod:`recell.planning.bridge`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from recell.planning.bridge import Taken


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
        """All queues but exclusive ones. ``account``: whose consumers don't count."""
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
    def set_account(self, name: str, password: str, vhosts: Sequence[str]) -> None:
        """The account is there with this password; in these vhosts it may read and write, not declare."""
        ...

    def drop_account(self, name: str) -> None: ...
