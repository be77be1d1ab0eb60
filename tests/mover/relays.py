"""A relay on this machine, put there by recell's own adapter, between two private servers."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pymysql
import sqlalchemy
from oslo_db.exception import DBError
from oslo_db.sqlalchemy import enginefacade

from recell.adapters import agent
from recell.adapters.ports import FileStat, Finished, UnitState, UnitVerb
from recell.adapters.relay import Relay
from recell.errors import StepFailed, Unreachable
from recell.model.relay import RelayState, Side
from tests.private_server import Server, free_ports

USER, PASSWORD = "nova", "a secret of Nova's"
MODERN, MODERN_PASSWORD = "nova_ed", "another one"
NETWORK = ("skip-name-resolve", "max-allowed-packet=64M", "plugin-load-add=auth_ed25519")
PATIENCE_S = 240  # of clients and of tests: a machine may be slow
SESSIONS = f"SELECT id FROM information_schema.processlist WHERE user = '{USER}'"


def connections_to(port: int) -> int:
    """How many TCP connections of this machine go to this port of it."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


@contextmanager
def set_aside(server: Server) -> Iterator[None]:
    """A server that takes connections and says nothing, as one that the kernel doesn't run for a while."""
    number = int((server.directory / "pid").read_text())
    os.kill(number, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(number, signal.SIGCONT)


def _me() -> tuple[str, str]:
    return pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


@dataclass
class LocalHost:
    """This machine as the relay's host, without SSH; units are files, and their commands run for real."""

    name: str = "db1"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    enabled: bool = False
    verbs: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    log: Path = Path(os.devnull)
    units: Path = Path()

    def query(self, argv: Sequence[str]) -> Finished:
        done = agent.do_exec({"argv": list(argv), "timeout": 60})
        return Finished(done["returncode"], agent.unpack(done["stdout"]), agent.unpack(done["stderr"]))

    run = query

    def stat(self, path: str) -> FileStat | None:
        found = agent.do_stat({"path": path})
        return None if found is None else FileStat(**found)

    def unit(self, name: str) -> UnitState:
        running = self.process is not None and self.process.poll() is None
        file = self.units / name
        return UnitState(name, file.exists(), "active" if running else "inactive", self.enabled,
                         self.process.pid if self.process and running else 0, 0.0, str(file), (), (), False)

    def write(
        self, path: str, content: bytes, *, mode: int, owner: str, group: str, expect: str | None,
    ) -> None:
        owner, group = _me()
        agent.do_write({"path": path, "content": agent.pack(content), "mode": mode, "owner": owner,
                        "group": group, "expect": expect})

    def remove(self, path: str, *, expect: str) -> None:
        agent.do_remove({"path": path, "expect": expect})

    def systemctl(self, verb: UnitVerb, unit: str = "") -> None:
        self.verbs.append(verb)
        if verb in ("enable", "disable"):
            self.enabled = verb == "enable"
        if verb in ("stop", "restart"):
            self.end(signal.SIGTERM)
        if verb in ("start", "restart"):
            lines = (self.units / unit).read_text().splitlines()
            self.argv = next(x for x in lines if x.startswith("ExecStart=")).partition("=")[2].split()
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stderr=log)

    def end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def unix_query(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        try:
            return agent.unpack(
                agent.do_unix({"path": path, "data": agent.pack(data), "timeout": timeout})["answer"])
        except (OSError, agent.Refusal) as error:
            raise Unreachable(f"asking {path} failed on {self.name}: {error}") from None

    def unix_run(self, path: str, data: bytes, timeout: float = 10) -> bytes:
        try:
            return self.unix_query(path, data, timeout)
        except Unreachable as error:
            raise StepFailed(error.sentence) from None


@dataclass
class Rig:
    """A relay before two servers. ``old`` and ``new`` have TCP ports and Nova's accounts."""

    directory: Path
    old: Server
    new: Server
    ports: dict[Side, int]
    host: LocalHost = field(default_factory=LocalHost)
    port: int = 0
    clients: list[pymysql.Connection[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.host.log, self.host.units = self.directory / "log", self.directory / "units"
        self.host.units.mkdir(exist_ok=True)
        self.port = self.port or free_ports(1)[0]
        self.relay = self.instance()

    def instance(self) -> Relay:
        """As another run of recell's has it."""
        return Relay(self.host, "p1", state=str(self.directory), units=str(self.host.units))

    def install(self, **accounts: str) -> None:
        self.relay.install(
            ("127.0.0.1", self.port), {s: ("127.0.0.1", p) for s, p in self.ports.items()},
            accounts or {USER: PASSWORD, MODERN: MODERN_PASSWORD})

    def server(self, side: Side) -> Server:
        return self.old if side == "old" else self.new

    def connect(self, user: str = USER, password: str = PASSWORD, **more: Any) -> pymysql.Connection[Any]:
        """A client of Nova's kind, through the relay; closed at the test's end."""
        options = {"host": "127.0.0.1", "port": self.port, "user": user, "password": password,
                   "database": "nova", "charset": "utf8mb4", "read_timeout": PATIENCE_S,
                   "connect_timeout": PATIENCE_S, **more}
        client: pymysql.Connection[Any] = pymysql.connect(**options)
        self.clients.append(client)
        return client

    def held(self, limit_s: float = 20, lease_s: float = 60) -> None:
        held = self.relay.hold(limit_s, lease_s)
        assert held.quiet, held

    def through(self, side: Side) -> None:
        """Hold, switch, release."""
        self.held()
        self.relay.switch(side)
        self.relay.release()

    def where(self, client: pymysql.Connection[Any]) -> int:
        """The number of the server that answers this client."""
        return int(one(client, "SELECT @@server_id"))

    def close(self) -> None:
        for client in self.clients:
            if client.open:
                client.close()
        self.host.end(signal.SIGKILL)


def run(client: pymysql.Connection[Any], *statements: str) -> list[tuple[Any, ...]]:
    """The last one's rows."""
    with client.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def one(client: pymysql.Connection[Any], statement: str) -> Any:
    return run(client, statement)[0][0]


def state_of(rig: Rig) -> RelayState:
    state = rig.instance().state()
    assert state is not None
    return state


def until(true: Any, seconds: float = PATIENCE_S) -> None:
    """Wait for what is to come; a machine may be slow."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


_STATEMENT = "INSERT INTO done (who, number, part) VALUES ({}, {}, {})"


@enginefacade.transaction_context_provider
class _Context:
    """What Nova's request context is to oslo.db."""


class Writers:
    """Clients of three kinds at work: transactions of three rows, each acknowledged or in ``errors``."""

    def __init__(self, rig: Rig, patient: bool = False) -> None:
        """:param patient: a connection that breaks is no error: clients begin their next transaction."""
        self._patient = patient
        self.errors: list[BaseException] = []
        self.acknowledged: list[tuple[int, int]] = []
        self._rig = rig
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._facade = enginefacade.transaction_context()
        self._facade.configure(
            connection=f"mysql+pymysql://{USER}:{quote(PASSWORD)}@127.0.0.1:{rig.port}/nova?charset=utf8"
                       f"&connect_timeout={PATIENCE_S}",
            max_pool_size=5, retry_interval=1)
        kinds = (self._plain, self._plain, self._nova, self._nova, self._nova, self._passing)
        self._threads = [
            threading.Thread(target=self._work, args=(kind, who)) for who, kind in enumerate(kinds)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        with suppress(TypeError):  # an engine comes into being with the first transaction
            self._facade.writer.get_engine().dispose()

    def more(self, transactions: int) -> None:
        """Wait until so many have been acknowledged from now on."""
        wanted = len(self.acknowledged) + transactions
        until(lambda: len(self.acknowledged) >= wanted or self.errors)

    def _work(self, kind: Callable[[int], Iterator[int]], who: int) -> None:
        while not self._stop.is_set():
            try:
                for number in kind(who):
                    self.acknowledged.append((who, number))
                    if self._stop.wait(0.005):
                        return
            except (pymysql.OperationalError, pymysql.InterfaceError, DBError) as error:
                if not self._patient:
                    self.errors.append(error)
                    return
                self._stop.wait(0.1)
            except BaseException as error:
                self.errors.append(error)
                return

    def _plain(self, who: int) -> Iterator[int]:
        with self._rig.connect() as client:
            for number in self._numbers:
                run(client, *(_STATEMENT.format(who, number, part) for part in range(3)))
                client.commit()
                yield number

    def _passing(self, who: int) -> Iterator[int]:
        for number in self._numbers:
            with self._rig.connect() as client:
                run(client, *(_STATEMENT.format(who, number, part) for part in range(3)))
                client.commit()
            yield number

    def _nova(self, who: int) -> Iterator[int]:
        context = _Context()
        for number in self._numbers:
            with self._facade.writer.using(context) as session:
                for part in range(3):
                    session.execute(sqlalchemy.text(_STATEMENT.format(who, number, part)))
                    asked = sqlalchemy.text("SELECT MAX(id) FROM done WHERE who = :who")
                    session.execute(asked, {"who": who})
            yield number


def ready(server: Server) -> None:
    """Nova's accounts, and tables that hold what was acknowledged."""
    password, modern = PASSWORD.replace("'", "''"), f"ed25519 USING PASSWORD('{MODERN_PASSWORD}')"
    server.sql(
        "DROP DATABASE IF EXISTS nova", "CREATE DATABASE nova",
        f"CREATE OR REPLACE USER {USER}@'127.0.0.1' IDENTIFIED BY '{password}'",
        f"CREATE OR REPLACE USER {MODERN}@'127.0.0.1' IDENTIFIED VIA {modern}",
        f"GRANT ALL ON nova.* TO {USER}@'127.0.0.1'", f"GRANT ALL ON nova.* TO {MODERN}@'127.0.0.1'",
        "CREATE TABLE nova.done (id INT AUTO_INCREMENT PRIMARY KEY, who INT, number INT, part INT,"
        " UNIQUE (who, number, part))",
        "CREATE TABLE nova.big (id INT AUTO_INCREMENT PRIMARY KEY, data LONGBLOB)", database="")
