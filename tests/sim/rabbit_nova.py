"""Nova on simulated RabbitMQ clusters: nova-api behind HAProxy, computes, mappings that are read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recell.adapters.ports import RawMapping, UnitState
from recell.errors import StepFailed
from recell.model.deployment import Broker, Deployment, NovaService, ProxyBackendServer, Role, ServiceRecord
from recell.model.deployment import CellMapping as Mapping
from recell.model.urls import parse_url
from recell.planning.ini import get
from recell.planning.templates import resolve_template
from recell.steps.compute import TASKS
from tests.sim.bridge import cluster
from tests.sim.database import SimNova
from tests.sim.proxy import SimProxy
from tests.sim.rabbit import HOSTS, ClientHost, RabbitWorld
from tests.sim.test_rabbit import URL, build, scan
from tests.sim.world import CELL1, SimUnit, SimWorld, host_of

CLIENTS = {
    "ctl1": ("nova-conductor", "conductor"),
    "ctl2": ("nova-conductor", "conductor"),
    "cmp1": ("nova-compute", "compute.cmp1"),
    "cmp2": ("nova-compute", "compute.cmp2"),
    "web1": ("nova-api", ""),
    "web2": ("nova-api", ""),
    "tel1": ("ceilometer-agent", ""),
}
TEXT = """
rabbitmq:
  method: fresh
  keep: {hosts: [mq1, mq2, mq3]}
  new:
    hosts: [mq4]
    clients: ["nova-*@*"]
"""
TEMPLATE = (
    "{scheme}://{username1}:{password1}@{hostname1}:{port1},{username2}:{password2}@{hostname2}:{port2}/"
)
ROLES: dict[str, Role] = {"nova-conductor": "conductor", "nova-compute": "compute", "nova-api": "api"}


INIT_S, SERVES_S, REPORTS_S = 2.0, 3.0, 6.0
"""After its start nova-compute looks at its instances' tasks, takes messages, and says that it is up."""
ANEW_S = 10.0
"""After it somebody restarts another process, which has new queues."""


class BusyNova(SimNova):
    """``tasks``: of one instance on each host, by host; a message about each waits, or was ``served``."""

    def __init__(self, world: SimWorld) -> None:
        super().__init__(world)
        self.known = world
        self.tasks: dict[str, str] = {}
        self.served = 0
        self.reports: dict[str, int] = {}
        self.seen: dict[str, float] = {}  # when each nova-compute was last seen up, as its record says
        self.kept_up: dict[str, float] = {}  # when recell last said so in its place
        self.busy_hosts: set[str] = set()  # never without a task
        self.failed: Counter[str] = Counter()  # messages that found another task than their own, by host

    def query(self, cell: str, sql: str, args: Sequence[Any] = ()) -> tuple[dict[str, Any], ...]:
        if "COUNT(*) AS ended" in sql:
            return tuple({"uuid": host, "ended": self.failed[host]} for host in args[0] if self.failed[host])
        if "task_state IN" in sql:
            task = self.tasks.get(args[0], "")
            return ({"uuid": args[0], "task_state": task},) if task in args[1] else ()
        if sql == TASKS and (args[0] in self.busy_hosts or args[0] in self.tasks):
            return ({"what": f"a guest of {args[0]}"},)
        if "report_count" in sql:
            unit = self.known.hosts[args[0]].units_["nova-compute"]
            reports = unit.started_at + REPORTS_S + self.known.slow.get(args[0], 0)
            if unit.active and self.known.time >= reports:
                self.reports[args[0]] = unit.pid
            return ({"seen": str(self.reports.get(args[0], 0))},)
        return ()

    def keep_up(self, cell: str, hosts: Sequence[str], down_s: float) -> None:
        assert cell == CELL1
        for host in hosts:
            if self.known.time - self.seen[host] <= down_s:
                self.seen[host] = self.kept_up[host] = self.known.time

    def swap_task(self, cell: str, uuid: str, old: str, new: str | None) -> bool:
        self.known.point(f"before the task of {uuid} is {new}")
        swapped = self.tasks.get(uuid) == old
        if swapped and new is None:
            del self.tasks[uuid]
        elif swapped and new is not None:
            self.tasks[uuid] = new
        self.known.point(f"the task of {uuid} is {new}")
        return swapped


