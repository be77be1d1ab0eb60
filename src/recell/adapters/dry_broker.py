"""A RabbitMQ cluster that is read for real and never changed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from recell.adapters.dry_record import Record
from recell.adapters.ports import BrokerPort, ConnectionInfo, Consumer, QueueInfo


class DryBroker:
    """:class:`~recell.adapters.broker_port.BrokerPort` that changes nothing."""

    def __init__(self, real: BrokerPort, record: Record) -> None:
        self.name = real.name
        self._real = real
        self._record = record
        self._vhosts: dict[str, bool] = {}
        self._users: dict[str, str | None] = {}
        self._permissions: dict[tuple[str, str], bool] = {}
        self._spares: dict[tuple[str, str], str] = {}

    def version(self) -> str:
        return self._real.version()

    def running_nodes(self) -> tuple[str, ...]:
        return self._real.running_nodes()

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return self._real.connections()

    def alarms(self) -> tuple[str, ...]:
        return self._real.alarms()

    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        """With the spare queues that would be there by now."""
        found = () if self._made(vhost) else self._real.bindings(vhost)
        kept = tuple(b for b in found if self._spares.get((vhost, b[1])) != "")
        return kept + tuple((e, q) for (v, q), e in self._spares.items() if v == vhost and e)

    def vhosts(self) -> tuple[str, ...]:
        return _overlaid(self._real.vhosts(), self._vhosts)

    def users(self) -> tuple[str, ...]:
        return _overlaid(self._real.users(),
                         {user: password is not None for user, password in self._users.items()})

    def _made(self, vhost: str) -> bool:
        return self._vhosts.get(vhost, False) and vhost not in self._real.vhosts()

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        return () if self._made(vhost) else self._real.queues(vhost)

    def at_hand(self, vhost: str, idle_s: float) -> AbstractContextManager[None]:
        return nullcontext()  # nobody waits for it

    def slow_because(self, vhost: str) -> str:
        return ""

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        return () if self._made(vhost) else self._real.consumers(vhost)

    def password_works(self, user: str, password: str) -> bool:
        if user in self._users:
            return self._users[user] == password
        return self._real.password_works(user, password)

    def permissions(self, vhost: str) -> dict[str, tuple[str, str, str]]:
        found = {} if self._made(vhost) else dict(self._real.permissions(vhost))
        for (of, user), given in self._permissions.items():
            if of == vhost and given:
                found[user] = (".*", ".*", ".*")
            elif of == vhost:
                found.pop(user, None)
        return found

    def bind_spare(self, vhost: str, exchange: str, queue: str) -> None:
        self._record.add(self.name, f"bind the spare queue {queue} to {exchange} in {vhost}")
        self._spares[vhost, queue] = exchange

    def delete_queue(self, vhost: str, queue: str) -> None:
        self._record.add(self.name, f"delete the queue {queue} in {vhost}")
        self._spares[vhost, queue] = ""

    def add_vhost(self, vhost: str) -> None:
        self._record.add(self.name, f"add vhost {vhost}")
        self._vhosts[vhost] = True

    def add_user(self, user: str, password: str) -> None:
        self._record.add(self.name, f"add user {user}")
        self._users[user] = password

    def permit(self, vhost: str, user: str) -> None:
        self._record.add(self.name, f"permit {user} on {vhost}")
        self._permissions[vhost, user] = True

    def delete_vhost(self, vhost: str) -> None:
        self._record.add(self.name, f"delete vhost {vhost}")
        self._vhosts[vhost] = False

    def delete_user(self, user: str) -> None:
        self._record.add(self.name, f"delete user {user}")
        self._users[user] = None

    def revoke(self, vhost: str, user: str) -> None:
        self._record.add(self.name, f"revoke {user} on {vhost}")
        self._permissions[vhost, user] = False


def _overlaid(real: tuple[str, ...], changed: dict[str, bool]) -> tuple[str, ...]:
    kept = [name for name in real if changed.get(name, True)]
    return tuple(kept + [name for name, there in changed.items() if there and name not in kept])
