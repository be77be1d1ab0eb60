"""A conversion's directory for the page's tests, and a page served from it by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from recell.journal import Journal
from recell.model.deployment import Deployment, HostFacts, NovaService, dump_deployment
from recell.model.layout import Layout
from recell.model.plan import Plan, dump_plan
from recell.planning.split import plan_split
from recell.probe.record import Recorder
from tests.sim.cloud import REMOVE, build, layout, scan

RECELL = [sys.executable, "-c", "from recell.cli import main; main()"]


def big(computes: int) -> Deployment:
    """The standard deployment with hundreds of computes."""
    small = scan(build())
    host = next(h for h in small.hosts if h.name == "cmp1")
    service = next(s for s in small.services if s.host == "cmp1")
    names = [f"cmp{n}" for n in range(3, computes + 1)]
    hosts: tuple[HostFacts, ...] = tuple(
        replace(host, name=n, hostname=n, address=replace(host.address, host=n), ips=()) for n in names
    )
    services: tuple[NovaService, ...] = tuple(replace(service, host=n, nova_host=n) for n in names)
    return replace(small, hosts=small.hosts + hosts, services=small.services + services)


def many_steps() -> Layout:
    """A layout for which every compute has steps."""
    return layout(REMOVE)


class Desk:
    """deployment.json and plan.json; the journal and the probe's file as a test writes them."""

    def __init__(
        self, directory: Path, deployment: Deployment | None = None, wanted: Layout | None = None
    ) -> None:
        self.directory = directory
        self.deployment = deployment or scan(build())
        self.plan: Plan = plan_split(self.deployment, wanted or layout(), 0.0)
        self.requests = directory / "requests.jsonl"
        directory.mkdir(exist_ok=True)
        (directory / "deployment.json").write_bytes(dump_deployment(self.deployment))
        (directory / "plan.json").write_bytes(dump_plan(self.plan))

    def journal(self) -> Journal:
        path = self.directory / "journal.sqlite"
        return Journal.open(path) if path.exists() else Journal.create(path, self.plan.digest)

    def users(self, *waits: float, failed: int = 0, at: float | None = None, why: str = "") -> None:
        """Requests that took so long; the first ``failed`` of them failed."""
        now = time.time() if at is None else at
        with Recorder(self.requests) as recorder:
            for number, wait in enumerate(waits):
                recorder.mark(
                    {
                        "t0": now - wait,
                        "dur_s": wait,
                        "kind": "list",
                        "method": "GET",
                        "instance": "",
                        "status": 200,
                        "req_id": f"req-{number}",
                        "ok": number >= failed,
                        "why": why,
                        "phase": "run",
                    }
                )

    def through(self, journal: Journal, upto: str) -> None:
        """Every step up to this one, done. Inside ``journal.writing``."""
        for step in self.plan.steps:
            if step.acts == "backward":
                journal.append(step.id, "forward", "found", why="acts backward only", verified="")
            else:
                journal.append(step.id, "forward", "started", finding="not done")
                journal.append(step.id, "forward", "finished", seconds=0.5, verified=f"proof of {step.id}")
            if step.id == upto:
                return


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``recell page``, until the block ends. Yields its URL and its process."""
    process = subprocess.Popen(
        [*RECELL, "page", "--dir", str(directory), "--listen", f"127.0.0.1:{port}", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
