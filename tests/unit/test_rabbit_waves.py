"""Which clients of RabbitMQ move at the same time, what plans say of it; one answer for several who ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from recell.adapters.dry import DryWorld
from recell.adapters.together import Once, together
from recell.cli import moving
from recell.cli.main import main
from recell.engine import Engine
from recell.errors import BadInput, Unreachable
from recell.journal import Journal
from recell.model.deployment import Deployment, dump_deployment
from recell.model.layout import MovingClients, load_any_layout
from recell.model.plan import Plan, dump_plan, load_plan
from recell.model.step import Truth
from recell.planning import runbook
from recell.planning.rabbit import plan_rabbit
from recell.steps import Context, bind
from tests.sim.desk import LIMITS
from tests.sim.rabbit_nova import TEXT, build_nova, scan_nova
from tests.sim.test_bridge import scan_fresh
from tests.sim.test_rabbit import layout
from tests.sim.test_rabbit_waves import AGENTS_TEXT, MANY, WAVES, agents, world_of
from tests.sim.test_rabbit_waves import planned as planned_in_waves


def many(computes: int) -> Deployment:
    """A Nova with so many computes."""
    found = scan_nova(build_nova())
    names = [f"x{n:04}" for n in range(computes - 2)]
    host = next(h for h in found.hosts if h.name == "cmp1")
    client = next(c for c in found.rabbit_clients if c.host == "cmp1")
    service = next(s for s in found.services if s.host == "cmp1")
    record = next(r for r in found.records if r.host == "cmp1")
    return replace(
        found,
        hosts=(*found.hosts, *(replace(host, name=n) for n in names)),
        rabbit_clients=(
            *found.rabbit_clients,
            *(replace(client, host=n, peer=n, queues=(f"compute.{n}",)) for n in names),
        ),
        services=(*found.services, *(replace(service, host=n, nova_host=n) for n in names)),
        records=(*found.records, *(replace(record, host=n, uuid=f"u-{n}") for n in names)),
    )


def planned(found: Deployment, text: str = TEXT) -> Plan:
    return plan_rabbit(found, layout(text), 0.0)


def waves(plan: Plan) -> list[list[str]]:
    found = [s for s in plan.steps if s.kind == "repoint-wave" and s.acts == "forward"]
    return [[str(m["host"]) for m in s.params["moves"]] for s in found]


@pytest.mark.parametrize(
    ("computes", "sizes"),
    [(2, []), (19, []), (25, [2] * 12 + [1]), (64, [6] * 10 + [4]), (234, [10] * 23 + [4])],
)
def test_unless_it_is_said_a_tenth_moves_at_once_and_ten_at_most(computes: int, sizes: list[int]) -> None:
    plan = planned(many(computes))
    assert [len(w) for w in waves(plan)] == sizes
    moved = [h for w in waves(plan) for h in w] or [
        s.where for s in plan.steps if s.id.endswith("/nova-compute") and s.acts == "forward"
    ]
    assert len(moved) == len(set(moved)) == computes, "each once"


def test_a_thousand_computes_take_a_night_at_most_and_the_plan_says_how_many_at_a_time() -> None:
    found = many(1000)
    plan, alone = planned(found), planned(found, TEXT + "moving: {wave: 1}\n")
    assert load_plan(dump_plan(plan), "plan.json") == plan
    hours = [sum(s.estimate_s for s in p.steps if s.acts != "backward") / 3600 for p in (plan, alone)]
    assert hours[0] < 3 and hours[1] > 16
    said = "nova-compute moves on 1000 hosts, up to 10 at a time, in 100 waves."
    assert any(r.startswith(said) for r in plan.remarks)
    assert not any("at a time" in r for r in alone.remarks)


def test_the_layout_says_how_many_and_what_it_may_not_say() -> None:
    assert waves(planned(many(7), TEXT + "moving: {wave: 3}\n")) == [
        ["cmp1", "cmp2", "x0000"], ["x0001", "x0002", "x0003"], ["x0004"],
    ]  # fmt: skip
    assert waves(planned(many(64), TEXT + "moving: {wave: 1}\n")) == []
    most = int(MovingClients.model_json_schema()["properties"]["wave"]["anyOf"][0]["maximum"])
    beside = 2  # who keeps them up for Nova, and who looks after the bridge
    met = threading.Barrier(most + beside, timeout=30)  # nobody passes until all are there
    together([met.wait] * (most + beside))
    for words, told in (("wave: 17", "moving.wave"), ("max_failures: 1", "moving.max_failures")):
        with pytest.raises(BadInput, match=told):
            load_any_layout(TEXT + f"moving: {{{words}}}\n", "layout.yaml")


def test_who_stands_in_for_others_moves_alone_and_files_are_edited_right_before() -> None:
    plan = planned_in_waves(world_of())
    ids = [s.id for s in plan.steps if s.acts != "backward"]
    at = ids.index("wave1/nova-compute")
    assert ids[at - 3 : at + 4] == [
        "cmp1/nova-compute-url", "cmp2/nova-compute-url", "cmp3/nova-compute-url", "wave1/nova-compute",
        "cmp4/nova-compute-url", "cmp5/nova-compute-url", "wave2/nova-compute",
    ]  # fmt: skip
    assert ids.index("ctl2/nova-conductor") < at < ids.index("web1/nova-api")
    back = [s.id for s in reversed(plan.steps) if s.acts == "backward" and s.id.endswith("-back")]
    assert back[:5] == [
        "ctl1/nova-conductor-back", "ctl2/nova-conductor-back",
        "wave1/nova-compute-back", "wave2/nova-compute-back", "web1/nova-api-back",
    ]  # fmt: skip
    safe = {s.id: s.safe_point for s in plan.steps}
    assert safe["cmp2/nova-compute-url"] == "ctl2/nova-conductor", "a file is edited that no process has read"
    assert safe["wave1/nova-compute"] == "wave1/nova-compute"
    assert "s3cret" not in dump_plan(plan).decode()


def test_agents_of_neutron_move_in_waves_and_its_servers_do_not() -> None:
    plan = plan_rabbit(scan_fresh(agents()), layout(AGENTS_TEXT), 0.0)
    assert waves(plan) == [["net4", "net5", "net6", "net7"]]
    assert "net1/neutron-server" in {s.id for s in plan.steps}
    (step,) = (s for s in plan.steps if s.id == "wave1/neutron-l3-agent")
    assert all("cell" not in m for m in step.params["moves"])
    assert step.notice == "what is sent to them waits some seconds"


def test_the_runbook_names_each_host_of_a_wave() -> None:
    plan = planned_in_waves(world_of())
    for hands in (runbook.forth(plan, lambda s, k: None), runbook.back(plan, lambda s, k: None)):
        mine = [h for h in hands if h.step.startswith("wave1/")]
        assert [h.where for h in mine] == ["cmp1", "cmp2", "cmp3"]
        assert all(h.commands == ("systemctl restart nova-compute",) for h in mine)
        assert all(h.words.startswith("When no instance of the host has a task") for h in mine)


def test_a_rehearsal_sees_every_host_of_a_wave_and_changes_nothing(tmp_path: Path) -> None:
    world = world_of()
    before, plan = world.picture(), planned_in_waves(world)
    pretended = DryWorld(world)
    journal = Journal.create(tmp_path / "journal.sqlite", plan.digest)
    try:
        with journal.writing("rehearse", "forward"):
            context = Context(pretended, journal, plan.id, plan.fingerprints, LIMITS)
            seen = Engine(bind(plan, context), journal).rehearse(guarded=True)
    finally:
        journal.close()
    assert world.picture() == before and world.changes == []
    assert [f.why for _, f in seen if f.truth is Truth.UNKNOWN] == []
    ended = [where for where, what in pretended.record.changes if what.startswith("end nova-compute")]
    assert ended == ["cmp1", "cmp2", "cmp3", "cmp4", "cmp5"]


# -- words of the operator -------------------------------------------------------------------------


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "deployment.json").write_bytes(dump_deployment(scan_nova(build_nova(clients=MANY))))
    (tmp_path / "layout.yaml").write_text(TEXT + WAVES)
    yield tmp_path


def test_so_many_at_once_by_word_of_the_operator(top: Path) -> None:
    done = CliRunner().invoke(main, ["plan", "--dir", str(top), "--wave", "2"])
    assert done.exit_code == 0, done.output
    assert "wave1/nova-compute  (on cmp1)" in done.stdout
    assert "nova-compute on cmp1, cmp2 moves to the new nodes, side by side" in done.stdout
    plan = load_plan((top / "plan.json").read_bytes(), "plan.json")
    assert waves(plan) == [["cmp1", "cmp2"], ["cmp3", "cmp4"], ["cmp5"]]
    assert plan.layout == layout(TEXT + WAVES).digest()
    done = CliRunner().invoke(main, ["plan", "--dir", str(top), "--wave", "17"])
    assert done.exit_code == 3 and "--wave 17: of RabbitMQ's clients at most 16 move at once" in done.output


def test_waves_of_nobody_are_refused(top: Path) -> None:
    found = scan_fresh(agents())
    (top / "deployment.json").write_bytes(dump_deployment(found))
    (top / "layout.yaml").write_text(AGENTS_TEXT.replace("neutron-*@*", "neutron-server@*"))
    done = CliRunner().invoke(main, ["plan", "--dir", str(top), "--wave", "2"])
    assert done.exit_code == 3 and "the layout moves none" in done.output


def test_it_stops_after_so_many_waves_and_knows_no_window() -> None:
    plan = planned_in_waves(world_of())
    assert moving.pauses(plan, None, 1) == ("cmp4/nova-compute-url",)
    assert moving.pauses(plan, None, 2) == ()
    with pytest.raises(BadInput, match="--max-failures is about waves of hosts"):
        moving.words(plan, {"max_failures": 1})


# -- one answer for all ----------------------------------------------------------------------------


class Door:
    """A lock that tells who came to it."""

    def __init__(self) -> None:
        self._lock, self.came = threading.Lock(), threading.Semaphore(0)

    def __enter__(self) -> None:
        self.came.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_who_asks_at_the_same_time_shares_an_answer_that_begins_after_they_asked() -> None:
    asked: list[int] = []
    door, under_way, go_on = Door(), threading.Semaphore(0), threading.Semaphore(0)

    def ask() -> int:
        asked.append(len(asked) + 1)
        number = asked[-1]
        under_way.release()
        assert go_on.acquire(timeout=30)
        return number

    once = Once(ask)
    once._lock = door  # type: ignore[assignment]
    late = threading.Semaphore(0)

    def ask_late() -> int:
        assert late.acquire(timeout=30)
        return once()

    def conduct() -> int:
        assert under_way.acquire(timeout=30)
        late.release(3)
        for _ in range(4):
            assert door.came.acquire(timeout=30)
        go_on.release(2)
        return 0

    acts: list[Callable[[], int]] = [once, conduct, *[ask_late] * 3]
    got = together(acts)
    assert got == [1, 0, 2, 2, 2] and asked == [1, 2], "an answer from before they asked is none"
    go_on.release()
    assert once() == 3, "who asks alone asks anew"


def test_an_error_is_told_to_whoever_asked_and_the_next_one_asks_anew() -> None:
    answers: Iterator[Unreachable | int] = iter([Unreachable("mq1 does not answer", "See there"), 7])

    def ask() -> int:
        found = next(answers)
        if isinstance(found, int):
            return found
        raise found

    once = Once(ask)
    with pytest.raises(Unreachable, match="mq1"):
        once()
    assert once() == 7


def test_a_journal_takes_facts_from_several_threads(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.sqlite", "d")

    def write(step: str) -> None:
        for number in range(20):
            journal.remember(step, str(number), journal.recall(step, str(number - 1), 0) + 1)

    with journal.writing("apply", "forward"):
        together([partial(write, f"cmp{n}") for n in range(8)])
    assert journal.facts() == {(f"cmp{n}", str(i)): i + 1 for n in range(8) for i in range(20)}
    journal.close()


def test_whoever_interrupts_recell_interrupts_the_first_of_several() -> None:
    """And the others have ended before it does."""
    here = threading.current_thread()
    assert [t is here for t in together([threading.current_thread] * 3)] == [True, False, False]
    begun, ended = threading.Event(), threading.Event()

    def interrupted() -> None:
        begun.wait()
        raise KeyboardInterrupt

    def other() -> None:
        begun.set()
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        together([interrupted, other])
    assert ended.is_set()
