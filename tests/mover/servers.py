"""Private MariaDB servers: started, cut, killed, restarted at will."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql

from recell.adapters.mysql.endpoint import Endpoint

_SMALL = (
    "--skip-networking", "--innodb-buffer-pool-size=24M", "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=2", "--innodb-fast-shutdown=1", "--performance-schema=OFF",
    "--innodb-buffer-pool-dump-at-shutdown=OFF", "--innodb-buffer-pool-load-at-startup=OFF",
    "--character-set-server=utf8mb3", "--default-time-zone=+05:00", "--log-bin=bin", "--binlog-format=ROW",
    # As oslo.db sets it for every session of Nova's.
    "--sql-mode=STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION",
)


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert found, f"{name} is missing: apt-get install mariadb-server"
    return found


def _user() -> str:
    return "mysql" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


def make_template(directory: Path) -> Path:
    """An empty data directory, to be copied."""
    data = directory / "template"
    (directory / "my.cnf").write_text("")
    subprocess.run(["chown", "-R", _user(), str(directory)], check=True)
    subprocess.run(
        [_program("mariadb-install-db"), f"--defaults-file={directory}/my.cnf", f"--datadir={data}",
         f"--user={_user()}", "--auth-root-authentication-method=normal", "--skip-test-db",
         "--innodb-log-file-size=8M"],
        check=True, capture_output=True)
    return data


def memory_directory() -> Path:
    """Where data directories are quick: in memory where there is such a place."""
    shm = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="recell-", dir=shm if os.access(shm, os.W_OK) else None))
    directory.chmod(0o755)
    return directory


@dataclass
class Server:
    """One mariadbd with its unix socket in ``directory``."""

    directory: Path
    number: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def make(cls, template: Path, directory: Path, number: int, options: Sequence[str] = ()) -> Server:
        directory.mkdir()
        shutil.copytree(template, directory / "data")
        (directory / "my.cnf").write_text("")
        subprocess.run(["chown", "-R", _user(), str(directory)], check=True)
        server = cls(directory, number, tuple(options))
        server.start()
        return server

    @property
    def socket(self) -> Path:
        return self.directory / "s"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [_program("mariadbd"), f"--defaults-file={self.directory}/my.cnf",
             f"--datadir={self.directory}/data", f"--user={_user()}", f"--socket={self.socket}",
             f"--server-id={self.number}", *_SMALL, *self.options],
            stderr=(self.directory / "log").open("ab"), stdin=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while True:
            try:
                self.connect("").close()
                return
            except pymysql.Error:
                log = self.directory / "log"
                assert self.process.poll() is None, log.read_text(errors="replace")[-3000:]
                assert time.monotonic() < until, log.read_text(errors="replace")[-3000:]
                time.sleep(0.03)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()

    def connect(self, database: str = "nova", **more: Any) -> pymysql.Connection[Any]:
        return pymysql.connect(unix_socket=str(self.socket), user="root", database=database or None,
                               charset="utf8mb4", **more)

    def sql(self, *statements: str, database: str = "nova") -> list[tuple[Any, ...]]:
        """All rows of the last one."""
        connection = self.connect(database, autocommit=True)
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def purge(self) -> None:
        """All of the binlog but a new last file is gone."""
        self.sql("FLUSH BINARY LOGS")
        until = time.monotonic() + 30
        while len(logs := self.sql("SHOW BINARY LOGS")) > 1:
            # A file that InnoDB's checkpoint is still in is kept for a moment.
            assert time.monotonic() < until
            self.sql(f"PURGE BINARY LOGS TO '{logs[-1][0]}'")
            time.sleep(0.05)

    def endpoint(self, database: str = "nova") -> Endpoint:
        return Endpoint(f"db{self.number}", "root", "", database, unix_socket=str(self.socket))

    def cut(self) -> None:
        """End every other session, as a firewall or an operator would."""
        connection = self.connect("", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID()"
                           " AND user = 'root'")
            for (number,) in cursor.fetchall():
                try:
                    cursor.execute(f"KILL {number}")
                except pymysql.Error:
                    continue  # it ended by itself meanwhile
