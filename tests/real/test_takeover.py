"""Another machine takes a conversion over in its midst; the first one is fenced, by the hosts themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.real.clouds import BACKUP, STATE, TOP, lab, on, recell
from tests.real.test_conversion import picture

pytestmark = [pytest.mark.real, pytest.mark.thorough]


@pytest.fixture
def first(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A conversion that stands before its first controller, on a cloud that is not converted."""
    sql = "SELECT transport_url FROM nova_api.cell_mappings WHERE name = 'cell1'"
    if "{" not in on("db1", "mariadb", "-N", "-e", sql):
        assert not request.config.getoption("--running-cloud"), "this cloud was converted: raise it anew"
        lab("down")
        lab("up", timeout=1200)
    directory = tmp_path / "first"
    directory.mkdir()
    shutil.copy(TOP / "lab/layouts/split.yaml", directory / "layout.yaml")
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=directory)
    recell("plan", directory=directory)
    return directory


def test_the_second_machine_undoes_what_the_first_began(first: Path, tmp_path: Path) -> None:
    before = picture()
    words = (*BACKUP, "--no-measure")
    recell("apply", *words, "--pause-before", "ctl1/drain", directory=first, expect=13)
    old, second = tmp_path / "old", tmp_path / "second"
    shutil.copytree(first, old)
    recell("resume", "--pause-before", "ctl1/super-conductor", directory=first, expect=13)
    assert "runs before" in recell("takeover", directory=old, expect=8).stderr
    # Refused, and the first is fenced all the same: a copy made now stays true.
    assert "taken over" in recell("resume", directory=first, expect=9).stderr
    shutil.copytree(first, second)
    recell("takeover", directory=second)
    assert "taken over" in recell("undo", "--no-measure", directory=first, expect=9).stderr
    recell("undo", "--no-measure", directory=second)
    assert picture() == before
    assert "taken over" in recell("resume", directory=first, expect=9).stderr
    recell("finish", "--yes", directory=second)
    for host in ("ctl1", "ctl2"):
        on(host, "systemctl", "restart", "nova-conductor")
