"""What a restart makes sure of before it happens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from recell.adapters.ports import ProxyServer
from recell.errors import StepFailed
from recell.model.plan import PlanStep
from recell.steps.base import Context
from recell.steps.units import RestartApi


def restart(state: str) -> RestartApi:
    """Of a nova-api that HAProxy shows so."""
    proxy = SimpleNamespace(servers=lambda: (ProxyServer("nova", "ctl1", "10.0.0.1:8774", state, 0),))
    target = {"proxy": "lb1", "backend": "nova", "server": "ctl1"}
    params = {"servers": [target]}
    spec = PlanStep("ctl1/nova-api", "restart-api", "ctl1", "", "", "", "finish", "both", 1.0, params)
    return RestartApi(spec, cast(Context, SimpleNamespace(world=SimpleNamespace(proxy=lambda host: proxy))))


@pytest.mark.parametrize("state", ["UP", "no check"])
def test_a_server_that_takes_requests_again_is_not_restarted(state: str) -> None:
    """HAProxy was reloaded; without checks it says of a server only that it doesn't look."""
    with pytest.raises(StepFailed, match="takes requests again"):
        restart(state).nobody_is_served()


@pytest.mark.parametrize("state", ["DRAIN", "MAINT", "DOWN"])
def test_one_that_takes_none_is(state: str) -> None:
    restart(state).nobody_is_served()
