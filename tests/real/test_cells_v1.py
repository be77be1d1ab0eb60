"""A real Nova of Stein becomes the child of an API cell and back, recell killed while requests wait.

The tests of this file are one story, in order, on a cloud of their own.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.clouds import BACKUP, STATE, TOP, lab, recell, recell_killed, report, users, wait_until
from tests.real.test_conversion import unharmed

OWN_CLOUD = True
pytestmark = [pytest.mark.real, pytest.mark.thorough]

SWITCH = "hold/switch"
HELD, ARMED, FENCED = "after:requests begin to wait", "after:HAProxy is armed", "after:nova-api of"
POPULATION = ("--boot", "12", "--population", "6:8", "--rate", "2")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    lab("down")
    lab("up", "--nova", "19", timeout=1800)
    directory = tmp_path_factory.mktemp("cells-v1")
    shutil.copy(TOP / "lab/layouts/cells-v1.yaml", directory / "layout.yaml")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    recell("plan", directory=directory)
    recell("check", directory=directory)
    yield directory
    lab("down")


def users_go_on(requests: Path) -> None:
    """With recell dead: somebody who asked since is answered."""
    since = time.time()

    def answered() -> bool:
        with requests.open() as file:
            told = [json.loads(line) for line in file if line.endswith("}\n")]
        return any(t.get("t0", 0) > since and t.get("ok") for t in told)

    wait_until("requests go on without recell", answered, 60)


def test_there_killed_in_the_hold(desk: Path) -> None:
    requests = desk / "requests.jsonl"
    with users(requests, *POPULATION):
        recell_killed(SWITCH, HELD, "apply", *BACKUP, directory=desk)
        users_go_on(requests)
        recell_killed(SWITCH, ARMED, "resume", directory=desk)
        users_go_on(requests)
        recell_killed(SWITCH, FENCED, "resume", directory=desk)
        users_go_on(requests)
        recell("resume", directory=desk)
    recell("report", "--requests", str(requests), directory=desk)
    unharmed(report(desk), "succeeded")


def test_it_is_what_was_wanted(desk: Path) -> None:
    recell("verify", directory=desk)
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=desk / "after")
    assert recell("audit", directory=desk / "after").returncode == 0


def test_back_killed_in_the_hold(desk: Path) -> None:
    requests = desk / "requests-undo.jsonl"
    with users(requests, *POPULATION):
        recell_killed(SWITCH, HELD, "undo", directory=desk)
        users_go_on(requests)
        recell_killed(SWITCH, FENCED, "resume", directory=desk)
        users_go_on(requests)
        recell("resume", directory=desk)
    recell("report", "--of", "undo", "--requests", str(requests), directory=desk)
    unharmed(report(desk / "undo"), "undone")
