"""A throw-away guest through Nova's API, asked of a small Nova on loopback."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from recell.adapters.guests_port import GuestsPort, GuestState
from recell.errors import Denied, RecellError, StepFailed, Unreachable
from recell.probe.guests import CloudGuests
from tests.unit.test_probe_load import FakeNova

_port: type[GuestsPort] = CloudGuests


@pytest.fixture
def nova() -> Iterator[FakeNova]:
    """In a thread of its own: each question brings its own loop."""
    made = FakeNova()
    loop = asyncio.new_event_loop()
    ready, over = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with made:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(60)
    yield made
    loop.call_soon_threadsafe(over.set)
    thread.join(60)
    loop.close()


def settled(guests: CloudGuests, uuid: str, wanted: str) -> GuestState | None:
    until = time.monotonic() + 120
    while (state := guests.look(uuid)) is not None and (state.task or state.status != wanted):
        assert time.monotonic() < until, state
        time.sleep(0.02)
    return state


def test_a_guest_is_born_obeys_and_goes(nova: FakeNova) -> None:
    guests = CloudGuests(nova.account())
    assert guests.troubles("m1.tiny", "guest") == ()
    assert guests.find("canary") == ""
    uuid = guests.boot("canary", "cmp3", "m1.tiny", "guest", "none")
    assert guests.find("canary") == uuid and guests.find("canar") == ""
    assert settled(guests, uuid, "ACTIVE") == GuestState("ACTIVE", host="cmp3")
    guests.ask(uuid, "stop")
    assert settled(guests, uuid, "SHUTOFF") == GuestState("SHUTOFF", host="cmp3")
    with pytest.raises(StepFailed, match=r"Nova did not stop the guest .*: 409 .it is SHUTOFF"):
        guests.ask(uuid, "stop")
    for verb in ("start", "reboot"):
        guests.ask(uuid, verb)
        assert settled(guests, uuid, "ACTIVE") == GuestState("ACTIVE", host="cmp3")
    guests.ask(uuid, "delete")
    assert settled(guests, uuid, "gone") is None
    guests.ask(uuid, "delete")
    assert guests.look(uuid) is None


def test_what_stands_in_the_way_is_said(nova: FakeNova) -> None:
    guests = CloudGuests(nova.account())
    (said,) = guests.troubles("m1.tiny", "none such")
    assert "no image 'none such'" in said
    (said,) = CloudGuests(nova.account("wrong")).troubles("m1.tiny", "guest")
    assert "refused demo" in said
    cases: list[tuple[int, type[RecellError], str]] = [
        (403, Denied, "does not let this account boot a guest on cmp3 .policy"),
        (500, StepFailed, "did not boot a guest on cmp3: 500"),
    ]
    for status, kind, words in cases:
        nova.fault = lambda *_, status=status: (status, {"forbidden": {"message": "policy"}})
        with pytest.raises(kind, match=words):
            guests.boot("canary", "cmp3", "m1.tiny", "guest", "none")

    def hang_up(*_: object) -> None:
        raise ConnectionResetError

    nova.fault = hang_up
    with pytest.raises(Unreachable, match="did not show the guest"):
        guests.look("u1")
