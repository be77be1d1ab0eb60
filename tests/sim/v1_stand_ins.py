"""In place of the moment in which users change over: no lease, so that whoever dies in it lets them wait."""

from __future__ import annotations

from typing import ClassVar

from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep
from recell.steps.registry import KINDS
from recell.steps.v1 import V1Step
from tests.sim.v1_world import V1World


class Servers(BaseStep):
    kind: ClassVar[str] = "v1-servers"

    def look(self, toward: Direction) -> Finding:
        return Finding.done()

    def act(self, toward: Direction) -> None:
        return None


class Switch(V1Step):
    kind: ClassVar[str] = "v1-switch"

    def look(self, toward: Direction) -> Finding:
        assert isinstance(self.world, V1World)
        there = self.world.serving == ("new" if toward == "forward" else "old") and not self.world.held
        return Finding.done(self.world.serving) if there else Finding.not_done()

    def act(self, toward: Direction) -> None:
        world, port = self.world, self.port()
        assert isinstance(world, V1World)
        gone, come = self.param("stop"), self.param("start")
        if toward == "backward":
            gone, come = come, gone
        if toward == "forward" and world.serving == "old":
            port.catch_up(60)
        world.held = True
        world.point("held")
        for host, unit, _ in gone:
            world.stop_rpc_server(host, unit, "mq1", "/", 60)
        if toward == "forward" and world.serving == "old":
            port.drain(5)
            port.hand_over()
        for host, unit, _ in come:
            world.host(host).systemctl("start", unit)
        for host, unit in self.param("cells"):
            if toward == "forward":
                world.host(host).systemctl("start", unit)
                world.host(host).systemctl("enable", unit)
        world.wait(3)
        world.serving = "new" if toward == "forward" else "old"
        if toward == "backward":
            port.take_back()
            for host, unit in self.param("cells"):
                world.stop_rpc_server(host, unit, "mq4", "/", 60)
                world.host(host).systemctl("disable", unit)
        world.held = False
        world.observe()


class Retire(BaseStep):
    kind: ClassVar[str] = "v1-retire"

    def look(self, toward: Direction) -> Finding:
        enabled = self.host.unit(str(self.param("unit"))).enabled
        return Finding.done() if enabled == (toward == "backward") else Finding.not_done()

    def act(self, toward: Direction) -> None:
        unit = str(self.param("unit"))
        consoles = self.param("role") in ("consoleauth", "novncproxy")
        if toward == "forward" and consoles:
            self.host.systemctl("stop", unit)
        if toward == "backward" and consoles:
            self.host.systemctl("start", unit)
        self.host.systemctl("disable" if toward == "forward" else "enable", unit)


def fill_in() -> None:
    for step in (Servers, Switch, Retire):
        KINDS.setdefault(step.kind, step)
