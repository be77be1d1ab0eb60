"""What stands around the moment of a conversion to cells v1: gates, and what goes off or changes after it."""

from __future__ import annotations

from typing import ClassVar

from recell.adapters.ports import UnitState
from recell.adapters.v1_hold_port import GatePort
from recell.errors import StepFailed
from recell.model.gate import GateServer
from recell.model.relay import Side
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep
from recell.steps.units import POLL_S, RestartApi, at_rest

RPC_ROLES = ("conductor", "scheduler", "consoleauth", "cert", "cells")


class V1Servers(BaseStep):
    """One HAProxy learns to hold requests to ``backend``, and has the API cell's ``servers`` (name, address,
    port) beside it, to which nobody is led yet. ``holds``: false where nobody has to wait, as consoles."""

    kind: ClassVar[str] = "v1-servers"

    def gate(self) -> GatePort:
        return self.world.gate(self.spec.where, str(self.param("backend")))

    def look(self, toward: Direction) -> Finding:
        gate = self.gate()
        state = gate.state()
        if toward == "backward":
            return Finding.not_done("it has a gate") if gate.left() else Finding.done("it has no gate")
        if state is None:
            return Finding.partial("not all of the gate is there") if gate.left() else Finding.not_done()
        return Finding.done(f"it can hold {gate.backend}; requests go to the {state.side} side")

    def act(self, toward: Direction) -> None:
        gate = self.gate()
        if toward == "forward":
            added = [GateServer(str(n), str(a), int(p)) for n, a, p in self.param("added")]
            gate.install(added, holds=bool(self.param("holds", True)))
        else:
            gate.remove()

    def finish(self) -> None:
        self.gate().conclude()


class V1Consoles(BaseStep):
    """New connections to ``backend``, of consoles, go where nova-api's requests go. Nobody waits."""

    kind: ClassVar[str] = "v1-consoles"

    def gate(self) -> GatePort:
        return self.world.gate(self.spec.where, str(self.param("backend")))

    def look(self, toward: Direction) -> Finding:
        state = self.gate().state()
        side = "old" if state is None else state.side
        said = f"consoles are led to the {side} side"
        return Finding.done(said) if side == _SIDES[toward] else Finding.not_done(said)

    def act(self, toward: Direction) -> None:
        self.gate().release(_SIDES[toward])


_SIDES: dict[Direction, Side] = {"forward": "new", "backward": "old"}


class V1Retire(BaseStep):
    """``unit`` is off, and stays off when its host starts anew; undo leaves it as it was found.

    ``broker``, ``vhost``: where it takes messages from, which are not lost with it. With nova-api goes
    recell's fence before it.
    """

    kind: ClassVar[str] = "v1-retire"

    def unit(self) -> UnitState:
        return self.host.unit(str(self.param("unit")))

    def look(self, toward: Direction) -> Finding:
        unit = self.unit()
        off = unit.active in ("inactive", "failed")
        if toward == "forward":
            if off and not unit.enabled:
                if self.param("role") == "api" and self.world.fence(self.spec.where).standing():
                    return Finding.partial("recell's fence stands before it")
                return Finding.done(f"{unit.name} is off")
            return Finding.not_done(f"{unit.name} is {unit.active}{', enabled' if unit.enabled else ''}")
        before = self.recall("before")
        if before is None:
            return Finding.done("as it was found")
        if self.recall("masked") or unit.enabled != before["enabled"]:
            return Finding.not_done("not enabled as it was")
        if before["active"] and not unit.running:
            return Finding.partial(f"{unit.name} is {unit.active}")
        return Finding.done("as it was found")

    def act(self, toward: Direction) -> None:
        name, unit = str(self.param("unit")), self.unit()
        if toward == "backward":
            self._put_back(name)
            return
        if self.recall("before") is None:
            self.remember("before", {"enabled": unit.enabled, "active": unit.running})
        if unit.enabled:
            self.host.systemctl("disable", name)
        if self.unit().enabled:
            # Something else wants it, and it has no setting of its own that could be taken away.
            self.remember("masked", True)
            self.host.systemctl("mask", name)
        if unit.active not in ("inactive", "failed"):
            self._end(name, toward)
        if self.param("role") == "api":
            self.world.fence(self.spec.where).take_down()

    def _end(self, name: str, toward: Direction) -> None:
        if self.param("role") in RPC_ROLES and self.param("broker"):
            hangs = self.param("role") == "cells"  # it would be waited for until systemd kills it
            held = self.world.stop_rpc_server(
                self.spec.where, name, str(self.param("broker")), str(self.param("vhost")),
                self.limit("stop_s"), idle=at_rest if hangs else None,
                lost=self.is_lost(str(self.param("broker"))),
            )  # fmt: skip
            if not hangs:  # nobody has anything to say to nova-cells any more
                self.deliveries_held(toward, held)
        else:
            self.host.systemctl("stop", name)

    def _put_back(self, name: str) -> None:
        before = self.recall("before")
        if before is None:
            return
        if self.recall("masked"):
            self.host.systemctl("unmask", name)
            self.remember("masked", False)
        if before["enabled"] and not self.unit().enabled:
            self.host.systemctl("enable", name)
        if before["active"] and not self.unit().running:
            self.start_unit(name)
        began = self.world.clock()
        while before["active"] and not self.unit().running:
            if self.unit().active == "failed" or self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{name} on {self.spec.where} does not start",
                    f"See journalctl -u {name} there, then: recell undo",
                )
            self.world.wait(POLL_S)


class V1ChildApi(RestartApi):
    """Restart a nova-api of the child with recell's fence before it, which goes once nothing old is behind
    it. ``url``: may be behind the fence."""

    kind: ClassVar[str] = "v1-child-api"

    def look(self, toward: Direction) -> Finding:
        if self.fresh() and self.world.fence(self.spec.where).standing():
            return Finding.partial("recell's fence stands before it")
        return super().look(toward)

    def act(self, toward: Direction) -> None:
        if not self.fresh():
            self.restart_unit(str(self.param("unit")))
        self.world.fence(self.spec.where).take_down()
        self.await_answer()
