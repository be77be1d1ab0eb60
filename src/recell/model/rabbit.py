"""What recell knows of RabbitMQ nodes, queues and clients. Holds no secret."""

from __future__ import annotations

import re
from dataclasses import dataclass

NO_HOME_OF_ITS_OWN = re.compile(r"^(amq\.|reply_|.*_fanout_)")
"""Queues that oslo.messaging makes for one process: they are made where it connects, end with it, and a
mirroring policy must leave them out, or every one of them would be on every node."""

EPMD = 4369
"""Where epmd listens unless ERL_EPMD_PORT says otherwise."""
WEB_SERVERS = ("uwsgi", "mod_wsgi", "gunicorn", "apache2", "httpd")
"""Programs that run somebody else's WSGI application."""


@dataclass(frozen=True)
class NodeSettings:
    """How a node was started.

    ``cookie_given``: its Erlang cookie comes from its command line or environment, so that a file changes
    nothing. ``joins``: nodes, or a service that names them, whose cluster it joins by itself when it starts
    blank. ``listeners``: (protocol, address, port); protocols that matter are ``amqp`` and ``amqp/ssl``;
    empty: not known. ``movers``: shovels and federation upstreams that run in it; ``node_policies``:
    policies that mirror to nodes by their names. ``transient``: it takes queues that are neither durable nor
    exclusive. ``limited``: some vhost may have so many queues or connections only. ``epmd_port``: where
    it asks epmd for other nodes, and tells it of itself.
    """

    cookie_given: bool = False
    joins: tuple[str, ...] = ()
    listeners: tuple[tuple[str, str, int], ...] = ()
    movers: tuple[str, ...] = ()
    node_policies: tuple[str, ...] = ()
    transient: bool = True
    limited: bool = False
    epmd_port: int = EPMD

    def speaks(self, port: int) -> tuple[str, ...]:
        """What AMQP clients are spoken to on a port: amqp, amqp/ssl, or nothing."""
        return tuple(sorted({p for p, _, n in self.listeners if n == port and p in ("amqp", "amqp/ssl")}))


@dataclass(frozen=True)
class RabbitNode:
    """A RabbitMQ node as ``recell scan`` found it.

    ``members``: all nodes of its cluster that it knows, itself too. ``cookie``: nodes with the same number
    have the same Erlang cookie. ``used``: what makes it not blank (queues, users, vhosts, policies).
    ``config``: the sysctl-style file that it reads, or would read. ``old_config``: it is configured by
    Erlang terms, which recell doesn't edit. ``khepri``: its metadata are not in Mnesia. ``dist_port``: where
    other nodes reach it, 0 when it can't tell.
    ``container``: it runs in a container. ``elsewhere``: a file that it reads after ``config``, and that sets
    what recell would set there. ``coordinator``: it runs the one of streams, as all nodes do
    once there was a stream.
    """

    host: str
    name: str
    version: str
    erlang: str
    members: tuple[str, ...]
    running: tuple[str, ...]
    partitions: tuple[str, ...]
    alarms: tuple[str, ...]
    handling: str
    ticktime_s: float
    dist_port: int
    cookie: int
    used: tuple[str, ...]
    config: str
    old_config: bool = False
    khepri: bool = False
    container: bool = False
    unit: str = "rabbitmq-server"
    elsewhere: str = ""
    settings: NodeSettings = NodeSettings()
    coordinator: bool = False


@dataclass(frozen=True)
class QueueHome:
    """A queue and where it is.

    ``members``: nodes that hold it, the leader too; ``synced``: those of them that hold all of it.
    ``kind``: classic, quorum, stream. ``policy``: the effective one's name, "" for none. ``takers``: node of
    each consumer's connection. ``auto_delete``: it ends with its last taker.
    """

    vhost: str
    name: str
    kind: str
    leader: str
    members: tuple[str, ...]
    synced: tuple[str, ...]
    durable: bool = False
    exclusive: bool = False
    policy: str = ""
    takers: tuple[str, ...] = ()
    auto_delete: bool = False

    @property
    def of_a_process(self) -> bool:
        return self.exclusive or bool(NO_HOME_OF_ITS_OWN.match(self.name))


@dataclass(frozen=True)
class Policy:
    """A RabbitMQ policy. ``definition``: JSON text, keys sorted."""

    vhost: str
    name: str
    pattern: str
    apply_to: str
    priority: int
    definition: str


@dataclass(frozen=True)
class RabbitClient:
    """The connections of one unit's processes to one cluster.

    ``host`` and ``unit`` are "" when the client is on no host of the inventory, or is no unit; ``peer`` then
    says where it connects from. ``files``: what it reads, in order; ``file``: the one that sets
    transport_url. ``shown``: that URL without its password. ``queues``: what it takes from, but for queues
    of its own. ``role``: Nova's, of one of its services; those are listed without a connection, too, since
    some connect only when they have something to say. ``url``: where it answers HTTP, as its host reaches it.
    ``also``: (file, section, URL without its password) of further sections that set a transport_url, as
    [oslo_messaging_notifications] does; ``fixed``: (option, such a URL) of options that recell does not edit.
    ``auto_delete``: by its configuration the queues that it declares end with their last taker.
    """

    cluster: str
    vhost: str
    program: str
    peer: str
    host: str
    unit: str
    connections: int
    nodes: tuple[str, ...]
    queues: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    file: str = ""
    shown: str = ""
    container: bool = False
    role: str = ""
    url: str = ""
    also: tuple[tuple[str, str, str], ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()
    auto_delete: bool = False

    @property
    def label(self) -> str:
        """What layouts match patterns against: program@host."""
        return f"{self.unit or self.program or 'unknown'}@{self.host or self.peer}"


@dataclass(frozen=True)
class NodeView:
    """A node as it is this moment. ``linked``: nodes that it has an Erlang connection to, of any cluster.

    ``members`` come from the node's own database, ``on_disk`` from the file that it will start with.
    ``unheeding``: channels that go by another partition handling than the node's ``handling``.
    ``coordinator``: as in :class:`RabbitNode`.
    """

    name: str
    members: tuple[str, ...]
    on_disk: tuple[str, ...]
    running: tuple[str, ...]
    linked: tuple[str, ...]
    partitions: tuple[str, ...]
    handling: str
    alarms: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    ticktime_s: float = 60.0
    unheeding: int = 0
    coordinator: bool = False
