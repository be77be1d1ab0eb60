"""RabbitMQ without Nova: nodes, queues, and which unit on which host each connection belongs to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from recell.adapters.broker import RABBIT_UNIT, RabbitCluster
from recell.adapters.conf import Config, parse_config
from recell.adapters.containers import Inside
from recell.adapters.ports import ConnectionInfo, HostPort, ProcessInfo
from recell.adapters.rabbit_node import RabbitNode as Node
from recell.adapters.rabbit_node import handling_word, used
from recell.adapters.rabbit_settings import main_file, settings_of
from recell.adapters.rpc import runs
from recell.adapters.ssh import SshHost
from recell.discovery.fronts import NOVA_UNREAD, FrontHost, proxied, told_of_nova, with_balancers, with_doors
from recell.discovery.scan import look_for_nova
from recell.discovery.seen import host_facts
from recell.discovery.services import environment_of
from recell.errors import BadInput, RecellError, Unreachable, Unsupported
from recell.model.deployment import Address, Broker, ConfigFile, Deployment, HostFacts
from recell.model.rabbit import WEB_SERVERS, QueueHome, RabbitClient, RabbitNode
from recell.model.urls import parse_url
from recell.planning import rabbit_conf

CONF = "/etc/rabbitmq/rabbitmq.conf"
_SET_BY_RECELL = (b"cluster_partition_handling", b"cluster_nodes")
_QUEUES_OF = ("oslo_messaging_rabbit", "DEFAULT")
"""Where oslo.messaging is told how to declare queues; the second in old releases."""
_KEYS = ("cluster_partition_handling", "cluster_formation.classic_config.nodes.")


class GreetedHost(FrontHost, Protocol):
    """A host that tells who it is."""

    def hello(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Seen:
    facts: HostFacts
    processes: tuple[ProcessInfo, ...]
    has_rabbit: bool


def scan_rabbit(inventory: Sequence[tuple[str, Address]], at: float) -> Deployment:
    """Look at every host of the inventory, for RabbitMQ, its clients and what leads users to these. Changes
    nothing.

    :raises Unreachable, Denied: a host, naming it. :raises Unsupported: no RabbitMQ runs there.
    """
    hosts = {name: SshHost(name, address) for name, address in inventory}
    try:
        return look_at_rabbit(
            hosts, dict(inventory), at, lambda: look_for_nova(hosts, dict(inventory), at)
        )
    finally:
        for host in hosts.values():
            host.close()


def look_at_rabbit(
    hosts: Mapping[str, GreetedHost],
    addresses: Mapping[str, Address],
    at: float,
    find_nova: Callable[[], Deployment | None] = lambda: None,
) -> Deployment:
    """:param find_nova: asked when a host runs something of that name."""
    with ThreadPoolExecutor(max_workers=min(6, max(1, len(hosts)))) as pool:
        seen = dict(zip(hosts, pool.map(lambda n: _look(hosts[n], addresses[n]), hosts), strict=True))
        with_rabbit = [n for n, s in seen.items() if s.has_rabbit]
        if not with_rabbit:
            raise Unsupported(
                "no host of the inventory runs RabbitMQ", "Name its nodes' hosts in the inventory"
            )
        told = dict(zip(with_rabbit, pool.map(lambda n: _told(hosts[n]), with_rabbit), strict=True))
        more = dict(zip(with_rabbit, pool.map(lambda n: Node(hosts[n]).settings(), with_rabbit), strict=True))
        cookies = dict(
            zip(with_rabbit, pool.map(lambda n: Node(hosts[n]).cookie(), with_rabbit), strict=True)
        )
    numbers = {c: i for i, c in enumerate(dict.fromkeys(cookies.values()))}
    nodes = tuple(_node(hosts[n], told[n], more[n], numbers[cookies[n]]) for n in with_rabbit)
    brokers, clients, queues = _clusters(hosts, seen, nodes)
    facts = {n: s.facts for n, s in seen.items()}
    for node in nodes:
        facts[node.host] = _with_file(facts[node.host], hosts[node.host], node.config)
    for client in clients:
        for path in client.files if client.host else ():
            facts[client.host] = _with_file(facts[client.host], hosts[client.host], path)
    proxies, remarks = proxied(hosts, facts, {n: s.processes for n, s in seen.items()})
    found = Deployment(
        format=1,
        generation="none",
        made_at=at,
        nova_version="",
        hosts=tuple(facts.values()),
        services=(),
        brokers=brokers,
        clients=(),
        mappings=(),
        records=(),
        proxies=proxies,
        writers=(),
        remarks=remarks,
        rabbit=nodes,
        rabbit_clients=clients,
        rabbit_queues=queues,
    )
    found = with_balancers(found)
    if any("nova" in word for s in seen.values() for p in s.processes for word in p.argv):
        try:
            nova = find_nova()
            found = told_of_nova(found, nova) if nova is not None else found
        except Unsupported as error:
            # Others than Nova may move all the same.
            found = replace(found, remarks=(*remarks, f"{NOVA_UNREAD}||{error.sentence}|{error.remedy}"))
    return with_doors(found, hosts)


def _look(host: GreetedHost, address: Address) -> _Seen:
    processes = host.processes()
    rabbit = any(
        p.argv
        and p.argv[0].endswith(("beam.smp", "beam"))
        and any("rabbit" in w for w in p.argv)
        and "-B" not in p.argv[:2]
        and any("boot" in w for w in p.argv)
        for p in processes
    )
    return _Seen(host_facts(host, address, str(host.hello()["hostname"])), processes, rabbit)


def _told(host: HostPort) -> dict[str, Any]:
    try:
        return Node(host).raw()
    except Unreachable:
        port = environment_of(host.unit(RABBIT_UNIT), host).get("ERL_EPMD_PORT", "")
        if not port:
            raise
        raise Unsupported(
            f"RabbitMQ on {host.name} has epmd's port ({port}) from its unit's environment, and"
            " rabbitmqctl there does not find it",
            "Say ERL_EPMD_PORT in rabbitmq-env.conf, which both read, and restart it",
        ) from None


def _with_file(facts: HostFacts, host: HostPort, path: str) -> HostFacts:
    stat = host.stat(path) if path else None
    if stat is None or any(f.path == path for f in facts.config_files):
        return facts
    file = ConfigFile(path, stat.sha256, stat.mode, stat.owner, stat.group)
    return replace(facts, config_files=(*facts.config_files, file))


def _node(host: HostPort, told: Mapping[str, Any], more: Mapping[str, Any], cookie: int) -> RabbitNode:
    listed = [str(f).partition(" (")[0] for f in told["config"]]
    # In the order in which it reads them; the last one that sets a key counts.
    confs = [f for f in listed if f.endswith(".conf")]
    conf = next(iter(confs), "")
    texts = {f: (host.read(f) or b"").decode("utf-8", "replace") for f in confs[1:]}
    later = [f for f, text in texts.items() if rabbit_conf.sets(text, _KEYS)]
    terms = [f for f in listed if f.endswith(".config")]
    classic = not conf and any(not f.endswith("advanced.config") and host.stat(f) for f in terms)
    sets = any(word in (host.read(f) or b"") for f in terms for word in _SET_BY_RECELL)
    return RabbitNode(
        host=host.name,
        name=told["name"],
        version=told["version"],
        erlang=told["erlang"],
        members=tuple(sorted(told["members"])),
        running=tuple(sorted(told["running"])) if told["up"] else (),
        partitions=tuple(told["partitions"]),
        alarms=tuple(told["alarms"]),
        handling=handling_word(told["handling"]),
        ticktime_s=float(told["ticktime"]),
        dist_port=int(told["port"]),
        cookie=cookie,
        used=used(dict(told)),
        config=conf or main_file(more) or CONF,
        elsewhere=later[-1] if later else "",
        settings=settings_of(more, told["name"]),
        old_config=classic or sets,
        khepri=bool(told["khepri"]),
        coordinator=bool(told["coordinator"]),
        container=host.unit(RABBIT_UNIT).container is not None,
    )


def _clusters(
    hosts: Mapping[str, GreetedHost], seen: Mapping[str, _Seen], nodes: Sequence[RabbitNode]
) -> tuple[tuple[Broker, ...], tuple[RabbitClient, ...], tuple[QueueHome, ...]]:
    brokers: list[Broker] = []
    clients: list[RabbitClient] = []
    queues: list[QueueHome] = []
    done: set[str] = set()
    for node in nodes:
        if node.host in done:
            continue
        mine = [n for n in nodes if n.name in node.members] or [node]
        done |= {n.host for n in mine}
        port = RabbitCluster(node.host, [Inside(hosts[n.host], RABBIT_UNIT) for n in mine], node.version)
        vhosts = port.vhosts()
        brokers.append(
            Broker(
                node.host, tuple(n.host for n in mine), node.running, node.version, vhosts, alarms=node.alarms
            )
        )
        if len(mine) == 1 and not node.used:
            continue
        consumers, connections = port.clients(vhosts)
        taken: dict[str, set[str]] = {}
        for consumer in consumers:
            taken.setdefault(consumer.connection, set()).add(consumer.queue)
        clients += _clients(node.host, hosts, seen, connections, taken)
        if not node.khepri:
            queues += Node(hosts[node.host]).queues()
    return tuple(brokers), tuple(clients), tuple(queues)


def _clients(
    cluster: str,
    hosts: Mapping[str, GreetedHost],
    seen: Mapping[str, _Seen],
    connections: Sequence[ConnectionInfo],
    taken: Mapping[str, set[str]],
) -> list[RabbitClient]:
    by_ip = {ip: name for name, s in seen.items() for ip in s.facts.ips}
    groups: dict[tuple[str, str, str, str, str], list[ConnectionInfo]] = {}
    for c in connections:
        host = by_ip.get(c.peer_host, "")
        host, unit = _process(seen, host, c) or (host, "")
        # One that can't be told apart is named by where it comes from.
        groups.setdefault((c.vhost, c.program, "" if unit else c.peer_host, host, unit), []).append(c)
    out = []
    for (vhost, program, _, host, unit), members in sorted(groups.items()):
        names = {q for c in members for q in taken.get(c.name, ())}
        base = RabbitClient(
            cluster=cluster,
            vhost=vhost,
            program=program,
            peer=members[0].peer_host,
            host=host,
            unit=unit,
            connections=len(members),
            nodes=tuple(sorted({c.node for c in members})),
            queues=tuple(sorted(q for q in names if _is_shared(q))),
        )
        out.append(_with_config(base, hosts[host]) if host and unit else base)
    return out


def _is_shared(queue: str) -> bool:
    return not queue.startswith(("reply_", "amq.")) and "_fanout_" not in queue


def _process(seen: Mapping[str, _Seen], host: str, c: ConnectionInfo) -> tuple[str, str] | None:
    """(host, unit) of a connection by what it says of itself; through a proxy, where only one host fits."""
    found = []
    for name in [host] if host else seen:
        for p in seen[name].processes:
            if c.pid and p.told_pid == c.pid and runs(c.program, p):
                units = [part for part in p.cgroup.split("/") if part.endswith(".service")]
                found.append((name, units[-1].removesuffix(".service") if units else ""))
    if not found and host:
        return _process(seen, "", c)  # a proxy runs on that host
    return found[0] if len(set(found)) == 1 and found[0][1] else None


def _with_config(client: RabbitClient, host: HostPort) -> RabbitClient:
    unit = host.unit(client.unit)
    if unit.container is not None:
        return replace(client, container=True)
    environment = environment_of(unit, host)
    paths = oslo_paths(unit.exec_start, client.program, host, unit=client.unit, environment=environment)
    file, shown = "", ""
    also: dict[str, tuple[str, str, str]] = {}
    fixed: dict[str, str] = {}
    ends = ""
    for path in paths:
        try:
            config = parse_config([(path, host.read(path) or b"")])
            if config.has("DEFAULT", "transport_url"):
                file, shown = path, parse_url(config.get("DEFAULT", "transport_url")).shown()
            ends = next((found for s in _QUEUES_OF if (found := config.get(s, "amqp_auto_delete"))), ends)
            for section, option, url in _urls(config):
                if option != "transport_url":
                    fixed[f"[{section}] {option}"] = url
                elif section != "DEFAULT":
                    also[section] = (path, section, url)
        except BadInput as error:
            raise BadInput(f"{host.name}: {error.sentence}", error.remedy) from None
        except RecellError:
            continue
    if environment.get("OS_DEFAULT__TRANSPORT_URL"):
        file = ""  # it wins over every file
    ends = environment.get("OS_OSLO_MESSAGING_RABBIT__AMQP_AUTO_DELETE", ends)
    return replace(
        client,
        files=paths,
        file=file,
        shown=shown,
        also=tuple(also.values()),
        fixed=tuple(fixed.items()),
        auto_delete=ends.strip().lower() in ("true", "1", "on", "yes"),
    )


def _urls(config: Config) -> list[tuple[str, str, str]]:
    """(section, option, URL without its password) of all that lead to a RabbitMQ."""
    return [
        (section, option, parse_url(value).shown())
        for section in config.groups
        for option, values in config.values[section].items()
        for value in values
        if value.strip().startswith(("rabbit://", "kombu+", "amqp://"))
    ]


def oslo_paths(
    argv: Sequence[str],
    program: str,
    host: HostPort,
    *,
    unit: str = "",
    environment: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """The files that an oslo.config program reads, in order: named ones, else its project's; directories.

    A WSGI application has them from its ``environment``, and without that from its project, by whose name
    the ``unit`` begins.
    """

    def named(option: str) -> list[str]:
        out = [argv[i + 1] for i, w in enumerate(argv[:-1]) if w == option]
        return out + [w.partition("=")[2] for w in argv if w.startswith(option + "=")]

    if program in WEB_SERVERS and unit:
        program = unit
    project = program.partition("-")[0]
    files = (
        named("--config-file")
        or _named_by_environment(environment or {}, project)
        or [f"/etc/{project}/{project}.conf", f"/etc/{project}/{program}.conf"]
    )
    directories = named("--config-dir") or [
        f"/etc/{project}/{project}.conf.d",
        f"/etc/{project}/{program}.conf.d",
    ]
    found = [f for f in files if host.stat(f)]
    for directory in directories:
        found += sorted(host.glob(posixpath.join(directory, "*.conf")))
    return tuple(dict.fromkeys(found))


def _named_by_environment(environment: Mapping[str, str], project: str) -> list[str]:
    """``OS_NEUTRON_CONFIG_FILES`` in ``OS_NEUTRON_CONFIG_DIR``, as OpenStack's WSGI modules read them."""
    found = [m[1] for key in environment if (m := re.fullmatch(r"OS_([A-Z]+)_CONFIG_(?:DIR|FILES)", key))]
    for name in sorted(set(found), key=lambda n: n.lower() != project):
        top = environment.get(f"OS_{name}_CONFIG_DIR", f"/etc/{name.lower()}").strip()
        listed = environment.get(f"OS_{name}_CONFIG_FILES", f"{name.lower()}.conf").split(";")
        return [posixpath.join(top, word.strip()) for word in listed if word.strip()]
    return []
