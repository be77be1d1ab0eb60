"""One RabbitMQ cluster through ``rabbitmqctl`` on one of its hosts; RabbitMQ 3.6 to 4.x.

Lists are read in rabbitmqctl's plain form: its JSON names processes by a number that differs from
one call to the next, and consumers are joined to their connections by just these names.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

from recell.adapters.ports import ConnectionInfo, Consumer, Finished, QueueInfo
from recell.adapters.queue_door import QueueDoor
from recell.errors import BadInput, Denied, RecellError, StepFailed, Unreachable, Unsupported

_CTL = ("env", "ERL_AFLAGS=+S 1:1 +sbwt none", "rabbitmqctl", "-q")
"""One scheduler that doesn't spin: starting Erlang is all that most questions cost. Not by
RABBITMQ_CTL_ERL_ARGS, which would win over an operator's CTL_ERL_ARGS (TLS between nodes, IPv6)."""
_ACCOUNT = "rabbitmq"
"""rabbitmqctl runs as the broker's own account: it needs its cookie, and run as root Debian's
wrapper would pass the arguments through a shell."""

RABBIT_UNIT = "kolla-rabbitmq-container"
"""Where kolla-ansible keeps it."""

_NODE_DOWN = re.compile(r"unable to (perform an operation on|connect to) node|nodedown|noproc",
                        re.IGNORECASE)
_NO_RABBIT = re.compile(r"rabbitmqctl|no user rabbitmq|user rabbitmq does not exist")
_NAME = re.compile(r'"connection_name",\s*(?:longstr,\s*)?"([^"]*)"')
_PID = re.compile(r"<'?(.+?)'?\.\d+\.\d+\.\d+>")
_CLIENT = re.compile(r"(.*):(\d+):[0-9a-f-]{36}\Z")
_ALARM = re.compile(r"\{resource_limit,\s*(\w+),\s*'?([^,'{}]+)'?\}|(file_descriptor_limit)")
_TIMEOUT = 60.0
_RECENT = 60.0
"""A node that answered so lately needs no asking whether it runs; rabbitmqctl takes seconds."""


class CommandHost(Protocol):
    """What is needed of a node's host: it runs commands, be it in a container."""

    name: str

    def query(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished: ...
    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60, user: str | None = None,
    ) -> Finished: ...
    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes: ...


