from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.mover import schema
from tests.mover.moves import Moves
from tests.private_server import Pair, PrivateServer

OPTIONS = (
    "log-bin=bin", "binlog-format=ROW", "default-time-zone=+05:00",
    # As oslo.db sets it for every session of Nova's.
    "sql-mode=STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION",
)


def _server(number: int, *options: str) -> PrivateServer:
    return PrivateServer(*OPTIONS, *options, number=number, database="nova")


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two servers for all tests that leave them running as they were."""
    servers = (_server(1), _server(2))
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def clouds(pair: Pair) -> Pair:
    """Both with empty tables."""
    for server in pair:
        schema.create(server)
    return pair


@pytest.fixture
def own() -> Iterator[Callable[..., PrivateServer]]:
    """Makes servers of a test's own, to be broken."""
    made: list[PrivateServer] = []

    def make(number: int, *options: str) -> PrivateServer:
        server = _server(number, *options)
        made.append(server)
        schema.create(server)
        return server

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def moves() -> Iterator[Moves]:
    made = Moves()
    yield made
    made.close()
