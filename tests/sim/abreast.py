"""Acts side by side in simulated time: one runs until it waits, then the one whose time comes first.

So hosts of a wave meet each other in the middle of what they do, every run is the same as the last one, and a
kill ends all of them where they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from tests.sim.world import Killed, SimWorld

T = TypeVar("T")


class _WithIt(Killed):
    """Another act of the same process was killed."""


class _Act(Generic[T]):
    def __init__(self, act: Callable[[], T], began: float) -> None:
        self.due = began
        self.ended = False
        self.result: list[T] = []
        self.error: BaseException | None = None
        self.go, self.stopped = threading.Event(), threading.Event()
        self._act = act
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.go.wait()
        try:
            self.result.append(self._act())
        except BaseException as error:
            self.error = error
        self.ended = True
        self.stopped.set()

    def on(self) -> None:
        """Until it waits or ends."""
        self.stopped.clear()
        if not self.thread.is_alive():
            self.thread.start()
        self.go.set()
        self.stopped.wait()

    def pause(self, due: float) -> None:
        """In its own thread."""
        self.due = due
        self.go.clear()
        self.stopped.set()
        self.go.wait()


class Abreast:
    """For a world; one of its acts waits by :meth:`wait`."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._acts: dict[threading.Thread, _Act[Any]] = {}
        self.most = 0
        """So many were under way at the same time."""

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        mine = [_Act(act, self._world.time) for act in acts]
        self._acts = {one.thread: one for one in mine}
        begun: set[int] = set()
        while left := [one for one in mine if not one.ended]:
            one = min(left, key=lambda one: one.due)
            self._world.time = max(self._world.time, one.due)
            begun.add(id(one))
            self.most = max(self.most, sum(id(o) in begun for o in left))
            one.on()
        self._acts = {}
        errors = [one.error for one in mine if one.error is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, _WithIt) - isinstance(e, Killed)):
            raise error
        return [one.result[0] for one in mine]

    def wait(self, seconds: float) -> bool:
        """Whether it was one of them that waited; the time has come by then."""
        one = self._acts.get(threading.current_thread())
        if one is None:
            return False
        one.pause(self._world.time + seconds)
        if self._world.killed:
            raise _WithIt("its process was killed while it waited")
        return True
