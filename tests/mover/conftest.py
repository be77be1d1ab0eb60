from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mover import schema
from tests.mover.servers import Server, make_template, memory_directory


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    directory = memory_directory()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def template(place: Path) -> Path:
    return make_template(place)


@pytest.fixture(scope="session")
def pair(place: Path, template: Path) -> Iterator[tuple[Server, Server]]:
    """Two servers for all tests that leave them running as they were."""
    servers = (Server.make(template, place / "one", 1), Server.make(template, place / "two", 2))
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def clouds(pair: tuple[Server, Server]) -> tuple[Server, Server]:
    """Both with empty tables."""
    for server in pair:
        schema.create(server)
    return pair


@pytest.fixture
def own(place: Path, template: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers of a test's own, to be broken."""
    made: list[Server] = []

    def make(number: int, *options: str) -> Server:
        directory = place / f"own-{number}-{len(made)}"
        server = Server.make(template, directory, number, options)
        made.append(server)
        schema.create(server)
        return server

    yield make
    for server in made:
        server.stop()
        shutil.rmtree(server.directory, ignore_errors=True)
