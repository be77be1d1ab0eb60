"""MariaDB servers of a test's own: data in memory where that is possible, reached by a unix socket;
started, cut, killed and restarted at will. Several may run, and several tests at once."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest

from recell.adapters.mysql.endpoint import Endpoint
from recell.adapters.ports import Finished

_PATH = "/usr/sbin:/usr/bin:/usr/local/bin"
_SHM = Path("/dev/shm")
_GALERA = Path("/usr/lib/galera/libgalera_smm.so")
_LOG_SIZE = "innodb-log-file-size=8M"
_CLIENTS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install mariadb-server")
    return found


def _user() -> str:
    return "mysql" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="recell-db-", dir=_SHM if os.access(_SHM, os.W_OK) else None))
    directory.chmod(0o755)
    (directory / "tmp").mkdir()
    return directory


def _own(directory: Path) -> str:
    """A server that starts removes all #sql files in its tmpdir, those of its neighbours too."""
    return f"tmpdir={directory}/tmp"


@functools.cache
def _template() -> Path:
    """An empty data directory, to be copied: making one takes longer than all else of a server."""
    directory = _directory()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "my.cnf").write_text(f"[mariadbd]\n{_own(directory)}\n")
    subprocess.run(["chown", "-R", _user(), directory], check=True)
    subprocess.run([program("mariadb-install-db"), f"--defaults-file={directory}/my.cnf",
                    f"--datadir={directory}/data", f"--user={_user()}", f"--{_LOG_SIZE}",
                    "--auth-root-authentication-method=normal", "--skip-test-db"],
                   check=True, capture_output=True)
    return directory / "data"


