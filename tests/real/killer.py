"""recell, killed with SIGKILL at a named moment: ``python -m tests.real.killer STEP MOMENT -- WORDS``.

Moments: ``before`` (nothing of the step is written), ``started`` (its start is durable, nothing was
done), ``inside`` (some way into acting, at its end at the latest), ``acted`` (done, and not yet written
that it was), ``finished`` (written, before the next step). ``call:NAME`` and ``done:NAME`` are inside: when
the step calls this method of what moves hosts, and when that has returned; ``after:WORDS`` when
that part of a hold has ended whose name begins with these words. The rest of the words are recell's own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recell.cli import main
from recell.journal import Journal
from recell.mover.hosts import CellHosts
from recell.steps.moment import Moment

MOMENTS = ("before", "started", "inside", "acted", "finished")
INSIDE_S = 0.3


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str, moment: str) -> None:
    """Wrap what the journal writes; product code knows nothing of this."""
    write = Journal.append

    def append(self: Journal, named: str, direction: Any, phase: Any, **detail: Any) -> None:
        if named != step:
            write(self, named, direction, phase, **detail)
            return
        # A step may be found as it should be: then that is all that is written of it.
        begins, ends = phase in ("started", "found"), phase in ("finished", "found")
        if (moment == "before" and begins) or (moment in ("inside", "acted") and ends):
            _die()
        write(self, named, direction, phase, **detail)
        if (moment == "started" and begins) or (moment == "finished" and ends):
            _die()
        if moment == "inside" and begins:
            threading.Timer(INSIDE_S, _die).start()
        if begins and ":" in moment:
            _die_around(*moment.split(":"))

    Journal.append = append  # type: ignore[method-assign, assignment]


def _die_around(when: str, name: str) -> None:
    if when == "after":
        _die_after(name)
        return
    method = getattr(CellHosts, name)

    def last(self: CellHosts, *args: Any, **more: Any) -> None:
        if when == "done":
            method(self, *args, **more)
        _die()

    setattr(CellHosts, name, last)


def _die_after(words: str) -> None:
    part = Moment.part

    @contextmanager
    def last(self: Moment, what: str) -> Iterator[None]:
        with part(self, what):
            yield
        if what.startswith(words):
            _die()

    Moment.part = last  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(sys.argv[1], sys.argv[2])
    sys.argv = ["recell", *sys.argv[sys.argv.index("--") + 1 :]]
    main()
