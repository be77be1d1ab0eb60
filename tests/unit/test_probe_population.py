"""Users never ask for what isn't legal, and judge answers by what must exist."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from recell.probe.population import UNSURE, Choice, Population


def _population(seed: int = 1, share: float = 0.4) -> Population:
    return Population(bounds=(2, 5), change_share=share, rng=random.Random(seed))  # noqa: S311


def _active(population: Population, uuid: str, at: float) -> None:
    population.answered(population.boot(), True, at, uuid)
    population.seen(_server(uuid), at + 1)


def _server(uuid: str, status: str = "ACTIVE", task: str | None = None) -> dict[str, Any]:
    return {"id": uuid, "status": status, "OS-EXT-STS:task_state": task}


def test_a_list_must_hold_what_was_there_when_it_was_asked_for() -> None:
    p = _population()
    p.tell("told", 0)
    _active(p, "a", 10)
    assert p.judge_list([_server("told")], sent=9.9) == ""
    assert p.judge_list([_server("told"), _server("a")], sent=10.5) == ""
    assert "short: 1 of 2 missing: a" in p.judge_list([_server("told")], sent=10.5)
    assert "short" in p.judge_list([], sent=5)


def test_a_delete_frees_lists_from_the_moment_it_is_sent() -> None:
    p = _population()
    _active(p, "a", 10)
    p.asked_delete("a", 20)
    assert p.judge_list([], sent=15) == ""
    p.answered(Choice("delete", "a"), True, 21)
    p.absent("a", sent=22, when=23)
    assert p.judge_list([_server("a")], sent=22.5) == ""
    assert "gone" in p.judge_list([_server("a")], sent=24)


def test_wrong_answers_are_named() -> None:
    p = _population()
    p.tell("a", 0)
    assert "UNKNOWN" in p.judge_list([_server("a", "UNKNOWN")], 1)
    assert "twice" in p.judge_list([_server("a"), _server("a")], 1)
    assert p.judge_show(_server("a"), "a") == ""
    assert "got b" in p.judge_show(_server("b"), "a")
    assert "UNKNOWN" in p.judge_show(_server("a", "UNKNOWN"), "a")


def test_a_read_from_before_the_acknowledgement_settles_nothing() -> None:
    p = _population()
    _active(p, "a", 10)
    p.get("a").doing, p.get("a").doing_since = "reboot-hard", 20.0
    p.seen(_server("a"), sent=19.9)
    assert p.get("a").doing == "reboot-hard"
    p.seen(_server("a", task="rebooting_hard"), sent=21)
    assert p.get("a").doing == "reboot-hard"
    p.seen(_server("a"), sent=22)
    assert p.get("a").idle


def test_after_a_failed_change_the_next_read_decides() -> None:
    p = _population()
    _active(p, "a", 10)
    p.answered(Choice("stop", "a"), False, 20)
    assert p.get("a").doing == UNSURE
    p.seen(_server("a", "SHUTOFF"), sent=21)
    assert p.get("a").idle and p.get("a").state == "stopped"


def test_residents_are_left_running() -> None:
    p = _population()
    for number in range(5):
        p.tell(f"r{number}", 0)
        p.seen(_server(f"r{number}"), 1)
    chosen = {p.choose().kind for _ in range(200)}
    assert chosen <= {"boot", "list", "list-detail", "show", "metadata-set"}


class _World:
    """Servers as Nova would hold them: refuses what Nova refuses with a 409 or 404."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.servers: dict[str, dict[str, Any]] = {}
        self.ends: dict[str, tuple[float, str | None]] = {}
        self.metadata: dict[str, set[str]] = {}

    def advance(self, now: float) -> None:
        for uuid, (when, status) in list(self.ends.items()):
            if when <= now:
                del self.ends[uuid]
                if status is None:
                    del self.servers[uuid]
                else:
                    self.servers[uuid] = _server(uuid, status)

    def ask(self, choice: Choice, now: float) -> str:
        end = now + self.dice.uniform(0.1, 8)
        if choice.kind == "boot":
            uuid = f"i{len(self.metadata)}"
            self.metadata[uuid] = set()
            self.servers[uuid] = _server(uuid, "BUILD", "scheduling")
            self.ends[uuid] = (end, "ACTIVE")
            return uuid
        server = self.servers[choice.instance]
        assert server["OS-EXT-STS:task_state"] is None, choice
        if choice.kind in ("stop", "reboot-soft", "reboot-hard"):
            assert server["status"] == "ACTIVE", choice
        if choice.kind == "start":
            assert server["status"] == "SHUTOFF", choice
        if choice.kind == "metadata-set":
            self.metadata[choice.instance].add(choice.detail["key"])
        elif choice.kind == "metadata-delete":
            self.metadata[choice.instance].remove(choice.detail["key"])
        else:
            after = {"delete": None, "stop": "SHUTOFF"}.get(choice.kind, "ACTIVE")
            self.servers[choice.instance] = {**server, "OS-EXT-STS:task_state": choice.kind}
            self.ends[choice.instance] = (end, after)
        return choice.instance


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.3, 0.6))
def test_every_request_is_legal_and_enough_of_them_change_something(
    seed: int, share: float,
) -> None:
    dice = random.Random(seed)  # noqa: S311
    # As many as users of the lab have: of fewer, most would have something under way.
    p = Population(bounds=(4, 8), change_share=share, rng=random.Random(seed))  # noqa: S311
    world = _World(dice)
    changes = 0
    for number in range(400):
        now = number / 6
        world.advance(now)
        choice = p.choose()
        if choice.kind in ("list", "list-detail"):
            servers = list(world.servers.values())
            assert p.judge_list(servers, now) == ""
            for server in servers if choice.kind == "list-detail" else ():
                p.seen(server, now)
            for uuid in set(p.uuids()) - set(world.servers):
                p.absent(uuid, now, now + 0.01)
        elif choice.kind == "show":
            shown = world.servers[choice.instance]
            assert p.judge_show(shown, choice.instance) == ""
            p.seen(shown, now)
        else:
            changes += 1
            if choice.kind == "delete":
                p.asked_delete(choice.instance, now)
            p.answered(choice, True, now + 0.01, world.ask(choice, now))
        deleting = sum(s["OS-EXT-STS:task_state"] == "delete" for s in world.servers.values())
        assert deleting <= 3 and len(world.servers) - deleting <= 8
    assert changes >= 0.3 * 400 * 0.9


