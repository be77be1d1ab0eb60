"""What `recell audit` and `recell sync` share: cells v1 opened, rows changed with a record, and undone."""

from __future__ import annotations

import configparser
import contextlib
import errno
import fcntl
import functools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recell.adapters.mysql.changes import write
from recell.adapters.ssh import Fence
from recell.cli.desk import Desk, hosts_of, scan_again, standing, world_of
from recell.discovery.cells_v1 import CellDatabases
from recell.discovery.health_v1 import open_cells
from recell.discovery.looking import Notes
from recell.errors import BadInput, Locked, RecellError, StalePlan, StepFailed, Unsupported
from recell.model.deployment import Deployment
from recell.model.plan import Plan
from recell.model.rowchange import RowChange, dumped, loaded, way_back
from recell.planning.v1 import KIND as CELLS_V1
from recell.planning.v1_child import KIND as ADDS_CHILD

FORMAT = 1
V1_KINDS = (CELLS_V1, ADDS_CHILD)
OPEN = ("applying", "applied")
"""Where a conversion that made cells v1 stands while its hosts are its own."""


@dataclass
class Tree:
    """Cells v1, open: what runs, and the databases. ``notes``: what did not answer."""

    deployment: Deployment
    world: Any
    databases: CellDatabases
    notes: Notes

    def refresh(self) -> None:
        """What the cells know of their neighbours, as it is now."""
        cells = []
        for c in self.deployment.cells:
            found = self.notes.ask(f"the neighbours of cell {c.key}", self.databases.records, c.key)
            cells.append(replace(c, records=tuple(r.shown() for r in found)) if found is not None else c)
        self.deployment = replace(self.deployment, cells=tuple(cells))


@contextlib.contextmanager
def tree_of(desk: Desk, login: tuple[str, str] | None = None) -> Iterator[Tree]:
    """The cells that the last scan found, with their records of neighbours as they are now. Where that scan
    is from before a conversion that made them, or added one, they are looked for anew.

    :raises Unsupported: there are no cells v1.
    """
    deployment = desk.deployment()
    plan, where = conversion_of(desk)
    before = deployment.generation != "v1" or (plan is not None and plan.kind == ADDS_CHILD)
    if before and where in (*OPEN, "finished"):
        deployment = scan_again(deployment, time.time())
    if deployment.generation != "v1":
        raise Unsupported(
            f"{desk.deployment_path} tells of a Nova without cells v1",
            "These two keep cells v1 in order; recell doctor looks at others",
        )
    notes = Notes()
    with world_of(deployment) as world:
        databases = open_cells(world, deployment, notes, login)
        try:
            tree = Tree(deployment, world, databases, notes)
            tree.refresh()
            yield tree
        finally:
            databases.close()


def conversion_of(desk: Desk) -> tuple[Plan | None, str]:
    """The plan of this directory, where it makes cells v1, and where it stands."""
    if not desk.plan_path.exists() or not desk.journal_path.exists():
        return None, ""
    plan = desk.plan()
    return (plan, standing(desk, plan)) if plan.kind in V1_KINDS else (None, "")


def login_of(path: Path | None) -> tuple[str, str] | None:
    """User and password of an option file as MySQL's clients read it. :raises BadInput: it isn't one."""
    if path is None:
        return None
    parser = configparser.RawConfigParser(allow_no_value=True)
    try:
        if path.stat().st_mode & 0o077:
            raise BadInput(f"{path} holds a password and others may read it", f"chmod 600 {path}")
        parser.read_string(path.read_text())
        return parser["client"]["user"].strip("\"'"), parser["client"]["password"].strip("\"'")
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError, AttributeError):
        raise BadInput(
            f"{path} can't be read as an option file with [client], user and password",
            "Write it as MySQL's clients want it",
        ) from None


class Record:
    """The file that says which rows were changed, and how they were. Made with the first of them.

    A line is on disk before the change that it tells of is committed.
    """

    def __init__(self, desk: Desk, verb: str, databases: CellDatabases) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.path = desk.directory / f"{verb}-{stamp}-{uuid.uuid4().hex[:4]}.jsonl"
        self.kept = 0
        places = {}
        for key in databases.keys:
            with contextlib.suppress(RecellError):  # what does not answer is not changed either
                places[key] = list(databases.identity(key))
        self._head = json.dumps({"format": FORMAT, "verb": verb, "at": time.time(), "databases": places})

    def keep(self, changes: Sequence[RowChange]) -> None:
        lines = [] if self.kept else [self._head]
        lines += [json.dumps(dumped(c)) for c in changes]
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                whole = os.fstat(descriptor).st_size
                if os.write(descriptor, data) != len(data):
                    os.ftruncate(descriptor, whole)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BadInput(
                f"{self.path} can't be written: {error.strerror}, and no row is changed without it",
                "Make room or choose another --dir",
            ) from None
        self.kept += len(changes)


