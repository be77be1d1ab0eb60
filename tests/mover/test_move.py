"""There and back, while random writers write."""

from __future__ import annotations

import pytest

from recell.model.scope import Rule
from recell.mover import Move, Options
from tests.mover import schema
from tests.mover.servers import Server
from tests.mover.writers import HOSTS, Load, fill

MINE = HOSTS[:3]


@pytest.mark.parametrize(("rules", "hosts"), [(schema.WHOLE, ()), (schema.BY_HOST, MINE)],
                         ids=["whole", "hosts"])
@pytest.mark.parametrize("seed", [1])
def test_there_and_back(clouds: tuple[Server, Server], rules: dict[str, Rule], hosts: tuple[str, ...],
                        seed: int) -> None:
    source, target = clouds
    fill(source, seed)
    scope = schema.scope(schema.read(source), rules, hosts)
    move = Move(source.endpoint(), target.endpoint(), scope, Options(patience_s=20))
    with Load(source, seed):
        assert move.prepare() == "copying"
        move.copy()
        move.follow()
        move.catch_up(120, lag_s=5)
        report = move.verify()
        assert report.differences == ()
        assert report.rows > 100
    drained = move.drain(120)
    print(drained, report, move.status())
    assert schema.differing(source, target, scope) == []
    move.reverse()
    with Load(target, seed + 50):
        move.catch_up(120, lag_s=5)
        assert move.verify().equal
    print(move.drain(120))
    assert schema.differing(source, target, scope) == []
    move.finish()
    for server in clouds:
        assert not [t for (t,) in server.sql("SHOW TABLES") if t.startswith("recell_")]
