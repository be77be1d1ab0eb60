"""What the doctor looks at in every cloud, whatever its cells are; and how it notes what doesn't answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from recell.adapters.world import RealWorld
from recell.discovery.seen import nova_version
from recell.errors import RecellError
from recell.model.deployment import Deployment
from recell.model.health import QueueFacts, Running, Unknown

P = ParamSpec("P")
T = TypeVar("T")


class Notes:
    """Areas that could not be looked at, each once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Unknown] = {}

    def add(self, area: str, error: RecellError) -> None:
        with self._lock:
            self._found.setdefault(area, Unknown(area, error.sentence, error.remedy))

    def ask(self, area: str, question: Callable[P, T], *args: P.args, **more: P.kwargs) -> T | None:
        """The answer, or None and a note."""
        try:
            return question(*args, **more)
        except RecellError as error:
            self.add(area, error)
            return None

    @property
    def found(self) -> tuple[Unknown, ...]:
        with self._lock:
            return tuple(self._found[a] for a in sorted(self._found))


def queues_of(world: RealWorld, deployment: Deployment, notes: Notes) -> tuple[QueueFacts, ...]:
    def of(place: tuple[str, str]) -> list[QueueFacts]:
        broker, vhost = place
        found = notes.ask(f"queues of {broker} {vhost}", world.broker(broker).queues, vhost)
        return [
            QueueFacts(broker, vhost, q.name, q.messages_ready + q.messages_unacknowledged, q.consumers)
            for q in found or ()
        ]

    places = [(b.name, v) for b in deployment.brokers for v in b.vhosts]
    with ThreadPoolExecutor(2) as pool:
        return tuple(q for listed in pool.map(of, places) for q in listed)


def bound_of(world: RealWorld, deployment: Deployment, notes: Notes) -> dict[str, frozenset[str]]:
    out: dict[str, frozenset[str]] = {}
    for b in deployment.brokers:
        found: set[str] = set()
        for vhost in b.vhosts:
            bindings = notes.ask(f"bindings of {b.name} {vhost}", world.broker(b.name).bindings, vhost)
            if bindings is None:
                break
            found |= {exchange for exchange, _ in bindings}
        else:
            out[b.name] = frozenset(found)
    return out


def running_of(world: RealWorld, deployment: Deployment, notes: Notes) -> tuple[Running, ...]:
    out = []
    for name in dict.fromkeys(s.host for s in deployment.services):
        processes = notes.ask(f"processes of {name}", world.host(name).processes)
        argv = {p.pid: p.argv for p in processes or ()}
        out += [
            Running(name, s.unit, argv[s.main_pid])
            for s in deployment.services
            if s.host == name and s.main_pid in argv
        ]
    return tuple(out)


def packages_of(world: RealWorld, deployment: Deployment, notes: Notes) -> dict[str, str]:
    """Asked of nova-manage's Python where there is one, else of a service's own program."""
    programs: dict[str, str] = {}
    for s in deployment.services:
        own = next((w for w in s.argv if w.startswith("/") and "nova-" in w.rpartition("/")[2]), "")
        programs.setdefault(s.host, deployment.host(s.host).nova_manage or own)
    wanted = [(host, program) for host, program in programs.items() if program]

    def of(item: tuple[str, str]) -> str | None:
        prefix = deployment.host(item[0]).nova_prefix
        return notes.ask(f"version on {item[0]}", nova_version, world.host(item[0]), item[1], prefix)

    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(of, wanted))
    return {host: v for (host, _), v in zip(wanted, versions, strict=True) if v}
