"""recell on the harness's hosts: scan, plan, apply, undo, with clients at work on both sides."""

from __future__ import annotations

import json
import time
from pathlib import Path

from recell.adapters import broker
from recell.adapters.ssh import Fence, SshHost
from recell.adapters.world import RealWorld
from recell.discovery.rabbit import look_at_rabbit
from recell.engine import Engine
from recell.engine.run import Event
from recell.errors import RecellError
from recell.journal import Journal
from recell.model.deployment import Deployment
from recell.model.layout import BrokerLayout, load_any_layout
from recell.model.plan import Plan
from recell.model.step import Direction
from recell.planning.rabbit import plan_rabbit
from recell.steps import Context, bind
from tests.rabbit.cluster import Cluster
from tests.rabbit.counting import Count, count, longest
from tests.rabbit.deaths import Deaths, remains, run_and_die
from tests.rabbit.hosts import EnteredHost
from tests.rabbit.words import Kill, Way, deaths, points

broker._TIMEOUT = 600.0  # six nodes and their clients share one machine's cores
LIMITS = {"drain_s": 600.0, "quiet_s": 1200.0, "stop_s": 600.0, "start_s": 1200.0}
SERVERS, CALLERS = 2, 1
RESUMES = 5
"""How often a run that stopped is gone on with, at most."""
_PATIENCE_S = 240.0
"""Where a node dies, recell waits no longer than this for anything: it has to stop and say so."""
_FILES = ("etc/rabbitmq.conf", "etc/enabled_plugins", "data/.erlang.cookie")


def oslo_python() -> str:
    """A Python with oslo.messaging: that of the lab's Nova."""
    found = sorted(Path("/var/cache/recell-lab").glob("nova-*/bin/python"))
    assert found, "recell-lab up prepares Nova, whose Python has oslo.messaging"
    return str(found[-1])


class HarnessWorld(RealWorld):
    """The real one, but for the SSH."""

    def __init__(self, deployment: Deployment, cluster: Cluster) -> None:
        super().__init__(deployment)
        self.cluster = cluster

    def host(self, name: str) -> SshHost:
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = EnteredHost(self.cluster.hosts[name], self._fence)
            return self._hosts[name]


