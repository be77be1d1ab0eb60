"""Messages between two simulated RabbitMQ clusters, and the shovels that bring them over.

While shovels run, every client calls every topic at each tick. It complains of a message that
finds no queue, goes in circles or arrives after the caller gave up, and of fanouts that miss somebody.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recell.errors import Unreachable
from recell.model.rabbit import NO_HOME_OF_ITS_OWN
from recell.planning.bridge import FERRY, PREFIX, Lane, Side, Taken

if TYPE_CHECKING:
    from tests.sim.rabbit import Node, RabbitWorld

PATIENCE_S = 60.0
YOUNG_S = 25.0
"""How long a process may be up without being reached from the other cluster: callers try again meanwhile."""


@dataclass
class Traffic:
    """``waiting``: (first host of the cluster, queue) -> when each message was sent. ``patience_s``: how long
    callers wait."""

    waiting: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    patience_s: float = PATIENCE_S
    delivered: int = 0
    ticked: float = 0.0


class SimEnd:
    """BridgeEnd on the cluster of some nodes."""

    def __init__(self, world: RabbitWorld, hosts: Sequence[str]) -> None:
        self.world = world
        self.nodes = [world.nodes[h] for h in hosts]
        self.name = hosts[0]

    @property
    def node(self) -> Node:
        for node in self.nodes:
            if node.app:
                return node
        raise Unreachable(f"the broker {self.name} does not answer")

    def _point(self, what: str) -> None:
        self.world.changes.append(f"{self.name} {what}")
        self.world.time += 0.1
        self.world.point(f"{what} on {self.name}'s cluster")

    def version(self) -> str:
        return "3.10.8"

    def definitions(self) -> dict[str, Any]:
        node = self.node
        bindings = [
            {"vhost": "/", "source": source, "destination": q, "destination_type": "queue", "routing_key": q}
            for q in node.queues
            if (source := _exchange(q))
        ]
        names = sorted({str(b["source"]) for b in bindings})
        return {
            "vhosts": [{"name": "/", "limits": []}],
            "users": [{"name": n, "password_hash": p} for n, p in sorted(node.accounts.items())],
            "permissions": [{"vhost": "/", "user": n} for n in sorted(node.accounts)],
            "policies": [],
            "queues": [{"vhost": "/", "name": q, "durable": False, "arguments": {}} for q in node.queues],
            "exchanges": [{"vhost": "/", "name": n} for n in names],
            "bindings": bindings,
        }

    def load(self, definitions: Mapping[str, Any]) -> None:
        from tests.sim.rabbit import Queue

        node = self.node
        for user in definitions.get("users", []):
            node.accounts[user["name"]] = user["password_hash"]
        bound = {b["destination"] for b in definitions.get("bindings", [])}
        for queue in definitions.get("queues", []):
            name = queue["name"]
            if _exchange(name) and name not in bound:
                self.world._complain(f"{name} was made and nothing leads to it")
            node.queues.setdefault(name, Queue(name, "classic", node.name, (node.name,)))
        for parameter in definitions.get("parameters", []):
            value = parameter["value"]
            if any(n.queue == value["src-queue"] and n.name != parameter["name"] for n in self._ferried()):
                self.world._complain(f"recell carries {value['src-queue']} against its shovel")
            if not self.plugged():
                self.world._complain("a shovel without its plugin")
            for end in ("src", "dest"):
                if not all(f"{PREFIX}:" in uri for uri in value[f"{end}-uri"]):
                    self.world._complain("a shovel that can't log in")
            node.shovels[parameter["name"]] = (
                value["src-queue"],
                value["dest-queue"],
                value["src-uri"][0].rpartition("@")[2].startswith("mq1"),  # its password may hold anything
            )
        self._point(f"load {', '.join(k for k, rows in definitions.items() if rows)}")

    def taken(self, vhosts: Sequence[str], account: str) -> tuple[Taken, ...]:
        declare(self.world)
        return tuple(
            Taken("/", q, "classic", takers(self.world, self.node, q), len(self._waiting(q)))
            for q in self.node.queues
        )

    def _waiting(self, queue: str) -> list[float]:
        return self.world.traffic.waiting.get((cluster(self.world, self.node), queue), [])

    def shovels(self) -> dict[tuple[str, str], bool]:
        return {("/", name): True for name in self.node.shovels}

    def _ferried(self) -> frozenset[Lane]:
        return self.world.ferry_.lanes

    def clear_shovels(self, names: Iterable[tuple[str, str]]) -> None:
        for _, name in list(names):
            if any(lane.name == name for lane in self._ferried()):
                self.world._complain(f"recell goes on where the shovel of {name} has gone")
            self.node.shovels.pop(name, None)
        self._point("clear shovels")

    def drop_queues(self, names: Iterable[tuple[str, str]], *, full: bool = False) -> None:
        for _, name in list(names):
            if not takers(self.world, self.node, name) and (full or not self._waiting(name)):
                self.node.queues.pop(name, None)
                self.world.traffic.waiting.pop((cluster(self.world, self.node), name), None)
        self._point("drop queues")

    def plugged(self) -> tuple[str, ...]:
        return tuple(n.host for n in self.nodes if n.plugged)

    def plug(self, host: str, on: bool) -> None:
        self.world.nodes[host].plugged = on
        self._point(f"plugin {on}")

    def set_account(self, name: str, password: str, vhosts: Sequence[str], declares: str = "^$") -> None:
        self.node.accounts[name] = "hash"
        self._point(f"account {name}")

    def drop_account(self, name: str) -> None:
        if self._ferried():
            self.world._complain(f"recell carries on without {name}")
        self.node.accounts.pop(name, None)
        self._point(f"drop {name}")


class SimFerry:
    """Ferry of one run of recell's; it dies with it."""

    def __init__(self, world: RabbitWorld) -> None:
        self.world = world
        self.lanes: frozenset[Lane] = frozenset()
        self._made: set[tuple[Side, str, str]] = set()

    def follow(self, lanes: Iterable[Lane]) -> None:
        if not all(FERRY in self.world.nodes[h].accounts for h in ("mq1", "mq4")):
            self.world._complain("recell carries requests without an account")
        self.lanes = frozenset(lane for lane in lanes if lane.asks)

    def carries(self, queues: Iterable[str], toward: Side) -> bool:
        return not self.world.killed and any(
            lane.queue in queues and lane.toward == toward for lane in self.lanes
        )

    def make(self, queue: str, side: Side, node: Node) -> None:
        from tests.sim.rabbit import Queue

        node.queues[queue] = Queue(queue, "classic", node.name, (node.name,))
        self._made.add((side, "/", queue))

    def made(self) -> tuple[tuple[Side, str, str], ...]:
        return tuple(self._made)

    def news(self) -> str:
        return f"made {len(self._made)} queues" if self._made else ""

    def close(self) -> None:
        self.lanes = frozenset()


