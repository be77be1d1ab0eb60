"""The operator's desk: one directory with the files of one conversion, and how to open them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from recell.adapters.ssh import CLAIM_PATIENCE_S, Fence
from recell.adapters.world import RealWorld
from recell.discovery import scan, scan_rabbit
from recell.engine import Engine
from recell.engine.run import Observer
from recell.errors import BadInput, Locked, StalePlan
from recell.journal import OPERATOR, Journal, position
from recell.model.deployment import Deployment, load_deployment
from recell.model.layout import BrokerLayout, Layout, load_any_layout, load_layout
from recell.model.layout_v1 import CellsV1Layout
from recell.model.layout_v1_v2 import TreeLayout
from recell.model.plan import Plan, load_plan
from recell.mover.cell import CellMove
from recell.mover.hosts import CellHosts
from recell.mover.v1 import CellsConversion
from recell.probe.guests import guests_of
from recell.steps import Context, bind

F = TypeVar("F", bound=Callable[..., Any])

LIMITS = {"drain_s": 120.0, "quiet_s": 300.0, "stop_s": 120.0, "start_s": 180.0}


def options(command: F) -> F:
    """--dir and --json, the same for every command."""
    command = click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(),
        envvar="RECELL_DIR",
        show_default="this directory",
        help="Where the conversion's files are.",
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def lost_option(command: F) -> F:
    """--lost, for what goes backward."""
    return click.option(
        "--lost",
        multiple=True,
        metavar="BROKER",
        help="This new broker is dead for good: go back without asking it or waiting for what it held.",
    )(command)


class Desk:
    """Paths and loaders. Loaders raise BadInput with the command that makes the missing file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.deployment_path = directory / "deployment.json"
        self.layout_path = directory / "layout.yaml"
        self.plan_path = directory / "plan.json"
        self.journal_path = directory / "journal.sqlite"
        self.measure_path = directory / "measure"

    def _read(self, path: Path, make: str) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise BadInput(f"there is no {path}", make) from None
        except OSError as error:
            raise BadInput(f"{path} can't be read: {error.strerror}", "See its owner and mode") from None

    def deployment(self) -> Deployment:
        return load_deployment(
            self._read(self.deployment_path, "Make it with: recell scan"), str(self.deployment_path)
        )

    def layout(self) -> Layout:
        return load_layout(self._layout_text(), str(self.layout_path))

    def any_layout(self) -> Layout | BrokerLayout | CellsV1Layout | TreeLayout:
        """Nova's cells of either generation, or RabbitMQ alone."""
        return load_any_layout(self._layout_text(), str(self.layout_path))

    def _layout_text(self) -> str:
        data = self._read(self.layout_path, "Write it: recell plan --example prints one to begin with")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise BadInput(f"{self.layout_path} is not UTF-8", "Correct its encoding") from None

    def plan(self) -> Plan:
        return load_plan(self._read(self.plan_path, "Make it with: recell plan"), str(self.plan_path))

    def journal(self, *, read_only: bool = False) -> Journal:
        return Journal.open(self.journal_path, read_only=read_only)

    def limits(self) -> dict[str, float]:
        return {**LIMITS, **self.any_layout().limits.model_dump()} if self.layout_path.exists() else LIMITS

    def fence(self, journal: Journal, epoch: int, who: str) -> Fence:
        """Its claims outwait what a run that was killed still does at a host: at the longest a restart."""
        limits = self.limits()
        restart_s = limits["stop_s"] + limits["start_s"]
        return Fence(journal.id, epoch, who, max(CLAIM_PATIENCE_S, restart_s + 20))

    def save(self, path: Path, data: bytes) -> None:
        """Whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise BadInput(
                f"{path} can't be written: {error.strerror}", "Make room or choose another --dir"
            ) from None


def scan_again(deployment: Deployment, at: float) -> Deployment:
    """The same hosts, looked at for the same things."""
    hosts = [(h.name, h.address) for h in deployment.hosts]
    return scan_rabbit(hosts, at) if deployment.rabbit else scan(hosts, at)


@contextlib.contextmanager
def world_of(deployment: Deployment) -> Iterator[RealWorld]:
    """The real world, closed again at the end."""
    world = RealWorld(deployment, CellMove, CellHosts, guests_of, CellsConversion)
    try:
        yield world
    finally:
        world.close()


def engine_for(
    desk: Desk, plan: Plan, journal: Journal, world: Any, lost: frozenset[str] = frozenset(), **more: Any
) -> Engine:
    context = Context(world, journal, plan.id, plan.fingerprints, desk.limits(), lost)
    return Engine(bind(plan, context), journal, wait=world.wait, **more)


def drive(
    desk: Desk,
    plan: Plan,
    journal: Journal,
    verb: str,
    direction: Any,
    observer: Observer,
    pause_before: tuple[str, ...] = (),
    lost: frozenset[str] = frozenset(),
    said: Mapping[str, Any] | None = None,
) -> None:
    """Be the one writer, take the hosts, and run in one direction. ``said``: the operator's words, which
    the journal keeps."""
    hosts = hosts_of(plan, lost)
    with journal.writing(verb, direction) as epoch, world_of(desk.deployment()) as world:
        for key, value in (said or {}).items():
            journal.remember(OPERATOR, key, value)
        world.claim(desk.fence(journal, epoch, f"recell {verb}"), *hosts)
        engine = engine_for(
            desk, plan, journal, world, lost, observer=observer, pause_before=pause_before
        )
        if direction == "forward":
            engine.forward()
        else:
            engine.backward()
            world.release(*hosts)


def new_brokers(plan: Plan) -> set[str]:
    """Brokers that services move to."""
    return {str(s.params["broker"]) for s in plan.steps if s.kind == "broker-account"}


def hosts_of(plan: Plan, lost: frozenset[str] = frozenset()) -> list[str]:
    """Hosts that steps act on or keep things on; without those that matter for lost brokers only."""
    return sorted(
        {s.where for s in plan.steps if s.kind != "broker-account" or s.params["broker"] not in lost}
        | {str(t["proxy"]) for s in plan.steps for t in s.params.get("servers", [])}
        | {
            str(host)
            for s in plan.steps
            if s.kind.startswith("rabbit-")
            for side in ("keep", "new")
            for host, _ in s.params.get(side, [])
        }
        | {str(c["host"]) for s in plan.steps for c in s.params.get("computes", [])}
        | {str(s.params["move"][side]["server"]) for s in plan.steps if "move" in s.params
           for side in ("old", "new")}
        # A process of recell's answers there while requests wait.
        | {
            str(s.params["conversion"][side]["broker_node"])
            for s in plan.steps
            if s.kind in ("v1-switch", "v2-switch")
            for side in ("old", "new")
        }
    )


def standing(desk: Desk, plan: Plan) -> str:
    """:func:`position` of the desk's own journal.

    :raises BadInput: there is no journal, or it belongs to another plan.
    """
    journal = desk.journal(read_only=True)
    try:
        journal.belongs_to(plan.digest)
        return position(plan, journal)
    finally:
        journal.close()


def recalled(desk: Desk, key: str) -> Any:
    """What the operator said once, as the journal keeps it; None: nothing."""
    journal = desk.journal(read_only=True)
    try:
        return journal.recall(OPERATOR, key)
    finally:
        journal.close()


def must_be_todays(plan: Plan, now: Deployment) -> None:
    """:raises StalePlan: the deployment is not in the state that the plan was made for."""
    if now.state_digest() != plan.state:
        raise StalePlan(
            "the deployment is not as it was when the plan was made",
            "Scan and plan again, and read what changed",
        )


def refuse_if(where: str, states: tuple[str, ...], verb: str) -> None:
    """:raises Locked: ``verb`` makes no sense where the journal stands."""
    words = {
        "undoing": "an undo is under way",
        "finished": "this conversion was finished",
        "new": "nothing was applied yet",
    }
    remedies = {
        "undoing": "Bring it to its end with: recell resume",
        "finished": "There is no way back and nothing more to do; plan anew for more",
        "new": "Begin with: recell apply",
    }
    if where in states:
        raise Locked(f"recell {verb} can't go on: {words[where]}", remedies[where])
