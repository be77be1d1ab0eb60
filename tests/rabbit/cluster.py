"""Six RabbitMQ nodes: a cluster of three, and three blank ones."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.rabbit.hosts import COOKIE, Host, bridge_down, bridge_up

OLD = ("rq1", "rq2", "rq3")
NEW = ("rq4", "rq5", "rq6")
CLIENTS = ("rqa", "rqb")
PEERS = {**{n: i + 1 for i, n in enumerate((*OLD, *NEW))}, "rqa": 101, "rqb": 102}
_ARGS = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


class Cluster:
    """``handling``: cluster_partition_handling of all nodes, as an operator had it set. ``fresh``: the new
    nodes have a cookie of their own."""

    def __init__(self, top: Path, handling: str = "ignore", nodes: int = 3, *, fresh: bool = False) -> None:
        self.top = top
        self.old, self.new = OLD[:nodes], NEW[:nodes]
        self.handling = handling
        self.fresh = fresh
        names = (*self.old, *self.new, *CLIENTS)
        self.hosts = {name: Host(name, PEERS[name], top, PEERS) for name in names}

    def up(self) -> None:
        bridge_up()
        for host in self.hosts.values():
            host.up()
        for name in (*self.old, *self.new):
            host = self.hosts[name]
            host.write(
                "etc/rabbitmq.conf", f"cluster_partition_handling = {self.handling}\nlog.file.level = info\n"
            )
            host.write("etc/enabled_plugins", "[].\n", owner="rabbitmq")
            host.write(
                "etc/rabbitmq-env.conf", f'NODENAME=rabbit@{name}\nSERVER_ADDITIONAL_ERL_ARGS="{_ARGS}"\n'
            )
            cookie = COOKIE[::-1] if self.fresh and name in self.new else COOKIE
            host.write("data/.erlang.cookie", cookie, mode=0o400, owner="rabbitmq")
            host.unit("rabbitmq-server", ["/usr/sbin/rabbitmq-server"], "rabbitmq")
            host.systemctl("start", "rabbitmq-server")
        for name in (*self.old, *self.new):
            self._await(name)
        for name in self.old[1:]:
            for words in (("stop_app",), ("join_cluster", f"rabbit@{self.old[0]}"), ("start_app",)):
                self.hosts[name].ctl(*words)
        first = self.hosts[self.old[0]]
        first.ctl("add_user", "os", text="os\n")
        first.ctl("set_permissions", "-p", "/", "os", ".*", ".*", ".*")

    def _await(self, name: str) -> None:
        """By its log: six rabbitmqctl at once would take the CPU from six that boot."""
        log = self.hosts[name].home / "log" / f"rabbit@{name}.log"
        deadline = time.monotonic() + 1800
        while not log.exists() or "Server startup complete" not in log.read_text(errors="replace"):
            assert time.monotonic() < deadline, f"{name} does not start"
            # On a machine that has no time for it, RabbitMQ's own limits end its boot.
            if "ActiveState=active" not in self.hosts[name].run(["systemctl", "show", "rabbitmq-server"]):
                self.hosts[name].systemctl("start", "rabbitmq-server")
            time.sleep(1)

    def down(self) -> None:
        for host in self.hosts.values():
            host.down()
        bridge_down()
        shutil.rmtree(self.top, ignore_errors=True)


if __name__ == "__main__":
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    cluster = Cluster(Path(sys.argv[1]), nodes=int(sys.argv[2]))
    began = time.time()
    try:
        cluster.up()
        print(
            f"up after {time.time() - began:.0f} s", {n: h.pid for n, h in cluster.hosts.items()}, flush=True
        )
        while not (cluster.top / "stop").exists():
            time.sleep(1)
    finally:
        cluster.down()
