"""recell-lab prove-cells."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import click

from recell_lab import lab, proof, state, watching
from recell_lab.cloud.topology import Cloud

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="All findings.")
@click.option("--before", type=_FILE, help="What `recell-lab picture` wrote before.")
@click.option("--hosts", default="", metavar="HOST,...", help="Those that have moved.")
@click.option("--wave", "waves", multiple=True, metavar="HOST,...", help="Of them, those that moved at once.")
@click.option("--report", type=_FILE, help="recell's report.json of the move.")
@click.option("--requests", type=_FILE, help="What users got: the probe's file.")
@click.option("--answers", type=_FILE, help="What watch-hosts wrote.")
@click.option("--plain", type=_FILE, help="What plain-restart wrote.")
def command(
    out: Path,
    before: Path | None,
    hosts: str,
    waves: tuple[str, ...],
    report: Path | None,
    requests: Path | None,
    answers: Path | None,
    plain: Path | None,
) -> None:
    """Ask Nova and Placement whether the cells are as they should be, after hosts have moved.

    Ends with 1 when something is not. With --report, --requests, --answers and --plain: how much of the
    users' work was about hosts that moved, and how long these did not answer.
    """
    moved = [host for host in hosts.split(",") if host]
    found, wrong = _cells(before)
    if before is not None and (was := json.loads(before.read_text())["qemu"]):
        now = proof.qemu(str(state.load().facts["libvirt"]))
        changed = proof.changed_instances(requests) if requests is not None else set()
        differ = proof.qemu_that_differ(was, now, changed)
        kept = sum(list(now.get(uuid, [])) == list(pid) for uuid, pid in was.items())
        asked = sorted({*was} & changed)
        found["qemu"] = {"before": was, "after": now, "same": kept, "changed_by_users": asked}
        wrong += differ
        click.echo(f"QEMU: {kept} of {len(was)} have the process that they had; {len(differ)} have another"
                   " one or none that no user asked for")
    if report is not None:
        window = json.loads(report.read_text())["window"]
        if requests is not None:
            mine, every = proof.share_of_operations(requests, window, found["placed"], moved)
            found["operations"] = {"acknowledged": every, "on_moved_hosts": mine}
            click.echo(f"{mine} of {every} acknowledged operations were about instances of {hosts}")
        if answers is not None:
            told = watching.read_answers(answers)
            found["silence_s"] = {
                host: round(watching.longest_silence(told, host, window["start"], window["end"]), 1)
                for host in moved
            }
            lines = plain.read_text().splitlines() if plain is not None else []
            found["plain_restarts"] = [json.loads(line) for line in lines]
            found["unanswered"] = [
                {"host": a.host, "t0": a.t0, "status": a.status, "why": a.why}
                for a in told
                if a.status != 200 and window["start"] <= a.done <= window["end"]
            ]
            if found["unanswered"]:
                wrong.append(f"{len(found['unanswered'])} questions to nova-compute were not answered")
            _say_silences(found, waves)
    del found["placed"]
    out.write_text(json.dumps({**found, "wrong": wrong}, indent=1))
    for line in wrong:
        click.echo(f"BAD  {line}")
    sys.exit(1 if wrong else 0)


def _cells(before: Path | None) -> tuple[dict[str, Any], list[str]]:
    wrong: list[str] = []
    roles = [host.spec.role for host in lab.all_hosts()]
    cloud = Cloud.of(str(state.load().facts["nova"]), roles.count("controllers"), roles.count("computes"))
    homes, placement = proof.homes(), proof.allocations()
    click.echo(f"{len(homes.living)} instances on {len(homes.hosts)} hosts in {len(homes.rows)} cells")
    if before is not None:
        differing = proof.allocations_that_differ(json.loads(before.read_text()), placement, homes.living)
        wrong += [f"placement: {what}" for what in differing]
        click.echo(f"placement: {len(differing)} allocations differ from before")
    wrong += (found := proof.strays(homes))
    click.echo(f"{len(found)} kinds of rows in a cell that they don't belong to")
    listed = proof.list_hosts()
    if listed != dict(homes.hosts):
        wrong.append(f"nova-manage cell_v2 list_hosts says {listed}, the mappings say {dict(homes.hosts)}")
    cells = sorted(set(listed.values()))
    click.echo("nova-manage cell_v2 list_hosts: "
               + "; ".join(f"{c}: {', '.join(sorted(h for h in listed if listed[h] == c))}" for c in cells))
    if said := proof.audit():
        wrong.append(f"nova-manage placement audit: {said}")
    click.echo(f"nova-manage placement audit: {said or 'clean'}")
    bad = proof.unverified(cloud, homes.living)
    wrong += [f"verify_instance {uuid} ends with {code}" for uuid, code in bad.items()]
    click.echo(f"verify_instance: {len(homes.living) - len(bad)} of {len(homes.living)} are well")
    return {"hosts": listed, "instances": len(homes.living), "placed": homes.placed}, wrong


def _say_silences(found: dict[str, Any], waves: tuple[str, ...]) -> None:
    restarts = found["plain_restarts"]
    for host, silence in found["silence_s"].items():
        said = f"{host} did not answer for {silence:.1f} s"
        # nova-compute asks its conductor for each of its instances when it starts, and users come and go: one
        # restart takes twice what another does.
        if alike := watching.like_restarts(host, waves, restarts):
            usual = median(alike)
            ratio = silence / usual
            found.setdefault("ratio", {})[host] = round(ratio, 2)
            said += f", {ratio:.2f} times the median of {len(alike)} plain restarts ({usual:.1f} s;"
            said += f" {min(alike):.1f} to {max(alike):.1f})"
        click.echo(said)
    if restarts:
        click.echo(f"{sum(one['lost'] for one in restarts)} questions were lost in all plain restarts")
