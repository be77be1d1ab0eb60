"""The main job on a real cloud, with users at work: there, with kills; back, with a kill; there again.

The tests of this file are one story, in order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from recell.journal import Journal
from recell.model.plan import load_plan
from tests.real.clouds import (
    BACKUP,
    STATE,
    TOP,
    Api,
    failures,
    lab,
    on,
    recell,
    recell_killed,
    report,
    users,
    wait_until,
)
from tests.real.exercise import exercise, migrate, power, together
from tests.real.killer import MOMENTS

pytestmark = pytest.mark.real

HOSTS = ("lb1", "ctl1", "ctl2", "svc1", "db1", "db2", "mq1", "mq2", "mq3", "mq4", "cmp1", "cmp2", "cmp3",
         "cmp4")  # fmt: skip


@dataclass
class Story:
    """Its files, and what must be found again."""

    directory: Path
    before: dict[str, Any]

    @property
    def requests(self) -> Path:
        return self.directory / "requests.jsonl"


def picture(without: Collection[str] = ()) -> dict[str, Any]:
    """What undo must bring back: files with mode and owner, units, brokers' accounts, mappings.

    ``without``: hosts that are off.
    """
    out: dict[str, Any] = {}
    for host in ("ctl1", "ctl2", "cmp1"):
        out[host] = on(
            host,
            "sh",
            "-c",
            "sha256sum /etc/nova/*; stat -c '%n %a %U:%G' /etc/nova/*;"
            " ls /etc/systemd/system /etc/systemd/system/*.d 2>/dev/null | grep -v recell || true;"
            " systemctl list-unit-files 'nova-*' --no-legend --plain;"
            " systemctl list-units 'nova-*' --no-legend --plain | awk '{print $1, $3, $4}'",
        )
    if "mq4" not in without:
        out["mq4"] = on("mq4", "sh", "-c", "rabbitmqctl -q list_users; rabbitmqctl -q list_permissions")
    sql = (
        "SELECT uuid, name, transport_url, database_connection FROM nova_api.cell_mappings ORDER BY id;"
        "SELECT host, `binary`, uuid FROM nova.services WHERE deleted = 0 ORDER BY 1, 2;"
        "SELECT host, `binary` FROM nova_cell0.services WHERE deleted = 0 ORDER BY 1, 2"
    )
    out["db1"] = on("db1", "mariadb", "-N", "-e", sql)
    return out


def unharmed(found: dict[str, Any], outcome: str) -> None:
    assert found["outcome"] == outcome
    assert found["api"]["failed"] == 0, failures(found)
    assert found["operations"]["lost"] == 0, found["operations"]["lost_ids"]
    assert found["operations"]["duplicated"] == 0, found["operations"]["duplicated_ids"]
    assert found["guests"]["restarted"] == found["guests"]["missing"] == 0, found["guests"]
    # Some thirty rows tell of an instance: that fewer were compared would prove nothing.
    assert found["rows"]["compared"] > 20 * found["guests"]["total"] > 0
    assert found["rows"]["differing"] == 0, found["rows"]["differences"]
    assert found["api"]["requests"] > 100 and found["operations"]["acknowledged"] > 20


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("split")
    shutil.copy(TOP / "lab/layouts/split.yaml", directory / "layout.yaml")
    yield Story(directory, picture())


def test_everything_works_before(story: Story, api: Api) -> None:
    exercise(api, "before")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=story.directory)
    recell("plan", directory=story.directory)
    said = recell("check", directory=story.directory).stdout
    assert said == "Nothing stands in the way.\n"
    dry = recell("apply", "--dry-run", directory=story.directory).stdout
    assert "nothing was changed" in dry and picture() == story.before
    observed = recell("apply", "--observe", directory=story.directory).stdout
    assert "nothing was written" in observed and "BAD" not in observed and picture() == story.before


def test_there_killed_on_the_way_while_users_work(story: Story) -> None:
    d = story.directory
    with users(story.requests, "--boot", "12"):
        paused = recell("apply", *BACKUP, "--pause-before", "ctl1/drain", directory=d, expect=13)
        assert "paused before ctl1/drain" in paused.stderr
        recell_killed("ctl1/nova-conf", "acted", "resume", directory=d)
        recell_killed("ctl1/nova-scheduler", "inside", "resume", directory=d)
        recell_killed("ctl2/nova-api", "started", "resume", directory=d)
        recell_killed("cell1/records", "acted", "resume", directory=d)
        recell("resume", directory=d)
    recell("report", "--requests", str(story.requests), directory=d)
    unharmed(report(d), "succeeded")
    assert (d / "report.html").stat().st_size > 10_000


def test_it_is_what_was_wanted(story: Story, api: Api) -> None:
    recell("verify", directory=story.directory)
    again = recell("apply", "--no-measure", directory=story.directory)
    assert "Done" in again.stdout
    health = json.loads(recell("doctor", "--json", directory=story.directory).stdout)["findings"]
    # The cell's conductors and console proxies go on as they were begun: known, and harmless.
    assert {f["id"].partition(":")[0] for f in health} <= {"prepared"}, health
    exercise(api, "after")
    api_clients = on("mq4", "rabbitmqctl", "-q", "list_connections", "peer_host")
    assert not {f"10.77.0.5{n}" for n in range(1, 5)} & set(api_clients.split())
    clean(api)
    events = wait_until(
        "notifications go on where they are listened for",
        lambda: on("svc1", "tail", "-n", "50", "/var/log/notification-consumer.log"),
        30,
    )
    assert "compute.instance" in events or "instance." in events


def _all_up(api: Api) -> bool:
    """Right after a reboot the API itself may not answer yet."""
    try:
        return all(s["state"] == "up" for s in api.call("GET", "/os-services")["services"])
    except (AssertionError, httpx2.HTTPError):
        return False


def clean(api: Api) -> None:
    """Nova's own tools find nothing wrong."""
    some = [server["id"] for server in api.call("GET", "/servers?all_tenants=1")["servers"][:3]]
    # Each takes seconds to begin at all: two at a time, one a controller.
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(on, f"ctl{1 + number % 2}", *command)
            for number, command in enumerate((
                ("nova-manage", "cell_v2", "list_cells"),
                ("nova-manage", "cell_v2", "list_hosts"),
                ("nova-status", "upgrade", "check"),
                ("nova-manage", "placement", "audit"),
                *(("nova-manage", "cell_v2", "verify_instance", "--uuid", uuid) for uuid in some),
            ))
        ]
        cells, hosts, *_ = [done.result() for done in asked]
    assert "cell1" in cells
    assert hosts.count("cmp") >= 4
    for service in api.call("GET", "/os-services")["services"]:
        assert service["state"] == "up", service