def recorded(path: Path) -> tuple[dict[str, list[str]], tuple[RowChange, ...]]:
    """(identity of each cell's database, changes). :raises BadInput: no such record.

    A last line that ends in the middle is of a change that was never committed.
    """
    try:
        lines = path.read_bytes().split(b"\n")
        head, *rest = [json.loads(line) for line in lines[:-1]]
        places = {str(k): [str(w) for w in v] for k, v in head["databases"].items()}
        if head["format"] != FORMAT:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path} is no record of recell audit or recell sync",
                       "Name the file that it said it keeps old values in") from None
    return places, tuple(loaded(line) for line in rest)


@contextlib.contextmanager
def only_writer(desk: Desk, tree: Tree, verb: str) -> Iterator[Callable[[], None]]:
    """The hosts that the databases are reached through are this run's alone; a conversion that is under way
    has them otherwise. Those of this directory's own, which it keeps until finish, stay its. What is yielded
    is to be asked before every change.

    :raises Locked: another recell has them.
    """
    plan, where = conversion_of(desk)
    if where in OPEN and plan is not None:
        with _beside(desk, plan, tree, verb) as permit:
            yield permit
        return
    desk.directory.mkdir(parents=True, exist_ok=True)
    path = desk.directory / "care.json"
    with path.with_name("care.json.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Locked(f"another recell audit or sync changes rows from {desk.directory}",
                         "Wait for its end") from None
        try:
            known = json.loads(path.read_bytes()) if path.exists() else {}
            fence = Fence(str(known.get("id") or uuid.uuid4()), int(known.get("epoch", 0)) + 1,
                          f"recell {verb}")  # fmt: skip
        except (ValueError, AttributeError):
            raise BadInput(f"{path} is broken", "Remove it when no recell runs here") from None
        desk.save(path, json.dumps({"id": fence.journal, "epoch": fence.epoch}).encode())
        hosts = sorted({c.host for c in tree.deployment.cells})
        try:
            tree.world.claim(fence, *hosts)
            yield lambda: tree.world.host(hosts[0]).run(["true"])
        finally:
            # Also of those that were claimed before one of them refused; another's stay its own.
            with contextlib.suppress(RecellError):
                tree.world.release(*hosts)


@contextlib.contextmanager
def _beside(desk: Desk, plan: Plan, tree: Tree, verb: str) -> Iterator[Callable[[], None]]:
    """As the conversion itself, in whose journal the run is noted."""
    journal, hosts = desk.journal(), sorted({c.host for c in tree.deployment.cells})
    try:
        journal.belongs_to(plan.digest)
        with journal.writing(verb.split()[0], "forward") as epoch:
            tree.world.claim(Fence(journal.id, epoch, f"recell {verb}"), *hosts)
            try:
                yield lambda: tree.world.host(hosts[0]).run(["true"])
            finally:
                if others := [h for h in hosts if h not in hosts_of(plan)]:
                    with contextlib.suppress(RecellError):
                        tree.world.release(*others)
    finally:
        journal.close()


def carry_out(
    tree: Tree, changes: Sequence[RowChange], record: Record, permit: Callable[[], None]
) -> tuple[tuple[RowChange, ...], tuple[str, ...]]:
    """All of one cell's, in one transaction; one by one when one of them can't be. (done, why not the others)

    :raises Unreachable, Denied, Locked: at once.
    """

    def batch(some: Sequence[RowChange]) -> tuple[RowChange, ...]:
        def act(cursor: Any) -> tuple[RowChange, ...]:
            done = write(cursor, some)
            if done:
                record.keep(done)
            return done

        permit()
        return tree.databases.change(some[0].cell, act)

    if not changes:
        return (), ()
    try:
        return batch(changes), ()
    except (StalePlan, StepFailed) as error:
        if len(changes) == 1 or any(c.refs for c in changes):
            return (), (error.sentence,)
    done: list[RowChange] = []
    left: list[str] = []
    for change in changes:
        try:
            done += batch([change])
        except (StalePlan, StepFailed) as error:
            left.append(error.sentence)
    return tuple(done), tuple(left)


def undo(desk: Desk, tree: Tree, path: Path, verb: str) -> tuple[int, int, tuple[str, ...]]:
    """(rows put back, rows that were so already, why not the others).

    :raises StalePlan: the record tells of other databases.
    """
    places, changes = recorded(path)
    for key in {c.cell for c in changes}:
        if places.get(key) != list(tree.databases.identity(key)):
            raise StalePlan(f"the database of {key} is not the one that {path.name} tells of",
                            "Scan again with the hosts of that time, or correct the cell's configuration")
    back, same, left = 0, 0, []
    with only_writer(desk, tree, f"{verb} --undo") as permit:
        for change in way_back(changes):
            permit()
            try:
                if tree.databases.change(change.cell, functools.partial(write, changes=[change])):
                    back += 1
                else:
                    same += 1
            except (StalePlan, StepFailed) as error:
                left.append(error.sentence)
    return back, same, tuple(left)
