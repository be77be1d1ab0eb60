"""Telling a process from another one that got its number later."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

POLL = 0.02  # seconds between two looks at something that has no event to wait for


def start_ticks(stat: str) -> int:
    """The start time (clock ticks since the machine's boot) in the text of /proc/PID/stat."""
    # The second field is the program's name, which may hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def stamp(pid: int) -> str:
    """ "PID TICKS" of a living process. Raises OSError when there is none."""
    return f"{pid} {start_ticks(Path(f'/proc/{pid}/stat').read_text())}\n"


def living(path: Path) -> int | None:
    """The pid in a stamp file while that very process lives (a zombie does not), else None."""
    try:
        pid, ticks = (int(word) for word in path.read_text().split())
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    if stat.rpartition(")")[2].split()[0] in "ZX":
        return None
    return pid if start_ticks(stat) == ticks else None


def wait_until(condition: Callable[[], bool], timeout: float, poll: float = POLL) -> bool:
    """Whether the condition became true within timeout seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll)
    return True