def cluster(world: RabbitWorld, node: Node) -> str:
    """The first host of its cluster."""
    return min(n.host for n in world.nodes.values() if n.queues is node.queues)


def _exchange(queue: str) -> str:
    """What it is bound to; "" for what is reached by its name alone."""
    if queue.startswith("reply_"):
        return ""
    return queue.partition("_fanout_")[0] + "_fanout" if "_fanout_" in queue else "nova"


def own_queues(world: RabbitWorld, client: str) -> tuple[str, ...]:
    unit, topic = world.users[client]
    pid = world.hosts[client].units_[unit].pid
    return (f"reply_{pid}", *((topic, f"{topic}_fanout_{pid}") if topic else ()))


def takers(world: RabbitWorld, node: Node, queue: str) -> int:
    return sum(queue in own_queues(world, c) for c, home in _homes(world) if home.queues is node.queues)


def _homes(world: RabbitWorld) -> list[tuple[str, Node]]:
    out = []
    for client, (unit, _) in world.users.items():
        if world.hosts[client].units_[unit].active:
            out.append((client, world.at(world.node_of(client, unit))))
    return out


def declare(world: RabbitWorld) -> None:
    """What processes have declared by now. Only for a bridge: a cut's plan knows its queues."""
    from tests.sim.rabbit import Queue

    for client, home in _homes(world):
        if "os" not in home.accounts:
            world._complain(f"{client} can't log in on {home.name}")
        for queue in own_queues(world, client):
            home.queues.setdefault(queue, Queue(queue, "classic", home.name, (home.name,)))


