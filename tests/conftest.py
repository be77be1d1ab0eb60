"""What every kind of test knows: the long form is asked for."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How fast examples come says something of the machine, and nothing of recell.
settings.register_profile("recell", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recell")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="the long form: variations, more kills (hours)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--thorough"):
        items[:] = [i for i in items if not i.get_closest_marker("thorough")]