class Story:
    """``kind``: classic, mirrored or quorum queues."""

    def __init__(self, cluster: Cluster, kind: str, rate: float = 10.0) -> None:
        self.cluster = cluster
        self.kind = kind
        self.rate = rate
        self.deaths = Deaths(cluster)
        self._limits = LIMITS
        self.stops: list[str] = []
        """What recell said when it stopped."""
        self.kills: list[str] = []
        """Where recell was killed."""
        self.before: dict[str, dict[str, str]] = {}
        self.plan: Plan | None = None
        self.deployment: Deployment | None = None
        self._until = float("inf")

    # Clients

    def clients_up(self) -> None:
        first = self.cluster.hosts[self.cluster.old[0]]
        if self.kind == "mirrored":
            # As deployments have it: all queues, those of single processes too.
            first.ctl("set_policy", "--apply-to", "queues", "ha-all", "^(?!amq\\.).*", '{"ha-mode":"all"}')
        for side in "ab":
            host = self.cluster.hosts[f"rq{side}"]
            nodes = ",".join(f"os:os@{self.cluster.hosts[n].ip}:5672" for n in self.cluster.old)
            quorum = "rabbit_quorum_queue = true\n" if self.kind == "quorum" else ""
            names = [f"{side}server{i}" for i in range(SERVERS)] + [
                f"{side}caller{i}" for i in range(CALLERS)
            ]
            for name in names:
                host.write(
                    f"etc/{name}.conf",
                    f"[DEFAULT]\ntransport_url = rabbit://{nodes}/\n[oslo_messaging_rabbit]\n{quorum}"
                    "[oslo_concurrency]\nlock_path = /tmp\n",
                )
                role = "server" if "server" in name else "caller"
                host.unit(name, [
                    oslo_python(), str(Path(__file__).parent / "load.py"), role, "--config-file",
                    f"/etc/rabbitmq/{name}.conf", "--name", name, "--topic", f"t{side}",
                    "--rate", str(self.rate), "--log", str(host.home / "log" / f"{name}.log"),
                ])  # fmt: skip
                host.systemctl("start", name)
                self._wait_for(host.home / "log" / f"{name}.log", " UP " if role == "server" else " ok ")

    def _wait_for(self, path: Path, word: str) -> None:
        deadline = time.monotonic() + 600
        while not path.exists() or word not in path.read_text():
            assert time.monotonic() < deadline, (path, word)
            time.sleep(0.2)

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """From when until when each step acted last, by its id: from its first start on, if it was killed."""
        out: dict[str, tuple[float, float]] = {}
        begun: dict[str, float] = {}
        if self._told.exists():
            for at, kind, step in map(json.loads, self._told.read_text().splitlines()):
                if kind == "acting":
                    begun.setdefault(step, at)
                elif step in begun:
                    out[step] = (begun.pop(step), at)
        return out

    @property
    def _told(self) -> Path:
        """What happened when: recell may be another process each time."""
        return self.cluster.top / "told.jsonl"

    def logs(self, side: str) -> list[Path]:
        return sorted((self.cluster.hosts[f"rq{side}"].home / "log").glob("*er?.log"))

    def longest(self, side: str, step: str) -> float:
        """The longest call, in seconds, of a side's clients while a step acted; 0.0: it didn't."""
        spans = self.spans
        return longest(self.logs(side), side, *spans[step]) if step in spans else 0.0

    def plain_restart(self, name: str) -> float:
        """The longest call, in seconds, while systemd restarts a server and recell does nothing."""
        host, side = self.cluster.hosts[f"rq{name[0]}"], name[0]
        log = host.home / "log" / f"{name}.log"
        ups, began = log.read_text().count(" UP "), time.time()
        host.systemctl("restart", name)
        while log.read_text().count(" UP ") == ups:
            time.sleep(0.1)
        time.sleep(5)
        return longest(self.logs(side), side, began, time.time())

    def clients_down(self, until: float = float("inf")) -> dict[str, Count]:
        """Callers first, so that what they sent can arrive."""
        for word in ("caller", "server"):
            for side in "ab":
                host = self.cluster.hosts[f"rq{side}"]
                for path in sorted((host.home / "units").glob(f"*{word}*.service")):
                    host.systemctl("stop", path.stem)
            time.sleep(3)
        self._until = until
        return self.counts()

    def counts(self, *, inside: bool = False) -> dict[str, Count]:
        """But for what was under way when a node was dead; ``inside``: only that."""
        windows = self.deaths.windows
        return {s: count(self.logs(s), s, self._until, windows, inside=inside) for s in "ab"}

    # recell

    def layout(self) -> BrokerLayout:
        method = "fresh" if self.cluster.fresh else "split"
        text = (
            f"rabbitmq:\n  method: {method}\n"
            f"  keep: {{hosts: [{', '.join(self.cluster.old)}]}}\n"
            f"  new:\n    hosts: [{', '.join(self.cluster.new)}]\n    clients: ['b*@rqb']\n"
        )
        found = load_any_layout(text, "layout.yaml")
        assert isinstance(found, BrokerLayout)
        return found

    def scan_and_plan(self) -> Plan:
        hosts = {n: EnteredHost(h) for n, h in self.cluster.hosts.items()}
        try:
            addresses = {n: h.address for n, h in hosts.items()}
            self.deployment = look_at_rabbit(hosts, addresses, time.time())
        finally:
            for host in hosts.values():
                host.close()
        self.plan = plan_rabbit(self.deployment, self.layout(), time.time())
        for name in (*self.cluster.old, *self.cluster.new):
            home = self.cluster.hosts[name].home
            self.before[name] = {place: (home / place).read_text() for place in _FILES}
        return self.plan

    def travel(self, direction: Direction, way: Way) -> bool:
        """A whole way, whatever dies on it. False: a kill on it says that it is not gone on with.

        :raises RecellError: it stops again and again.
        """
        assert self.plan is not None
        steps = [s.id for s in self.plan.steps if s.acts in ("both", direction)]
        if direction == "backward":
            begun = self._begun()
            steps = [s for s in reversed(steps) if s in begun]
        for kill in points(way.kills, steps):
            try:
                if not self._killed(direction, kill):
                    break  # it came to the end of the way: the step did nothing
            except RecellError as error:
                self._stopped(error)
                continue
            if kill.back:
                return False
        self.deaths.told = deaths(way.deaths, steps)
        self._limits = {k: min(v, _PATIENCE_S) if way.deaths else v for k, v in LIMITS.items()}
        self._on(direction)
        self.deaths.mend()
        self._on(direction)  # and it says so when it is asked again
        return True

    def _begun(self) -> set[str]:
        journal = Journal.open(self.cluster.top / "journal.sqlite")
        try:
            return {entry.step for entry in journal.entries()}
        finally:
            journal.close()

    def _killed(self, direction: Direction, kill: Kill) -> bool:
        dead = run_and_die(self, direction, kill)
        if dead:
            self.kills.append(f"{kill.step}:{kill.point}")
            print(f"{time.strftime('%H:%M:%S')} killed recell at {kill.step}:{kill.point}", flush=True)
        return dead

    def _on(self, direction: Direction) -> None:
        # Each death may stop it once.
        for left in reversed(range(RESUMES + len(self.deaths.told))):
            try:
                self.go(direction)
                return
            except RecellError as error:
                self._stopped(error)
                if not left:
                    raise
                self.deaths.mend()

    def _stopped(self, error: RecellError) -> None:
        self.stops.append(str(error))
        print(f"{time.strftime('%H:%M:%S')} stopped: {error}", flush=True)

    def wrong(self, direction: Direction) -> list[str]:
        """What is not as it should be at the end of this way; asked of every node."""
        old, new = self.cluster.old, self.cluster.new
        if direction == "forward":
            return remains(self.cluster, (old, new), {})
        return remains(self.cluster, (old, *((name,) for name in new)), self.before)

    def go(self, direction: Direction) -> None:
        assert self.plan is not None and self.deployment is not None
        path = self.cluster.top / "journal.sqlite"
        if not path.exists():
            Journal.create(path, self.plan.digest).close()
        journal = Journal.open(path)
        world = HarnessWorld(self.deployment, self.cluster)
        try:
            with journal.writing(direction, direction) as epoch:
                world.claim(Fence(journal.id, epoch, "harness"), *self.cluster.hosts)
                context = Context(world, journal, self.plan.id, self.plan.fingerprints, self._limits)
                engine = Engine(bind(self.plan, context), journal, observer=self._note, wait=world.wait)
                if direction == "forward":
                    engine.forward()
                else:
                    engine.backward()
                world.release(*self.cluster.hosts)
        finally:
            world.close()
            journal.close()

    def _note(self, event: Event) -> None:
        if event.kind in ("acting", "finished"):
            with self._told.open("a") as file:
                file.write(json.dumps([time.time(), event.kind, event.step.id]) + "\n")
        said = f"{time.strftime('%H:%M:%S')} {event.kind} {event.step.id} {event.text} {event.seconds:.1f}"
        print(said, flush=True)
        if event.kind == "acting":
            assert self.plan is not None
            self.deaths.begins(event.step.id, next(s.where for s in self.plan.steps if s.id == event.step.id))
