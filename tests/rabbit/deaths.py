"""What dies in a run of the harness, recell or a RabbitMQ node; and what is there at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from recell.errors import RecellError, StepFailed
from recell.model.step import Direction
from tests.rabbit.cluster import Cluster
from tests.rabbit.counting import Window
from tests.rabbit.words import Death, Kill
from tests.real import killer

if TYPE_CHECKING:
    from tests.rabbit.story import Story

RESTART_S = 10.0
"""RestartSec of the unit that Debian's package has."""
BEFORE_S, AFTER_S = 5.0, 60.0
"""What was sent so long before a node died may have been in its queues; so long after it came back clients
still look for theirs (oslo.messaging's kombu_missing_consumer_retry_timeout)."""
_STOPPED = 3

_LOOK = """
A = fun(X) -> lists:sort([atom_to_binary(N, utf8) || N <- X]) end,
io:put_chars([rabbit_json:encode(#{members => A(mnesia:system_info(db_nodes)),
 running => A(rabbit_mnesia:cluster_nodes(running)), partitions => A(rabbit_node_monitor:partitions()),
 policies => [proplists:get_value(name, P) || P <- rabbit_policy:list()],
 users => [proplists:get_value(user, U) || U <- rabbit_auth_backend_internal:list_users()],
 handling => element(2, application:get_env(rabbit, cluster_partition_handling)),
 plugins => [atom_to_binary(P, utf8) || P <- rabbit_plugins:active()]}), 10]).
"""


def run_and_die(story: Story, direction: Direction, kill: Kill) -> bool:
    """A way in a process of its own, that is killed at a point. False: it came to the end of the way instead.

    :raises StepFailed: it stopped, as recell said.
    """
    said = story.cluster.top / "stopped"
    said.unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_die, args=(story, direction, kill, said))
    process.start()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return True
    if process.exitcode == _STOPPED:
        raise StepFailed(said.read_text(), "")
    assert process.exitcode == 0, f"recell ended with {process.exitcode}"
    return False


def _die(story: Story, direction: Direction, kill: Kill, said: Path) -> None:
    killer.INSIDE_S = kill.after
    killer.arm(kill.step, kill.point)
    try:
        story.go(direction)
    except RecellError as error:
        said.write_text(str(error))
        os._exit(_STOPPED)
    os._exit(0)


class Deaths:
    """Kills nodes when steps begin. ``windows``: from shortly before a death until clients are well."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.told: list[Death] = []
        self.windows: list[Window] = []
        self.killed: list[str] = []
        self._left: dict[str, tuple[float, int]] = {}  # dead node -> when it died, how often it had started
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def begins(self, step: str, where: str) -> None:
        """A step does: each death comes once."""
        for death in [d for d in self.told if d.step == step]:
            self.told.remove(death)
            host = death.host or (where if where in self._nodes() else self.cluster.old[0])
            if death.alone:
                self._await_others()
            thread = threading.Thread(target=self._die, args=(host, death), daemon=True)
            self._threads.append(thread)
            thread.start()
            if not death.after:
                self._gone(host)

    def _await_others(self) -> None:
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _nodes(self) -> tuple[str, ...]:
        return (*self.cluster.old, *self.cluster.new)

    def _die(self, host: str, death: Death) -> None:
        time.sleep(death.after)
        with self._lock:
            self._left[host] = (time.time(), self._starts(host))
            self.killed.append(f"{host} in {death.step}")
        pids = beams(self.cluster, host)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        print(f"{time.strftime('%H:%M:%S')} killed the node on {host}: {pids}", flush=True)
        if not death.dead:
            time.sleep(RESTART_S)
            self._start(host)

    def _gone(self, host: str) -> None:
        deadline = time.monotonic() + 30
        while beams(self.cluster, host) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _start(self, host: str) -> None:
        died, starts = self._left[host]
        machine = self.cluster.hosts[host]
        deadline = time.monotonic() + 900
        while self._starts(host) == starts:
            # As systemd does it: again and again, while it doesn't come up.
            if "ActiveState=active" not in machine.run(["systemctl", "show", "rabbitmq-server"]):
                machine.systemctl("start", "rabbitmq-server")
            assert time.monotonic() < deadline, f"the node on {host} does not come back"
            time.sleep(1)
        with self._lock:
            self._left.pop(host, None)
            self.windows.append((died - BEFORE_S, time.time() + AFTER_S))
        print(f"{time.strftime('%H:%M:%S')} the node on {host} is up again", flush=True)

    def _starts(self, host: str) -> int:
        log = self.cluster.hosts[host].home / "log" / f"rabbit@{host}.log"
        return log.read_text(errors="replace").count("Server startup complete")

    def mend(self) -> None:
        """What an operator does when recell has stopped: start what is dead, wait for what starts."""
        self._await_others()
        for host in list(self._left):
            self._start(host)


def beams(cluster: Cluster, host: str) -> list[int]:
    """The Erlang virtual machines of the node's unit; what rabbitmqctl starts is in no unit."""
    group = cluster.hosts[host].cgroup / "rabbitmq-server.service" / "cgroup.procs"
    out = []
    for word in group.read_text().split() if group.exists() else ():
        with suppress(OSError):
            name = Path(f"/proc/{word}/cmdline").read_bytes().split(b"\0")[0]
            if name.endswith(b"beam.smp"):
                out.append(int(word))
    return out


# The end


def remains(
    cluster: Cluster, groups: Iterable[tuple[str, ...]], before: dict[str, dict[str, str]]
) -> list[str]:
    """What is not as it should be at the end, on any node. ``groups``: who is in one cluster.

    :param before: by host, files as they were, of those that have to be as they were.
    """
    wrong = []
    cookies: list[set[str]] = []
    for group in groups:
        want = [f"rabbit@{n}" for n in group]
        cookies.append({(cluster.hosts[n].home / "data/.erlang.cookie").read_text().strip() for n in group})
        for name in group:
            host = cluster.hosts[name]
            said = host.ctl("eval", _LOOK.strip(), check=False)
            line = next((ln for ln in said.splitlines() if ln.startswith("{")), "")
            if not line:
                wrong.append(f"{name} does not answer: {' '.join(said.split())[:100]}")
                continue
            wrong += _of_node(name, json.loads(line), want, cluster.handling)
            if "recell_split" in host.run(["nft", "list", "ruleset"]):
                wrong.append(f"{name} has recell's wall")
            for place, text in before.get(name, {}).items():
                if (host.home / place).read_text().split() != text.split():
                    wrong.append(f"{name}: {place} is not as it was")
    if any(len(c) > 1 for c in cookies):
        wrong.append("a cluster has two Erlang cookies")
    return wrong


def _of_node(name: str, said: dict[str, object], want: list[str], handling: str) -> list[str]:
    def listed(key: str) -> list[str]:
        found = said[key]
        assert isinstance(found, list)
        return [str(one) for one in found]

    wrong = [
        f"{name}: {key} are {', '.join(listed(key))}"
        for key in ("members", "running")
        if listed(key) != sorted(want)
    ]
    wrong += [f"{name} sees a partition from {n}" for n in listed("partitions")]
    ours = [n for key in ("policies", "users") for n in listed(key) if "recell" in n]
    wrong += [f"{name} has recell's {n}" for n in ours]
    if said["handling"] != handling:
        wrong.append(f"{name}: cluster_partition_handling is {said['handling']}")
    if "rabbitmq_shovel" in listed("plugins"):
        wrong.append(f"{name} has the shovel plugin")
    return wrong
