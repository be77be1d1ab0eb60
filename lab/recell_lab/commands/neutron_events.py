"""recell-lab neutron-events."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from recell_lab import events, lab
from recell_lab.cloud.rest import Session

TRIES = 3


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="All receipts.")
@click.option("--public", is_flag=True, help="To where users are led: as long as there is no API cell.")
def command(out: Path, public: bool) -> None:
    """Post what Neutron would, and read in nova-compute's own log whether it came.

    To nova-api of each controller itself, where the layout points Neutron at a child of an API cell; one more
    to where users are led, which must not come then. Ends with 1 when anything is not so.
    """
    session = events.neutron()
    for _ in range(TRIES):
        posts = _posts(session, public=public)
        if all(p.code == events.ACCEPTED for p in posts if p.expected):
            break  # else a user may have deleted a guest meanwhile: others are asked about
    found = events.received(posts)
    bad = events.wrong(found)
    if not any(p.expected for p in found):
        bad.append("no guest is at rest on any compute host: nothing was asked")
    out.write_text(json.dumps({"posts": [asdict(p) for p in found], "wrong": bad}, indent=1))
    for to in dict.fromkeys(p.to for p in found):
        mine = [p for p in found if p.to == to]
        accepted, hosts = sum(p.code == events.ACCEPTED for p in mine), {p.host for p in mine if p.receipt}
        click.echo(f"{to}: {len(mine)} events posted, {accepted} accepted,"
                   f" {sum(bool(p.receipt) for p in mine)} received by nova-compute on {len(hosts)} hosts")
    for line in bad:
        click.echo(f"BAD  {line}")
    sys.exit(1 if bad else 0)


def _posts(session: Session, *, public: bool) -> list[events.Post]:
    wanted = events.guests()
    if public:
        return events.post(session, events.everybody(), wanted, expected=True)
    # First, so that it has had the time to come when the others have.
    posts = events.post(session, events.everybody(), wanted, expected=False)
    controllers = {h.spec.name: h.spec.ip for h in lab.all_hosts() if h.spec.role == "controllers"}
    return posts + events.post(session, events.doors(controllers), wanted, expected=True)
