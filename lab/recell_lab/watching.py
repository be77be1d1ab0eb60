"""Whether nova-compute answers, host by host: as long as it doesn't, nobody can manage its instances.

Each host gets a guest of the administrator's. Once a second somebody asks for that guest's console output,
which nova-api asks nova-compute for and waits: so a request that is sent while nova-compute is away waits in
the broker, and is answered when it is back.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from recell_lab import state
from recell_lab.cloud.rest import Session, request
from recell_lab.cloud.topology import public_url
from recell_lab.errors import LabError

EVERY_S = 1.0
NAME = "watched-"
BOOT_TIMEOUT = 180.0
ANSWER_TIMEOUT = 90.0  # longer than nova-api waits for nova-compute
NEWEST = {"OpenStack-API-Version": "compute 2.90"}


@dataclass(frozen=True)
class Answer:
    """One question to a host's nova-compute. t0: when it was sent (seconds since 1970), dur_s: how long the
    answer took, status: of HTTP, 0 when there was none."""

    t0: float
    dur_s: float
    host: str
    status: int
    why: str = ""

    @property
    def done(self) -> float:
        return self.t0 + self.dur_s


def administrator() -> Session:
    """Of the lab there is."""
    secrets = json.loads((state.STATE_DIR / "secrets.json").read_text())
    return Session("admin", secrets["passwords"]["user_admin"], "admin")


def guests_on(admin: Session, hosts: Sequence[str]) -> dict[str, str]:
    """A guest of the administrator's on each of these hosts, booted where there is none: uuid by host."""
    nova = public_url("nova-api", "/v2.1")

    def mine() -> dict[str, dict[str, Any]]:
        listed = admin.call("GET", f"{nova}/servers/detail", headers=NEWEST)["servers"]
        return {s["name"].removeprefix(NAME): s for s in listed if s["name"].startswith(NAME)}

    there = mine()
    images = admin.call("GET", public_url("glance-api", "/v2/images"))["images"]
    flavors = admin.call("GET", f"{nova}/flavors", headers=NEWEST)["flavors"]
    flavor = next(f["id"] for f in flavors if f["name"] == "m1.tiny")
    for host in hosts:
        if host not in there:
            server = {"name": f"{NAME}{host}", "imageRef": images[0]["id"], "flavorRef": flavor,
                      "networks": "none", "host": host}  # fmt: skip
            admin.call("POST", f"{nova}/servers", {"server": server}, headers=NEWEST)
    deadline = time.monotonic() + BOOT_TIMEOUT
    while True:
        there = mine()
        off = [h for h in hosts if h not in there or there[h]["status"] != "ACTIVE"]
        if not off:
            return {host: str(there[host]["id"]) for host in hosts}
        if time.monotonic() > deadline or any(there.get(h, {}).get("status") == "ERROR" for h in off):
            raise LabError(f"no guest to watch came up on {', '.join(off)}")
        time.sleep(1)


class Watch:
    """Asks until it is told to stop; one thread for each host, one line of a file for each answer."""

    def __init__(self, admin: Session, guests: Mapping[str, str], out: Path) -> None:
        self._admin = admin
        self._guests = dict(guests)
        self._out = out
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def stop(self) -> None:
        """No new question; run() returns when the last ones are answered."""
        self._stop.set()

    def run(self) -> None:
        """Ask until stop()."""
        threads = [threading.Thread(target=self._watch, args=pair) for pair in self._guests.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _watch(self, host: str, uuid: str) -> None:
        while not self._stop.is_set():
            answer = self._ask(host, uuid)
            line = json.dumps(asdict(answer)) + "\n"
            with self._lock, self._out.open("a") as file:
                file.write(line)
            self._stop.wait(EVERY_S)

    def _ask(self, host: str, uuid: str) -> Answer:
        body = json.dumps({"os-getConsoleOutput": {"length": 1}}).encode()
        headers = {**NEWEST, "X-Auth-Token": self._admin.token(), "Content-Type": "application/json"}
        sent, began = time.time(), time.monotonic()
        status, why = 0, ""
        try:
            answer = request(
                "POST",
                public_url("nova-api", f"/v2.1/servers/{uuid}/action"),
                headers=headers,
                body=body,
                timeout=ANSWER_TIMEOUT,
            )
            status = answer.status
            why = "" if status == 200 else answer.body.decode(errors="replace")[:200]
        except (OSError, http.client.HTTPException) as error:
            why = f"{type(error).__name__}: {error}"
        return Answer(sent, round(time.monotonic() - began, 3), host, status, why)


def read_answers(path: Path) -> tuple[Answer, ...]:
    """All answers of a file, in the order in which they were sent; a line that was cut off is left out."""
    found = []
    for line in path.read_text().splitlines():
        with suppress(ValueError, TypeError):
            found.append(Answer(**json.loads(line)))
    return tuple(sorted(found, key=lambda a: a.t0))


def longest_silence(answers: Iterable[Answer], host: str, start: float, end: float) -> float:
    """The longest time (seconds) between two good answers of a host's that came one after the other, of those
    that ended between start and end or were under way then. Raises LabError when there are fewer than two."""
    done = sorted(a.done for a in answers if a.host == host and a.status == 200)
    spans = [b - a for a, b in pairwise(done) if b >= start and a <= end]
    if not spans:
        raise LabError(f"{host} was not watched between {start:.0f} and {end:.0f}")
    return max(spans)


def like_restarts(host: str, waves: Iterable[str], restarts: Iterable[Mapping[str, Any]]) -> list[float]:
    """Silences (seconds) of plain restarts to compare a host with: its own, with as many hosts at once as
    moved with it, or else those of others; only if there are none, such as lost a question.

    waves: those that moved at once, "cmp4,cmp5"; a host of none of them moved alone."""
    together = next((w.count(",") + 1 for w in waves if host in w.split(",")), 1)
    alike = [one for one in restarts if one["together"] == together]
    # A driver that guests are real to takes longer to start than one that plays them. A question that a
    # restart loses blocks its asker for a minute: that tells nothing of the host.
    whole = [one for one in alike if not one["lost"]]
    mine = [one for one in whole if one["host"] == host]
    return [float(one["silence_s"]) for one in mine or whole or alike]
