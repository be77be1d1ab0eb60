"""The same measurement around different harms: each is reported as what it is, and nothing else.

Needs the lab. Each control takes its own baseline, lets users work, does its harm, ends the users
and counts.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.conf import parse_config
from recell.adapters.inventory import read_inventory
from recell.adapters.nova_db import NovaDatabases
from recell.adapters.ssh import SshHost
from recell.model.measure import UserRequest, Window
from recell.probe.cloud import Answer, Cloud, read_account
from recell.probe.record import read_requests, read_summary
from recell.report.collect import guest_processes
from recell.report.figures import GuestProcess
from recell.report.measure import Figures, take_baseline, take_figures

pytestmark = pytest.mark.real

LAB = Path("/var/lib/recell-lab")
CLOUDS = LAB / "clouds.yaml"
RESIDENTS = 4


@dataclass
class Lab:
    """The lab as the measurement needs it. ``residents``: guests that users only look at."""

    hosts: dict[str, SshHost]
    nova: NovaDatabases
    residents: tuple[str, ...] = ()

    @property
    def computes(self) -> list[SshHost]:
        return [h for name, h in self.hosts.items() if name.startswith("cmp")]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """One request of the project's, beside the users."""
        async def once() -> Answer:
            async with Cloud(read_account("lab-demo", CLOUDS)) as cloud:
                return await cloud.request(method, path, body)

        return asyncio.run(once())

    def server(self, uuid: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/servers/{uuid}")
        return answer.body["server"] if answer.status == 200 else {"status": "DELETED"}

    def wait(self, what: str, done: Callable[[], bool], limit: float = 120) -> None:
        ends = time.monotonic() + limit
        while not done():
            assert time.monotonic() < ends, what
            time.sleep(1)

    def at_rest(self, uuid: str) -> bool:
        server = self.server(uuid)
        return server["status"] == "ACTIVE" and server["OS-EXT-STS:task_state"] is None

    def cell(self, name: str) -> str:
        return next(m.uuid for m in self.nova.mappings() if m.name == name)

    def process(self, uuid: str) -> GuestProcess:
        return guest_processes(self.computes, [uuid])[uuid][0]

    def sql(self, statement: str) -> None:
        done = self.hosts["db1"].run(["mariadb", "nova"], stdin=statement.encode())
        assert done.returncode == 0, done.stderr

    def run(self, host: str, *argv: str) -> None:
        done = self.hosts[host].run(argv, timeout=240)
        assert done.returncode == 0, (argv, done.stderr)

    def service_up(self, host: str) -> bool:
        return any(s.host == host and s.binary == "nova-compute" and s.seconds_since_report < 9
                   for s in self.nova.services(self.cell("cell1")))


@dataclass
class Users:
    """The probe at work, and what is measured around it."""

    lab: Lab
    directory: Path
    options: tuple[str, ...] = ()
    beside: list[UserRequest] = field(default_factory=list)

    def __enter__(self) -> Users:
        self.baseline = take_baseline(self.lab.nova, self.lab.computes, self.directory)
        self.out = self.directory / "load.jsonl"
        self.process = _probe(self.out, "--population", "3:6", *self.options)
        self.lab.wait("users begin", lambda: '"begin"' in self._text(), 60)
        self.start = time.time()
        return self

    def _text(self) -> str:
        assert self.process.poll() is None
        return self.out.read_text() if self.out.exists() else ""

    def work(self, seconds: float) -> None:
        time.sleep(seconds)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(150) == 0
        if kind is None:
            self.figures = self._measure()

    def _measure(self) -> Figures:
        summary = read_summary(self.out)
        assert summary is not None
        print(json.dumps(summary))
        return take_figures(
            self.baseline, [*read_requests(self.out), *self.beside], self.lab.nova,
            self.lab.computes, Window(self.start, time.time()))


def _probe(out: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([
        sys.executable, "-m", "recell.probe", "--cloud", "lab-demo", "--clouds-yaml", str(CLOUDS),
        "--out", str(out), "--rate", "6", *options])


def _harm(figures: Figures) -> dict[str, int]:
    """The figures that are not zero; shown in full when a test fails."""
    assert figures.api and figures.operations
    print(figures.api, figures.operations, figures.guests, figures.rows, sep="\n")
    counts = {
        "failed": figures.api.failed, "lost": figures.operations.lost,
        "duplicated": figures.operations.duplicated, "restarted": figures.guests.restarted,
        "missing": figures.guests.missing, "differing": figures.rows.differing,
    }
    return {name: count for name, count in counts.items() if count}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    hosts = {name: SshHost(name, address)
             for name, address in read_inventory(LAB / "inventory.ini")}
    controller = hosts["ctl1"]
    content = controller.read("/etc/nova/nova.conf")
    assert content is not None
    config = parse_config([("nova.conf", content)])
    nova = NovaDatabases(
        controller, config.get("api_database", "connection"),
        config.get("DEFAULT", "transport_url"), config.get("database", "connection"))
    lab = Lab(hosts, nova)
    out = tmp_path_factory.mktemp("residents") / "load.jsonl"
    booted = _probe(out, "--boot", str(RESIDENTS), "--duration", "0", "--population", "0:0")
    assert booted.wait(300) == 0
    lab.residents = tuple(sorted(_booted(out)))
    assert len(lab.residents) == RESIDENTS
    yield lab
    _delete(lab, set(lab.residents))
    nova.close()
    for host in hosts.values():
        host.close()


@pytest.fixture
def users(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Users]]:
    """Makes users; what they leave behind is deleted after the test."""
    yield lambda *options: Users(lab, tmp_path, options)
    _delete(lab, _booted(tmp_path / "load.jsonl"))


def _booted(out: Path) -> set[str]:
    return {r.instance for r in read_requests(out) if r.kind == "boot" and r.instance}


def _delete(lab: Lab, uuids: set[str]) -> None:
    for uuid in uuids:
        assert lab.ask("DELETE", f"/servers/{uuid}").status in (204, 404)
    lab.wait("deleted", lambda: not uuids & {
        s["id"] for s in lab.ask("GET", "/servers").body["servers"]})


def test_an_undisturbed_minute(users: Callable[..., Users]) -> None:
    with users() as at_work:
        at_work.work(60)
    figures = at_work.figures
    assert _harm(figures) == {}
    assert figures.api and figures.api.requests >= 300
    requests = [r for r in read_requests(at_work.out) if r.phase == "run"]
    assert sum(r.changes for r in requests) >= 0.3 * len(requests)
    assert figures.operations and figures.operations.acknowledged >= 90
    assert figures.guests.total >= RESIDENTS and figures.rows.compared > 60


def test_a_plain_restart_of_nova_api(lab: Lab, users: Callable[..., Users]) -> None:
    with users() as at_work:
        at_work.work(10)
        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(lab.run, host, "systemctl", "restart", "nova-api")
                           for host in ("ctl1", "ctl2")]:
                future.result()
        lab.wait("nova-api answers", lambda: lab.ask("GET", "/servers").status == 200)
        at_work.work(10)
    assert set(_harm(at_work.figures)) == {"failed"}


