"""What every step has: its data, the world, its memory, and which way it acts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from recell.adapters.ports import HostPort, World
from recell.errors import StalePlan, VerifyFailed
from recell.journal import Journal
from recell.model.plan import Fingerprint, PlanStep
from recell.model.step import Direction, Finding, Truth

HELD, DELIVERIES_HELD = "held", "deliveries-held"
"""What steps remember for the report, each followed by "-" and a direction."""


@dataclass(frozen=True)
class Context:
    """What steps share. ``keep``: the directory name under which old values stay on their hosts.

    ``lost``: brokers that the operator gave up. What they held can't be saved any more, so a step
    neither asks them nor waits for what went through them.
    """

    world: World
    journal: Journal
    keep: str
    fingerprints: tuple[Fingerprint, ...]
    limits: dict[str, float]
    lost: frozenset[str] = frozenset()


class BaseStep(ABC):
    """Subclasses write ``look``, ``act`` and ``prove`` for both directions.

    A step that acts one way only is done, by definition, the other way.
    """

    kind: ClassVar[str] = ""

    def __init__(self, spec: PlanStep, context: Context) -> None:
        self.spec = spec
        self.context = context
        self.world = context.world

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def estimate_s(self) -> float:
        return self.spec.estimate_s

    @property
    def lasting(self) -> bool:
        return True

    @property
    def group(self) -> str:
        return str(self.param("wave", ""))

    @property
    def retreat(self) -> str:
        return ""

    @property
    def host(self) -> HostPort:
        return self.world.host(self.spec.where)

    def param(self, name: str, default: Any = None) -> Any:
        return self.spec.params.get(name, default)

    def limit(self, name: str) -> float:
        return self.context.limits[name]

    def start_unit(self, unit: str, host: HostPort | None = None) -> None:
        """systemctl waits until a unit says that it is up: no shorter than this step would, ``start_s``."""
        (host or self.host).systemctl("start", unit, timeout=self.limit("start_s"))

    def restart_unit(self, unit: str, host: HostPort | None = None) -> None:
        within = self.limit("stop_s") + self.limit("start_s")
        (host or self.host).systemctl("restart", unit, timeout=within)

    def is_lost(self, broker: str) -> bool:
        return broker in self.context.lost

    def recall(self, key: str, default: Any = None) -> Any:
        return self.context.journal.recall(self.id, key, default)

    def remember(self, key: str, value: Any) -> None:
        self.context.journal.remember(self.id, key, value)

    def held(self, toward: Direction, seconds: float) -> None:
        """Remember for the report how long senders, writers or users were held: the longest attempt."""
        self._longest(f"{HELD}-{toward}", seconds)

    def deliveries_held(self, toward: Direction, seconds: float) -> None:
        """As :meth:`held`, of what was on its way to an RPC server that ends: only that waited."""
        self._longest(f"{DELIVERIES_HELD}-{toward}", seconds)

    def _longest(self, key: str, seconds: float) -> None:
        self.remember(key, max(seconds, self.recall(key, 0.0)))

    # -- what the engine calls --------------------------------------------------------------------

    def guard(self, toward: Direction) -> None:
        """No file that the plan knows on this step's host was changed by anybody else."""
        for known in self.context.fingerprints:
            if known.host == self.spec.where:
                self._guard_file(known)

    def _guard_file(self, known: Fingerprint) -> None:
        stat = self.world.host(known.host).stat(known.path)
        now = stat.sha256 if stat else ""
        ours = self.context.journal.recall(f"file:{known.host}:{known.path}", "shas", [])
        if now != known.sha256 and now not in ours:
            raise StalePlan(
                f"{known.path} on {known.host} was changed by somebody else since the plan was made",
                "Look for Puppet, Ansible, kolla or a colleague; put it back, then: recell resume",
            )

    def check(self, toward: Direction) -> Finding:
        if self.spec.acts not in ("both", toward):
            return Finding.done(f"acts {self.spec.acts} only")
        return self.look(toward)

    def do(self) -> None:
        if self.spec.acts != "backward":
            self.act("forward")

    def undo(self) -> None:
        if self.spec.acts != "forward":
            self.act("backward")

    def verify(self, toward: Direction) -> str:
        if self.spec.acts not in ("both", toward):
            return ""
        return self.prove(toward)

    def finish(self) -> None:
        """The way back is closed: take away what only served it. Can be repeated. Mostly nothing: old
        values are removed with their directory."""
        return

    # -- what a step writes -----------------------------------------------------------------------

    @abstractmethod
    def look(self, toward: Direction) -> Finding:
        """How far the world is from where this direction leads."""

    @abstractmethod
    def act(self, toward: Direction) -> None:
        """Lead it there. Can be repeated after a kill at any point inside."""

    def prove(self, toward: Direction) -> str:
        """By default: looking again finds it done."""
        finding = self.look(toward)
        if finding.truth is not Truth.DONE:
            raise VerifyFailed(
                f"{self.id}: {self.title}: {finding.why or finding.truth.value}",
                "See what is there, then: recell resume, or recell undo",
            )
        return finding.why


class Anew(BaseStep):
    """Changes nothing that lasts, and acts again in each run."""

    anew: ClassVar[str] = "a proof is taken anew each time"

    @property
    def lasting(self) -> bool:
        return False

    def look(self, toward: Direction) -> Finding:
        return Finding.not_done(self.anew)


def note_file(context: Context, host: str, path: str, sha256: str) -> None:
    """Remember, before writing it, that a file may have this content by our doing."""
    step = f"file:{host}:{path}"
    shas: list[str] = context.journal.recall(step, "shas", [])
    if sha256 not in shas:
        context.journal.remember(step, "shas", [*shas, sha256])
