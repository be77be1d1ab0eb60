"""The steps of a database's move on real servers, with the real relay and the real mover."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recell.journal import Journal
from recell.model.moving import End, Ends, Login
from recell.model.plan import PlanStep
from recell.model.relay import Side
from recell.model.scope import Rule, Schema, Scope, Whole
from recell.mover import cell
from recell.mover.cell import CellMove
from recell.planning.tables import cell_scope
from recell.steps import Context
from recell.steps.database import DatabaseThings, FollowDatabase
from recell.steps.switch import SwitchDatabase
from tests.mover.relays import PASSWORD, USER, Rig
from tests.private_server import DatabaseHost, Server


class World:
    """As much of the world as these steps ask for. Made anew it is another process's."""

    def __init__(self, rig: Rig, hosts: dict[str, DatabaseHost]) -> None:
        self.rig = rig
        self.hosts = hosts
        self._mover: CellMove | None = None
        self._relay = rig.instance()

    def host(self, name: str) -> DatabaseHost:
        return self.hosts[name]

    def relay(self, host: str, name: str) -> Any:
        return self._relay

    def mover(self, ends: Ends, ours: Login, nova: Login) -> CellMove:
        if self._mover is None:
            sides: dict[Side, Any] = {"old": self.hosts["db1"], "new": self.hosts["db2"]}
            self._mover = CellMove(sides, ends, ours, nova)
        return self._mover

    def nova(self) -> Any:
        url = f"mysql+pymysql://{USER}:a%20secret%20of%20Nova%27s@db1/nova"
        return SimpleNamespace(mappings=lambda: (SimpleNamespace(uuid="c1", database_connection=url),))

    def clock(self) -> float:
        return time.time()

    def wait(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.2))

    def close(self) -> None:
        if self._mover is not None:
            self._mover.close()


def understood(schema: Schema) -> Scope:
    """These tables aren't Nova's."""
    whole: Rule = Whole()
    return cell_scope(schema, {t.name: whole for t in schema.tables})


@pytest.fixture
def stage(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Makes the steps of one run, each time as another process would have them."""
    monkeypatch.setattr(cell, "cell_scope", understood)
    # Not how long users may wait is looked at here, but what they get.
    for name, seconds in (("LIMIT_S", 120), ("REST_S", 30), ("LEASE_S", 120)):
        monkeypatch.setattr(f"recell.steps.switch.{name}", seconds)
    rig.new.sql("DROP DATABASE nova", f"DROP USER {USER}@'127.0.0.1'", database="")
    # The account comes by the socket too here.
    secret = PASSWORD.replace("'", "''")
    rig.old.sql(
        f"CREATE OR REPLACE USER {USER}@'localhost' IDENTIFIED BY '{secret}'",
        f"GRANT ALL ON nova.* TO {USER}@'localhost'", "DROP USER nova_ed@'127.0.0.1'",
        database="")  # fmt: skip
    rig.new.sql("DROP USER nova_ed@'127.0.0.1'", database="")
    hosts = {"db1": DatabaseHost("db1", rig.old), "db2": DatabaseHost("db2", rig.new)}
    ends = Ends(End("db1", "127.0.0.1", rig.ports["old"]), End("db2", "127.0.0.1", rig.ports["new"]), "nova")
    journal = Journal.create(tmp_path / "journal.sqlite", "d" * 64)
    worlds: list[World] = []

    def make() -> Any:
        for old in worlds:
            old.close()
        worlds.append(World(rig, hosts))
        context = Context(worlds[-1], journal, "0123456789abcdef", (), {})  # type: ignore[arg-type]

        def step(kind: type[Any], name: str, **params: Any) -> Any:
            where = "db2" if params.get("side") == "new" else "db1"
            more = {"cell": "c1", "ends": ends.to_json(), **params}
            return kind(PlanStep(name, kind.kind, where, name, "", "", params=more), context)

        return SimpleNamespace(
            old=step(DatabaseThings, "old", side="old", things=["recell"]),
            new=step(DatabaseThings, "new", side="new", things=["recell", "database", "nova"]),
            follow=step(FollowDatabase, "follow"),
            switch=step(SwitchDatabase, "switch"),
            world=worlds[-1],
            journal=journal,
        )

    with journal.writing("apply", "forward"):
        yield make
    for world in worlds:
        world.close()
    journal.close()
    for server in (rig.old, rig.new):
        ours = "SELECT User, Host FROM mysql.user WHERE User LIKE 'recell%'"
        for user, host in server.sql(ours, database=""):
            server.sql(f"DROP USER '{user}'@'{host}'", database="")


def rows(server: Server) -> Counter[tuple[int, int]]:
    return Counter((who, number) for who, number in server.sql("SELECT who, number FROM done"))


def begun(stage: Callable[[], Any]) -> Any:
    """Rows are followed; the moment is still to come."""
    run_ = stage()
    for step in (run_.old, run_.new, run_.follow):
        step.do()
    return run_
