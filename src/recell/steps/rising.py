"""A nova-compute starts, and nothing that is asked of its instances meanwhile meets that start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial

from recell.adapters.ports import WaitingRoom
from recell.errors import RecellError
from recell.model.step import Direction
from recell.planning.bridge import Side
from recell.planning.queues import own_queues
from recell.steps.aside import Aside
from recell.steps.compute import ComputeMoments

Queue = tuple[str, str]
"""(vhost, name)"""
RISING_POLL_S = 0.2
LAST_WORD_S = 10.0
"""For RabbitMQ to notice that the process which was ended takes no longer."""


class Rises(ComputeMoments):
    """``unit``, ``vhost``, ``queues``, ``cell``, ``nova_host``: see :class:`~recell.steps.repoint.Repoint`.

    While it rises its instances' tasks are aside, and messages are kept from it: here in a waiting room of
    recell's own. Should recell die, they come to it, as to any nova-compute that starts. What then finds its
    task aside fails, and that task is let go by the run that follows.
    """

    _room: WaitingRoom | None = None
    _alone = False

    def is_compute(self) -> bool:
        return self.param("cell") is not None

    def _to(self, toward: Direction) -> Side:
        return "new" if toward == "forward" else "keep"

    def _nova_host(self) -> str:
        return str(self.param("nova_host"))

    def _queues(self) -> list[Queue]:
        return [(str(self.param("vhost")), str(q)) for q in self.param("queues")]

    def _own_queues(self) -> list[Queue]:
        """By whose names it alone is reached."""
        names = own_queues(self._nova_host(), (str(q) for q in self.param("queues")))
        return [(str(self.param("vhost")), name) for name in names]

    def _has_aside(self) -> bool:
        return self.is_compute() and self._nova_host() in Aside(self.context).known()

    # -- how messages are kept from it ---------------------------------------------------------------

    def keeping(self, toward: Direction) -> AbstractContextManager[None]:
        """Whatever is needed to keep messages from it; had before it is ended, or it is not ended."""
        return self._in_a_room()

    @contextmanager
    def _in_a_room(self) -> Iterator[None]:
        names = [name for _, name in self._own_queues()]
        with self.world.waiting_room(self.spec.where, str(self.param("unit")), names) as room:
            self._room = room
            try:
                yield
            except RecellError:
                # From now on messages come to it, and are to find their tasks.
                with suppress(RecellError):
                    if self._has_aside():
                        Aside(self.context).end(self._nova_host())
                        Aside(self.context).put_back()
                raise
            finally:
                self._room = None

    def keeps_away(self, toward: Direction) -> bool:
        """Whether messages can be kept from it."""
        return self._room is not None

    def keep_away(self, toward: Direction, running: bool) -> None:
        """From here on no message of its own comes to it."""
        if self._room is None:
            return
        self._room.hold()
        began = self.world.clock()
        while not running and self._room.others() and self.world.clock() - began < LAST_WORD_S:
            self.world.wait(RISING_POLL_S)
        self._alone = not self._room.others()

    def let_come(self, toward: Direction) -> None:
        """It serves: its tasks are put back, and their messages come to it."""
        Aside(self.context).put_back()
        if self._room is not None:
            self._room.release()

    def _takes_by_now(self) -> bool:
        """It takes from its queues, which it does when it has looked at its tasks. Somebody who took there
        before tells nothing."""
        return self._room is not None and self._alone and self._room.others()

    # -- its start -----------------------------------------------------------------------------------

    def rise(self, toward: Direction, serves: Callable[[], bool]) -> None:
        """Start it, unless a run that was killed has. ``serves``: it takes from all its queues already."""
        aside, host = Aside(self.context), self._nova_host()
        # Asked first: as soon as it serves, whoever looks after a bridge may end that.
        begun = self._has_aside()
        serving, running = serves(), self.unit().running
        if serving or not self.keeps_away(toward):
            if not running:
                self.start_unit(str(self.param("unit")))
            aside.end(host)
            self.let_come(toward)
            return
        cell, own = str(self.param("cell")), self._own_queues()
        note = partial(aside.begin, cell, host, self._to(toward), own)
        if not running or not begun:
            note()
        self.keep_away(toward, running)
        if not running:
            aside.take(host)
            self._begin_to_start()
            note()  # the last word of the one that was ended may have come late
        self.until_risen(toward)

    def _begin_to_start(self) -> None:
        """Its instances' tasks are looked after from the first moment: systemctl would wait until a unit of
        type notify is up."""
        unit = str(self.param("unit"))
        if self.unit().active == "failed":
            self.host.systemctl("reset-failed", unit)  # or it would look as if this start had failed
        self.host.systemctl("start-later", unit)

    def until_risen(self, toward: Direction) -> None:
        """Until a nova-compute reports that it serves: no task that waits for it meets its start."""
        aside, host, began = Aside(self.context), self._nova_host(), self.world.clock()
        while aside.take(host) and not self._takes_by_now():
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                break  # the caller looks, and says what is wrong
            self.world.wait(RISING_POLL_S)
        aside.end(host)
        self.let_come(toward)

    def finish_rising(self, toward: Direction) -> None:
        """Of one that a killed run began: it has tasks until they are put back."""
        if self._has_aside() and self.keeps_away(toward):
            self.keep_away(toward, True)
            self.until_risen(toward)
