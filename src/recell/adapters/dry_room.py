"""A waiting room that nobody waits in."""

from __future__ import annotations

from collections.abc import Sequence

from recell.adapters.dry_record import Record
from recell.adapters.waiting_room_port import WaitingRoom


class DryRoom:
    """:class:`~recell.adapters.waiting_room_port.WaitingRoom` that is entered for real and holds nothing."""

    def __init__(self, real: WaitingRoom, host: str, queues: Sequence[str], record: Record) -> None:
        self._real = real
        self._host = host
        self._queues = tuple(queues)
        self._record = record

    def __enter__(self) -> DryRoom:
        self._real.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._real.__exit__(*error)

    def hold(self) -> None:
        self._record.add(self._host, f"hold what is sent to {', '.join(self._queues)}")

    def others(self) -> bool:
        return False

    def release(self) -> None:
        self._record.add(self._host, "let it come")
