"""recell takeover"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from recell.adapters.agent import STATE, TAKEN
from recell.adapters.world import RealWorld
from recell.cli.desk import Desk, hosts_of, options, refuse_if, world_of
from recell.errors import StalePlan
from recell.journal import Journal, position
from recell.model.plan import Plan
from recell.steps import Context, bind

_AFTER = re.compile(r"after epoch (\d+)\Z")
_AGAIN = (
    "Copy the journal again: the other machine can change nothing any more, so the copy stays true; then:"
    " recell takeover"
)


@click.command("takeover", short_help="Go on from another machine; the first one is fenced.")
@options
def command(directory: Path, as_json: bool) -> None:
    """Go on from another machine: this copy of the files takes over, the first machine is fenced.

    Copy the whole directory of the conversion here (or take it from a backup), then run this. First every
    host is told that the journal has a new owner: a recell that still runs elsewhere can change nothing
    from then on, neither there nor in the databases. Then it is proved that this copy knows of all that
    was done; an older copy is refused. Changes nothing else.

    \b
    Afterwards:  recell status, recell resume, recell undo, ... as ever
    """
    desk = Desk(directory)
    plan = desk.plan()
    journal = desk.journal()
    try:
        journal.belongs_to(plan.digest)
        where = position(plan, journal)
        refuse_if(where, ("new", "finished"), "takeover")
        with world_of(desk.deployment()) as world:
            epoch = take(world, desk, plan, journal)
        journal.raise_epoch(epoch)
    finally:
        journal.close()
    if as_json:
        click.echo(json.dumps({"taken": True, "epoch": epoch, "position": where}))
    else:
        click.echo(f"The journal is this machine's now; it stands at: {where}. Go on with: recell status")


def take(world: RealWorld, desk: Desk, plan: Plan, journal: Journal) -> int:
    """Fence the others, then prove that this copy is whole. Returns the epoch that this machine has now.

    :raises Locked: the hosts belong to another journal. :raises StalePlan: the copy is too old.
    """
    hosts = hosts_of(plan)
    owners = {name: owner for name in hosts if (owner := owner_of(world, name))}
    before = max([last_epoch(o) for o in owners.values()], default=0)
    highest = max([int(o["epoch"]) for o in owners.values()] + [journal.epoch])
    epoch = (highest // TAKEN + 1) * TAKEN
    who = f"recell takeover on {os.uname().nodename} after epoch {max(before, 0)}"
    world.claim(desk.fence(journal, epoch, who), *hosts)
    if before > journal.epoch:
        raise StalePlan(
            f"{journal.path} ends {before - journal.epoch} runs before what the hosts have seen", _AGAIN
        )
    missing = sorted(unknown_values(world, plan, journal, hosts))
    if missing:
        raise StalePlan(
            f"{journal.path} does not know of values that were kept on {', '.join(missing)}", _AGAIN
        )
    context = Context(world, journal, plan.id, plan.fingerprints, desk.limits())
    for step in bind(plan, context):
        step.guard("backward")
    return epoch


def owner_of(world: RealWorld, host: str) -> dict[str, Any] | None:
    content = world.host(host).read(f"{STATE}/owner") or world.host(host).read(f"{STATE}/taken")
    return dict(json.loads(content)) if content else None


def last_epoch(owner: dict[str, Any]) -> int:
    """The last epoch in which steps may have run: a takeover that was refused did none."""
    after = _AFTER.search(str(owner.get("who", "")))
    return int(after[1]) if after else int(owner["epoch"])


def unknown_values(world: RealWorld, plan: Plan, journal: Journal, hosts: list[str]) -> Iterator[str]:
    """Hosts that keep a value which the journal has never heard of.

    A step keeps a value and then remembers its name; one that was killed in between is in the journal as
    begun, and will keep it again under the same name.
    """
    known = set(_texts(list(journal.facts().values())))
    open_at = {
        s.where for s in plan.steps if (e := journal.last(s.id)) and e.phase not in ("finished", "found")
    }
    for host in hosts:
        kept = {path.rpartition("/")[2] for path in world.host(host).glob(f"{STATE}/{plan.id}/*")}
        if kept - known and host not in open_at:
            yield host


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
