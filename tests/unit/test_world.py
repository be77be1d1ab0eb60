"""What the real world offers beside its adapters."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from recell.adapters import world as real
from recell.adapters.ports import RawMapping
from recell.adapters.waiting_room import HEARTBEAT_S
from recell.adapters.world import RealWorld, Secrets
from recell.errors import BadInput, StalePlan, StepFailed, Unreachable
from recell.model.v1 import Conversion
from recell.planning.draft import CELL0
from recell.planning.v1 import SWITCH, plan_v1
from tests.sim.cloud import build, scan
from tests.unit.stein_cloud import layout_v1, stein


def world() -> RealWorld:
    return RealWorld(scan(build()))


def test_together_is_side_by_side_and_in_order() -> None:
    met = threading.Barrier(2, timeout=30)  # neither passes alone

    def act(number: float) -> float:
        met.wait()
        return number

    assert world().together([lambda: act(1.0), lambda: act(2.0)]) == [1.0, 2.0]
    assert world().together([]) == []


def test_together_lets_the_others_end_when_one_fails() -> None:
    ended: list[str] = []

    def fail() -> float:
        raise StepFailed("cmp1 did not end", "See there")

    def end() -> float:
        ended.append("cmp2")
        return 0.0

    with pytest.raises(StepFailed, match="cmp1 did not end"):
        world().together([fail, end])
    assert ended == ["cmp2"]


def test_where_no_cell_is_mapped_nova_s_one_database_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Newton an API database may be there, and has no instances."""
    opened: list[str] = []

    def database(via: Any, url: str, *more: Any) -> Any:
        opened.append(url)
        return SimpleNamespace(now=lambda: 0.0, close=lambda: None)

    secrets = Secrets("rabbit://mq1/", "", "mysql://db1/nova", "mysql://db1/nova_api")
    monkeypatch.setattr(real, "service_secrets", lambda host, service: secrets)
    monkeypatch.setattr(real, "NovaDatabases", database)
    mapped = scan(build())
    for deployment in (mapped, replace(mapped, generation="none")):
        RealWorld(deployment).nova()
    assert opened == ["mysql://db1/nova_api", "mysql://db1/nova"]


def test_failed_builds_are_entered_from_a_controller_with_their_own_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell0, cell1 = stein().mappings
    away = replace(cell0, database_resolved="mysql+pymysql://zero:***@db9:3307/nova_cell0")
    plan = plan_v1(stein(mappings=(away, cell1)), layout_v1(), 0.0)
    conversion = Conversion.from_json(next(s for s in plan.steps if s.id == SWITCH).params["conversion"])
    asked: list[object] = []

    def forward(host: str, port: int) -> str:
        asked.append((host, port))
        return "/run/door"

    def host_of(self: RealWorld, name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(forward=forward)

    raw = RawMapping(CELL0, "cell0", "none:///", "mysql+pymysql://zero:p%40w@db9:3307/nova_cell0", False)
    urls = (raw.transport_url, raw.database_connection)
    nova = SimpleNamespace(mappings=lambda: (raw,), resolved=lambda mapping: urls)
    monkeypatch.setattr(RealWorld, "host", host_of)
    monkeypatch.setattr(RealWorld, "nova", lambda self: nova)
    world = RealWorld(stein())
    place = world._cell0(conversion)
    assert asked == [conversion.config[0], ("db9", 3307)]
    assert (place.user, place.password, place.database) == ("zero", "p@w", "nova_cell0")
    assert (place.host, place.port, place.unix_socket) == ("db9", 3307, "/run/door")
    with pytest.raises(StalePlan, match="no server of its own"):
        world._cell0(replace(conversion, cell0_at=None))


def test_a_waiting_room_is_entered_as_its_service_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its host, with what its files say now; the first node that answers, with TLS where it has that."""
    deployment = scan(build())
    service = next(s for s in deployment.services if s.role == "compute")
    text = "[DEFAULT]\ntransport_url = rabbit://own:p%40w@mq4,own:p%40w@mq5:5679//nova\n"
    asked: list[object] = []

    def connect(door: object, *login: object, **more: Any) -> Any:
        asked.append((door, *login[:3], more["tls"] is not None, more["heartbeat_s"]))
        if door == "mq4:5672" or door == "mq4:5671":
            raise Unreachable("mq4 is down", "Start it")
        return SimpleNamespace(
            look=lambda queue: None, attend=time.sleep, close=lambda: asked.append("closed")
        )

    def host_of(self: RealWorld, name: str) -> Any:
        asked.append(name)
        return SimpleNamespace(
            read=lambda path: text.encode(),
            unit=lambda unit: SimpleNamespace(environment=()),
            forward=lambda host, port: f"{host}:{port}",
        )

    monkeypatch.setattr(RealWorld, "host", host_of)
    monkeypatch.setattr(real, "Amqp", connect)
    rooms = RealWorld(deployment)
    with rooms.waiting_room(service.host, service.unit, ["compute.cmp1"]) as room:
        assert not room.others()
    account = ("own", "p@w", "/nova")
    assert asked == [
        service.host, ("mq4:5672", *account, False, 0), ("mq5:5679", *account, False, 0), "closed",
    ]  # fmt: skip
    asked.clear()
    text += "[oslo_messaging_rabbit]\nssl = true\n"
    with rooms.waiting_room(service.host, service.unit, ["compute.cmp1"]) as room:
        room.hold()
    beats = [one for one in asked if isinstance(one, tuple)]
    assert ("mq5:5679", *account, True, HEARTBEAT_S) in beats and ("mq4:5671", *account, True, 0) in beats
    asked.clear()
    text = ""
    with pytest.raises(Unreachable, match=f"the transport_url of {service.unit} on {service.host} names no"):
        rooms.waiting_room(service.host, service.unit, []).__enter__()
    with pytest.raises(BadInput, match="other on cmp1 is no Nova service"):
        rooms.waiting_room("cmp1", "other", []).__enter__()
