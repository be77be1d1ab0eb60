"""``api_database: remove`` on a real cloud: cell1's conductors end without the API database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recell.journal import Journal
from recell.probe.record import read_requests
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
    _harmed_as_the_plan_says(tmp_path, report(tmp_path), "forward")
    conf = on("ctl1", "cat", "/etc/nova/nova-cell1.conf")
    assert "nova_api" not in conf
    for host in ("cmp1", "cmp4"):
        assert "disable_group_policy_check_upcall" in on(host, "cat", "/etc/nova/nova.conf")
    exercise(Api(), "without-upcalls")
    with users(tmp_path / "requests-undo.jsonl", "--boot", "4"):
        recell("undo", directory=tmp_path)
    recell("report", "--of", "undo", "--requests", str(tmp_path / "requests-undo.jsonl"), directory=tmp_path)
    _harmed_as_the_plan_says(tmp_path, report(tmp_path / "undo"), "backward")
    assert picture() == before


def _harmed_as_the_plan_says(directory: Path, found: dict[str, Any], direction: str) -> None:
    """Nothing is lost but what was asked of a compute's instances while it restarted, and Nova loses then."""
    journal = Journal.open(directory / "journal.sqlite", read_only=True)
    try:
        entries = [
            e for e in journal.entries() if e.step.endswith("nova-compute") and e.direction == direction
        ]
    finally:
        journal.close()
    begun = {e.step: e.at for e in entries if e.phase == "started"}
    windows = [(begun[e.step] - 15, e.at) for e in entries if e.phase == "finished"]
    assert len(windows) == 4
    name = "requests.jsonl" if direction == "forward" else "requests-undo.jsonl"
    sent = {r.req_id: r.t0 for r in read_requests(directory / name)}
    for lost in found["operations"]["lost_ids"]:
        assert lost["kind"] in ("reboot-hard", "reboot-soft", "stop", "start"), lost
        assert any(begin <= sent[lost["req_id"]] <= end for begin, end in windows), lost
    mended = {**found, "operations": {**found["operations"], "lost": 0}}
    unharmed(mended, "succeeded" if direction == "forward" else "undone")
