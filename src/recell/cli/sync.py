"""recell sync"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from recell.cli.audit import put_back
from recell.cli.care import Record, Tree, carry_out, login_of, only_writer, tree_of
from recell.cli.desk import Desk, options
from recell.cli.output import console
from recell.discovery.sync_v1 import fitted, kept_where, sides
from recell.doctor.rules.cells_v1 import members, uses_neutron
from recell.errors import Ailing, BadInput, Locked, RecellError, Unchecked, Unreachable, Unsupported
from recell.model.cells_v1 import path_of
from recell.model.health import Facts, Moving
from recell.model.rowchange import RowChange, dumped
from recell.planning.sync_v1 import KINDS, Diff, Drift, SyncKind, diff, kinds_of

SHOWN = 20


@dataclass
class Found:
    """Of one child and one kind of rows: what there is to do, and what came of it. ``refused``: why not."""

    cell: str
    kind: str
    diff: Diff = field(default_factory=Diff)
    done: tuple[RowChange, ...] = ()
    refused: tuple[str, ...] = ()


@click.command("sync", short_help="Keep equal what cells v1 don't carry from the API cell to its children.")
@options
@click.option(
    "--watch",
    "every_s",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Again and again, that often, until it is ended.",
)
@click.option("--dry-run", is_flag=True, help="Say what differs and would be written; write nothing.")
@click.option("--delete-extra", is_flag=True, help="End rows that the child alone has, too.")
@click.option(
    "--only", multiple=True, metavar="KIND", help=f"Of {', '.join(k.word for k in KINDS)}; may be repeated."
)
@click.option(
    "--undo", "record", type=click.Path(path_type=Path), metavar="FILE", help="Put back what a run changed."
)
@click.option(
    "--login",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Option file with [client] user and password, to be used instead of Nova's account.",
)
def command(
    directory: Path, as_json: bool, every_s: float | None, dry_run: bool, delete_extra: bool,
    only: tuple[str, ...], record: Path | None, login: Path | None,
) -> None:  # fmt: skip
    """Write into the children of an API cell (cells v1) what it has of flavors, key pairs, server groups,
    aggregates (and with them availability zones) and security groups. nova-cells carries none of these.

    One way: the API cell is the source. Rows are matched by what names them: flavorid, user and name, uuid,
    name, project and name. What was ended in the API cell ends in the child, as Nova does it (the row
    stays). What the child alone has is said, and left without --delete-extra. Where the release keeps
    these in the API database, which all cells share, there is nothing to do, and that is said.

    Old values go to a file first, sync-TIME.jsonl in --dir; --undo FILE puts them back. With --json one
    line for each look.

    \b
    Exit code: 0   the children are as the API cell is (with --dry-run: they were looked at)
               6   the release keeps all of these where the cells share them
               20  some rows can't be made equal; it is said why
               21  a child could not be looked at

    \b
    Examples:
      recell sync --dry-run
      recell sync --watch 60
      recell sync --only flavors --only key-pairs
    """
    desk = Desk(directory)
    wanted = kinds_of(only)
    if record is not None and (dry_run or every_s):
        raise BadInput("--undo goes with neither --dry-run nor --watch", "Choose one")
    with tree_of(desk, login_of(login)) as tree:
        if record is not None:
            put_back(desk, tree, record, "sync", as_json)
            return
        run = _Run(desk, tree, delete_extra, dry_run, as_json)
        with _ended_softly():
            run.choose(wanted, bool(only))
            while True:
                ailing = run.once(steadfast=every_s is not None)
                if every_s is None:
                    break
                tree.world.wait(every_s)
        if ailing is not None:
            raise ailing


@contextmanager
def _ended_softly() -> Iterator[None]:
    """SIGTERM ends a loop as Ctrl-C does: hosts are given back, a transaction is rolled back."""

    def end(signum: int, frame: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    def __init__(self, desk: Desk, tree: Tree, delete_extra: bool, dry_run: bool, as_json: bool) -> None:
        self.desk, self.tree = desk, tree
        self.delete_extra, self.dry_run, self.as_json = delete_extra, dry_run, as_json
        self.kinds: tuple[SyncKind, ...] = ()
        self.record: Record | None = None
        self.said: set[str] = set()
        cells = tree.deployment.cells
        tops = [c.key for c in cells if c.cell_type == "api"]
        if len(tops) != 1:
            raise Unsupported(f"there are {len(tops)} API cells among the hosts of deployment.json",
                              "Scan with the controllers of all cells of one tree")
        self.top = tops[0]
        self.children = [c.key for c in cells if c.cell_type != "api"]
        if not self.children:
            raise Unsupported("there is no child of the API cell among the hosts of deployment.json",
                              "Scan with the controllers of all cells")

    def choose(self, wanted: Sequence[SyncKind], named: bool) -> None:
        """:raises Unsupported: nothing is left to keep equal."""
        chosen, why = [], []
        for kind in wanted:
            kept = kept_where(self.tree.databases, self.top, kind)
            if kept == "shared":
                why.append(f"{kind.word} are in the API database, which the API cell and its children share")
            elif kept == "absent":
                why.append(f"the API cell's database has no table {kind.tables[0].name}")
            elif kind.word == "security-groups" and not named and self._neutron():
                why.append("security-groups are Neutron's (--only security-groups syncs Nova's rows)")
            else:
                chosen.append(kind)
        if not chosen:
            version = self.tree.deployment.nova_version
            raise Unsupported(f"Nova {version} has nothing that its cells keep twice here: {'; '.join(why)}",
                              "There is nothing to keep equal; recell audit compares instances")
        for sentence in why:
            self._say(sentence)
        self.kinds = tuple(chosen)

    def _neutron(self) -> bool:
        empty = Moving(0.0)
        facts = Facts(self.tree.deployment, empty, empty)
        return all(uses_neutron(members(facts, c)) for c in self.tree.deployment.cells
                   if c.key in self.children)  # fmt: skip

    def once(self, *, steadfast: bool) -> RecellError | None:
        """One look at every child. What is wrong afterwards, to be raised by who doesn't look again.

        :raises RecellError: and not ``steadfast``, or it won't go away by itself.
        """
        found, silent = [], []
        for child in self.children:
            try:
                found += [self._one(child, kind) for kind in self.kinds]
            except (Unreachable, Locked) as error:
                if isinstance(error, Locked) and not steadfast:
                    raise
                silent.append(f"{child}: {error.sentence}")
        self._print(found, silent)
        left = [str(d) for f in found for d in f.diff.left] + [s for f in found for s in f.refused]
        if left:
            return Ailing(f"{len(left)} rows can't be made equal: {'; '.join(left[:3])}",
                          "Mend each as it says, then ask again")
        if silent:
            return Unchecked(f"{len(silent)} cells could not be looked at: {'; '.join(silent[:3])}",
                             "Make them reachable, then ask again")
        return None

    def _one(self, child: str, kind: SyncKind) -> Found:
        databases = self.tree.databases
        fit = fitted(databases, self.top, child, kind)
        path = path_of(self.tree.deployment.cells, child)
        now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        source, target = sides(databases, self.top, child, path, fit)
        found = Found(child, kind.word, diff(fit, child, source, target, now, delete_extra=self.delete_extra))
        if found.diff.changes and not self.dry_run:
            if self.record is None:
                self.record = Record(self.desk, "sync", databases)
            with only_writer(self.desk, self.tree, "sync") as permit:
                found.done, found.refused = carry_out(self.tree, found.diff.changes, self.record, permit)
        return found

    def _print(self, found: Sequence[Found], silent: Sequence[str]) -> None:
        if self.as_json:
            click.echo(json.dumps({
                "at": time.time(), "dry_run": self.dry_run, "unreachable": list(silent),
                "record": str(self.record.path) if self.record and self.record.kept else "",
                "cells": [_json(f) for f in found],
            }))  # fmt: skip
            return
        for sentence in silent:
            self._say(sentence, always=True)
        for f in found:
            changes = f.diff.changes if self.dry_run else f.done
            if changes:
                counts = Counter(c.kind for c in changes)
                words = {"insert": "new", "update": "changed", "end": "ended"}
                told = ", ".join(f"{counts[k]} {w}" for k, w in words.items() if counts[k])
                self._say(f"{f.cell} {f.kind}: {told}{' (not written)' if self.dry_run else ''}", always=True)
                for change in changes[:SHOWN]:
                    self._say(f"  {change}", always=True)
                if len(changes) > SHOWN:
                    self._say(f"  and {len(changes) - SHOWN} more", always=True)
            self._drift(f, "left", f.diff.left)
            self._drift(f, "extra", f.diff.extra)
            self._drift(f, "note", f.diff.notes)
            for sentence in f.refused:
                self._say(f"{f.cell} {f.kind}: left  {sentence}")
        if self.record and self.record.kept:
            self._say(f"Old values: {self.record.path}; put back with: recell sync --undo {self.record.path}")
        if not silent and not any(f.diff.changes or f.diff.left for f in found):
            self._say(f"Equal: {', '.join(dict.fromkeys(f.kind for f in found))}"
                      f" of {', '.join(self.children)}")  # fmt: skip

    def _drift(self, f: Found, word: str, drifts: Sequence[Drift]) -> None:
        for drift in drifts[:SHOWN]:
            self._say(f"{f.cell} {f.kind}: {word}  {drift}")
        if len(drifts) > SHOWN:
            self._say(f"{f.cell} {f.kind}: {word}  {len(drifts) - SHOWN} more")

    def _say(self, line: str, *, always: bool = False) -> None:
        """Once only, in a loop that would say it every minute."""
        if self.as_json or (line in self.said and not always):
            return
        self.said.add(line)
        console().print(line, markup=False)


def _json(found: Found) -> dict[str, Any]:
    return {
        "cell": found.cell,
        "kind": found.kind,
        "drift": [dumped(c) for c in found.diff.changes],
        "written": [dumped(c) for c in found.done],
        "refused": list(found.refused),
        **{word: [asdict(d) for d in getattr(found.diff, word)] for word in ("extra", "left", "notes")},
    }
