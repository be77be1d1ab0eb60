"""A MariaDB of a test's own: data in memory where that is possible, reached by a unix socket."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest

from recell.adapters.mysql.endpoint import Endpoint

_PATH = "/usr/sbin:/usr/bin:/usr/local/bin"
_SHM = Path("/dev/shm")


def program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install mariadb-server")
    return found


class PrivateServer:
    """``options``: lines of my.cnf. Started when made; ``stop`` ends it and removes its data."""

    def __init__(self, *options: str, port: int = 0, arguments: tuple[str, ...] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="recell-db-", dir=_SHM if _SHM.is_dir() else None))
        self.directory.chmod(0o755)
        self.socket = self.directory / "s"
        self.port = port
        user = "mysql" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        lines = [f"datadir={self.directory}/data", f"user={user}", f"socket={self.socket}",
                 f"pid-file={self.directory}/pid", "innodb-buffer-pool-size=32M",
                 "innodb-log-file-size=16M", "innodb-flush-log-at-trx-commit=0", "sync-binlog=0",
                 "character-set-server=utf8mb3",
                 *([f"port={port}", "bind-address=127.0.0.1"] if port else ["skip-networking"]), *options]
        (self.directory / "my.cnf").write_text("[mariadbd]\n" + "\n".join(lines) + "\n")
        subprocess.run(["chown", "-R", user, self.directory], check=True)
        subprocess.run([program("mariadb-install-db"), f"--defaults-file={self.directory}/my.cnf",
                        "--auth-root-authentication-method=normal", "--skip-test-db"],
                       check=True, capture_output=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.start(*arguments)

    def start(self, *arguments: str) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("mariadbd"), f"--defaults-file={self.directory}/my.cnf", *arguments],
                stdout=log, stderr=log)
        for _ in range(1200):
            if self._process.poll() is not None:
                break
            with suppress(pymysql.Error):
                self.connect().close()
                return
            time.sleep(0.05)
        pytest.fail(f"MariaDB does not start: {(self.directory / 'log').read_text()[-2000:]}")

    def halt(self) -> None:
        """End the server, keep its data."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self, database: str | None = None, user: str = "root", password: str = "",
                **more: Any) -> pymysql.Connection[Any]:
        arguments: dict[str, Any] = {
            "unix_socket": str(self.socket), "user": user, "password": password, "database": database,
            "autocommit": True, "charset": "utf8mb4", "init_command": "SET time_zone = '+00:00'",
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
                 f"USE `{database}`", "SET foreign_key_checks = 0", *ddl)

    def endpoint(self, database: str, user: str = "root", password: str = "") -> Endpoint:
        return Endpoint("db", user, password, database, self.port, unix_socket=str(self.socket))

    def row(self, database: str, table: str, **values: Any) -> None:
        names = ", ".join(f"`{n}`" for n in values)
        with self.connect(database) as root, root.cursor() as cursor:
            cursor.execute("SET foreign_key_checks = 0, sql_mode = ''")
            places = ", ".join(["%s"] * len(values))
            cursor.execute(f"INSERT INTO `{table}` ({names}) VALUES ({places})",
                           tuple(values.values()))
