"""A real cluster of three becomes two under RPC clients on both sides.

Needs root, and the lab's Nova for its oslo.messaging.

pytest tests/rabbit            one combination, undo, and the control
pytest tests/rabbit --thorough every kind of queue under every partition handling
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from recell.errors import StepFailed
from tests.rabbit.cluster import Cluster
from tests.rabbit.control import literal
from tests.rabbit.counting import harmless
from tests.rabbit.story import Story
from tests.rabbit.words import parse

pytestmark = pytest.mark.real

Clusters = Callable[..., Cluster]


def _members(cluster: Cluster, name: str) -> list[str]:
    names = "[atom_to_list(N) || N <- lists:sort(mnesia:system_info(db_nodes))]"
    code = f'io:format("~s~n", [lists:join(" ", {names})]).'
    return cluster.hosts[name].ctl("eval", code).splitlines()[0].split()


@pytest.mark.parametrize(
    ("kind", "handling"),
    [
        ("mirrored", "pause_minority"),
        *(
            pytest.param(kind, handling, marks=pytest.mark.thorough)
            for kind in ("classic", "mirrored", "quorum")
            for handling in ("ignore", "autoheal", "pause_minority")
            if (kind, handling) != ("mirrored", "pause_minority")
        ),
    ],
)
def test_nothing_is_lost(clusters: Clusters, kind: str, handling: str) -> None:
    cluster = clusters(handling)
    story = Story(cluster, kind)
    story.clients_up()
    plan = story.scan_and_plan()
    assert [s.id for s in plan.steps if s.where == "rqb" and s.acts == "forward"][:2] == [
        "rqb/bserver0", "rqb/bserver1"]  # fmt: skip
    story.go("forward")
    story.go("forward")
    time.sleep(5)
    counts = story.clients_down()
    for side, told in counts.items():
        assert told.casts > 50 and (told.lost, told.doubled) == (0, 0), (side, told)
    assert counts["a"].failed == 0, counts["a"]
    for group in (cluster.old, cluster.new):
        for name in group:
            assert _members(cluster, name) == [f"rabbit@{n}" for n in group]
            conf = (cluster.hosts[name].home / "etc/rabbitmq.conf").read_text()
            assert f"cluster_partition_handling = {handling}" in conf and "log.file.level = info" in conf
            rules = cluster.hosts[name].run(["nft", "list", "ruleset"])
            assert "recell_split" not in rules and "table inet recell_apart_rq" in rules


@pytest.mark.parametrize(
    ("kind", "back"),
    [
        ("classic", True),
        pytest.param("mirrored", False, marks=pytest.mark.thorough),
        pytest.param("quorum", False, marks=pytest.mark.thorough),
    ],
)
def test_over_a_bridge(clusters: Clusters, kind: str, back: bool) -> None:
    cluster = clusters("autoheal", fresh=True)
    story = Story(cluster, kind)
    story.clients_up()
    plan = story.scan_and_plan()
    assert plan.kind == "fresh-rabbitmq"
    story.go("forward")
    for group in (cluster.old, cluster.new):
        for name in group:
            assert _members(cluster, name) == [f"rabbit@{n}" for n in group]
            assert "recell-bridge" not in cluster.hosts[name].ctl("list_users")
    if back:
        story.go("backward")
        assert all(_members(cluster, name) == [f"rabbit@{name}"] for name in cluster.new)
    time.sleep(5)
    counts = story.clients_down()
    for side, told in counts.items():
        assert told.casts > 50 and (told.lost, told.doubled) == (0, 0), (side, told)
        assert told.failed == told.fanouts_missed == 0, (side, told)


@pytest.mark.parametrize("after_the_cut", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_undone(clusters: Clusters, after_the_cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = clusters("autoheal")
    story = Story(cluster, "classic")
    before = {
        n: (cluster.hosts[n].home / "etc/rabbitmq.conf").read_text() for n in (*cluster.old, *cluster.new)
    }
    story.clients_up()
    story.scan_and_plan()
    if after_the_cut:
        story.go("forward")
    else:
        with monkeypatch.context() as patched:

            def refuse(*_: object) -> float:
                raise StepFailed("not today")

            patched.setattr("recell.adapters.cutting.cut", refuse)
            with pytest.raises(StepFailed, match="not today"):
                story.go("forward")
    story.go("backward")
    counts = story.clients_down()
    assert counts["a"].lost == counts["a"].failed == 0
    assert after_the_cut or counts["b"].lost == 0
    assert _members(cluster, cluster.old[0]) == [f"rabbit@{n}" for n in cluster.old]
    for name in cluster.new:
        assert _members(cluster, name) == [f"rabbit@{name}"]
    for name, text in before.items():
        assert (cluster.hosts[name].home / "etc/rabbitmq.conf").read_text() == text


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words",
    [
        "classic/autoheal/kill=*/*:inside/undo/kill=*/*:acted",
        "quorum/ignore/kill=rabbitmq/part:inside+15:undo",
        "classic/ignore/fresh/kill=*/*:inside/undo",
        "classic/autoheal/node=rabbitmq/part+5",
        "quorum/pause_minority/node=rabbitmq/rehome@rq5:dead/undo",
    ],
)
def test_whatever_dies_it_ends_well(clusters: Clusters, words: str) -> None:
    run = parse(words)
    story = Story(clusters(run.handling, fresh=run.fresh), run.kind)
    story.clients_up()
    story.scan_and_plan()
    if story.travel("forward", run.forth):
        assert story.wrong("forward") == []
    if run.back is not None:
        story.travel("backward", run.back)
        assert story.wrong("backward") == []
    time.sleep(5)
    counts = story.clients_down()
    assert all(map(harmless, counts.values())), (counts, story.kills, story.stops)


def test_the_recipe_of_2015_loses_messages(clusters: Clusters) -> None:
    """So that the harness is believed: INPUT REJECT on one port, host by host, then forget."""
    cluster = clusters("ignore")
    story = Story(cluster, "classic")
    story.clients_up()
    literal(story)
    counts = story.clients_down()
    assert counts["b"].lost + counts["b"].failed > 20, counts
