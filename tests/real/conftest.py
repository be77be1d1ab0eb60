"""One cloud for all tests of this folder, raised anew: a conversion changes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.clouds import Api, is_root, lab


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--running-cloud", action="store_true", help="use the cloud that runs, as it is")


@pytest.fixture(scope="session", autouse=True)
def cloud(request: pytest.FixtureRequest) -> Iterator[None]:
    assert is_root(), "the lab raises hosts of its own: run the real tests as root"
    # A file that raises a cloud of its own needs no other one.
    alone = all(getattr(item.module, "OWN_CLOUD", False) for item in request.session.items)  # type: ignore[attr-defined]
    if not alone and not request.config.getoption("--running-cloud"):
        lab("down")
        lab("up", timeout=1200)
    yield


@pytest.fixture(scope="session")
def api(cloud: None) -> Api:
    return Api()
