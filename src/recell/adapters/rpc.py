"""Ending a unit that serves RPC without losing what is being sent to it.

oslo.messaging acknowledges a request when it is received, before it is served. Asked to stop, a
server stops reading, serves what it has, and then closes its connection; while it waits for the
broker to confirm that, it still receives requests, acknowledges them, and drops them. So that
nothing more arrives in this time, what the broker sends on exactly this connection is held off by
the host's firewall before the server is asked to stop. Its other connections go on: it can send,
receive replies and answer. When it begins to close its listener, its work is done, and it is
killed: what was on its way to it has not been acknowledged, so the broker gives it to the next
server.

That it begins to close is seen at its host, for this is quick and what is held off waits meanwhile:
on a connection on which nothing is received the server then sends exactly one thing, the order to
delete its fanout queue. Whatever else it sends makes recell ask the broker whether the queue is
still there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from recell.adapters import firewall
from recell.adapters.firewall import Flow
from recell.adapters.ports import BrokerPort, Consumer, HostPort, ProcessInfo, SocketInfo, processes_of
from recell.errors import RecellError, StepFailed, Unsupported

_POLL = 0.2
_ASK_AFTER = 10.0
"""Without any sign at the host, the broker is asked this often."""
_HEARTBEAT = 8
_CLOSE_CHANNEL = 19
_DELETE_QUEUE = 16
"""Bytes of AMQP frames: a heartbeat, channel.close, and queue.delete without the queue's name."""
_SENT = re.compile(r"\bbytes_sent:(\d+)")
_QUIET_AFTER = 15.0
"""A process that does not read what it has received for this long is stuck."""
_PLAIN_STOP = 5.0
_END = 30.0
_MARGIN = 120.0
_REMEDY = "Look at the unit's log, then: recell resume"


class Deliverer(BrokerPort, Protocol):
    """A broker that can be told to end a connection."""

    def end_connection(self, name: str) -> None: ...


@dataclass(frozen=True)
class _Listener:
    """A connection of the unit's that requests are delivered by."""

    connection: str
    flow: Flow
    pid: int
    fanouts: frozenset[str]


def stop_rpc_server(
    host: HostPort, unit: str, broker: Deliverer, vhost: str, limit: float, *,
    wait: Callable[[float], None], clock: Callable[[], float],
    idle: Callable[[], str] | None = None,
) -> float:
    """Stop a unit without losing a request; idempotent.

    Returns for how many seconds what is sent to it was held off, 0 when it took nothing.

    :param limit: seconds that it may take to finish what it has begun.
    :param idle: tells what the unit is still at, "" when nothing, where work outlives its RPC
        threads or an alternative topic serves it; once it is idle it is killed at once.
    :raises Unsupported: it can't be done without a loss here; nothing was touched.
    :raises StepFailed: it did not finish in time; nothing is held off any more.
    """
    state = host.unit(unit)
    if not _up(state.active):
        return 0.0
    began_to_stop = state.active == "deactivating"
    processes = processes_of(state, host.processes())
    sockets = host.sockets([p.pid for p in processes])
    listeners = _listeners(host.name, unit, processes, sockets, broker.consumers(vhost),
                           knows_idle=idle is not None)
    # Asked before anything is held off: what is held off waits.
    which = firewall.kind(host) if listeners else ""
    if not listeners:
        _stop_plainly(host, unit, limit if began_to_stop else _PLAIN_STOP, began_to_stop, wait,
                      clock)
        return 0.0
    held = clock()
    with firewall.holding(host, which, [one.flow for one in listeners], limit + _MARGIN):
        # From here on nothing new arrives; what has arrived is read and served as ever.
        _wait_until_read(host, unit, listeners, wait, clock)
        if idle is not None:
            _wait_until_idle(host, unit, idle, limit, wait, clock)
        if began_to_stop:
            # By an earlier run: a server that has no fanout queue any more has finished already.
            listeners = tuple(one for one in listeners if one.fanouts)
        before = _sent(host)
        host.systemctl("stop-later", unit)
        if idle is None:
            _wait_until_done(host, unit, broker, vhost, listeners, before, limit, wait, clock)
        if _up(host.unit(unit).active):
            host.systemctl("kill", unit)
        _wait_until_ended(host, unit, wait, clock)
    held = clock() - held
    if host.unit(unit).active == "failed":
        host.systemctl("reset-failed", unit)
    return held


def stop_plainly(
    host: HostPort, unit: str, *, wait: Callable[[float], None], clock: Callable[[], float],
) -> None:
    """Stop a unit whose broker is lost, and with it what was on its way; idempotent."""
    state = host.unit(unit)
    if _up(state.active):
        if state.active != "deactivating":
            host.systemctl("stop-later", unit)
        _end_after(host, unit, _PLAIN_STOP, wait, clock)


