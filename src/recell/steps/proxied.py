"""Take a server out of its HAProxy backends, or put it back."""

from __future__ import annotations

from typing import ClassVar, Literal

from recell.adapters.ports import ProxyServer
from recell.errors import StepFailed, Unsupported
from recell.model.step import Direction, Finding
from recell.steps.base import BaseStep

POLL_S = 0.2
OURS = "drained"
"""What the journal remembers of a server that recell drains, before it does."""


def _up(server: ProxyServer) -> bool:
    return server.state.split()[0] in ("UP", "no")  # "no check": HAProxy doesn't look, it just sends


def _known(proxy: str, server: ProxyServer) -> str:
    return f"proxy:{proxy}:{server.backend}/{server.server}"


class Proxied(BaseStep):
    """``forward``: ``drain`` or ``ready``; the way back is the other one.

    Drained means: no new request is sent there, and those inside have been answered. A server that an
    operator has put into maintenance, or drained before recell did, takes none and stays so, in both
    directions and however often. A pair of these steps brackets a restart, so that undo, walking backward,
    meets them as a pair too. Where that restart acts forward only, undo starts ``unit`` if a run was killed
    while it was down, and waits until it answers at ``url``.
    """

    kind: ClassVar[str] = "proxied"

    @property
    def lasting(self) -> bool:
        return str(self.param("forward")) == "ready"

    def _wanted(self, toward: Direction) -> Literal["drain", "ready"]:
        forward = str(self.param("forward"))
        ready = (forward == "ready") == (toward == "forward")
        return "ready" if ready else "drain"

    def _servers(self) -> list[tuple[str, ProxyServer]]:
        found: list[tuple[str, ProxyServer]] = []
        for target in self.param("servers"):
            mine = [
                s
                for s in self.world.proxy(target["proxy"]).servers()
                if (s.backend, s.server) == (target["backend"], target["server"])
            ]
            if not mine:
                raise Unsupported(
                    f"{target['backend']}/{target['server']} is not in the HAProxy on"
                    f" {target['proxy']} any more",
                    "Scan and plan again",
                )
            found.append((target["proxy"], mine[0]))
        return found

    def _theirs(self, proxy: str, server: ProxyServer) -> bool:
        """Taken out by an operator's word: recell itself puts nothing into maintenance, and remembers what it
        drains. A restart changes the state of a drained server to DOWN, but not that it was told to drain."""
        if server.state == "MAINT":
            return True
        drained = server.draining or server.state == "DRAIN"
        return drained and not self.context.journal.recall(_known(proxy, server), OURS, False)

    def _note(self, proxy: str, server: ProxyServer, ours: bool) -> None:
        if ours != self.context.journal.recall(_known(proxy, server), OURS, False):
            self.context.journal.remember(_known(proxy, server), OURS, ours)

    def look(self, toward: Direction) -> Finding:
        found = self._servers()
        servers = [s for _, s in found]
        states = ", ".join(f"{s.backend}/{s.server} {s.state}, {s.sessions} inside" for s in servers)
        if self._wanted(toward) == "ready":
            done = all(_up(s) or self._theirs(proxy, s) for proxy, s in found)
        else:
            done = all(s.state.split()[0] != "UP" and s.sessions == 0 for s in servers)
            done = done and not any(s.state.startswith("no") for s in servers)
        return Finding.done(states) if done else Finding.not_done(states)

    def act(self, toward: Direction) -> None:
        wanted = self._wanted(toward)
        if wanted == "ready" and self.param("unit"):
            self._answers_again(str(self.param("unit")), str(self.param("url", "")))
        for proxy, server in self._servers():
            if self._theirs(proxy, server):
                continue
            if wanted == "drain":
                self._others_serve(proxy, server)
                self._note(proxy, server, True)
            self.world.proxy(proxy).set_state(server.backend, server.server, wanted)
        limit = self.limit("drain_s")
        began = self.world.clock()
        while self.look(toward).truth.value != "done":
            if self.world.clock() - began > limit:
                states = self.look(toward).why
                raise StepFailed(
                    f"after {limit:.0f} s: {states}",
                    "Look at these servers, then: recell resume, or recell undo",
                )
            self.world.wait(POLL_S)

    def prove(self, toward: Direction) -> str:
        proof = super().prove(toward)
        if self._wanted(toward) == "ready":
            # Also where a killed run had set it ready: what drains it from now on is an operator.
            for proxy, server in self._servers():
                self._note(proxy, server, False)
        return proof

    def _answers_again(self, unit: str, url: str) -> None:
        if not self.host.unit(unit).running:
            self.start_unit(unit)
        began = self.world.clock()
        while url and not 0 < self.host.http_status(url, timeout=10) < 500:
            if self.world.clock() - began > self.limit("start_s"):
                raise StepFailed(
                    f"{unit} on {self.spec.where} does not answer at {url}",
                    f"See journalctl -u {unit} there, then: recell resume, or recell undo",
                )
            self.world.wait(1.0)

    def _others_serve(self, proxy: str, server: ProxyServer) -> None:
        others = [
            s
            for s in self.world.proxy(proxy).servers()
            if s.backend == server.backend and s.server != server.server and _up(s)
        ]
        if not others:
            raise StepFailed(
                f"{server.backend} on {proxy} has no server that is up but {server.server}",
                "Bring another one up, then: recell resume",
            )
