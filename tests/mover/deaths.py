"""Deaths around the moment: of recell, of a server, of the machine that a server is on."""

from __future__ import annotations

import shutil
import signal
from typing import Any

import pymysql
import pytest

from recell.model.relay import Side
from recell.steps.switch import SwitchDatabase
from tests.mover.relays import Rig, run
from tests.mover.stages import rows
from tests.private_server import PrivateServer


class Dead(BaseException):
    pass


def write(client: pymysql.Connection[Any], number: int) -> None:
    run(client, f"INSERT INTO done (who, number, part) VALUES (9, {number}, 0)")
    client.commit()


def numbers(server: PrivateServer) -> set[int]:
    return {number for _, number in rows(server)}


def server_of(rig: Rig, side: Side) -> PrivateServer:
    server = rig.server(side)
    assert isinstance(server, PrivateServer)
    return server


def die_before_the_turn(run_: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers are on the new server, both sides were proven equal, and recell is no more."""

    def dies(self: Any, *_: Any) -> None:
        raise Dead

    with monkeypatch.context() as dying:
        dying.setattr(SwitchDatabase, "_settle", dies)
        with pytest.raises(Dead):
            run_.switch.do()


class PowerCut:
    """What a server's machine had not written to its disk is gone: all since this was made, but for the
    binary log (``sync_binlog`` is 1, and ``innodb_flush_log_at_trx_commit`` isn't)."""

    def __init__(self, server: PrivateServer) -> None:
        self._server = server
        server.halt(signal.SIGKILL)
        self._disk = server.directory / "disk"
        shutil.copytree(server.directory / "data", self._disk)
        self._start()

    def __call__(self, *, logged: bool = True) -> None:
        self._server.halt(signal.SIGKILL)
        data = self._server.directory / "data"
        for log in data.glob("bin.*") if logged else ():
            shutil.copy(log, self._disk)
        shutil.rmtree(data)
        self._disk.rename(data)
        self._start()

    def _start(self) -> None:
        shutil.chown(self._server.directory / "data", *_owner(self._server))
        for path in (self._server.directory / "data").rglob("*"):
            shutil.chown(path, *_owner(self._server))
        self._server.start()


def _owner(server: PrivateServer) -> tuple[str, str]:
    found = server.directory / "my.cnf"
    return found.owner(), found.group()
