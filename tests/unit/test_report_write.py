"""report.json has the same keys for every kind of run; report.html stands alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from recell.cli.measuring import _held
from recell.journal import Journal
from recell.model.measure import (
    GuestFigures,
    HoldPart,
    Measurement,
    OperationFigures,
    RowFigures,
    StepRecord,
    TopologyGroup,
    TopologyService,
    UserRequest,
    Window,
)
from recell.report.figures import api_figures
from recell.report.page import headline, render
from recell.report.write import document, write_report

BARE = Measurement("move-hosts", "failed", Window(1000.0, 1100.0), 100.0)


def _full(failing: bool = False) -> Measurement:
    requests = tuple(
        UserRequest(1000 + i, 0.1 + i / 100, "list" if i % 3 else "stop", "GET", "", 200, f"r{i}",
                    not (failing and i == 7), "short: <b>1</b> missing" if i == 7 else "")
        for i in range(100))
    return replace(
        BARE, kind="split", outcome="succeeded", api=api_figures(requests), requests=requests,
        operations=OperationFigures(33, 0, 0), guests=GuestFigures(20, 0, 0),
        rows=RowFigures(5000, 0, (), {"plan": 3, "nova": 9}), freeze_s=1.5,
        steps=(StepRecord("api-1", "Restart nova-api on ctl1", 12.34, 1, "answers 200", 1010.0),
               StepRecord("api-2", "Restart nova-api on ctl2", 0.02, 2, "", 1022.5),
               StepRecord("note", "Write it down", 0.02, 1)),
        topology_before=(
            TopologyGroup("cell1", "mq1", "db1", (TopologyService("api", ("ctl1",)),), ("cmp1",)),),
        topology_after=(TopologyGroup("API level", "mq4", "db1"),),
        versions={"Nova": "33.0.2"}, remarks=("One remark",))


def _keys(value: object) -> object:
    return {k: _keys(v) for k, v in value.items()} if isinstance(value, dict) else None


def test_the_keys_are_those_that_scripts_rely_on() -> None:
    full = document(_full())
    assert {"requests", "failed", "longest_wait_s", "p99_s"} <= set(full["api"])
    assert {"acknowledged", "lost", "duplicated"} <= set(full["operations"])
    assert {"total", "restarted", "missing"} <= set(full["guests"])
    assert {"compared", "differing"} <= set(full["rows"])
    assert {"name", "seconds", "attempts"} <= set(full["steps"][0])
    assert full["outcome"] == "succeeded" and full["freeze_s"] == 1.5
    assert full["duration_s"] == 100.0
    bare = document(BARE)
    assert set(bare) == set(full)
    assert bare["api"] is bare["operations"] is bare["guests"] is bare["rows"] is None
    assert bare["freeze_s"] is None and bare["steps"] == [] and bare["hold"] == []


def test_what_requests_waited_for_is_told(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.sqlite", "d" * 64)
    with journal.writing("apply", "forward"):
        journal.remember("api-1", "held-forward", 9.5)
        assert _held(journal, "forward") == {"freeze_s": 9.5, "hold": ()}
        parts = [{"what": "the last rows arrive", "at_s": 0.12, "seconds": 0.5}]
        journal.remember("switch", "held-forward", 1.25)
        journal.remember("switch", "hold-forward", {"seconds": 0.75, "parts": parts})
        held = _held(journal, "forward")
    assert held == {"freeze_s": 1.25, "hold": (HoldPart("the last rows arrive", 0.12, 0.5),)}
    assert _held(journal, "backward") == {"freeze_s": None, "hold": ()}
    journal.close()
    measured = replace(BARE, **held)
    assert document(measured)["hold"] == parts
    page = render(measured)
    assert "While requests waited (1.25 s at most)" in page and "the last rows arrive" in page


def test_both_files_are_written_whole(tmp_path: Path) -> None:
    data, page = write_report(tmp_path / "demo-out" / "split", _full(failing=True))
    read = json.loads(data.read_text())
    assert read["api"]["failed"] == 1 and read["api"]["failures"][0]["req_id"] == "r7"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in data.parent.iterdir()) == ["report.html", "report.json"]
    write_report(data.parent, _full())
    assert json.loads(data.read_text())["api"]["failed"] == 0


class _Balance(HTMLParser):
    VOID = frozenset({"meta", "br", "path", "rect", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("measurement", [_full(), _full(failing=True), BARE])
def test_the_page_stands_alone(measurement: Measurement) -> None:
    page = render(measurement)
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"(src|href)=|@import|url\(|<script", page)
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_the_page_tells_steps_topology_and_failures() -> None:
    page = render(_full(failing=True))
    for text in ("Restart nova-api on ctl1", "answers 200", "API level", "33.0.2", "One remark",
                 "12.3 s", "✗ bad"):
        assert text in page
    assert "short: &lt;b&gt;1&lt;/b&gt; missing" in page and "<b>1</b> missing" not in page
    assert page.count('class="number"') == 2  # the third step has no time to be drawn at


def test_the_headline_says_what_happened() -> None:
    assert headline(_full()).endswith(
        "none of 100 requests failed, none of 33 operations was lost, no guest was restarted. "
        "The longest request took 1.09 s.")
    assert "but 1 request failed." in headline(_full(failing=True))
    hurt = replace(_full(), guests=GuestFigures(20, 2, 1), rows=RowFigures(10, 1),
                   operations=OperationFigures(5, 1, 2))
    assert headline(hurt).endswith(
        "but 1 operation lost, 2 operations duplicated, 2 guests restarted, 1 guest missing, "
        "1 row changed unexpectedly.")
    assert not hurt.unharmed and _full().unharmed and BARE.unharmed
    assert headline(BARE) == "The run “move-hosts” failed in 1 min 40 s."