def _wait_until_idle(
    host: HostPort, unit: str, idle: Callable[[], str], limit: float,
    wait: Callable[[float], None], clock: Callable[[], float],
) -> None:
    """Twice in a row: a request that was just read may not have shown what it does yet."""
    began = clock()
    quiet = 0
    while quiet < 2:
        busy = idle()
        quiet = 0 if busy else quiet + 1
        if busy and clock() - began > limit:
            raise StepFailed(f"{unit} on {host.name} is still at {busy} after {limit:.0f} s",
                             _REMEDY)
        wait(_POLL)


def _up(active: str) -> bool:
    return active not in ("inactive", "failed")


def _listeners(
    where: str, unit: str, processes: Sequence[ProcessInfo], sockets: Sequence[SocketInfo],
    consumers: Sequence[Consumer], *, knows_idle: bool,
) -> tuple[_Listener, ...]:
    serving = [c for c in consumers if not c.queue.startswith("reply_")]
    by_peer = {(s.local_ip, s.local_port): s for s in sockets}
    found: dict[str, SocketInfo] = {}
    # What a process tells a broker is its number in its own pid namespace.
    told = {p.told_pid: p.pid for p in processes}
    behind = set()
    for consumer in serving:
        ours = by_peer.get((consumer.peer_host, consumer.peer_port))
        if ours is not None:
            found[consumer.connection] = ours
        elif any(
            runs(_program(consumer), p)
            for p in processes
            if p.told_pid == _claimed_pid(consumer.client_name)
        ):
            behind.add(consumer)
    if behind and not found:
        found = _through_proxy(where, unit, sockets, behind, told)
    alternative = [c.queue for c in serving if c.connection in found and "-alt" in c.queue]
    if alternative and not knows_idle:
        raise Unsupported(
            f"{unit} on {where} serves {alternative[0]} while it stops, for work that goes on",
            "Stop it by hand when it is idle",
        )
    return tuple(
        _Listener(
            connection,
            Flow(s.remote_ip, s.remote_port, s.local_port),
            s.pid,
            frozenset(c.queue for c in serving
                      if c.connection == connection and "_fanout" in c.queue),
        )
        for connection, s in sorted(found.items())
    )


def _through_proxy(
    where: str, unit: str, sockets: Sequence[SocketInfo], behind: set[Consumer],
    told: Mapping[int, int],
) -> dict[str, SocketInfo]:
    """The broker sees a proxy's ports, the host sees its own: only a process with a single
    connection can be told to be the listener's."""
    found: dict[str, SocketInfo] = {}
    for consumer in behind:
        claimed = _claimed_pid(consumer.client_name)
        mine = [s for s in sockets if s.pid == told[claimed]]
        remotes = {(s.remote_ip, s.remote_port) for s in mine}
        # The same process number may serve on another host behind the same proxy.
        alike = {c.connection for c in behind if _claimed_pid(c.client_name) == claimed}
        if len(mine) != 1 or len(alike) != 1:
            raise Unsupported(
                f"{unit} on {where} reaches its broker through a proxy, and which of its"
                f" {len(mine)} connections to {len(remotes)} address(es) receives requests can't be"
                " told", "Let transport_url name the broker's nodes themselves",
            )
        found[consumer.connection] = mine[0]
    return found


