"""Which brokers there are, and who is connected to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from recell.adapters.broker import RABBIT_UNIT, RabbitCluster
from recell.adapters.containers import Inside
from recell.adapters.ports import ConnectionInfo
from recell.adapters.ssh import SshHost
from recell.discovery.seen import Seen
from recell.discovery.trouble import Trouble, unless
from recell.model.deployment import Broker, Client, HostFacts

__all__ = ["find_clients", "find_clusters", "hostnames"]


def find_clusters(
    hosts: dict[str, SshHost], seen: Sequence[Seen], note: Trouble
) -> list[tuple[Broker, RabbitCluster]]:
    """One Broker per set of nodes that know each other."""
    out: list[tuple[Broker, RabbitCluster]] = []
    done: set[str] = set()
    by_hostname = hostnames(one.facts for one in seen)
    for one in seen:
        if not one.has_rabbit or one.facts.name in done:
            continue
        found = unless(note, f"the broker on {one.facts.name}", _cluster, hosts, one.facts.name, by_hostname)
        if found is not None:
            done |= set(found[0].hosts)
            out.append(found)
    return out


def hostnames(facts: Iterable[HostFacts]) -> dict[str, str]:
    """Inventory names by what RabbitMQ calls a node's host: in full; short where one host is called so."""
    known: dict[str, str] = {}
    short: dict[str, set[str]] = {}
    for host in facts:
        known[host.hostname] = host.name
        short.setdefault(host.hostname.partition(".")[0], set()).add(host.name)
    return {**{name: next(iter(hosts)) for name, hosts in short.items() if len(hosts) == 1}, **known}


def _host_of_node(node: str) -> str:
    return node.partition("@")[2]


def _cluster(
    hosts: dict[str, SshHost], name: str, by_hostname: dict[str, str]
) -> tuple[Broker, RabbitCluster]:
    """The cluster that the node on this host belongs to."""
    cluster = RabbitCluster(name, (Inside(hosts[name], RABBIT_UNIT),))
    alarms = cluster.alarms()  # tells the version too
    nodes, version = cluster.running_nodes(), cluster.version()
    found_at = (by_hostname.get(n) or by_hostname.get(n.partition(".")[0]) for n in map(_host_of_node, nodes))
    members = sorted({name, *(host for host in found_at if host)})
    port = RabbitCluster(members[0], tuple(Inside(hosts[m], RABBIT_UNIT) for m in members), version)
    found = Broker(members[0], tuple(members), nodes, version, port.vhosts(), alarms=alarms)
    return found, port


def _connected(
    broker: Broker, port: RabbitCluster
) -> tuple[dict[str, set[str]], tuple[ConnectionInfo, ...]]:
    """connection -> queues that it takes from; and all connections."""
    queues: dict[str, set[str]] = {}
    consumers, connections = port.clients(broker.vhosts)
    for consumer in consumers:
        queues.setdefault(consumer.connection, set()).add(consumer.queue)
    return queues, connections


def find_clients(ports: list[tuple[Broker, RabbitCluster]], seen: Sequence[Seen]) -> tuple[Client, ...]:
    """Who is connected, by account and program; reply queues and fanouts are not named."""
    by_ip = {ip: one.facts.name for one in seen for ip in one.facts.ips}
    groups: dict[tuple[str, str, str, str, str], tuple[int, set[str]]] = {}
    with ThreadPoolExecutor(max(1, len(ports))) as pool:
        answers = list(pool.map(lambda pair: _connected(*pair), ports))
    for (broker, _), (queues, connections) in zip(ports, answers, strict=True):
        for c in connections:
            key = (broker.name, c.vhost, c.user, by_ip.get(c.peer_host, c.peer_host), c.program)
            number, names = groups.get(key, (0, set()))
            named = {
                q
                for q in queues.get(c.name, set())
                if not q.startswith(("reply_", "amq.")) and "_fanout_" not in q
            }
            groups[key] = (number + 1, names | named)
    return tuple(
        Client(*key, connections=n, queues=tuple(sorted(q))[:20]) for key, (n, q) in sorted(groups.items())
    )