def tick(world: RabbitWorld) -> None:
    ends = {cluster(world, n): n for n in world.nodes.values()}
    if sum(PREFIX in n.accounts for n in ends.values()) < 2 or not any(n.shovels for n in ends.values()):
        return
    traffic, now = world.traffic, world.time
    homes = _homes(world)
    declare(world)
    old = {c for c, _ in homes if now - world.hosts[c].units_[world.users[c][0]].started_at > YOUNG_S}
    lanes = [lane for n in ends.values() for lane in n.shovels.values()]
    for source, target, _ in lanes:
        if source == target and len({way for s, t, way in lanes if s == source}) > 1:
            world._complain(f"messages for {source} go in circles")
    topics = {t for _, t in world.users.values() if t}
    for caller, home in homes:
        for topic in topics:
            if topic not in home.queues:
                world._complain(f"{caller}'s message for {topic} finds no queue on {home.name}")
            else:
                traffic.waiting.setdefault((cluster(world, home), topic), []).append(now)
            for queue in home.queues:
                if queue.startswith(f"{topic}_fanout_"):
                    traffic.waiting.setdefault((cluster(world, home), queue), []).append(now)
        for other, there in homes:
            reply, *fanout = own_queues(world, other)
            if world.unheeding and reply not in home.queues:
                _first_question(world, other, topics, there, home, lanes)
            if other in old and reply not in home.queues:
                world._complain(f"{caller}'s reply to {other} finds no queue on {home.name}")
            for queue in fanout[1:]:
                if other in old and queue not in home.queues:
                    world._complain(f"{caller}'s fanout misses {other}")
                if other in old and there.queues is not home.queues and not _crosses(lanes, queue, home):
                    world._complain(f"{caller}'s fanout does not cross to {other}")
    for (first, queue), sent in list(traffic.waiting.items()):
        here = ends.get(first)
        if here is None:
            continue
        if takers(world, here, queue):
            late = [at for at in sent if now - at > traffic.patience_s]
            if late:
                world._complain(f"{len(late)} messages for {queue} came too late")
            traffic.delivered += len(sent)
            del traffic.waiting[first, queue]
            continue
        for source, target, from_keep in lanes:
            if source == queue and from_keep == (first == "mq1"):
                there = next(n for f, n in ends.items() if (f == "mq1") != from_keep)
                if target not in there.queues:
                    world._complain(f"{target} is not there to shovel to")
                traffic.waiting.setdefault((cluster(world, there), target), []).extend(sent)
                del traffic.waiting[first, queue]
                break


def _first_question(
    world: RabbitWorld,
    asker: str,
    topics: Iterable[str],
    there: Node,
    home: Node,
    lanes: Sequence[tuple[str, str, bool]],
) -> None:
    """What it asks of the other cluster is answered at once."""
    from tests.sim.rabbit import HOSTS

    asked = {t for t in topics if (t, t, HOSTS[there.host] == "keep") in lanes}
    side: Side = "keep" if HOSTS[home.host] == "keep" else "new"
    if not asked or there.queues is home.queues:
        return
    if world.ferry_.carries(asked, side):
        world.ferry_.make(own_queues(world, asker)[0], side, home)
    else:
        world._complain(f"the answer to {asker} is lost on {home.name}")


def _crosses(lanes: Sequence[tuple[str, str, bool]], queue: str, home: Node) -> bool:
    from tests.sim.rabbit import HOSTS

    return any(s == queue and from_keep == (HOSTS[home.host] == "keep") for s, _, from_keep in lanes)


def lasting(node: Node) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Queues that outlive a process."""
    found = [q for q in node.queues.values() if not NO_HOME_OF_ITS_OWN.match(q.name)]
    return {q.name: (q.leader, q.members) for q in found}


def told(plan: Any) -> str:
    """All that a plan holds, to look for what it must not."""
    return json.dumps([s.params for s in plan.steps])
