"""A conversion's directory, read again and again while recell and the probe write there.

Read-only. The journal is opened for as long as one look takes, so that its writer never waits for
a page; what can't be read right now is said in a notice, and what was read before stays.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from recell.errors import RecellError
from recell.journal import Entry, Journal, Run
from recell.model.deployment import Deployment, load_deployment
from recell.model.plan import Plan, load_plan
from recell.web.users import GrowingRequests

T = TypeVar("T")
Mark = tuple[int, int, int]  # inode, size, mtime in ns


@dataclass(frozen=True)
class Journaled:
    """What the journal holds. ``progress``: a running step's own figures, by step (see Files)."""

    id: str
    plan: str
    entries: tuple[Entry, ...]
    runs: tuple[Run, ...]
    finished: bool
    alive: bool
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """Everything that the files said at one time. ``notices``: what could not be read, and why."""

    deployment: Deployment | None
    plan: Plan | None
    journal: Journaled | None
    users: GrowingRequests
    notices: tuple[str, ...] = ()


class Files:
    """``deployment.json``, ``plan.json``, ``journal.sqlite`` and the probe's file.

    A step that runs long may keep figures of its own in the journal, as its fact ``progress``:
    ``{"rows": , "rows_per_s": , "lag_s": , "eta_s": }``, each of which may be missing.
    """

    def __init__(self, directory: Path, requests: Path | None = None) -> None:
        self.directory = directory
        self._journal_path = directory / "journal.sqlite"
        self._kept: dict[Path, tuple[Mark | None, Any]] = {}
        self._users = GrowingRequests(requests or directory / "requests.jsonl")
        self._alive = False

    def look(self) -> tuple[Look, bool]:
        """What is there now, and whether it is another thing than at the last look."""
        before = {path: mark for path, (mark, _) in self._kept.items()}
        alive = self._alive
        notices: list[str] = []
        deployment = self._load(self.directory / "deployment.json", _deployment, notices)
        plan = self._load(self.directory / "plan.json", _plan, notices)
        journal = self._load(self._journal_path, _journal, notices)
        if journal is not None:
            self._alive = _alive(journal)
            journal = Journaled(**{**vars(journal), "alive": self._alive})
        try:
            grown = self._users.read_on()
        except OSError as error:
            grown = False
            notices.append(f"{self._users.path.name} can't be read: {error.strerror}")
        if self._users.malformed:
            notices.append(f"{self._users.malformed} lines of {self._users.path.name} are not the probe's")
        changed = (
            grown or alive != self._alive or before != {path: mark for path, (mark, _) in self._kept.items()}
        )
        return Look(deployment, plan, journal, self._users, tuple(notices)), changed or bool(notices)

    def _load(self, path: Path, load: Callable[[Path], T], notices: list[str]) -> T | None:
        """Read again when the file changed. Nothing is kept of a file that is gone."""
        mark = _mark(path)
        was, kept = self._kept.get(path, (None, None))
        if mark is None:
            self._kept[path] = (None, None)
            return None
        if mark == was:
            return kept  # type: ignore[no-any-return]
        try:
            value = load(path)
        except RecellError as error:
            notices.append(str(error))
        except (OSError, sqlite3.Error) as error:
            notices.append(f"{path.name} can't be read: {error}")
        else:
            self._kept[path] = (mark, value)
            return value
        return kept  # type: ignore[no-any-return]


def _mark(path: Path) -> Mark | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _deployment(path: Path) -> Deployment:
    return load_deployment(path.read_bytes(), path.name)


def _plan(path: Path) -> Plan:
    return load_plan(path.read_bytes(), path.name)


def _journal(path: Path) -> Journaled:
    journal = Journal.open(path, read_only=True)
    try:
        entries = journal.entries()
        running = {e.step: e for e in entries if e.phase == "started"}
        for e in entries:
            if e.phase != "started" and running.get(e.step, e).id < e.id:
                running.pop(e.step, None)
        progress = {step: journal.recall(step, "progress") for step in running}
        return Journaled(
            journal.id,
            journal.plan,
            entries,
            journal.runs(),
            journal.finished,
            False,
            {step: value for step, value in progress.items() if isinstance(value, dict)},
        )
    finally:
        journal.close()


def _alive(journal: Journaled) -> bool:
    """Whether the last run's process is there. Of another machine's nothing is known: it is believed."""
    run = journal.runs[-1] if journal.runs else None
    if run is None or run.ended is not None:
        return False
    if run.machine != os.uname().nodename:
        return True
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