class RabbitCluster:
    """:class:`~recell.adapters.broker_port.BrokerPort`; asks the first of its hosts that answers."""

    def __init__(self, name: str, hosts: Sequence[CommandHost], version: str = "") -> None:
        """``version``: when it is known already; asking for it takes a second."""
        if not hosts:
            raise BadInput(f"the broker {name} has no host", "Name the hosts of its nodes")
        self.name = name
        self._hosts = list(hosts)
        self._lock = threading.Lock()
        self._version = version
        self._answered_last = ""
        self._answered_at = 0.0
        self._doors: dict[str, QueueDoor] = {}
        self._slow: dict[str, str] = {}

    # Questions

    def version(self) -> str:
        with self._lock:
            if not self._version:
                self._version = self._ask("eval", "rabbit_misc:version().").strip().strip('"')
            return self._version

    def running_nodes(self) -> tuple[str, ...]:
        if self._at_least(3, 8):
            nodes = json.loads(self._ask("--formatter", "json", "cluster_status"))["running_nodes"]
            return tuple(sorted(nodes))
        text = self._ask("cluster_status")
        found = re.search(r"\{running_nodes,\s*\[([^\]]*)\]", text)
        return tuple(sorted(n.strip().strip("'") for n in found[1].split(","))) if found else ()

    def vhosts(self) -> tuple[str, ...]:
        return tuple(row[0] for row in self._list("list_vhosts", ["name"]))

    def users(self) -> tuple[str, ...]:
        return tuple(row[0] for row in self._rows("list_users", "user\t"))

    def queues(self, vhost: str) -> tuple[QueueInfo, ...]:
        if door := self._doors.get(vhost):
            try:
                return door.queues()
            except RecellError as error:
                self._doors.pop(vhost, None)  # rabbitmqctl tells as much, and takes longer
                self._slow[vhost] = error.sentence
        columns = ["name", "messages_ready", "messages_unacknowledged", "consumers", "durable"]
        return tuple(
            # A queue whose node is down has no numbers.
            QueueInfo(row[0], _number(row[1]), _number(row[2]), _number(row[3]), row[4] == "true")
            for row in self._list("list_queues", columns, "-p", _safe(vhost))
        )

    @contextmanager
    def at_hand(self, vhost: str, idle_s: float) -> Iterator[None]:
        self._slow.pop(vhost, None)
        door = self._door(_safe(vhost), idle_s)
        if door is not None:
            self._doors[vhost] = door
        try:
            yield
        finally:
            self._doors.pop(vhost, None)
            if door is not None:
                with suppress(RecellError):
                    door.close()

    def slow_because(self, vhost: str) -> str:
        return self._slow.get(vhost, "")

    def _door(self, vhost: str, idle_s: float) -> QueueDoor | None:
        for host in list(self._hosts):
            try:
                return QueueDoor.open(host, vhost, idle_s, _ACCOUNT)
            except RecellError as error:
                self._slow[vhost] = error.sentence
        return None

    def consumers(self, vhost: str) -> tuple[Consumer, ...]:
        return self.clients([vhost])[0]

    def clients(
        self, vhosts: Sequence[str]
    ) -> tuple[tuple[Consumer, ...], tuple[ConnectionInfo, ...]]:
        """The consumers of some vhosts, and all connections of the broker."""
        # In this order: what appears between the first and the last is left out, not misread.
        listed = [
            row
            for vhost in vhosts
            for row in self._rows("list_consumers", "queue_name\t", "-p", _safe(vhost))
        ]
        with ThreadPoolExecutor(2) as pool:
            channels = pool.submit(self._list, "list_channels", ["pid", "connection"])
            connections = pool.submit(self._connections)
            channel_of = {row[0]: row[1] for row in channels.result()}
            by_pid = connections.result()
        found = []
        for row in listed:
            connection = by_pid.get(channel_of.get(row[1], ""))
            if connection is not None:
                found.append(Consumer(row[0], connection.name, connection.peer_host,
                                      connection.peer_port, connection.client_name))
        return tuple(found), tuple(by_pid.values())

    def connections(self) -> tuple[ConnectionInfo, ...]:
        return tuple(self._connections().values())

    def _connections(self) -> dict[str, ConnectionInfo]:
        columns = ["pid", "name", "user", "vhost", "peer_host", "peer_port", "client_properties"]
        return {row[0]: _connection(row)
                for row in self._list("list_connections", columns) if row[5].isdigit()}

    def alarms(self) -> tuple[str, ...]:
        text = self._ask("eval", "{rabbit_misc:version(), rabbit_alarm:get_alarms()}.")
        with self._lock:
            self._version = self._version or text.partition('"')[2].partition('"')[0]
        return tuple(sorted({f"{m[1]} on {m[2]}" if m[1] else "file descriptors"
                             for m in _ALARM.finditer(text)}))

    def password_works(self, user: str, password: str) -> bool:
        self._needs_stdin()
        done = self._run(False, ["authenticate_user", _safe(user)], password)
        text = done.stderr.decode("utf-8", "replace")
        if done.returncode == 0:
            return True
        if "authenticate" in text or "invalid credentials" in text or done.returncode == 65:
            return False
        raise self._failed("authenticate_user", done)

    def permissions(self, vhost: str) -> Mapping[str, tuple[str, str, str]]:
        rows = self._rows("list_permissions", "user\t", "-p", _safe(vhost))
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def bindings(self, vhost: str) -> tuple[tuple[str, str], ...]:
        columns = ["source_name", "destination_name", "destination_kind"]
        rows = self._list("list_bindings", columns, "-p", _safe(vhost))
        return tuple((row[0], row[1]) for row in rows if row[2] == "queue")

    # Changes

    def bind_spare(self, vhost: str, exchange: str, queue: str) -> None:
        arguments = {"x-max-length": 1}
        definitions = {
            "queues": [{"name": queue, "vhost": vhost, "durable": True, "auto_delete": False,
                        "arguments": arguments}],
            "bindings": [{"source": exchange, "vhost": vhost, "destination": queue,
                          "destination_type": "queue", "routing_key": "", "arguments": {}}],
        }
        self._do("import_definitions", "--format", "json", text=json.dumps(definitions))

    def delete_queue(self, vhost: str, queue: str) -> None:
        self._do("delete_queue", "-p", _safe(vhost), _safe(queue))

    def add_vhost(self, vhost: str) -> None:
        self._do("add_vhost", _safe(vhost))

    def add_user(self, user: str, password: str) -> None:
        self._needs_stdin()
        self._do("add_user", _safe(user), secret=password)

    def permit(self, vhost: str, user: str) -> None:
        self._do("set_permissions", "-p", _safe(vhost), _safe(user), ".*", ".*", ".*")

    def delete_vhost(self, vhost: str) -> None:
        self._do("delete_vhost", _safe(vhost))

    def delete_user(self, user: str) -> None:
        self._do("delete_user", _safe(user))

    def revoke(self, vhost: str, user: str) -> None:
        self._do("clear_permissions", "-p", _safe(vhost), _safe(user))

    def end_connection(self, name: str) -> None:
        """Close a client's connection; what it has not acknowledged goes back to its queues."""
        for pid, connection in self._connections().items():
            if connection.name == name:
                self._do("close_connection", pid, "recell")

    # rabbitmqctl

    def _at_least(self, *wanted: int) -> bool:
        return tuple(int(n) for n in re.findall(r"\d+", self.version())[:2]) >= wanted

    def _needs_stdin(self) -> None:
        if not self._at_least(3, 8):
            raise Unsupported(
                f"the broker {self.name} runs RabbitMQ {self.version()}, whose rabbitmqctl takes"
                " passwords on its command line only", "Use RabbitMQ 3.8 or newer",
            )

    def _list(self, command: str, columns: Sequence[str], *words: str) -> list[list[str]]:
        rows = self._rows(command, "\t".join(columns), *words, *columns)
        # A row may be cut while its connection ends.
        return [row for row in rows if len(row) >= len(columns)]

    def _rows(self, command: str, header: str, *words: str) -> list[list[str]]:
        lines = self._ask(command, *words).splitlines()
        if lines and lines[0].startswith(header):  # 3.6 prints none
            lines = lines[1:]
        return [line.split("\t") for line in lines if line.strip()]

    def _ask(self, *words: str) -> str:
        done = self._run(False, words, None)
        if done.returncode != 0:
            raise self._failed(words[0], done)
        return done.stdout.decode("utf-8", "replace")

    def _do(self, *words: str, secret: str | None = None, text: str | None = None) -> None:
        """``secret`` and ``text`` go to standard input."""
        done = self._run(True, words, secret if secret is not None else text)
        if done.returncode != 0:
            raise self._failed(words[0], done)

    def _run(self, change: bool, words: Sequence[str], secret: str | None) -> Finished:
        """On the first host that answers; a change that was tried is not tried on another."""
        trouble: RecellError | None = None
        for host in list(self._hosts):
            argv = [*_CTL, *words]
            stdin = b"" if secret is None else secret.encode() + b"\n"
            try:
                if change:
                    # Find one whose node runs by asking, so that the change is tried once.
                    if host.name != self._answered_last or time.monotonic() - self._answered_at > _RECENT:
                        self._probe(host)
                    done = host.run(argv, stdin=stdin, timeout=_TIMEOUT, user=_ACCOUNT)
                else:
                    done = host.query(argv, stdin=stdin, timeout=_TIMEOUT, user=_ACCOUNT)
                    self._answered(host, done)
            except (_NotHere, Unreachable, StepFailed) as error:
                if change and not isinstance(error, _NotHere):
                    raise
                trouble = error
                continue
            self._answered_last, self._answered_at = host.name, time.monotonic()
            if host is not self._hosts[0]:
                with self._lock:
                    self._hosts.remove(host)
                    self._hosts.insert(0, host)
            return done
        if isinstance(trouble, _NotHere) or trouble is None:
            raise Unreachable(
                f"the broker {self.name} does not answer on "
                + ", ".join(h.name for h in self._hosts)
                + (f" ({trouble.sentence})" if trouble else ""),
                "Check that RabbitMQ runs there: rabbitmqctl status",
            )
        raise trouble

    def _probe(self, host: CommandHost) -> None:
        argv = [*_CTL, "eval", "node()."]
        try:
            self._answered(host, host.query(argv, timeout=_TIMEOUT, user=_ACCOUNT))
        except Unreachable as error:
            raise _NotHere(error.sentence) from None

    @staticmethod
    def _answered(host: CommandHost, done: Finished) -> None:
        text = (done.stderr + done.stdout).decode("utf-8", "replace")
        if done.returncode == 127 and _NO_RABBIT.search(text):
            raise _NotHere(f"there is no rabbitmqctl on {host.name}")
        if done.returncode != 0 and (_NODE_DOWN.search(text) or done.returncode == 69):
            raise _NotHere(f"RabbitMQ does not run on {host.name}")

    def _failed(self, command: str, done: Finished) -> RecellError:
        lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines()]
        reason = " ".join(line for line in lines if line and line != "Error:")[:200]
        if "invalid credentials" in reason:
            return Denied(f"the broker {self.name} refuses a password", "Correct the password")
        return StepFailed(f"rabbitmqctl {command} failed on the broker {self.name} ({reason})",
                          "Look at the broker's log")


class _NotHere(RecellError):
    """This host can't speak for the broker; another may."""


def _connection(row: Sequence[str]) -> ConnectionInfo:
    pid, name, user, vhost, peer_host, peer_port, properties = row[:7]
    node = _PID.match(pid)
    said = _NAME.search(properties)
    client = said[1] if said else ""
    parts = _CLIENT.match(client)
    return ConnectionInfo(
        name=name,
        user=user,
        vhost=vhost,
        peer_host=peer_host.removeprefix("::ffff:"),
        peer_port=int(peer_port),
        node=node[1] if node else "",
        client_name=client,
        program=parts[1] if parts else "",
        pid=int(parts[2]) if parts else 0,
    )


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _safe(name: str) -> str:
    """A name that rabbitmqctl can't take for an option."""
    if not name or name.startswith("-"):
        raise BadInput(f"{name or 'an empty text'} is no name for a vhost or user of RabbitMQ",
                       "Choose another name")
    return name