class NovaRabbitWorld(RabbitWorld):
    """It complains, too, when HAProxy sends users to a nova-api that doesn't answer, when nova-api believes
    a cell to be where no bridge leads, and when a nova-compute is ended without asking what it is at."""

    def __init__(self) -> None:
        super().__init__()
        self.proxies["lb1"] = SimProxy(self, "lb1", {})
        self.database = self.nova_ = BusyNova(self)
        self.rebooting = ""  # users ask for a reboot on each host at its nova-compute's "end" or "start"
        self.asked: dict[str, str] = {}  # host -> first host of the cluster at which the message waits
        self.looked: set[int] = set()
        self.notify = False  # whether nova-compute's units are active only when they serve, as RDO's are
        self.down_s = 60.0  # service_down_time
        self.hung: set[int] = set()  # processes that report no more
        self.begun: Counter[str] = Counter()  # host -> how often its nova-compute began
        self.anew = ""  # a host whose process begins anew, each time a nova-compute has been starting a while
        self._met: set[int] = set()

    def observe(self) -> None:
        super().observe()
        self._are_up()
        self._computes_go_on()
        self._begins_anew()
        for proxy in self.proxies.values():
            for server in proxy.table:
                if server.state == "UP" and not proxy.takes(server):
                    self._complain(f"users of {server.server} fail")
                if proxy.takes(server):
                    self._reaches(server.server)
            if proxy.table and not any(proxy.takes(s) for s in proxy.table):
                self._complain("no nova-api takes requests")

    def _are_up(self) -> None:
        for host, (name, _) in self.users.items():
            unit, seen = self.hosts[host].units_[name], self.nova_.seen
            if name == "nova-compute":
                reports = unit.started_at + REPORTS_S + self.slow.get(host, 0)
                if unit.active and self.time >= reports and unit.pid not in self.hung:
                    seen[host] = self.time
                if self.time - seen[host] > self.down_s:
                    self._complain(f"nova-compute on {host} counts as down")

    def serves(self, client: str) -> bool:
        name = self.users[client][0]
        age = self.time - self.hosts[client].units_[name].started_at
        return super().serves(client) and (
            name != "nova-compute" or age >= SERVES_S + self.slow.get(client, 0)
        )

    def _computes_go_on(self) -> None:
        for host, left in list(self.asked.items()):
            unit = self.hosts[host].units_["nova-compute"]
            age = self.time - unit.started_at - self.slow.get(host, 0)
            if not unit.active:
                self._brought(host, left)
                continue
            task = self.nova_.tasks[host]
            if age >= INIT_S and unit.pid not in self.looked:
                self.looked.add(unit.pid)
                if task == "rebooting":
                    self._complain(f"nova-compute on {host} forgets a reboot")
            if self._brought(host, left):
                continue
            if host in self.rooms or age < SERVES_S:
                continue
            if left == cluster(self, self.at(self.node_of(host, unit.name))):
                del self.asked[host]
                if task == "rebooting":
                    del self.nova_.tasks[host]
                    self.nova_.served += 1
                else:  # Nova leaves a task alone that it did not expect
                    self._complain(f"nova-compute on {host} forgets a reboot, for its task is {task}")
                    self.nova_.failed[host] += 1

    def _begins_anew(self) -> None:
        if not self.anew:
            return
        for host in self.begun:
            unit = self.hosts[host].units_["nova-compute"]
            if unit.active and self.time - unit.started_at > ANEW_S and unit.pid not in self._met:
                self._met.add(unit.pid)
                other = self.hosts[self.anew]
                other.begin(other.units_[self.users[self.anew][0]])

    def _brought(self, host: str, left: str) -> bool:
        """A shovel takes it to the other cluster, before whoever else takes there."""
        lanes = [lane for n in self.nodes.values() for lane in n.shovels.values()]
        if (f"compute.{host}", f"compute.{host}", left == "mq1") not in lanes:
            return False
        self.asked[host] = "mq4" if left == "mq1" else "mq1"
        return True

    def ask(self, host: str, when: str) -> None:
        """A nova-api casts to it, on the cluster where its cell's mapping leads."""
        if self.rebooting == when and host not in self.asked and host not in self.nova_.tasks:
            api = ("web1", "web2")[len(self.asked) % 2]
            node = self.nodes[host_of(self.hosts[api].api.config["cell1"])]
            if f"compute.{host}" not in node.queues:
                self._complain(f"a reboot on {host} finds no queue on {node.name}")
            self.asked[host] = cluster(self, node)
            self.nova_.tasks[host] = "rebooting"

    def _reaches(self, api: str) -> None:
        """Its casts to computes go by the mapping that it read when it began."""
        believed = self.nodes[host_of(self.hosts[api].api.config["cell1"])]
        for client, (unit, _) in self.users.items():
            if unit != "nova-compute":
                continue
            home = self.at(self.node_of(client, unit))
            bridged = any(n.shovels for n in self.nodes.values())
            if cluster(self, believed) != cluster(self, home) and not bridged:
                self._complain(f"{api} does not reach {client} by its cell's mapping")

    def stop_rpc_server(self, host: str, unit: str, *more: Any, **words: Any) -> float:
        if unit == "nova-compute" and words.get("idle") is None:
            self._complain(f"{unit} on {host} serves compute-alt while it stops")
        held = super().stop_rpc_server(host, unit, *more, **words)
        if unit == "nova-compute":
            self.ask(host, "end")
        return held

    def picture(self) -> dict[str, Any]:
        found = super().picture()
        found["mappings"] = self.database.rows
        found["proxies"] = {s.server: s.state for p in self.proxies.values() for s in p.servers()}
        return found


