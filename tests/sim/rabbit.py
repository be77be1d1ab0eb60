"""RabbitMQ clusters in memory: who knows whom, who hears whom, where queues live; and what harms users.

It complains when something happens that loses messages or leaves nodes in a state that needs a human: a
side cut host by host, a queue cut off from its clients, nodes that meet again after a cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recell.adapters.bridge_port import BridgeEnd, Ferry
from recell.adapters.ports import ConnectionInfo, Consumer, CutNode, QueueInfo, RabbitNodePort
from recell.errors import StepFailed, Unreachable
from recell.model.rabbit import NodeView, Policy, QueueHome
from recell.planning.apart import unit_name
from recell.planning.bridge import Shores
from recell.planning.ini import get
from tests.sim.abreast import Abreast, T
from tests.sim.bridge import SimEnd, SimFerry, Traffic, cluster, lasting, own_queues, tick
from tests.sim.world import SimHost, SimUnit, SimWorld, host_of

HOSTS = {"mq1": "keep", "mq2": "keep", "mq3": "keep", "mq4": "new", "mq5": "new", "mq6": "new"}
OLD_COOKIE = b"OLDCOOKIE"


@dataclass
class Queue:
    name: str
    kind: str
    leader: str
    members: tuple[str, ...]
    policy: str = ""


@dataclass
class Node:
    """``db``: all nodes it knows; ``links``: those it hears."""

    host: str
    name: str
    db: set[str]
    app: bool = True
    links: set[str] = field(default_factory=set)
    handling: str = "autoheal"
    unheeding: int = 3  # as where somebody had set the handling live
    cookie: bytes = OLD_COOKIE
    wall: str = ""
    queues: dict[str, Queue] = field(default_factory=dict)  # its cluster's, the same object for members
    policies: dict[str, Policy] = field(default_factory=dict)
    accounts: dict[str, str] = field(default_factory=dict)
    shovels: dict[str, tuple[str, str, bool]] = field(default_factory=dict)  # (source, target, from keep)
    plugged: bool = False
    coordinator: bool = False

    def takes_part(self, other: Node) -> None:
        """In the other's cluster."""
        self.queues, self.policies = other.queues, other.policies
        self.accounts, self.shovels = other.accounts, other.shovels


