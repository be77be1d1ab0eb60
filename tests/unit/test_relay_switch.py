"""A relay's hold and switch, where clients do something else just then; no server needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.relaying.link import DOOR, GONE, LOGIN, READY, Link
from recell.adapters.relaying.relay import Hold, Relay
from recell.adapters.relaying.wire import Broken


class Client:
    """A link, as far as a switch looks at it."""

    address, account, doing, since = "10.0.0.1:1", "nova", "is slow", 0.0
    quiet, upstream = True, None

    def __init__(self, phase: str = READY, hello: bool = True) -> None:
        self.phase, self.hello = phase, hello or None
        self.spare: Session | None = None
        self.took: Session | None = None
        self.replayed: Callable[[], None] = lambda: None

        self.obstacle = ""

    def reasons(self) -> list[str]:
        return [self.obstacle] if self.obstacle else []

    def replay(self, database: bool) -> list[bytes]:
        self.replayed()
        return []

    def same(self, upstream: object) -> bool:
        return True

    def take(self, upstream: Session) -> None:
        self.took = upstream

    def drop_spare(self) -> None:
        self.spare = None

    def close(self) -> None:
        self.phase = GONE

    def pump(self) -> None: ...
    def step_back(self) -> None: ...
    def ask(self) -> None: ...


class Session:
    side, lost = "", False

    async def say(self, commands: list[bytes]) -> None:
        await asyncio.sleep(0)

    def close(self, politely: bool = True) -> None:
        self.lost = True


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Relay:
    made = Relay({"listen": ["", 1], "upstreams": {"old": ["", 2], "new": ["", 3]}, "accounts": {},
                  "side": "old"}, str(tmp_path / "state"))

    async def logged_in(side: str, hello: object) -> Session:
        await asyncio.sleep(0)
        return Session()

    monkeypatch.setattr(made, "_logged_in", logged_in)
    return made


def switched(relay: Relay, *clients: Any) -> dict[str, Any]:
    async def switch() -> dict[str, Any]:
        relay.links = set(clients)
        relay._hold = Hold("h", set())
        return await relay.switch("h", "new")

    return asyncio.run(switch())


def test_who_has_logged_in_while_all_others_are_carried_over_is_carried_over_too(relay: Relay) -> None:
    resting, coming = Client(), Client(LOGIN)
    resting.replayed = lambda: setattr(coming, "phase", READY)
    found = switched(relay, resting, coming)
    assert (found["carried"], found["closed"]) == (2, 0)
    assert resting.took is not None and coming.took is not None


def test_a_session_that_ends_before_all_are_ready_is_made_again(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Client(), Client()
    ended: list[Session] = []
    all_of = relay._all

    async def then_one_ends(works: Any) -> None:
        await all_of(works)
        if not ended and first.spare is not None:
            first.spare.lost = True
            ended.append(first.spare)

    monkeypatch.setattr(relay, "_all", then_one_ends)
    assert switched(relay, first, second)["carried"] == 2
    assert ended and first.took is not None and not first.took.lost


@pytest.mark.parametrize(("lost", "obstacles"), [(True, 0), (False, 1)])
def test_a_session_that_ends_in_the_rehearsal_is_no_obstacle_and_a_refusal_is(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, lost: bool, obstacles: int
) -> None:
    class Rehearsed(Session):
        async def say(self, commands: list[bytes]) -> None:
            self.lost = lost
            raise Broken("it closed the connection" if lost else "it refuses SET a = 1")

    async def logged_in(side: str, hello: object) -> Session:
        return Rehearsed()

    monkeypatch.setattr(relay, "_logged_in", logged_in)
    client = Client()

    async def hold() -> dict[str, Any]:
        relay.links = {client}  # type: ignore[arg-type]
        return await relay.hold("h", 0.01, 60)

    assert len(asyncio.run(hold())["stateful"]) == obstacles


@pytest.mark.parametrize(("hello", "busy"), [(True, 1), (False, 0)])
def test_a_login_is_waited_for_however_long_it_takes_and_silence_is_not(
    relay: Relay, hello: bool, busy: int
) -> None:
    async def hold() -> dict[str, Any]:
        relay.links = {Client(LOGIN, hello)}  # type: ignore[arg-type]
        return await relay.hold("h", 0.01, 60)

    assert len(asyncio.run(hold())["busy"]) == busy


def test_who_comes_when_a_hold_begins_stays_at_the_door(relay: Relay) -> None:
    async def come() -> str:
        link = Link(relay)
        relay._hold = Hold("h", set())
        await link.connect()
        return link.phase

    assert asyncio.run(come()) == DOOR
