"""An end of a bridge that is read for real and never changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recell.adapters.bridge_port import BridgeEnd
from recell.adapters.dry_record import Record
from recell.planning.bridge import Lane, Side, Taken


class DryBridgeEnd:
    """:class:`~recell.adapters.bridge_port.BridgeEnd` that changes nothing."""

    def __init__(self, real: BridgeEnd, record: Record) -> None:
        self.name = real.name
        self._real = real
        self._record = record

    def version(self) -> str:
        return self._real.version()

    def definitions(self) -> dict[str, Any]:
        return self._real.definitions()

    def taken(self, vhosts: Sequence[str], account: str) -> tuple[Taken, ...]:
        return self._real.taken(vhosts, account)

    def shovels(self) -> dict[tuple[str, str], bool]:
        return self._real.shovels()

    def plugged(self) -> tuple[str, ...]:
        return self._real.plugged()

    def load(self, definitions: Mapping[str, Any]) -> None:
        told = ", ".join(f"{len(rows)} {part}" for part, rows in definitions.items() if rows)
        self._record.add(self.name, f"import {told or 'nothing'}")

    def clear_shovels(self, names: Iterable[tuple[str, str]]) -> None:
        self._record.add(self.name, f"take {len(list(names))} shovels away")

    def drop_queues(self, names: Iterable[tuple[str, str]], *, full: bool = False) -> None:
        self._record.add(self.name, f"drop {len(list(names))} queues of recell's that nobody uses")

    def plug(self, host: str, on: bool) -> None:
        self._record.add(host, f"{'enable' if on else 'disable'} the shovel plugin")

    def set_account(self, name: str, password: str, vhosts: Sequence[str], declares: str = "^$") -> None:
        self._record.add(self.name, f"set the account {name}")

    def drop_account(self, name: str) -> None:
        self._record.add(self.name, f"drop the account {name}")


class DryFerry:
    """:class:`~recell.adapters.bridge_port.Ferry` that takes nothing."""

    def follow(self, lanes: Iterable[Lane]) -> None:
        return

    def made(self) -> tuple[tuple[Side, str, str], ...]:
        return ()

    def news(self) -> str:
        return ""

    def close(self) -> None:
        return
