"""Two cells' database servers, as a run's ports enter them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recell.model.moving import Login
from recell.model.relay import Side
from tests.private_server import DatabaseHost, PrivateServer

OURS, NOVA = Login("recell_0123abcd", "of its own"), Login("nova", "n'pw")
SIDES: tuple[Side, Side] = ("old", "new")
Servers = dict[Side, PrivateServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    made: Servers = {}
    try:
        for number, side in enumerate(SIDES, 1):
            made[side] = PrivateServer(
                "log-bin=binlog", "binlog-format=ROW", f"server-id={number}", "expire-logs-days=3",
                "performance-schema=OFF",
            )  # fmt: skip
        yield made
    finally:
        for server in made.values():
            server.stop()


def hosts_of(servers: Servers) -> dict[Side, DatabaseHost]:
    return {side: DatabaseHost(f"db-{side}", server) for side, server in servers.items()}


def no_broker(side: Side) -> Any:
    raise AssertionError("no broker is needed")


def before_recell(servers: Servers, target: str, fill: Callable[[PrivateServer], None]) -> None:
    """Nova's rows and its account are at the old server, nothing of either at the new one."""
    for server in servers.values():
        for user in (NOVA.user, OURS.user):
            for (host,) in server.sql(f"SELECT Host FROM mysql.user WHERE User = '{user}'"):
                server.sql(f"DROP USER '{user}'@'{host}'")
    servers["new"].sql(f"DROP DATABASE IF EXISTS {target}")
    fill(servers["old"])
    with servers["old"].connect() as root, root.cursor() as cursor:
        cursor.execute("CREATE USER nova@'%%' IDENTIFIED BY %s", (NOVA.password,))
        cursor.execute("GRANT ALL ON nova.* TO nova@'%'")
