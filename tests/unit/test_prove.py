"""The last look: what counts against a conversion, and what was so before."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from recell.adapters.ports import ConnectionInfo, ServiceRow
from recell.errors import VerifyFailed
from recell.model.deployment import ServiceRecord
from recell.model.plan import PlanStep
from recell.planning.split import plan_split
from recell.preflight import check
from recell.steps.base import Context
from recell.steps.prove import Prove
from tests.sim.cloud import build, layout, scan
from tests.sim.world import CELL1


class Look:
    """A world in which one cell and one broker answer."""

    def __init__(self, rows: list[ServiceRow], connections: list[ConnectionInfo]) -> None:
        self.rows, self.connected = rows, connections
        self.now = 0.0

    def nova(self) -> Any:
        return SimpleNamespace(services=lambda cell: tuple(self.rows) if cell == CELL1 else ())

    def broker(self, name: str) -> Any:
        queue = [SimpleNamespace(name=n, consumers=2) for n in ("conductor", "scheduler")]
        connected = tuple(self.connected) if name == "mq4" else ()
        return SimpleNamespace(queues=lambda vhost: queue, connections=lambda: connected)

    def host(self, name: str) -> Any:
        return SimpleNamespace(query=lambda argv, **_: SimpleNamespace(returncode=0))

    def clock(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def proved(spec: PlanStep, rows: list[ServiceRow], connections: list[ConnectionInfo] | None = None) -> str:
    world = Look(rows, connections or [])
    context = SimpleNamespace(world=world, limits={"start_s": 5.0})
    step = Prove(spec, cast(Context, context))
    step.act("forward")
    return step.prove("forward")


def row(host: str, age: float, binary: str = "nova-compute") -> ServiceRow:
    return ServiceRow(1, "u", host, binary, 70, False, age)


def spec(down_time: str = "", *silent: str) -> PlanStep:
    """The split's last proof. ``silent``: computes that did not report when the cloud was scanned."""
    found = scan(build())
    options = {"DEFAULT/service_down_time": down_time} if down_time else {}
    found = replace(
        found,
        services=tuple(replace(s, options={**s.options, **options}) for s in found.services),
        records=tuple(
            ServiceRecord(CELL1, n, "u", h, "nova-compute", 70, False, 9999.0) for n, h in enumerate(silent)
        ),
    )
    return next(s for s in plan_split(found, layout(), 0.0).steps if s.id == "prove")


def test_a_host_that_was_dead_before_is_no_fault_of_the_conversion() -> None:
    assert proved(spec("", "cmp9"), [row("cmp1", 5), row("cmp9", 9999)])
    with pytest.raises(VerifyFailed, match=r"prove: nova-compute on cmp1\. "):
        proved(spec("", "cmp9"), [row("cmp1", 99), row("cmp9", 9999)])


def test_services_that_report_seldom_are_waited_for_as_long_as_nova_does() -> None:
    assert proved(spec("180"), [row("cmp1", 170)])
    with pytest.raises(VerifyFailed, match="nova-compute on cmp1"):
        proved(spec("180"), [row("cmp1", 190)])
    late = ServiceRecord(CELL1, 1, "u", "cmp1", "nova-compute", 70, False, 120.0)
    found = replace(scan(build()), records=(late,))
    assert [v.id for v in check(found, layout())] == ["record:nova-compute:cmp1"]
    seldom = replace(found.services[0], options={"DEFAULT/service_down_time": "180"})
    assert check(replace(found, services=(seldom, *found.services[1:])), layout()) == ()


@pytest.mark.parametrize(("vhost", "program", "address", "fault"), [
    ("/", "nova-compute", "10.9.9.9", True),
    ("/", "", "10.0.0.2", True),
    ("/", "neutron-openvswitch-agent", "10.0.0.2", False),
    ("/neutron", "", "10.0.0.2", False),
    ("/", "", "10.9.9.9", False),
])  # fmt: skip
def test_others_may_use_the_api_levels_broker(vhost: str, program: str, address: str, fault: bool) -> None:
    """One that Neutron's agents on the computes are on already."""
    proof = spec()
    assert "10.0.0.2" in proof.params["strangers"][0]["addresses"]
    client = ConnectionInfo("c", "u", vhost, address, 1, "rabbit@mq4", "", program, 0)
    if fault:
        with pytest.raises(VerifyFailed, match=f"at {address} is on mq4"):
            proved(proof, [], [client])
    else:
        assert proved(proof, [], [client])


@pytest.mark.parametrize(("version", "asked"), [
    ("16.1.8", "list_cells"), ("17.0.13", "list_hosts"), ("33.0.2", "list_hosts"), ("", "list_hosts"),
])  # fmt: skip
def test_nova_manage_is_asked_what_its_release_knows(version: str, asked: str) -> None:
    plan = plan_split(replace(scan(build()), nova_version=version), layout(), 0.0)
    proof = next(s for s in plan.steps if s.id == "prove")
    assert [c["argv"][-1] for c in proof.params["commands"]] == [asked, "check"]
