"""Two of four hosts move to a new cell on a real cloud, under users and with kills; back; and what fails.

The tests of this file are one story, in order, on a cloud of their own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from recell_lab import proof, state, watching
from recell_lab.cloud.topology import Cloud, public_url
from tests.real.clouds import (
    BACKUP,
    STATE,
    TOP,
    Api,
    lab,
    on,
    recell,
    recell_killed,
    report,
    users,
    wait_until,
)
from tests.real.exercise import exercise
from tests.real.test_conversion import picture, unharmed

pytestmark = [pytest.mark.real, pytest.mark.thorough]

MOVED = ("cmp3", "cmp4")
AIMED = ("--population", "10:14", "--aim", ",".join(MOVED), "--aim-share", "0.6")
STEP_FAILED = 10


@dataclass
class Story:
    """Its files, and what must be found again."""

    directory: Path
    before: dict[str, Any]
    placement: dict[str, Any]


def prepared(directory: Path, layout: str) -> None:
    directory.mkdir(exist_ok=True)
    text = (TOP / f"lab/layouts/{layout}.yaml").read_text()
    # One that doesn't come up shall not be waited for longer than a slow machine needs.
    (directory / "layout.yaml").write_text(text + "limits: {start_s: 120}\n")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    recell("plan", directory=directory)
    recell("check", directory=directory)


def everything() -> dict[str, Any]:
    """What undo must bring back, the cells' hosts and both of the new cell's servers too."""
    found = picture()
    for host in MOVED:
        found[host] = on(host, "sh", "-c", "sha256sum /etc/nova/*; ls -A /etc/systemd/system")
    sql = "SHOW DATABASES; SELECT user, host FROM mysql.user ORDER BY 1, 2"
    found["db2"] = on("db2", "mariadb", "-N", "-e", sql)
    found["mq5"] = on("mq5", "sh", "-c", "rabbitmqctl -q list_users; rabbitmqctl -q list_permissions")
    sql = (
        "SELECT h.host, c.name FROM nova_api.host_mappings h JOIN nova_api.cell_mappings c"
        " ON c.id = h.cell_id ORDER BY 1;"
        " SELECT host, disabled, disabled_reason FROM nova.services WHERE deleted = 0 ORDER BY 1;"
        " SHOW TABLES IN nova; SELECT user, host FROM mysql.user ORDER BY 1, 2"
    )
    found["cells"] = on("db1", "mariadb", "-N", "-e", sql)
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    lab("down")
    lab("up", "--cell-brokers", "1", timeout=1200)
    top = tmp_path_factory.mktemp("hosts")
    split = top / "split"
    split.mkdir()
    shutil.copy(TOP / "lab/layouts/split.yaml", split / "layout.yaml")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=split)
    recell("plan", directory=split)
    recell("apply", "--no-measure", *BACKUP, directory=split)
    recell("finish", "--yes", directory=split)
    prepared(top / "move", "move-two")
    return Story(top / "move", everything(), proof.allocations())


def sound(story: Story, homes: dict[str, str]) -> None:
    """Nova, Placement and both databases agree on who is where, and nothing is left anywhere else."""
    found = proof.homes()
    assert dict(found.hosts) == homes == proof.list_hosts()
    assert proof.strays(found) == []
    assert proof.audit() == ""
    cloud = Cloud.of(str(state.load().facts["nova"]), 2, 4, 1)
    assert found.living and proof.unverified(cloud, found.living) == {}
    now = proof.allocations()
    assert now["providers"] == story.placement["providers"]
    assert proof.allocations_that_differ(story.placement, now, found.living) == []


def in_cells(**moved: str) -> dict[str, str]:
    return {**{f"cmp{n}": "cell1" for n in range(1, 5)}, **moved}


def builds_may_go_everywhere() -> None:
    """nova-compute takes its trait back when it looks the next time, once a minute."""
    url = public_url("placement-api", "/resource_providers?required=COMPUTE_STATUS_DISABLED")

    def closed() -> list[Any]:
        found = watching.administrator().call("GET", url, headers=proof.PLACEMENT)
        return list(found["resource_providers"])

    wait_until("every host is open to builds", lambda: not closed(), 150, every=3)


def serve(api: Api) -> None:
    """Every service is up, and the hosts of this story take an instance and answer for it."""
    for service in api.call("GET", "/os-services")["services"]:
        assert (service["state"], service["status"]) == ("up", "enabled"), service
    builds_may_go_everywhere()
    for host in MOVED:
        uuid = api.boot(f"serves-{host}", availability_zone=f"nova:{host}")
        assert api.settle(uuid, "ACTIVE")["OS-EXT-SRV-ATTR:host"] == host
        api.act(uuid, "os-getConsoleOutput", {"length": 1})
        api.delete(uuid)


def test_there_killed_on_the_way_while_users_work(story: Story) -> None:
    d = story.directory
    requests = d / "requests.jsonl"
    with users(requests, "--boot", "8", *AIMED):
        recell_killed("wave1/leave", "inside", "apply", *BACKUP, directory=d)
        recell_killed("wave1/enter", "acted", "resume", directory=d)
        recell_killed("wave1/flip", "done:reveal", "resume", directory=d)
        recell_killed("wave1/flip", "call:carry", "resume", directory=d)
        recell_killed("wave1/flip", "done:carry", "resume", directory=d)
        recell_killed("wave1/clear", "done:forget", "resume", directory=d)
        recell("resume", directory=d)
    recell("report", "--requests", str(requests), directory=d)
    unharmed(report(d), "succeeded")
    recell("verify", directory=d)


def test_it_is_what_was_wanted(story: Story) -> None:
    sound(story, in_cells(cmp3="cell2", cmp4="cell2"))
    serve(Api())
    exercise(Api(), "moved")
    again = recell("apply", "--no-measure", directory=story.directory)
    assert "Done" in again.stdout


def test_back_killed_on_the_way_while_users_work(story: Story) -> None:
    d = story.directory
    requests = d / "requests-undo.jsonl"
    with users(requests, "--boot", "4", *AIMED):
        recell_killed("wave1/clear", "done:follow", "undo", directory=d)
        recell_killed("wave1/leave", "acted", "resume", directory=d)
        recell_killed("wave1/flip-back", "call:carry", "resume", directory=d)
        recell("resume", directory=d)
    recell("report", "--of", "undo", "--requests", str(requests), directory=d)
    unharmed(report(d / "undo"), "undone")
    recell("verify", directory=d)
    assert everything() == story.before
    sound(story, in_cells())
    serve(Api())


def test_a_compute_that_does_not_come_up_is_taken_back_by_itself(story: Story) -> None:
    d = story.directory.parent / "again"
    prepared(d, "move-two")
    wall = ("OUTPUT", "-p", "tcp", "-d", "10.77.0.45", "--dport", "5672", "-j", "DROP")
    on("cmp4", "iptables", "-I", *wall)
    requests = d / "requests.jsonl"
    with users(requests, "--boot", "4", *AIMED):
        said = recell("apply", *BACKUP, directory=d, expect=STEP_FAILED).stderr
    on("cmp4", "iptables", "-D", *wall)
    assert "wave1 was taken back" in said and "cmp4" in said
    recell("report", "--requests", str(requests), directory=d)
    unharmed(report(d), "failed")
    sound(story, in_cells())
    serve(Api())


def test_undo_between_leave_and_flip(story: Story) -> None:
    """Requests that wait while nova-compute is away in both directions happen, each once."""
    d = story.directory.parent / "again"
    requests = d / "requests-undo.jsonl"
    with users(requests, "--boot", "4", *AIMED):
        recell_killed("wave1/enter", "call:bring_hosts", "resume", directory=d)
        recell("undo", directory=d)
    recell("report", "--of", "undo", "--requests", str(requests), directory=d)
    unharmed(report(d / "undo"), "undone")
    sound(story, in_cells())
    serve(Api())


def test_there_again_and_one_comes_back(story: Story) -> None:
    d = story.directory.parent / "last"
    prepared(d, "move-two")
    recell("apply", "--no-measure", *BACKUP, directory=d)
    recell("finish", "--yes", directory=d)
    back = story.directory.parent / "back"
    prepared(back, "move-back")
    requests = back / "requests.jsonl"
    with users(requests, "--boot", "4", "--population", "10:14", "--aim", "cmp4"):
        recell("apply", *BACKUP, directory=back)
    recell("report", "--requests", str(requests), directory=back)
    unharmed(report(back), "succeeded")
    recell("verify", directory=back)
    sound(story, in_cells(cmp3="cell2"))
    wait_until("all is up", lambda: _up(Api()), 90)


def _up(api: Api) -> bool:
    return all(s["state"] == "up" for s in api.call("GET", "/os-services")["services"])
