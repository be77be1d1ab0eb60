"""``api_database: remove`` on a real cloud: cell1's conductors end without the API database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.clouds import BACKUP, STATE, TOP, Api, lab, on, recell, report, users
from tests.real.exercise import exercise
from tests.real.test_conversion import picture, unharmed

pytestmark = [pytest.mark.real, pytest.mark.thorough]


def test_there_and_back_under_users(tmp_path: Path) -> None:
    lab("down")
    lab("up", timeout=1200)
    layout = (TOP / "lab/layouts/split.yaml").read_text()
    (tmp_path / "layout.yaml").write_text(layout.replace("api_database: keep", "api_database: remove"))
    recell("scan", "--inventory", str(STATE / "inventory.ini"), directory=tmp_path)
    recell("plan", directory=tmp_path)
    recell("check", directory=tmp_path)
    before = picture()
    with users(tmp_path / "requests.jsonl", "--boot", "8"):
        recell("apply", *BACKUP, directory=tmp_path)
    recell("report", "--requests", str(tmp_path / "requests.jsonl"), directory=tmp_path)
    unharmed(report(tmp_path), "succeeded")
    conf = on("ctl1", "cat", "/etc/nova/nova-cell1.conf")
    assert "nova_api" not in conf
    for host in ("cmp1", "cmp4"):
        assert "disable_group_policy_check_upcall" in on(host, "cat", "/etc/nova/nova.conf")
    exercise(Api(), "without-upcalls")
    with users(tmp_path / "requests-undo.jsonl", "--boot", "4"):
        recell("undo", directory=tmp_path)
    recell("report", "--of", "undo", "--requests", str(tmp_path / "requests-undo.jsonl"), directory=tmp_path)
    unharmed(report(tmp_path / "undo"), "undone")
    assert picture() == before
