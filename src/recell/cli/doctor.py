"""recell doctor"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from recell.adapters.inventory import read_inventory
from recell.cli.desk import Desk, options, world_of
from recell.cli.output import console
from recell.discovery import scan
from recell.discovery.health import BETWEEN_LOOKS_S, look_at
from recell.discovery.looking import Notes
from recell.doctor import examine, unanswered
from recell.errors import Ailing, BadInput, RecellError, Unchecked
from recell.model.deployment import Address, Deployment
from recell.model.health import SEVERITIES, Diagnosis

_STYLES = {"error": "bold red", "unknown": "magenta", "warning": "yellow", "note": "dim"}


@click.command("doctor", short_help="Say what ails a cloud, cells in mind; changes nothing.")
@options
@click.option(
    "--inventory",
    type=click.Path(path_type=Path),
    help="Ansible inventory (INI or YAML) of every host; without it, the hosts of deployment.json.",
)
@click.option(
    "--watch",
    "between_s",
    type=click.FloatRange(min=0),
    default=BETWEEN_LOOKS_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to watch what moves (queues, builds): it is looked at twice.",
)
def command(directory: Path, as_json: bool, inventory: Path | None, between_s: float) -> None:
    """Look at a cloud's health with cells in mind. Changes nothing, needs no layout and no plan.

    For cells v2, and for cells v1 (Juno to Stein). The inventory may name hosts that run nothing of Nova;
    one that does not answer is said, and the others are looked at.

    Each finding says what, where, why it matters and how to mend it. Errors fail today or at their next
    use; warnings work and are not as they should be; notes are worth knowing; what could not be checked
    is said as unknown.

    \b
    Exit code: 0   no error, every check was made (warnings and notes do not count)
               20  errors were found
               21  no error, but not every check could be made

    \b
    Examples:
      recell doctor --inventory hosts.ini
      recell doctor --inventory hosts.ini --json | jq '.findings[] | select(.severity == "error")'
    """
    hosts = _hosts(Desk(directory), inventory)
    notes = Notes()
    deployment: Deployment | None = None
    try:
        deployment = scan(hosts, time.time(), notes.add)
        with world_of(deployment) as world:
            facts = look_at(world, deployment, notes, between_s)
    except RecellError:
        # Nothing to compare, then; what was silent before may well be why.
        if notes.found:
            _print(unanswered(notes.found), deployment, as_json)
        raise
    found = examine(facts)
    _print(found, deployment, as_json)
    judge(found)


def _print(found: Sequence[Diagnosis], deployment: Deployment | None, as_json: bool) -> None:
    if not as_json:
        show(found)
        return
    counts = Counter(d.severity for d in found)
    content = {
        "nova": deployment.nova_version if deployment else "",
        "cells": deployment.generation if deployment else "",
        "hosts": len(deployment.hosts) if deployment else 0,
        "counts": {s: counts[s] for s in SEVERITIES},
        "findings": [asdict(d) for d in found],
    }
    click.echo(json.dumps(content, indent=1))


def _hosts(desk: Desk, inventory: Path | None) -> Sequence[tuple[str, Address]]:
    if inventory is not None:
        return read_inventory(inventory)
    if not desk.deployment_path.exists():
        raise BadInput(
            f"there is no {desk.deployment_path} to take the hosts from",
            "Name them: recell doctor --inventory FILE",
        )
    return [(h.name, h.address) for h in desk.deployment().hosts]


def show(found: Sequence[Diagnosis]) -> None:
    out = console()
    for d in found:
        out.print(f"{d.severity.upper():<8}", style=_STYLES[d.severity], end="")
        out.print(d.id, markup=False)
        out.print(f"        {d.where}: {d.what}", markup=False)
        out.print(f"        why:  {d.why}", markup=False)
        out.print(f"        mend: {d.mend}", markup=False)
    counts = Counter(d.severity for d in found)
    said = ", ".join(f"{n} {s}{'s' if n > 1 and s != 'unknown' else ''}" for s, n in counts.items())
    out.print(f"{said}." if said else "Healthy: nothing was found.", markup=False)


def judge(found: Sequence[Diagnosis]) -> None:
    """:raises Ailing: an error is among them. :raises Unchecked: only unknowns are."""
    errors = [d.id for d in found if d.severity == "error"]
    unknown = [d.id for d in found if d.severity == "unknown"]
    if errors:
        raise Ailing(f"{len(errors)} errors: {', '.join(errors[:5])}", "Mend each as it says, then ask again")
    if unknown:
        raise Unchecked(
            f"{len(unknown)} checks could not be made: {', '.join(unknown[:5])}",
            "Make them possible, then ask again",
        )