class RabbitWorld(SimWorld):
    """SimWorld with six nodes and clients; nothing of Nova."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {h: Node(h, f"rabbit@{h}", {f"rabbit@{h}"}) for h in HOSTS}
        first: dict[str, Queue] = {}
        policies: dict[str, Policy] = {}
        old = [n for h, n in self.nodes.items() if HOSTS[h] == "keep"]
        for node in old:
            node.db = {n.name for n in old}
            node.links = node.db - {node.name}
            node.queues, node.policies = first, policies
            node.takes_part(old[0])
        old[0].accounts["os"] = "a hash"
        self.users: dict[str, tuple[str, str]] = {}  # unit's host -> (unit, topic)
        self.cuts = 0
        self.asks: dict[str, str] = {}  # unit's host -> the topic that has to answer before it serves
        self.waiting: dict[str, int] = {}  # messages that nobody has taken
        self.restless: set[str] = set()  # queues of which something is unacknowledged at any moment
        self.traffic = Traffic()
        self.ferry_ = SimFerry(self)
        self.unheeding = False  # an answer that finds no queue is lost, and nobody notices
        self.abreast = Abreast(self)

    def at(self, name: str) -> Node:
        return self.nodes[name.partition("@")[2]]

    # -- World ------------------------------------------------------------------------------------

    def rabbit(self, host: str) -> RabbitNodePort:
        return SimRabbit(self, self.nodes[host])

    def bridge_end(self, hosts: Sequence[str]) -> BridgeEnd:
        return SimEnd(self, hosts)

    def ferry(self, shores: Shores, password: str) -> Ferry:
        return self.ferry_

    def reborn(self) -> None:
        super().reborn()
        self.ferry_ = SimFerry(self)

    def broker(self, name: str) -> Any:
        return SimClients(self, self.nodes[name])

    def cut_rabbit(self, nodes: Sequence[CutNode], ports: Sequence[int], within: float) -> float:
        self.point("arming")
        for one in nodes:
            self.nodes[one.host].wall = "drop"
            self.point(f"dropping on {one.host}")
        self.time += 0.5
        for one in nodes:
            me = self.nodes[one.host]
            if any(not self.nodes[o.host].wall for o in nodes):
                self._complain("cut before all walls stand")
            for other in one.opposite:
                self.unlink(me, self.at(other))
        self.cuts += 1
        self.check_cut()
        self.point("cut")
        return 0.5

    def unlink(self, a: Node, b: Node) -> None:
        a.links.discard(b.name)
        b.links.discard(a.name)

    def check_cut(self) -> None:
        for node in self.nodes.values():
            if node.handling != "ignore":
                self._complain(f"{node.name} acts on the partition: {node.handling}")
            if node.unheeding:
                self._complain(f"{node.unheeding} channels of {node.name} confirm nothing from now on")
            heard = node.links | {node.name}
            for queue in node.queues.values():
                if queue.leader in heard and set(queue.members) - heard:
                    self._complain(f"{queue.name} was cut through")
        for client, (unit, topic) in self.users.items():
            if not self.hosts[client].units_[unit].active:
                continue
            home = self.at(self.node_of(client, unit))
            if topic in home.queues and home.queues[topic].leader not in home.links | {home.name}:
                self._complain(f"{client} can't reach {topic}")

    def meet(self, a: Node, b: Node) -> None:
        """Two nodes could speak: what happens."""
        if a.name == b.name or a.wall or b.wall or a.cookie != b.cookie or b.name in a.links:
            return
        if b.name in a.db or a.name in b.db:
            self._complain(f"{a.name} and {b.name} met again: inconsistent database")

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        return self.abreast.together(acts)

    def wait(self, seconds: float) -> None:
        if not self.abreast.wait(seconds):
            self.time += seconds
        self.observe()

    def observe(self) -> None:
        tick(self)
        for a in self.nodes.values():
            for b in self.nodes.values():
                if a.app and b.app:
                    self.meet(a, b)
        for client, (unit, _) in self.users.items():
            if self.hosts[client].units_[unit].active:
                home = self.at(self.node_of(client, unit))
                if not home.app:
                    self._complain(f"{client} lost its node {home.name}")

    def node_of(self, client: str, unit: str) -> str:
        config = self.hosts[client].units_[unit].config
        return f"rabbit@{host_of(config['transport_url'])}"

    def stop_rpc_server(self, host: str, unit: str, *more: Any, **words: Any) -> float:
        self.point(f"hold off {unit}")
        self.hosts[host].units_[unit].active = False
        self.point(f"{unit} ended")
        return 0.2

    def serves(self, client: str) -> bool:
        """A process that asks somebody at its start goes on when the answer reaches it."""
        topic = self.asks.get(client, "")
        home = self.at(self.node_of(client, self.users[client][0]))
        for other, (unit, served) in self.users.items():
            if served == topic and self.hosts[other].units_[unit].active:
                there = self.at(self.node_of(other, unit))
                if there.queues is home.queues or own_queues(self, client)[0] in there.queues:
                    return True
        return not topic

    def picture(self) -> dict[str, Any]:
        found = super().picture()
        found.pop("mappings"), found.pop("services"), found.pop("brokers"), found.pop("proxies")
        # Where a client's units are is in their configuration; which cookie is new differs each time.
        found["nodes"] = {
            n.host: (
                sorted(n.db),
                n.app,
                sorted(n.links),
                n.handling,
                n.cookie == OLD_COOKIE,
                n.wall,
                lasting(n),
                sorted(n.policies),
                sorted(n.accounts),
                sorted(n.shovels),
                n.plugged,
            )
            for n in self.nodes.values()
        }
        return found


class SimRabbit:
    """RabbitNodePort on a Node."""

    def __init__(self, world: RabbitWorld, node: Node) -> None:
        self.world = world
        self.node = node
        self.host = node.host

    def _running(self) -> tuple[str, ...]:
        if not self.node.app:
            return ()
        heard = {n for n in self.node.links | {self.node.name} if self.world.at(n).app and n in self.node.db}
        return tuple(sorted(heard))

    def view(self) -> NodeView:
        n = self.node
        members = tuple(sorted(n.db))
        used: tuple[str, ...] = (f"{len(n.queues)} queues",) if n.queues else ()
        used += (f"{len(n.accounts)} users",) if n.accounts else ()
        return NodeView(
            n.name,
            members,
            members,
            self._running(),
            tuple(sorted(n.links)),
            (),
            n.handling,
            unheeding=n.unheeding,
            coordinator=n.coordinator,
            used=used + ((f"a cluster of {len(members)}",) if len(members) > 1 else ()),
        )

    def queues(self) -> tuple[QueueHome, ...]:
        self._up()
        out = []
        for q in self.node.queues.values():
            takers = tuple(
                self.world.node_of(c, u)
                for c, (u, t) in self.world.users.items()
                if t == q.name
                and self.world.hosts[c].units_[u].active
                and self.world.at(self.world.node_of(c, u)).queues is self.node.queues
            )
            out.append(
                QueueHome("/", q.name, q.kind, q.leader, q.members, q.members, True, False, q.policy, takers)
            )
        return tuple(out)

    def policies(self) -> tuple[Policy, ...]:
        return tuple(self.node.policies.values())

    def walled(self) -> str:
        return self.node.wall

    def cookie(self) -> str:
        return hashlib.sha256(self.node.cookie).hexdigest()

    def kept_cookie(self, plan: str, sha256: str) -> bytes:
        return self.world.hosts[self.host].kept(plan, sha256)

    def _up(self) -> None:
        if not self.node.app:
            raise Unreachable(f"RabbitMQ does not answer on {self.host}")

    def _point(self, what: str) -> None:
        self.world.changes.append(f"{self.host} {what}")
        self.world.time += 0.1
        self.world.point(f"{what} on {self.host}")

    # changes

    def join(self, peer: str) -> None:
        n, other = self.node, self.world.at(peer)
        n.app = False
        self._point("stop_app")
        n.db = other.db | {n.name}
        for name in n.db - {n.name}:
            mate = self.world.at(name)
            mate.db = set(n.db)
            mate.links.add(n.name)
            n.links.add(name)
        n.takes_part(other)
        self._point("join_cluster")
        self.start()

    def start(self) -> None:
        self.node.app = True
        self._point("start_app")

    def leave(self) -> None:
        n = self.node
        n.app = False
        self._point("stop_app")
        for name in n.db - {n.name}:
            mate = self.world.at(name)
            mate.db = mate.db - {n.name}
            self.world.unlink(n, mate)
        if any(n.name in q.members for q in n.queues.values()) and len(n.db) > 1 and n.db & {"rabbit@mq1"}:
            self.world._complain(f"{n.name} left with a queue on it")
        n.db = {n.name}
        n.takes_part(Node("", "", set()))
        self._point("reset")
        self.start()

    def set_handling(self, word: str) -> None:
        self.node.handling = word
        self.node.unheeding = 0
        self._point(f"handling {word}")

    def set_policy(self, policy: Policy) -> None:
        import json
        import re

        self.node.policies[policy.name] = policy
        ends = json.loads(policy.definition).get("ha-params")
        for q in self.node.queues.values():
            if ends and q.kind == "classic" and re.search(policy.pattern, q.name):
                if q.leader not in ends:
                    if q.name not in self.world.restless:
                        self.world._complain(f"the leader of {q.name} was dropped with messages under way")
                    q.leader = ends[0]
                q.members, q.policy = tuple(ends), policy.name
        self._point(f"policy {policy.name}")

    def clear_policy(self, vhost: str, name: str) -> None:
        self.node.policies.pop(name, None)
        for q in self.node.queues.values():
            q.policy = "" if q.policy == name else q.policy
        self._point(f"clear {name}")

    def move_quorum(self, queue: QueueHome, to: Sequence[str]) -> None:
        q = self.node.queues[queue.name]
        q.members = tuple(dict.fromkeys([*q.members, *to]))
        self._point(f"grow {q.name}")
        q.leader = to[0]
        self._point(f"transfer {q.name}")
        q.members = tuple(sorted(to))
        self._point(f"shrink {q.name}")

    def hand_over(
        self, queues: Sequence[tuple[QueueHome, Sequence[str]]], limit_s: float
    ) -> tuple[QueueHome, ...]:
        for told, nodes in queues:
            q = self.node.queues[told.name]
            if q.leader != self.node.name or not set(nodes) < set(q.members):
                self.world._complain(f"{self.node.name} handed {q.name} over")
            if q.name not in self.world.restless:
                q.leader = nodes[0]
                self._point(f"hand over {q.name}")
        return tuple(told for told, _ in queues if told.name in self.world.restless)

    def purge(self, queues: Sequence[QueueHome]) -> None:
        if not self.node.wall and queues:
            self.world._complain("purged without a wall")
        self._own()
        for q in queues:
            self.node.queues.pop(q.name, None)
            self._point(f"purge {q.name}")

    def _own(self) -> None:
        """A side has records of its own from the cut on."""
        mates = [self.world.at(n) for n in self.node.links | {self.node.name}]
        others = [n for n in self.world.nodes.values() if n not in mates and n.queues is self.node.queues]
        if others:
            mine = {k: replace(q) for k, q in self.node.queues.items()}
            own = Node("", "", set(), queues=mine, policies=dict(self.node.policies))
            own.accounts, own.shovels = dict(self.node.accounts), dict(self.node.shovels)
            for mate in mates:
                mate.takes_part(own)

    def forget(self, node: str) -> None:
        if node in self.node.links:
            raise StepFailed(f"{node} runs")
        for q in self.node.queues.values():
            if q.leader == node:
                self.world._complain(f"{q.name} was forgotten with {node}")
        for mate in (self.world.at(n) for n in self.node.links | {self.node.name}):
            mate.db = mate.db - {node}
        self._point(f"forget {node}")

    def keep_cookie(self, plan: str, *, new: bool) -> str:
        return self.world.hosts[self.host].keep(plan, b"NEWCOOKIE" if new else self.node.cookie)

    def take_cookie(self, plan: str, source: RabbitNodePort, sha256: str) -> None:
        if self.cookie() != sha256:
            self.node.cookie = source.kept_cookie(plan, sha256)
            self._point("cookie")

    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self.node.wall = kind
        self._point(f"wall {kind}")

    def apart(self, other: str) -> bool:
        unit = self.world.hosts[self.host].units_.get(unit_name(other))
        return unit is not None and unit.active

    def unwall(self) -> None:
        self.node.wall = ""
        self._point("unwall")
        self.world.observe()


class SimClients:
    """BrokerPort as far as clients go."""

    def __init__(self, world: RabbitWorld, node: Node) -> None:
        self.world = world
        self.node = node
        self.name = node.host

    def _all(self) -> list[tuple[ConnectionInfo, str]]:
        if not self.node.app:
            raise Unreachable(f"the broker {self.name} does not answer")
        out = []
        for client, (unit, topic) in self.world.users.items():
            known = self.world.hosts[client].units_[unit]
            if not known.active or self.world.time < known.started_at + 1:
                continue
            home = self.world.node_of(client, unit)
            if home in self.node.links | {self.node.name} and home in self.node.db:
                out.append(
                    (
                        ConnectionInfo(
                            f"{client}:{unit}",
                            "os",
                            "/",
                            client,
                            5,
                            home,
                            f"{unit}:{known.pid}:x",
                            unit,
                            known.pid,
                        ),
                        topic,
                    )
                )
        return out

    def vhosts(self) -> tuple[str, ...]:
        return ("/",)

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        waiting = self.world.waiting
        here = cluster(self.world, self.node)
        sent = {q: len(at) for (first, q), at in self.world.traffic.waiting.items() if first == here}
        return tuple(
            QueueInfo(q, waiting.get(q, 0) + sent.get(q, 0), 0, 0, True) for q in sorted(self.node.queues)
        )

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return tuple(c for c, _ in self._all())

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        return tuple(
            Consumer(t, c.name, c.peer_host, c.peer_port, c.client_name)
            for c, t in self._all()
            if t and self.world.serves(c.peer_host)
        )


class ClientHost(SimHost):
    def begin(self, unit: SimUnit) -> None:
        text = (self.read(f"/etc/{unit.name}.conf") or b"").decode()
        unit.config = {"transport_url": get(text, "DEFAULT", "transport_url") or ""}
        unit.active = True
        unit.pid = self.world.next_pid()
        unit.started_at = self.world.time
