"""What the layers above may ask of a RabbitMQ cluster: who is on it, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Consumer:
    """A consumer on a queue and the connection it came by, as the broker sees it."""

    queue: str
    connection: str
    peer_host: str
    peer_port: int
    client_name: str  # oslo.messaging: "<program>:<pid>:<uuid>"


@dataclass(frozen=True)
class QueueInfo:
    name: str
    messages_ready: int
    messages_unacknowledged: int
    consumers: int
    durable: bool


@dataclass(frozen=True)
class ConnectionInfo:
    """A client's connection. ``program`` and ``pid`` are empty/0 when the client doesn't say."""

    name: str
    user: str
    vhost: str
    peer_host: str
    peer_port: int
    node: str
    client_name: str
    program: str
    pid: int


class BrokerPort(Protocol):
    """One RabbitMQ cluster, asked through rabbitmqctl on one of its hosts."""

    name: str

    def version(self) -> str: ...
    def running_nodes(self) -> tuple[str, ...]: ...
    def vhosts(self) -> tuple[str, ...]: ...
    def users(self) -> tuple[str, ...]: ...
    def queues(self, vhost: str) -> tuple[QueueInfo, ...]: ...
    def at_hand(self, vhost: str, idle_s: float) -> AbstractContextManager[None]:
        """While it lasts, :meth:`queues` of this vhost takes milliseconds, where that can be had. Needs
        seconds to begin, and ends by itself when nobody has asked for ``idle_s``."""
        ...

    def slow_because(self, vhost: str) -> str:
        """Why it can't be had, or stopped being had; "" if it was at hand, or nobody wanted it."""
        ...

    def consumers(self, vhost: str) -> tuple[Consumer, ...]: ...
    def connections(self) -> tuple[ConnectionInfo, ...]: ...
    def alarms(self) -> tuple[str, ...]: ...
    def password_works(self, user: str, password: str) -> bool: ...
    def permissions(self, vhost: str) -> Mapping[str, tuple[str, str, str]]: ...
    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        """(exchange, queue) of every binding to a queue."""
        ...

    def add_vhost(self, vhost: str) -> None: ...
    def bind_spare(self, vhost: str, exchange: str, queue: str) -> None:
        """Bind a queue of at most one message to an exchange, so that the exchange stays."""
        ...

    def delete_queue(self, vhost: str, queue: str) -> None: ...
    def add_user(self, user: str, password: str) -> None: ...
    def permit(self, vhost: str, user: str) -> None: ...
    def delete_vhost(self, vhost: str) -> None: ...
    def delete_user(self, user: str) -> None: ...
    def revoke(self, vhost: str, user: str) -> None: ...
