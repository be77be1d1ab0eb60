"""What breaks during a conversion: a full disk, the database, a controller, the new broker.

recell stops with one sentence, and goes on, or back, once it can. The tests are one story, in order.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recell.journal import Journal
from tests.real.clouds import BACKUP, STATE, TOP, Api, lab, on, recell, report, users, wait_until
from tests.real.test_conversion import picture

pytestmark = [pytest.mark.real, pytest.mark.thorough]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("breakage")
    shutil.copy(TOP / "lab/layouts/split.yaml", directory / "layout.yaml")
    written = {host: on(host, "stat", "-c", "%Y", "/etc/nova/nova.conf").strip() for host in ("ctl1", "ctl2")}
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    recell("plan", directory=directory)
    yield directory
    # Written and put back, it is younger than the processes that read it, though the same.
    for host, mtime in written.items():
        on(host, "touch", "-d", f"@{mtime}", "/etc/nova/nova.conf")


@pytest.fixture(scope="module")
def before(desk: Path) -> dict[str, object]:
    return picture()


def paused_before(step: str, directory: Path) -> None:
    verb = ["resume"] if (directory / "journal.sqlite").exists() else ["apply", *BACKUP]
    recell(*verb, "--pause-before", step, directory=directory, expect=13)


def test_a_controllers_disk_is_full(desk: Path, before: dict[str, object]) -> None:
    paused_before("ctl1/nova-conf", desk)
    written = on("ctl1", "sha256sum", "/etc/nova/nova.conf")
    on("ctl1", "sh", "-c", "dd if=/dev/zero of=/var/tmp/full bs=64k 2>/dev/null || true")
    said = recell("resume", directory=desk, expect=10).stderr
    on("ctl1", "rm", "/var/tmp/full")
    assert "ctl1" in said and "No space left" in said
    assert on("ctl1", "sha256sum", "/etc/nova/nova.conf") == written
    paused_before("ctl2/quiet", desk)


def test_the_database_is_gone(desk: Path) -> None:
    lab("crash", "db1")
    try:
        said = recell("resume", directory=desk, expect=4).stderr
    finally:
        lab("reboot", "db1")
    assert "db1" in said
    wait_until("the database answers", lambda: on("db1", "mariadb", "-e", "SELECT 1"), 60)


def test_a_controller_loses_its_power_in_the_middle_of_a_step(desk: Path, api: Api) -> None:
    going = subprocess.Popen(
        [Path(sys.executable).parent / "recell", "resume", "--dir", str(desk)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def acting() -> bool:
        assert going.poll() is None
        journal = Journal.open(desk / "journal.sqlite", read_only=True)
        try:
            last = journal.last("ctl2/nova-scheduler")
            return last is not None and last.phase == "started"
        finally:
            journal.close()

    wait_until("the scheduler is being moved", acting, 180, every=0.1)
    lab("crash", "ctl2")
    said = going.communicate(timeout=300)[1]
    lab("reboot", "ctl2")
    assert going.returncode == 4 and "ctl2" in said
    recell("resume", directory=desk)
    recell("verify", directory=desk)
    wait_until(
        "every service is up",
        lambda: all(s["state"] == "up" for s in api.call("GET", "/os-services")["services"]),
        120,
    )


def test_back_without_the_new_broker(desk: Path, before: dict[str, object], api: Api) -> None:
    lab("crash", "mq4")
    said = recell("undo", directory=desk, expect=4).stderr
    assert "mq4" in said and "undo --lost mq4" in said
    recell("undo", "--lost", "mq4", directory=desk)
    left = {"mq4"}
    now = picture(without=left)
    assert now == {k: v for k, v in before.items() if k not in left}
    api.delete(api.settle(api.boot("after-the-loss"), "ACTIVE")["id"])
    lab("reboot", "mq4")


def test_there_again_with_the_broker_back(desk: Path, before: dict[str, object]) -> None:
    requests = desk / "requests.jsonl"
    with users(requests, "--boot", "4"):
        recell("apply", *BACKUP, directory=desk)
        recell("undo", directory=desk)
    recell("report", "--of", "undo", "--requests", str(requests), directory=desk)
    found = report(desk / "undo")
    assert found["api"]["failed"] == 0 and found["operations"]["lost"] == 0, found
    assert picture() == before