def _claimed_pid(client_name: str) -> int:
    parts = client_name.rsplit(":", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else 0


def _program(consumer: Consumer) -> str:
    return consumer.client_name.rsplit(":", 2)[0]


def runs(program: str, process: ProcessInfo) -> bool:
    """Whether a process is of a program. A worker may have written over its command line, as oslo.service's
    and Neutron's do: "nova-scheduler: ServiceWrapper worker(0)"."""
    return any(w.rsplit("/", 1)[-1] == program or w.startswith(f"{program}:") for w in process.argv)


def _wait_until_read(
    host: HostPort, unit: str, listeners: Sequence[_Listener], wait: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    """Until the server has read all that reached its host before it was held off: what it reads
    while closing it would acknowledge and drop."""
    deadline = clock() + _QUIET_AFTER
    flows = {(one.flow.remote_ip, one.flow.remote_port, one.flow.local_port) for one in listeners}
    quiet = 0
    while quiet < 2:
        sockets = host.sockets(sorted({one.pid for one in listeners}))
        unread = sum(s.unread for s in sockets
                     if (s.remote_ip, s.remote_port, s.local_port) in flows)
        quiet = 0 if unread else quiet + 1
        if clock() > deadline:
            raise StepFailed(f"{unit} on {host.name} does not read what its broker sends", _REMEDY)
        wait(0.1)


def _wait_until_done(
    host: HostPort, unit: str, broker: Deliverer, vhost: str, listeners: Sequence[_Listener],
    before: dict[Flow, int], limit: float, wait: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    began = asked = clock()
    left = {one.connection: one for one in listeners}
    seen = ""
    doubtful: dict[str, int] = {}
    while left and _up(host.unit(unit).active):
        sent = _sent(host)
        ask = clock() - asked > _ASK_AFTER
        for one in list(left.values()):
            if one.flow not in sent or one.flow not in before:
                ask = True
            elif (more := sent[one.flow] - before[one.flow]) and _is_closing(one, more):
                del left[one.connection]
            elif more and doubtful.get(one.connection) != more:
                doubtful[one.connection] = more
                ask = True
        if left and ask:
            try:
                for connection in _closing(broker, vhost, list(left.values())):
                    del left[connection]
            except RecellError as error:
                seen = f", and its broker does not tell: {error.sentence}"
            asked = clock()
        if not left:
            return
        if clock() - began > limit:
            # What was on its way goes back to its queues before anything can reach it again.
            for connection in left:
                with suppress(RecellError):
                    broker.end_connection(connection)
            raise StepFailed(
                f"{unit} on {host.name} has not finished what it had begun after {limit:.0f} s"
                f" ({len(left)} of {len(listeners)} listeners still serve{seen})", _REMEDY,
            )
        wait(_POLL)


def _is_closing(listener: _Listener, more: int) -> bool:
    """Whether these bytes, sent since nothing is received any more, are the beginning of the end.

    Heartbeats may be among them. On an encrypted connection lengths differ: never true.
    """
    frames = [_DELETE_QUEUE + len(queue.encode()) for queue in listener.fanouts]
    return any(more >= size and (more - size) % _HEARTBEAT == 0
               for size in frames or [_CLOSE_CHANNEL])


def _sent(host: HostPort) -> dict[Flow, int]:
    """Bytes that each connection of the host has sent; empty where ``ss`` can't tell."""
    done = host.query(["ss", "-t", "-n", "-i"], timeout=20)
    found: dict[Flow, int] = {}
    flow: Flow | None = None
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        words = line.split()
        if line[:1].strip() and len(words) >= 5:
            (_, local_port), (remote_ip, remote_port) = _endpoint(words[3]), _endpoint(words[4])
            known = local_port.isdigit() and remote_port.isdigit()
            flow = Flow(remote_ip, int(remote_port), int(local_port)) if known else None
        elif flow is not None and (told := _SENT.search(line)):
            found[flow] = int(told[1])
    return found


def _endpoint(text: str) -> tuple[str, str]:
    address, _, port = text.rpartition(":")
    return address.strip("[]").removeprefix("::ffff:").partition("%")[0], port


def _closing(
    broker: BrokerPort, vhost: str, listeners: Sequence[_Listener],
) -> tuple[str, ...]:
    """Connections whose servers have finished: they delete their fanout queue first of all.

    A connection that is gone as a whole is no proof: the broker itself ends one that it hears
    nothing from. One without a fanout queue of its own shows it by its consumers' end.
    """
    queues = {q.name for q in broker.queues(vhost)}
    done = [one.connection for one in listeners if one.fanouts and not one.fanouts & queues]
    others = [one for one in listeners if one.connection not in done]
    # A queue that outlives its server by design (shared or named for good) is never deleted.
    if others and not done:
        consuming = {c.connection for c in broker.consumers(vhost)}
        silent = [one.connection for one in others if one.connection not in consuming]
        if silent:
            there = {c.name for c in broker.connections()}
            done += [connection for connection in silent if connection in there]
    return tuple(done)


def _stop_plainly(
    host: HostPort, unit: str, patience: float, already: bool, wait: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    """A unit that nothing is delivered to: what it has taken may still be under way only when it
    was stopping already, and then it is left to end by itself."""
    if not already:
        host.systemctl("stop-later", unit)
    _end_after(host, unit, patience, wait, clock, kill=not already)


def _end_after(
    host: HostPort, unit: str, patience: float, wait: Callable[[float], None],
    clock: Callable[[], float], *, kill: bool = True,
) -> None:
    """Wait for a unit that was asked to stop.

    :raises StepFailed: it goes on, and is not to be killed.
    """
    deadline = clock() + patience
    while _up(host.unit(unit).active) and clock() < deadline:
        wait(_POLL)
    if _up(host.unit(unit).active):
        if not kill:
            raise StepFailed(f"{unit} on {host.name} is stopping and has not ended after"
                             f" {patience:.0f} s", _REMEDY)
        host.systemctl("kill", unit)
        _wait_until_ended(host, unit, wait, clock)
    if host.unit(unit).active == "failed":
        host.systemctl("reset-failed", unit)


def _wait_until_ended(
    host: HostPort, unit: str, wait: Callable[[float], None], clock: Callable[[], float],
) -> None:
    deadline = clock() + _END
    while _up(host.unit(unit).active):
        if clock() > deadline:
            raise StepFailed(f"{unit} on {host.name} does not end after SIGKILL", _REMEDY)
        wait(0.1)
