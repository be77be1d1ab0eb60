"""recell audit"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from recell.cli.care import Record, Tree, carry_out, login_of, only_writer, tree_of, undo
from recell.cli.desk import Desk, options
from recell.cli.doctor import judge, show
from recell.cli.output import console
from recell.discovery.health import BETWEEN_LOOKS_S
from recell.discovery.health_v1 import nulls_of, rows_of
from recell.doctor import audit
from recell.errors import BadInput, StalePlan
from recell.model.cells_v1 import StandingV1
from recell.model.health import SEVERITIES, Diagnosis, Facts, Moving
from recell.model.rowchange import RowChange, dumped
from recell.planning.heal_v1 import Heal, heals
from recell.planning.homes_v1 import in_both

CHUNK = 200
SHOWN = 20


@click.command("audit", short_help="Compare what cells v1 keep twice; mend what can be proven.")
@options
@click.option("--heal", "heal_it", is_flag=True, help="Mend what can be proven, after showing it.")
@click.option("--yes", is_flag=True, help="With --heal: don't ask.")
@click.option(
    "--undo", "record", type=click.Path(path_type=Path), metavar="FILE", help="Put back what a run changed."
)
@click.option(
    "--login",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Option file with [client] user and password, to be used instead of Nova's account.",
)
@click.option(
    "--between",
    "between_s",
    type=click.FloatRange(min=0),
    default=BETWEEN_LOOKS_S,
    show_default=True,
    metavar="SECONDS",
    help="Time between the two looks: what is under way is in one of them only.",
)
def command(
    directory: Path, as_json: bool, heal_it: bool, yes: bool, record: Path | None, login: Path | None,
    between_s: float,
) -> None:  # fmt: skip
    """Compare what cells v1 keep on both sides, instance by instance, and their records of each other.

    Finds instances that one side alone has, a cell_name that is NULL or wrong, states that differ, rows
    that the API cell heard of too late, cells that are their own ancestors, rows with deleted = NULL.
    Cells are those of deployment.json (recell scan). Read-only without --heal.

    --heal writes only what follows from the rows themselves: cell_name where one child alone has the
    instance and every cell answered; the child's states where both rows stand still; deleted = NULL;
    records that contradict the API cell's place at the top. The rest is left, and said why. Old values
    go to a file first, audit-TIME.jsonl in --dir; --undo FILE puts them back where nobody wrote since.

    \b
    Exit code: 0   no error (any more); warnings and notes do not count
               8   --undo: some rows were changed since, and left
               20  errors are left
               21  no error, but not every cell could be looked at

    \b
    Examples:
      recell audit
      recell audit --heal
      recell audit --undo audit-20150519T120000Z-1f2e.jsonl
    """
    desk = Desk(directory)
    if heal_it and not yes and as_json:
        raise BadInput("--heal --json asks nobody", "Add --yes, once you have seen what it says without")
    if record is not None and heal_it:
        raise BadInput("--undo and --heal are opposites", "Choose one")
    with tree_of(desk, login_of(login)) as tree:
        if record is not None:
            put_back(desk, tree, record, "audit", as_json)
            return
        found, healing = _look(tree, between_s)
        if not heal_it:
            _print(found, healing, as_json)
            judge(found)
            return
        if not as_json:
            _print(found, healing, as_json)
        wanted = [c for heal in healing.values() for c in heal.changes]
        if wanted and not yes:
            click.confirm(f"Write {len(wanted)} rows?", abort=True)
            # Minutes may have gone by: what is no longer so is not written.
            again = {_mark(c) for heal in _look(tree, between_s)[1].values() for c in heal.changes}
            wanted = [c for c in wanted if _mark(c) in again]
        done, left, kept = _heal(desk, tree, wanted)
        after, still = _look(tree, between_s) if done or left else (found, healing)
        _print(after, still, as_json, done=done, refused=left, kept=kept)
        judge(after)


def _mark(change: RowChange) -> tuple[str, str, int, str]:
    after = {c: v for c, v in (change.after or {}).items() if c != "deleted_at"}
    return change.cell, change.table, change.id, f"{change.before} {after}"


def _look(tree: Tree, between_s: float) -> tuple[tuple[Diagnosis, ...], dict[str, Heal]]:
    first = _moving(tree)
    if between_s:
        tree.world.wait(between_s)
    second = _moving(tree)
    facts = Facts(
        deployment=tree.deployment,
        first=first,
        second=second,
        unknown=tree.notes.found,
        v1=StandingV1(nulls=nulls_of(tree.databases, tree.notes)),
    )
    found = audit(facts)
    healing = heals(facts, _gone(tree, facts), datetime.now(UTC).replace(tzinfo=None, microsecond=0))
    said = {d.id for d in found}
    return found, {id: heal for id, heal in healing.items() if id in said}


def _moving(tree: Tree) -> Moving:
    return Moving(at=tree.world.clock(), cells=rows_of(tree.databases, tree.notes))


def _gone(tree: Tree, facts: Facts) -> dict[str, frozenset[str]]:
    """Of what one side lacks, what it has deleted."""
    homes = in_both(facts.deployment.cells, facts.first.cells, facts.second.cells)
    if homes is None:
        return {}
    asked = {key: sorted(uuids) for key, uuids in homes.below.items()}
    asked[homes.top] = sorted({u for uuids in homes.above.values() for u in uuids})
    found = {k: tree.notes.ask(f"instances of {k}", tree.databases.gone, k, u) for k, u in asked.items() if u}
    return {k: u for k, u in found.items() if u is not None}


def _heal(
    desk: Desk, tree: Tree, wanted: Sequence[RowChange]
) -> tuple[tuple[RowChange, ...], tuple[str, ...], str]:
    if not wanted:
        return (), (), ""
    record = Record(desk, "audit", tree.databases)
    done: list[RowChange] = []
    left: list[str] = []
    with only_writer(desk, tree, "audit") as permit:
        for batch in _batches(wanted):
            made, refused = carry_out(tree, batch, record, permit)
            done += made
            left += refused
    _read_again(tree, done)
    return tuple(done), tuple(left), str(record.path) if record.kept else ""


def _batches(wanted: Sequence[RowChange]) -> Iterator[Sequence[RowChange]]:
    for place in dict.fromkeys((c.cell, c.table) for c in wanted):
        own = [c for c in wanted if (c.cell, c.table) == place]
        yield from (own[at : at + CHUNK] for at in range(0, len(own), CHUNK))


def _read_again(tree: Tree, done: Sequence[RowChange]) -> None:
    if any(c.table == "cells" for c in done):
        tree.refresh()


def _print(
    found: Sequence[Diagnosis], healing: Mapping[str, Heal], as_json: bool, *,
    done: Sequence[RowChange] | None = None, refused: Sequence[str] = (), kept: str = "",
) -> None:  # fmt: skip
    if as_json:
        counts = Counter(d.severity for d in found)
        content: dict[str, Any] = {
            "counts": {s: counts[s] for s in SEVERITIES},
            "findings": [
                {
                    **asdict(d),
                    "heals": [dumped(c) for c in healing[d.id].changes] if d.id in healing else [],
                    "left": list(healing[d.id].left) if d.id in healing else [],
                }
                for d in found
            ],
        }
        if done is not None:
            content |= {"changed": [dumped(c) for c in done], "refused": list(refused), "record": kept}
        click.echo(json.dumps(content, indent=1))
        return
    out = console()
    if done is not None:
        for change in done[:SHOWN]:
            out.print(f"changed {change}", markup=False)
        if len(done) > SHOWN:
            out.print(f"changed {len(done) - SHOWN} more rows", markup=False)
        for sentence in refused:
            out.print(f"left    {sentence}", markup=False)
        if kept:
            out.print(f"Old values: {kept}; put back with: recell audit --undo {kept}", markup=False)
        out.print("What is left:" if found else "", markup=False)
    show(found)
    if done is not None:
        return
    for heal in healing.values():
        for change in heal.changes[:SHOWN]:
            out.print(f"heal  {change}", markup=False)
        if len(heal.changes) > SHOWN:
            out.print(f"heal  {len(heal.changes) - SHOWN} more rows of {heal.finding}", markup=False)
        for sentence in heal.left[:SHOWN]:
            out.print(f"left  {sentence}", markup=False)
        if len(heal.left) > SHOWN:
            out.print(f"left  {len(heal.left) - SHOWN} more of {heal.finding}", markup=False)


def put_back(desk: Desk, tree: Tree, record: Path, verb: str, as_json: bool) -> None:
    """:raises StalePlan: rows were left."""
    back, same, left = undo(desk, tree, record, verb)
    if as_json:
        click.echo(json.dumps({"back": back, "same": same, "left": list(left)}, indent=1))
    else:
        for sentence in left:
            click.echo(f"left  {sentence}")
        click.echo(f"{back} rows put back, {same} were so already, {len(left)} left")
    if left:
        raise StalePlan(f"{len(left)} rows were changed since and are left", "Each is said above")