class NovaHost(ClientHost):
    world: NovaRabbitWorld

    def _activates(self, name: str) -> bool:
        rising = self.world.notify and name == "nova-compute" and self.units_[name].active
        return rising and not self.world.serves(self.name)

    def unit(self, name: str) -> UnitState:
        found = super().unit(name)
        return replace(found, active="activating") if self._activates(name) else found

    def systemctl(self, verb: str, unit: str = "", *, timeout: float = 180) -> None:
        super().systemctl(verb, unit, timeout=timeout)
        until = self.world.time + timeout
        while verb in ("start", "restart") and self._activates(unit):
            if self.world.time >= until:
                raise StepFailed(f"systemctl did not end within {timeout:g} s on {self.name}", "Look there")
            self.world.wait(0.2)

    def begin(self, unit: SimUnit) -> None:
        super().begin(unit)
        if unit.name == "nova-compute":
            self.world.begun[self.name] += 1
            self.world.ask(self.name, "start")
            return
        own = get((self.read(f"/etc/{unit.name}.conf") or b"").decode(), "DEFAULT", "transport_url") or ""
        if ROLES.get(unit.name):
            unit.config["cell1"] = resolve_template(self.world.database.rows[0].transport_url, own)


def build_nova(
    *,
    template: str = TEMPLATE,
    own_cookie: bool = True,
    behind: Sequence[str] = ("web1", "web2"),
    clients: dict[str, tuple[str, str]] = CLIENTS,
) -> NovaRabbitWorld:
    world = build("classic", NovaRabbitWorld, clients)
    assert isinstance(world, NovaRabbitWorld)
    world.database.rows = (RawMapping(CELL1, "cell1", template or URL, "mysql://n:s3cret@db1/nova", False),)
    for name in clients:
        old = world.hosts[name]
        host = NovaHost(world, name)
        host.files, host.units_ = old.files, old.units_
        world.hosts[name] = host
        for unit in host.units_.values():
            host.begin(unit)
            unit.started_at -= 100
        for path, file in host.files.items():
            host.files[path] = replace(file, mtime=world.time - 500)
    world.asks = {name: "conductor" for name, (unit, _) in clients.items() if unit == "nova-compute"}
    world.proxies["lb1"] = SimProxy(world, "lb1", {"nova-api": behind} if behind else {})
    for node, side in HOSTS.items():
        if own_cookie and side == "new":
            world.nodes[node].cookie = b"OWNCOOKIE"
    world.observe()
    world.begun.clear()
    assert world.complaints == []
    return world


def scan_nova(world: NovaRabbitWorld) -> Deployment:
    found = scan(world)
    shown = parse_url(URL).shown()
    services = tuple(
        NovaService(
            host=name,
            unit=unit,
            role=ROLES[unit],
            argv=(f"/usr/bin/{unit}",),
            user="nova",
            active=True,
            enabled=True,
            started_at=1.0,
            main_pid=1,
            config_files=(f"/etc/{unit}.conf",),
            explicit_config=False,
            nova_host=name,
            options={"DEFAULT/service_down_time": f"{world.down_s:.0f}"} if unit == "nova-api" else {},
            transport_url=shown,
            notification_url="",
            database="",
            api_database="",
            port=8774 if unit == "nova-api" else 0,
        )
        for name, (unit, _) in world.users.items()
        if unit in ROLES
    )
    clients = tuple(
        replace(
            c,
            role=ROLES.get(c.unit, ""),
            url=f"http://{c.host}:8774/" if c.unit == "nova-api" else "",
            shown=shown,
        )
        for c in found.rabbit_clients
    )
    (row,) = world.database.rows
    resolved = parse_url(resolve_template(row.transport_url, URL)).shown()
    raw = row.transport_url if "{" in row.transport_url else resolved
    return replace(
        found,
        generation="v2",
        nova_version="33.0.2",
        services=services,
        brokers=(Broker("mq1", ("mq1", "mq2", "mq3"), ("rabbit@mq1",), "3.10.8", ("/",)),),
        mappings=(Mapping(CELL1, "cell1", raw, resolved, "", "", "{" in raw, False, "d"),),
        records=tuple(
            ServiceRecord(CELL1, n, f"u{n}", s.host, "nova-compute", 70, False, 1.0)
            for n, s in enumerate(services)
            if s.role == "compute"
        ),
        proxies=tuple(
            ProxyBackendServer(p.host, s.backend, s.server, s.address, s.state, s.server, "nova-api")
            for p in world.proxies.values()
            for s in p.table
        ),
        rabbit=tuple(
            replace(n, cookie=int(world.nodes[n.host].cookie == b"OWNCOOKIE")) for n in found.rabbit
        ),
        rabbit_clients=clients,
    )
