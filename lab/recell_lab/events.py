"""Neutron's events, posted by a stand-in for it, and their receipts out of nova-compute's own log.

The lab's Neutron has no agents that would wire a port, so nobody of it has anything to tell. What it would
post is posted here, with the account that it has for that, to the nova-api that it would be pointed at. Each
event has a tag of its own. nova-compute waits for none of these, and warns of each by its tag: that is the
receipt.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from recell_lab import lab, state
from recell_lab.cloud import ready
from recell_lab.cloud.rest import Session
from recell_lab.cloud.topology import DATABASE, PORTS, public_url

EVENT = "network-vif-plugged"
ACCEPTED = 200
RECEIPT_S = 30.0
LOGS = "/var/log/nova"
AT_REST = (
    "SELECT host, uuid FROM nova.instances WHERE deleted = 0 AND host IS NOT NULL AND task_state IS NULL"
    " AND vm_state IN ('active', 'stopped') ORDER BY created_at, id"
)


@dataclass(frozen=True)
class Post:
    """One event for an instance on a host. ``to``: which nova-api got it; ``expected``: whether it must reach
    nova-compute; ``code``: what nova-api said of it, 0 for nothing; ``receipt``: nova-compute's line."""

    to: str
    host: str
    instance: str
    tag: str
    expected: bool
    code: int = 0
    receipt: str = ""


def neutron() -> Session:
    """The account in [nova] of neutron.conf."""
    secrets = json.loads((state.STATE_DIR / "secrets.json").read_text())
    return Session("nova", secrets["passwords"]["user_nova"], "service")


def guests() -> dict[str, tuple[str, ...]]:
    """By compute host, out of the cell's database: :func:`oldest_and_newest`."""
    return oldest_and_newest((row[0], row[1]) for row in ready.query(lab.host(DATABASE.name), AT_REST))


def oldest_and_newest(rows: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Of (host, instance) in the order of their birth. One may be from before a conversion and one from after
    it: from Pike on nova-api finds them by their mappings, which are made in other ways."""
    found: dict[str, list[str]] = {}
    for host, instance in rows:
        found.setdefault(host, []).append(instance)
    return {host: tuple(dict.fromkeys((mine[0], mine[-1]))) for host, mine in sorted(found.items())}


def doors(controllers: Mapping[str, str]) -> dict[str, str]:
    """Each controller's own nova-api, by name. controllers: addresses."""
    return {name: f"http://{address}:{PORTS['nova-api']}/v2.1" for name, address in controllers.items()}


def everybody() -> dict[str, str]:
    """Where users are led to."""
    return {"lb1": public_url("nova-api", "/v2.1")}


def post(
    session: Session, urls: Mapping[str, str], wanted: Mapping[str, Sequence[str]], *, expected: bool
) -> list[Post]:
    """One event for each of these instances to each of these nova-apis."""
    out = []
    for to, url in urls.items():
        for host, instances in wanted.items():
            for instance in instances:
                one = Post(to, host, instance, str(uuid.uuid4()), expected)
                event = {"name": EVENT, "server_uuid": instance, "status": "completed", "tag": one.tag}
                out.append(replace(one, code=_said(session, f"{url}/os-server-external-events", event)))
    return out


def _said(session: Session, url: str, event: Mapping[str, str]) -> int:
    try:
        answer = session.call("POST", url, {"events": [event]}, good=(200, 207, 400, 403, 404, 500, 503))
    except (OSError, http.client.HTTPException):
        return 0  # nobody listens there, or a fence stands before it
    said = (answer or {}).get("events") or [{}]
    return int(said[0].get("code") or 0)


def lines_of(host: str, tags: Sequence[str]) -> str:
    """nova-compute's lines on a host that have one of these tags."""
    words = [word for tag in tags for word in ("-e", tag)]
    argv = ["grep", "-rhF", *words, "--include=nova-compute*.log", LOGS]
    return lab.host(host).run(argv, check=False).stdout.decode(errors="replace")


def received(
    posts: Sequence[Post],
    read: Callable[[str, Sequence[str]], str] = lines_of,
    limit_s: float = RECEIPT_S,
) -> list[Post]:
    """With their receipts, once all that are expected are there or the time is over."""
    began = time.monotonic()
    while True:
        texts = {h: read(h, [p.tag for p in posts if p.host == h]) for h in {p.host for p in posts}}
        found = [
            replace(p, receipt=next((x for x in texts[p.host].splitlines() if f"{EVENT}-{p.tag}" in x), ""))
            for p in posts
        ]
        late = [p for p in found if p.expected and p.code == ACCEPTED and not p.receipt]
        if not late or time.monotonic() - began > limit_s:
            return found
        time.sleep(1)


def wrong(posts: Sequence[Post]) -> list[str]:
    """In words."""
    out = []
    for p in posts:
        what = f"an event for {p.instance} on {p.host}, posted to nova-api of {p.to}"
        if p.expected and p.code != ACCEPTED:
            out.append(f"{what}, was refused ({p.code or 'no word'})")
        elif p.expected and not p.receipt:
            out.append(f"{what}, never came to nova-compute")
        elif not p.expected and p.receipt:
            out.append(f"{what}, came to nova-compute though an API cell passes none on")
    return out