def test_so_many_changes_are_about_instances_of_some_hosts() -> None:
    p = Population(bounds=(6, 6), change_share=1, rng=random.Random(1), aim=["h2"], aim_share=0.75)  # noqa: S311
    for number in range(6):
        _active(p, f"i{number}", 0)
    servers = [{**_server(f"i{n}"), "hostId": f"h{n % 3}"} for n in range(6)]
    asked = []
    for when in range(10, 2010, 10):
        for server in servers:
            p.seen(server, when)
        choice = p.choose()
        asked.append(choice.instance)
        p.answered(choice, True, when + 1)
        settled = {"stop": "SHUTOFF", "start": "ACTIVE", "reboot-soft": "ACTIVE", "reboot-hard": "ACTIVE"}
        servers = [{**s, "status": settled.get(choice.kind, s["status"])} if s["id"] == choice.instance else s
                   for s in servers]
    there = sum(i in ("i2", "i5") for i in asked)
    assert p.aimed == there and 145 <= there <= 155


def test_users_who_aim_where_nobody_is_work_elsewhere() -> None:
    p = Population(bounds=(2, 2), change_share=1, rng=random.Random(1), aim=["away"], aim_share=1)  # noqa: S311
    for name in ("a", "b"):
        _active(p, name, 0)
    assert p.choose().instance in ("a", "b") and p.aimed == 0
