"""The last look: is the deployment what the plan said it would be?"""

from __future__ import annotations

from typing import ClassVar

from recell.errors import VerifyFailed
from recell.model.step import Direction
from recell.steps.base import Anew
from recell.steps.units import POLL_S


class Prove(Anew):
    """Changes nothing. Checks, for the direction it acts in: ``commands`` (nova-manage and
    nova-status on a controller) end with 0; ``strangers``: no connection to ``vhost`` of ``broker`` from a
    program in that list, or from one of ``addresses`` by a program that doesn't say what it is; ``serving``:
    ``[broker, vhost, topic]`` has consumers; ``up``: in each cell, every live record of ``binaries`` reported
    within ``up_s``, but for those that were ``silent`` before ([cell, host, binary])."""

    kind: ClassVar[str] = "prove"

    def act(self, toward: Direction) -> None:
        """Records need a report interval to look alive again: wait for it, then prove."""
        began = self.world.clock()
        while self._silent() and self.world.clock() - began < self.limit("start_s"):
            self.world.wait(POLL_S)

    def _silent(self) -> list[str]:
        out = []
        before = {tuple(known) for known in self.param("silent", [])}
        for cell, binaries in self.param("up", {}).items():
            out += [
                f"{r.binary} on {r.host}"
                for r in self.world.nova().services(cell)
                if r.binary in binaries
                and r.seconds_since_report > float(self.param("up_s", 60))
                and (cell, r.host, r.binary) not in before
            ]
        return out

    def prove(self, toward: Direction) -> str:
        proofs: list[str] = []
        wrong: list[str] = self._silent()
        serving = self.param("serving", [])
        seen = {(b, v): {q.name: q for q in self.world.broker(b).queues(v)}
                for b, v in dict.fromkeys((b, v) for b, v, _ in serving)}
        for broker, vhost, topic in serving:
            queues = seen[broker, vhost]
            if topic not in queues or not queues[topic].consumers:
                wrong.append(f"nobody serves {topic} on {broker}")
            else:
                proofs.append(f"{queues[topic].consumers} serve {topic} on {broker}")
        for entry in self.param("strangers", []):
            found = [
                c
                for c in self.world.broker(entry["broker"]).connections()
                if c.vhost == entry.get("vhost", c.vhost)
                and (c.program in entry["programs"] or (not c.program and c.peer_host in entry["addresses"]))
            ]
            wrong += [f"{c.program or 'a client'} at {c.peer_host} is on {entry['broker']}" for c in found]
            if not found:
                proofs.append(f"no {' or '.join(entry['programs'])} on {entry['broker']}")
        for command in self.param("commands", []):
            ended = self.world.host(command["host"]).query(
                command["argv"], timeout=180, user=command.get("user")
            )
            name = " ".join(command["argv"][-2:])
            if ended.returncode not in command.get("fine", [0]):
                wrong.append(f"{name} on {command['host']} ended with {ended.returncode}")
            else:
                proofs.append(f"{name}: {ended.returncode}")
        if wrong:
            raise VerifyFailed(
                f"{self.id}: {'; '.join(wrong)}", "Look there, then: recell resume, or recell undo"
            )
        return "; ".join(proofs)