class Server:
    """One that runs, with its socket in ``directory``.

    ``number``: its server_id, and part of its name; ``database``: where statements go that name none.
    """

    def __init__(self, directory: Path, number: int = 0, database: str = "") -> None:
        self.directory, self.number, self.database = directory, number, database
        self.socket = directory / "s"
        self.port = 0

    def connect(self, database: str | None = None, user: str = "root", password: str = "",
                **more: Any) -> pymysql.Connection[Any]:
        """``database``: empty for none."""
        arguments: dict[str, Any] = {
            "unix_socket": str(self.socket), "user": user, "password": password, "autocommit": True,
            "connect_timeout": 120,
            "database": (self.database if database is None else database) or None,
            "charset": "utf8mb4", "init_command": "SET time_zone = '+00:00'",
        }
        return pymysql.connect(**(arguments | more))

    def sql(self, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Rows of the last statement, run as root."""
        with self.connect(database) as root, root.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create(self, database: str, ddl: list[str]) -> None:
        self.sql(f"DROP DATABASE IF EXISTS `{database}`", f"CREATE DATABASE `{database}`",
                 f"USE `{database}`", "SET foreign_key_checks = 0", *ddl, database="")

    def row(self, database: str, table: str, **values: Any) -> None:
        names = ", ".join(f"`{n}`" for n in values)
        with self.connect(database) as root, root.cursor() as cursor:
            cursor.execute("SET foreign_key_checks = 0, sql_mode = ''")
            places = ", ".join(["%s"] * len(values))
            cursor.execute(f"INSERT INTO `{table}` ({names}) VALUES ({places})",
                           tuple(values.values()))

    def endpoint(self, database: str = "", user: str = "root", password: str = "") -> Endpoint:
        return Endpoint(f"db{self.number or ''}", user, password, database or self.database,
                        self.port or 3306, unix_socket=str(self.socket))

    def cut(self) -> None:
        """End every other session, as a firewall or an operator would. They have ended when it returns."""
        listed = ("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
                  " AND user = 'root'")
        with self.connect("") as root, root.cursor() as cursor:
            cursor.execute(listed)
            others = {number for (number,) in cursor.fetchall()}
            for number in others:
                with suppress(pymysql.Error):  # it may have ended by itself meanwhile
                    cursor.execute(f"KILL {number}")
            until = time.monotonic() + 60
            left = others
            while left:
                assert time.monotonic() < until
                time.sleep(0.01)
                cursor.execute(listed)
                left = others & {number for (number,) in cursor.fetchall()}

    def purge(self) -> None:
        """All of the binlog but a new last file is gone."""
        self.sql("FLUSH BINARY LOGS")
        until = time.monotonic() + 30
        while len(logs := self.sql("SHOW BINARY LOGS")) > 1:
            # A file that InnoDB's checkpoint is still in is kept for a moment.
            assert time.monotonic() < until
            self.sql(f"PURGE BINARY LOGS TO '{logs[-1][0]}'")
            time.sleep(0.05)


class PrivateServer(Server):
    """``options``: lines of my.cnf. Started when made; ``stop`` ends it and removes its data."""

    def __init__(self, *options: str, port: int = 0, arguments: tuple[str, ...] = (), number: int = 0,
                 database: str = "") -> None:
        super().__init__(_directory(), number, database)
        self.port = port
        lines = [f"datadir={self.directory}/data", f"user={_user()}", f"socket={self.socket}",
                 f"pid-file={self.directory}/pid", _own(self.directory), _LOG_SIZE,
                 "innodb-buffer-pool-size=32M", "innodb-flush-log-at-trx-commit=2", "sync-binlog=0",
                 "innodb-fast-shutdown=1", "innodb-buffer-pool-dump-at-shutdown=OFF",
                 "innodb-buffer-pool-load-at-startup=OFF", "character-set-server=utf8mb3",
                 *([f"port={port}", "bind-address=127.0.0.1"] if port else ["skip-networking"]), *options]
        (self.directory / "my.cnf").write_text("[mariadbd]\n" + "\n".join(lines) + "\n")
        shutil.copytree(_template(), self.directory / "data")
        subprocess.run(["chown", "-R", _user(), self.directory], check=True)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start(*arguments)
        except BaseException:
            self.stop()
            raise

    def start(self, *arguments: str) -> None:
        named = [f"--server-id={self.number}"] if self.number else []
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("mariadbd"), f"--defaults-file={self.directory}/my.cnf", *named, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 120
        while self._process.poll() is None and time.monotonic() < until:
            with suppress(pymysql.Error):
                self.connect("").close()
                return
            time.sleep(0.03)
        pytest.fail("MariaDB does not start: "
                    + (self.directory / "log").read_text(errors="replace")[-3000:])

    def halt(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server, keep its data."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.halt(how)
        self.start()

    def stop(self) -> None:
        if self._process is not None and (ended := self._process.poll()) is not None:
            # By itself: what the test says of it is a lost connection, what MariaDB says is worth more.
            print(f"mariadbd had ended with {ended}:\n"
                  + (self.directory / "log").read_text(errors="replace")[-6000:], file=sys.stderr)
        self.halt(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


class DatabaseHost:
    """A database server's host: its forwards lead to its one server; old values are kept in memory."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.values: dict[str, bytes] = {}

    def keep(self, plan: str, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        self.values[name] = content
        return name

    def kept(self, plan: str, sha256: str) -> bytes:
        return self.values[sha256]

    def query(self, argv: Sequence[str]) -> Finished:
        done = subprocess.run(argv, capture_output=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    def read(self, path: str) -> bytes | None:
        return None

    def glob(self, pattern: str) -> tuple[str, ...]:
        return (pattern,)

    def forward(self, host: str, port: int) -> Path:
        return self.server.socket

    def forward_socket(self, path: str) -> Path:
        return self.server.socket

    def unforward(self, local: Path, host: str, port: int) -> None:
        return None

    def unforward_socket(self, local: Path, path: str) -> None:
        return None


Pair = tuple[PrivateServer, PrivateServer]


_taken: list[socket.socket] = []


def free_ports(number: int) -> list[int]:
    """TCP ports of the loopback that nobody listens at. No test of any process gets one of them again as
    long as this process lives, and the kernel gives none to a client: whoever was told one may be slow to
    listen there.
    """
    low, high = map(int, _CLIENTS_PORTS.read_text().split())
    others = [*range(10_000, min(low, 65_000)), *range(max(high + 1, 10_000), 65_000)]
    candidates = random.sample(others, len(others))
    return [next(port for port in candidates if _take(port)) for _ in range(number)]


def _take(port: int) -> bool:
    ours = socket.socket(socket.AF_UNIX)
    try:
        # A name without a file, which goes with the process that has it.
        ours.bind(f"\0recell-test-port-{port}")
        with socket.socket() as found:
            found.bind(("127.0.0.1", port))
    except OSError:
        ours.close()
        return False
    _taken.append(ours)
    return True


@contextmanager
def galera_cluster(*options: str, database: str = "") -> Iterator[Pair]:
    """Two nodes."""
    if not _GALERA.exists():
        pytest.fail("Galera is missing: apt-get install galera-4 rsync")
    groups, incremental, transfers = free_ports(2), free_ports(2), free_ports(2)
    made: list[PrivateServer] = []
    try:
        for n in range(2):
            made.append(PrivateServer(
                "log-bin=bin", "binlog-format=ROW", "log-slave-updates=ON",
                "innodb-autoinc-lock-mode=2", "event-scheduler=ON", "wsrep-on=ON",
                f"wsrep-provider={_GALERA}", "wsrep-cluster-name=recell-test",
                f"wsrep-cluster-address=gcomm://127.0.0.1:{groups[0]},127.0.0.1:{groups[1]}",
                f"wsrep-node-name=n{n}", "wsrep-node-address=127.0.0.1", "wsrep-sst-method=rsync",
                f"wsrep-sst-receive-address=127.0.0.1:{transfers[n]}",
                f"wsrep-provider-options=base_host=127.0.0.1;base_port={groups[n]};"
                f"gmcast.listen_addr=tcp://127.0.0.1:{groups[n]};ist.recv_addr=127.0.0.1:{incremental[n]};"
                "gcache.size=16M;pc.weight=1", *options, number=n + 1, database=database,
                arguments=("--wsrep-new-cluster",) if n == 0 else ()))
        until = time.monotonic() + 120
        while made[0].sql("SHOW STATUS LIKE 'wsrep_cluster_size'", database="")[0][1] != "2":
            assert time.monotonic() < until
            time.sleep(0.1)
        yield made[0], made[1]
    finally:
        for server in reversed(made):
            server.stop()
