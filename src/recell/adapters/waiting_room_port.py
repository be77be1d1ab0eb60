"""What the layers above may ask of a waiting room: where messages are while the one they are for starts."""

from __future__ import annotations

from typing import Protocol


class WaitingRoom(Protocol):
    """For queues of one client. Entered, it is proven that it can be had; left, nothing is held any more."""

    def __enter__(self) -> WaitingRoom:
        """:raises RecellError: it can't be had here; nothing was touched."""
        ...

    def __exit__(self, *error: object) -> None: ...

    def hold(self) -> None:
        """From here on nobody else is given what is in these queues, or comes there. Can be repeated.

        Where this process ends, or hangs, or its host dies, all of it is in its queue again, within half a
        minute: as if it had never been held.
        """
        ...

    def others(self) -> bool:
        """Whether anybody else takes from them by now; False, too, while that can't be told."""
        ...

    def release(self) -> None:
        """All that is held is in its queue again, in its order, before whatever comes later. Never raises."""
        ...
