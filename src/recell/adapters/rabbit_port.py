"""What the layers above may ask of a RabbitMQ node whose cluster is cut, or made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from recell.model.rabbit import NodeView, Policy, QueueHome


class RabbitNodePort(Protocol):
    """One node and the wall on its host. Queues and policies are the cluster's, as this node knows them.

    :raises Unreachable: the node does not answer (from every method).
    """

    host: str

    def view(self) -> NodeView: ...
    def queues(self) -> tuple[QueueHome, ...]: ...
    def policies(self) -> tuple[Policy, ...]: ...
    def walled(self) -> str:
        """``drop``, ``reject`` or "": what recell's wall on the host does to the other side."""
        ...

    def cookie(self) -> str:
        """sha256 of the Erlang cookie in the node's file."""
        ...

    def join(self, peer: str) -> None: ...
    def start(self) -> None: ...
    def leave(self) -> None:
        """Make it blank again, out of its cluster."""
        ...

    def set_handling(self, word: str) -> None: ...
    def set_policy(self, policy: Policy) -> None: ...
    def clear_policy(self, vhost: str, name: str) -> None: ...
    def move_quorum(self, queue: QueueHome, to: Sequence[str]) -> None:
        """Members are added on ``to``, the leader goes there, then the others leave."""
        ...

    def hand_over(
        self, queues: Sequence[tuple[QueueHome, Sequence[str]]], limit_s: float
    ) -> tuple[QueueHome, ...]:
        """This node's leaders of classic queues end, each when nothing is unacknowledged; one of the nodes,
        which hold all of the queue, leads then. Nothing is delivered twice.

        :returns: those that had something unacknowledged all the time, and lead as before.
        """
        ...

    def purge(self, queues: Sequence[QueueHome]) -> None:
        """Drop records of queues that live on the other side of a cut; on this side only."""
        ...

    def forget(self, node: str) -> None: ...
    def keep_cookie(self, plan: str, *, new: bool) -> str:
        """Put the node's cookie, or a new one, aside on its host; its sha256."""
        ...

    def take_cookie(self, plan: str, source: RabbitNodePort, sha256: str) -> None:
        """Live and in the file at once: the cookie that ``source`` keeps."""
        ...

    def kept_cookie(self, plan: str, sha256: str) -> bytes: ...
    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None: ...
    def unwall(self) -> None: ...
    def apart(self, other: str) -> bool:
        """Whether the lasting rules against the cluster of the host ``other`` are in force."""
        ...


@dataclass(frozen=True)
class CutNode:
    """A node that is cut off from the other side: its host, the nodes there and their hosts' addresses."""

    host: str
    opposite: tuple[str, ...]
    addresses: tuple[str, ...]
