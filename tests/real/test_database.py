"""cell1's database on a real cloud: moved with the split under users, killed in the moment, and back.

The tests of this file are one story, in order, on a cloud of their own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recell.journal import Journal
from tests.real.clouds import BACKUP, STATE, TOP, Api, lab, on, recell, recell_killed, report, users
from tests.real.exercise import exercise
from tests.real.test_conversion import clean, picture, unharmed

OWN_CLOUD = True
pytestmark = [pytest.mark.real, pytest.mark.thorough]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab("down")
    lab("up", timeout=1200)
    directory = tmp_path_factory.mktemp("database")
    shutil.copy(TOP / "lab/layouts/database.yaml", directory / "layout.yaml")
    (directory / "before.json").write_text(json.dumps(picture()))
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    recell("plan", directory=directory)
    recell("check", directory=directory)
    return directory


def connected(host: str) -> set[str]:
    """Who has Nova's database open there, but for recell."""
    sql = "SELECT DISTINCT user FROM information_schema.processlist WHERE db = 'nova'"
    return {u for u in on(host, "mariadb", "-N", "-e", sql).split() if not u.startswith("recell_")}


def moment(directory: Path, direction: str) -> float:
    """How long writers waited at the relay, at the longest, as the relay has it."""
    journal = Journal.open(directory / "journal.sqlite", read_only=True)
    try:
        return float(journal.recall("cell1-db/switch", f"held-{direction}"))
    finally:
        journal.close()


def test_there_killed_on_the_way_while_users_work(desk: Path) -> None:
    requests = desk / "requests.jsonl"
    with users(requests, "--boot", "8"):
        recell_killed("cell1-db/follow", "inside", "apply", *BACKUP, directory=desk)
        recell_killed("cell1-db/relay", "acted", "resume", directory=desk)
        recell_killed("cell1-db/switch", "acted", "resume", directory=desk)
        recell("resume", directory=desk)
    recell("report", "--requests", str(requests), directory=desk)
    unharmed(report(desk), "succeeded")
    assert moment(desk, "forward") > 0
    assert connected("db1") == set() and connected("db2") == {"nova"}
    assert on("db1", "sh", "-c", "ls /etc/systemd/system | grep recell-relay || true") == ""


def test_it_is_what_was_wanted(desk: Path, api: Api) -> None:
    recell("verify", directory=desk)
    assert "way back" in recell("status", directory=desk).stdout
    exercise(Api(), "moved")
    clean(Api())


def test_back_while_users_work(desk: Path) -> None:
    requests = desk / "requests-undo.jsonl"
    with users(requests, "--boot", "4"):
        recell_killed("cell1-db/switch", "inside", "undo", directory=desk)
        recell("resume", directory=desk)
    recell("report", "--of", "undo", "--requests", str(requests), directory=desk)
    unharmed(report(desk / "undo"), "undone")
    assert moment(desk, "backward") > 0
    assert connected("db1") == {"nova"}
    assert "nova" not in on("db2", "mariadb", "-N", "-e", "SHOW DATABASES").split()
    sql = "SELECT user FROM mysql.user; SHOW TABLES IN nova"
    assert "recell" not in on("db1", "mariadb", "-N", "-e", sql)
    assert picture() == json.loads((desk / "before.json").read_text())
