"""The harness of real RabbitMQ nodes: its words, its counts, and what it looks for at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recell.errors import StepFailed
from recell.journal import Journal
from recell.model.step import Direction
from tests.rabbit.counting import Count, count, harmless, in_a_line
from tests.rabbit.deaths import _of_node, run_and_die
from tests.rabbit.words import ALL, Death, Kill, deaths, parse, points

STEPS = ["rq4/join", "rqb/bserver0", "rabbitmq/part"]


def test_words_of_both_ways() -> None:
    run = parse(
        "mirrored/pause_minority/nodes=1/kill=rabbitmq/part:inside/kill=rq4/join:*/undo/node=undo/bridge@rq2+3:dead"
    )
    assert (run.kind, run.handling, run.nodes, run.fresh) == ("mirrored", "pause_minority", 1, False)
    assert run.forth.kills == [Kill("rabbitmq/part", "inside"), Kill("rq4/join", "*")]
    assert run.back is not None and run.back.deaths == [Death("undo/bridge", "rq2", 3.0, True)]
    assert not run.forth.deaths and not run.back.kills


def test_a_kill_may_be_followed_by_undo() -> None:
    run = parse("classic/ignore/fresh/kill=rabbitmq/bridge:acted:undo/kill=*/*:inside")
    assert run.fresh and run.forth.kills == [Kill("rabbitmq/bridge", "acted", back=True)]
    assert run.back is not None and run.back.kills == [Kill("*/*", "inside")]


def test_a_kill_may_come_late_in_a_step() -> None:
    told = parse("classic/ignore/kill=rabbitmq/part:inside+12.5/kill=rabbitmq/part:inside").forth.kills
    assert [k.after for k in points(told, STEPS)] == [0.3, 12.5]


def test_a_node_may_die_in_every_step_one_after_the_other() -> None:
    told = parse("classic/ignore/node=*/*/node=rabbitmq/part@rq2").forth.deaths
    found = deaths(told, STEPS)
    assert [d.step for d in found] == [*STEPS, "rabbitmq/part"]
    assert [d.alone for d in found] == [True, True, True, False] and found[-1].host == "rq2"


def test_the_control_and_all_that_stood_before() -> None:
    assert parse("control").control and parse("control").kind == "classic"
    assert parse("control/quorum/nodes=1").kind == "quorum" and parse("control/nodes=1").nodes == 1
    for text in (*ALL, "classic/autoheal/fresh/undo", "classic/ignore/restart"):
        assert not parse(text).control
    assert parse("classic/ignore").back is None and parse("classic/ignore/undo").back is not None


@pytest.mark.parametrize(
    "text",
    [
        "classic", "classic/never", "stream/ignore", "classic/ignore/frsh", "classic/ignore/nodes=4",
        "classic/ignore/kill=rq4/join", "classic/ignore/kill=rq4/join:half", "classic/ignore/kill=rq4:inside",
        "classic/ignore/kill=rq4/join@rq5:inside", "classic/ignore/node=rq4/join:gone",
        "classic/ignore/kill=*/*:acted:undo", "classic/ignore/undo/kill=rq4/join:acted:undo",
        "classic/ignore/kill=rq4/join:acted/node=rabbitmq/part", "classic/ignore/kill=rq4/join:acted+3",
        "classic/ignore/kill=rq4/join:inside+soon",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def test_kills_come_in_the_order_of_the_way() -> None:
    told = parse("classic/ignore/kill=rabbitmq/part:acted/kill=rq4/join:acted/kill=rq4/join:*").forth.kills
    found = points(told, STEPS)
    assert [(k.step, k.point) for k in found] == [
        *(("rq4/join", p) for p in ("before", "started", "inside", "acted", "finished")),
        ("rabbitmq/part", "acted"),
    ]
    every = points(parse("classic/ignore/kill=*/*:*").forth.kills, STEPS)
    assert len(every) == 5 * len(STEPS) and [k.step for k in every[::5]] == STEPS
    with pytest.raises(ValueError, match="no step rq9/join"):
        points([Kill("rq9/join", "acted")], STEPS)


LOG = """\
100.000 S a.1 ok 0.010
100.500 RS a.1 aserver0
110.000 S a.2 ok 0.010
111.000 S a.3 ok 0.010
111.500 RS a.3 aserver0
111.600 RS a.3 aserver1
130.000 C a.4 ERR 25.000 MessagingTimeout no answer
140.000 C a.5 ok 0.200
140.000 F a.6 ok 0.001
141.000 S a.7 ok 0.010
141.100 RS a.7 aserver1
112.000 S b.1 ok 0.010
"""


def test_what_was_under_way_while_a_node_was_dead_is_counted_apart(tmp_path: Path) -> None:
    log = tmp_path / "acaller0.log"
    log.write_text(LOG)
    whole = count([log], "a")
    assert (whole.casts, whole.lost, whole.doubled, whole.failed) == (4, 1, 1, 1)
    windows = [(108.0, 120.0)]
    calm, apart = count([log], "a", windows=windows), count([log], "a", windows=windows, inside=True)
    assert (calm.casts, calm.lost, calm.doubled, calm.failed, calm.fanouts_missed) == (2, 0, 0, 0, 1)
    assert (apart.casts, apart.lost, apart.doubled, apart.failed) == (2, 1, 1, 1)
    assert calm.calls + apart.calls == whole.calls and harmless(calm) and not harmless(apart)
    assert count([log], "a", inside=True).casts == 0, "no node was dead"
    assert count([log], "a", 120.0).casts == 3


def test_a_line_says_the_losses() -> None:
    told = Count(10, 3, 1802, 705, 1, 71.0, 2, ())
    assert in_a_line({"b": told}) == (
        "b: 705 of 1,802 casts lost, 1 doubled, 3 calls and casts failed, longest call 71.0 s,"
        " 2 fanouts missed"
    )
    assert not harmless(Count(0, 0, 0, 0, 0, 0.0, 0, ())), "who sent nothing has shown nothing"


def test_what_is_wrong_with_a_node_at_the_end_is_named() -> None:
    good = {
        "members": ["rabbit@rq4"], "running": ["rabbit@rq4"], "partitions": [], "policies": ["ha-all"],
        "users": ["os"], "handling": "autoheal", "plugins": ["rabbitmq_management"],
    }  # fmt: skip
    assert _of_node("rq4", dict(good), ["rabbit@rq4"], "autoheal") == []
    for key, value, words in (
        ("members", ["rabbit@rq1", "rabbit@rq4"], "members are rabbit@rq1"),
        ("running", [], "running are"),
        ("partitions", ["rabbit@rq5"], "partition from rabbit@rq5"),
        ("policies", ["recell-split-0-0-0"], "recell-split-0-0-0"),
        ("users", ["os", "recell-bridge"], "recell-bridge"),
        ("handling", "ignore", "is ignore"),
        ("plugins", ["rabbitmq_shovel"], "shovel plugin"),
    ):
        (wrong,) = _of_node("rq4", {**good, key: value}, ["rabbit@rq4"], "autoheal")
        assert words in wrong


class Story:
    """As the harness's, with one step."""

    def __init__(self, top: Path, fails: bool = False) -> None:
        self.cluster: Any = SimpleNamespace(top=top)
        self.path, self.fails = top / "journal.sqlite", fails
        Journal.create(self.path, "a plan").close()

    def go(self, direction: Direction) -> None:
        journal = Journal.open(self.path)
        with journal.writing("apply", direction):
            journal.append("rq4/join", direction, "started")
            if self.fails:
                raise StepFailed("rq4 does not come up", "Look there")
            journal.append("rq4/join", direction, "finished")

    def phases(self) -> list[str]:
        journal = Journal.open(self.path, read_only=True)
        try:
            return [entry.phase for entry in journal.entries()]
        finally:
            journal.close()


@pytest.mark.parametrize(
    ("point", "left"),
    [("before", []), ("started", ["started"]), ("acted", ["started"]), ("finished", ["started", "finished"])],
)
def test_recell_dies_at_the_point_that_is_named(tmp_path: Path, point: str, left: list[str]) -> None:
    story: Any = Story(tmp_path)
    assert run_and_die(story, "forward", Kill("rq4/join", point))
    assert story.phases() == left


def test_a_run_that_does_not_come_to_the_point_tells_how_it_ended(tmp_path: Path) -> None:
    story: Any = Story(tmp_path)
    assert not run_and_die(story, "forward", Kill("rq5/join", "acted"))
    assert story.phases() == ["started", "finished"]
    (tmp_path / "other").mkdir()
    failing: Any = Story(tmp_path / "other", fails=True)
    with pytest.raises(StepFailed, match="rq4 does not come up"):
        run_and_die(failing, "forward", Kill("rq5/join", "acted"))