def test_no_secret_is_where_it_should_not_be(story: Story) -> None:
    secrets = [
        v for v in _strings(json.loads((STATE / "secrets.json").read_text())) if len(v) >= 12 and "/" not in v
    ]
    assert secrets
    for path in story.directory.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [s for s in secrets if s.encode() in data], path
    modes = on("ctl1", "sh", "-c", "find /var/lib/recell -printf '%m %u\\n' | sort -u")
    assert set(modes.split("\n")) <= {"700 root", "600 root", "400 root", ""}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, str):
        yield value


def test_back_killed_on_the_way_while_users_work(story: Story, api: Api) -> None:
    d = story.directory
    requests = d / "requests-undo.jsonl"
    with users(requests, "--boot", "4"):
        recell_killed("ctl2/super-conductor", "inside", "undo", directory=d)
        recell_killed("ctl1/nova-conf", "acted", "resume", directory=d)
        recell("resume", directory=d)
    recell("report", "--of", "undo", "--requests", str(requests), directory=d)
    unharmed(report(d / "undo"), "undone")
    recell("verify", directory=d)
    assert picture() == story.before


def test_there_again_and_every_host_rebooted(story: Story, api: Api) -> None:
    d = story.directory
    recell("apply", directory=d)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(lab, "reboot", host) for host in HOSTS]:
            done.result()
    wait_until(
        "every service is up again",
        lambda: _all_up(api),
        240,
    )
    recell("verify", directory=d)
    together(api, "rebooted", power, migrate)
    clean(api)


def test_finish_closes_the_way_back(story: Story) -> None:
    d = story.directory
    recell("finish", "--yes", directory=d)
    assert "finished" in recell("undo", directory=d, expect=9).stderr
    assert "absent" in on("ctl1", "sh", "-c", "test -e /var/lib/recell/owner && echo there || echo absent")


def _anew(directory: Path) -> list[str]:
    """A fresh cloud and a plan for it; the steps that act on the way there."""
    lab("down")
    lab("up", timeout=1200)
    shutil.copy(TOP / "lab/layouts/split.yaml", directory / "layout.yaml")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    recell("plan", directory=directory)
    plan = load_plan((directory / "plan.json").read_bytes(), "plan.json")
    return [s.id for s in plan.steps if s.acts != "backward"]


def _ended(directory: Path, step: str) -> bool:
    journal = Journal.open(directory / "journal.sqlite", read_only=True)
    try:
        last = journal.last(step)
        return last is not None and last.phase in ("finished", "found")
    finally:
        journal.close()


@pytest.mark.thorough
def test_resumed_after_every_kill(tmp_path: Path) -> None:
    """One conversion, killed at each moment of every step, one after the other."""
    steps = _anew(tmp_path)
    requests = tmp_path / "requests.jsonl"
    kills = 0
    with users(requests, "--boot", "8"):
        for step in steps:
            for moment in MOMENTS:
                words = ["resume"] if kills else ["apply", *BACKUP]
                recell_killed(step, moment, *words, directory=tmp_path)
                kills += 1
                if moment != MOMENTS[-1] and _ended(tmp_path, step):
                    break  # It was found to be done; what comes later never comes.
        recell("resume", directory=tmp_path)
    recell("report", "--of", "apply", "--requests", str(requests), directory=tmp_path)
    unharmed(report(tmp_path), "succeeded")
    assert kills > 4 * len(steps)
    recell("verify", directory=tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("first", range(len(MOMENTS)))
def test_undone_after_a_kill_at_every_step(tmp_path: Path, first: int) -> None:
    """Killed once at every step, each at the moment after the last one's, and undone each time.

    Without users: this is about the end state.
    """
    steps = _anew(tmp_path)
    before = picture()
    for number, step in enumerate(steps):
        moment = MOMENTS[(first + number) % len(MOMENTS)]
        recell_killed(step, moment, "apply", "--no-measure", *BACKUP, directory=tmp_path)
        recell("undo", directory=tmp_path)
        assert picture() == before, (step, moment)
    recell("verify", directory=tmp_path)
    exercise(Api(), "undone")
