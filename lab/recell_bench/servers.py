"""Private MariaDB servers for a benchmark: started, measured, removed."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pymysql

from recell.adapters.mysql.endpoint import Endpoint

_TICKS = os.sysconf("SC_CLK_TCK")


_PATH = "/usr/sbin:/usr/bin:/usr/local/bin"
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "mariadb-server": ("mariadbd", "mariadb-install-db"),
    "mariadb-client": ("mariadb", "mysqldump"),
    "mydumper": ("mydumper", "myloader"),
}
"""Debian's packages, and what the benchmark runs out of each. Only the last can be done without."""


def missing(package: str) -> bool:
    return any(shutil.which(name, path=_PATH) is None for name in PACKAGES[package])


def program(name: str) -> str:
    """:raises click.ClickException: it isn't installed."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        package = next(p for p, names in PACKAGES.items() if name in names)
        raise click.ClickException(f"{name} is missing: apt-get install {package}")
    return found


def version(name: str) -> str:
    """What a program says of its version, in one line."""
    told = subprocess.run([program(name), "--version"], capture_output=True, check=False).stdout.decode()
    return " ".join(told.split("\n")[0].split())


@dataclass(frozen=True)
class Cost:
    """``wall_s``; ``cpu_s``: of both servers and of the clients, ``client_cpu_s``: of the clients alone."""

    wall_s: float
    cpu_s: float
    client_cpu_s: float


class Server:
    def __init__(self, directory: Path, number: int, memory_mib: int) -> None:
        self.directory = directory
        self.socket = directory / "s"
        directory.mkdir(mode=0o755)
        user = "mysql" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        (directory / "my.cnf").write_text("\n".join((
            "[mariadbd]", f"datadir={directory}/data", f"user={user}", f"socket={self.socket}",
            f"pid-file={directory}/pid", "skip-networking", f"server-id={number}", "log-bin=bin",
            "binlog-format=ROW",
            # mysql-replication wants it; recell doesn't need it.
            "binlog-row-metadata=FULL", f"innodb-buffer-pool-size={memory_mib}M", "innodb-log-file-size=256M",
            "innodb-flush-log-at-trx-commit=2", "sync-binlog=0", "character-set-server=utf8mb3",
            "max-allowed-packet=64M", "max-connections=200",
        )) + "\n")
        subprocess.run(["chown", "-R", user, directory], check=True)
        subprocess.run([program("mariadb-install-db"), f"--defaults-file={directory}/my.cnf",
                        "--auth-root-authentication-method=normal", "--skip-test-db"],
                       check=True, capture_output=True)
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [program("mariadbd"), f"--defaults-file={directory}/my.cnf"], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            try:
                self.connect().close()
                return
            except pymysql.Error:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise click.ClickException(f"MariaDB does not start: see {directory}/log") from None
                time.sleep(0.1)

    def connect(self, database: str | None = None, **more: Any) -> pymysql.Connection[Any]:
        return pymysql.connect(unix_socket=str(self.socket), user="root", database=database,
                               charset="utf8mb4", autocommit=True, **more)

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def create(self, database: str, ddl: Sequence[str]) -> None:
        self.sql(f"DROP DATABASE IF EXISTS `{database}`", f"CREATE DATABASE `{database}`",
                 f"USE `{database}`", "SET foreign_key_checks = 0", *ddl)

    def endpoint(self, database: str) -> Endpoint:
        return Endpoint(self.directory.name, "root", "", database, unix_socket=str(self.socket))

    def client(self) -> list[str]:
        """Options of MariaDB's own programs."""
        return ["--no-defaults", f"--socket={self.socket}", "--user=root"]

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def stop(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()
        self.process.wait()


@contextmanager
def servers(directory: Path | None, memory_mib: int) -> Iterator[tuple[Server, Server]]:
    place = Path(tempfile.mkdtemp(prefix="recell-bench-", dir=directory))
    place.chmod(0o755)
    made: list[Server] = []
    try:
        for number, name in enumerate(("source", "target"), 1):
            made.append(Server(place / name, number, memory_mib))
        yield made[0], made[1]
    finally:
        for server in made:
            server.stop()
        shutil.rmtree(place, ignore_errors=True)


def measure(act: Callable[[], Any], *both: Server) -> Cost:
    """Clients are child processes that have ended when ``act`` returns."""
    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    servers_before, clients_before, began = sum(s.cpu_s() for s in both), used(), time.monotonic()
    act()
    wall = time.monotonic() - began
    clients = used() - clients_before
    return Cost(wall, sum(s.cpu_s() for s in both) - servers_before + clients, clients)
