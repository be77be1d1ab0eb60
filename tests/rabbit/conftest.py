from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.rabbit.cluster import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):  # other directories have the same option, and may run along
        parser.addoption("--thorough", action="store_true", help="every kind of queue and partition handling")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        items[:] = [i for i in items if not i.get_closest_marker("thorough")]


@pytest.fixture
def clusters() -> Iterator[Callable[..., Cluster]]:
    """Makes a cluster of three nodes beside three blank ones, that have its cookie or (``fresh``) one of
    their own; they go with the test."""
    assert os.getuid() == 0, "namespaces need root"
    top = tempfile.mkdtemp(prefix="recell-rabbit-", dir="/dev/shm")
    Path(top).chmod(0o755)
    made: list[Cluster] = []

    def make(handling: str, *, fresh: bool = False) -> Cluster:
        made.append(Cluster(Path(top) / str(len(made)), handling, fresh=fresh))
        made[-1].up()
        return made[-1]

    try:
        yield make
    finally:
        for cluster in made:
            cluster.down()
        Path(top).rmdir()
