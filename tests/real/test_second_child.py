"""A second Nova becomes the next child of a real tree of cells v1 and goes again, killed on every step.

The tests of this file are one story, in order, on a cloud of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recell.model.plan import load_plan
from tests.real.clouds import BACKUP, STATE, TOP, lab, on, recell, recell_killed, report, users
from tests.real.killer import MOMENTS
from tests.real.test_conversion import unharmed

OWN_CLOUD = True
pytestmark = [pytest.mark.real, pytest.mark.thorough]


def picture() -> dict[str, str]:
    """What undo must bring back where the next child is made and where the tree stands."""
    words = ("sha256sum /etc/nova/*.conf; stat -c '%n %a %U:%G' /etc/nova/*; ls /etc/systemd/system;"
             " systemctl list-unit-files 'nova-*' --no-legend --plain;"
             " systemctl list-units 'nova-*' --no-legend --plain | awk '{print $1, $3, $4}'")  # fmt: skip
    records = {"db1": "nova", "db2": "nova_api_cell", "db3": "nova"}
    sql = "SELECT name, deleted, transport_url FROM {}.cells ORDER BY id"
    return {host: on(host, "sh", "-c", words) for host in ("api1", "api2", "ctl1", "ctl3", "cmp3")} | {
        host: on(host, "mariadb", "-N", "-e", sql.format(database)) for host, database in records.items()
    }


def planned(directory: Path, inventory: str, layout: str) -> Path:
    directory.mkdir()
    shutil.copy(TOP / "lab/layouts" / layout, directory / "layout.yaml")
    recell("scan", "--inventory", str(STATE / inventory), directory=directory)
    recell("plan", directory=directory)
    recell("check", directory=directory)
    return directory


def killed_on_every_step(directory: Path, direction: str, *begin: str) -> None:
    """Each step at one moment, at the next one's each the next; then to the end."""
    plan = load_plan((directory / "plan.json").read_bytes(), "plan.json")
    other = {"forward": "backward", "backward": "forward"}[direction]
    steps = [s.id for s in plan.steps if s.acts != other]
    if direction == "backward":
        steps.reverse()
    words = begin
    for number, step in enumerate(steps):
        recell_killed(step, MOMENTS[number % len(MOMENTS)], *words, directory=directory)
        words = ("resume",)
    recell("resume", directory=directory)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished tree of one child, a second Nova ready to be the next, and the plan for that."""
    lab("down")
    lab("up", "--nova", "19", "--computes", "2", "--second-child", timeout=1800)
    top = tmp_path_factory.mktemp("second-child")
    tree = planned(top / "tree", "inventory-first.ini", "cells-v1.yaml")
    recell("apply", *BACKUP, directory=tree)
    recell("finish", "--yes", directory=tree)
    lab("second-child")
    yield planned(top / "next", "inventory.ini", "cells-v1-second-child.yaml")
    lab("down")


@pytest.fixture(scope="module")
def before(desk: Path) -> dict[str, str]:
    return picture()


def test_there_killed_on_every_step(desk: Path, before: dict[str, str]) -> None:
    requests = desk / "requests.jsonl"
    with users(requests, "--boot", "10", "--population", "6:8", "--rate", "2"):
        killed_on_every_step(desk, "forward", "apply", *BACKUP)
    recell("report", "--requests", str(requests), directory=desk)
    unharmed(report(desk), "succeeded")
    assert picture() != before


def test_it_is_what_was_wanted(desk: Path) -> None:
    # What nova-cells turned round among users' changes is its own fault, and is mended as docs say.
    recell("audit", "--heal", "--yes", directory=desk)
    recell("verify", directory=desk)


def test_back_killed_on_every_step(desk: Path, before: dict[str, str]) -> None:
    lab("second-child", "--empty")
    requests = desk / "requests-undo.jsonl"
    with users(requests, "--population", "0:0", "--change-share", "0", "--rate", "2"):
        killed_on_every_step(desk, "backward", "undo")
    recell("report", "--of", "undo", "--requests", str(requests), directory=desk)
    found = report(desk / "undo")
    assert found["outcome"] == "undone" and found["api"]["failed"] == 0 < found["api"]["requests"]
    assert found["guests"]["restarted"] == found["guests"]["missing"] == 0 < found["guests"]["total"]
    assert found["rows"]["differing"] == 0 < found["rows"]["compared"], found["rows"]["differences"]
    assert picture() == before
