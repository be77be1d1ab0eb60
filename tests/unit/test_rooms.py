"""Before anybody is restarted recell has been where it will keep what is sent to a nova-compute."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recell.adapters.world import RealWorld
from recell.errors import Denied
from recell.planning.rabbit import plan_rabbit
from recell.preflight import rooms
from recell.preflight.check import check
from tests.sim.cloud import build
from tests.sim.cloud import scan as scan_cloud
from tests.sim.rabbit_nova import TEXT, NovaRabbitWorld, build_nova, scan_nova
from tests.sim.room import SimRoom
from tests.sim.test_rabbit import layout
from tests.sim.test_rabbit_nova import SPLIT

WAVES = SPLIT + "moving: {wave: 2}\n"


def _split(monkeypatch: pytest.MonkeyPatch) -> NovaRabbitWorld:
    """Only cmp2 lets nobody forward."""
    entered = SimRoom.__enter__

    def enter(room: SimRoom) -> SimRoom:
        if room.host == "cmp2":
            raise Denied("sshd on cmp2 does not forward connections", "Set AllowTcpForwarding yes there")
        return entered(room)

    monkeypatch.setattr(SimRoom, "__enter__", enter)
    return build_nova(own_cookie=False)


@pytest.mark.parametrize("text", [SPLIT, WAVES], ids=["one by one", "in waves"])
def test_a_split_is_stopped_where_what_waits_could_not_be_kept(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    world = _split(monkeypatch)
    found = [v for v in check(scan_nova(world), layout(text), world) if v.id.startswith("room:")]
    assert [(v.id, v.severity, v.remedy) for v in found] == [
        ("room:cmp2", "stop", "Set AllowTcpForwarding yes there")
    ]
    assert "nova-compute while it restarts: sshd on cmp2 does not forward connections" in found[0].what
    assert world.complaints == [] and world.rooms == set()


def test_over_a_bridge_nothing_has_to_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = _split(monkeypatch)
    assert not list(rooms.check(world, plan_rabbit(scan_nova(build_nova()), layout(TEXT), 0.0)))


@pytest.fixture
def closed() -> Iterator[Path]:
    """What a forward comes to where sshd does not allow it: ssh listens, and ends each connection at once."""
    with tempfile.TemporaryDirectory() as top, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{top}/door")
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    listening.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Path(top) / "door"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_forward_that_ends_at_once_is_sshds(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    host: Any = SimpleNamespace(
        read=lambda path: b"[DEFAULT]\ntransport_url = rabbit://nova:p@mq1/\n",
        unit=lambda unit: SimpleNamespace(environment=()),
        forward=lambda host, port: closed,
    )
    monkeypatch.setattr(RealWorld, "host", lambda self, name: host)
    plan: Any = SimpleNamespace(steps=[SimpleNamespace(
        kind="repoint", where="cmp1",
        params={"unit": "nova-compute", "cell": "", "nova_host": "cmp1", "queues": []},
    )])  # fmt: skip
    (found,) = rooms.check(RealWorld(scan_cloud(build())), plan)
    assert found.severity == "stop" and "AllowTcpForwarding" in found.remedy
    assert "nova-compute on cmp1 (mq1) does not answer" in found.what
