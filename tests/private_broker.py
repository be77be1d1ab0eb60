"""One RabbitMQ node of a test's own, on the loopback, with data in memory where that is possible."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from recell.adapters.amqp import Amqp
from recell.adapters.ports import Finished, UnitState
from recell.adapters.rabbit_node import RabbitNode
from recell.errors import RecellError
from tests.private_server import free_ports

_PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_CTL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
_SHM = Path("/dev/shm")


class PrivateBroker:
    """Account guest, vhost /. ``plugins``: enabled from the beginning. It becomes a member of ``mate``'s
    cluster, or is one by itself."""

    def __init__(self, *plugins: str, mate: PrivateBroker | None = None) -> None:
        if not Path(_PROGRAM).exists():
            pytest.fail("RabbitMQ is missing: apt-get install rabbitmq-server")
        top = _SHM if os.access(_SHM, os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="recell-mq-", dir=top))
        self.port, distribution, mapper = free_ports(3)
        (self.directory / "plugins").write_text(f"[{','.join(plugins)}].\n")
        if mate is not None:
            mapper = mate.mapper
            shutil.copy2(mate.directory / ".erlang.cookie", self.directory)
        self.mapper: int = mapper
        self.name = f"t{self.port}@localhost"
        self.environment = environment = os.environ | {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        self._processes = []
        if mate is None:
            words = ["epmd", "-port", str(mapper), "-address", "127.0.0.1"]
            self._processes.append(subprocess.Popen(words, env=environment))
        with (self.directory / "out").open("wb") as out:
            node = subprocess.Popen(
                [_PROGRAM],
                env=environment,
                cwd=self.directory,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._processes.insert(0, node)
        until = time.monotonic() + 600
        while True:
            try:
                self.connect().close()
                break
            except RecellError:  # it may also end a login that comes too early
                if node.poll() is not None or time.monotonic() > until:
                    said = (self.directory / "out").read_text(errors="replace")[-2000:]
                    self.stop()
                    pytest.fail(f"RabbitMQ does not start: {said}")
                time.sleep(0.3)
        for words in [] if mate is None else [["stop_app"], ["join_cluster", mate.name], ["start_app"]]:
            done = self.do(["rabbitmqctl", "-q", *words], 600)
            if done.returncode != 0:
                self.stop()
                pytest.fail(f"{words[0]}: {done.stderr.decode(errors='replace')}")

    def connect(self, password: str = "", vhost: str = "/") -> Amqp:
        return Amqp(("127.0.0.1", self.port), "guest", password or "guest", vhost, "mq-test")

    def do(self, argv: Sequence[str], timeout: float = 60, stdin: bytes = b"") -> Finished:
        """A command of recell's as it is run on a broker's host: rabbitmqctl with this broker's own files."""
        words = [_CTL if word == "rabbitmqctl" else word for word in argv]
        done = subprocess.run(
            words, env=self.environment, input=stdin, capture_output=True, timeout=timeout, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


class BrokerHost:
    """The host of a broker, as far as a node's eval needs it."""

    def __init__(self, broker: PrivateBroker) -> None:
        self.name, self._broker = broker.name, broker

    def query(self, argv: Sequence[str], **_: Any) -> Finished:
        if argv[0] == "getent":
            return Finished(0, b"rabbitmq:x:1:1::/var/lib/rabbitmq:/bin/false\n", b"")
        return self._broker.do(argv)

    run = query

    def unit(self, name: str) -> UnitState:
        return UnitState(name, True, "active", True, 7, 1.0, "", (), (), False)


def node_of(broker: PrivateBroker) -> RabbitNode:
    host: Any = BrokerHost(broker)
    return RabbitNode(host)
