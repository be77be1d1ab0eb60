"""What the layers above may ask of the outside world.

Three implementations answer: the real one (SSH, MySQL, rabbitmqctl, HAProxy's socket), the dry one
(reads for real, writes nothing) and the simulated one of the tests, in which whole conversions are
killed at every point. All errors are :mod:`recell.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from recell.adapters.bridge_port import BridgeEnd, Ferry
from recell.adapters.broker_port import BrokerPort, ConnectionInfo, Consumer, QueueInfo
from recell.adapters.guests_port import GuestsPort
from recell.adapters.host_port import (
    Contained,
    ContainerState,
    FileStat,
    Finished,
    HostPort,
    ProcessInfo,
    SocketInfo,
    UnitState,
    UnitVerb,
    processes_of,
)
from recell.adapters.hosts_port import HostsPort
from recell.adapters.mover_port import MoverPort
from recell.adapters.nova_port import NovaPort, RawMapping, ServiceRow
from recell.adapters.proxy_port import ProxyPort, ProxyServer
from recell.adapters.rabbit_port import CutNode, RabbitNodePort
from recell.adapters.relay_port import RelayPort
from recell.adapters.v1_hold_port import EarPort, FencePort, GatePort, UnderWayPort
from recell.adapters.v1_port import V1Port
from recell.adapters.waiting_room_port import WaitingRoom
from recell.model.hosts import HostsMove
from recell.model.moving import Ends, Login
from recell.model.v1 import Conversion
from recell.planning.bridge import Shores

__all__ = [
    "BrokerPort", "ConnectionInfo", "Consumer", "Contained", "ContainerState", "CutNode", "FileStat",
    "Finished", "HostPort", "NovaPort", "ProcessInfo", "ProxyPort", "ProxyServer", "QueueInfo",
    "RabbitNodePort", "RawMapping", "RelayPort", "ServiceRow", "SocketInfo", "UnitState", "UnitVerb",
    "WaitingRoom", "World", "processes_of",
]

T = TypeVar("T")


class World(Protocol):
    """Everything that exists outside, reached by the names that the plan uses."""

    def host(self, name: str) -> HostPort: ...
    def broker(self, name: str) -> BrokerPort: ...
    def proxy(self, host: str) -> ProxyPort: ...
    def nova(self) -> NovaPort: ...
    def relay(self, host: str, name: str) -> RelayPort:
        """The relay called ``name`` (a plan's short name will do) on ``host``; installed or not yet."""
        ...

    def mover(self, ends: Ends, ours: Login, nova: Login) -> MoverPort:
        """The database that moves between these servers; the same one at each call.

        :param ours: recell's own account on both. nova: Nova's.
        """
        ...

    def between(self, move: HostsMove, ours: Login) -> HostsPort:
        """Hosts between two cells; the same one at each call. ``ours``: recell's own account on both."""
        ...

    def guests(self, cloud: str) -> GuestsPort:
        """Throw-away guests of this account of clouds.yaml."""
        ...

    def v1(self, conversion: Conversion, ours: Login) -> V1Port:
        """Child and API cell; the same one at each call. ``ours``: recell's own account on both."""
        ...

    def gate(self, host: str, backend: str) -> GatePort:
        """The gate before this backend of the HAProxy on ``host``; the same one at each call."""
        ...

    def fence(self, host: str) -> FencePort: ...
    def ear(self, conversion: Conversion) -> EarPort:
        """Of this API cell; the same one at each call."""
        ...

    def under_way(self, host: str, config: str, broker: str, vhost: str) -> UnderWayPort:
        """Of the Nova that this file on ``host`` configures."""
        ...

    def stop_rpc_server(
        self,
        host: str,
        unit: str,
        broker: str,
        vhost: str,
        limit: float,
        idle: Callable[[], str] | None = None,
        *,
        lost: bool = False,
    ) -> float:
        """End a unit that serves RPC without losing what its senders are sending meanwhile.

        Deliveries to it are held off, it finishes what it has begun, then it is killed; what it had
        not taken goes back to the broker. At the end the unit is inactive and nothing is held off.
        Returns for how many seconds deliveries were.

        :param idle: asked between holding off and ending, until it returns "": what the unit is
            still at, of work that outlives its RPC threads (nova-compute's builds).
        :param lost: the broker was given up: it isn't asked, and there is nothing to save.
        """
        ...

    def waiting_room(self, host: str, unit: str, queues: Sequence[str]) -> WaitingRoom:
        """For these queues of a Nova service, reached as it reaches them by its configuration as it is then:
        with its account, from its host."""
        ...

    def rabbit(self, host: str) -> RabbitNodePort:
        """The RabbitMQ node on this host."""
        ...

    def bridge_end(self, hosts: Sequence[str]) -> BridgeEnd:
        """The RabbitMQ cluster on these hosts."""
        ...

    def ferry(self, shores: Shores, password: str) -> Ferry:
        """Between these two; the same one at each call. ``password``: of recell's account for it on both."""
        ...

    def cut_rabbit(self, nodes: Sequence[CutNode], ports: Sequence[int], within: float) -> float:
        """Cut a RabbitMQ cluster between its sides, on all nodes at one moment.

        Walls that drop come up on every host; only when all stand, every node ends its connections to the
        other side. Returns for how many seconds the sides could not talk and did not know it yet.

        :raises StepFailed: the walls took longer than ``within`` seconds; they are taken down again, and
            no node noticed anything. Or a node did not follow: the walls stay.
        """
        ...

    def together(self, acts: Sequence[Callable[[], T]]) -> list[T]:
        """What each returns, in order; they run side by side. After all have ended, the first error in their
        order is raised."""
        ...

    def wait(self, seconds: float) -> None: ...
    def clock(self) -> float: ...