def test_a_killed_guest_a_restarted_one_and_a_changed_row(lab: Lab, users: Callable[..., Users]) -> None:
    """Three harms in the same minute: each is counted once, as what it is, with its own instance.

    Somebody else reboots the second: for the measured users it was nobody they know of.
    """
    killed, restarted, changed = lab.residents[0], lab.residents[1], lab.residents[3]
    was = lab.nova.query(lab.cell("cell1"), "SELECT display_description AS d FROM instances "
                         "WHERE uuid = %s", (changed,))[0]["d"]
    where = f" WHERE uuid = '{changed}';"
    statement = "UPDATE instances SET updated_at = updated_at, display_description = {}" + where
    with users() as at_work:
        guest = lab.process(killed)
        lab.run(guest.host, "kill", "-9", str(guest.pid))
        lab.sql(statement.format("'changed'"))
        assert lab.ask("POST", f"/servers/{restarted}/action",
                       {"reboot": {"type": "HARD"}}).status == 202
        lab.wait("rebooted", lambda: lab.at_rest(restarted))
        at_work.work(5)
    figures = at_work.figures
    assert _harm(figures) == {"missing": 1, "restarted": 1, "differing": 1}
    assert figures.guests.missing_ids[0]["instance"] == killed
    assert figures.guests.restarted_ids[0]["instance"] == restarted
    assert figures.rows.differences[0]["table"] == "instances"
    lab.sql(statement.format("NULL" if was is None else f"'{was}'"))
    assert lab.ask("POST", f"/servers/{killed}/action", {"reboot": {"type": "HARD"}}).status == 202
    lab.wait("the guest is back", lambda: lab.at_rest(killed))


def test_a_cast_deleted_from_its_queue(lab: Lab, users: Callable[..., Users]) -> None:
    """A reboot, because that is what nova-compute does not take up again by itself when it starts:
    a stop that it finds under way it finishes, and rightly nothing is lost then."""
    victim = lab.residents[2]
    host = lab.process(victim).host
    with users("--change-share", "0") as at_work:
        lab.run(host, "systemctl", "kill", "--signal=SIGKILL", "nova-compute")
        lab.run(host, "systemctl", "stop", "nova-compute")
        asked = time.time()
        answer = lab.ask("POST", f"/servers/{victim}/action", {"reboot": {"type": "SOFT"}})
        assert answer.status == 202
        at_work.beside.append(UserRequest(
            asked, 0.1, "reboot-soft", "POST", victim, 202, answer.req_id, True))
        at_work.work(2)
        lab.run("mq1", "rabbitmqctl", "purge_queue", f"compute.{host}")
        lab.run(host, "systemctl", "start", "nova-compute")
        lab.wait("at rest again", lambda: lab.at_rest(victim))
        lab.wait("nova-compute is up", lambda: lab.service_up(host))
    assert _harm(at_work.figures) == {"lost": 1}
    assert at_work.figures.operations is not None
    assert at_work.figures.operations.lost_ids[0]["req_id"] == answer.req_id
