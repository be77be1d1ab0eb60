"""What the page makes of a conversion's files, without a browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from math import ceil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from recell.cli import main
from recell.drawing.groups import topology_groups
from recell.drawing.topology import describe, draw_topology
from recell.drawing.waits import Waits, gathered, pace
from recell.drawing.words import count, esc, hide, natural, seconds
from recell.model.measure import Topology, TopologyGroup, TopologyService, UserRequest
from recell.web.files import Files
from recell.web.story import Story, tell
from recell.web.users import GrowingRequests
from recell.web.view import View, headline
from tests.web.desk import Desk, big, many_steps

MOVED = "ctl1/nova-scheduler"


def story(desk: Desk) -> Story:
    return tell(Files(desk.directory).look()[0])


def where(groups: Topology, role: str) -> dict[str, tuple[str, ...]]:
    return {g.broker: s.hosts for g in groups for s in g.services if s.role == role}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk")


def test_an_empty_directory_has_a_page(tmp_path: Path) -> None:
    view = View(tmp_path)
    page = view.page(view.parts(Files(tmp_path).look()[0]))
    assert "No plan yet" in page


def test_a_service_is_on_its_new_side_once_its_step_has_ended(desk: Desk) -> None:
    new = story(desk)
    assert new.position == "new" and new.now == new.before
    journal = desk.journal()
    with journal.writing("apply", "forward"):
        desk.through(journal, "ctl1/super-conductor")
        journal.append(MOVED, "forward", "started", finding="not done")
        at = story(desk)
        assert where(at.now, "scheduler") == {"mq1, mq2": ("ctl1", "ctl2")}
        moving = [s.moving for g in at.now for s in g.services if s.role == "scheduler"]
        assert moving == [("ctl1",)]
        assert where(at.now, "super-conductor") == {"mq4": ("ctl1",)}
        assert at.current is not None and at.current.step.id == MOVED and at.running
        journal.append(MOVED, "forward", "finished", seconds=1.0, verified="serves")
        assert where(story(desk).now, "scheduler") == {"mq4": ("ctl1",), "mq1, mq2": ("ctl2",)}
        journal.append("ctl1/nova-api", "forward", "failed", why="no answer", word="step-failed")
    with journal.writing("undo", "backward"):
        for step in reversed(desk.plan.steps):
            if journal.last(step.id) is None:
                continue
            if step.acts == "forward":
                journal.append(step.id, "backward", "found", why="acts forward only", verified="")
            else:
                journal.append(step.id, "backward", "started", finding="not done")
                journal.append(step.id, "backward", "finished", seconds=1.0, verified="back")
            if step.id == "ctl1/undo-nova-scheduler":
                break
        back = story(desk)
        assert back.position == "undoing"
        assert where(back.now, "scheduler") == {"mq1, mq2": ("ctl2", "ctl1")} or where(
            back.now, "scheduler"
        ) == {"mq1, mq2": ("ctl1", "ctl2")}
        assert next(s.step.id for s in back.steps) != desk.plan.steps[0].id
        assert all(s.step.acts != "forward" for s in back.steps)


def test_the_end_is_as_planned(desk: Desk) -> None:
    journal = desk.journal()
    with journal.writing("apply", "forward"):
        desk.through(journal, desk.plan.steps[-1].id)
    done = story(desk)
    assert done.position == "applied" and done.now == done.wanted
    assert done.done == len(done.steps) and not done.running and done.eta_at is None
    assert headline(done).text == "Applied"
    assert {s.id for s in done.silent} == {s.id for s in desk.plan.steps if s.acts == "backward"}


def test_a_killed_recell_is_told_from_one_at_work(desk: Desk) -> None:
    script = (
        "import os, sys; from pathlib import Path; from recell.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1]))\n"
        "with journal.writing('apply', 'forward'):\n"
        "    journal.append(sys.argv[2], 'forward', 'started', finding='not done')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    first = desk.plan.steps[0]
    path = desk.journal().path
    subprocess.run([sys.executable, "-c", script, str(path), first.id], check=False)
    dead = story(desk)
    assert dead.current is not None and dead.current.state == "stuck" and not dead.running
    assert "recell is gone" in headline(dead).text and "recell resume" in headline(dead).below


@pytest.mark.parametrize("phase", ["failed", "unknown"])
def test_a_step_that_failed_says_why(desk: Desk, phase: str) -> None:
    journal = desk.journal()
    first = desk.plan.steps[0].id
    with pytest.raises(ValueError), journal.writing("apply", "forward"):
        journal.append(first, "forward", "started", finding="not done")
        journal.append(first, "forward", phase, why="the cell has no row", word="step-failed")  # type: ignore[arg-type]
        raise ValueError
    at = story(desk)
    assert at.current is not None and at.current.state == phase
    assert "Stopped at step 1" in headline(at).text and "the cell has no row" in headline(at).below


def test_the_eta_follows_how_the_estimates_have_held(desk: Desk) -> None:
    journal = desk.journal()
    acting = [s for s in desk.plan.steps if s.acts != "backward"]
    with journal.writing("apply", "forward"):
        for step in acting[:-3]:
            journal.append(step.id, "forward", "started", finding="not done")
            journal.append(step.id, "forward", "finished", seconds=2 * step.estimate_s, verified="ok")
        journal.append(acting[-3].id, "forward", "started", finding="not done")
        at = story(desk)
        assert at.pace == pytest.approx(2.0)
        assert at.current is not None and at.current.began is not None and at.eta_at is not None
        left = at.eta_at - at.current.began
        assert left == pytest.approx(2 * sum(s.estimate_s for s in acting[-3:]))
        journal.remember(acting[-3].id, "progress", {"rows": 1200, "rows_per_s": 40.0, "lag_s": 1.5})
        journal.append(acting[-3].id, "forward", "started", finding="partial")
        assert story(desk).progress["lag_s"] == 1.5
        view = View(desk.directory)
        figures = view.parts(Files(desk.directory).look()[0]).parts["figures"]
        assert "1.50 s" in figures and "40 a second" in figures and "1\u202f200" in figures


def test_another_plan_s_journal_is_not_this_plan_s_story(desk: Desk) -> None:
    journal = desk.journal()
    with journal.writing("apply", "forward"):
        desk.through(journal, desk.plan.steps[0].id)
    Desk(desk.directory, wanted=many_steps())
    assert story(desk).position == "new"


def test_files_that_cannot_be_read_are_named_and_the_rest_is_shown(desk: Desk) -> None:
    files = Files(desk.directory)
    assert files.look()[0].notices == ()
    (desk.directory / "journal.sqlite").write_bytes(b"this is no journal" * 100)
    desk.requests.write_text("nonsense\n")
    look, changed = files.look()
    assert changed and len(look.notices) == 2 and look.plan is not None
    assert "not a journal" in look.notices[0] and "not the probe's" in look.notices[1]


def test_nothing_is_rendered_again_while_the_files_stay(desk: Desk) -> None:
    files = Files(desk.directory)
    assert files.look()[1] is True
    assert files.look()[1] is False
    desk.users(0.1)
    assert files.look()[1] is True


# -- users -------------------------------------------------------------------------------------


def test_the_probe_s_file_is_read_on_from_where_it_ended(desk: Desk) -> None:
    growing = GrowingRequests(desk.requests)
    assert growing.read_on() is False
    desk.users(0.1, 0.2, failed=1, why="<b>short</b>")
    assert growing.read_on() is True
    assert sum(w.requests for w in growing.by_second.values()) == 2
    assert [f.why for f in growing.failures] == ["<b>short</b>"]
    whole = desk.requests.read_bytes()
    with desk.requests.open("ab") as file:
        file.write(whole[:40])  # half a line
    growing.read_on()
    assert sum(w.requests for w in growing.by_second.values()) == 2 and growing.malformed == 0
    with desk.requests.open("ab") as file:
        file.write(whole.splitlines()[0][40:] + b"\n")
    growing.read_on()
    assert sum(w.requests for w in growing.by_second.values()) == 3
    desk.requests.unlink()
    assert growing.read_on() is True and growing.by_second == {}
    desk.users(0.3)
    growing.read_on()
    assert sum(w.requests for w in growing.by_second.values()) == 1


def test_a_file_read_in_pieces_is_as_one_read_whole(desk: Desk) -> None:
    desk.users(*(n / 10 for n in range(1, 30)), failed=3, at=1000.0)
    lines = desk.requests.read_bytes()
    whole = GrowingRequests(desk.requests)
    whole.read_on()
    piecemeal = GrowingRequests(desk.requests)
    desk.requests.write_bytes(b"")
    with desk.requests.open("ab", buffering=0) as file:
        for start in range(0, len(lines), 97):
            file.write(lines[start : start + 97])
            piecemeal.read_on()
    assert piecemeal.by_second == whole.by_second and piecemeal.failures == whole.failures


@given(st.lists(st.floats(min_value=0.001, max_value=120), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_within_two_percent(waits: list[float], share: float) -> None:
    some = Waits()
    for wait in waits:
        some.add(UserRequest(0.0, wait, "list", "GET", "", 200, "", True))
    exact = sorted(waits)[ceil(share * len(waits)) - 1]
    found = some.quantile(share)
    assert found is not None and exact * 0.999 <= found <= exact * 1.021
    assert some.longest == max(waits)


def test_seconds_are_gathered_without_losing_one() -> None:
    by_second = {n: Waits(1, n % 2, 0.1, Counter({3: 1})) for n in range(1000, 2000)}
    width, buckets = gathered(by_second, 1000, 2000, 240)
    assert width == 5 and sum(b.requests for b in buckets.values()) == 1000
    assert sum(b.failed for b in buckets.values()) == 500
    assert pace(100000, 10) == 10000


# -- words and pictures ------------------------------------------------------------------------


def test_hundreds_of_computes_are_a_field_of_squares() -> None:
    groups = topology_groups({
        "groups": [{"name": "cell1", "broker": "mq1", "database": "mysql://n:***@db1/nova",
                    "services": {"compute": [f"cmp{n}" for n in range(1, 413)], "conductor": ["ctl1"]}}]})
    picture = draw_topology(groups, "Before")
    assert "412 computes" in picture and "nova on db1" in picture
    assert len(re.findall(r"M[\d.]+ [\d.]+h5v5", picture)) == 412
    assert float(re.findall(r'viewBox="-1 -1 342 (\d+)"', picture)[0]) < 300
    assert describe(groups).startswith("cell1: RabbitMQ mq1, database nova on db1, conductor on 1 host; 412")
    huge = draw_topology((TopologyGroup("c", "b", "d", (), tuple(f"h{n}" for n in range(4000))),), "x")
    assert "a square stands for 3" in huge and len(re.findall(r"h5v5", huge)) == 1334


def test_hundreds_of_steps_show_how_many_computes_are_through(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "big", big(300), many_steps())
    journal = desk.journal()
    journal._db.execute("PRAGMA synchronous = OFF")
    hosts = {s.where for s in desk.plan.steps if s.where.startswith("cmp")}
    assert len(hosts) == 300
    last = [s.id for s in desk.plan.steps if s.where == "cmp40" and s.acts != "backward"][-1]
    with journal.writing("apply", "forward"):
        desk.through(journal, last)
    at = story(desk)
    through = [g.through for g in at.now if g.computes]
    assert through and 0 < len(through[0]) < 300 and "cmp40" in through[0]
    assert f"300 computes, {len(through[0])} through" in draw_topology(at.now, "Now")


def test_what_comes_from_outside_is_escaped_and_hidden() -> None:
    group = TopologyGroup('<i>"a"', "<b>", "mysql://nova:s3cret@db1/x", (TopologyService("<u>", ("h&",)),))
    picture = draw_topology((group,), "<title>")
    assert "<i>" not in picture and "<b>" not in picture and "<u>" not in picture
    assert "s3cret" not in picture and "s3cret" not in describe((group,))


@pytest.mark.parametrize(
    "text",
    [
        "rabbit://nova:s3cret@mq1:5672/",
        "rabbit://nova:s3cret@mq1:5672,nova:s3cret@mq2:5672//",
        "no answer from mysql+pymysql://nova:s3cret@db1/nova?charset=utf8",
        "https://u:s3cret@[::1]:8774/v2.1",
    ],
)
def test_a_url_s_password_is_never_shown(text: str) -> None:
    assert "s3cret" not in hide(text) and "***" in hide(text)
    assert "s3cret" not in esc(text)
    assert hide(hide(text)) == hide(text)


def test_other_text_stays_as_it_is() -> None:
    for text in ("nova-api/ctl1 UP, 0 inside", "at 05:06:47 UTC", "step ctl1/ready: done", "mail a@b.c"):
        assert hide(text) == text


def test_lengths_are_readable() -> None:
    assert [seconds(v) for v in (None, 0.434, 9.996, 12.06, 99.96, 432.0, 3725.0)] == [
        "–", "0.43 s", "10.0 s", "12.1 s", "1 min 40 s", "7 min 12 s", "1 h 2 min",
    ]
    assert count(12345) == "12\u202f345" and count(None) == "–"
    assert natural(["cmp10", "cmp9", "a", "cmp9b"]) == ["a", "cmp9", "cmp9b", "cmp10"]


def test_a_plan_s_topology_becomes_groups() -> None:
    picture = {"groups": [{"name": "cell1", "broker": "mq1", "database": "mysql://u:***@db1/nova",
                           "services": {"conductor": ["ctl1", "ctl2"], "compute": ["cmp1"]}}]}
    assert topology_groups(picture) == (
        TopologyGroup("cell1", "mq1", "mysql://u:***@db1/nova",
                      (TopologyService("conductor", ("ctl1", "ctl2")),), ("cmp1",)),
    )
    assert topology_groups({}) == ()


# -- the command -------------------------------------------------------------------------------


def test_another_address_must_be_asked_for(desk: Desk) -> None:
    for address in ("0.0.0.0:8640", "[::]:8640", "192.0.2.1:8640"):
        result = CliRunner().invoke(main, ["page", "--dir", str(desk.directory), "--listen", address])
        assert result.exit_code == 3 and "--allow-others" in result.output + result.stderr
    result = CliRunner().invoke(main, ["page", "--dir", str(desk.directory), "--listen", "8640"])
    assert result.exit_code == 3 and "HOST:PORT" in result.output + result.stderr


def test_reading_changes_nothing(desk: Desk) -> None:
    journal = desk.journal()
    with journal.writing("apply", "forward"):
        desk.through(journal, desk.plan.steps[2].id)
    journal.close()
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in desk.directory.iterdir()}
    for path in desk.directory.iterdir():
        os.chmod(path, 0o400)  # noqa: PTH101
    story(desk)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in desk.directory.iterdir()} == before
    assert json.loads((desk.directory / "plan.json").read_text())["digest"] == desk.plan.digest
