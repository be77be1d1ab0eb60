"""A RabbitMQ node that is read for real and never changed, whose cluster would be cut, or made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recell.adapters.dry_record import Record
from recell.adapters.ports import RabbitNodePort
from recell.model.rabbit import NodeView, Policy, QueueHome


class DryRabbit:
    """:class:`~recell.adapters.rabbit_port.RabbitNodePort` that changes nothing."""

    def __init__(self, real: RabbitNodePort, record: Record, joined: set[str]) -> None:
        """``joined``: names of nodes that would be one cluster by now, shared by all of them."""
        self.host = real.host
        self._real = real
        self._record = record
        self._joined = joined
        self._handling = ""

    def view(self) -> NodeView:
        view = self._real.view()
        if {view.name, *view.members} & self._joined:
            self._joined |= set(view.members)
            whole = tuple(sorted(self._joined))
            others = tuple(n for n in whole if n != view.name)
            view = replace(view, members=whole, on_disk=whole, running=whole, linked=others)
        return replace(view, handling=self._handling, unheeding=0) if self._handling else view

    def queues(self) -> tuple[QueueHome, ...]:
        return self._real.queues()

    def policies(self) -> tuple[Policy, ...]:
        return self._real.policies()

    def walled(self) -> str:
        return self._real.walled()

    def cookie(self) -> str:
        return self._real.cookie()

    def kept_cookie(self, plan: str, sha256: str) -> bytes:
        return self._real.kept_cookie(plan, sha256)

    def join(self, peer: str) -> None:
        self._record.add(self.host, f"join the cluster of {peer}")
        self._joined |= {peer, self._real.view().name}

    def start(self) -> None:
        self._record.add(self.host, "start the node's application")

    def leave(self) -> None:
        self._record.add(self.host, "make the node blank")

    def set_handling(self, word: str) -> None:
        self._record.add(self.host, f"set cluster_partition_handling {word}")
        self._handling = word

    def set_policy(self, policy: Policy) -> None:
        self._record.add(self.host, f"set the policy {policy.name} on {policy.pattern}")

    def clear_policy(self, vhost: str, name: str) -> None:
        self._record.add(self.host, f"clear the policy {name}")

    def move_quorum(self, queue: QueueHome, to: Sequence[str]) -> None:
        self._record.add(self.host, f"move {queue.name} to {', '.join(to)}")

    def hand_over(
        self, queues: Sequence[tuple[QueueHome, Sequence[str]]], limit_s: float
    ) -> tuple[QueueHome, ...]:
        for queue, nodes in queues:
            self._record.add(self.host, f"hand {queue.name} over to {', '.join(nodes)}")
        return ()

    def purge(self, queues: Sequence[QueueHome]) -> None:
        self._record.add(self.host, f"drop records of {len(queues)} queues")

    def forget(self, node: str) -> None:
        self._record.add(self.host, f"forget {node}")

    def keep_cookie(self, plan: str, *, new: bool) -> str:
        self._record.add(self.host, f"keep {'a new' if new else 'the'} Erlang cookie")
        return ""

    def take_cookie(self, plan: str, source: RabbitNodePort, sha256: str) -> None:
        self._record.add(self.host, "take another Erlang cookie")

    def wall(self, kind: str, addresses: Sequence[str], ports: Sequence[int]) -> None:
        self._record.add(self.host, f"wall off {len(addresses)} addresses: {kind}")

    def unwall(self) -> None:
        self._record.add(self.host, "take the wall down")

    def apart(self, other: str) -> bool:
        return self._real.apart(other)
